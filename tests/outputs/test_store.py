"""Two runs never share an output name."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.files import read_table, write_json
from bids_semantoks.outputs import features, store
from bids_semantoks.outputs.sidecars import describe_differences
from bids_semantoks.records import Atlas, ParcelSignals, Run


def build_run(**entities: str) -> Run:
    return Run(
        entities=tuple(entities.items()),
        bold=Path("x_bold.nii.gz"),
        mask=None,
        confounds=None,
        repetition_time=2.0,
        pipeline="fMRIPrep 24.1.1",
        dataset=Path(),
    )


def test_every_source_entity_is_kept():
    run = build_run(
        sub="01", ses="pre", task="rest", acq="AP", dir="LR", run="2", echo="1", space="S", res="2", desc="preproc"
    )
    expected = "sub-01_ses-pre_task-rest_acq-AP_dir-LR_run-2_echo-1_space-S_atlas-A_res-2"
    assert store.build_stem(run, "A") == expected
    assert store.build_directory(Path("out"), dict(run.entities)) == Path("out/sub-01/ses-pre/func")


def test_runs_that_differ_in_one_entity_differ_in_name():
    base = {"sub": "01", "task": "rest", "space": "S"}
    variants = [base, {**base, "acq": "AP"}, {**base, "acq": "PA"}, {**base, "dir": "AP"}, {**base, "rec": "AP"}]
    stems = {store.build_stem(build_run(**entities), "A") for entities in variants}
    assert len(stems) == len(variants)


def test_density_takes_the_place_of_resolution():
    assert store.build_stem(build_run(sub="1", task="t", space="fsLR", den="91k"), "A") == (
        "sub-1_task-t_space-fsLR_atlas-A_den-91k"
    )


T, P, B, DIMS = 41, 13, 5, 7


@pytest.fixture
def atlas():
    parcels = tuple(f"p{i}" for i in range(P))
    return Atlas(name="A", space="S", parcels=parcels, networks=("Vis",) * P, volumes=(), sha256="0")


@pytest.fixture
def signals():
    values = np.random.default_rng(1).standard_normal((T, P)).astype(np.float32)
    raw = values + 100
    kept = np.ones(T, bool)
    kept[[0, 7]] = False
    values[~kept] = np.nan
    values[:, 3] = raw[:, 3] = np.nan
    return ParcelSignals(
        values=values,
        raw=raw,
        kept=kept,
        n_dummy=1,
        coverage=np.linspace(0, 1, P),
        n_voxels=np.arange(P),
        repetition_time=2.0,
        regressors=("csf",),
        framewise_displacement=np.full(T, 0.1),
        temporal_snr=np.where(np.arange(P) == 3, np.nan, 50.12345),
    )


SIDECAR = {
    "Settings": {"a": 1},
    "Inputs": {"bold": {"size": 5}},
    "AbsentParcels": ["p3"],
    "Description": "x",
    "Atlas": {"SHA256": "0a"},
    "Denoising": None,
    "MeanFramewiseDisplacement": None,
    "Pipeline": "x",
    "RepetitionTime": 2.0,
    "VolumesTotal": 9,
    "VolumesKept": 9,
    "VolumesDropped": {"Dummy": {"Count": 0}, "Scrubbed": {"Count": 0}},
}


def test_signals_round_trip(paths, atlas, signals):
    written = store.write_signals(paths, atlas, signals, SIDECAR, save_raw=True)
    parcels, values = store.read_signals(paths, store.read_sidecar(paths.signals_sidecar))
    assert parcels == atlas.parcels
    np.testing.assert_array_equal(values, signals.values)
    (stored,) = store.find_stored_runs(paths.out_dir, atlas="A", model="Tiny")
    assert stored.paths == paths
    assert stored.sidecar == written
    np.testing.assert_array_equal(stored.read_signals(), signals.values)
    padded = dataclasses.replace(stored, sidecar={**SIDECAR, "VolumesDropped": {"Padding": {"Count": 4}}})
    np.testing.assert_array_equal(padded.read_signals(), signals.values[:-4])
    assert stored.entities["space"] == "S"
    raw = read_table(paths.file("stat-mean_desc-raw_timeseries.tsv"))[1]
    np.testing.assert_array_equal(raw.astype(np.float32), signals.raw)
    coverage = paths.file("stat-coverage_bold.tsv").read_text().splitlines()
    assert coverage[1].split("\t") == ["p0", "0", "50.123", "0", "true"]
    assert coverage[4].split("\t") == ["p3", "0.25", "n/a", "3", "false"]
    assert list(store.find_stored_runs(paths.out_dir, atlas="B", model="Tiny")) == []
    assert store.find_stored_kinds(paths.out_dir) == [("A", "S")]


@pytest.mark.parametrize("changed", [{"Settings": {"a": 2}}, {"Inputs": {"bold": {"size": 6}}}])
def test_sidecar_does_not_outlive_its_table(paths, atlas, signals, monkeypatch, changed):
    store.write_signals(paths, atlas, signals, SIDECAR, save_raw=False)
    monkeypatch.setattr(store, "write_coverage", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        store.write_signals(paths, atlas, signals, SIDECAR | changed, save_raw=False)
    assert store.read_sidecar(paths.signals_sidecar) is None


@pytest.mark.parametrize("save_raw", [True, False])
def test_sidecar_of_the_same_signals_is_never_away(paths, atlas, signals, monkeypatch, save_raw):
    """Another process may be reading what it has just written."""
    store.write_signals(paths, atlas, signals, SIDECAR, save_raw=save_raw)
    before = {path: path.read_bytes() for path in paths.directory.iterdir()}
    monkeypatch.setattr(store, "write_coverage", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        store.write_signals(paths, atlas, signals, SIDECAR, save_raw=save_raw)
    assert {path: path.read_bytes() for path in paths.directory.iterdir()} == before
    assert paths.raw.is_file() == save_raw


def test_raw_signals_of_another_call_do_not_stay(paths, atlas, signals):
    store.write_signals(paths, atlas, signals, SIDECAR, save_raw=True)
    store.write_signals(paths, atlas, signals, SIDECAR | {"Settings": {"a": 2}}, save_raw=False)
    assert not paths.raw.exists()
    assert not paths.raw.with_suffix(".json").exists()


def test_a_run_whose_sidecar_is_damaged_is_left_out_with_a_word(paths, atlas, signals, caplog):
    store.write_signals(paths, atlas, signals, SIDECAR, save_raw=False)
    paths.signals_sidecar.write_text('{"Settings": ')
    assert list(store.find_stored_runs(paths.out_dir, atlas="B", model="Tiny")) == []
    assert not caplog.records
    assert list(store.find_stored_runs(paths.out_dir, atlas="A", model="Tiny")) == []
    assert f"{paths.signals_sidecar}" in caplog.text


EMBEDDING_SIDECAR = {"Settings": {"a": 1}, "SignalsSHA256": "0f"}


def test_what_another_process_has_just_written_is_never_away(paths, atlas, signals, monkeypatch):
    store.write_signals(paths, atlas, signals, SIDECAR, save_raw=False)
    there, remove, seen = set(paths.directory.iterdir()), store._remove, []

    def look(*found):
        remove(*found)
        seen.append(there - set(paths.directory.iterdir()))

    monkeypatch.setattr(store, "_remove", look)
    store.write_signals(paths, atlas, signals, SIDECAR, save_raw=False)
    assert seen
    assert not set.union(*seen)


@pytest.mark.parametrize("is_written", [True, False], ids=["signals complete", "signals half written"])
def test_nothing_of_an_earlier_call_outlives_other_signals(paths, atlas, signals, windows, embedding, is_written):
    def write(**changed):
        one = dataclasses.replace(paths, **changed)
        store.write_signals(one, atlas, signals, SIDECAR, save_raw=True)
        features.write_embedding(one, windows, embedding, EMBEDDING_SIDECAR)
        other = dataclasses.replace(one, model="Other")
        features.write_embedding(other, windows, embedding, EMBEDDING_SIDECAR, as_array=True)
        figure = one.out_dir / "sub-01" / "figures" / f"{one.stem}_desc-carpet_bold.svg"
        for path in (one.status, one.page_data, figure):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        return {path for path in one.out_dir.rglob(f"{one.stem}_*") if path.is_file()}

    write()
    neighbour = write(stem=f"{paths.stem}_res-2") | write(stem=f"{paths.stem}x")
    if not is_written:
        paths.signals_sidecar.unlink()
    store.remove_signals(paths, settings=SIDECAR["Settings"], inputs=SIDECAR["Inputs"])
    assert paths.raw.with_suffix(".json").is_file()
    assert paths.embedding.is_file() == is_written
    store.remove_signals(paths, settings={"a": 2}, inputs=SIDECAR["Inputs"])
    left = {path for path in paths.out_dir.rglob("*") if path.is_file()} - neighbour
    # Without its sidecar, another process may be writing the table.
    assert {path for path in left if path.suffix != ".svg" and path.parent.parent.name != "logs"} == (
        set() if is_written else {paths.signals}
    )
    assert bool(left) != is_written
    assert all(path.is_file() for path in neighbour)


def test_status_is_named_after_the_run_and_encoder(paths):
    write_json(paths.status, {"status": "ok"})
    assert paths.status == Path(paths.out_dir, "logs/sub-01/sub-01_task-rest_space-S_atlas-A_desc-Tiny_status.json")
    assert store.read_statuses(paths.out_dir) == [("sub-01_task-rest_space-S_atlas-A_desc-Tiny", {"status": "ok"})]


def test_differences_are_named_with_both_values():
    (difference,) = describe_differences({"band_pass": [0.01, 0.1], "x": 1}, {"band_pass": None, "x": 1})
    assert all(part in difference for part in ("band_pass", "[0.01, 0.1],"))
