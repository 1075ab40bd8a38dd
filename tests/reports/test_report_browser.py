"""The page of a participant in a real browser: it draws without a word, and without scripts it can be read."""

import math
import shutil

import pytest
from helpers.browser import open_browser, open_page

from bids_semantoks.files import read_object
from bids_semantoks.reports.report import write_report

STEM = "sub-001_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


def test_a_page_draws_zooms_and_tells_values(browser, outputs):
    data = read_object(outputs / "logs" / "sub-001" / f"{STEM}_page.json")
    with open_page(browser, outputs / "sub-001.html", viewport={"width": 1200, "height": 900}) as page:
        # FD, DVARS, global signal, two carpets, windows.
        lanes = page.locator(".timeline .uplot")
        assert lanes.count() == 6
        drawn = "one => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data].some(Boolean)"
        assert all(page.locator(".timeline canvas").nth(i).evaluate(drawn) for i in range(6))
        # The cursor stands at the same time in all lanes, and the values there are said.
        over = page.locator(".timeline .u-over")
        over.nth(0).scroll_into_view_if_needed()
        box = over.nth(0).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        said = page.locator(".timeline output").text_content()
        volume = int(said.partition("volume ")[2].partition(" ")[0].rstrip(","))
        motion = float(f"{data['traces']['fd'][volume - 1]:.3g}")
        assert f"FD {motion:g} mm" in said
        assert page.locator(".timeline .u-cursor-x").nth(3).evaluate("one => one.style.transform") != ""
        # A drag zooms all lanes; keys move the cursor and show the whole run again.
        ticks = "() => document.querySelector('.timeline output').textContent"
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
        page.mouse.up()
        page.mouse.move(box["x"] + 1, box["y"] + 20)
        near = page.evaluate(ticks)
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
        seconds = [float(one.partition(" s")[0]) for one in (near, page.evaluate(ticks))]
        # The axis ends with the only window, which is padded.
        assert math.isclose(seconds[1] - seconds[0], 0.25 * (6 + 200), abs_tol=6)
        page.locator(".timeline").focus()
        page.keyboard.press("Escape")
        page.keyboard.press("ArrowLeft")
        moved = page.evaluate(ticks)
        page.keyboard.press("ArrowRight")
        assert float(page.evaluate(ticks).partition(" s")[0]) - float(moved.partition(" s")[0]) == 2.0
        # Names and values of a heatmap.
        page.locator('[data-map="connectivity-1"]').hover()
        named = page.locator(".tip").text_content()
        assert ": r " in named
        assert named.partition(",")[0] in [name for name, _ in data["networks"]]


def test_without_scripts_a_page_can_be_read(browser, outputs):
    with open_page(browser, outputs / "sub-001.html", java_script_enabled=False) as page:
        assert page.locator(".verdict").is_visible()
        assert page.locator("svg.heatmap").first.is_visible()
        assert page.locator("image.map").count() == 6
        assert page.get_by_text("stat-mean_timeseries.tsv").is_visible()
        assert page.locator("noscript p").is_visible()


def test_links_lead_to_the_run(browser, outputs):
    with open_page(browser, outputs / "sub-002.html") as page:
        page.locator("#summary a").nth(1).click()
        assert page.url.endswith("#sub-002_ses-2_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457")
        top = page.locator(".run").nth(1).bounding_box()["y"]
        assert -5 < top < 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_reader(browser, outputs, scheme):
    with open_page(browser, outputs / "sub-004.html", color_scheme=scheme) as page:
        colour = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
        assert (sum(map(int, colour[4:-1].split(","))) < 200) == (scheme == "dark")
        page.emulate_media(media="print")
        assert page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor") == "rgb(255, 255, 255)"


def test_hostile_names_stay_text(browser, outputs, tmp_path):
    """Names of parcels reach the page as data, which scripts write as text."""
    shutil.copytree(outputs, tmp_path / "out")
    path = tmp_path / "out" / "logs" / "sub-001" / f"{STEM}_page.json"
    text = path.read_text(encoding="utf-8")
    name = read_object(path)["networks"][0][0]
    hostile = "</script><img src=x onerror=document.title=1>"
    path.write_text(text.replace(f'"{name}"', f'"{hostile}"'), encoding="utf-8")
    assert write_report(tmp_path / "out", "001")
    with open_page(browser, tmp_path / "out" / "sub-001.html") as page:
        page.locator('[data-map="connectivity-1"]').hover(position={"x": 5, "y": 5})
        assert "onerror" in page.locator(".tip").text_content()
        assert page.title() == "sub-001: Brain-Semantoks embeddings"
        assert page.locator("img").count() == 0
