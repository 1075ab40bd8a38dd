"""Pages of participants: what they show, that they can fail nobody, and, where there is a browser, that they draw
without a word, and without scripts can be read."""

import gzip
import json
import math
import re
import shutil
import subprocess
import sys

import pytest
from helpers.browser import open_browser, open_page

from bids_semantoks.files import read_object
from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.reports.report import build_pages, write_report

STEM = "sub-001_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"


@pytest.fixture
def own_outputs(outputs, tmp_path):
    """A copy of the outputs that a test may damage."""
    shutil.copytree(outputs, tmp_path / "out")
    return tmp_path / "out"


def read_script(page):
    """Read what scripts draw, as a browser does."""
    return json.loads(re.search(r'<script type="application/json" id="page">(.*?)</script>', page)[1])


def read_data(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def find_images(page):
    return set(re.findall(r"data:image/png;base64,([^\"]+)", page.read_text(encoding="utf-8")))


def write_data(path, values):
    path.write_bytes(gzip.compress(json.dumps(values).encode()))


def find_status(out_dir, participant):
    (path,) = (out_dir / "logs").glob(f"*/sub-{participant}_*_status.json")
    return path


def test_a_page_holds_all_and_needs_nothing(outputs):
    page = (outputs / "sub-002.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//(?!doi\.org)[^"]*\.(js|css|png|svg)"', page)
    assert "Session 1" in page
    assert "Session 2" in page
    # In each of two runs: two carpets, correlations, means of networks, coverage in slices, and tokens of networks;
    # with a bar of colours for each.
    assert page.count('class="map"') == 2 * 6
    assert page.count("data:image/png;base64,") == 2 * 2 * 6
    assert len(read_script(page)["runs"]) == 2
    order = [
        page.index(f"<h3>{word}") for word in ("Timeline", "Connectivity", "Coverage", "Tokens", "Input fit", "Files")
    ]
    assert order == sorted(order)
    assert page.index('class="verdict') < order[0]
    assert "References" in page
    for link in re.findall(r'href="(sub-[^"]+)"', page):
        assert (outputs / link).is_file(), link
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page, anchor


def test_a_run_without_signals_says_why(outputs):
    page = (outputs / "sub-004.html").read_text(encoding="utf-8")
    assert re.search(r"<strong>Leave out\.</strong> .*shorter than --min-time 100 s", page)
    assert "too_short" in page
    first, second = read_script(page)["runs"]
    assert first["id"].startswith("sub-004_task-rest_run-1")
    assert second is None


def test_pictures_say_what_is_seen(outputs):
    page = (outputs / "sub-001.html").read_text(encoding="utf-8")
    words = re.findall(r'role="img" aria-label="([^"]+)"', page)
    assert len(words) == len(set(words)) == page.count("<svg")
    assert any(
        re.search(r"457 parcels in 9 networks over \d+ volumes .* explains \d+% of the variance", one) for one in words
    )
    assert any(re.search(r"The median is -?0\.\d\d\. On average highest within \w+ \(0\.\d\d\)", one) for one in words)
    assert re.search(r"Framewise displacement: mean 0\.\d\d mm, maximum 0\.\d\d mm at \d+ s", page)


def test_failures_are_reported(own_outputs):
    status = find_status(own_outputs, "001")
    values = read_object(status) | {"status": "failed", "reason": "bad_image", "message": "Torn <file>."}
    status.write_text(json.dumps(values))
    page = build_pages(own_outputs, "001")[""]
    assert "<strong>Leave out.</strong> Torn &lt;file&gt;." in page
    assert "bad_image" in page


@pytest.mark.parametrize("damage", ["lost", "torn", "of other signals"])
def test_a_page_without_its_data_shows_what_tables_hold(own_outputs, damage):
    path = own_outputs / "logs" / "sub-001" / f"{STEM}_page.json.gz"
    data, before = read_data(path), find_images(own_outputs / "sub-001.html")
    if damage == "lost":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        write_data(path, data | {"SignalsSHA256": "0"})
    assert write_report(own_outputs, "001")
    page = (own_outputs / "sub-001.html").read_text(encoding="utf-8")
    (run,) = read_script(page)["runs"]
    assert set(run["traces"]) == {"dvars_after", "global_after"}
    # Of the pictures, the carpet before denoising and the slices of the brain cannot be drawn again.
    lost = before - find_images(own_outputs / "sub-001.html")
    assert lost == {data["carpets"]["before"], data["slices"]["image"]}
    assert data["carpets"]["after"] in page


def test_a_page_is_drawn_from_data_that_were_not_compressed(own_outputs):
    """Versions before 0.2 wrote them so."""
    path = own_outputs / "logs" / "sub-001" / f"{STEM}_page.json.gz"
    path.with_suffix("").write_text(json.dumps(read_data(path)))
    path.unlink()
    before = (own_outputs / "sub-001.html").read_bytes()
    assert write_report(own_outputs, "001")
    assert (own_outputs / "sub-001.html").read_bytes() == before


def test_a_page_that_cannot_be_written_fails_nobody(own_outputs, caplog):
    find_status(own_outputs, "001").write_text('{"status": "ok", "seconds": "x"}')
    assert not write_report(own_outputs, "001")
    assert "sub-001.html" in caplog.text


def test_reports_only_writes_the_same_pages_from_files(study, own_outputs, app):
    before = (own_outputs / "sub-002.html").read_text(encoding="utf-8")
    (own_outputs / "sub-002.html").unlink()
    (own_outputs / "sub-001.html").unlink()
    code, text = app(study / "gone", own_outputs, "--reports-only", "--participant-label", "sub-002")
    assert code == 0
    assert "bids_semantoks: 1 report written (see" in text
    after = (own_outputs / "sub-002.html").read_text(encoding="utf-8")
    assert after == before
    assert not (own_outputs / "sub-001.html").exists()
    code, text = app(study, own_outputs, "--reports-only", "--participant-label", "099")
    assert code == 3
    assert "099" in text


def test_every_page_has_the_methods_text_of_the_end(outputs):
    """It counts runs, some of which were not done when the first pages were written."""
    text = str(read_methods(outputs))
    assert "runs" in text
    pages = sorted(outputs.glob("sub-*.html"))
    assert len(pages) > 2
    assert [page.name for page in pages if text not in page.read_text(encoding="utf-8")] == []


def test_many_sessions_have_a_page_each(own_outputs):
    func = own_outputs / "sub-002" / "ses-1" / "func"
    statuses = {path.parent: path for path in (own_outputs / "logs").glob("*/sub-002_ses-1_*_status.json")}
    for session in ("3", "4", "10"):
        other = own_outputs / "sub-002" / f"ses-{session}" / "func"
        other.mkdir(parents=True)
        for path in [
            *func.iterdir(),
            *statuses.values(),
            *(own_outputs / "logs" / "sub-002").glob("*_ses-1_*page.json"),
        ]:
            folder = other if path.parent == func else path.parent
            shutil.copy(path, folder / path.name.replace("ses-1", f"ses-{session}"))
    assert write_report(own_outputs, "002")
    names = sorted(path.name for path in own_outputs.glob("sub-002*.html"))
    assert names == ["sub-002.html", *sorted(f"sub-002_ses-{one}.html" for one in ("1", "2", "3", "4", "10"))]
    first = (own_outputs / "sub-002.html").read_text(encoding="utf-8")
    links = re.findall(r'href="(sub-002_ses-[^"#]+)#([^"]+)"', first)
    assert [link for link, _ in links] == [f"sub-002_ses-{one}.html" for one in ("1", "2", "3", "4", "10")]
    for link, anchor in links:
        # Links to a run lead to both pages.
        assert f'id="{anchor}"' in first
        page = (own_outputs / link).read_text(encoding="utf-8")
        assert page.count("data-run=") == 1
        assert f'id="{anchor}"' in page
        assert 'href="sub-002.html"' in page
    assert "data-run=" not in first
    shutil.rmtree(own_outputs / "sub-002" / "ses-10")
    for path in (own_outputs / "logs").glob("*/*ses-10*"):
        path.unlink()
    assert write_report(own_outputs, "002")
    assert [path.name for path in own_outputs.glob("sub-002*.html")] == ["sub-002.html"]


def test_pages_are_drawn_without_what_draws_figures(outputs, tmp_path):
    """Matplotlib took most of the time of a run of parcellated series; tables of the group need pandas."""
    code = (
        "import sys; from pathlib import Path; import bids_semantoks.participant\n"
        "from bids_semantoks.reports.report import write_report\n"
        f"assert write_report(Path({str(outputs)!r}), '001')\n"
        "heavy = ('matplotlib', 'pandas', 'bids_semantoks.outputs.group_tables')\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


def test_a_page_draws_zooms_and_tells_values(browser, outputs):
    data = read_data(outputs / "logs" / "sub-001" / f"{STEM}_page.json.gz")
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
    path = tmp_path / "out" / "logs" / "sub-001" / f"{STEM}_page.json.gz"
    data = read_data(path)
    name = data["networks"][0][0]
    hostile = "</script><img src=x onerror=document.title=1>"
    write_data(path, json.loads(json.dumps(data).replace(f'"{name}"', f'"{hostile}"')))
    assert write_report(tmp_path / "out", "001")
    with open_page(browser, tmp_path / "out" / "sub-001.html") as page:
        page.locator('[data-map="connectivity-1"]').hover(position={"x": 5, "y": 5})
        assert "onerror" in page.locator(".tip").text_content()
        assert page.title() == "sub-001: Brain-Semantoks embeddings"
        assert page.locator("img").count() == 0
