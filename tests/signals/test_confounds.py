"""Movement regressors without a header, and components of ICA-AROMA from a dataset of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import filtfilt

from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Run
from bids_semantoks.signals.confounds import (
    ConfoundsTable,
    build_cosines,
    design_filter,
    filter_motion,
    load_movement,
    open_confounds,
    read_filtered,
)
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.regressors import Regressors, select_regressors, select_volumes

T = 83


COLUMNS = ("trans_x", "trans_y", "trans_z", "rot_x_deg", "rot_y_deg", "rot_z_deg", "", "")


MOTION = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


@pytest.fixture
def movement() -> np.ndarray[Any, Any]:
    return np.random.default_rng(8).normal(size=(T, len(COLUMNS)))


def write(folder: Path, values: np.ndarray[Any, Any]) -> Path:
    path = folder / "Movement_Regressors.txt"
    path.write_text("\n".join("  ".join(f"{value:.8f}" for value in row) for row in values) + "\n")
    return path


def make_run(path: Path, *tables: Path, columns: tuple[str, ...] = ()) -> Run:
    return Run(
        entities=(("sub", "1"),),
        bold=path.with_name("bold.nii.gz"),
        mask=None,
        confounds=path,
        repetition_time=2.0,
        pipeline="HCP",
        dataset=path.parent,
        columns=columns,
        tables=tables,
    )


def select(run: Run, preset: str, **changed: Any) -> Regressors:
    denoising = load_denoising(preset)
    asked = {name: changed.pop(name) for name in ("fd_threshold", "motion_filter") if name in changed}
    options = {"n_volumes": T, "repetition_time": 2.0} | changed
    table = open_confounds(run, denoising, repetition_time=2.0)
    return select_regressors(table, denoising, SignalsConfig(**asked), **options)


def test_24p_from_movement_alone(tmp_path: Path, movement: np.ndarray[Any, Any]) -> None:
    run = make_run(write(tmp_path, movement), columns=COLUMNS)
    found = select(run, "24p")
    # 83 volumes of 2 s: floor(2 * 166 / 128) = 2 functions, one of them constant.
    assert len(found.names) == 24 + 1
    assert found.names[-1] == "cosine00"
    moved = np.round(movement[:, :6], 8) * np.repeat([1, np.pi / 180], 3)
    for position, name in enumerate(MOTION):
        column = found.values[:, found.names.index(name)]
        np.testing.assert_allclose(column, moved[:, position], rtol=1e-12)
        step = found.values[:, found.names.index(f"{name}_derivative1")]
        np.testing.assert_allclose(step[1:], np.diff(moved[:, position]), rtol=1e-9)
        squares = found.values[:, found.names.index(f"{name}_derivative1_power2")]
        np.testing.assert_allclose(squares[1:], np.diff(moved[:, position]) ** 2, rtol=1e-9)
    steps = np.abs(np.diff(moved, axis=0))
    expected = steps[:, :3].sum(axis=1) + 50 * steps[:, 3:].sum(axis=1)
    assert np.isnan(found.framewise_displacement[0])
    np.testing.assert_allclose(found.framewise_displacement[1:], expected, rtol=1e-9)


def test_scrubbing_by_movement(tmp_path: Path, movement: np.ndarray[Any, Any]) -> None:
    run = make_run(write(tmp_path, movement), columns=COLUMNS)
    displacement = select(run, "none").framewise_displacement
    found = select(run, "none", fd_threshold=4.0)
    assert found.names == ()
    np.testing.assert_array_equal(found.kept, ~(displacement > 4.0))
    assert 0 < found.kept.sum() < T


@pytest.mark.parametrize("preset", ["simple", "36p", "compcor", "ica_aroma"])
def test_movement_bears_nothing_else(tmp_path: Path, movement: np.ndarray[Any, Any], preset: str) -> None:
    run = make_run(write(tmp_path, movement), columns=COLUMNS)
    with pytest.raises(
        RunFailed, match=rf"Movement_Regressors\.txt (lacks|has no) .*--denoise {preset}|compcor|CompCor"
    ):
        select(run, preset)
    if preset == "simple":
        with pytest.raises(RunFailed, match=r"white_matter,.*--denoise none or 24p"):
            select(run, preset)


def test_cosines_are_those_of_fmriprep(shared: Path) -> None:
    (path,) = (shared / "data" / "fmriprep_confounds" / "24.1.1").glob("sub-001*timeseries.tsv")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    cosines = build_cosines(len(lines) - 1, 3.0)
    assert list(cosines) == [name for name in lines[0] if name.startswith("cosine")]
    for name, values in cosines.items():
        column = [float(row[lines[0].index(name)]) for row in lines[1:]]
        np.testing.assert_allclose(values, column, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 3\n", "3 values in row 1,.*8"), ("", "is empty"), ("1 2 3 4 5 6 7 x\n", "has 'x' in row 1, column 8")],
)
def test_damaged_movement(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "Movement_Regressors.txt"
    path.write_text(text)
    with pytest.raises(RunFailed, match=message):
        load_movement(path, COLUMNS, repetition_time=2.0)


def test_a_header_of_movement_regressors_does_not_count(tmp_path: Path, movement: np.ndarray[Any, Any]) -> None:
    path = write(tmp_path, movement)
    bare = load_movement(path, COLUMNS, repetition_time=2.0)
    path.write_text("X\tY\tZ\tRotX\tRotY\tRotZ\tXDt\tYDt\n" + path.read_text())
    named = load_movement(path, COLUMNS, repetition_time=2.0)
    assert named.n_rows == T
    np.testing.assert_array_equal(named.read_column("rot_z"), bare.read_column("rot_z"))


def test_columns_that_the_layout_does_not_name(tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((4, 5)))
    with pytest.raises(RunFailed, match="rot_z"):
        load_movement(path, ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y"), repetition_time=2.0)


# --- ICA-AROMA ---


def write_table(path: Path, columns: dict[str, np.ndarray[Any, Any]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join(["\t".join(columns), *("\t".join(f"{x:.6f}" for x in row) for row in rows)]) + "\n")
    return path


@pytest.fixture
def fmriprep(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    names = ("csf", "white_matter", "cosine00", "framewise_displacement")
    return write_table(tmp_path / "desc-confounds_timeseries.tsv", {name: rng.normal(size=T) for name in names})


def test_components_come_beside_fmripreps_confounds(tmp_path: Path, fmriprep: Path) -> None:
    rng = np.random.default_rng(6)
    motion = {name: rng.normal(size=T) for name in ("aroma_motion_02", "aroma_motion_11")}
    orthogonal = {f"aroma_orth_motion_{number}": rng.normal(size=T) for number in ("02", "11")}
    aroma = write_table(tmp_path / "desc-aroma_timeseries.tsv", motion | orthogonal)
    for preset, columns in (("ica_aroma", orthogonal), ("ica_aroma_aggr", motion)):
        found = select(make_run(fmriprep, aroma), preset)
        assert found.names == ("csf", "white_matter", "cosine00", *columns)
        np.testing.assert_allclose(found.values[:, 4], list(columns.values())[1], atol=1e-6)
    # Other presets neither need them nor read them.
    aroma.write_text("damaged")
    assert open_confounds(make_run(fmriprep, aroma), load_denoising("simple"), repetition_time=2.0) == fmriprep


def test_components_by_their_classification(tmp_path: Path, fmriprep: Path) -> None:
    rng = np.random.default_rng(7)
    mixing = write_table(tmp_path / "desc-melodic_mixing.tsv", {f"melodic_{i}": rng.normal(size=T) for i in range(4)})
    metrics = tmp_path / "desc-aroma_metrics.tsv"
    metrics.write_text("edge_fract\tclassification\n0.1\taccepted\n0.9\trejected\n0.2\taccepted\n0.8\trejected\n")
    found = select(make_run(fmriprep, mixing, metrics), "ica_aroma_aggr")
    assert found.names[-2:] == ("aroma_motion_00", "aroma_motion_01")
    values = np.loadtxt(mixing, skiprows=1)
    np.testing.assert_array_equal(found.values[:, -2:], values[:, [1, 3]])
    # What noise shares with signal stays in the data.
    found = select(make_run(fmriprep, mixing, metrics), "ica_aroma")
    assert found.names[-2:] == ("aroma_orth_motion_00", "aroma_orth_motion_01")
    np.testing.assert_allclose(values[:, [0, 2]].T @ found.values[:, -2:], 0, atol=1e-9)
    both = np.column_stack([np.ones(T), values[:, [0, 2]], found.values[:, -2:]])
    assert np.linalg.matrix_rank(np.column_stack([both, values[:, [1, 3]]])) == 5
    metrics.write_text("classification\nrejected\n")
    with pytest.raises(RunFailed, match=r"has 1 components, but .*melodic_mixing\.tsv 4 columns"):
        select(make_run(fmriprep, mixing, metrics), "ica_aroma")


def test_components_that_do_not_fit(tmp_path: Path, fmriprep: Path) -> None:
    short = write_table(tmp_path / "short.tsv", {"aroma_motion_00": np.ones(T - 1)})
    with pytest.raises(RunFailed, match=rf"short\.tsv has {T - 1} rows, but .*confounds_timeseries\.tsv has {T}"):
        select(make_run(fmriprep, short), "ica_aroma")
    none = write_table(tmp_path / "none.tsv", {"x": np.ones(T)})
    with pytest.raises(RunFailed, match=r"none\.tsv has no aroma_orth_motion_\* column"):
        select(make_run(fmriprep, none), "ica_aroma")
    own = write_table(
        tmp_path / "own.tsv", {name: np.ones(T) for name in ("aroma_motion_00", "csf", "white_matter", "cosine00")}
    )
    with pytest.raises(RunFailed, match=r"own\.tsv has aroma_motion_\*"):
        select(make_run(own, own), "ica_aroma")
    with pytest.raises(RunFailed, match=r"lacks aroma_orth_motion_\* columns, .*-d fmriprep=PATH -d aroma=PATH"):
        select(make_run(fmriprep), "ica_aroma")
    with pytest.raises(RunFailed, match=r"lacks aroma_orth_motion_\* columns.*--denoise ica_aroma_aggr"):
        select(make_run(own), "ica_aroma")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-8", "\tcsf\trot_x\n0\tn/a\t1\n1\t2\t3\n"),
        ("utf-8-sig", "csf\trot_x\t\r\nNaN\t1\t\r\n2\t3\t\r\n"),
        ("utf-16", '"csf"\t"rot_x"\n"1"\tNA\t1\n"2"\t2\t3\n'),
        ("ascii", "csf\trot_x\r#N/A\t1\r2\t3\r"),
    ],
)
def test_confounds_that_other_programs_saved_again(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "desc-confounds_timeseries.tsv"
    path.write_bytes(text.encode(encoding))
    table = ConfoundsTable(path)
    assert table.names == ("csf", "rot_x")
    np.testing.assert_array_equal(table.read_column("csf"), [np.nan, 2])
    np.testing.assert_array_equal(table.read_column("rot_x"), [1, 3])


N_VOLUMES, N_DUMMY = 157, 4
NAMES = [f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"]


@pytest.fixture
def parameters() -> np.ndarray:
    """Slow drifts (T, 6) in mm and radians; the dummy volumes are far away."""
    steps = np.random.default_rng(11).standard_normal((N_VOLUMES, 6)) * [0.1, 0.07, 0.2, 0.002, 0.003, 0.001]
    walk = np.cumsum(steps, axis=0)
    walk[:N_DUMMY, :3] += 7
    return walk


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> Path:
    cells = [["n/a" if np.isnan(x) else repr(float(x)) for x in column] for column in columns.values()]
    path.write_text("\n".join("\t".join(row) for row in [list(columns), *zip(*cells, strict=True)]) + "\n")
    return path


def compute_power(parameters: np.ndarray) -> np.ndarray:
    rows = [np.nan]
    for now, before in zip(parameters[1:], parameters[:-1], strict=True):
        rows.append(sum(abs(now[i] - before[i]) * (1 if i < 3 else 50) for i in range(6)))
    return np.array(rows)


def write_confounds(folder: Path, parameters: np.ndarray, **more: np.ndarray) -> Path:
    marks = {
        f"non_steady_state_outlier{n:02d}": (np.arange(len(parameters)) == n).astype(float) for n in range(N_DUMMY)
    }
    columns = dict(zip(NAMES, parameters.T, strict=True)) | {"framewise_displacement": compute_power(parameters)}
    return write_columns(folder / "sub-01_desc-confounds_timeseries.tsv", columns | marks | more)


def apply(folder: Path, parameters: np.ndarray, text: str, repetition_time: float, n_dummy: int = 0) -> np.ndarray:
    table = ConfoundsTable(write_confounds(folder, parameters))
    return filter_motion(table, text, n_dummy=n_dummy, repetition_time=repetition_time, notes=[]).values


def write_out_low_pass(edge: float, repetition_time: float) -> tuple[list[float], list[float]]:
    """Butterworth of order 2 by the bilinear transform."""
    k = np.tan(np.pi * edge * repetition_time)
    scale = 1 + np.sqrt(2) * k + k**2
    b = k**2 / scale
    return [b, 2 * b, b], [1.0, 2 * (k**2 - 1) / scale, (1 - np.sqrt(2) * k + k**2) / scale]


def write_out_notch(centre: float, width: float, repetition_time: float) -> tuple[list[float], list[float]]:
    """Zeros on the unit circle, 3 dB width by the bilinear transform."""
    gain = 1 / (1 + np.tan(np.pi * width * repetition_time))
    turn = 2 * np.cos(2 * np.pi * centre * repetition_time)
    return [gain, -gain * turn, gain], [1.0, -gain * turn, 2 * gain - 1]


@pytest.mark.parametrize(
    ("text", "repetition_time", "coefficients"),
    [
        ("lp:0.1", 2.0, write_out_low_pass(0.1, 2.0)),
        ("lp:.2", 0.8, write_out_low_pass(0.2, 0.8)),
        ("notch:12-18", 0.8, write_out_notch(0.25, 0.1, 0.8)),
        # Above 0.2 Hz: 14 and 18 breaths are seen at 1/6 and 0.1 Hz.
        ("notch:14-18", 2.5, write_out_notch((0.1 + 1 / 6) / 2, 1 / 6 - 0.1, 2.5)),
        # Only the upper edge, 0.3 Hz, is above 0.25: seen at 0.2 Hz.
        ("notch:9-18", 2.0, write_out_notch(0.175, 0.05, 2.0)),
        # Above the sampling rate itself: 0.6 and 0.65 Hz, at 2 s, are seen at 0.1 and 0.15 Hz.
        ("notch:36-39", 2.0, write_out_notch(0.125, 0.05, 2.0)),
    ],
)
def test_displacement_is_that_of_parameters_filtered_after_dummies(
    tmp_path: Path, parameters: np.ndarray, text: str, repetition_time: float, coefficients: tuple
) -> None:
    steady = parameters[N_DUMMY:]
    smooth = filtfilt(*coefficients, steady, axis=0, padtype="constant", padlen=len(steady) - 1)
    found = apply(tmp_path, parameters, text, repetition_time, N_DUMMY)
    assert np.isnan(found[: N_DUMMY + 1]).all()
    np.testing.assert_allclose(found[N_DUMMY + 1 :], compute_power(smooth)[1:], rtol=1e-7)


def test_breathing_goes_and_slow_motion_stays(tmp_path: Path) -> None:
    seconds = np.arange(600) * 0.8

    def amount(text: str | None, frequency: float) -> float:
        wave = np.zeros((600, 6))
        wave[:, 1] = wave[:, 3] = np.sin(2 * np.pi * frequency * seconds)
        values = compute_power(wave) if text is None else apply(tmp_path, wave, text, 0.8)
        return float(values[100:500].mean())

    for text, out, kept in (("lp:0.1", 0.35, 0.01), ("notch:12-18", 0.25, 0.05)):
        assert amount(text, out) < 0.02 * amount(None, out), text
        assert amount(text, kept) == pytest.approx(amount(None, kept), rel=0.02)
    # About half of the amplitude is left at the edges, as each direction takes 3 dB.
    for edge in (0.2, 0.3):
        assert amount("notch:12-18", edge) == pytest.approx(0.5 * amount(None, edge), rel=0.06)


@pytest.mark.parametrize(
    ("text", "repetition_time", "said"),
    [
        ("lp:0.25", 2.0, "0.25 Hz; --motion-filter lp:0.25 would remove nothing"),
        ("lp:6", 0.8, "lp:6 would remove nothing"),
        ("notch:12-18", 2.0, "both edges map to 0.2 Hz"),
    ],
)
def test_what_a_repetition_time_does_not_allow_is_refused(text: str, repetition_time: float, said: str) -> None:
    with pytest.raises(RunFailed, match=re.escape(said)) as caught:
        design_filter(text, repetition_time)
    assert caught.value.reason == "bad_confounds"
    if text == "lp:6":
        assert "lp:0.1" in caught.value.hint


def test_a_folded_band_is_named() -> None:
    assert "0.1 to 0.167 Hz" in design_filter("notch:14-18", 2.5)[2]
    assert [design_filter(*one)[2] for one in (("notch:12-18", 0.8), ("lp:0.1", 2.0))] == ["", ""]


def select_filtered(path: Path | None, preset: str = "none", **asked: object) -> Regressors:
    config = SignalsConfig(**asked)  # type: ignore[arg-type]
    return select_regressors(path, load_denoising(preset), config, n_volumes=N_VOLUMES, repetition_time=2.0)


def test_it_scrubs_and_leaves_regressors_alone(tmp_path: Path, parameters: np.ndarray) -> None:
    path = write_confounds(tmp_path, parameters)
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"columns": NAMES}))
    plain = select_filtered(path, str(own), fd_threshold=0.5)
    chosen = select_filtered(path, str(own), fd_threshold=0.5, motion_filter="lp:0.1")
    smooth = apply(tmp_path, parameters, "lp:0.1", 2.0, N_DUMMY)
    np.testing.assert_array_equal(chosen.kept, (np.arange(N_VOLUMES) >= N_DUMMY) & ~(smooth > 0.5))
    assert N_DUMMY < (~chosen.kept).sum() < (~plain.kept).sum()
    np.testing.assert_array_equal(chosen.values, parameters)
    np.testing.assert_array_equal(chosen.framewise_displacement, plain.framewise_displacement)
    assert chosen.filtered_motion is not None
    assert "--motion-filter lp:0.1" in chosen.filtered_motion.source
    assert chosen.warnings == ()
    assert plain.filtered_motion is None
    # Dummy volumes are those of this call.
    given = select_filtered(path, motion_filter="lp:0.1", dummy_scans="9").filtered_motion
    assert given is not None
    assert np.flatnonzero(~np.isnan(given.values))[0] == 10


def test_missing_parameters_are_refused(tmp_path: Path, parameters: np.ndarray) -> None:
    path = write_columns(
        tmp_path / "few.tsv", {"trans_x": parameters[:, 0], "framewise_displacement": parameters[:, 1]}
    )
    with pytest.raises(RunFailed, match=r"trans_y,.*--motion-filter lp:0.1"):
        select_filtered(path, motion_filter="lp:0.1")
    with pytest.raises(RunFailed, match="--motion-filter") as caught:
        select_filtered(None, motion_filter="lp:0.1")
    assert "none without --motion-filter to" in caught.value.hint
    parameters[40, 4] = np.nan
    with pytest.raises(RunFailed, match="n/a in row 41 of column rot_y"):
        select_filtered(write_confounds(tmp_path, parameters), motion_filter="lp:0.1")


def test_it_needs_no_displacement_as_measured(tmp_path: Path, parameters: np.ndarray) -> None:
    path = write_columns(tmp_path / "bare.tsv", dict(zip(NAMES, parameters.T, strict=True)))
    assert not select_filtered(path, motion_filter="lp:0.1", fd_threshold=0.5).kept.all()


def build_run(folder: Path, *tables: Path) -> Run:
    entities = (("sub", "01"), ("task", "rest"))
    return Run(
        **{"entities": entities, "bold": folder / "bold.nii.gz", "mask": None, "confounds": None},
        **{"repetition_time": 2.0, "pipeline": "xcp_d 0.10.6", "dataset": folder, "tables": tables},
    )


def test_what_a_pipeline_filtered_is_read_and_scrubs_nothing(tmp_path: Path, parameters: np.ndarray) -> None:
    measured, filtered = np.linspace(0, 1, N_VOLUMES), np.linspace(0, 0.5, N_VOLUMES)
    columns = dict(zip(NAMES, parameters.T, strict=True)) | {"framewise_displacement": measured}
    name = "sub-01_task-rest"
    both = write_columns(tmp_path / f"{name}_motion.tsv", columns | {"framewise_displacement_filtered": filtered})
    config = SignalsConfig(fd_threshold=0.4)
    one = select_volumes(build_run(tmp_path, both), config, n_volumes=N_VOLUMES, repetition_time=2.0)
    plain = write_columns(tmp_path / f"{name}_run-1_motion.tsv", columns)
    own = write_columns(tmp_path / f"{name}_run-1_desc-filtered_motion.tsv", {"framewise_displacement": filtered})
    two = select_volumes(build_run(tmp_path, plain, own), config, n_volumes=N_VOLUMES, repetition_time=2.0)
    for found, source in ((one, "framewise_displacement_filtered in "), (two, f"framewise_displacement in {own.name}")):
        assert found.filtered_motion is not None
        assert found.filtered_motion.source.startswith(source)
        np.testing.assert_array_equal(found.filtered_motion.values, filtered)
        np.testing.assert_array_equal(found.framewise_displacement, measured)
        np.testing.assert_array_equal(found.kept, measured <= 0.4)
    config = SignalsConfig(fd_threshold=0.4, motion_filter="lp:0.1")
    ours = select_volumes(build_run(tmp_path, both), config, n_volumes=N_VOLUMES, repetition_time=2.0)
    smooth = apply(tmp_path, parameters, "lp:0.1", 2.0)
    np.testing.assert_array_equal(ours.kept, ~(smooth > 0.4))
    assert ours.filtered_motion is not None
    np.testing.assert_allclose(ours.filtered_motion.values, smooth)
    with pytest.raises(RunFailed, match="filtered"):
        select_volumes(build_run(tmp_path, own), config, n_volumes=N_VOLUMES, repetition_time=2.0)
    with pytest.raises(RunFailed, match=r"No motion table.*--motion-filter"):
        select_volumes(
            build_run(tmp_path), SignalsConfig(motion_filter="lp:0.1"), n_volumes=N_VOLUMES, repetition_time=2.0
        )
    motion, notes = read_filtered([plain, own], N_VOLUMES + 1)
    assert motion is None
    assert f"{own.name} has {N_VOLUMES} rows for {N_VOLUMES + 1} volumes" in notes[0]


def test_sidecar_and_page_have_both(study, tmp_path, app):
    sidecars = {}
    for name, more in {"plain": (), "filtered": ("--motion-filter", "lp:0.1", "--fd-threshold", "0.1")}.items():
        call = ("--signals-only", "--participant-label", "001", "--min-time", "20", "--no-band-pass")
        code, text = app(study, tmp_path / name, *call, *more)
        assert code == 0, text
        sidecars[name] = json.loads(sorted((tmp_path / name).rglob("*_stat-mean_timeseries.json"))[0].read_text())
    plain, filtered = sidecars["plain"], sidecars["filtered"]
    assert not any("ilter" in key for key in (*plain, *plain["Settings"]) if "motion" in key.lower())
    assert "MeanFilteredFramewiseDisplacement" not in plain
    assert filtered["MeanFramewiseDisplacement"] == plain["MeanFramewiseDisplacement"]
    assert 0 < filtered["MeanFilteredFramewiseDisplacement"] < filtered["MeanFramewiseDisplacement"]
    assert filtered["Settings"]["motion_filter"] == ["lp", 0.1]
    assert filtered["VolumesDropped"]["Scrubbed"]["FramewiseDisplacement"] == "filtered"
    page = (tmp_path / "filtered" / "sub-001.html").read_text()
    assert "mean filtered FD" in page
    assert "filtered FD above 0.1 mm" in page
