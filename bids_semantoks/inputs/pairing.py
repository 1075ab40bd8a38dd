"""Pair each BOLD image or series table with its other files, by strict equality of shared entities."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from bids_semantoks.bids_names import BidsFile, natural_key, parse_name, sort_entities
from bids_semantoks.inputs.companions import (
    Key,
    KeyFunction,
    Pool,
    build_pool,
    describe_missing,
    drop,
    find_companion,
    image_key,
    is_above,
    run_key,
    source_key,
)
from bids_semantoks.inputs.names import (
    CIFTI,
    GIFTI,
    VOLUMES,
    is_series,
    is_surface_file,
    is_surface_series,
    is_volume_series,
)
from bids_semantoks.inputs.pipelines import Derivative, Pipeline

# Only names with these endings are parsed, a few of a participant's 60 or so files.
USEFUL_ENDS: Final = (
    *(f"_{suffix}{end}" for suffix in ("bold", "mask") for end in VOLUMES),
    f"_bold{CIFTI}",
    GIFTI,
    *(f"_{suffix}.tsv" for suffix in ("timeseries", "regressors", "outliers", "motion")),
    "bold.json",
    "bold.dtseries.json",
)

# (suffix, desc), best first. fMRIPrep wrote regressors up to 20.1.
_MASKS: Final = (("mask", "brain"),)
_CONFOUNDS: Final = (("timeseries", "confounds"), ("regressors", "confounds"))

# From a denoising pipeline: censored volumes, and motion (unfiltered, if there is also a filtered table).
_OUTLIERS: Final = (("outliers", None),)
_MOTION: Final = (("motion", ""), ("motion", None))
_FILTERED: Final = (("motion", "filtered"),)

# HCP pipelines name the mask after the resolution (2 or 2.0) and store it next to the run.
_HCP_MASK: Final = "brainmask_fs."
# ICA-AROMA: noise components, else the mixing matrix and the classification of its components.
_COMPONENTS: Final = (("timeseries", "aroma"), ("mixing", "melodic"), ("metrics", "aroma"))

# In a series dataset: tables, their companions, and image sidecars, which may have more metadata.
_SERIES_ENDS: Final = (
    *("timeseries.tsv", "timeseries.ptseries.nii", "_bold.tsv", "_coverage.tsv", "_outliers.tsv", "_motion.tsv"),
    *("timeseries.json", "timeseries.ptseries.json", "bold.json", "bold.dtseries.json"),
)

# The standard densities of template surfaces come first: atlases are made for them.
_DENSITIES: Final = ("91k", "32k", "10k", "170k", "59k", "41k", "164k")


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
    volumes: str = "rows"  # of a series table: rows or columns; empty if unstated
    warp: str | None = None  # field to the template space if image is in native space
    missing: tuple[tuple[str, str], ...] = ()  # (mask or confounds, expected file and closest match)
    parts: tuple[Candidate, ...] = ()  # runs of which this one may be a concatenation, by name

    @property
    def order(self) -> tuple[tuple[tuple[tuple[int, int, str], ...], ...], str]:
        """Sorting key: entities in BIDS order, numbers by value; then the path."""
        return tuple(natural_key(f"{key}-{value}") for key, value in self.image.entities), self.image.path


def pair_files(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair each BOLD image, CIFTI series or GIFTI pair of one participant with its mask and confounds.

    A mask shares all entities but ``desc`` with its image; confounds have exactly the entities that distinguish runs.
    Other files, and those of other participants, are skipped. Two files of one run and space are two candidates.
    `paths` must be sorted.
    """
    pipeline, listed = derivative.source, list(paths)
    parsed, own = _parse(listed, USEFUL_ENDS, label)
    masks = build_pool([one for one in own if one.extension in VOLUMES], _MASKS, image_key)
    hcp_masks = [path for path in listed if os.path.basename(path).startswith(_HCP_MASK)]  # noqa: PTH119
    tables = build_pool(own, _OUTLIERS if pipeline.is_denoised else _CONFOUNDS, source_key)
    motion = _build_motion(own, source_key) if pipeline.is_denoised else ()
    # A pair of hemispheres is one run, so files with either hemisphere belong to it.
    sidecars = tuple(_drop_hemisphere(one) for one in parsed if one.suffix == "bold" and _is_json(one))
    volumes = [(image, None) for image in _find_volumes(own, pipeline)]
    found = []
    for image, partner in (*volumes, *_find_surface_files(own, pipeline)):
        mask = None if is_surface_file(image.path) else _find_mask(image, masks, hcp_masks)
        confounds = find_companion(tables, image, source_key)
        found.append(
            Candidate(
                image=image,
                mask=mask,
                confounds=confounds,
                sidecars=sidecars,
                derivative=derivative,
                tables=_find_motion(motion, image, source_key),
                partner=partner,
                missing=() if pipeline.is_denoised else _describe_lacking(image, mask, confounds, own),
            )
        )
    return found


