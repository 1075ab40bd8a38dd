"""Every kind of bad input: one clear message, the right exit code, and the other runs unharmed."""

import contextlib
import gzip
import json
import os
import pickle
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_semantoks import participant, run_plan
from bids_semantoks.cli import call
from bids_semantoks.outputs.store import read_statuses

#: The participant whose run is damaged, and one that stays whole.
BAD, GOOD = "001", "004"
SELECT = ("--participant-label", BAD, GOOD)


def find_file(study: Path, ending: str, participant: str = BAD) -> Path:
    (path,) = (study / "derivatives" / "fmriprep" / f"sub-{participant}").rglob(f"*{ending}")
    return path


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture
def two_runs(own_study):
    """One run of each of two participants."""
    for path in (own_study / "derivatives" / "fmriprep" / f"sub-{GOOD}").rglob("*run-2*"):
        path.unlink()
    return own_study


def check_one_bad_run(
    app, study: Path, out: Path, reason: str, *said: str, status: str = "failed", options: tuple[str, ...] = ()
) -> None:
    """Run on both participants: the damaged run has the status, the other is written."""
    code, text = app(study, out, *SELECT, *options)
    assert code == (7 if status == "failed" else 0), text
    found = {stem[4:7]: record for stem, record in read_statuses(out)}
    assert found[GOOD]["status"] == "ok"
    assert (found[BAD]["status"], found[BAD]["reason"]) == (status, reason)
    for part in said:
        assert part in found[BAD]["message"], found[BAD]["message"]
        assert part in text
    assert "Traceback" not in text
    assert not list((out / f"sub-{BAD}").rglob("*_timeseries.json"))
    assert len(list((out / f"sub-{GOOD}").rglob("*_embedding.tsv"))) == 1
    counts = "1 ok, 0 skipped, 1 failed" if status == "failed" else "1 ok, 1 skipped, 0 failed"
    assert last_line(text) == f"bids_semantoks: {counts} (see {out / 'logs'})"


def rewrite_bold(study: Path, change) -> Path:
    path = find_file(study, "desc-preproc_bold.nii.gz")
    image = nib.load(path)
    data, header = np.asarray(image.dataobj), image.header
    path.unlink()
    nib.save(change(data, image.affine, header), path)
    return path


# The dataset as a whole


@pytest.mark.parametrize("kind", ["absent", "file", "empty", "not_bids", "broken_json"])
def test_bids_dir_that_is_none(tmp_path, app, kind):
    place = tmp_path / "in"
    if kind == "file":
        place.write_text("x")
    elif kind != "absent":
        place.mkdir()
    if kind == "not_bids":
        (place / "holiday.jpg").write_text("x")
    if kind == "broken_json":
        (place / "dataset_description.json").write_text("{")
    code, text = app(place, tmp_path / "out")
    assert code == 3
    assert str(place) in text
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--participant-label", "001", "0004"), ("'0004'", "001, 002, 003, 004", "004")),
        (("--exclude-participant-label", "001", "002", "003", "004"), ("exclu",)),
        (("--session-id", "3"), ("'3'", "1, 2")),
        (("--task-id", "rset"), ("'rset'", "rest")),
        (("--run-id", "9"), ("'9'",)),
        (("--space", "MNI152NLin2009Asym"), ("MNI152NLin2009Asym", "MNI152NLin2009cAsym")),
    ],
)
def test_selection_that_is_not_there(study, tmp_path, app, arguments, said):
    code, text = app(study, tmp_path / "out", *arguments)
    assert code == 3
    for part in said:
        assert part in text
    assert not (tmp_path / "out").exists()


def test_filter_that_matches_nothing(study, tmp_path, app):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"bold": {"acquisition": "multiband"}}))
    code, text = app(study, tmp_path / "out", "--bids-filter-file", str(path))
    assert code == 3
    assert str(path) in text
    path.write_text("[")
    code, text = app(study, tmp_path / "out", "--bids-filter-file", str(path))
    assert code == 3
    assert str(path) in text


# Files that belong to a run


