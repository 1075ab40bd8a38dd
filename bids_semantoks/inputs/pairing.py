"""Pair each BOLD image or series table with its other files, by strict equality of shared entities."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bids_semantoks.bids_names import TABLE_ENTITIES, BidsFile, natural_key, parse_name
from bids_semantoks.inputs.names import CIFTI, GIFTI, is_read, is_surface_file
from bids_semantoks.inputs.pipelines import Derivative, Pipeline

# Only names with these endings are parsed: few of some 60 files of a participant.
_IMAGE_ENDS: Final = ("_desc-preproc_bold.nii.gz", "_desc-preproc_bold.nii")

_SURFACE_ENDS: Final = (f"_bold{CIFTI}", f"_bold{GIFTI}")
_MASK_ENDS: Final = ("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii")

# fMRIPrep wrote regressors up to 20.1.
_CONFOUND_ENDS: Final = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv")

USEFUL_ENDS: Final = (*_IMAGE_ENDS, *_SURFACE_ENDS, *_MASK_ENDS, *_CONFOUND_ENDS, "bold.json", "bold.dtseries.json")

# From a pipeline that denoises: censored volumes, and motion.
_OUTLIERS_END: Final = "_outliers.tsv"

_MOTION_END: Final = "_motion.tsv"
_AROMA_END: Final = "_desc-aroma_timeseries.tsv"
_MIXING_END: Final = "_desc-melodic_mixing.tsv"
_METRICS_END: Final = "_desc-aroma_metrics.tsv"

# In a dataset of series: tables, their companions, and sidecars of images, which may say more than the tables'.
_SERIES_ENDS: Final = (
    *("timeseries.tsv", "timeseries.ptseries.nii", "_bold.tsv", "_coverage.tsv"),
    *("timeseries.json", "timeseries.ptseries.json", "bold.json", "bold.dtseries.json"),
)

# The usual densities of template surfaces come first: atlases are made for them.
_DENSITIES: Final = ("91k", "32k", "10k", "170k", "59k", "41k", "164k")

_Key = frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Preprocessed BOLD image or parcel series table in any space, with its files."""

    image: BidsFile  # the BOLD image or the table
    mask: str | None  # for a table, the coverage of its parcels
    confounds: str | None  # for a table or a denoised image, the censored volumes
    sidecars: tuple[BidsFile, ...]  # the participant's *_bold.json; for a table also its *_timeseries.json
    derivative: Derivative
    tables: tuple[str, ...] = ()  # of the run: ICA-AROMA components, or motion
    partner: str | None = None  # right hemisphere if image is the left
    columns: tuple[str, ...] = ()  # of motion regressors without a header
    repetition_time: float | None = None  # s, of a layout
    volumes: str = "rows"  # of a table of series: rows or columns; empty where nothing says so
    warp: str | None = None  # field to the template space if image is in native space

    @property
    def order(self) -> tuple[tuple[tuple[tuple[int, int, str], ...], ...], str]:
        """Sorting key: entities in BIDS order, numbers by value; then the path."""
        return tuple(natural_key(f"{key}-{value}") for key, value in self.image.entities), self.image.path


