"""Parcellated CIFTI series, beside tables and instead of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_semantoks.atlases.series_atlas import load_series_atlas
from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.records import Run
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
    with pytest.raises(RunFailed, match=r"has the axes SeriesAxis, BrainModelAxis; a series of parcels") as caught:
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
    with pytest.raises(RunFailed, match=r"No sidecar gives the RepetitionTime .*a\.ptseries\.nii"):
        read(write(tmp_path / "a.ptseries.nii", values, unit="HERTZ"))