@pytest.mark.parametrize(("ending", "reason"), [("brain_mask.nii.gz", "no_mask"), ("timeseries.tsv", "no_confounds")])
def test_missing_companion(two_runs, tmp_path, app, ending, reason):
    find_file(two_runs, ending).unlink()
    check_one_bad_run(app, two_runs, tmp_path / "out", reason)


def test_milliseconds_are_no_repetition_time(two_runs, tmp_path, app):
    find_file(two_runs, "preproc_bold.json").write_text('{"RepetitionTime": 2000}')
    check_one_bad_run(app, two_runs, tmp_path / "out", "no_repetition_time", "2000 s, the header of", "milliseconds")


def test_a_sidecar_that_cannot_be_used_is_in_the_status(two_runs, tmp_path, app):
    path = find_file(two_runs, "preproc_bold.json")
    path.write_text('{"RepetitionTime": "fast"}')
    code, text = app(two_runs, tmp_path / "out", *SELECT, "--signals-only")
    assert code == 0, text
    problem = f"The sidecar {path} cannot be used: RepetitionTime must be a positive number of seconds, found 'fast'."
    assert problem in text
    messages = {stem[4:7]: record["message"] for stem, record in read_statuses(tmp_path / "out")}
    assert messages == {GOOD: "", BAD: problem}
    (sidecar,) = (tmp_path / "out" / f"sub-{BAD}").rglob("*_stat-mean_timeseries.json")
    assert json.loads(sidecar.read_text())["RepetitionTime"] == 2.0


def test_datalad_link_without_content(two_runs, tmp_path, app):
    path = find_file(two_runs, "preproc_bold.nii.gz")
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/absent")
    check_one_bad_run(app, two_runs, tmp_path / "out", "no_content", path.name, status="skipped")


def test_datalad_sidecar_without_content(two_runs, tmp_path, app):
    path = find_file(two_runs, "preproc_bold.json")
    path.unlink()
    path.symlink_to("../../.git/annex/objects/xx/absent")
    check_one_bad_run(app, two_runs, tmp_path / "out", "no_content", path.name, status="skipped")


def edit_confounds(study: Path, edit) -> Path:
    path = find_file(study, "timeseries.tsv")
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text("\n".join("\t".join(row) for row in edit(rows)) + "\n")
    return path


def drop_column(rows, name):
    at = rows[0].index(name)
    return [[*row[:at], *row[at + 1 :]] for row in rows]


def put_text(rows):
    rows[7][rows[0].index("trans_y")] = "oops"
    return rows


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda rows: rows[:-3], ("rows",)),
        (lambda rows: drop_column(rows, "csf"), ("csf",)),
        (lambda rows: drop_column(rows, "rot_z_derivative1"), ("rot_z_derivative1",)),
        (put_text, ("trans_y", "oops")),
        (lambda rows: [], ()),
    ],
)
def test_bad_confounds(two_runs, tmp_path, app, edit, said):
    path = edit_confounds(two_runs, edit)
    check_one_bad_run(app, two_runs, tmp_path / "out", "bad_confounds", path.name, *said)


def test_cosines_are_missed_where_no_band_removes_the_drifts(two_runs, tmp_path, app):
    path = edit_confounds(two_runs, lambda rows: drop_column(rows, "cosine00"))
    check_one_bad_run(
        app, two_runs, tmp_path / "out", "bad_confounds", path.name, "cosine", options=("--no-band-pass",)
    )


def test_truncated_gzip(two_runs, tmp_path, app):
    path = find_file(two_runs, "preproc_bold.nii.gz")
    path.write_bytes(path.read_bytes()[:-20_000])
    check_one_bad_run(app, two_runs, tmp_path / "out", "bad_image", path.name)


def test_wrong_header(two_runs, tmp_path, app):
    path = find_file(two_runs, "preproc_bold.nii.gz")
    path.write_bytes(gzip.compress(b"this is no image" * 100))
    check_one_bad_run(app, two_runs, tmp_path / "out", "bad_image", path.name)


