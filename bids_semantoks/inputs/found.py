"""Candidates: all images or tables of the selection with their files, and the runs whose names cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.accounting import UnreadRun, find_unread
from bids_semantoks.inputs.combined import attach_parts
from bids_semantoks.inputs.datasets import CONTENT, Dataset
from bids_semantoks.inputs.layout_hints import describe_nearest_files
from bids_semantoks.inputs.layouts import find_layout_candidates
from bids_semantoks.inputs.names import list_func_files
from bids_semantoks.inputs.pairing import USEFUL_ENDS, Candidate, find_components, pair_files, pair_series
from bids_semantoks.inputs.pipelines import Derivative
from bids_semantoks.inputs.pybids_database import find_database_files
from bids_semantoks.inputs.selection import check_known, describe_labels, is_among, list_asked, read_filter

LOG = logging.getLogger(__name__)

# fMRIPrep writes these at every level, so without BOLD they indicate the lowest; older versions name the transform
# otherwise.
_MINIMAL_ENDS: Final = ("_desc-hmc_boldref.nii.gz", "_desc-hmc_xfm.txt", "_desc-coreg_boldref.nii.gz")


def find_candidates(
    dataset: Dataset, selection: SelectionConfig, participants: Sequence[str], *, kind: str = "fmriprep"
) -> tuple[list[Candidate], list[UnreadRun]]:
    """List the BOLD images (``fmriprep``) or series tables (``parcellated``) of the selection, in every space, and the
    runs whose names cannot be read.

    Returns at least one; InputError if none matches the participants, the sessions, tasks and runs, or the filter.
    """
    found: list[Candidate] = []
    unread: list[UnreadRun] = []
    for derivative in dataset.derivatives:
        if derivative.kind == kind:
            for candidates, others in _scan(derivative, dataset, selection.bids_database_dir, participants):
                found += candidates
                unread += others
    unread = _leave_other_kinds(unread, kind)
    found = attach_parts(_attach_components(found, dataset, participants))
    where = " and ".join(str(one.path) for one in dataset.derivatives)
    folder = selection.bids_database_dir
    stale = f" (if they are new, delete the database {folder}, which is not updated)" if folder else ""
    if not found and not unread:
        _refuse_minimal(dataset, participants)
        _refuse_nothing(dataset, where, participants, kind, stale)
    heard = {one.image.entities[0][1] for one in found} | {one.label for one in unread}
    if silent := set(participants) - heard:
        LOG.warning("Participants without %s: %s%s", CONTENT[kind], describe_labels(silent), stale)
    odd = {label for one in found for _, label in one.image.entities if not label.replace("+", "").isalnum()}
    if odd:
        LOG.warning("Labels with characters that BIDS does not allow are kept in the outputs: %s", describe_labels(odd))
    chosen, left = _select(found, unread, selection, where)
    return _apply_filter(chosen, left, selection.bids_filter_file)


def _leave_other_kinds(unread: Sequence[UnreadRun], kind: str) -> list[UnreadRun]:
    """Warn of runs that only the other --input-type finds, and return the rest."""
    if others := [Path(one.path).name for one in unread if one.is_other_kind]:
        there, asked = ("only parcel series", "series") if kind == "fmriprep" else ("only images", "images")
        LOG.warning(
            "Skipping runs with %s (to read them, use --input-type %s): %s", there, asked, describe_labels(others)
        )
    return [one for one in unread if not one.is_other_kind]


def _select(
    found: Sequence[Candidate], unread: Sequence[UnreadRun], selection: SelectionConfig, where: str
) -> tuple[list[Candidate], list[UnreadRun]]:
    """Select by session, task, run etc.; an unreadable name is excluded only if it has a different label."""
    chosen, left = list(found), list(unread)
    for what, key, asked in list_asked(selection):
        if not asked:
            continue
        names = [(one, one.as_file().entity(key)) for one in left]
        there = {value for one in found if (value := one.image.entity(key)) is not None}
        check_known(
            what,
            asked,
            there | {value for _, value in names if value},
            f"the selected participants in {where}",
            key=key,
        )
        chosen = [one for one in chosen if is_among(key, one.image.entity(key) or "", asked)]
        left = [one for one, value in names if value is None or is_among(key, value, asked)]
    if not chosen and not left:
        named = " and ".join(f"{what} {', '.join(asked)}" for what, _, asked in list_asked(selection) if asked)
        raise InputError(
            f"No run in {where} matches {named} together.", hint="Each of them exists, but not in the same run."
        )
    return chosen, left


def _refuse_minimal(dataset: Dataset, participants: Sequence[str]) -> None:
    """Refuse the output of fMRIPrep ``--level minimal``: references and transforms of runs, but no BOLD."""
    for one in dataset.derivatives if dataset.derivatives[0].layout is None else ():
        for label in participants:
            paths = list_func_files(str(one.path / f"sub-{label}"))
            if any(path.endswith(_MINIMAL_ENDS) for path in paths):
                raw = dataset.raw_root or "RAW"
                raise InputError(
                    f"{one.path} is the output of {one.pipeline} --level minimal: its sub-*/func folders have "
                    "references and transforms, but no resampled BOLD.",
                    hint=f"Resample it first: fmriprep {raw} OUT participant --derivatives minimal={one.path} "
                    "--output-spaces MNI152NLin6Asym:res-2; then use OUT as input.",
                )


def _refuse_nothing(dataset: Dataset, where: str, participants: Sequence[str], kind: str, stale: str) -> NoReturn:
    whom = f"for at least one of {describe_labels(participants)} participants{stale}"
    layout = dataset.derivatives[0].layout
    if layout is not None:
        expected, hint = describe_nearest_files(dataset.root, layout, participants)
        raise InputError(f"No files of layout {layout.name} {whom} in {where}: {expected}.", hint=hint)
    if kind == "parcellated":
        raise InputError(
            f"No parcellated series in {where}: expected sub-*/[ses-*/]func/*_(atlas|seg)-*_timeseries.tsv {whom}.",
            hint="Raw signals (desc-raw) and statistics other than the mean are ignored.",
        )
    raise InputError(
        f"No preprocessed BOLD in {where}: expected sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz {whom}.",
        hint="Parcellated series cannot be extracted again."
        if all(one.kind == "parcellated" for one in dataset.derivatives)
        else "Check that fMRIPrep finished and wrote volumes in standard space (--output-spaces).",
    )


def _apply_filter(
    found: list[Candidate], unread: list[UnreadRun], path: Path | None
) -> tuple[list[Candidate], list[UnreadRun]]:
    if path is None:
        return found, unread
    bold_filter = read_filter(path)
    for warning in bold_filter.warnings:
        LOG.warning(warning)
    kept = [one for one in found if bold_filter.accepts(one.image)]
    left = [one for one in unread if bold_filter.accepts(one.as_file())]
    if not kept and not left:
        values: dict[str, set[str]] = {}
        for one in found:
            for key, value in one.image.entities[1:]:
                values.setdefault(key, set()).add(value)
        there = "; ".join(f"{key} {', '.join(sorted_naturally(labels))}" for key, labels in values.items())
        what = "parcel series tables" if found and found[0].derivative.kind == "parcellated" else "BOLD images"
        raise InputError(
            f"Filter file {path} matches none of the {len(found)} {what}.", hint=f"Entities found: {there}."
        )
    return kept, left


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
) -> Iterator[tuple[list[Candidate], list[UnreadRun]]]:
    if derivative.layout is not None:
        if database_dir is not None:
            LOG.warning("--bids-database-dir is ignored with --layout.")
        yield list(find_layout_candidates(derivative, derivative.layout, participants)), []
        return
    database: dict[str, list[str]] | None = None
    is_table = derivative.kind == "parcellated"
    if database_dir is not None and is_table:
        LOG.warning("--bids-database-dir is ignored for parcellated series.")
    elif database_dir is not None:
        _check_database_dir(dataset, database_dir)
        several = len(dataset.derivatives) > 1
        own_dir = database_dir / derivative.name if several else database_dir
        database = find_database_files(derivative.path, own_dir, USEFUL_ENDS)
    for label in participants:
        folder = str(derivative.path / f"sub-{label}")
        paths = list_func_files(folder) if database is None else database.get(label, [])
        found = (pair_series if is_table else pair_files)(paths, label, derivative)
        yield found, find_unread(paths, label, derivative, found)


def _check_database_dir(dataset: Dataset, database_dir: Path) -> None:
    for root in (dataset.root, *(one.path for one in dataset.derivatives)):
        if database_dir.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"The pybids database {database_dir} is inside the input {root}, which must not be written to.",
                hint="Choose another --bids-database-dir.",
            )
