"""Movement regressors without a header, and components of ICA-AROMA from a dataset of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Run
from bids_semantoks.signals.confounds import ConfoundsTable, build_cosines, load_movement, open_confounds
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.regressors import Regressors, select_regressors

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
    assert (named.n_rows, named.read_cells("rot_z")) == (T, bare.read_cells("rot_z"))


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
