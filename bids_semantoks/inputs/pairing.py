"""Pair each BOLD image or series table with its other files: mask, confounds, motion, sidecars, and events."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from bids_semantoks.bids_names import (
    DERIVED_ENTITIES,
    TABLE_ENTITIES,
    BidsFile,
    group_by,
    natural_key,
    parse_names,
    sort_entities,
)
from bids_semantoks.errors import InputError
from bids_semantoks.files import is_missing, parse_table, read_text
from bids_semantoks.inputs.names import (
    CIFTI,
    GIFTI,
    VOLUMES,
    Derivative,
    Pipeline,
    find_above,
    is_series,
    is_surface_file,
    is_surface_series,
    is_volume_series,
    split_named,
)

Key = frozenset[tuple[str, str]]
KeyFunction = Callable[[BidsFile], Key]
# Finds the path of the companion of an image or table.
Finder = Callable[[BidsFile], str | None]

# Reduces an image, or a table of its run, to the entities that distinguish runs.
source_key: Final = operator.attrgetter("source")

# Pipelines include it in some files of a run and omit it from others.
_LOOSE: Final = ("part", "mag")


def drop(file: BidsFile, keys: Iterable[str]) -> Key:
    """Reduce a file to its entities except the given ones."""
    return frozenset([pair for pair in file.entities if pair[0] not in keys])


def image_key(file: BidsFile) -> Key:
    """Reduce an image or its mask to the entities they share."""
    return drop(file, ("desc",))


def run_key(table: BidsFile) -> Key:
    """Reduce the entities of a table, or of another file of its run, to those of the run."""
    return frozenset(pair for pair in table.source if pair[0] not in TABLE_ENTITIES)


def _build_finder(files: Sequence[BidsFile], kinds: Sequence[tuple[str, str | None]], key: KeyFunction) -> Finder:
    """Index the files of some (suffix, desc) kinds, best first; desc None accepts any, an empty one files without. A
    companion has the same `key`, else one that differs only in ``part-mag``. The nearest folder wins; only the image's
    folder and those above it are considered."""
    pool: dict[Key, list[BidsFile]] = {}
    for suffix, desc in kinds:
        for one in files:
            if one.suffix == suffix and desc in (None, one.entity("desc") or ""):
                pool.setdefault(key(one) - {_LOOSE}, []).append(one)

    def find(image: BidsFile) -> str | None:
        wanted = key(image)
        fitting = [one for one in pool.get(wanted - {_LOOSE}, ()) if is_above(one.path, image.path)]
        exact = [one for one in fitting if key(one) == wanted]
        nearest = max(exact or fitting, key=lambda one: one.path.count(os.sep), default=None)
        return nearest.path if nearest else None

    return find


def is_above(path: str, image: str) -> bool:
    """Return whether a file is in the folder of an image or above it (BIDS inheritance)."""
    return image.startswith(path.rpartition(os.sep)[0] + os.sep)


def describe_missing(image: BidsFile, expected: str, others: Sequence[BidsFile]) -> str:
    """Describe the missing companion of an image and the most similar file among `others`."""
    names = {os.path.basename(one.path): one.path for one in reversed(others)}  # noqa: PTH119 - no Path needed
    near = difflib.get_close_matches(expected, names, n=1, cutoff=0.0)
    if not near:
        return f"Expected {expected}; the participant has no such file."
    place = os.path.relpath(names[near[0]], os.path.dirname(image.path))  # noqa: PTH120
    return f"Expected {expected}; the closest match is {place}."


class Event(NamedTuple):
    """Row of an events table."""

    onset: float  # s, from the first volume of the run
    duration: float  # s
    label: str  # cell of the requested column


def find_event_roots(bids_dir: Path, derivatives: Sequence[str]) -> tuple[Path, ...]:
    """List the datasets to search for events: BIDS_DIR, the raw one above, derivatives given or nested in it."""
    above, inside = find_above(bids_dir), sorted((bids_dir.resolve() / "derivatives").glob("*"))
    named = [split_named(text)[1].resolve() for text in derivatives]
    roots = [bids_dir.resolve(), *([above] if above else []), *(path for path in (*named, *inside) if path.is_dir())]
    return tuple(dict.fromkeys(roots))


def find_events(entities: Mapping[str, str], roots: Sequence[Path]) -> Path | None:
    """Find a run's events table by BIDS inheritance, ignoring entities that only derivatives carry: the first of
    `roots` that has one decides, then the nearest folder, then the number of entities."""
    own = {(key, value) for key, value in entities.items() if key not in DERIVED_ENTITIES}
    parts = [f"sub-{entities['sub']}", *([f"ses-{entities['ses']}"] if "ses" in entities else []), "func"]
    for root in roots:
        for n in range(len(parts), -1, -1):
            found = parse_names(map(str, sorted(root.joinpath(*parts[:n]).glob("*_events.tsv"))))
            if fitting := [one for one in found if own.issuperset(one.entities)]:
                return Path(max(fitting, key=lambda one: len(one.entities)).path)
    return None


def read_events(path: Path, column: str) -> tuple[tuple[Event, ...], int]:
    """Read the rows with a label in `column`, sorted by onset, and count those dropped for lack of onset or duration.
    Raises InputError if the table is unreadable, lacks a column, or has times that are not in seconds."""
    try:
        names, rows, lines = parse_table(read_text(path), is_padded=True)
    except OSError as error:
        raise InputError(f"The events table {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"The events table {path} {error}.") from error
    missing = [name for name in ("onset", "duration", column) if rows and name not in names]
    if missing:
        raise InputError(
            f"The events table {path} has no column {', '.join(missing)}: found {', '.join(names)}.",
            hint="Choose another column with --task-blocks."
            if missing == [column]
            else "BIDS requires onset and duration, in seconds, in every events table.",
        )
    events, n_timeless = [], 0
    for number, row in zip(lines, rows, strict=True):
        start, length, label = (row[names.index(name)].strip() for name in ("onset", "duration", column))
        if is_missing(label):
            continue
        if is_missing(start) or is_missing(length):
            n_timeless += 1
            continue
        try:
            onset, duration = float(start), float(length)
        except ValueError:
            onset = duration = math.nan
        if not (math.isfinite(onset) and math.isfinite(duration) and duration >= 0):
            raise InputError(
                f"Line {number} of the events table {path} has onset {start!r} and duration {length!r}; expected "
                "seconds."
            )
        events.append(Event(onset, duration, label))
    return tuple(sorted(events, key=lambda event: event.onset)), n_timeless


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
    """Pair each BOLD image, CIFTI series or GIFTI pair of one participant with its mask and confounds. A mask shares
    all entities but ``desc`` with its image; confounds have exactly the entities that distinguish runs. Two files of
    one run and space are two candidates. `paths` must be sorted."""
    pipeline, listed = derivative.source, list(paths)
    parsed, own = _parse(listed, USEFUL_ENDS, label)
    find_mask = _build_finder([one for one in own if one.extension in VOLUMES], _MASKS, image_key)
    hcp_masks = [path for path in listed if os.path.basename(path).startswith(_HCP_MASK)]  # noqa: PTH119
    find_confounds = _build_finder(own, _OUTLIERS if pipeline.is_denoised else _CONFOUNDS, source_key)
    motion = _build_motion(own, source_key) if pipeline.is_denoised else ()
    # A pair of hemispheres is one run, so files with either hemisphere belong to it.
    sidecars = tuple(_drop_hemisphere(one) for one in parsed if one.suffix == "bold" and _is_json(one))
    volumes = [(image, None) for image in _find_volumes(own, pipeline)]
    found = []
    for image, partner in (*volumes, *_find_surface_files(own, pipeline)):
        mask = None if is_surface_file(image.path) else find_mask(image) or _find_hcp_mask(image, hcp_masks)
        confounds = find_confounds(image)
        found.append(
            Candidate(
                image=image,
                mask=mask,
                confounds=confounds,
                sidecars=sidecars,
                derivative=derivative,
                tables=_find_motion(motion, image),
                partner=partner,
                missing=() if pipeline.is_denoised else _describe_lacking(image, mask, confounds, own),
            )
        )
    return found


def _find_hcp_mask(image: BidsFile, masks: Sequence[str]) -> str | None:
    beside = [path for path in masks if os.path.dirname(path) == os.path.dirname(image.path)]  # noqa: PTH120
    return beside[0] if len(beside) == 1 else None


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


def _build_motion(own: Sequence[BidsFile], key: KeyFunction) -> tuple[Finder, ...]:
    return tuple(_build_finder(own, kinds, key) for kinds in (_MOTION, _FILTERED))


def _find_motion(finders: Iterable[Finder], one: BidsFile) -> tuple[str, ...]:
    """Find the motion tables of a run, the unfiltered one first."""
    return tuple(dict.fromkeys(path for find in finders if (path := find(one))))


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
    """Pair each parcel series table of one participant with its coverage, censored volumes and motion. Only means of an
    atlas or segmentation count, not raw signals; parcellated CIFTI is used only without a TSV equivalent."""
    parsed, own = _parse(paths, _SERIES_ENDS, label)
    coverages = [one for one in own if "coverage" in (one.entity("stat"), one.suffix) and one.extension == ".tsv"]
    find_coverage = _build_finder(coverages, (("bold", None), ("coverage", None)), _coverage_key)
    find_outliers = _build_finder(own, _OUTLIERS, run_key)
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
                mask=find_coverage(one),
                confounds=find_outliers(one),
                sidecars=inherited[folder],
                derivative=derivative,
                tables=_find_motion(motion, one),
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
    parsed = parse_names(path for path in paths if path.endswith(ends))
    return parsed, [one for one in parsed if one.entities[:1] == (("sub", label),)]


def _find_volumes(files: Iterable[BidsFile], pipeline: Pipeline) -> list[BidsFile]:
    """List a participant's images with the pipeline's preferred desc, by folder."""
    own = [file for file in files if is_volume_series(file, pipeline)]
    found = group_by(own, lambda file: (image_key(file), file.path.rpartition(os.sep)[0]))
    return [one for group in found.values() for one in _best_of(group, pipeline)]


def _best_of(group: Sequence[BidsFile], pipeline: Pipeline) -> list[BidsFile]:
    descs = [one.entity("desc") for one in group]
    best = next((desc for desc in (None, *pipeline.descs) if desc in descs), None)
    return [one for one, desc in zip(group, descs, strict=True) if desc == best]


def _find_surface_files(files: Iterable[BidsFile], pipeline: Pipeline) -> list[tuple[BidsFile, str | None]]:
    """List a participant's surface series, each with the path of the right hemisphere if its file is the left one. The
    hemisphere is dropped from the entities; the path is None for CIFTI or a missing hemisphere."""
    series = [file for file in files if is_surface_series(file, pipeline)]
    found = group_by(
        series, lambda file: (drop(file, ("hemi", "desc")), file.extension, file.path.rpartition(os.sep)[0])
    )
    whole: list[tuple[BidsFile, str | None]] = []
    for group in found.values():
        best = _best_of(group, pipeline)
        left, right = ([one for one in best if one.entity("hemi") == side] for side in ("L", "R"))
        partners = [right[i].path if i < len(right) else None for i in range(len(left))]
        firsts = [one for one in best if one.entity("hemi") is None] or left or right
        partners = partners if firsts is left else [None] * len(firsts)
        for one, path in zip(map(_drop_hemisphere, firsts), partners, strict=True):
            # CIFTI series of fMRIPrep 1.5 lack the only possible space in their names.
            own = [("space", "fsLR")] if one.extension == CIFTI and one.entity("space") is None else []
            whole.append((dataclasses.replace(one, entities=sort_entities((*one.entities, *own))), path))
    return whole


def _drop_hemisphere(file: BidsFile) -> BidsFile:
    """Drop the hemisphere from a file's entities, since it does not distinguish runs."""
    return dataclasses.replace(file, entities=tuple(pair for pair in file.entities if pair[0] != "hemi"))