def _find_mask(image: BidsFile, masks: Pool, hcp_masks: Sequence[str]) -> str | None:
    beside = [path for path in hcp_masks if os.path.dirname(path) == os.path.dirname(image.path)]  # noqa: PTH120
    return find_companion(masks, image, image_key) or (beside[0] if len(beside) == 1 else None)


def _describe_lacking(
    image: BidsFile, mask: str | None, confounds: str | None, own: Sequence[BidsFile]
) -> tuple[tuple[str, str], ...]:
    missing = []
    if mask is None and not is_surface_file(image.path):
        there = [one for one in own if one.suffix == "mask"]
        expected = f"{_join(image_key(image), image)}_desc-brain_mask.nii.gz"
        missing.append(("mask", describe_missing(image, expected, there)))
    if confounds is None:
        there = [one for one in own if one.suffix in ("timeseries", "regressors")]
        expected = f"{_join(image.source, image)}_desc-confounds_timeseries.tsv"
        missing.append(("confounds", describe_missing(image, expected, there)))
    return tuple(missing)


def _build_motion(own: Iterable[BidsFile], key: KeyFunction) -> tuple[Pool, ...]:
    return tuple(build_pool(own, kinds, key) for kinds in (_MOTION, _FILTERED))


def _find_motion(pools: Iterable[Pool], one: BidsFile, key: KeyFunction) -> tuple[str, ...]:
    """Find the motion tables of a run, the unfiltered one first."""
    found = [find_companion(pool, one, key) for pool in pools]
    return tuple(dict.fromkeys(path for path in found if path))


def _join(key: Key, image: BidsFile) -> str:
    """Join the entities of a key in the image's order."""
    return "_".join(f"{name}-{label}" for name, label in image.entities if (name, label) in key)


def find_components(paths: Iterable[str], label: str) -> dict[Key, tuple[str, ...]]:
    """Map each run of a participant to its fMRIPost-AROMA noise components, else to its mixing matrix and metrics."""
    _, own = _parse(paths, tuple(f"_{suffix}.tsv" for suffix, _ in _COMPONENTS), label)
    aroma, mixing, metrics = (
        {one.source: one.path for one in own if (one.suffix, one.entity("desc")) == kind} for kind in _COMPONENTS
    )
    found = {source: (path, metrics[source]) for source, path in mixing.items() if source in metrics}
    return found | {source: (path,) for source, path in aroma.items()}


