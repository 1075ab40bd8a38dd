"""The page of all runs: complete without scripts, and small enough for thousands."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import open_browser, open_page

from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.quality import cohort
from bids_semantoks.quality.run_qc import REMEDIES
from bids_semantoks.reports.cohort_page import find_suffix, render_page

SUFFIX = "_space-MNI152NLin2009cAsym_atlas-Schaefer400Tian3Buckner7"
HOSTILE = "</table><script>document.title=1</script>\"' onload=x <b>&amp;"


def build_rows(n: int) -> list[dict[str, Any]]:
    """Build rows as a study gives them: every measure, some failures, one without derivatives."""
    generator = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        label = f"{i // 2 + 1:04d}"
        row: dict[str, Any] = {
            **{"name": f"sub-{label}_ses-{i % 2 + 1}_task-rest_run-1{SUFFIX}", "participant_id": f"sub-{label}"},
            **{
                "space": "S",
                "atlas": "A",
                "encoder": "Tiny",
                "status": "ok",
                "reason": "",
                "message": "",
                "usable": True,
            },
        }
        if i % 40 == 7:
            row |= {"status": "failed", "reason": "no_mask", "message": f"No {label}.nii.gz.", "usable": False}
        elif i % 40 == 8:
            row |= {"status": "skipped", "reason": "too_short", "message": "60 s.", "usable": False}
        else:
            scrubbed = int(generator.integers(0, 60))
            row |= {
                "mean_fd": float(np.exp(generator.normal(-2, 0.5))),
                "max_fd": float(generator.uniform(0.5, 4)),
                "kept_seconds": 600.0 - 2 * scrubbed,
                "scrubbed_share": scrubbed / 300,
                "coverage": float(generator.uniform(0.85, 1)),
                "tsnr": float(generator.normal(70, 14)),
                "num_volumes": 300 - int(i % 9 == 0),
                "n_absent_parcels": int(generator.poisson(0.3)),
                "masked_networks": ["Limbic"] if i % 60 == 1 else [],
                "n_masked_networks": int(i % 60 == 1),
                "repetition_time": 2.0,
                "input_fit": "amber" if i % 3 else "green",
                "window_similarity": float(generator.uniform(0.4, 0.9)),
                "cohort_distance": float(generator.uniform(0.7, 1.4)),
                "n_warnings": int(i % 3),
                "version": "0.1.0",
            }
        rows.append(row)
    absent = {"name": "sub-none", "participant_id": "sub-none", "status": "no_derivatives", "reason": "no_derivatives"}
    rows.append({**absent, "message": "Listed in /data.", "usable": False})
    cohort._judge(rows)
    return rows


class Page(HTMLParser):
    """What a browser without scripts would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.lines: list[list[str]] = []
        self.hrefs: list[str] = []
        self.policy, self.where, self.text = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.where = tag if tag in ("style", "script") else self.where if tag == "a" else ""
        if values.get("http-equiv"):
            self.policy = values["content"] or ""
        if tag == "tr":
            self.lines.append([])
        if tag == "td":
            self.lines[-1].append("")
        if tag == "a":
            self.hrefs.append(values["href"] or "")
        assert not [name for name in values if name.startswith("on") or name == "style"]

    def handle_endtag(self, tag: str) -> None:
        self.where = ""

    def handle_data(self, data: str) -> None:
        if self.where not in ("style", "script"):
            self.text += data
            if self.lines and self.lines[-1]:
                self.lines[-1][-1] += data.strip()


def test_five_thousand_runs_fit_into_a_megabyte() -> None:
    rows = build_rows(5000)
    render_page(rows[:10])
    started = time.process_time()
    page = render_page(rows)
    taken = time.process_time() - started
    assert len(page.encode()) <= 1_000_000
    assert taken < 1.5, "it takes about 0.2 s on a machine of its own"


def test_the_page_is_complete_without_scripts() -> None:
    rows = build_rows(80)
    page = Page(render_page(rows, has_probes=True))
    lines = [line for line in page.lines if line and line[0].startswith("sub-")]
    assert len(lines) == 80
    # The worst first: those that failed, were skipped, and then by red limits.
    assert [line[2] for line in lines[:4]] == ["failed: no mask"] * 2 + ["skipped: too short"] * 2
    assert [line[1] for line in lines[:5]] == ["leave out"] * 5
    assert lines[-1][1] == "use"
    assert "76 usable" in page.text
    assert REMEDIES["no_mask"] in page.text
    assert REMEDIES["no_derivatives"] in page.text
    assert "1 participant without derivatives" in page.text
    # What all runs share stands once.
    assert "TR (s)2" in re.sub(r"\s", "", page.text).replace("TR(s)", "TR (s)")
    assert "sub-0001.html" in page.hrefs
    assert f"sub-0004.html#sub-0004_ses-2_task-rest_run-1{SUFFIX}" in page.hrefs
    assert "group.html" in page.hrefs
    assert "default-src 'none'" in page.policy
    assert "script-src 'sha256-" in page.policy
    assert "unsafe" not in page.policy


