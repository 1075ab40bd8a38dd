"""The whole way, participant to group and again, on a synthetic study."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.documented import find_undocumented

from bids_semantoks.files import read_table
from bids_semantoks.outputs.store import read_statuses

N_RUNS = 7
N_OK = 6


def read_tree(root: Path, *, suffixes: tuple[str, ...] = (".tsv", ".json")) -> dict[str, bytes]:
    """Content by relative path, without logs and the table of quality, whose times differ."""
    files = [path for path in root.rglob("*") if path.suffix in suffixes and path.is_file()]
    files = [path for path in files if path.name != "group_qc.tsv"]
    return {str(p.relative_to(root)): p.read_bytes() for p in files if "logs" not in p.relative_to(root).parts}


def test_every_run_is_accounted_for(outputs):
    statuses = dict(read_statuses(outputs))
    assert len(statuses) == N_RUNS
    assert sum(status["status"] == "ok" for status in statuses.values()) == N_OK
    (short,) = [stem for stem, status in statuses.items() if status["reason"] == "too_short"]
    assert "run-2" in short
    for status in statuses.values():
        assert set(status) == {
            *(
                "status",
                "reason",
                "message",
                "action",
                "seconds",
                "peak_rss_mb",
                "device",
                "config_hash",
                "attempt_hash",
            )
        }
    names = {path.name for path in outputs.rglob("*_embedding.tsv")}
    assert len(names) == N_OK
    assert any("acq-AP" in name for name in names)
    assert any("acq-PA" in name for name in names)


def test_outputs_of_a_run_fit_together(outputs):
    for table in outputs.rglob("*_stat-mean_timeseries.tsv"):
        sidecar = json.loads(table.with_suffix(".json").read_text())
        parcels, values = read_table(table)
        assert len(parcels) == 457
        assert values.shape[0] == sidecar["VolumesTotal"]
        dropped = np.isnan(values).all(axis=1)
        assert dropped.sum() == sidecar["VolumesTotal"] - sidecar["VolumesKept"]
        assert dropped[: sidecar["VolumesDropped"]["Dummy"]["Count"]].all()
        assert all(source.startswith("bids:fmriprep:sub-") for source in sidecar["Sources"])
        embedding = json.loads(
            Path(str(table).replace("stat-mean_timeseries.tsv", "desc-RandomTiny_embedding.json")).read_text()
        )
        assert embedding["SignalsSHA256"] == sidecar["TableSHA256"]
        assert embedding["Model"]["HasRandomWeights"] is True
        assert embedding["MaskedNetworks"] == []


def test_embedding_rows_are_windows(outputs):
    for path in outputs.rglob("*_embedding.tsv"):
        columns, rows = read_table(path)
        assert columns[:5] == ("window", "onset", "duration", "kept", "dim0001")
        assert len(columns) == 4 + 128
        # 136 s are shorter than a window of 200 s: one padded window.
        assert rows.shape[0] == 1
        assert rows[0, 2] == 200.0
        assert 0.5 < rows[0, 3] < 0.7
        assert np.isfinite(rows).all()


def test_nothing_is_written_into_the_study(study, outputs):
    assert not any(path.is_relative_to(outputs) for path in study.rglob("*"))
    names = {path.name for path in study.iterdir()}
    assert names <= {
        *("README", "code", "dataset_description.json", "derivatives", "participants.json", "participants.tsv"),
        *(f"sub-00{i}" for i in range(1, 5)),
        ".bidsignore",
    }
    assert [path.name for path in (study / "derivatives").iterdir()] == ["fmriprep"]


def test_the_same_call_finds_everything_done(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    before = read_tree(out)
    code, text = app(study, out)
    assert code == 0
    # The short run is judged anew, the others are complete.
    assert f"bids_semantoks: {N_OK} ok, 1 skipped, 0 failed" in text
    assert read_tree(out) == before


def test_group_gives_one_row_a_participant(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    assert app(study, out, level="group")[0] == 0
    lines = (out / "phenotype" / "Demo457RandomTiny.tsv").read_text().splitlines()
    header, rows = lines[0].split("\t"), [line.split("\t") for line in lines[1:]]
    assert header[:4] == ["participant_id", "n_runs", "n_windows", "dim0001"]
    assert [row[0] for row in rows] == [f"sub-00{i}" for i in range(1, 5)]
    assert [row[1] for row in rows] == ["1", "2", "2", "1"]
    vectors = [read_table(path)[1][:, 4:].mean(axis=0) for path in sorted((out / "sub-002").rglob("*_embedding.tsv"))]
    np.testing.assert_allclose([float(x) for x in rows[1][3:]], np.mean(vectors, axis=0), rtol=1e-6)
    assert len((out / "group_status.tsv").read_text().splitlines()) == N_RUNS + 1
    for path in out.rglob("*.tsv"):
        columns = path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t")
        meanings = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert "Description" in meanings or columns[0] in meanings, path.name


def test_group_embeds_stored_signals_to_the_same_bytes(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    assert app(study, out, "--signals-only")[0] == 0
    assert not list(out.rglob("*_embedding.tsv"))
    code, text = app(study, out, level="group")
    assert code == 0
    assert f"bids_semantoks: {N_OK} usable, 0 failed, 1 too short (see {out / 'group_qc.html'})" in text
    for path in outputs.rglob("*_embedding.*"):
        assert (out / path.relative_to(outputs)).read_bytes() == path.read_bytes(), path.name


def test_two_processes_write_what_one_writes(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    assert app(study, out, "--n-procs", "2")[0] == 0
    one, two = read_tree(outputs, suffixes=(".tsv",)), read_tree(out, suffixes=(".tsv",))
    assert one.keys() == two.keys()
    for name in one:
        if name.endswith("_embedding.tsv"):
            a, b = read_table(outputs / name)[1], read_table(out / name)[1]
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=0)
        else:
            assert one[name] == two[name], name


def test_another_model_is_written_beside(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    assert app(study, out, "--model", "random:tiny:1", "--participant-label", "001")[0] == 0
    names = {path.name.split("_desc-")[1] for path in (out / "sub-001").rglob("*_embedding.tsv")}
    assert names == {"RandomTiny_embedding.tsv", "RandomTinySeed1_embedding.tsv"}
    assert "desc-RandomTinySeed1\t" in (out / "descriptions.tsv").read_text()
    assert "desc-RandomTiny\t" in (out / "descriptions.tsv").read_text()


def test_other_settings_are_refused_and_overwrite_replaces(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    before = read_tree(out)
    code, text = app(study, out, "--denoise", "36p", "--participant-label", "sub-001")
    assert code == 4
    assert "1 of 1 runs were already processed with different settings" in text
    assert "denoising" in text
    code, text = app(study, out, "--n-windows", "3", "--participant-label", "001")
    assert code == 4
    assert "n_windows (on disk 8, now 3)" in text
    assert read_tree(out) == before
    assert app(study, out, "--denoise", "36p", "--participant-label", "001", "--overwrite")[0] == 0
    (table,) = (out / "sub-001").rglob("*_stat-mean_timeseries.tsv")
    assert table.read_bytes() != before[str(table.relative_to(out))]


def test_what_never_counts_does_not_count(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    code, text = app(study / "derivatives" / "fmriprep", out, "--batch-size", "3", "--device", "cpu", "-v")
    assert code == 0
    assert f"Keeping {N_OK} runs " in text


def test_a_changed_input_is_computed_again(own_study, tmp_path, app):
    out = tmp_path / "out"
    select = ("--participant-label", "001")
    assert app(own_study, out, *select)[0] == 0
    (table,) = out.rglob("*_stat-mean_timeseries.tsv")
    before = table.read_bytes()
    (confounds,) = (own_study / "derivatives" / "fmriprep" / "sub-001").rglob("*_timeseries.tsv")
    lines = confounds.read_text().splitlines()
    column = lines[0].split("\t").index("trans_x")
    cells = lines[5].split("\t")
    cells[column] = "3.0"
    confounds.write_text("\n".join([*lines[:5], "\t".join(cells), *lines[6:]]) + "\n")
    code, text = app(own_study, out, *select)
    assert code == 0
    assert "1 ok" in text
    assert table.read_bytes() != before


def test_dry_run_says_what_would_happen_and_writes_nothing(study, tmp_path, app):
    out = tmp_path / "out"
    code, text = app(study, out, "--dry-run", "--check")
    assert code == 0
    assert not out.exists()
    lines = [line for line in text.splitlines() if line.startswith("sub-")]
    assert len(lines) == N_RUNS
    assert sum(line.endswith(": extract signals and encode") for line in lines) == N_OK
    assert sum("skip, too_short" in line for line in lines) == 1
    assert f"dry run of {N_RUNS} runs: {N_OK} to make, 1 to skip" in text
    # Names and settings cannot tell how long a run is.
    code, text = app(study, out, "--dry-run")
    assert (code, out.exists()) == (0, False)
    assert f"dry run of {N_RUNS} runs: {N_RUNS} to make; nothing was written" in text


def test_raw_signals_and_tokens_are_extras(study, tmp_path, app):
    out = tmp_path / "out"
    select = ("--participant-label", "001")
    assert app(study, out, *select)[0] == 0
    # Asked for later, they are added to what is there.
    assert app(study, out, *select, "--save-raw-signals", "--save-tokens")[0] == 0
    (raw,) = out.rglob("*_stat-mean_desc-raw_timeseries.tsv")
    assert not np.isnan(read_table(raw)[1]).any()
    (tokens,) = out.rglob("*_tokens.npy")
    assert np.load(tokens).shape == (1, 1 + 9 * 5, 64)
    assert find_undocumented(out) == set()


def test_config_file_gives_the_same_bytes(study, outputs, tmp_path, app):
    (config,) = outputs.glob("logs/calls/*/config.json")
    out = tmp_path / "out"
    assert app(study, out, "--config-file", str(config))[0] == 0
    for name, content in read_tree(outputs, suffixes=(".tsv", ".npy")).items():
        assert (out / name).read_bytes() == content, name


# The third run is half done, its signals written and its embedding not, when the process says so and waits.
HOLD = """
import signal
from bids_semantoks import participant
from bids_semantoks.cli import main

