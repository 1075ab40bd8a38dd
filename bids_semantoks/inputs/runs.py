"""Derivative dataset -> runs: each BOLD image with its mask, confounds, repetition time and entities."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from bids_semantoks.bids_names import BidsFile, sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.datasets import CONTENT, Dataset
from bids_semantoks.inputs.layout_archives import describe_archives
from bids_semantoks.inputs.layout_hints import describe_nearest_files
from bids_semantoks.inputs.layouts import find_layout_candidates, find_layout_participants
from bids_semantoks.inputs.names import find_participant_labels, is_surface_file, list_func_files
from bids_semantoks.inputs.pairing import USEFUL_ENDS, Candidate, find_components, pair_files, pair_series, rank_density
from bids_semantoks.inputs.pipelines import Derivative
from bids_semantoks.inputs.pybids_database import find_database_files
from bids_semantoks.inputs.repetition_time import (
    StatedTime,
    check_layout_time,
    find_raw_sidecars,
    find_root_sidecars,
    find_stated_time,
)
from bids_semantoks.inputs.selection import (
    check_known,
    describe_labels,
    is_same_value,
    keep_known,
    list_asked,
    read_filter,
    read_labels,
)
from bids_semantoks.records import Run

LOG = logging.getLogger(__name__)
DEFAULT_SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "fsLR")


def find_participants(dataset: Dataset, selection: SelectionConfig) -> tuple[str, ...]:
    """List the participants to process, without ``sub-``, in natural order; all if none is requested. InputError, with
    the nearest match, for an unknown label, or if none is left after exclusion."""
    asked = read_labels(selection.participant_label, "sub-")
    excluded = set(read_labels(selection.exclude_participant_label, "sub-"))
    roots = [one.path for one in dataset.derivatives if one.layout is None]
    where = " and ".join(str(one.path) for one in dataset.derivatives)
    if asked and all(any((root / f"sub-{label}").is_dir() for root in roots) for label in asked):
        chosen = set(asked)
    else:
        known = {label for root in roots for label in find_participant_labels(root)}
        for one in dataset.derivatives:
            known.update(find_layout_participants(one, one.layout) if one.layout else ())
        if not known:
            _refuse_no_participant(dataset, where)
        for one in dataset.derivatives:
            if one.layout and (packed := describe_archives(one, one.layout)):
                LOG.warning("Not everything in %s can be read. %s", one.path, packed)
        chosen = set(keep_known(asked, known, where, is_lenient=selection.ignore_missing_participants)) or known
    left = sorted_naturally(chosen - excluded)
    if not left:
        raise InputError(
            f"No participant is left: {describe_labels(chosen)} selected, all of them excluded.",
            hint="Check --participant-label and --exclude-participant-label.",
        )
    if unknown := excluded - chosen:
        LOG.warning("Excluded participants that were not selected anyway: %s", describe_labels(unknown))
    return left


def _refuse_no_participant(dataset: Dataset, where: str) -> NoReturn:
    first = dataset.derivatives[0]
    if first.layout is not None:
        expected, hint = describe_nearest_files(first.path, first.layout)
        raise InputError(
            f"{where} holds no participant in the layout {first.layout.name}: {expected}.",
            hint=describe_archives(first, first.layout) or hint,
        )
    zipped = sorted(path.name for path in first.path.glob("sub-*.zip"))
    raise InputError(
        f"{where} holds no participant: expected folders named sub-*.",
        hint=f"It holds {len(zipped)} archives such as {zipped[0]}: unpack them first." if zipped else "",
    )


def find_runs(
    dataset: Dataset, selection: SelectionConfig, participants: Sequence[str], *, preferred_spaces: tuple[str, ...] = ()
) -> tuple[Run, ...]:
    """List the runs to process in one space, in natural order of their entities.

    `preferred_spaces` (the atlas's, best first) precede the defaults if the selection names no space. The
    finest resolution wins: numbered ``res`` ascending, then the native grid (no ``res``), then other
    labels. Runs without an image in this space come last, with a problem. Raises InputError if nothing is
    selected, or if two datasets hold the same run.
    """
    candidates = find_candidates(dataset, selection, participants)
    space, modifiers = choose_space(candidates, selection.space, preferred_spaces)
    finest: dict[tuple[Path, frozenset[tuple[str, str]]], Candidate] = {}
    for one in candidates:
        if one.image.entity("space") == space and all(_value_of(one, key) == value for key, value in modifiers):
            run = (one.derivative.path, one.image.source)
            finest[run] = min(finest.get(run, one), one, key=lambda it: (rank_density(it.image), rank_coarseness(it)))
    chosen = sorted(finest.values(), key=lambda one: one.order)
    _check_unique(chosen)
    _check_cohorts(chosen, space)
    wanted = ":".join([space, *(f"{key}-{value}" for key, value in modifiers)])
    elsewhere = _find_elsewhere(candidates, chosen, wanted)
    inherited = {path: find_root_sidecars(path) for path in {one.derivative.path for one in (*chosen, *elsewhere)}}
    runs = [build_run(one, inherited[one.derivative.path], dataset.raw_root) for one in chosen]
    for number, one in enumerate(chosen):
        layout = one.derivative.layout
        if layout is not None and not layout.is_shipped and one.repetition_time is not None:
            check_layout_time(runs[number], layout.name, one.repetition_time)
    for one in elsewhere:
        problem = f"The run has no image in {wanted}, only others such as {one.image.path}."
        runs.append(replace(build_run(one, inherited[one.derivative.path]), problem=problem))
    return tuple(runs)


def _check_unique(chosen: Sequence[Candidate]) -> None:
    """Refuse two images whose outputs would share a name."""
    by_name: dict[frozenset[tuple[str, str]], Candidate] = {}
    for one in chosen:
        other = by_name.setdefault(one.image.source, one)
        if other is not one:
            raise InputError(
                f"Two datasets hold the same run: {other.image.path} and {one.image.path}.",
                hint="Give one derivative dataset a call, each with its own OUT_DIR.",
            )


def _find_elsewhere(candidates: Sequence[Candidate], chosen: Sequence[Candidate], wanted: str) -> list[Candidate]:
    """List one image of each run that has none in this space, so that no run disappears silently."""
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
    stated = _state_time(candidate, inherited, raw_root)
    return Run(
        entities=image.entities,
        bold=Path(image.path),
        mask=None if candidate.mask is None else Path(candidate.mask),
        confounds=None if candidate.confounds is None else Path(candidate.confounds),
        repetition_time=stated.value or candidate.repetition_time,
        time_source=stated.source,
        time_problems=stated.problems,
        is_default_time=not stated.value and derivative.layout is not None and derivative.layout.is_shipped,
        pipeline=derivative.pipeline,
        dataset=derivative.path,
        recognised=derivative.source.label,
        is_denoised=derivative.is_denoised,
        tables=tuple(map(Path, candidate.tables)),
        columns=candidate.columns,
        partner=None if candidate.partner is None else Path(candidate.partner),
        volumes=candidate.volumes,
        warp=None if candidate.warp is None else Path(candidate.warp),
    )


def _state_time(candidate: Candidate, inherited: Sequence[BidsFile], raw_root: Path | None) -> StatedTime:
    """Find what the sidecars beside an image state, else those of the raw dataset, else the layout."""
    image, layout = candidate.image, candidate.derivative.layout
    stated = find_stated_time(image, (*candidate.sidecars, *inherited))
    if stated.value is None and layout is not None:
        return replace(stated, source=f"the layout {layout.name}")
    if stated.value is None and not stated.is_absent and raw_root is not None:
        sidecars = find_raw_sidecars(raw_root, image.entity("sub") or "")
        raw = find_stated_time(image, sidecars, are_raw=True)
        return replace(raw, problems=(*stated.problems, *raw.problems))
    return stated


def find_candidates(
    dataset: Dataset, selection: SelectionConfig, participants: Sequence[str], *, kind: str = "fmriprep"
) -> list[Candidate]:
    """List the BOLD images (``fmriprep``) or series tables (``parcellated``) of the selection, in every space.

    Returns at least one; InputError if none matches the participants, the sessions, tasks and runs, or the filter.
    """
    found = [
        candidate
        for derivative in dataset.derivatives
        if derivative.kind == kind
        for candidate in _scan(derivative, dataset, selection.bids_database_dir, participants)
    ]
    found = _attach_components(found, dataset, participants)
    where = " and ".join(str(one.path) for one in dataset.derivatives)
    folder = selection.bids_database_dir
    stale = f" (if they are new, delete the database {folder}, which is believed as it is)" if folder else ""
    if not found:
        _refuse_nothing(dataset, where, participants, kind, stale)
    if silent := set(participants) - {one.image.entities[0][1] for one in found}:
        LOG.warning("Participants without %s: %s%s", CONTENT[kind], describe_labels(silent), stale)
    chosen = found
    for what, key, asked in list_asked(selection):
        there = {value for one in found if (value := one.image.entity(key)) is not None}
        check_known(what, asked, there, f"the selected participants in {where}", key=key)
        if asked:
            chosen = [
                one for one in chosen if any(is_same_value(key, one.image.entity(key) or "", label) for label in asked)
            ]
    if not chosen:
        named = " and ".join(f"{what} {', '.join(asked)}" for what, _, asked in list_asked(selection) if asked)
        raise InputError(f"No run in {where} has {named} together.", hint="Each of them is there, but not in one run.")
    return _apply_filter(chosen, selection.bids_filter_file)


def _refuse_nothing(dataset: Dataset, where: str, participants: Sequence[str], kind: str, stale: str) -> NoReturn:
    whom = f"for one of {describe_labels(participants)} participants at least{stale}"
    layout = dataset.derivatives[0].layout
    if layout is not None:
        expected, hint = describe_nearest_files(dataset.root, layout, participants)
        raise InputError(f"Nothing of the layout {layout.name} {whom} in {where}: {expected}.", hint=hint)
    if kind == "parcellated":
        raise InputError(
            f"No parcellated series in {where}: expected sub-*/[ses-*/]func/*_(atlas|seg)-*_timeseries.tsv {whom}.",
            hint="Raw signals (desc-raw) and other statistics than the mean do not count.",
        )
    raise InputError(
        f"No preprocessed BOLD in {where}: expected sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz {whom}.",
        hint="Parcellated series hold no BOLD to extract from."
        if all(one.kind == "parcellated" for one in dataset.derivatives)
        else "Check that fMRIPrep finished, and wrote its volumes (--output-spaces).",
    )


def _apply_filter(found: list[Candidate], path: Path | None) -> list[Candidate]:
    if path is None:
        return found
    bold_filter = read_filter(path)
    for warning in bold_filter.warnings:
        LOG.warning(warning)
    kept = [one for one in found if bold_filter.accepts(one.image)]
    if not kept:
        values: dict[str, set[str]] = {}
        for one in found:
            for key, value in one.image.entities[1:]:
                values.setdefault(key, set()).add(value)
        there = "; ".join(f"{key} {', '.join(sorted_naturally(labels))}" for key, labels in values.items())
        what = "tables of series" if found[0].derivative.kind == "parcellated" else "BOLD images"
        raise InputError(f"Filter file {path} matches none of {len(found)} {what}.", hint=f"Entities found: {there}.")
    return kept


def _attach_components(found: list[Candidate], dataset: Dataset, participants: Sequence[str]) -> list[Candidate]:
    """Attach to each image the ICA-AROMA components of its run, which come from a separate dataset."""
    components: dict[frozenset[tuple[str, str]], tuple[str, ...]] = {}
    for derivative in dataset.derivatives:
        if derivative.kind == "aroma":
            for label in participants:
                paths = list_func_files(str(derivative.path / f"sub-{label}"))
                components.update(find_components(paths, label))
    return [
        replace(one, tables=(*one.tables, *components[one.image.source])) if one.image.source in components else one
        for one in found
    ]


def _scan(
    derivative: Derivative, dataset: Dataset, database_dir: Path | None, participants: Sequence[str]
) -> Iterator[Candidate]:
    if derivative.layout is not None:
        if database_dir is not None:
            LOG.warning("--bids-database-dir is not used with --layout.")
        yield from find_layout_candidates(derivative, derivative.layout, participants)
        return
    database: dict[str, list[str]] | None = None
    is_table = derivative.kind == "parcellated"
    if database_dir is not None and is_table:
        LOG.warning("--bids-database-dir is not used for parcellated series, whose names are listed.")
    elif database_dir is not None:
        _check_database_dir(dataset, database_dir)
        several = len(dataset.derivatives) > 1
        own_dir = database_dir / derivative.name if several else database_dir
        database = find_database_files(derivative.path, own_dir, USEFUL_ENDS)
    for label in participants:
        try:
            folder = str(derivative.path / f"sub-{label}")
            paths = list_func_files(folder) if database is None else database.get(label, [])
        except OSError as error:
            raise InputError(f"Folder {error.filename} cannot be listed: {error.strerror}.") from error
        yield from (pair_series if is_table else pair_files)(paths, label, derivative)


def _check_database_dir(dataset: Dataset, database_dir: Path) -> None:
    for root in (dataset.root, *(one.path for one in dataset.derivatives)):
        if database_dir.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"The pybids database {database_dir} lies in the input {root}; nothing is written there.",
                hint="Choose another --bids-database-dir.",
            )


def choose_space(
    candidates: Sequence[Candidate], asked: str | None, preferred: tuple[str, ...]
) -> tuple[str, list[tuple[str, str]]]:
    """Choose a space, and the (key, value) entities that ``NAME:res-2`` adds to it.

    If none is asked for: the first available of `preferred` and DEFAULT_SPACES, else a surface space if it is the only
    one. Raises InputError if the requested space, or every default, is absent.
    """
    there = sorted_naturally(space for one in candidates if (space := one.image.entity("space")))
    if asked is None:
        space = next((name for name in (*preferred, *DEFAULT_SPACES) if name in there), None)
        own = [one.image.path for one in candidates if one.image.entity("space") in there]
        if space is None and len(there) == 1 and all(map(is_surface_file, own)):
            space = there[0]
        if space is None:
            wanted = ", ".join(dict.fromkeys((*preferred, *DEFAULT_SPACES)))
            raise InputError(
                f"No BOLD image is in a space that is chosen by itself ({wanted}): found "
                f"{', '.join(there) or 'native space only'}.",
                hint="Name one with --space." if there else "Run fMRIPrep with --output-spaces.",
            )
        return space, []
    name, *parts = asked.removeprefix("space-").split(":")
    check_known("space", [name], there, "the names of the selected BOLD images")
    modifiers = []
    for part in parts:
        key, _, value = part.partition("-")
        values = {found for one in candidates if one.image.entity("space") == name and (found := _value_of(one, key))}
        check_known(f"{key} of space {name}", [value], values, f"--space {asked}")
        modifiers.append((key, value))
    return name, modifiers


def _value_of(candidate: Candidate, key: str) -> str | None:
    """Get the value of an entity; without ``res``, an image is on its ``native`` grid."""
    return candidate.image.entity(key) or ("native" if key == "res" else None)


def _check_cohorts(chosen: Sequence[Candidate], space: str) -> None:
    """Refuse several cohorts, with InputError: their templates differ, so one atlas cannot fit all."""
    cohorts = sorted_naturally(cohort for one in chosen if (cohort := one.image.entity("cohort")))
    if len(cohorts) > 1:
        raise InputError(
            f"Images in space {space} are of {len(cohorts)} cohorts: {', '.join(cohorts)}; each is another template.",
            hint=f"Choose one, such as --space {space}:cohort-{cohorts[0]}, with an OUT_DIR of its own.",
        )


def rank_coarseness(candidate: Candidate) -> tuple[int, int, str]:
    """Build a sorting key, finest first; TemplateFlow numbers resolutions from fine to coarse."""
    res = candidate.image.entity("res")
    if res is None or res == "native":
        return 1, 0, ""
    return (0, int(res), "") if res.isdecimal() else (2, 0, res)