def test_text_of_others_is_shown_and_does_nothing() -> None:
    rows = build_rows(30)
    plain = Page(render_page(rows))
    for row in rows:
        row |= {"message": HOSTILE, "excluded_by": HOSTILE, "encoder": HOSTILE, "version": HOSTILE, "reason": HOSTILE}
        row["input_fit"] = HOSTILE + str(len(row["name"]))
    rows[3]["name"] = f"sub-{HOSTILE}_task-rest{SUFFIX}"
    rows[3]["participant_id"] = f"sub-{HOSTILE}"
    page = Page(render_page(rows))
    assert page.tags.count("script") == plain.tags.count("script")
    assert page.tags.count("table") == plain.tags.count("table")
    assert "b" not in page.tags
    assert HOSTILE in page.text
    assert all(re.fullmatch(r"[#\w./%~-]+", href) for href in page.hrefs)


def test_a_study_in_which_nothing_worked() -> None:
    rows = [row for row in build_rows(50) if row["status"] != "ok"]
    text = Page(render_page(rows)).text
    assert "0 usable" in text
    only_absent = [row for row in rows if row["status"] == "no_derivatives"]
    assert "0 runs of 1 participant" in Page(render_page(only_absent)).text


def test_every_reason_has_a_remedy() -> None:
    own = {"no_derivatives", "other_preparation", cohort.EXCLUDED}
    assert {*RunFailed.reasons, *RunSkipped.reasons, *own} == REMEDIES.keys()


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        (("sub-1_task-a_space-S_atlas-A", "sub-2_task-b_space-S_atlas-A"), "_space-S_atlas-A"),
        (("sub-1_atlas-A", "sub-2_atlas-A"), "_atlas-A"),
        (("sub-1_space-S_atlas-A", "sub-1_space-S_atlas-B"), ""),
        (("sub-1_space-S_atlas-A", "sub-1"), ""),
        ((), ""),
    ],
)
def test_what_all_names_end_in_stands_once(names: tuple[str, ...], suffix: str) -> None:
    assert find_suffix(names) == suffix


def test_the_page_in_a_browser(tmp_path: Path) -> None:
    rows = build_rows(300)
    path = tmp_path / "group_qc.html"
    path.write_text(render_page(rows), encoding="utf-8")
    (tmp_path / "sub-0004.html").write_text("<p>report")
    with open_browser() as browser:
        from playwright.sync_api import expect  # noqa: PLC0415 - absent where the test is skipped

        with open_page(browser, path, accept_downloads=True) as page:
            lines = page.locator(".runs tbody tr")
            assert lines.count() == 200
            assert page.locator("#count").inner_text() == "300 runs"
            page.locator("#more").click()
            assert lines.count() == 300
            # Sorted by motion, the largest first, runs without it last.
            page.get_by_role("button", name="mean FD (mm)").click()
            order = [row["name"] for row in sorted(rows, key=lambda row: -(row.get("mean_fd") or -1))]
            assert lines.first.locator("a").inner_text() == order[0].removesuffix(SUFFIX)
            page.locator("#filter").fill("fd>0.2 -failed kept<590")
            expected = [row for row in rows if round(row.get("mean_fd") or 0, 3) > 0.2 and row["kept_seconds"] < 590]
            expect(lines).to_have_count(len(expected))
            with page.expect_download() as saved:
                page.locator("#save-list").click()
            names = Path(saved.value.path()).read_text(encoding="utf-8").split()
            assert sorted(names) == sorted(row["name"] for row in expected)
            page.locator("#filter").fill("failed")
            expect(lines).to_have_count(8)
            page.locator("#filter").fill("speed>3")
            expect(page.locator("#problem")).to_contain_text("Unknown column speed")
            page.locator("#clear").click()
            # Dragging over the right half of a strip leaves its runs.
            strip = page.locator('canvas[data-key="tsnr"]')
            strip.scroll_into_view_if_needed()
            box = strip.bounding_box()
            page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 3)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"], box["y"] + 8, steps=3)
            page.mouse.up()
            assert re.fullmatch(r"tsnr>=\S+ tsnr<=\S+", page.locator("#filter").input_value())
            assert 0 < lines.count() < 200
            page.locator("#filter").fill("sub-0004_ses-2")
            expect(lines).to_have_count(1)
            lines.first.locator("a").click()
            assert page.url.endswith(f"sub-0004.html#sub-0004_ses-2_task-rest_run-1{SUFFIX}")
        with open_page(browser, path, java_script_enabled=False) as page:
            assert page.locator(".runs tbody tr").count() == 300
            assert not page.locator("#filter").is_visible()