embed, calls = participant.embed_run, []

def hold(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        print("held", flush=True)
        signal.pause()
    return embed(*arguments)

participant.embed_run = hold
# A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def start(study: Path, out: Path, *, holds: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, *(("-c", HOLD) if holds else ("-m", "bids_semantoks")), str(study), str(out)]
    command += ["participant", "--atlas", "Demo457", "--model", "random:tiny", "--n-procs", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, start_new_session=True)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGKILL, -9)]
)
def test_stopped_in_the_middle_and_started_again(study, outputs, tmp_path, app, number, code):
    out = tmp_path / "out"
    process = start(study, out, holds=True)
    assert process.stdout.readline() == "held\n"
    process.send_signal(number)
    text = process.communicate(timeout=60)[1]
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert "rerun to resume" in text.splitlines()[-1]
    for sidecar in out.rglob("*_stat-mean_timeseries.json"):
        assert sidecar.with_suffix(".tsv").is_file()
    assert app(study, out)[0] == 0
    for name, content in read_tree(outputs, suffixes=(".tsv",)).items():
        assert (out / name).read_bytes() == content, name


def test_two_calls_at_once_on_one_output(study, outputs, tmp_path):
    out = tmp_path / "out"
    processes = [start(study, out) for _ in range(2)]
    for process in processes:
        text = process.communicate(timeout=180)[1]
        assert process.returncode == 0, text
    assert read_tree(out, suffixes=(".tsv",)) == read_tree(outputs, suffixes=(".tsv",))
    assert not list(out.rglob("*.tmp"))


