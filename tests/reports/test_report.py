"""Pages of participants: what they show, and that they can fail nobody."""

import json
import re
import shutil

from bids_semantoks.reports.report import build_page, write_report


def test_a_page_holds_all_and_needs_nothing(outputs):
    page = (outputs / "sub-002.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="(https?:)?//(?!doi\.org)[^"]*\.(js|css|png|svg)"', page)
    assert "<script" not in page
    assert "Session 1" in page
    assert "Session 2" in page
    assert page.count("data:image/svg+xml") == 2 * (4 + 2) + 1
    assert "Missing." not in page
    assert "Methods" in page
    assert "References" in page
    for link in re.findall(r'href="(sub-[^"]+)"', page):
        assert (outputs / link).is_file(), link
    for anchor in re.findall(r'href="#([^"]+)"', page):
        assert f'id="{anchor}"' in page, anchor
    short = (outputs / "sub-004.html").read_text(encoding="utf-8")
    assert "too_short" in short
    assert "shorter than --min-time 100 s" in short


def test_figures_are_named_in_bids_manner(outputs):
    names = sorted(path.name for path in (outputs / "sub-001" / "figures").iterdir())
    stem = "sub-001_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457"
    assert names == sorted(
        [
            *(f"{stem}_desc-{word}_bold.svg" for word in ("carpet", "motion", "coverage", "connectivity")),
            *(f"{stem}_desc-RandomTiny{word}_bold.svg" for word in ("Windows", "Tokens")),
            "sub-001_space-MNI152NLin2009cAsym_atlas-Demo457_desc-RandomTinyStability_bold.svg",
        ]
    )


def test_missing_figures_and_failures_are_reported(outputs, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    next((out / "sub-001" / "figures").glob("*_desc-carpet_bold.svg")).unlink()
    (status,) = (out / "logs" / "runs").glob("sub-001_*.json")
    values = json.loads(status.read_text()) | {"status": "failed", "reason": "bad_image", "message": "Torn <file>."}
    status.write_text(json.dumps(values))
    page = build_page(out, "001")
    assert "Missing. It needs the signals before denoising" in page
    assert "Torn &lt;file&gt;." in page
    assert "bad_image" in page
    assert "No run failed" not in page


def test_a_page_that_cannot_be_written_fails_nobody(outputs, tmp_path, caplog):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    next((out / "logs" / "runs").glob("sub-001_*.json")).write_text("{")
    assert not write_report(out, "001")
    assert "sub-001.html could not be written" in caplog.text


def test_reports_only_draws_from_files_and_keeps_the_rest(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    figures = {path.name: path for path in (out / "sub-002" / "figures").iterdir()}
    before = {name: path.read_bytes() for name, path in figures.items()}
    for name, path in figures.items():
        if "connectivity" in name or "Windows" in name:
            path.unlink()
    (out / "sub-002.html").unlink()
    (out / "sub-001.html").unlink()
    code, text = app(study / "gone", out, "--reports-only", "--participant-label", "sub-002")
    assert code == 0
    assert "bids_semantoks: 1 report written (see" in text
    after = {path.name: path.read_bytes() for path in (out / "sub-002" / "figures").iterdir()}
    # More of the others are known by now.
    (changing,) = [name for name in before if "Stability" in name]
    assert after.pop(changing).startswith(b"<?xml")
    before.pop(changing)
    assert after == before
    assert (out / "sub-002.html").is_file()
    assert not (out / "sub-001.html").exists()
    code, text = app(study, out, "--reports-only", "--participant-label", "099")
    assert code == 3
    assert "099" in text
