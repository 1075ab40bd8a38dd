"""List the BOLD images or series tables of a selection by scandir and file names. pybids indexing, 30 to 100 times
slower (``benchmarks/bench_index.py``), serves only ``--bids-database-dir``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.database import find_database_files
from bids_semantoks.inputs.dataset import CONTENT, Dataset
from bids_semantoks.inputs.derivatives import Derivative
from bids_semantoks.inputs.filters import read_filter
from bids_semantoks.inputs.folders import list_func_files
from bids_semantoks.inputs.layout_runs import find_layout_candidates
from bids_semantoks.inputs.pairing import Candidate, find_components, pair_files, pair_series
from bids_semantoks.inputs.selection import check_known, describe_labels, is_same_value, list_asked

LOG = logging.getLogger(__name__)
_FILES: Final = {"fmriprep": "BOLD images", "parcellated": "tables of series"}


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
        _refuse_nothing(dataset, where, f"{describe_labels(participants)} participants at least{stale}", kind)
    if silent := set(participants) - {one.image.entities[0][1] for one in found}:
        LOG.warning("Participants without %s: %s%s", CONTENT[kind], describe_labels(silent), stale)
    chosen = found
    for what, key, asked in list_asked(selection):
        there = {value for one in found if (value := one.entity(key)) is not None}
        check_known(what, asked, there, f"the selected participants in {where}", key=key)
        if asked:
            chosen = [one for one in chosen if any(is_same_value(key, one.entity(key) or "", label) for label in asked)]
    if not chosen:
        raise InputError(
            f"No run in {where} has {_describe_asked(selection)} together.",
            hint="Each of them is there, but not in one run.",
        )
    return _apply_filter(chosen, selection.bids_filter_file)


def _describe_asked(selection: SelectionConfig) -> str:
    named = [f"{what} {', '.join(asked)}" for what, _, asked in list_asked(selection) if asked]
    return " and ".join(named)


def _refuse_nothing(dataset: Dataset, where: str, participants: str, kind: str) -> NoReturn:
    whom = f"for one of {participants}"
    layout = dataset.derivatives[0].layout
    if layout is not None:
        patterns = " or ".join(one.bold for one in layout.runs)
        raise InputError(f"No BOLD image of the layout {layout.name} in {where}: expected {patterns} {whom}.")
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
        raise InputError(
            f"Filter file {path} matches none of {len(found)} {_FILES[found[0].derivative.kind]}.",
            hint=f"Entities found: {there}.",
        )
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
        dataclasses.replace(one, tables=(*one.tables, *components[one.image.source]))
        if one.image.source in components
        else one
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
        database = find_database_files(derivative.path, database_dir / derivative.name if several else database_dir)
    for label in participants:
        try:
            if database is None:
                paths = list_func_files(str(derivative.path / f"sub-{label}"))
            else:
                paths = database.get(label, [])
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
