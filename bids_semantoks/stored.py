"""Select the stored runs that the group level works on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bids_semantoks.bids_names import format_label
from bids_semantoks.config import AppConfig, SelectionConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.selection import check_known, is_same_value, list_asked, read_labels
from bids_semantoks.outputs.dataset import read_atlas_checksum, read_atlas_table
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds, find_stored_runs

LOGGER = logging.getLogger("bids_semantoks")


def find_kind(config: AppConfig) -> tuple[str, str]:
    """Choose the atlas and space labels of the stored signals to work on. Raises InputError if there are no signals,
    none
    of
    the requested kind, or several kinds to choose from."""
    kinds = find_stored_kinds(config.out_dir)
    if not kinds:
        raise InputError(
            f"No signals found in {config.out_dir}: expected sub-*/[ses-*/]func/*_stat-mean_timeseries.tsv.",
            hint="Run the participant level first.",
        )
    listed = ", ".join(f"atlas {atlas} in {space or 'no space named'}" for atlas, space in kinds)
    wanted = format_label(config.signals.atlas.rsplit("/", 1)[-1].split(".", 1)[0])
    fitting = [kind for kind in kinds if kind[0] == wanted or f"atlas{kind[0]}" in wanted]
    # A table given by path may be named as its owner likes; signals carry the label of the series they were made from.
    is_open = config.signals.atlas == type(config.signals)().atlas or config.signals.atlas.endswith(".tsv")
    if not fitting and is_open and len({a for a, _ in kinds}) == 1:
        fitting = kinds
        LOGGER.info("Using atlas %s, the only one in %s.", kinds[0][0], config.out_dir)
    if config.selection.space is not None:
        # Outputs of a participant call name the space; which resolution or cohort it took stands beside it.
        asked = config.selection.space.removeprefix("space-").partition(":")[0]
        fitting = [kind for kind in fitting if kind[1] == asked]
    if not fitting:
        raise InputError(
            f"No signals of atlas {config.signals.atlas}"
            f"{f' in {config.selection.space}' if config.selection.space else ''} in {config.out_dir}: found {listed}.",
            hint="Choose with --atlas and --space.",
        )
    if len(fitting) > 1:
        raise InputError(f"Signals in several spaces in {config.out_dir}: {listed}.", hint="Choose with --space.")
    return fitting[0]


def select_stored(
    stored: Sequence[StoredRun], selection: SelectionConfig, *, where: str, prefers_rest: bool = True
) -> list[StoredRun]:
    """Keep the requested runs in the given order; with `prefers_rest` and no requested task, only resting runs if there
    are any.

    `where` names the dataset in messages. Raises InputError if a label is unknown or no run is left.
    """
    kept = list(stored)
    asked = ("participant", "sub", read_labels(selection.participant_label, "sub-"))
    for what, key, labels in (asked, *list_asked(selection)):
        check_known(what, labels, {run.entities.get(key, "") for run in kept} - {""}, where, key=key)
        if labels:
            kept = [
                run for run in kept if any(is_same_value(key, run.entities.get(key, ""), label) for label in labels)
            ]
    excluded = read_labels(selection.exclude_participant_label, "sub-")
    check_known("participant", excluded, {run.entities["sub"] for run in stored}, where, key="sub")
    kept = [run for run in kept if run.entities["sub"] not in excluded]
    if not kept:
        raise InputError(f"The selection leaves no run of {where}.", hint="Ask for less.")
    if prefers_rest and not selection.task_id and any(run.entities.get("task", "").startswith("rest") for run in kept):
        rest = [run for run in kept if run.entities.get("task", "").startswith("rest")]
        LOGGER.info("Features are made from %d runs of task rest; choose others with --task-id.", len(rest))
        return rest
    tasks = sorted({run.entities.get("task", "n/a") for run in kept})
    if prefers_rest:
        LOGGER.info("Features are made from %d runs of task %s.", len(kept), ", ".join(tasks))
    return kept


def choose_stored(
    config: AppConfig, *, prefers_rest: bool = True
) -> tuple[str, tuple[str, ...], tuple[str, ...], list[StoredRun]]:
    """Choose stored runs made with one atlas in one space: atlas label, parcels (P,), networks (P,), runs sorted by
    name.

    Raises InputError if there are none, ConfigurationError if runs were made with another atlas of the same label.
    """
    atlas, space = find_kind(config)
    parcels, networks = read_atlas_table(config.out_dir, name=atlas, space=space)
    found = find_stored_runs(config.out_dir, atlas=atlas, model="")
    stored = [run for run in found if run.entities.get("space", "") == space]
    chosen = select_stored(stored, config.selection, where=str(config.out_dir), prefers_rest=prefers_rest)
    sha256 = read_atlas_checksum(config.out_dir, name=atlas, space=space)
    others = [run for run in chosen if run.sidecar["Atlas"]["SHA256"] != sha256]
    if others:
        raise ConfigurationError(
            f"{len(others)} of {len(chosen)} runs were made with another atlas of the label {atlas}, the first is "
            f"{others[0].paths.stem}.",
            hint="Run the participant level on them again with --overwrite, or leave them out.",
        )
    return atlas, parcels, networks, chosen
