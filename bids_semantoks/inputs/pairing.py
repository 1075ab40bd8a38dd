"""Pair each BOLD image or series table with its other files, by strict equality of shared entities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bids_semantoks.bids_names import BidsFile, parse_name
from bids_semantoks.inputs.found import Candidate, Derivative
from bids_semantoks.inputs.names import SURFACE_ENDS, drop_hemisphere, find_surface_files

# A name matters by its end: of some 60 files of a participant few do, and only these are taken apart.
_IMAGE_ENDS: Final = ("_desc-preproc_bold.nii.gz", "_desc-preproc_bold.nii")


# Of a pipeline that denoises: its censored volumes, and how much the participant moved.
_OUTLIER_ENDS: Final = ("_outliers.tsv",)


_MOTION_ENDS: Final = ("_motion.tsv",)


_AROMA_ENDS: Final = ("_desc-aroma_timeseries.tsv",)


_MIXING_END: Final = "_desc-melodic_mixing.tsv"


_METRICS_END: Final = "_desc-aroma_metrics.tsv"


_MASK_ENDS: Final = ("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii")


# fMRIPrep wrote regressors up to 20.1.
_CONFOUND_ENDS: Final = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv")


_SIDECAR_ENDS: Final = ("bold.json",)


# Of a dataset of series: tables, what stands beside them, and sidecars of images, which may say more than the tables'.
_SERIES_ENDS: Final = ("timeseries.tsv", "timeseries.ptseries.nii", "timeseries.json", "_bold.tsv", "bold.json")


USEFUL_ENDS: Final = (*_IMAGE_ENDS, *SURFACE_ENDS, *_MASK_ENDS, *_CONFOUND_ENDS, *_SIDECAR_ENDS)


# What a table of series names besides its run: none of it is in the names of the run's other files.
_TABLE_ENTITIES: Final = frozenset({"atlas", "seg", "scale", "stat", "label"})


_Key = frozenset[tuple[str, str]]


def pair_files(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair each BOLD image, CIFTI series or GIFTI pair of one participant with its mask and confounds.

    A mask shares all entities but ``desc`` with its image; confounds have exactly the entities that distinguish runs.
    Other files, and those of another participant, are skipped. `paths` must be sorted.
    """
    image_ends, is_denoised = derivative.source.image_ends, derivative.source.is_denoised
    useful = (*USEFUL_ENDS, *image_ends, *(_OUTLIER_ENDS + _MOTION_ENDS if is_denoised else ()))
    parsed = [one for path in paths if path.endswith(useful) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    images = _first_of_each(own, image_ends)
    masks = _first_of_each(own, _MASK_ENDS)
    confounds = _first_of_each(own, _OUTLIER_ENDS if is_denoised else _CONFOUND_ENDS)
    motion = _first_of_each(own, _MOTION_ENDS) if is_denoised else {}
    sidecars = tuple(one for one in parsed if one.suffix == "bold" and one.extension == ".json")
    # A pair of hemispheres is one run, so what stands beside one of them is that run's.
    sidecars = tuple(map(drop_hemisphere, sidecars))
    found: list[tuple[BidsFile, str | None, str | None]]
    found = [(image, masks[key].path if key in masks else None, None) for key, image in images.items()]
    found += [(image, None, partner) for image, partner in find_surface_files(own, derivative.source)]
    return [
        Candidate(
            image=image,
            mask=mask,
            confounds=confounds[image.source].path if image.source in confounds else None,
            sidecars=sidecars,
            derivative=derivative,
            tables=(motion[image.source].path,) if image.source in motion else (),
            partner=partner,
        )
        for image, mask, partner in found
    ]


def find_components(paths: Iterable[str], label: str) -> dict[_Key, tuple[str, ...]]:
    """Map each run of a participant to its fMRIPost-AROMA noise components, else to its mixing matrix and metrics."""
    ends = (*_AROMA_ENDS, _MIXING_END, _METRICS_END)
    parsed = [one for path in paths if path.endswith(ends) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    metrics = {one.source: one.path for one in own if one.path.endswith(_METRICS_END)}
    found = {
        one.source: (one.path, metrics[one.source])
        for one in own
        if one.path.endswith(_MIXING_END) and one.source in metrics
    }
    return found | {one.source: (one.path,) for one in own if one.path.endswith(_AROMA_ENDS)}


def pair_series(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair each parcel series table of one participant with its coverage, censored volumes and motion.

    Only means of an atlas or segmentation count, not raw signals; parcellated CIFTI counts if it has no TSV equivalent.
    """
    ends = (*_SERIES_ENDS, *_OUTLIER_ENDS, *_MOTION_ENDS)
    parsed = [one for path in paths if path.endswith(ends) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    coverages = {_drop(one, ("stat", "desc")): one.path for one in own if dict(one.entities).get("stat") == "coverage"}
    outliers = {run_key(one): one.path for one in own if one.suffix == "outliers"}
    motion = {run_key(one): (one.path,) for one in own if one.suffix == "motion"}
    sidecars = tuple(one for one in parsed if one.suffix in ("timeseries", "bold") and one.extension == ".json")
    tables = {_drop(one, ("den",)) for one in own if one.extension == ".tsv"}
    return [
        Candidate(
            image=one,
            mask=coverages.get(_drop(one, ("stat", "desc"))),
            confounds=outliers.get(run_key(one)),
            sidecars=sidecars,
            derivative=derivative,
            tables=motion.get(run_key(one), ()),
        )
        for one in own
        if _is_series(one) and (one.extension == ".tsv" or _drop(one, ("den",)) not in tables)
    ]


def run_key(table: BidsFile) -> frozenset[tuple[str, str]]:
    """Reduce the entities of a table, or of another file of its run, to those of the run."""
    return frozenset(pair for pair in table.source if pair[0] not in _TABLE_ENTITIES)


def _is_series(table: BidsFile) -> bool:
    keys = dict(table.entities)
    return (
        table.suffix == "timeseries"
        and table.extension in (".tsv", ".ptseries.nii")
        and ("atlas" in keys or "seg" in keys)
        and keys.get("stat", "mean") == "mean"
        and not keys.get("desc", "").lower().startswith("raw")
    )


def _drop(file: BidsFile, keys: tuple[str, ...]) -> _Key:
    return frozenset(pair for pair in file.entities if pair[0] not in keys)


def _first_of_each(files: list[BidsFile], ends: tuple[str, ...]) -> dict[_Key, BidsFile]:
    """Index files by their entities except desc; on a tie, the ending listed first wins."""
    found: dict[_Key, BidsFile] = {}
    for end in ends:
        for one in files:
            if one.path.endswith(end):
                found.setdefault(frozenset(pair for pair in one.entities if pair[0] != "desc"), one)
    return found