def pair_series(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair each parcel series table of one participant with its coverage, censored volumes and motion.

    Only means of an atlas or segmentation count, not raw signals; parcellated CIFTI is used only without a TSV
    equivalent.
    """
    parsed, own = _parse(paths, _SERIES_ENDS, label)
    coverages = build_pool(
        [one for one in own if "coverage" in (one.entity("stat"), one.suffix) and one.extension == ".tsv"],
        (("bold", None), ("coverage", None)),
        _coverage_key,
    )
    outliers = build_pool(own, _OUTLIERS, run_key)
    motion = _build_motion(own, run_key)
    sidecars = [one for one in parsed if one.suffix in ("timeseries", "bold") and _is_json(one)]
    tables = {drop(one, ("den",)) for one in own if one.extension == ".tsv"}
    inherited: dict[str, tuple[BidsFile, ...]] = {}
    found = []
    for one in own:
        if not is_series(one) or (one.extension != ".tsv" and drop(one, ("den",)) in tables):
            continue
        folder = one.path.rpartition(os.sep)[0]
        if folder not in inherited:
            inherited[folder] = tuple(sidecar for sidecar in sidecars if is_above(sidecar.path, one.path))
        found.append(
            Candidate(
                image=one,
                mask=find_companion(coverages, one, _coverage_key),
                confounds=find_companion(outliers, one, run_key),
                sidecars=inherited[folder],
                derivative=derivative,
                tables=_find_motion(motion, one, run_key),
            )
        )
    return found


def _coverage_key(table: BidsFile) -> Key:
    return drop(table, ("stat", "desc"))


def _is_json(file: BidsFile) -> bool:
    return file.extension.endswith(".json")


def rank_density(file: BidsFile) -> tuple[int, int, str]:
    """Build a sorting key for the files of a run in one space: image, CIFTI, GIFTI; usual densities first."""
    if not is_surface_file(file.path):
        return 0, 0, ""
    density = file.entity("den") or ""
    rank = _DENSITIES.index(density) if density in _DENSITIES else len(_DENSITIES)
    return (CIFTI, GIFTI).index(file.extension) + 1, rank, density


def _parse(paths: Iterable[str], ends: tuple[str, ...], label: str) -> tuple[list[BidsFile], list[BidsFile]]:
    """Parse the files with these endings: all of them, and those with the participant's label."""
    parsed = [one for path in paths if path.endswith(ends) and (one := parse_name(path)) is not None]
    return parsed, [one for one in parsed if one.entities[:1] == (("sub", label),)]


def _find_volumes(files: Iterable[BidsFile], pipeline: Pipeline) -> list[BidsFile]:
    """List a participant's images with the pipeline's preferred desc, by folder."""
    found: dict[tuple[Key, str], list[BidsFile]] = {}
    for file in files:
        if is_volume_series(file, pipeline):
            found.setdefault((image_key(file), file.path.rpartition(os.sep)[0]), []).append(file)
    return [one for group in found.values() for one in _best_of(group, pipeline)]


def _best_of(group: Sequence[BidsFile], pipeline: Pipeline) -> list[BidsFile]:
    descs = [one.entity("desc") for one in group]
    best = next((desc for desc in (None, *pipeline.descs) if desc in descs), None)
    return [one for one, desc in zip(group, descs, strict=True) if desc == best]


def _find_surface_files(files: Iterable[BidsFile], pipeline: Pipeline) -> list[tuple[BidsFile, str | None]]:
    """List a participant's surface series, each with the path of the right hemisphere if its file is the left one.

    The hemisphere is dropped from the entities; the path is None for CIFTI or a missing hemisphere.
    """
    found: dict[tuple[Key, str, str], list[BidsFile]] = {}
    for file in files:
        if is_surface_series(file, pipeline):
            key = drop(file, ("hemi", "desc")), file.extension, file.path.rpartition(os.sep)[0]
            found.setdefault(key, []).append(file)
    whole: list[tuple[BidsFile, str | None]] = []
    for group in found.values():
        best = _best_of(group, pipeline)
        left, right = ([one for one in best if one.entity("hemi") == side] for side in ("L", "R"))
        partners = [right[i].path if i < len(right) else None for i in range(len(left))]
        firsts = [one for one in best if one.entity("hemi") is None] or left or right
        partners = partners if firsts is left else [None] * len(firsts)
        whole += [(_drop_hemisphere(_fill_space(one)), path) for one, path in zip(firsts, partners, strict=True)]
    return whole


def _fill_space(file: BidsFile) -> BidsFile:
    """Add the only possible space to CIFTI series of fMRIPrep 1.5, whose names lack it."""
    if file.extension != CIFTI or file.entity("space") is not None:
        return file
    return dataclasses.replace(file, entities=sort_entities((*file.entities, ("space", "fsLR"))))


def _drop_hemisphere(file: BidsFile) -> BidsFile:
    """Drop the hemisphere from a file's entities, since it does not distinguish runs."""
    if not any(key == "hemi" for key, _ in file.entities):
        return file
    return dataclasses.replace(file, entities=tuple(pair for pair in file.entities if pair[0] != "hemi"))
