"""Derivative dataset -> runs: each BOLD image with its mask, confounds, repetition time and entities."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from bids_semantoks.bids_names import BidsFile, sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.candidates import find_candidates
from bids_semantoks.inputs.dataset import Dataset
from bids_semantoks.inputs.folders import find_participant_labels
from bids_semantoks.inputs.layout_runs import find_layout_participants
from bids_semantoks.inputs.pairing import Candidate
from bids_semantoks.inputs.selection import check_known, describe_labels, read_labels
from bids_semantoks.inputs.sidecars import find_repetition_time, find_root_sidecars
from bids_semantoks.inputs.spaces import check_cohorts, choose_space, has_value, rank_coarseness
from bids_semantoks.inputs.surfaces import rank_density
from bids_semantoks.records import Run

LOG = logging.getLogger(__name__)


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
        check_known("participant", asked, known, where)
        chosen = set(asked) or known
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
        patterns = " or ".join(one.bold for one in first.layout.runs)
        raise InputError(f"{where} holds no participant in the layout {first.layout.name}: expected {patterns}.")
    zipped = sorted(path.name for path in first.path.glob("sub-*.zip"))
    raise InputError(
        f"{where} holds no participant: expected folders named sub-*.",
        hint=f"It holds {len(zipped)} archives such as {zipped[0]}: unpack them first." if zipped else "",
    )


def find_runs(
    dataset: Dataset,
    selection: SelectionConfig,
    participants: Sequence[str],
    *,
    preferred_spaces: tuple[str, ...] = (),
) -> tuple[Run, ...]:
    """List the runs to process in one space, in natural order of their entities.

    `preferred_spaces` (the atlas's, best first) precede the defaults if the selection names no space. The finest
    resolution wins: numbered ``res`` ascending, then the native grid (no ``res``), then other labels. Runs without an
    image in this space come last, with a problem. Raises InputError if nothing is selected, or if two datasets hold the
    same run.
    """
    candidates = find_candidates(dataset, selection, participants)
    space, modifiers = choose_space(candidates, selection.space, preferred_spaces)
    finest: dict[tuple[Path, frozenset[tuple[str, str]]], Candidate] = {}
    for one in candidates:
        if one.entity("space") != space or not all(has_value(one, key, value) for key, value in modifiers):
            continue
        key = (one.derivative.path, one.image.source)
        if key not in finest or _rank(one) < _rank(finest[key]):
            finest[key] = one
    chosen = sorted(finest.values(), key=lambda one: (one.order, one.image.path))
    _check_unique(chosen)
    check_cohorts(chosen, space)
    wanted = ":".join([space, *(f"{key}-{value}" for key, value in modifiers)])
    elsewhere = _find_elsewhere(candidates, chosen, wanted)
    inherited = {path: find_root_sidecars(path) for path in {one.derivative.path for one in (*chosen, *elsewhere)}}
    runs = [build_run(one, inherited[one.derivative.path]) for one in (*chosen, *elsewhere)]
    for number in range(len(chosen), len(runs)):
        found = elsewhere[number - len(chosen)].image.path
        runs[number] = replace(runs[number], problem=f"The run has no image in {wanted}, only others such as {found}.")
    return tuple(runs)


def _rank(candidate: Candidate) -> tuple[tuple[int, int, str], tuple[int, int, str]]:
    return rank_density(candidate.image), rank_coarseness(candidate)


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
    # Echoes stay in native space; their optimal combination, which has no echo entity, stands for them.
    missing = {
        one.image.source: one
        for one in candidates
        if one.image.source not in there
        and frozenset(pair for pair in one.image.source if pair[0] != "echo") not in there
    }
    if missing:
        names = [
            "_".join(f"{k}-{v}" for k, v in one.image.entities if (k, v) in source) for source, one in missing.items()
        ]
        LOG.warning("No BOLD image in space %s: %s", wanted, describe_labels(names))
    return sorted(missing.values(), key=lambda one: (one.order, one.image.path))


def build_run(candidate: Candidate, inherited: Sequence[BidsFile]) -> Run:
    """Build a run's record from its files and the sidecars inherited from the dataset root."""
    image, derivative = candidate.image, candidate.derivative
    time = candidate.repetition_time
    return Run(
        entities=image.entities,
        bold=Path(image.path),
        mask=None if candidate.mask is None else Path(candidate.mask),
        confounds=None if candidate.confounds is None else Path(candidate.confounds),
        repetition_time=time or find_repetition_time(image, (*candidate.sidecars, *inherited)),
        pipeline=derivative.pipeline,
        dataset=derivative.path,
        recognised=derivative.source.label,
        is_denoised=derivative.is_denoised,
        tables=tuple(map(Path, candidate.tables)),
        columns=candidate.columns,
        partner=None if candidate.partner is None else Path(candidate.partner),
    )
