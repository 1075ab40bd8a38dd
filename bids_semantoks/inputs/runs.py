"""Participants and runs of a call: each BOLD image with its mask, confounds, repetition time and entities."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from bids_semantoks.bids_names import BidsFile, group_by, sorted_naturally
from bids_semantoks.config import AppConfig, SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.files import read_rows
from bids_semantoks.inputs.accounting import UnreadRun
from bids_semantoks.inputs.datasets import Dataset, check_out_dir, find_dataset
from bids_semantoks.inputs.found import (
    choose_parts_or_whole,
    describe_archives,
    describe_nearest_files,
    find_candidates,
)
from bids_semantoks.inputs.layouts import find_layout_participants
from bids_semantoks.inputs.names import find_participant_labels, find_roots, is_surface_file
from bids_semantoks.inputs.pairing import Candidate, rank_density
from bids_semantoks.inputs.repetition_time import (
    StatedTime,
    check_layout_time,
    find_raw_sidecars,
    find_root_sidecars,
    find_stated_time,
)
from bids_semantoks.inputs.selection import check_known, describe_labels, keep_known, read_labels
from bids_semantoks.records import Run

LOG = logging.getLogger(__name__)
DEFAULT_SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "fsLR")


def find_participants(dataset: Dataset, selection: SelectionConfig) -> tuple[str, ...]:
    """List the participants to process, without ``sub-``, in natural order; all if none is requested. InputError, with
    the closest match, for an unknown label, or if none remain after exclusion."""
    asked = read_labels(selection.participant_label, "sub-")
    excluded = set(read_labels(selection.exclude_participant_label, "sub-"))
    roots, layout = [one.path for one in dataset.derivatives], dataset.layout
    if asked and not layout and all(any((root / f"sub-{label}").is_dir() for root in roots) for label in asked):
        chosen = set(asked)
    else:
        found = map(find_participant_labels, roots) if layout is None else [find_layout_participants(roots[0], layout)]
        known = {label for labels in found for label in labels}
        if not known:
            _refuse_no_participant(dataset)
        if layout and (packed := describe_archives(roots[0], layout)):
            LOG.warning("Some data in %s cannot be read. %s", roots[0], packed)
        is_lenient = selection.ignore_missing_participants
        chosen = set(keep_known(asked, known, dataset.where, is_lenient=is_lenient)) or known
    left = sorted_naturally(chosen - excluded)
    if not left:
        raise InputError(
            f"No participants left: {describe_labels(chosen)} selected, all of them excluded.",
            hint="Check --participant-label and --exclude-participant-label.",
        )
    if unknown := excluded - chosen:
        LOG.warning("Excluded participants that were not selected in the first place: %s", describe_labels(unknown))
    return left


def _refuse_no_participant(dataset: Dataset) -> NoReturn:
    first = dataset.derivatives[0].path
    if (layout := dataset.layout) is not None:
        expected, hint = describe_nearest_files(first, layout)
        raise InputError(
            f"{dataset.where} contains no participants in layout {layout.name}: {expected}.",
            hint=describe_archives(first, layout) or hint,
        )
    zipped = sorted(path.name for path in first.glob("sub-*.zip"))
    raise InputError(
        f"{dataset.where} contains no participants: expected folders named sub-*.",
        hint=f"It contains {len(zipped)} archives such as {zipped[0]}; unpack them first." if zipped else "",
    )


def find_runs(
    dataset: Dataset, selection: SelectionConfig, participants: Sequence[str], *, preferred_spaces: tuple[str, ...] = ()
) -> tuple[Run, ...]:
    """List the runs to process in one space, in natural order of their entities.

    `preferred_spaces` (the atlas's, best first) precede the defaults if no space is selected. The
    finest resolution wins: numbered ``res`` ascending, then the native grid (no ``res``), then other
    labels. Runs without an image in this space, and those whose names cannot be read, come last, with a problem.
    Raises InputError if nothing is selected, or if two files or datasets hold the same run.
    """
    candidates, unread = find_candidates(dataset, selection, participants)
    if not candidates:
        return tuple(build_unread(unread, _guess_space(unread, selection.space, preferred_spaces)))
    space, modifiers = choose_space(candidates, selection.space, preferred_spaces)
    inside = [
        one
        for one in candidates
        if one.image.entity("space") == space and all(_value_of(one, key) == value for key, value in modifiers)
    ]
    _check_cohorts(inside, space)
    chosen = sorted(_choose_finest(inside), key=lambda one: one.order)
    by_source: dict[frozenset[tuple[str, str]], Candidate] = {}
    for one in chosen:
        if (other := by_source.setdefault(one.image.source, one)) is not one:
            refuse_datasets(other.image.path, one.image.path)
    wanted = ":".join([space, *(f"{key}-{value}" for key, value in modifiers)])
    elsewhere = _find_elsewhere(candidates, chosen, wanted)
    chosen = choose_parts_or_whole(chosen, selection.combined_runs)
    inherited = {path: find_root_sidecars(path) for path in {one.derivative.path for one in (*chosen, *elsewhere)}}
    runs = [build_run(one, inherited[one.derivative.path], dataset.raw_root) for one in chosen]
    for run, one in zip(runs, chosen, strict=True):
        if dataset.layout is not None and not dataset.layout.is_shipped and one.repetition_time is not None:
            check_layout_time(run, dataset.layout.name, one.repetition_time)
    for one in elsewhere:
        problem = f"The run has no image in {wanted}; found {one.image.path}."
        runs.append(replace(build_run(one, inherited[one.derivative.path]), problem=problem))
    return (*runs, *build_unread(unread, space))


def _guess_space(unread: Sequence[UnreadRun], asked: str | None, preferred: tuple[str, ...]) -> str:
    """Choose a space for runs that cannot be read: the requested one, one in their names, or the first choice."""
    if asked is not None:
        return _split_space(asked)[0]
    stated = {one.as_file().entity("space") for one in unread}
    # The atlas must load although it is not used.
    choices = preferred or DEFAULT_SPACES
    return next((space for space in choices if space in stated), choices[0])


def build_unread(unread: Sequence[UnreadRun], space: str) -> Iterator[Run]:
    """Build the records of runs whose names cannot be read, so that each gets a status."""
    for one in unread:
        yield Run(
            entities=(*one.entities, *((("space", space),) if space else ())),
            bold=Path(one.path),
            mask=None,
            confounds=None,
            repetition_time=None,
            pipeline=one.derivative.pipeline,
            dataset=one.derivative.path,
            problem=f"The name of {one.path} cannot be interpreted: {one.why}. Rename the run's files or use --layout.",
            reason="unreadable_name",
        )


def _choose_finest(inside: Sequence[Candidate]) -> list[Candidate]:
    """Choose the finest image of each run; InputError if two files have the same entities."""
    by_run = group_by(inside, lambda one: (one.derivative.path, one.image.source))
    finest = []
    for versions in by_run.values():
        ranks = [(rank_density(one.image), rank_coarseness(one)) for one in versions]
        finest.append([one for one, rank in zip(versions, ranks, strict=True) if rank == min(ranks)])
    if twice := [some for some in finest if len(some) > 1]:
        refuse_twins(twice[0][0].image.path, twice[0][1].image.path, len(twice))
    return [first for first, *_ in finest]


def refuse_twins(first: str, second: str, n_runs: int = 1) -> NoReturn:
    """Raise InputError for two files with the entities of one run, the first of `n_runs` such pairs."""
    more = f" ({n_runs} runs are affected)" if n_runs > 1 else ""
    raise InputError(
        f"Two files have the entities of one run: {first} and {second}{more}.",
        hint="Remove one, or distinguish them with an entity such as ses- or run-.",
    )


def refuse_datasets(first: str, second: str) -> NoReturn:
    """Raise InputError for one run in two datasets, whose outputs would share a name."""
    raise InputError(
        f"Two datasets contain the same run: {first} and {second}.",
        hint="Process one derivative dataset at a time, each with its own OUT_DIR.",
    )


def _find_elsewhere(candidates: Sequence[Candidate], chosen: Sequence[Candidate], wanted: str) -> list[Candidate]:
    """List one image of each run that has none in this space, so that no run is dropped silently."""
    there = {one.image.source for one in chosen}
    # Echoes stay in native space and are represented by their optimal combination, which has no echo entity.
    missing = {
        source: one
        for one in candidates
        if (source := one.image.source) not in there
        and frozenset(pair for pair in source if pair[0] != "echo") not in there
    }
    if missing:
        names = [
            "_".join(f"{k}-{v}" for k, v in one.image.entities if (k, v) in source) for source, one in missing.items()
        ]
        LOG.warning("No BOLD image in space %s: %s", wanted, describe_labels(names))
    return sorted(missing.values(), key=lambda one: one.order)


def build_run(candidate: Candidate, inherited: Sequence[BidsFile], raw_root: Path | None = None) -> Run:
    """Build a run's record from its files, the sidecars that it inherits, and those of the raw dataset."""
    image, derivative = candidate.image, candidate.derivative
    try:
        stated, problem = _state_time(candidate, inherited, raw_root), ""
    except Exception as error:
        # One damaged file must not stop the search for others.
        LOG.debug("Reading the sidecars of %s", image.path, exc_info=True)
        problem = f"The sidecars of {image.path} cannot be read: {type(error).__name__}: {error!s:.200}."
        stated = StatedTime()
    return Run(
        entities=image.entities,
        bold=Path(image.path),
        mask=None if candidate.mask is None else Path(candidate.mask),
        confounds=None if candidate.confounds is None else Path(candidate.confounds),
        repetition_time=stated.value or candidate.repetition_time,
        time_source=stated.source,
        time_problems=stated.problems,
        is_default_time=not stated.value and derivative.layout is not None and derivative.layout.is_shipped,
        missing=candidate.missing,
        pipeline=derivative.pipeline,
        dataset=derivative.path,
        recognised=derivative.source.label,
        is_denoised=derivative.is_denoised,
        tables=tuple(map(Path, candidate.tables)),
        columns=candidate.columns,
        partner=None if candidate.partner is None else Path(candidate.partner),
        volumes=candidate.volumes,
        warp=None if candidate.warp is None else Path(candidate.warp),
        problem=problem,
        reason="internal" if problem else "space_mismatch",
    )


def _state_time(candidate: Candidate, inherited: Sequence[BidsFile], raw_root: Path | None) -> StatedTime:
    """Find the repetition time in the derivatives' sidecars, else the raw dataset's, else the layout."""
    image, layout = candidate.image, candidate.derivative.layout
    stated = find_stated_time(image, (*candidate.sidecars, *inherited))
    if stated.value is None and layout is not None:
        return replace(stated, source=f"the layout {layout.name}")
    if stated.value is None and not stated.is_absent and raw_root is not None:
        sidecars = find_raw_sidecars(raw_root, image.entity("sub") or "")
        raw = find_stated_time(image, sidecars, are_raw=True)
        return replace(raw, problems=(*stated.problems, *raw.problems))
    return stated


def choose_space(
    candidates: Sequence[Candidate], asked: str | None, preferred: tuple[str, ...]
) -> tuple[str, list[tuple[str, str]]]:
    """Choose a space, and the (key, value) entities that ``NAME:res-2`` adds to it. If none is requested: the first
    available of `preferred` and DEFAULT_SPACES, else a surface space if it is the only one. Raises InputError if the
    requested space, or every default, is absent."""
    there = sorted_naturally(space for one in candidates if (space := one.image.entity("space")))
    if asked is None:
        space = next((name for name in (*preferred, *DEFAULT_SPACES) if name in there), None)
        own = [one.image.path for one in candidates if one.image.entity("space") in there]
        if space is None and len(there) == 1 and all(map(is_surface_file, own)):
            space = there[0]
        if space is None:
            wanted = ", ".join(dict.fromkeys((*preferred, *DEFAULT_SPACES)))
            raise InputError(
                f"No BOLD image in a default space ({wanted}): found {', '.join(there) or 'native space only'}.",
                hint="Choose one with --space." if there else "Run fMRIPrep with --output-spaces.",
            )
        return space, []
    name, *parts = _split_space(asked)
    check_known("space", [name], there, "the names of the selected BOLD images")
    modifiers = []
    for part in parts:
        key, _, value = part.partition("-")
        values = {found for one in candidates if one.image.entity("space") == name and (found := _value_of(one, key))}
        check_known(f"{key} of space {name}", [value], values, f"--space {asked}")
        modifiers.append((key, value))
    return name, modifiers


def _split_space(asked: str) -> list[str]:
    """Split ``NAME:res-2:cohort-1``; file names spell NAME:cohort-1 as NAME+1 or NAME_cohort-1."""
    spelled = re.sub(r"\+([0-9]+)", r":cohort-\1", asked.removeprefix("space-"))
    return spelled.replace("_", ":").split(":")


def _value_of(candidate: Candidate, key: str) -> str | None:
    """Get the value of an entity; without ``res``, an image is on its ``native`` grid."""
    return candidate.image.entity(key) or ("native" if key == "res" else None)


def _check_cohorts(chosen: Sequence[Candidate], space: str) -> None:
    """Refuse several cohorts, with InputError: their templates differ, so one atlas cannot fit all."""
    cohorts = sorted_naturally(cohort for one in chosen if (cohort := one.image.entity("cohort")))
    if len(cohorts) > 1:
        raise InputError(
            f"Images in space {space} belong to {len(cohorts)} cohorts ({', '.join(cohorts)}) with different "
            "templates.",
            hint=f"Choose one, e.g. --space {space}:cohort-{cohorts[0]}, with a separate OUT_DIR.",
        )


def rank_coarseness(candidate: Candidate) -> tuple[int, int, str]:
    """Build a sorting key, finest first; TemplateFlow numbers resolutions from fine to coarse."""
    res = candidate.image.entity("res")
    if res is None or res == "native":
        return 1, 0, ""
    return (0, int(res), "") if res.isdecimal() else (2, 0, res)


def warn_of_missing(dataset: Dataset, selection: SelectionConfig, participants: Collection[str]) -> None:
    """Log participants of the dataset or its raw root who have no derivatives, unless some were selected."""
    if selection.participant_label or dataset.kind == "layout":
        return
    known = {*participants, *read_labels(selection.exclude_participant_label, "sub-")}
    _warn((dataset.root, dataset.raw_root), known, f"derivatives in {dataset.where}")


def warn_of_missing_outputs(bids_dir: Path, out_dir: Path, known: Collection[str]) -> None:
    """Log participants of a dataset, or of its raw dataset, who have no stored signals."""
    _warn(find_roots(bids_dir), known, f"signals in {out_dir}")


def find_absent(roots: Iterable[Path | None], known: Collection[str]) -> dict[str, Path]:
    """Find participants that datasets list but that are not in `known`: where each was found first, by label."""
    found: dict[str, Path] = {}
    for root in dict.fromkeys(roots):
        if root is not None and root.is_dir():
            found |= dict.fromkeys(find_listed(root) - set(known) - found.keys(), root)
    return found


def _warn(roots: Iterable[Path | None], known: Collection[str], what: str) -> None:
    by_root: dict[Path, set[str]] = {}
    for label, root in find_absent(roots, known).items():
        by_root.setdefault(root, set()).add(label)
    for root, absent in by_root.items():
        LOG.warning("Participants of %s without %s: %s", root, what, describe_labels(absent))


def find_listed(root: Path) -> set[str]:
    """Find the labels of the ``sub-*`` folders of a dataset and of its participants.tsv, if that can be read."""
    labels = set(find_participant_labels(root))
    try:
        rows = read_rows(root / "participants.tsv")
    except (OSError, ValueError):
        # Problems are reported by the functions that need the table.
        return labels
    return labels | {row.get("participant_id", "").strip().removeprefix("sub-") for row in rows} - {"", "n/a"}


def open_inputs(config: AppConfig) -> tuple[Dataset, tuple[str, ...]]:
    """Find the dataset of a call and its participants, without ``sub-``. Raises InputError or ConfigurationError for
    folders and labels that do not exist or cannot be used."""
    dataset = find_dataset(config.bids_dir, config.out_dir, config.selection)
    for sentence in (dataset.describe(), *dataset.describe_recognised()):
        LOG.info("%s", sentence)
    check_out_dir(config.bids_dir, config.out_dir, dataset, config.running.work_dir)
    participants = find_participants(dataset, config.selection)
    warn_of_missing(dataset, config.selection, participants)
    return dataset, participants
