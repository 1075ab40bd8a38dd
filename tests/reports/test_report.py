"""Pages of participants: what they show, which embeddings they compare, and that they can fail nobody."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
from bids_semantoks.reports.figures_embedding import compute_stability

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.reports import report
from bids_semantoks.reports.report import build_page, write_report

N_DIMS = 5


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
    next((out / "logs" / "runs").glob("sub-001_*.json")).write_text('{"status": "ok", "seconds": "x"}')
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


def write_run(out_dir, stem, model, n_windows, *, n_dims=N_DIMS, whole=True):
    """Write an embedding whose first number says how many windows it has."""
    entities = parse_entities(stem)
    session = [f"ses-{entities['ses']}"] if "ses" in entities else []
    folder = out_dir.joinpath(f"sub-{entities['sub']}", *session, "func")
    folder.mkdir(parents=True, exist_ok=True)
    paths = OutputPaths(out_dir=out_dir, directory=folder, stem=stem, model=model)
    paths.embedding_sidecar.write_text("{}")
    if whole:
        columns = ["window", "onset", "duration", "kept", *(f"dim{d:04d}" for d in range(1, n_dims + 1))]
        rows = np.hstack([np.zeros((n_windows, 4)), np.full((n_windows, n_dims), float(n_windows))])
        lines = ["\t".join(columns), *("\t".join(f"{x:g}" for x in row) for row in rows)]
        paths.embedding.write_text("\n".join(lines) + "\n")


def draw(out_dir, participant, monkeypatch):
    """Draw, and give what was compared: windows of own runs, their labels, and windows of others, by picture."""
    compared = []

    def compare(vectors, labels, others):
        compared.append(([len(one) for one in vectors], list(labels), sorted(len(one) for one in others)))
        return compute_stability(vectors, labels, others)

    monkeypatch.setattr(report, "compute_stability", compare)
    pictures = report.draw_stabilities(out_dir, participant)
    assert all(picture.title == "Stability of the embedding" and picture.data for _, picture in pictures)
    return dict(zip([name for name, _ in pictures], compared, strict=True))


def test_each_encoder_atlas_and_space_is_compared_with_its_like(tmp_path, monkeypatch):
    write_run(tmp_path, "sub-01_task-rest_run-1_space-S_atlas-A", "M", 2)
    write_run(tmp_path, "sub-01_task-rest_run-2_space-S_atlas-A", "M", 3)
    write_run(tmp_path, "sub-01_task-rest_run-3_space-S_atlas-A", "M", 4, whole=False)
    write_run(tmp_path, "sub-01_task-rest_run-1_space-S_atlas-A", "Other", 5)
    write_run(tmp_path, "sub-01_task-rest_run-1_atlas-B", "M", 6)
    write_run(tmp_path, "sub-02_ses-x_task-rest_space-S_atlas-A", "M", 7)
    write_run(tmp_path, "sub-02_ses-x_task-rest_space-S_atlas-A", "Other", 8, n_dims=N_DIMS + 1)
    write_run(tmp_path, "sub-03_task-rest_space-T_atlas-A", "M", 9)
    assert draw(tmp_path, "01", monkeypatch) == {
        "B, M": ([6], ["rest"], []),
        "S, A, M": ([2, 3], ["run-1", "run-2"], [7]),
        # Vectors of another length cannot be compared.
        "S, A, Other": ([5], ["rest"], []),
    }
    assert draw(tmp_path, "04", monkeypatch) == {}


def test_runs_are_called_by_what_tells_them_apart(tmp_path, monkeypatch):
    write_run(tmp_path, "sub-01_ses-1_task-rest_atlas-A", "M", 2)
    write_run(tmp_path, "sub-01_ses-2_task-rest_atlas-A", "M", 3)
    write_run(tmp_path, "sub-01_ses-2_task-rest_run-2_atlas-A", "M", 4)
    ((windows, labels, _),) = draw(tmp_path, "01", monkeypatch).values()
    assert dict(zip(windows, labels, strict=True)) == {2: "ses-1", 3: "ses-2", 4: "ses-2 run-2"}


def test_of_many_others_some_are_read_spread_over_all(tmp_path, monkeypatch):
    for number in range(1, 44):
        write_run(tmp_path, f"sub-{number:02d}_task-rest_atlas-A", "M", number)
    ((_, _, others),) = draw(tmp_path, "05", monkeypatch).values()
    rest = [number for number in range(1, 44) if number != 5]
    assert others == rest[::3]


def test_runs_of_participants_wait_for_no_page_of_the_group():
    """The tables of the group need pandas, which takes half a second to load."""
    code = "import sys, bids_semantoks.participant; print('bids_semantoks.outputs.group_tables' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
