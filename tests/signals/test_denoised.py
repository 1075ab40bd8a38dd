"""Images that another pipeline denoised: nothing is removed twice, and what was censored stays so."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import (
    SHAPE,
    SPACE,
    P,
    T,
    build_run,
    build_series,
    compute_means,
    write_atlas,
    write_bold,
    write_mask,
)

from bids_semantoks.atlases.load import load_atlas
from bids_semantoks.atlases.series_atlas import load_series_atlas
from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.records import Atlas, ParcelSignals
from bids_semantoks.signals.cleaning import clean_signals
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.extract import extract_signals

CENSORED = [0, 5, 6, 29]


NONE = load_denoising("none")


@pytest.fixture
def atlas(tmp_path: Path) -> Atlas:
    return load_atlas(write_atlas(tmp_path / "atlas"), space=SPACE, directory=None)


def write_column(path: Path, name: str, values: Any) -> Path:
    path.write_text(f"{name}\n" + "\n".join("n/a" if np.isnan(x) else f"{x:g}" for x in values) + "\n")
    return path


def write_outliers(folder: Path, n_volumes: int, censored: list[int] = CENSORED) -> Path:
    marks = np.zeros(n_volumes)
    marks[censored] = 1
    return write_column(folder / "sub-01_task-rest_outliers.tsv", "framewise_displacement", marks)


def extract(bold: Path, atlas: Atlas, mask: Path | None = None, *, config: Any = None, **fields: Any) -> ParcelSignals:
    run = build_run(bold, mask, is_denoised=True, pipeline="xcp_d 0.10.6", **fields)  # type: ignore[arg-type]
    options = {"denoise": "none", "band_pass": None, "min_time": 0.0} | (config or {})
    return extract_signals(run, atlas, SignalsConfig(**options), NONE)


def test_nothing_but_a_line_is_removed(tmp_path: Path, atlas: Atlas) -> None:
    stored = build_series("f4")
    signals = extract(write_bold(tmp_path / "bold.nii.gz", stored), atlas, write_mask(tmp_path / "mask.nii.gz"))
    means, _ = compute_means(stored)
    expected = clean_signals(means, np.zeros((T, 0)), np.ones(T, bool), repetition_time=2.0, band_pass=None)
    np.testing.assert_allclose(signals.values, expected, rtol=1e-4, atol=1e-5)
    assert signals.regressors == ()
    assert signals.kept.all()
    assert signals.warnings == ("No table of motion: framewise displacement is unknown.",)


def test_the_header_says_how_long_a_volume_lasts(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"), step=0.8)
    signals = extract(bold, atlas, repetition_time=None)
    assert signals.repetition_time == 0.8
    assert signals.warnings[0] == ("No sidecar states the repetition time of bold.nii.gz: 0.8 s is from its header.")


def test_without_a_mask_voxels_that_never_change_are_outside(tmp_path: Path, atlas: Atlas) -> None:
    stored = build_series("f4")
    inside = np.random.default_rng(4).uniform(size=SHAPE) > 0.3
    stored[~inside] = 0
    bold = write_bold(tmp_path / "bold.nii.gz", stored)
    expected = extract(bold, atlas, write_mask(tmp_path / "mask.nii.gz", inside))
    found = extract(bold, atlas)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.coverage, expected.coverage)
    assert (found.coverage < 1).all()


def test_censored_and_interpolated_volumes_are_dropped(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    signals = extract(bold, atlas, confounds=write_outliers(tmp_path, T))
    assert np.flatnonzero(~signals.kept).tolist() == CENSORED
    assert np.isnan(signals.values[CENSORED]).all()
    assert "4 volumes that xcp_d 0.10.6 censored and interpolated are n/a." in signals.warnings


def test_volumes_that_were_left_out_are_put_back(tmp_path: Path, atlas: Atlas) -> None:
    whole = build_series("f4", shape=(*SHAPE, T + 4))
    kept = np.ones(T + 4, dtype=bool)
    kept[CENSORED] = False
    bold = write_bold(tmp_path / "bold.nii.gz", whole[..., kept])
    motion = write_column(tmp_path / "motion.tsv", "framewise_displacement", [np.nan, *np.linspace(0.1, 0.5, T + 3)])
    signals = extract(bold, atlas, confounds=write_outliers(tmp_path, T + 4), tables=(motion,))
    assert signals.values.shape == (T + 4, P)
    np.testing.assert_array_equal(signals.kept, kept)
    means, _ = compute_means(whole)
    np.testing.assert_allclose(signals.raw[kept], means[kept], rtol=1e-5)
    assert np.isnan(signals.raw[~kept]).all()
    expected = clean_signals(means, np.zeros((T + 4, 0)), kept, repetition_time=2.0, band_pass=None)
    np.testing.assert_allclose(signals.values, expected, rtol=1e-3, atol=1e-4)
    assert "4 censored volumes were left out by xcp_d 0.10.6 and are n/a." in signals.warnings
    assert np.nanmax(signals.framewise_displacement) == pytest.approx(0.5)


def test_more_may_be_scrubbed_where_motion_is_known(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    motion = write_column(tmp_path / "motion.tsv", "framewise_displacement", [np.nan, *np.linspace(0.1, 0.5, T - 1)])
    files = {"confounds": write_outliers(tmp_path, T), "tables": (motion,)}
    signals = extract(bold, atlas, config={"fd_threshold": 0.45, "dummy_scans": "3"}, **files)
    expected = np.r_[np.nan, np.linspace(0.1, 0.5, T - 1)] <= 0.45
    expected[[0, 1, 2, *CENSORED]] = False
    np.testing.assert_array_equal(signals.kept, expected)
    assert signals.n_dummy == 3
    with pytest.raises(
        RunFailed, match=r"no table of framewise_displacement beside .*--fd-threshold needs one"
    ) as caught:
        extract(bold, atlas, config={"fd_threshold": 0.45})
    assert caught.value.reason == "no_confounds"


def test_movement_of_a_layout_tells_displacement(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    path = tmp_path / "mcf.par"
    path.write_text("\n".join(f"0 0 0 {0.2 * number:g} 0 0" for number in range(T)) + "\n")
    columns = ("rot_x", "rot_y", "rot_z", "trans_x", "trans_y", "trans_z")
    signals = extract(bold, atlas, tables=(path,), columns=columns)
    np.testing.assert_allclose(signals.framewise_displacement[1:], 0.2, rtol=1e-9)


def test_tables_of_another_length(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    with pytest.raises(RunFailed, match=rf"keeps {T + 5} of {T + 9} volumes, but bold\.nii\.gz has {T}: neither"):
        extract(bold, atlas, confounds=write_outliers(tmp_path, T + 9))
    motion = write_column(tmp_path / "motion.tsv", "framewise_displacement", np.zeros(T - 2))
    with pytest.raises(RunFailed, match=rf"motion\.tsv has {T - 2} rows, but the run has {T} volumes"):
        extract(bold, atlas, tables=(motion,))


def test_a_table_that_was_not_fetched(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    table = tmp_path / "outliers.tsv"
    table.symlink_to("../.git/annex/objects/x")
    with pytest.raises(RunSkipped, match=r"outliers\.tsv is not here.*datalad get") as caught:
        extract(bold, atlas, confounds=table)
    assert caught.value.reason == "no_content"


def test_uncompressed_images_give_the_same(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    plain = tmp_path / "plain.nii"
    plain.write_bytes(gzip.decompress(bold.read_bytes()))
    assert nib.load(plain).shape == (*SHAPE, T)
    np.testing.assert_array_equal(extract(bold, atlas).values, extract(plain, atlas).values)


# --- 4S456: XCP-D's own atlas ---


@pytest.mark.parametrize("has_table", [True, False])
def test_4s456_is_schaefer_in_order_and_the_rest_is_masked(shared: Path, has_table: bool) -> None:
    path = shared / "atlas" / "atlas-4S456Parcels_dseg.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    columns = [row[rows[0].index("label")] for row in rows[1:]]
    tables = [path] if has_table else []
    atlas = load_series_atlas("4S456Parcels", columns, space="", asked="", tables=tables, directory=None)
    names = (shared / "atlas" / "Schaefer2018_400Parcels_7Networks_order.txt").read_text().split("\n")
    schaefer = [line.split("\t")[1].removeprefix("7Networks_") for line in names if line]
    assert [name.removeprefix("7Networks_") for name in atlas.parcels[:400]] == schaefer
    assert len(atlas.parcels) == 456
    assert set(atlas.networks[:400]) == {"Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"}
    assert set(atlas.networks[400:]) == {""}
    assert atlas.parcels[400:403] == ("LH-Pu", "LH-Ca", "LH-NAC")