def test_three_dimensions(two_runs, tmp_path, app):
    path = rewrite_bold(two_runs, lambda data, affine, header: nib.Nifti1Image(data[..., 0], affine))
    check_one_bad_run(app, two_runs, tmp_path / "out", "bad_image", path.name)


def test_all_zeros(two_runs, tmp_path, app):
    rewrite_bold(two_runs, lambda data, affine, header: nib.Nifti1Image(np.zeros_like(data), affine, header))
    assert app(two_runs, tmp_path / "out", *SELECT)[0] == 7
    found = {stem[4:7]: record for stem, record in read_statuses(tmp_path / "out")}
    assert found[BAD]["reason"] in ("bad_image", "low_coverage")
    assert found[GOOD]["status"] == "ok"


def test_not_a_number_voxels_are_left_out_and_counted(two_runs, tmp_path, app):
    def spoil(data, affine, header):
        values = data.astype(np.float32)
        inside = np.argwhere(values.std(axis=3) > 0)
        values[tuple(inside[100])] = np.nan
        values[(*inside[200], 5)] = np.inf
        return nib.Nifti1Image(values, affine)

    rewrite_bold(two_runs, spoil)
    code, text = app(two_runs, tmp_path / "out", *SELECT)
    assert code == 0
    assert "2 voxels" in text
    (table,) = (tmp_path / "out" / f"sub-{BAD}").rglob("*_stat-mean_timeseries.tsv")
    assert "inf" not in table.read_text()


def test_mask_on_another_grid(two_runs, tmp_path, app):
    path = find_file(two_runs, "brain_mask.nii.gz")
    image = nib.load(path)
    data = np.asarray(image.dataobj)[1:]
    path.unlink()
    nib.save(nib.Nifti1Image(data, image.affine), path)
    check_one_bad_run(app, two_runs, tmp_path / "out", "space_mismatch", path.name)


def test_stop_on_first_crash_and_ignore_failed_runs(two_runs, tmp_path, app):
    find_file(two_runs, "brain_mask.nii.gz").unlink()
    code, text = app(two_runs, tmp_path / "a", *SELECT, "--stop-on-first-crash")
    assert code == 7
    assert "1 run was not attempted" in text
    (left_out,) = [record for stem, record in read_statuses(tmp_path / "a") if stem[4:7] == GOOD]
    assert (left_out["status"], left_out["reason"]) == ("failed", "internal")
    assert "Not attempted" in left_out["message"]
    assert not (tmp_path / "a" / f"sub-{GOOD}").exists()
    assert last_line(text) == f"bids_semantoks: 0 ok, 0 skipped, 2 failed (see {tmp_path / 'a' / 'logs'})"
    assert app(two_runs, tmp_path / "a", *SELECT)[0] == 7
    assert [record["status"] for _, record in read_statuses(tmp_path / "a")] == ["failed", "ok"]
    assert app(two_runs, tmp_path / "b", *SELECT, "--ignore-failed-runs")[0] == 0
    assert app(two_runs, tmp_path / "c", "--participant-label", BAD, "--ignore-failed-runs")[0] == 7


# Atlas


@pytest.fixture
def atlas_files(tmp_path):
    """A small atlas of the demo's grid that tests may damage: image and table."""
    source = Path(__file__).resolve().parents[1] / "bids_semantoks" / "data" / "atlases"
    stem = "tpl-MNI152NLin2009cAsym_atlas-Demo457_dseg"
    folder = tmp_path / "atlas"
    folder.mkdir()
    for suffix in (".nii.gz", ".tsv"):
        shutil.copy(source / f"{stem}{suffix}", folder / f"{stem}{suffix}")
    return folder / f"{stem}.nii.gz", folder / f"{stem}.tsv"


def test_atlas_by_path_gives_the_same_signals(study, outputs, tmp_path, app, atlas_files):
    code, text = app(study, tmp_path / "out", "--atlas", str(atlas_files[0]), "--participant-label", BAD)
    assert code == 0, text
    (one,) = (outputs / f"sub-{BAD}").rglob("*_stat-mean_timeseries.tsv")
    (two,) = (tmp_path / "out").rglob("*_stat-mean_timeseries.tsv")
    assert one.read_bytes() == two.read_bytes()


