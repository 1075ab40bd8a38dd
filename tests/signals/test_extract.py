"""Whole runs: coverage, refused runs, real data with a known answer, and images that another pipeline denoised."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from helpers.bold_files import (
    AFFINE,
    LABELS,
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
from bids_semantoks.config import SignalsConfig
from bids_semantoks.errors import AtlasError, RunFailed, RunSkipped
from bids_semantoks.images.volumes import load_volumes
from bids_semantoks.records import Atlas, ParcelSignals
from bids_semantoks.signals.cleaning import clean_signals
from bids_semantoks.signals.denoising import Denoising, load_denoising
from bids_semantoks.signals.extract import check_run, compute_temporal_snr, extract_signals
from bids_semantoks.signals.regressors import select_regressors
from bids_semantoks.signals.volume_means import extract_means

CONFIG = SignalsConfig(denoise="none", band_pass=None, min_time=0.0)


NONE = load_denoising("none")


@pytest.fixture
def atlas(tmp_path):
    return load_atlas(write_atlas(tmp_path / "atlas"), space=SPACE, directory=None)


@pytest.fixture
def mask(tmp_path):
    return write_mask(tmp_path / "mask.nii.gz")


@pytest.fixture
def bold(tmp_path):
    return write_bold(tmp_path / "bold.nii.gz", build_series("i2"))


def test_signals_of_a_run(tmp_path, bold, atlas, mask):
    run = build_run(bold, mask)
    config = SignalsConfig(denoise="none", band_pass=(0.01, 0.1), min_time=0.0, dummy_scans="3")
    signals = extract_signals(run, atlas, config, NONE)
    means, _ = compute_means(build_series("i2"))
    kept = np.arange(T) >= 3
    expected = clean_signals(means, np.zeros((T, 0)), kept, repetition_time=2.0, band_pass=(0.01, 0.1))
    np.testing.assert_allclose(signals.raw, means, rtol=1e-6)
    np.testing.assert_allclose(signals.values, expected, rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(signals.kept, kept)
    assert np.isnan(signals.values[:3]).all()
    assert (signals.n_dummy, signals.repetition_time, signals.regressors) == (3, 2.0, ())


def test_temporal_snr_is_the_mean_over_the_noise_of_kept_volumes():
    rng = np.random.default_rng(4)
    kept = np.ones(400, dtype=bool)
    kept[:5] = False
    drift = np.linspace(-80, 80, 400)[:, None]
    raw = np.array([1000.0, 500.0, 800.0, 0.0]) + drift * [1, 0, 1, 0] + rng.standard_normal((400, 4)) * [10, 10, 0, 1]
    raw[:5] += 300
    found = compute_temporal_snr(np.c_[raw, np.full(400, np.nan)], kept)
    np.testing.assert_allclose(found[:2], [100, 50], rtol=0.1)
    # A line leaves only rounding; a mean near zero was removed before; the last parcel is absent.
    assert found[2] > 1e9
    assert np.isnan(found[3:]).all()


def test_parcel_under_the_coverage_is_absent(tmp_path, bold, atlas):
    inside = np.ones(SHAPE, dtype=bool)
    inside[tuple(np.argwhere(LABELS == 2)[:16].T)] = False
    inside[tuple(np.argwhere(LABELS == 4)[:15].T)] = False
    run = build_run(bold, write_mask(tmp_path / "mask.nii.gz", inside))
    signals = extract_signals(run, atlas, CONFIG, NONE)
    np.testing.assert_allclose(signals.coverage, [1, 14 / 30, 1, 0.5])
    np.testing.assert_array_equal(signals.present, [True, False, True, True])
    assert np.isnan(signals.values[:, 1]).all()
    assert np.isnan(signals.raw[:, 1]).all()
    assert all(part in str(signals.warnings) for part in ("1 of 4 parcels", "0.5 and", "p2."))


def test_no_parcel_with_enough_coverage(tmp_path, bold, atlas):
    inside = np.zeros(SHAPE, dtype=bool)
    inside[tuple(np.argwhere(LABELS == 2)[:9].T)] = True
    run = build_run(bold, write_mask(tmp_path / "mask.nii.gz", inside))
    with pytest.raises(RunFailed, match=r"0\.30") as caught:
        extract_signals(run, atlas, CONFIG, NONE)
    assert caught.value.reason == "low_coverage"


def test_parcel_without_voxels_is_absent_and_named(tmp_path, bold, mask):
    rows = [(n, f"p{n}", "Vis") for n in range(1, 7)]
    atlas = load_atlas(write_atlas(tmp_path / "more", rows=rows), space=SPACE, directory=None)
    signals = extract_signals(build_run(bold, mask), atlas, CONFIG, NONE)
    np.testing.assert_array_equal(signals.present, [True] * 4 + [False] * 2)
    np.testing.assert_array_equal(signals.coverage[4:], 0)
    assert any("2 of 6 parcels" in note and "p5, p6" in note for note in signals.warnings)


def test_repetition_times_that_differ_warn(tmp_path, atlas, mask):
    stored = build_series("i2")
    for step, n_notes in ((2.0009, 0), (2.0, 0), (2.0011, 1), (3.0, 1)):
        run = build_run(write_bold(tmp_path / "bold.nii.gz", stored, step=step), mask)
        notes = [note for note in extract_signals(run, atlas, CONFIG, NONE).warnings if "repetition time" in note]
        assert len(notes) == n_notes, step
        assert not notes or f"{step:g} s" in notes[0]


def test_atlas_in_another_space_names_both(tmp_path, bold, mask):
    atlas = load_atlas(write_atlas(tmp_path / "other", space="MNI305"), space="MNI305", directory=None)
    with pytest.raises(AtlasError, match=rf"MNI305.*{SPACE}"):
        extract_signals(build_run(bold, mask), atlas, CONFIG, NONE)


def test_atlas_covering_nothing_names_the_run(tmp_path, bold, mask):
    far = AFFINE.copy()
    far[2, 3] += 500
    atlas = load_atlas(write_atlas(tmp_path / "far", affine=far), space=SPACE, directory=None)
    with pytest.raises(AtlasError, match=r"bold\.nii\.gz:"):
        extract_signals(build_run(bold, mask), atlas, CONFIG, NONE)


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"mask": None}, "no_mask", "brain mask"),
        ({"repetition_time": 2000.0}, "no_repetition_time", r"2000 s, the header of bold\.nii\.gz 2 s"),
    ],
)
def test_what_a_run_lacks(bold, mask, changes, reason, words):
    with pytest.raises(RunFailed, match=words) as caught:
        check_run(build_run(bold, mask, changes), CONFIG, NONE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("which", ["bold", "mask", "confounds"])
@pytest.mark.parametrize("kind", ["link", "pointer"])
def test_content_that_was_not_fetched(tmp_path, bold, mask, which, kind):
    absent = tmp_path / "absent.nii.gz"
    if kind == "link":
        absent.symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    else:
        absent.write_text("/annex/objects/MD5E-s123--0123456789.nii.gz\n")
    with pytest.raises(RunSkipped, match=r"absent\.nii\.gz") as caught:
        check_run(build_run(bold, mask, {which: absent}), CONFIG, NONE)
    assert caught.value.reason == "no_content"


def test_links_with_content_are_read(tmp_path, bold, mask, atlas):
    link = tmp_path / "link_bold.nii.gz"
    link.symlink_to(bold)
    assert extract_means(load_volumes(link), mask, atlas).n_used.sum() == 120


def test_short_run_is_told_before_it_is_read(tmp_path, bold, mask):
    bold.write_bytes(bold.read_bytes()[:3000])
    with pytest.raises(RunSkipped, match="82 s") as caught:
        check_run(build_run(bold, mask), SignalsConfig(denoise="none"), NONE)
    assert caught.value.reason == "too_short"


def test_short_run_is_told_whatever_its_confounds_are(tmp_path, bold, mask):
    odd = tmp_path / "confounds.tsv"
    odd.write_text("csf\n1\n")
    for confounds in (odd, None):
        with pytest.raises(RunSkipped, match="82 s") as caught:
            check_run(build_run(bold, mask, confounds=confounds), SignalsConfig(), load_denoising("simple"))
        assert caught.value.reason == "too_short"


@pytest.mark.parametrize("n_volumes", [1, 2, 6])
def test_some_volumes_are_too_short_without_any_limit(tmp_path, mask, n_volumes):
    bold = write_bold(tmp_path / "some_bold.nii.gz", build_series("i2")[..., :n_volumes])
    confounds = tmp_path / "confounds.tsv"
    confounds.write_text("csf\n" + "1\n" * n_volumes)
    for denoise in ("none", "simple"):
        config = SignalsConfig(denoise=denoise, min_time=0.0, dummy_scans="1")
        with pytest.raises(RunSkipped, match=rf"some_bold\.nii\.gz has {n_volumes} volumes; at least 7") as caught:
            check_run(build_run(bold, mask, confounds=confounds), config, load_denoising(denoise))
        assert caught.value.reason == "too_short"


# Volumes without data


@pytest.mark.parametrize("fill", [0, 30000, None], ids=["zeros", "another number", "the last volume"])
def test_padding_at_the_end_is_dropped(tmp_path, mask, atlas, fill):
    stored = build_series("i2")
    stored[..., 33:] = stored[..., 32:33] if fill is None else fill
    run = build_run(write_bold(tmp_path / "bold.nii.gz", stored), mask)
    signals = extract_signals(run, atlas, CONFIG, NONE)
    expected = extract_signals(
        build_run(write_bold(tmp_path / "cut.nii.gz", stored[..., :33]), mask), atlas, CONFIG, NONE
    )
    assert np.flatnonzero(~signals.kept).tolist() == list(range(33, T))
    assert signals.n_padding == T - 33
    # What is dropped at the end is interpolated for the trend, so that it is another line.
    np.testing.assert_allclose(signals.raw[:33], expected.raw, rtol=1e-6)
    assert np.isnan(signals.values[33:]).all()
    assert all(part in str(signals.warnings) for part in ("8 volumes", "n/a."))
    config = SignalsConfig(denoise="none", band_pass=None, min_time=68.0)
    with pytest.raises(RunSkipped, match="33 of 41 volumes are kept") as skipped:
        extract_signals(run, atlas, config, NONE)
    assert skipped.value.reason == "too_few_kept"


@pytest.mark.parametrize("lost", [[30], [0, 7], [39, 40]], ids=["inside", "the first", "at the end"])
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_volumes_of_nan_are_lost_and_spoil_no_other(tmp_path, mask, atlas, lost, share):
    stored = build_series("f4")
    whole = extract_signals(build_run(write_bold(tmp_path / "whole.nii", stored), mask), atlas, CONFIG, NONE)
    broken = np.random.default_rng(2).uniform(size=SHAPE) < share
    for volume in lost:
        stored[broken, volume] = np.nan
    signals = extract_signals(build_run(write_bold(tmp_path / "bold.nii", stored), mask), atlas, CONFIG, NONE)
    assert np.flatnonzero(~signals.kept).tolist() == lost
    np.testing.assert_allclose(signals.raw[signals.kept], whole.raw[signals.kept], rtol=1e-6)
    assert np.isnan(signals.raw[lost]).all()
    assert signals.coverage.tolist() == [1.0] * P
    assert signals.n_padding == (2 if lost == [39, 40] else 0)
    named = ", ".join(map(str, lost))
    assert all(part in str(signals.warnings) for part in (f"{len(lost)}", "NaN", f"n/a: {named}", "0)."))


def test_a_volume_of_zeros_is_lost(tmp_path, mask, atlas):
    stored = build_series("i2")
    stored[..., 12] = 0
    signals = extract_signals(build_run(write_bold(tmp_path / "bold.nii.gz", stored), mask), atlas, CONFIG, NONE)
    assert np.flatnonzero(~signals.kept).tolist() == [12]
    assert all(part in str(signals.warnings) for part in ("1 volumes are 0 in", "n/a: 12", "0)."))


def test_a_parcel_that_varies_in_dropped_volumes_only_is_absent(tmp_path, mask, atlas):
    stored = build_series("i2")
    stored[LABELS == 3] = 500
    stored[LABELS == 3, 0] = 0
    run = build_run(write_bold(tmp_path / "bold.nii.gz", stored), mask)
    config = SignalsConfig(denoise="none", band_pass=None, min_time=0.0, dummy_scans="1")
    signals = extract_signals(run, atlas, config, NONE)
    assert signals.present.tolist() == [True, True, False, True]
    assert all(part in str(signals.warnings) for part in ("1 of 4 parcels", "p3."))
    stored[:] = 500
    stored[..., 0] = 0
    with pytest.raises(RunFailed, match=r"No parcel of .* varies over its 40 kept volumes") as failed:
        extract_signals(build_run(write_bold(tmp_path / "bold.nii.gz", stored), mask), atlas, config, NONE)
    assert failed.value.reason == "bad_image"


# Real data


@pytest.mark.parametrize("participant", ["001", "004"])
def test_known_answer_of_real_confounds(shared, participant):
    root = shared / "data" / "fmriprep_hybrid"
    stem = f"sub-{participant}_task-restingstate"
    space = "MNI152NLin2009cAsym"
    func = root / "derivatives" / "fmriprep" / f"sub-{participant}" / "func"
    run = build_run(
        func / f"{stem}_space-{space}_desc-preproc_bold.nii.gz",
        func / f"{stem}_space-{space}_desc-brain_mask.nii.gz",
        confounds=func / f"{stem}_desc-confounds_timeseries.tsv",
        repetition_time=3.0,
        entities=(("sub", participant), ("task", "restingstate"), ("space", space)),
    )
    atlas = load_atlas(root / "atlas", space=space, directory=None)
    with np.load(root / f"truth_sub-{participant}.npz") as file:
        truth = file["truth"].T.astype(np.float64)
    for preset, least in (("simple", 0.97), ("36p", 0.99)):
        denoising, config = load_denoising(preset), SignalsConfig(denoise=preset)
        signals = extract_signals(run, atlas, config, denoising)
        taken = select_regressors(run.confounds, denoising, config, n_volumes=120, repetition_time=3.0)
        expected = clean_signals(truth, taken.values, taken.kept, repetition_time=3.0, band_pass=config.band_pass)
        ours, theirs = signals.values[signals.kept], expected[signals.kept]
        found = [np.corrcoef(ours[:, p], theirs[:, p])[0, 1] for p in np.flatnonzero(signals.present)]
        assert len(found) >= 440
        assert np.median(found) >= least


@pytest.mark.parametrize(("n_regressors", "share"), [(12, "19%"), (5, None)])
def test_regressors_that_leave_little_of_the_pass_band_are_told(tmp_path, bold, mask, atlas, n_regressors, share):
    names = [f"c{n}" for n in range(n_regressors)]
    table = np.random.default_rng(3).standard_normal((T, n_regressors))
    path = tmp_path / "sub-01_desc-confounds_timeseries.tsv"
    np.savetxt(path, table, delimiter="\t", header="\t".join(names), comments="")
    banded = SignalsConfig(denoise="none", band_pass=(0.01, 0.1), min_time=0.0)
    denoising = Denoising(name="own", columns=tuple(names))
    signals = extract_signals(build_run(bold, mask, confounds=path), atlas, banded, denoising)
    told = [note for note in signals.warnings if "of the variance in the pass band" in note]
    assert len(told) == (share is not None)
    assert all(note.startswith(f"12 regressors leave about {share}") for note in told)


# Denoised images: nothing is removed twice, and what was censored stays so


CENSORED = [0, 5, 6, 29]


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
    assert "framewise displacement is unknown" in str(signals.warnings)


def test_the_header_says_how_long_a_volume_lasts(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"), step=0.8)
    signals = extract(bold, atlas, repetition_time=None)
    assert signals.repetition_time == 0.8
    assert all(part in signals.warnings[0] for part in ("bold.nii.gz", "0.8 s"))


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
    assert all(part in str(signals.warnings) for part in ("4 volumes", "xcp_d 0.10.6", "n/a."))


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
    assert all(part in str(signals.warnings) for part in ("4 censored", "xcp_d 0.10.6 and", "n/a."))
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
    with pytest.raises(RunFailed, match=r"framewise_displacement.*--fd-threshold") as caught:
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
    with pytest.raises(RunFailed, match=rf"{T + 5} of {T + 9} volumes, but bold\.nii\.gz has {T}"):
        extract(bold, atlas, confounds=write_outliers(tmp_path, T + 9))
    motion = write_column(tmp_path / "motion.tsv", "framewise_displacement", np.zeros(T - 2))
    with pytest.raises(RunFailed, match=rf"motion\.tsv has {T - 2} rows, but the run has {T} volumes"):
        extract(bold, atlas, tables=(motion,))


def test_a_table_that_was_not_fetched(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    table = tmp_path / "outliers.tsv"
    table.symlink_to("../.git/annex/objects/x")
    with pytest.raises(RunSkipped, match=r"outliers\.tsv") as caught:
        extract(bold, atlas, confounds=table)
    assert caught.value.reason == "no_content"


def test_uncompressed_images_give_the_same(tmp_path: Path, atlas: Atlas) -> None:
    bold = write_bold(tmp_path / "bold.nii.gz", build_series("f4"))
    plain = tmp_path / "plain.nii"
    plain.write_bytes(gzip.decompress(bold.read_bytes()))
    assert nib.load(plain).shape == (*SHAPE, T)
    np.testing.assert_array_equal(extract(bold, atlas).values, extract(plain, atlas).values)
