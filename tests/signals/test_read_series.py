"""Series that came parcellated are used as they are, whatever program wrote their tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_semantoks.atlases.label_tables import locate_columns
from bids_semantoks.atlases.registry import find_registry
from bids_semantoks.atlases.series_atlas import load_series_atlas
from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped
from bids_semantoks.records import Atlas, ParcelSignals, Run
from bids_semantoks.signals.read_series import load_parcel_series, read_columns, read_header, read_series

T = 41


NAMES = ("LH_Vis_1", "LH_SomMot_1", "RH_Default_2", "LH-Pu", "RH_Cont_1")


def write(path: Path, values: np.ndarray[Any, Any], names: tuple[str, ...] = NAMES, unit: str = "SECOND") -> Path:
    model = nib.cifti2.BrainModelAxis.from_surface(np.arange(len(names)), 32492, name="CortexLeft")
    parcels = nib.cifti2.ParcelsAxis.from_brain_models([(name, model[i : i + 1]) for i, name in enumerate(names)])
    series = nib.cifti2.SeriesAxis(0, 0.8, len(values), unit=unit)
    nib.Cifti2Image(values.astype(np.float32), header=(series, parcels)).to_filename(path)
    return path


@pytest.fixture
def values() -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).normal(size=(T, len(NAMES))).astype(np.float32)


def read(path: Path) -> Any:
    run = Run(
        entities=(("sub", "01"), ("task", "rest")),
        bold=path,
        mask=None,
        confounds=None,
        repetition_time=None,
        pipeline="xcp_d 0.10.6",
        dataset=path.parent,
    )
    atlas = load_series_atlas("4S", read_header(path), space="fsLR", asked="", tables=[], directory=None)
    return read_series(run, atlas, min_time=0), atlas


def test_series_as_they_are(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    path = write(tmp_path / "a.ptseries.nii", values)
    columns, found = read_columns(path)
    assert columns == NAMES
    np.testing.assert_array_equal(found, values)
    signals, atlas = read(path)
    np.testing.assert_array_equal(signals.values, values)
    assert signals.repetition_time == pytest.approx(0.8)
    assert atlas.networks == ("Vis", "SomMot", "Default", "", "Cont")


def test_parcels_without_data_are_absent(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    values[:, 1] = 0
    signals, _ = read(write(tmp_path / "a.ptseries.nii", values))
    assert signals.present.tolist() == [True, False, True, True, True]


def test_what_is_no_series_of_parcels(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    dense = nib.cifti2.BrainModelAxis.from_surface(np.arange(7), 32492, name="CortexLeft")
    path = tmp_path / "b.ptseries.nii"
    nib.Cifti2Image(np.zeros((3, 7)), header=(nib.cifti2.SeriesAxis(0, 1, 3), dense)).to_filename(path)
    with pytest.raises(RunFailed, match="SeriesAxis, BrainModelAxis;") as caught:
        load_parcel_series(path)
    assert caught.value.reason == "bad_image"
    path.write_bytes(b"not CIFTI" * 99)
    with pytest.raises(RunFailed, match=r"b\.ptseries\.nii cannot be read as CIFTI"):
        read_header(path)
    path.unlink()
    path.symlink_to("../.git/annex/objects/x")
    with pytest.raises(RunSkipped, match="datalad get"):
        read_header(path)


def test_a_series_not_in_time_has_no_repetition_time(tmp_path: Path, values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(RunFailed, match=r"a\.ptseries\.nii.*RepetitionTime"):
        read(write(tmp_path / "a.ptseries.nii", values, unit="HERTZ"))


T, P = 41, 13


PARCELS = tuple(f"7Networks_LH_{'Vis' if i < 6 else 'Cont'}_{i + 1}" for i in range(P))


NETWORKS = tuple("Vis" if i < 6 else "Cont" for i in range(P))


ATLAS = Atlas(name="A", space="MNI152NLin6Asym", parcels=PARCELS, networks=NETWORKS, volumes=(), sha256="0")


@pytest.fixture
def values_parcellated_signals() -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).standard_normal((T, P))


def write_parcellated_signals(
    folder: Path,
    values_parcellated_signals: np.ndarray[Any, Any],
    columns: tuple[str, ...] = PARCELS,
    missing: str = "n/a",
) -> Path:
    rows = ["\t".join(missing if np.isnan(x) else f"{x:.9g}" for x in row) for row in values_parcellated_signals]
    path = folder / "sub-01_task-rest_atlas-A_stat-mean_timeseries.tsv"
    path.write_text("\n".join(["\t".join(columns), *rows]) + "\n")
    return path


def read_parcellated_signals(path: Path, *, atlas: Atlas = ATLAS, min_time: float = 0.0, **files: Any) -> ParcelSignals:
    run = Run(
        entities=(("sub", "01"), ("task", "rest")),
        bold=path,
        mask=files.get("coverage"),
        confounds=files.get("outliers"),
        repetition_time=files.get("repetition_time", 2.5),
        pipeline="xcp_d 0.10.6",
        dataset=path.parent,
        tables=files.get("tables", ()),
    )
    return read_series(run, atlas, min_time=min_time)


def test_values_are_taken_as_they_are(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    signals = read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals))
    expected = (
        np.array([float(f"{x:.9g}") for x in values_parcellated_signals.ravel()]).reshape(T, P).astype(np.float32)
    )
    np.testing.assert_array_equal(signals.values, expected)
    np.testing.assert_array_equal(signals.raw, signals.values)
    assert signals.kept.all()
    assert signals.present.all()
    assert (signals.n_dummy, signals.repetition_time, signals.regressors, signals.warnings) == (0, 2.5, (), ())
    assert signals.coverage.tolist() == [1.0] * P
    assert signals.n_voxels.tolist() == [-1] * P
    assert np.isnan(signals.framewise_displacement).all()


def test_filtered_motion_is_read_beside_the_measured(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    series = write_parcellated_signals(tmp_path, values_parcellated_signals)
    motion, own = (tmp_path / f"sub-01_task-rest{desc}_motion.tsv" for desc in ("", "_desc-filtered"))
    motion.write_text("\n".join(["framewise_displacement", "n/a", *["0.5"] * (T - 1)]) + "\n")
    own.write_text("\n".join(["framewise_displacement", "n/a", *["0.25"] * (T - 1)]) + "\n")
    signals = read_parcellated_signals(series, tables=(motion, own))
    assert signals.filtered_motion is not None
    assert signals.filtered_motion.source == f"framewise_displacement in {own.name}"
    assert (np.nanmean(signals.framewise_displacement), np.nanmean(signals.filtered_motion.values)) == (0.5, 0.25)
    assert read_parcellated_signals(series, tables=(motion,)).filtered_motion is None
    own.write_text("framewise_displacement\n0.25\n")
    signals = read_parcellated_signals(series, tables=(motion, own))
    assert signals.filtered_motion is None
    assert f"{own.name} has 1 rows for {T}" in str(signals.warnings)


def test_columns_are_put_in_the_order_of_the_atlas(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    order = np.random.default_rng(6).permutation(P)[:11]
    columns = tuple(PARCELS[i].removeprefix("7Networks_") for i in order)
    signals = read_parcellated_signals(
        write_parcellated_signals(tmp_path, values_parcellated_signals[:, order], columns)
    )
    absent = sorted(set(range(P)) - set(order.tolist()))
    np.testing.assert_allclose(signals.values[:, order], values_parcellated_signals[:, order], rtol=1e-6)
    assert np.flatnonzero(~signals.present).tolist() == absent
    assert np.isnan(signals.values[:, absent]).all()
    assert np.flatnonzero(signals.coverage == 0).tolist() == absent
    assert all(
        part in str(signals.warnings) for part in (f"{PARCELS[absent[0]]}, {PARCELS[absent[1]]}.", "2 of 13 parcels")
    )


@pytest.mark.parametrize("missing", ["n/a", "", "nan"])
def test_gaps_are_dropped_volumes_and_absent_parcels(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any], missing: str
) -> None:
    values_parcellated_signals[[0, 17, 40]] = np.nan
    values_parcellated_signals[:, 4] = np.nan
    # Parcel 9 has a value of its own in a dropped volume, and misses one in a kept volume.
    values_parcellated_signals[17, 9], values_parcellated_signals[20, 9] = 0.5, np.nan
    signals = read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals, missing=missing))
    assert np.flatnonzero(~signals.kept).tolist() == [0, 17, 40]
    assert np.flatnonzero(~signals.present).tolist() == [4, 9]
    expected = values_parcellated_signals.astype(np.float32)
    expected[:, [4, 9]] = np.nan
    np.testing.assert_allclose(signals.values, expected, rtol=1e-6)
    assert signals.coverage[[4, 9]].tolist() == [0.0, 0.0]
    assert any(one.startswith("1 of 13 parcels are n/a") for one in signals.warnings)


def test_whole_numbers_and_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    rows = [[str(t), *(str((t + p) % 7) if (t, p) != (3, 2) else "" for p in range(P))] for t in range(T)]
    path.write_text("\n".join("\t".join(row) for row in [["", *PARCELS], *rows]))
    signals = read_parcellated_signals(path)
    assert signals.values.shape == (T, P)
    assert np.flatnonzero(~signals.present).tolist() == [2]
    assert signals.values[5, 3] == (5 + 3) % 7


def test_windows_line_ends_and_byte_order_mark(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    expected = read_parcellated_signals(path).values
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_header(path) == PARCELS
    np.testing.assert_array_equal(read_parcellated_signals(path).values, expected)


def test_censored_volumes_are_put_back(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    outliers = tmp_path / "sub-01_task-rest_outliers.tsv"
    bad = np.zeros(T + 6, dtype=int)
    bad[[0, 8, 9, 21, 30, 46]] = 1
    outliers.write_text("framewise_displacement\n" + "\n".join(map(str, bad)) + "\n")
    signals = read_parcellated_signals(
        write_parcellated_signals(tmp_path, values_parcellated_signals), outliers=outliers
    )
    assert np.flatnonzero(~signals.kept).tolist() == [0, 8, 9, 21, 30, 46]
    np.testing.assert_allclose(signals.values[signals.kept], values_parcellated_signals, rtol=1e-6)
    assert all(part in str(signals.warnings) for part in ("6 censored", "xcp_d 0.10.6 and", "n/a."))


def test_censored_volumes_that_were_interpolated_are_dropped(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    path, outliers = write_parcellated_signals(tmp_path, values_parcellated_signals), tmp_path / "outliers.tsv"
    bad = np.isin(np.arange(T), [0, 1, 20, 40]).astype(int)
    # What exact_30 leaves out is good all the same.
    rows = [f"{int(t % 2)}\t{flag}" for t, flag in enumerate(bad)]
    outliers.write_text("\n".join(["exact_30\tframewise_displacement", *rows]) + "\n")
    signals = read_parcellated_signals(path, outliers=outliers, min_time=37 * 2.5)
    assert np.flatnonzero(~signals.kept).tolist() == [0, 1, 20, 40]
    assert np.isnan(signals.values[[0, 1, 20, 40]]).all()
    np.testing.assert_allclose(signals.values[signals.kept], values_parcellated_signals[bad == 0], rtol=1e-6)
    assert (signals.n_dummy, signals.n_padding) == (0, 0)
    assert all(part in str(signals.warnings) for part in ("4 volumes", "xcp_d 0.10.6", "n/a."))
    with pytest.raises(RunSkipped, match="37 of 41 volumes are kept") as skipped:
        read_parcellated_signals(path, outliers=outliers, min_time=38 * 2.5)
    assert skipped.value.reason == "too_few_kept"
    outliers.write_text("framewise_displacement\n" + "0\n" * T)
    assert read_parcellated_signals(path, outliers=outliers).warnings == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("framewise_displacement\n" + "1\n0\n" * 30, "30 of 60 volumes,.*has 41"),
        ("framewise_displacement\n" + "0\n" * 40, "40 of 40 volumes,.*has 41"),
        ("exact_30\n" + "0\n" * T, "has no column framewise_displacement"),
    ],
)
def test_outliers_of_another_length_fail(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any], content: str, message: str
) -> None:
    outliers = tmp_path / "outliers.tsv"
    outliers.write_text(content)
    with pytest.raises(RunFailed, match=message) as failed:
        read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals), outliers=outliers)
    assert failed.value.reason == "bad_confounds"


@pytest.mark.parametrize(
    ("fill", "first"), [(0.0, 33), (-1.0, 33), (None, 33)], ids=["zeros", "another number", "the last volume"]
)
def test_padding_at_the_end_is_dropped(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any], fill: float | None, first: int
) -> None:
    values_parcellated_signals[first:] = values_parcellated_signals[first - 1] if fill is None else fill
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    signals = read_parcellated_signals(path, min_time=33 * 2.5)
    assert np.flatnonzero(~signals.kept).tolist() == list(range(first, T))
    assert np.isnan(signals.values[first:]).all()
    assert signals.n_padding == T - first
    assert signals.present.all()
    assert all(part in str(signals.warnings) for part in ("8 volumes", "n/a."))
    with pytest.raises(RunSkipped, match="33 of 41 volumes are kept"):
        read_parcellated_signals(path, min_time=34 * 2.5)


def test_what_does_not_vary_is_no_signal(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    values_parcellated_signals[11] = 0
    values_parcellated_signals[:, [2, 5]] = 0, 7.5
    signals = read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals))
    assert np.flatnonzero(~signals.kept).tolist() == [11]
    assert np.flatnonzero(~signals.present).tolist() == [2, 5]
    first, second = signals.warnings
    assert all(part in first for part in ("1 volumes are 0 in all parcels", ": 11 "))
    assert all(part in second for part in ("2 of 13 parcels", f": {PARCELS[2]}, {PARCELS[5]}."))
    for number in (0.0, 7.5):
        values_parcellated_signals[:] = number
        with pytest.raises(RunFailed, match="no parcel that varies over its 41 kept volumes") as failed:
            read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals))
        assert failed.value.reason == "bad_image"


def test_a_table_without_header_is_in_the_order_of_the_atlas(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    named = read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals)).values
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    path.write_text(path.read_text().partition("\n")[2])
    assert read_header(path) == tuple(map(str, range(1, P + 1)))
    signals = read_parcellated_signals(path)
    np.testing.assert_array_equal(signals.values, named)
    assert f"{path.name}" in str(signals.warnings)
    path.write_text("\n".join(line.partition("\t")[2] for line in path.read_text().splitlines()))
    with pytest.raises(RunFailed, match=r"12 .* 13 "):
        read_parcellated_signals(path)


@pytest.mark.parametrize(
    ("line", "has_names"),
    [
        (b"0\t1\t2", True),
        (b"1\t2\t5\t9", True),
        (b"812\t799\t805", False),
        (b"3\t3\t3", False),
        (b"-0.5\t1e-3\t2", False),
        (b"n/a\tn/a\t0.25\r", False),
        (b"\ta\tb", True),
        (b"LH_Vis_1\tLH_Vis_2", True),
        (b"\t1\t2", True),
    ],
)
def test_numbers_that_are_names(tmp_path: Path, line: bytes, has_names: bool) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(line + b"\n" + line.replace(b"a", b"7") + b"\n")
    columns = line.strip(b"\r").decode().split("\t")
    expected = [name for name in columns if name] if has_names else [str(i + 1) for i in range(len(columns))]
    assert list(read_header(path)) == expected


@pytest.mark.parametrize("column", ["label", "Node"])
def test_coverage_is_the_datasets_own(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any], column: str
) -> None:
    coverage = tmp_path / "coverage.tsv"
    rows = [f"{name.removeprefix('7Networks_')}\t{0.04 * i}\t{10 * i}" for i, name in enumerate(PARCELS) if i != 5]
    coverage.write_text("\n".join([f"{column}\tcoverage\tn_voxels", *rows, f"{PARCELS[5]}\tn/a\tn/a"]) + "\n")
    signals = read_parcellated_signals(
        write_parcellated_signals(tmp_path, values_parcellated_signals), coverage=coverage
    )
    expected = [0.04 * i for i in range(P)]
    expected[5] = 1.0
    np.testing.assert_allclose(signals.coverage, expected)
    assert signals.n_voxels.tolist() == [10 * i if i != 5 else -1 for i in range(P)]
    # Little coverage was the other pipeline's to judge.
    assert signals.present.all()


def test_dummies_of_our_own_sidecar_are_told_from_scrubbed(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    values_parcellated_signals[:4] = np.nan
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    assert read_parcellated_signals(path).n_dummy == 0
    path.with_suffix(".json").write_text(json.dumps({"VolumesDropped": {"Dummy": {"Count": 3}}}))
    assert read_parcellated_signals(path).n_dummy == 3
    path.with_suffix(".json").write_text(json.dumps({"VolumesDropped": {"Dummy": {"Count": 5}}}))
    assert read_parcellated_signals(path).n_dummy == 0
    path.with_suffix(".json").write_text(json.dumps({"VolumesDropped": []}))
    assert read_parcellated_signals(path).n_dummy == 0
    values_parcellated_signals[38:] = np.nan
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    path.with_suffix(".json").write_text(json.dumps({"VolumesDropped": {"Padding": {"Count": 2}}}))
    signals = read_parcellated_signals(path)
    assert (signals.n_dummy, signals.n_padding) == (0, 2)


def test_short_runs_are_skipped(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    values_parcellated_signals[10:20] = np.nan
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    assert read_parcellated_signals(path, min_time=31 * 2.5).kept.sum() == 31
    with pytest.raises(RunSkipped, match="31 of 41 volumes are kept") as skipped:
        read_parcellated_signals(path, min_time=32 * 2.5)
    assert skipped.value.reason == "too_few_kept"
    with pytest.raises(RunSkipped, match=r"The run lasts 102\.5 s") as skipped:
        read_parcellated_signals(path, min_time=110)
    assert skipped.value.reason == "too_short"
    with pytest.raises(RunSkipped, match="0 of 41 volumes are kept"):
        read_parcellated_signals(write_parcellated_signals(tmp_path, np.full((T, P), np.nan)))


def test_no_content_is_skipped(tmp_path: Path) -> None:
    link = tmp_path / "a.tsv"
    link.symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    with pytest.raises(RunSkipped, match="datalad get"):
        read_parcellated_signals(link)


def test_repetition_time_is_needed(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    with pytest.raises(RunFailed, match=r"timeseries\.tsv.*RepetitionTime or SamplingFrequency") as failed:
        read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals), repetition_time=None)
    assert failed.value.reason == "no_repetition_time"


def test_repetition_time_of_an_image_of_the_run(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]
) -> None:
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    for name, step in (("sub-01_task-rest_space-A_desc-denoised", 1.5), ("sub-01_task-rest_run-2_space-A", 9.0)):
        image = nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4))
        image.header.set_zooms((2, 2, 2, step))
        image.header.set_xyzt_units("mm", "sec")
        image.to_filename(tmp_path / f"{name}_bold.nii.gz")
    (tmp_path / "sub-01_task-rest_space-A_desc-a_bold.nii.gz").write_bytes(b"damaged")
    signals = read_parcellated_signals(path, repetition_time=None)
    assert signals.repetition_time == 1.5
    (warning,) = signals.warnings
    assert all(
        part in warning for part in (f"{path.name}", "1.5 s", "sub-01_task-rest_space-A_desc-denoised_bold.nii.gz.")
    )


def test_motion_is_read_where_it_fits(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    path, motion = (
        write_parcellated_signals(tmp_path, values_parcellated_signals),
        tmp_path / "sub-01_task-rest_motion.tsv",
    )
    motion.write_text("trans_x\tframewise_displacement\n0\tn/a\n" + "".join(f"0\t0.{t}\n" for t in range(1, T)))
    displacement = read_parcellated_signals(path, tables=(motion,)).framewise_displacement
    assert np.isnan(displacement[0])
    assert displacement[1:].tolist() == [float(f"0.{t}") for t in range(1, T)]
    motion.write_text("framewise_displacement\n0.1\n0.2\n")
    signals = read_parcellated_signals(path, tables=(motion,))
    assert np.isnan(signals.framewise_displacement).all()
    assert f"sub-01_task-rest_motion.tsv has 2 rows for {T}" in str(signals.warnings)
    motion.write_text("framewise_displacement\n" + "fast\n" * T)
    (note,) = read_parcellated_signals(path, tables=(motion,)).warnings
    assert f"{motion} has 'fast' in row 1 of column framewise_displacement" in note


def damage(path: Path, line: int, old: str, new: str) -> None:
    lines = path.read_text().splitlines()
    cells = lines[line].split("\t")
    cells[2] = new if not old else cells[2].replace(old, new)
    lines[line] = "\t".join(cells)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "new", "message"),
    [
        (7, "fast", f"'fast' in row 7 of column {PARCELS[2]}.*n/a"),
        (9, "inf", rf"has 'inf' in row 9 of column {PARCELS[2]}"),
        (11, "0.1\t0.2", "has 14 fields in row 11, but 13 columns"),
        (0, PARCELS[5], f"{PARCELS[5]}"),
        (0, "Heart", r"\(1 of 13\)"),
    ],
)
def test_damaged_tables_are_named(
    tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any], line: int, new: str, message: str
) -> None:
    path = write_parcellated_signals(tmp_path, values_parcellated_signals)
    damage(path, line, "", new)
    with pytest.raises(RunFailed, match=message) as failed:
        read_parcellated_signals(path)
    assert failed.value.reason == "bad_image"


def test_empty_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("")
    with pytest.raises(RunFailed, match="has no header"):
        read_parcellated_signals(path)
    path.write_text("\t".join(PARCELS) + "\n")
    with pytest.raises(RunSkipped, match="0 volumes"):
        read_parcellated_signals(path)


def test_no_complete_parcel_is_low_coverage(tmp_path: Path, values_parcellated_signals: np.ndarray[Any, Any]) -> None:
    values_parcellated_signals[np.arange(P), np.arange(P)] = np.nan
    with pytest.raises(RunFailed, match="41 kept") as failed:
        read_parcellated_signals(write_parcellated_signals(tmp_path, values_parcellated_signals))
    assert failed.value.reason == "low_coverage"


def test_numbered_columns_must_be_all_of_them() -> None:
    assert locate_columns([str(i) for i in range(P)], PARCELS).tolist() == list(range(P))
    assert locate_columns([str(i + 1) for i in range(P)], PARCELS).tolist() == list(range(P))
    with pytest.raises(ValueError, match=r"12 columns.*13 parcels"):
        locate_columns([str(i) for i in range(P - 1)], PARCELS)


def write_atlas(path: Path, parcels: tuple[str, ...], network: str = "Default") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{i + 1}\t{name}\t{network}" for i, name in enumerate(parcels)]
    path.write_text("\n".join(["index\tlabel\tnetwork_label", *rows]) + "\n")
    return path


def load(columns: tuple[str, ...], *, asked: str = "", tables: tuple[Path, ...] = (), label: str = "A") -> Atlas:
    return load_series_atlas(label, columns, space="", asked=asked, tables=tables, directory=None)


def test_atlas_is_the_first_that_fits(tmp_path: Path) -> None:
    own = write_atlas(tmp_path / "own_dseg.tsv", PARCELS, "Limbic")
    asked = write_atlas(tmp_path / "asked.tsv", (*PARCELS, "LH_More_1"), "Default")
    other = write_atlas(tmp_path / "other_dseg.tsv", ("X", "Y"), "Vis")
    atlas = load(PARCELS, asked=str(asked), tables=(own,))
    assert (atlas.name, atlas.parcels, set(atlas.networks)) == ("A", (*PARCELS, "LH_More_1"), {"Default"})
    assert set(load(PARCELS, tables=(other, own)).networks) == {"Limbic"}
    assert set(load(PARCELS, asked="A", tables=(own,)).networks) == {"Limbic"}
    named = load(PARCELS, tables=(other,))
    assert (named.parcels, named.networks) == (PARCELS, NETWORKS)
    assert named.volumes == ()
    assert len({named.sha256, atlas.sha256}) == 2


def test_atlas_of_a_directory(tmp_path: Path) -> None:
    folder = tmp_path / "atlases"
    write_atlas(folder / "atlas-A_dseg.tsv", PARCELS, "Limbic")
    write_atlas(folder / "sub" / "atlas-B_dseg.tsv", PARCELS, "Vis")
    assert set(load(PARCELS, asked=str(folder)).networks) == {"Limbic"}
    with pytest.raises(AtlasError, match=r"2.*\*_dseg\.tsv"):
        load(PARCELS, asked=str(folder), label="C")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(AtlasError, match="tables"):
        load(PARCELS, asked=str(empty))


def test_atlas_of_the_registry_needs_no_image() -> None:
    columns = ("LH_Vis_1", "RH_Default_pCunPCC_9", "HIP-head-m-rh", "Cerebellum_Cont")
    atlas = load(columns, label="Mine")
    assert (len(atlas.parcels), atlas.name) == (457, "Mine")
    assert atlas.networks[400] == "Subcortex"
    # The smallest table that has all columns is taken, unless another is asked for.
    assert len(load(columns[:2]).parcels) == 400
    assert len(load(columns[:2], asked="Schaefer400Tian3Buckner7").parcels) == 457


def test_an_entry_of_ones_own_needs_no_image_either(tmp_path: Path) -> None:
    part = {"files": ["nowhere.nii.gz"], "values": [[1, 4]], "parcels": [[1, 4]], "licence": "free", "source": "here"}
    spaces = [{"space": "MNI305", "alternatives": [[part]]}]
    (tmp_path / "Own.json").write_text(json.dumps({"name": "Own", "table": "own.tsv", "spaces": spaces}))
    write_atlas(tmp_path / "own.tsv", PARCELS, "Limbic")
    atlas = load(PARCELS, asked=str(tmp_path / "Own.json"))
    assert set(atlas.networks) == {"Limbic"}


def test_atlas_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    table = write_atlas(tmp_path / "other.tsv", ("X", "Y"))
    with pytest.raises(AtlasError, match=r"other\.tsv"):
        load(PARCELS, asked=str(table))
    with pytest.raises(AtlasError, match=r"Schaefer400.*--input-type"):
        load(("X", "Y"), asked="Schaefer400")
    with pytest.raises(AtlasError, match="Schaefr400 not found") as raised:
        load(("X", "Y"), asked="Schaefr400")
    assert "Did you mean Schaefer400" in raised.value.hint


def test_unknown_networks_are_refused(tmp_path: Path) -> None:
    table = write_atlas(tmp_path / "a_dseg.tsv", ("X", "Y"))
    with pytest.raises(AtlasError, match="networks of the parcels of atlas") as raised:
        load(("U", "W"), tables=(table,))
    assert "--atlas TABLE.tsv" in raised.value.hint
    assert str(table) in raised.value.message


def test_numbered_columns_take_the_table_of_the_dataset(tmp_path: Path) -> None:
    table = write_atlas(tmp_path / "a_dseg.tsv", PARCELS, "Limbic")
    columns = tuple(str(i) for i in range(P))
    assert load(columns, tables=(table,)).parcels == PARCELS
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(AtlasError, match="13 columns"):
        load(columns, tables=(table,))


def test_shared_4s_table_fits_its_short_names(shared: Path) -> None:
    table = shared / "atlas" / "atlas-4S456Parcels_dseg.tsv"
    columns = tuple(line.split("\t")[1] for line in table.read_text().splitlines()[1:])
    atlas = load(columns, tables=(table,), label="4S456Parcels")
    assert atlas.parcels == columns
    assert atlas.networks[0] == "Vis"
    assert sum(network == "" for network in atlas.networks[:400]) == 0


@pytest.mark.parametrize("prefix", ["17Networks_", ""])
def test_columns_of_the_17_network_order_are_the_same_parcels(tmp_path: Path, prefix: str) -> None:
    lines = (find_registry() / "Schaefer400_orders.tsv").read_text().splitlines()
    rows = [dict(zip(lines[0].split("\t"), line.split("\t"), strict=True)) for line in lines[1:]]
    rows.sort(key=lambda row: int(row["index_17networks"]))
    names = (*(row["label_17networks"].replace("17Networks_", prefix) for row in rows), "HIP-lh")
    series = np.random.default_rng(6).standard_normal((T, 401))
    path = write_parcellated_signals(tmp_path, series, names)
    table = tmp_path / "own.tsv"
    listed = "".join(f"{i}\t{name}\tn/a\n" for i, name in enumerate(names[:400], 1))
    table.write_text(f"index\tlabel\tnetwork_label\n{listed}401\tHIP-lh\tSubcortex\n")
    for asked in ("", str(table)):
        atlas = load_series_atlas("A", read_header(path), space="", asked=asked, tables=[], directory=None)
        at = [atlas.parcels.index(row["label"]) for row in rows]
        assert [atlas.networks[i] for i in at] == [row["label"].split("_")[2] for row in rows]
        np.testing.assert_allclose(
            read_parcellated_signals(path, atlas=atlas).values[:, at], series[:, :400].astype(np.float32), rtol=1e-6
        )
        assert atlas.networks[atlas.parcels.index("HIP-lh")] == ("Subcortex" if asked else "")


def test_a_part_of_the_17_network_order_is_not_guessed(tmp_path: Path) -> None:
    names = ("17Networks_LH_VisCent_ExStr_1", "17Networks_LH_DefaultC_PHC_2")
    with pytest.raises(AtlasError, match="17Networks_LH_VisCent_ExStr_1, 17Netw"):
        load_series_atlas("A", names, space="", asked="", tables=[], directory=None)


@pytest.mark.parametrize("text", ["A\tB\t\n1\tNaN\t\n2\t3\t\n", "\tA\tB\n0\t1\t\n1\t2\t3\n", "A\tB\r1\tNA\r2\t3"])
def test_series_that_other_programs_saved_again(tmp_path, text):
    path = tmp_path / "sub-01_task-rest_atlas-A_timeseries.tsv"
    path.write_bytes(text.encode("utf-16"))
    columns, values = read_columns(path)
    assert columns == read_header(path) == ("A", "B")
    np.testing.assert_array_equal(values, [[1, np.nan], [2, 3]])


N_ROWS, N_COLUMNS = 7, 4
TABLE_NAMES = ("LH_Vis_1", "LH_Cont_1", "RH_Vis_1", "RH_Default_1")
NUMBERS = ("1", "2", "3", "4")
VALUES = np.random.default_rng(3).normal(size=(N_ROWS, N_COLUMNS)).round(6)
VALUES[0, 0] = np.nan


def join(separator: str, *, header: str = "", missing: str = "NaN", index: bool = False) -> str:
    rows = [[missing if np.isnan(x) else repr(float(x)) for x in row] for row in VALUES]
    if index:
        rows = [[str(number), *row] for number, row in enumerate(rows)]
    return "\n".join([*([header] if header else []), *map(separator.join, rows)]) + "\n"


TABLES = {
    "header.tsv": (join("\t", header="\t".join(TABLE_NAMES), missing="n/a"), TABLE_NAMES),
    "bare.tsv": (join("\t", missing=""), NUMBERS),
    "counted.tsv": (join("\t", header="0\t1\t2\t3"), ("0", "1", "2", "3")),
    "labels.tsv": (join("\t", header="11\t12\t1011\t1012"), ("11", "12", "1011", "1012")),
    "pandas.csv": (join(",", header="," + ",".join(TABLE_NAMES), missing="", index=True), TABLE_NAMES),
    "quoted.csv": (join(",", header=",".join(f'"{name}"' for name in TABLE_NAMES)), TABLE_NAMES),
    "semicolons.csv": (join("; ", header=";".join(TABLE_NAMES)), TABLE_NAMES),
    "bare.csv": (join(","), NUMBERS),
    "savetxt.txt": (join(" "), NUMBERS),
    "commented.txt": (join(" ", header="# " + " ".join(TABLE_NAMES)), TABLE_NAMES),
    "other_comment.txt": (join("  ", header="# made by hand\n#\n"), NUMBERS),
    "r.txt": (join(" ", header=" ".join(f'"{name}"' for name in TABLE_NAMES), index=True), TABLE_NAMES),
    "afni.1D": (join("\t ", header="# 3dROIstats -mask a.nii b.nii c\n#Mean_1\t#Mean_2\t#Mean_3\t#Mean_4"), ()),
    "abide.1D": (join("\t", header="#1\t#2\t#3\t#4"), NUMBERS),
    "cpac.1D": (join(",", header="#Mean_1,Mean_2,Mean_3,Mean_4"), ()),
    "times.csv": (join(",", header="time," + ",".join(TABLE_NAMES), index=True), TABLE_NAMES),
    "windows.csv": ("\ufeff" + join(",", header=",".join(TABLE_NAMES)).replace("\n", "\r\n"), TABLE_NAMES),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_spelling(tmp_path: Path, name: str) -> None:
    text, names = TABLES[name]
    path = tmp_path / name
    path.write_bytes(text.encode())
    columns, values = read_columns(path)
    assert columns == (names or tuple(f"Mean_{number}" for number in NUMBERS))
    np.testing.assert_array_equal(values, VALUES)
    assert read_header(path) == columns


@pytest.mark.parametrize("table", [VALUES, VALUES.astype(np.float32), np.asfortranarray(VALUES)])
def test_arrays(tmp_path: Path, table: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "a.npy", table)
    np.save(tmp_path / "b.npy", table.T)
    for name, volumes in (("a.npy", "rows"), ("a.npy", ""), ("b.npy", "columns")):
        columns, values = read_columns(tmp_path / name, volumes=volumes)
        assert columns == NUMBERS
        np.testing.assert_array_equal(values, table)


@pytest.mark.parametrize("has_names", [False, True])
@pytest.mark.parametrize("has_times", [False, True])
def test_volumes_in_columns(tmp_path: Path, has_names: bool, has_times: bool) -> None:
    rows = [[*([name] if has_names else []), *map(str, row)] for name, row in zip(TABLE_NAMES, VALUES.T, strict=True)]
    if has_times:
        rows.insert(0, [*([""] if has_names else []), *(str(number) for number in range(N_ROWS))])
    path = tmp_path / "a.csv"
    path.write_text("\n".join(map(",".join, rows)))
    if has_times and not has_names:
        # The times would be a parcel: nothing tells them from one.
        assert read_columns(path, volumes="columns")[0] == (*NUMBERS, "5")
        return
    columns, values = read_columns(path, volumes="columns")
    assert columns == (TABLE_NAMES if has_names else NUMBERS)
    np.testing.assert_array_equal(values, VALUES)


def test_a_square_table_needs_to_say_where_its_volumes_are(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    np.savetxt(path, VALUES[1 : N_COLUMNS + 1])
    with pytest.raises(RunFailed, match=r"a\.txt has 4 rows"):
        read_columns(path, volumes="")
    np.testing.assert_allclose(read_columns(path, volumes="columns")[1], VALUES[1 : N_COLUMNS + 1].T)
    path.write_text("# " + " ".join(TABLE_NAMES) + "\n" + path.read_text())
    assert read_columns(path, volumes="")[0] == TABLE_NAMES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "a,b\n1,2,\n3,4,\n", r"has 3 fields in row 1, but 2 columns"),
        ("a.csv", "a;b\n0,5;1\n", "'0,5' in row 1 of"),
        ("a.txt", "a b\n1 2\n3 x\n", r"has 'x' in row 2 of column b"),
        ("a.1D", "1.5 2\n3 inf\n", r"has 'inf' in row 2 of column 2"),
        ("a.txt", "", r"has no header"),
        ("a.txt", "# nothing\n", r"has no header"),
        ("a.csv", "a,a\n1,2\n", "columns"),
        ("a.npy", "no array", r"a\.npy cannot be read as an array of numbers"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RunFailed, match=message) as caught:
        read_columns(tmp_path / name)
    assert caught.value.reason == "bad_image"


@pytest.mark.parametrize("table", [np.zeros(5), np.zeros((2, 3, 4)), np.array([[1j]]), np.array([[np.inf]])])
def test_arrays_that_are_no_series(tmp_path: Path, table: np.ndarray[Any, Any]) -> None:
    np.save(tmp_path / "a.npy", table)
    with pytest.raises(RunFailed, match=r"parcels|infinite"):
        read_columns(tmp_path / "a.npy")
