"""Check the folders and participants of a call before importing anything slow, and report those without data."""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from bids_semantoks.config import AppConfig, SelectionConfig
from bids_semantoks.files import read_rows
from bids_semantoks.inputs.datasets import Dataset, check_out_dir, find_dataset
from bids_semantoks.inputs.names import find_participant_labels, find_roots
from bids_semantoks.inputs.runs import find_participants
from bids_semantoks.inputs.selection import describe_labels, read_labels


def warn_of_missing(dataset: Dataset, selection: SelectionConfig, participants: Collection[str]) -> None:
    """Log participants of the dataset or its raw root who have no derivatives, unless some were selected."""
    if selection.participant_label or dataset.kind == "layout":
        return
    known = {*participants, *read_labels(selection.exclude_participant_label, "sub-")}
    where = " and ".join(str(one.path) for one in dataset.derivatives)
    _warn((dataset.root, dataset.raw_root), known, f"derivatives in {where}")


def warn_of_missing_outputs(bids_dir: Path, out_dir: Path, known: Collection[str]) -> None:
    """Log participants of a dataset, or of its raw dataset, who have no stored signals."""
    _warn(find_roots(bids_dir), known, f"signals in {out_dir}")


def find_absent(roots: Iterable[Path | None], known: Collection[str]) -> dict[str, Path]:
    """Find participants that datasets list but that are not in `known`: where each was found, by label."""
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
        LOGGER.warning("Participants of %s without %s: %s", root, what, describe_labels(absent))


def find_listed(root: Path) -> set[str]:
    """Find the labels of the ``sub-*`` folders of a dataset and of its participants.tsv, if that can be read."""
    labels = set(find_participant_labels(root))
    try:
        rows = read_rows(root / "participants.tsv")
    except (OSError, ValueError, csv.Error):
        # Problems are reported by the functions that need the table.
        return labels
    return labels | {row.get("participant_id", "").strip().removeprefix("sub-") for row in rows} - {"", "n/a"}


LOGGER = logging.getLogger("bids_semantoks")


class Inputs(NamedTuple):
    """What a participant call reads."""

    dataset: Dataset
    participants: tuple[str, ...]  # labels without ``sub-``


def open_inputs(config: AppConfig) -> Inputs:
    """Find the dataset and the participants of a call. Raises InputError or ConfigurationError for folders and labels
    that do not exist or cannot be used."""
    dataset = find_dataset(config.bids_dir, config.out_dir, config.selection)
    LOGGER.info("%s", dataset.describe())
    for sentence in dataset.describe_recognised():
        LOGGER.info("%s", sentence)
    check_out_dir(config.bids_dir, config.out_dir, dataset, config.running.work_dir)
    participants = find_participants(dataset, config.selection)
    warn_of_missing(dataset, config.selection, participants)
    return Inputs(dataset, participants)
