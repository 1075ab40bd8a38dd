"""Derivative dataset -> runs: each BOLD image with its mask, confounds, repetition time and all its entities.

Only the folders of the participants asked for are listed, with ``os.scandir``, and only names are looked at. pybids'
index was measured for the same (``benchmarks/bench_index.py``): 0.6 s for one of 1,000 participants and 28 s for all,
even in blocks of 100 with metadata off and all but the functional folders ignored, after 0.9 s for importing it, where
the listing takes 2 ms and under 1 s. So pybids is left to `--bids-database-dir`, whose format is its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.database import find_database_files
from bids_semantoks.inputs.dataset import Dataset
from bids_semantoks.inputs.derivatives import Derivative
from bids_semantoks.inputs.folders import find_participant_labels, list_func_files
from bids_semantoks.inputs.names import BidsFile, sorted_naturally
from bids_semantoks.inputs.pairing import Candidate, pair_files
from bids_semantoks.inputs.selection import (
    check_known,
    describe_labels,
    is_same_value,
    read_filter,
    read_labels,
)
from bids_semantoks.inputs.sidecars import find_repetition_time, find_root_sidecars
from bids_semantoks.records import Run

LOG = logging.getLogger(__name__)
DEFAULT_SPACES: Final = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "fsLR")


def find_participants(dataset: Dataset, selection: SelectionConfig) -> tuple[str, ...]:
    """Find the participants to process.

    Parameters
    ----------
    dataset : Dataset
        What is read.
    selection : SelectionConfig
        Labels asked for and excluded; all participants without.

    Returns
    -------
    tuple of str
        Labels without ``sub-``, numbers by value.

    Raises
    ------
    InputError
        When a label is unknown (it names what is there and the nearest match), or no participant is left.
    """
    asked = read_labels(selection.participant_label, "sub-")
    excluded = set(read_labels(selection.exclude_participant_label, "sub-"))
    roots = [one.path for one in dataset.derivatives]
    where = " and ".join(str(root) for root in roots)
    if asked and all(any((root / f"sub-{label}").is_dir() for root in roots) for label in asked if label):
        chosen = {label for label in asked if label}
    else:
        known = {label for root in roots for label in find_participant_labels(root)}
        if not known:
            raise InputError(f"{where} holds no participant: expected folders named sub-*.")
        check_known("participant", asked, known, where)
        chosen = known
    left = sorted_naturally(chosen - excluded)
    if not left:
        raise InputError(
            f"No participant is left: {describe_labels(chosen)} selected, all of them excluded.",
            hint="Check --participant-label and --exclude-participant-label.",
        )
    if unknown := excluded - chosen:
        LOG.warning("Excluded participants that were not selected anyway: %s", describe_labels(unknown))
    return left


def find_spaces(dataset: Dataset, selection: SelectionConfig, participants: Sequence[str]) -> tuple[str, ...]:
    """Find the template spaces of the selected runs.

    Parameters
    ----------
    dataset : Dataset
        What is read.
    selection : SelectionConfig
        Sessions, tasks, runs and filter; its space does not count here.
    participants : sequence of str
        Labels from `find_participants`.

    Returns
    -------
    tuple of str
        Spaces of preprocessed BOLD images, sorted; images in native space have none.

    Raises
    ------
    InputError
        As `find_runs` does for selections.
    """
    return _spaces(_select(dataset, selection, participants))


def find_runs(
    dataset: Dataset,
    selection: SelectionConfig,
    participants: Sequence[str],
    *,
    preferred_spaces: tuple[str, ...] = (),
) -> tuple[Run, ...]:
    """Find the runs to process, in one space.

    Parameters
    ----------
    dataset : Dataset
        What is read.
    selection : SelectionConfig
        Sessions, tasks, runs, space and filter.
    participants : sequence of str
        Labels from `find_participants`.
    preferred_spaces : tuple of str
        Spaces of the atlas, best first; taken before the default ones when `selection` names none.

    Returns
    -------
    tuple of Run
        In natural order of their entities, whatever the order of the file system. Of several resolutions the finest:
        ``res-1`` before ``res-2``, numbered ones before the native grid (no ``res``), that before other labels.

    Raises
    ------
    InputError
        When nothing is selected: an unknown session, task, run or space, a filter that matches nothing, no
        preprocessed BOLD at all; or when two datasets hold a run of the same name.
    """
    candidates = _select(dataset, selection, participants)
    space, modifiers = _choose_space(candidates, selection.space, preferred_spaces)
    finest: dict[tuple[Path, frozenset[tuple[str, str]]], Candidate] = {}
    for one in candidates:
        if one.entity("space") != space or any(one.entity(key) != value for key, value in modifiers):
            continue
        key = (one.derivative.path, one.image.source)
        if key not in finest or _coarseness(one) < _coarseness(finest[key]):
            finest[key] = one
    chosen = sorted(finest.values(), key=lambda one: (one.order, one.image.path))
    _check_unique(chosen)
    _warn_of_missing(candidates, chosen, space)
    inherited = {path: find_root_sidecars(path) for path in {one.derivative.path for one in chosen}}
    return tuple(_build_run(one, inherited[one.derivative.path]) for one in chosen)


def _select(dataset: Dataset, selection: SelectionConfig, participants: Sequence[str]) -> list[Candidate]:
    """Find the preprocessed BOLD images of the selection, in every space."""
    found = [
        candidate
        for derivative in dataset.derivatives
        if derivative.kind == "fmriprep"
        for candidate in _scan(derivative, dataset, selection.bids_database_dir, participants)
    ]
    where = " and ".join(str(one.path) for one in dataset.derivatives)
    if not found:
        raise InputError(
            f"No preprocessed BOLD in {where}: expected sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz for one of "
            f"{describe_labels(participants)} participants at least.",
            hint="Parcellated series hold no BOLD to extract from."
            if all(one.kind == "parcellated" for one in dataset.derivatives)
            else "Check that fMRIPrep finished, and wrote its volumes (--output-spaces).",
        )
    for what, key, labels in (
        ("session", "ses", selection.session_id),
        ("task", "task", selection.task_id),
        ("run", "run", selection.run_id),
    ):
        asked = read_labels(labels, f"{key}-")
        there = {value for one in found if (value := one.entity(key)) is not None}
        check_known(what, asked, there, f"the selected participants in {where}", key=key)
        if asked:
            found = [one for one in found if any(is_same_value(key, one.entity(key) or "", label) for label in asked)]
        if not found:
            raise InputError(
                f"No run in {where} has the sessions, tasks and runs asked for together.",
                hint="Each of them is there, but not in one run.",
            )
    return _apply_filter(found, selection.bids_filter_file)


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
        raise InputError(
            f"Filter file {path} matches none of {len(found)} BOLD images.", hint=f"Entities found: {there}."
        )
    return kept


def _scan(
    derivative: Derivative, dataset: Dataset, database_dir: Path | None, participants: Sequence[str]
) -> Iterator[Candidate]:
    database: dict[str, list[str]] | None = None
    if database_dir is not None:
        _check_database_dir(dataset, database_dir)
        several = len(dataset.derivatives) > 1
        database = find_database_files(derivative.path, database_dir / derivative.name if several else database_dir)
    for label in participants:
        try:
            if database is None:
                paths = list_func_files(str(derivative.path / f"sub-{label}"))
            else:
                paths = database.get(label, [])
        except OSError as error:
            raise InputError(f"Folder {error.filename} cannot be listed: {error.strerror}.") from error
        yield from pair_files(paths, label, derivative)


def _check_database_dir(dataset: Dataset, database_dir: Path) -> None:
    for root in (dataset.root, *(one.path for one in dataset.derivatives)):
        if database_dir.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"The pybids database {database_dir} lies in the input {root}; nothing is written there.",
                hint="Choose another --bids-database-dir.",
            )


def _choose_space(
    candidates: Sequence[Candidate], asked: str | None, preferred: tuple[str, ...]
) -> tuple[str, list[tuple[str, str]]]:
    """Choose one space, with the further entities that ``NAME:res-2`` asks for."""
    there = _spaces(candidates)
    if asked is None:
        space = next((name for name in (*preferred, *DEFAULT_SPACES) if name in there), None)
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
        values = {found for one in candidates if one.entity("space") == name and (found := one.entity(key))}
        check_known(f"{key} of space {name}", [value], values, f"--space {asked}")
        modifiers.append((key, value))
    return name, modifiers


def _spaces(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    return sorted_naturally(space for one in candidates if (space := one.entity("space")))


def _coarseness(candidate: Candidate) -> tuple[int, int, str]:
    """Rank resolutions, the finest first: TemplateFlow numbers them from fine to coarse."""
    res = candidate.entity("res")
    if res is None or res == "native":
        return 1, 0, ""
    return (0, int(res), "") if res.isdecimal() else (2, 0, res)


def _check_unique(chosen: Sequence[Candidate]) -> None:
    """Refuse two images whose outputs would have the same name."""
    by_name: dict[frozenset[tuple[str, str]], Candidate] = {}
    for one in chosen:
        other = by_name.setdefault(one.image.source, one)
        if other is not one:
            raise InputError(
                f"Two datasets hold the same run: {other.image.path} and {one.image.path}.",
                hint="Give one derivative dataset a call, each with its own OUT_DIR.",
            )


def _warn_of_missing(candidates: Sequence[Candidate], chosen: Sequence[Candidate], space: str) -> None:
    """Say which runs have images, but none in this space; nothing may disappear silently."""
    there = {one.image.source for one in chosen}
    missing = {one.image.source: one.image for one in candidates if one.image.source not in there}
    if missing:
        names = ["_".join(f"{k}-{v}" for k, v in one.entities if (k, v) in source) for source, one in missing.items()]
        LOG.warning("Left out, having no BOLD image in space %s: %s", space, describe_labels(names))


def _build_run(candidate: Candidate, inherited: Sequence[BidsFile]) -> Run:
    image, derivative = candidate.image, candidate.derivative
    return Run(
        entities=image.entities,
        bold=Path(image.path),
        mask=None if candidate.mask is None else Path(candidate.mask),
        confounds=None if candidate.confounds is None else Path(candidate.confounds),
        repetition_time=find_repetition_time(image, (*candidate.sidecars, *inherited)),
        pipeline=derivative.pipeline,
        dataset=derivative.path,
    )