def test_threads_and_help_stay_light():
    code = "import sys; from bids_semantoks.cli import call; call(['--help']); print(sorted(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    modules = set(loaded.stdout.splitlines()[-1].replace("'", "").strip("[]").split(", "))
    assert not modules & {"torch", "nilearn", "sklearn", "bids", "matplotlib", "pandas", "numpy", "nibabel"}
    assert "--participant-label" in loaded.stdout


SELECT = ("--participant-label", "001")


def find_one(out: Path, ending: str) -> Path:
    (path,) = out.rglob(f"*{ending}")
    return path


@pytest.mark.parametrize(("preset", "is_kept"), [("compcor", False), ("simple", True)])
def test_changed_metadata_are_computed_again_where_they_choose_components(own_study, tmp_path, app, preset, is_kept):
    select = ("--participant-label", "001", "--signals-only", "--denoise", preset)
    assert app(own_study, tmp_path / "out", *select)[0] == 0
    (path,) = (own_study / "derivatives" / "fmriprep" / "sub-001").rglob("*desc-confounds_timeseries.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "dvars": {"Units": "percent"}}))
    code, text = app(own_study, tmp_path / "out", *select)
    assert code == 0
    assert ("Keeping 1 run " in text) == is_kept


@pytest.mark.parametrize("kind", ["link", "pointer"])
def test_what_was_done_stays_when_datalad_drops_the_inputs(own_study, tmp_path, app, kind):
    out = tmp_path / "out"
    assert app(own_study, out, *SELECT)[0] == 0
    before = read_tree(out / "sub-001")
    func = own_study / "derivatives" / "fmriprep" / "sub-001" / "func"
    for path in func.iterdir():
        path.unlink()
        if kind == "link":
            path.symlink_to("../../.git/annex/objects/xx/dropped")
        else:
            path.write_text("/annex/objects/MD5E-s123--0.tsv\n")
    if kind == "pointer":
        # Sidecars are kept in git itself.
        find_one(func, "preproc_bold.json").write_text('{"RepetitionTime": 2.0}')
    code, text = app(own_study, out, *SELECT)
    assert (code, "Keeping 1 run" in text) == (0, True)
    # What cannot be made otherwise now is not thrown away for that, either.
    code, text = app(own_study, out, *SELECT, "--no-band-pass", "--overwrite")
    assert (code, "1 run skipped (no_content)" in text) == (0, True)
    assert read_tree(out / "sub-001") == before


def test_a_changed_repetition_time_is_computed_again(own_study, tmp_path, app):
    out = tmp_path / "out"
    assert app(own_study, out, *SELECT)[0] == 0
    sidecar = find_one(own_study / "derivatives" / "fmriprep" / "sub-001", "preproc_bold.json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"RepetitionTime": 1.9}))
    code, text = app(own_study, out, *SELECT)
    assert code == 0
    assert "1 ok" in text
    assert json.loads(find_one(out, "stat-mean_timeseries.json").read_text())["RepetitionTime"] == 1.9


def test_what_a_broken_input_gave_before_does_not_pass_for_it(own_study, tmp_path, app):
    out = tmp_path / "out"
    both = ("--participant-label", "001", "003")
    assert app(own_study, out, *both)[0] == 0
    table = find_one(own_study / "derivatives" / "fmriprep" / "sub-001", "confounds_timeseries.tsv")
    table.write_text("\n".join(table.read_text().splitlines()[:-5]) + "\n")
    assert app(own_study, out, *both)[0] == 7
    assert app(own_study, out, level="group")[0] == 0
    rows = (out / "phenotype" / "Demo457RandomTiny.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ["sub-003"]


@pytest.mark.parametrize("ending", ["relmat.tsv", "coverage_bold.tsv", "stat-mean_timeseries.tsv", "embedding.tsv"])
def test_a_lost_or_damaged_table_is_made_again(study, outputs, tmp_path, app, ending):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    table = find_one(out / "sub-001", ending)
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    code, text = app(study, out, *SELECT)
    assert code == 0
    assert "1 ok" in text
    assert table.read_bytes() == whole


@pytest.mark.parametrize("ending", ["relmat.json", "coverage_bold.json"])
def test_a_lost_sidecar_is_made_again(study, outputs, tmp_path, app, ending):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    sidecar = find_one(out / "sub-001", ending)
    whole = sidecar.read_bytes()
    sidecar.unlink()
    assert app(study, out, *SELECT)[0] == 0
    assert sidecar.read_bytes() == whole


@pytest.mark.parametrize("limit", [("--fd-threshold", "0.001"), ("--min-time", "9999")], ids=["scrubbed", "too short"])
def test_a_run_that_is_skipped_now_has_no_tables_of_before(study, outputs, tmp_path, app, limit):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    assert app(study, out, level="group")[0] == 0
    features = out / "phenotype" / "Demo457RandomTiny.tsv"
    before = features.read_text().splitlines()
    code, text = app(study, out, *SELECT, *limit, "--overwrite")
    assert code == 0, text
    assert "too_few_kept" in text
    assert "1 participant whose embeddings " in text
    assert [path for path in (out / "sub-001").rglob("*") if path.is_file()] == []
    assert "too_few_kept" in (out / "sub-001.html").read_text()
    assert features.read_text().splitlines() == [line for line in before if not line.startswith("sub-001\t")]


def test_a_run_that_is_not_tried_has_no_tables_of_before(own_study, tmp_path, app):
    out, both = tmp_path / "out", ("--participant-label", "001", "003")
    assert app(own_study, out, *both)[0] == 0
    find_one(own_study / "derivatives" / "fmriprep" / "sub-001", "confounds_timeseries.tsv").write_text("")
    assert app(own_study, out, *both, "--denoise", "24p", "--overwrite", "--stop-on-first-crash")[0] == 7
    assert list(out.glob("sub-*/func/*")) == []
    # Nor does one vanish from what is recorded.
    assert [status["status"] for _, status in read_statuses(out)] == ["failed"] * 3


@pytest.mark.parametrize("stops", [False, True])
def test_an_embedding_that_fails_now_leaves_none_of_other_settings(study, outputs, tmp_path, app, stops):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    for path in (out / "sub-001").rglob("*_stat-mean_timeseries.tsv"):
        path.write_text("x\ny\n")
    more = ("--participant-label", "001", "003", "--n-windows", "3", "--overwrite")
    code, text = app(study, out, *more, *(["--stop-on-first-crash"] if stops else []), level="group")
    assert code == 7, text
    assert not list((out / "sub-001").rglob("*_embedding.*"))
    assert bool(list((out / "sub-003").rglob("*_embedding.tsv"))) != stops
    rows = (out / "phenotype" / "Demo457RandomTiny.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[0] for row in rows] == ([] if stops else ["sub-003"])


def test_extras_of_other_settings_do_not_stay(study, tmp_path, app):
    out = tmp_path / "out"
    assert app(study, out, *SELECT, "--save-tokens", "--save-raw-signals")[0] == 0
    assert app(study, out, *SELECT, "--denoise", "24p", "--overwrite")[0] == 0
    assert not list(out.rglob("*_tokens.npy"))
    assert not list(out.rglob("*_desc-raw_timeseries.*"))


def test_the_copied_atlas_reads_as_the_atlas(study, outputs, tmp_path, app):
    folder = outputs / "sourcedata" / "atlases" / "tpl-MNI152NLin2009cAsym"
    (image,) = folder.glob("*_dseg.nii.gz")
    assert app(study, tmp_path / "out", *SELECT, "--atlas", str(image))[0] == 0
    one, two = (find_one(out, "stat-mean_timeseries.tsv") for out in (outputs / "sub-001", tmp_path / "out"))
    assert one.read_bytes() == two.read_bytes()


def test_another_atlas_of_the_same_label_is_refused(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    source = outputs / "sourcedata" / "atlases" / "tpl-MNI152NLin2009cAsym"
    folder = tmp_path / "atlas"
    shutil.copytree(source, folder)
    (table,) = folder.glob("*_dseg.tsv")
    lines = table.read_text().splitlines()
    # Values and names change places: the same parcels by name, elsewhere in the brain.
    one, two = lines[1].split("\t"), lines[2].split("\t")
    lines[1:3] = ["\t".join([two[0], *one[1:]]), "\t".join([one[0], *two[1:]])]
    table.write_text("\n".join(lines) + "\n")
    (image,) = folder.glob("*_dseg.nii.gz")
    code, text = app(study, out, "--participant-label", "002", "--atlas", str(image))
    assert code == 4
    assert "Demo457" in text
    code, text = app(study, out, "--participant-label", "002", "--atlas", str(image), "--overwrite")
    assert code == 0
    code, text = app(study, out, level="group")
    assert code == 4
    assert "a different atlas with the label Demo457" in text


def test_a_run_without_the_chosen_space_is_accounted_for(own_study, tmp_path, app):
    out = tmp_path / "out"
    func = own_study / "derivatives" / "fmriprep" / "sub-001" / "func"
    for path in list(func.glob("*space-MNI152NLin2009cAsym*")):
        path.rename(func / path.name.replace("MNI152NLin2009cAsym", "MNI152NLin6Asym"))
    code, text = app(own_study, out, "--participant-label", "001", "003")
    assert code == 7
    assert "space_mismatch" in text
    assert len(read_statuses(out)) == 3
    code, text = app(own_study, tmp_path / "none", "--participant-label", "001", "003", "--dry-run")
    assert "fail, space_mismatch" in text


def test_a_limit_that_is_just_met_is_met_twice(study, outputs, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    sidecar = json.loads(find_one(out / "sub-001", "stat-mean_timeseries.json").read_text())
    kept = sidecar["VolumesKept"] * sidecar["RepetitionTime"]
    assert app(study, out, *SELECT, "--min-time", f"{kept:.6f}")[0] == 0
    code, text = app(study, out, *SELECT, "--min-time", f"{kept + 1:.6f}")
    assert code == 0
    assert "too_few_kept" in text


def test_links_to_all_sources_stay(study, outputs, own_study, tmp_path, app):
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    other = own_study / "derivatives" / "other"
    (own_study / "derivatives" / "fmriprep").rename(other)
    assert app(other, out, "--participant-label", "001")[0] == 0
    assert set(json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]) == {"fmriprep", "other"}