def test_atlas_in_another_space(study, tmp_path, app, atlas_files):
    image, table = atlas_files
    for path in (image, table):
        path.rename(path.parent / path.name.replace("MNI152NLin2009cAsym", "MNIPediatricAsym"))
    moved = image.parent / image.name.replace("MNI152NLin2009cAsym", "MNIPediatricAsym")
    code, text = app(study, tmp_path / "out", "--atlas", str(moved))
    assert code == 6
    assert "MNIPediatricAsym" in text
    assert "MNI152NLin2009cAsym" in text
    assert not (tmp_path / "out").exists()


def test_atlas_labels_missing_in_the_table(study, tmp_path, app, atlas_files):
    lines = atlas_files[1].read_text().splitlines()
    atlas_files[1].write_text("\n".join(lines[:-2]) + "\n")
    code, text = app(study, tmp_path / "out", "--atlas", str(atlas_files[0]))
    assert code == 6
    assert "456" in text
    assert "457" in text


def test_atlas_that_covers_nothing(study, tmp_path, app, atlas_files):
    image = nib.load(atlas_files[0])
    far = image.affine.copy()
    far[:3, 3] += 5000
    data = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(data, far), atlas_files[0])
    code, text = app(study, tmp_path / "out", "--atlas", str(atlas_files[0]), "--participant-label", BAD)
    assert code == 7
    assert "space_mismatch" in text
    assert "Traceback" not in text


def test_unknown_atlas_names_the_known(study, tmp_path, app):
    code, text = app(study, tmp_path / "out", "--atlas", "Demo475")
    assert code == 6
    assert "Demo457" in text


# Encoder


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["absent", "truncated", "text", "pickle", "unknown_random"])
def test_bad_checkpoint(study, tmp_path, app, kind):
    path, mark = tmp_path / "model.pth", tmp_path / "executed"
    parity = Path(__file__).parent / "data" / "parity" / "checkpoint.pth"
    if kind == "truncated":
        path.write_bytes(parity.read_bytes()[:100_000])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model_state_dict": Bomb(mark)}, protocol=2))
    name = "random:huge" if kind == "unknown_random" else str(path)
    code, text = app(study, tmp_path / "out", "--model", name)
    assert code == 6, text
    assert name.rsplit("/", 1)[-1] in text
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_authors_checkpoint_needs_an_atlas_with_its_networks(study, tmp_path, app, atlas_files):
    lines = atlas_files[1].read_text().splitlines()
    # One parcel changes its network: counts no longer agree with the checkpoint's.
    changed = [line.replace("\tVis", "\tLimbic") if line.startswith("1\t") else line for line in lines]
    atlas_files[1].write_text("\n".join(changed) + "\n")
    parity = Path(__file__).parent / "data" / "parity" / "checkpoint.pth"
    code, text = app(study, tmp_path / "out", "--atlas", str(atlas_files[0]), "--model", str(parity))
    assert code == 6
    assert "Vis" in text
    assert "60" in text
    assert "61" in text


def test_authors_checkpoint_runs_on_the_demo_atlas(study, tmp_path, app):
    parity = Path(__file__).parent / "data" / "parity" / "checkpoint.pth"
    code, text = app(study, tmp_path / "out", "--model", str(parity), "--participant-label", BAD)
    assert code == 0, text
    (path,) = (tmp_path / "out").rglob("*_embedding.json")
    sidecar = json.loads(path.read_text())
    assert sidecar["Model"]["HasRandomWeights"] is False
    assert sidecar["Model"]["Name"] == "checkpoint"