def pair_files(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair each BOLD image, CIFTI series or GIFTI pair of one participant with its mask and confounds.

    A mask shares all entities but ``desc`` with its image; confounds have exactly the entities that distinguish runs.
    Other files, and those of another participant, are skipped. `paths` must be sorted.
    """
    pipeline = derivative.source
    image_ends, is_denoised = pipeline.image_ends, pipeline.is_denoised
    useful = (*USEFUL_ENDS, *image_ends, *((_OUTLIERS_END, _MOTION_END) if is_denoised else ()))
    parsed, own = _parse(paths, useful, label)
    images = _first_of_each(own, image_ends)
    masks = _first_of_each(own, _MASK_ENDS)
    confounds = _first_of_each(own, (_OUTLIERS_END,) if is_denoised else _CONFOUND_ENDS)
    motion = _find_motion(own) if is_denoised else {}
    sidecars = [one for one in parsed if one.suffix == "bold" and one.extension.endswith(".json")]
    # A pair of hemispheres is one run, so files that name one of them are that run's.
    own_sidecars = tuple(map(_drop_hemisphere, sidecars))
    found: list[tuple[BidsFile, str | None, str | None]]
    found = [(image, masks[key].path if key in masks else None, None) for key, image in images.items()]
    found += [(image, None, partner) for image, partner in _find_surface_files(own, pipeline)]
    return [
        Candidate(
            image=image,
            mask=mask,
            confounds=confounds[run].path if run in confounds else None,
            sidecars=own_sidecars,
            derivative=derivative,
            tables=motion.get(run, ()),
            partner=partner,
        )
        for image, mask, partner in found
        for run in (image.source,)
    ]


def find_components(paths: Iterable[str], label: str) -> dict[_Key, tuple[str, ...]]:
    """Map each run of a participant to its fMRIPost-AROMA noise components, else to its mixing matrix and metrics."""
    _, own = _parse(paths, (_AROMA_END, _MIXING_END, _METRICS_END), label)
    metrics = {one.source: one.path for one in own if one.path.endswith(_METRICS_END)}
    found = {
        one.source: (one.path, metrics[one.source])
        for one in own
        if one.path.endswith(_MIXING_END) and one.source in metrics
    }
    return found | {one.source: (one.path,) for one in own if one.path.endswith(_AROMA_END)}


def pair_series(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair each parcel series table of one participant with its coverage, censored volumes and motion.

    Only means of an atlas or segmentation count, not raw signals; parcellated CIFTI counts if it has no TSV equivalent.
    """
    parsed, own = _parse(paths, (*_SERIES_ENDS, _OUTLIERS_END, _MOTION_END), label)
    coverages = {
        _drop(one, ("stat", "desc")): one.path for one in own if "coverage" in (one.entity("stat"), one.suffix)
    }
    outliers = {run_key(one): one.path for one in own if one.suffix == "outliers"}
    motion = _find_motion(own)
    sidecars = tuple(one for one in parsed if one.suffix in ("timeseries", "bold") and one.extension.endswith(".json"))
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


def _find_motion(files: Iterable[BidsFile]) -> dict[_Key, tuple[str]]:
    """Map each run to its table of motion: as measured, where another one was filtered."""
    found: dict[_Key, tuple[str]] = {}
    for one in files:
        if one.suffix == "motion" and (one.entity("desc") is None or run_key(one) not in found):
            found[run_key(one)] = (one.path,)
    return found


def run_key(table: BidsFile) -> _Key:
    """Reduce the entities of a table, or of another file of its run, to those of the run."""
    return frozenset([pair for pair in table.source if pair[0] not in TABLE_ENTITIES])


def rank_density(file: BidsFile) -> tuple[int, int, str]:
    """Build a sorting key for the files of a run in one space: image, CIFTI, GIFTI; usual densities first."""
    if not is_surface_file(file.path):
        return 0, 0, ""
    density = file.entity("den") or ""
    rank = _DENSITIES.index(density) if density in _DENSITIES else len(_DENSITIES)
    return (CIFTI, GIFTI).index(file.extension) + 1, rank, density


def _parse(paths: Iterable[str], ends: tuple[str, ...], label: str) -> tuple[list[BidsFile], list[BidsFile]]:
    """Parse the files with these ends: all of them, and those that name the participant."""
    parsed = [one for path in paths if path.endswith(ends) and (one := parse_name(path)) is not None]
    return parsed, [one for one in parsed if one.entities[:1] == (("sub", label),)]


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
    return frozenset([pair for pair in file.entities if pair[0] not in keys])


def _first_of_each(files: list[BidsFile], ends: tuple[str, ...]) -> dict[_Key, BidsFile]:
    """Index files by their entities except desc; on a tie, the ending listed first wins."""
    found: dict[_Key, BidsFile] = {}
    for end in ends:
        for one in files:
            if one.path.endswith(end):
                found.setdefault(_drop(one, ("desc",)), one)
    return found


def _find_surface_files(files: Iterable[BidsFile], pipeline: Pipeline) -> list[tuple[BidsFile, str | None]]:
    """List a participant's surface series, each with the path of the right hemisphere if its file is the left one.

    The hemisphere is dropped from the entities; the path is None for CIFTI or a missing hemisphere.
    """
    found: dict[tuple[_Key, str], dict[str, BidsFile]] = {}
    for file in files:
        keys = dict(file.entities)
        hemisphere = keys.get("hemi", "")
        is_whole = file.extension == CIFTI and not hemisphere
        is_half = file.extension == GIFTI and hemisphere in ("L", "R")
        if file.suffix == "bold" and (is_whole or is_half) and is_read(keys.get("desc"), pipeline):
            pair = found.setdefault((_drop(file, ("hemi", "desc")), file.extension), {})
            if hemisphere not in pair or _rank_desc(file, pipeline) < _rank_desc(pair[hemisphere], pipeline):
                pair[hemisphere] = file
    whole: list[tuple[BidsFile, str | None]] = []
    for pair in found.values():
        first = pair.get("") or pair.get("L") or pair["R"]
        right = pair.get("R") if "L" in pair else None
        whole.append((_drop_hemisphere(first), right.path if right else None))
    return whole


def _drop_hemisphere(file: BidsFile) -> BidsFile:
    """Drop the hemisphere from a file's entities, since it does not distinguish runs."""
    if not any(key == "hemi" for key, _ in file.entities):
        return file
    return dataclasses.replace(file, entities=tuple(pair for pair in file.entities if pair[0] != "hemi"))


def _rank_desc(file: BidsFile, pipeline: Pipeline) -> int:
    desc = file.entity("desc")
    return pipeline.descs.index(desc) + 1 if desc in pipeline.descs else 0
