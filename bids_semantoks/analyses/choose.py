"""Which stored runs of an output directory a call works on: their atlas and space, and the selection and limits of the
call."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence

from bids_semantoks.config import AppConfig, SelectionConfig, to_json
from bids_semantoks.embedding import AtlasNames
from bids_semantoks.errors import ConfigurationError, InputError, name_count
from bids_semantoks.inputs.opening import warn_of_missing_outputs
from bids_semantoks.inputs.selection import check_known, keep_known, list_asked, normalise_value, read_labels
from bids_semantoks.outputs.dataset import read_atlas_checksum, read_atlas_table
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds, find_stored_runs
from bids_semantoks.quality.cohort import find_excluded
from bids_semantoks.quality.run_qc import check_settings, leave_out, warn_of_lost
from bids_semantoks.signals.denoising import load_denoising

LOGGER = logging.getLogger("bids_semantoks")


def _label_atlas(name_or_path: str) -> list[str]:
    """List the labels that the participant level may have given an atlas: that of its name, file or table, that of a
    chosen atlas (``DIR:NAME``), and that of a file with the map chosen from it (``FILE.dlabel.nii:MAP``). The files
    need not exist."""
    path, _, choice = name_or_path.partition(":")
    stem = path.rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]
    texts = [stem, choice, choice.replace("atlas-", "").replace("scale-", "").replace("seg-", ""), stem + choice]
    return [re.sub(r"[^A-Za-z0-9]", "", text) for text in texts if text]


def choose_kind(config: AppConfig) -> tuple[str, str]:
    """Choose the atlas and space labels of the stored signals to work on. Raises InputError if there are no signals,
    none of the requested kind, or several kinds to choose from."""
    kinds = find_stored_kinds(config.out_dir)
    if not kinds:
        raise InputError(
            f"No signals found in {config.out_dir}: expected sub-*/[ses-*/]func/*_stat-mean_timeseries.tsv.",
            hint="Run the participant level first.",
        )
    listed = ", ".join(f"atlas {atlas} in {space or 'an unknown space'}" for atlas, space in kinds)
    wanted = _label_atlas(config.signals.atlas)
    fitting = [kind for kind in kinds if kind[0] in wanted or any(f"atlas{kind[0]}" in one for one in wanted)]
    # A table given by path may have any name; signals have the label of their series.
    is_open = config.signals.atlas == type(config.signals)().atlas or config.signals.atlas.endswith(".tsv")
    if not fitting and is_open and len({a for a, _ in kinds}) == 1:
        fitting = kinds
        LOGGER.info("Using atlas %s, the only one in %s.", kinds[0][0], config.out_dir)
    if config.selection.space is not None:
        # Output names have the space only; resolution and cohort are separate entities.
        asked = config.selection.space.removeprefix("space-").partition(":")[0]
        fitting = [kind for kind in fitting if kind[1] == asked]
    if not fitting:
        raise InputError(
            f"No signals of atlas {config.signals.atlas}"
            f"{f' in {config.selection.space}' if config.selection.space else ''} in {config.out_dir}: found {listed}.",
            hint="Choose with --atlas and --space.",
        )
    if len(fitting) > 1:
        raise InputError(f"{config.out_dir} has signals in several spaces: {listed}.", hint="Choose one with --space.")
    return fitting[0]


def select_stored(
    stored: Sequence[StoredRun], selection: SelectionConfig, *, where: str, prefers_rest: bool = True
) -> list[StoredRun]:
    """Keep the requested runs in the given order; with `prefers_rest` and no requested
    task, only resting runs if there are any.

    `where` names the dataset in messages. Raises InputError if a label is unknown or no run is left.
    """
    kept = list(stored)
    known, is_lenient = {run.entities["sub"] for run in stored}, selection.ignore_missing_participants
    labels = keep_known(read_labels(selection.participant_label, "sub-"), known, where, is_lenient=is_lenient)
    asked = ("participant", "sub", labels)
    for what, key, labels in (asked, *list_asked(selection)):
        check_known(what, labels, {run.entities.get(key, "") for run in kept} - {""}, where, key=key)
        if labels:
            same = {normalise_value(key, label) for label in labels}
            kept = [run for run in kept if normalise_value(key, run.entities.get(key, "")) in same]
    excluded = read_labels(selection.exclude_participant_label, "sub-")
    left_out = set(keep_known(excluded, known, where, is_lenient=is_lenient, is_excluded=True))
    kept = [run for run in kept if run.entities["sub"] not in left_out]
    if not kept:
        raise InputError(f"No run of {where} matches the selection.", hint="Relax the selection.")
    if prefers_rest and not selection.task_id and any(run.entities.get("task", "").startswith("rest") for run in kept):
        rest = [run for run in kept if run.entities.get("task", "").startswith("rest")]
        LOGGER.info("Computing features from %s of task rest; use --task-id for others.", name_count(len(rest), "run"))
        return rest
    tasks = sorted({run.entities.get("task", "n/a") for run in kept})
    if prefers_rest:
        LOGGER.info("Computing features from %s of task %s.", name_count(len(kept), "run"), ", ".join(tasks))
    return kept


def choose_stored(
    config: AppConfig, *, prefers_rest: bool = True, is_main: bool = True
) -> tuple[str, AtlasNames, list[StoredRun], dict[str, tuple[str, str]]]:
    """Choose stored runs made with one atlas in one space: atlas label, parcels and networks, runs sorted by name, and
    reason and message by stem of those excluded by the limits of this call.

    If not `is_main`, the output directory holds a further preparation: its settings and its only atlas may differ from
    those of the call, and missing participants are no error.

    Raises InputError if none is left, ConfigurationError if runs have another atlas of the same label or
    other settings than requested.
    """
    kinds, selection = find_stored_kinds(config.out_dir), config.selection
    atlas, space = choose_kind(config) if is_main or len(kinds) != 1 else kinds[0]
    names = read_atlas_table(config.out_dir, name=atlas, space=space)
    found = find_stored_runs(config.out_dir, atlas=atlas, model="")
    stored = [run for run in found if run.entities.get("space", "") == space]
    if not is_main:
        selection = dataclasses.replace(selection, ignore_missing_participants=True)
    elif not selection.participant_label:
        known = {run.entities["sub"] for run in stored}
        warn_of_lost(config.out_dir, known, atlas=atlas, space=space)
        warn_of_missing_outputs(config.bids_dir, config.out_dir, known)
    chosen = select_stored(stored, selection, where=str(config.out_dir), prefers_rest=prefers_rest)
    sha256 = read_atlas_checksum(config.out_dir, name=atlas, space=space)
    others = [run for run in chosen if run.sidecar["Atlas"]["SHA256"] != sha256]
    if others:
        raise ConfigurationError(
            f"{len(others)} of {len(chosen)} runs have signals of a different atlas with the label {atlas}; the first "
            f"is {others[0].paths.stem}.",
            hint="Rerun the participant level on them with --overwrite, or exclude them.",
        )
    if is_main:
        check_settings(config, chosen, to_json(load_denoising(config.signals.denoise)))
    kept, left_out = leave_out(config, chosen)
    left_out |= find_excluded(config.out_dir, selection, [run.paths.stem for run in kept])
    kept = [run for run in kept if run.paths.stem not in left_out]
    if not kept:
        raise InputError(
            f"The limits of this call exclude all {len(chosen)} runs, e.g. {chosen[0].paths.stem}: "
            f"{left_out[chosen[0].paths.stem][1]}",
            hint="Lower --min-time or --min-coverage, or exclude fewer.",
        )
    return atlas, names, kept, left_out