def test_hub_without_network_says_how_to_fetch(study, tmp_path, app, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    code, text = app(study, tmp_path / "out", "--model", "SamGijsen/Brain-Semantoks")
    assert code == 6
    assert "brainsemantoks_ckpt_epoch_100.pth" in text


def test_absent_device(study, tmp_path, app):
    code, text = app(study, tmp_path / "out", "--device", "cuda:7")
    assert code == 5
    assert "cuda:7" in text
    code, text = app(study, tmp_path / "out", "--device", "tpu")
    assert code in (4, 5)
    assert "tpu" in text


# Output


def test_refused_output_directories(own_study, app):
    fmriprep = own_study / "derivatives" / "fmriprep"
    for out in (own_study, fmriprep, fmriprep / "x", own_study / "sub-001" / "x", own_study / "elsewhere"):
        code, text = app(own_study, out)
        assert code == 4, (out, text)
        assert str(out) in text
    code, text = app(own_study, own_study / "derivatives" / "mine", "--participant-label", BAD)
    assert code == 0, text


def test_work_dir_inside_the_input(own_study, tmp_path, app):
    code, text = app(own_study, tmp_path / "out", "-w", str(own_study / "derivatives" / "fmriprep" / "work"))
    assert code == 4
    assert "work" in text
    assert not (own_study / "derivatives" / "fmriprep" / "work").exists()


def test_work_dir_takes_temporary_files(study, tmp_path, app, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    work = tmp_path / "work"
    assert app(study, tmp_path / "out", "-w", str(work), "--participant-label", BAD)[0] == 0
    assert tempfile.gettempdir() == str(work)
    assert list(work.iterdir()) == []


def test_unwritable_output(study, tmp_path, app):
    (tmp_path / "file").write_text("x")
    code, text = app(study, tmp_path / "file" / "out")
    assert code == 4
    assert str(tmp_path / "file" / "out") in text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_full_disk(study, tmp_path, app):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        code, text = app(study, disk / "out", "--participant-label", BAD)
        left = list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", disk], check=True)
    assert code == 5
    assert "disk_full" in text
    assert "Traceback" not in text
    assert left == []


def test_file_size_limit_is_a_full_disk(study, tmp_path, app):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        code, text = app(study, tmp_path / "out", "--participant-label", BAD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 5
    assert "disk_full" in text
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert not list((tmp_path / "out").rglob("*_timeseries.json"))


def test_bug_is_reported_as_one(study, tmp_path, app, monkeypatch):
    def explode(*_):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(run_plan, "extract_signals", explode)
    code, text = app(study, tmp_path / "out", "--participant-label", BAD)
    assert code == 7
    assert "internal" in text
    (log,) = (tmp_path / "out" / "logs").glob("calls/*/bids_semantoks.log")
    assert "planted" in log.read_text()
    monkeypatch.setattr(participant, "build_plan", explode)
    code, text = app(study, tmp_path / "out2")
    assert code == 1
    assert "please report" in text


def test_bad_calls():
    with contextlib.chdir("/"):
        assert call(["--no-such-option"]) == 2
        assert call(["a", "b", "session"]) == 2
        assert call([]) == 2


# Group


def test_group_without_signals(study, tmp_path, app):
    code, text = app(study, tmp_path / "out", level="group")
    assert code == 3
    assert "participant level first" in text


def test_group_with_unknown_selection(study, outputs, tmp_path, app):
    shutil.copytree(outputs, tmp_path / "out")
    code, text = app(study, tmp_path / "out", "--participant-label", "999", level="group")
    assert code == 3
    assert "'999'" in text
    code, text = app(
        study, tmp_path / "out", "--participant-label", "999", "001", "--ignore-missing-participants", level="group"
    )
    assert code == 0
    assert "1 of 2 requested participants" in text
    assert "--ignore-missing-participants" not in text
    assert app(study, tmp_path / "out", "--exclude-participant-label", "999", level="group")[0] == 3
    lenient = ("--ignore-missing-participants", "--exclude-participant-label", "999")
    assert app(study, tmp_path / "out", *lenient, level="group")[0] == 0
    code, text = app(study, tmp_path / "out", "--space", "fsLR", level="group")
    assert code == 3
    assert "MNI152NLin2009cAsym" in text
    code, text = app(study, tmp_path / "out", "--atlas", "Schaefer400", level="group")
    assert code == 3
    assert "Demo457" in text
