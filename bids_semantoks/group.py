"""Group level: choose stored runs, pretrain, embed, average by participant, analyse and report; never opens BOLD."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bids_semantoks.analyses.encoders import embed_others, load_others
from bids_semantoks.bids_names import check_name
from bids_semantoks.config import AppConfig, EmbeddingConfig, RunningConfig, SelectionConfig, to_json
from bids_semantoks.config.options import check
from bids_semantoks.disk import check_writable
from bids_semantoks.embedding import (
    AtlasNames,
    RunEncoder,
    build_run_encoder,
    embed_missing,
    find_embedding_state,
    find_missing,
    leave_out_damaged,
)
from bids_semantoks.errors import ConfigurationError, InputError, ResourceError
from bids_semantoks.inputs.listed import find_roots, warn_of_missing_outputs
from bids_semantoks.inputs.selection import check_known, keep_known, list_asked, normalise_value, read_labels
from bids_semantoks.outcomes import Tally
from bids_semantoks.outputs.dataset import read_atlas_checksum, read_atlas_table, write_descriptions
from bids_semantoks.outputs.features import (
    RunMean,
    average_runs,
    build_mean_reader,
    describe_sessions,
    describe_weights,
    keep_first_sessions,
    write_features,
    write_group_status,
    write_session_features,
)
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds, find_stored_runs
from bids_semantoks.quality.cohort import CallFacts, build_rows, describe_rows
from bids_semantoks.quality.exclude import find_excluded
from bids_semantoks.quality.limits import check_settings, leave_out, warn_of_lost
from bids_semantoks.reports.cohort_page import report_cohort
from bids_semantoks.reports.reporting import write_stored_methods
from bids_semantoks.runtime.launch import check_launch
from bids_semantoks.runtime.logs import open_log
from bids_semantoks.runtime.processes import WorkerDied, run_jobs
from bids_semantoks.runtime.progress import Progress
from bids_semantoks.runtime.resources import choose_n_procs, open_work_dir, read_rank
from bids_semantoks.signals.denoising import load_denoising

if TYPE_CHECKING:
    from bids_semantoks.analyses.analyse import CallPlan

LOGGER = logging.getLogger("bids_semantoks")

#: Fewer runs are read faster than a process starts.
_RUNS_PER_READER = 300


def run_group(config: AppConfig) -> Tally:
    """Run the group level and count the outcomes of its runs. Raises
    SemantoksError if the call as a whole cannot work."""
    _check_bids_dir(config)
    LOGGER.info("Running the group level on the signals in %s.", config.out_dir)
    if config.signals.signals_only:
        return _report_quality(config)
    asked, running = config.pretraining, config.running
    if asked.pretrain or config.probing.scaling:
        check_launch()
    is_probing = bool(config.probing.probe) or config.probing.task_blocks is not None
    # Without stored signals to embed, the call only trains.
    only_trains = asked.pretrain and asked.pretrain_data and not is_probing and not find_stored_kinds(config.out_dir)
    label, atlas, chosen, left_out = ("", ((), ()), [], {}) if only_trains else choose_stored(config)
    # A misspelt column must not end a call after hours of pretraining or embedding.
    probes = _plan_probes(config, chosen, atlas) if is_probing else None
    if asked.pretrain:
        config = _pretrain(config, chosen, atlas)
        if running.dry_run or only_trains or read_rank() > 0:
            # The other ranks only take part in training; the first continues alone.
            return Tally(is_silent=read_rank() > 0 and not running.dry_run)
    encoder = build_run_encoder(config.embedding, *atlas, seed=running.random_seed)
    others = load_others(config, encoder, atlas)
    chosen = encoder.name_outputs(chosen)
    missing = find_missing(
        *(chosen, encoder),
        overwrite=running.overwrite,
        hint=_name_remedy(config),
        redo_older_than=running.redo_older_than,
    )
    n_done = len(chosen) - len(missing)
    n_refused = probes.n_refused if probes is not None else 0
    tally = Tally(n_ok=n_done, n_kept=n_done, n_skipped=len(left_out), n_refused=n_refused)
    if running.dry_run:
        LOGGER.info(
            "Would embed %d of %d runs and write %s.",
            *(len(missing), len(chosen), _list_features(label, (encoder, *others))),
        )
        return tally
    if not asked.pretrain:
        _open_outputs(config)
    write_descriptions(config.out_dir, encoder.description)
    write_stored_methods(config, encoder, chosen, left_out)
    embed_missing(missing, encoder, atlas, running, tally)
    if tally.is_disk_full:
        return tally
    complete = _keep_complete(chosen, missing, encoder)
    # Probes also read the signals.
    complete = leave_out_damaged(complete, tally) if probes is not None else complete
    if len(complete) < len(chosen) and complete:
        write_stored_methods(config, encoder, complete, left_out)
    embed_others(complete, others, running)
    tally.cohort = _write_tables(config, (encoder, *others), label, complete, left_out)
    if probes is not None:
        from bids_semantoks.analyses.analyse import run_call  # noqa: PLC0415 - scikit-learn is slow to load

        tally.n_refused = run_call(probes, config, encoder, complete, atlas, left_out=left_out, others=others)
    return tally


def _check_bids_dir(config: AppConfig) -> None:
    check_name(config.bids_dir, InputError, "BIDS_DIR")
    if not config.bids_dir.is_dir():
        raise InputError(
            f"BIDS_DIR {config.bids_dir} is not a directory.",
            hint="Give the dataset that the participant level processed.",
        )


def _report_quality(config: AppConfig) -> Tally:
    """Write the table and page of the quality of all runs, for which no encoder is loaded."""
    excluded = find_excluded(config.out_dir, config.selection)
    facts = CallFacts(roots=find_roots(config.bids_dir), left_out=excluded)
    if config.running.dry_run:
        rows = build_rows(config.out_dir, facts)
    else:
        _open_outputs(config)
        rows = report_cohort(config.out_dir, facts)
    return Tally(cohort=describe_rows(rows))


def _report_runs(
    config: AppConfig, model: str, complete: Sequence[StoredRun], left_out: Mapping[str, tuple[str, str]]
) -> str:
    """Write the tables of status and quality of all runs; return the counts of those of this atlas and space."""
    used = [run.paths.stem for run in complete]
    write_group_status(config.out_dir, used=used, left_out=left_out)
    facts = CallFacts(model=model, roots=find_roots(config.bids_dir), used=used, left_out=left_out)
    rows = report_cohort(config.out_dir, facts)
    kinds = {(run.entities.get("atlas"), run.entities.get("space")) for run in complete} | {(None, None)}
    return describe_rows([row for row in rows if len(kinds) == 1 or (row.get("atlas"), row.get("space")) in kinds])


def _list_features(label: str, encoders: Sequence[RunEncoder]) -> str:
    """List the tables of features of all readouts."""
    readouts = [one for encoder in encoders for one in encoder.readouts]
    return ", ".join(f"phenotype/{label}{one.loaded.name}.tsv" for one in readouts)


def _name_remedy(config: AppConfig) -> str:
    """Return the hint for embeddings with different settings."""
    if config.pretraining.pretrain:
        # Adding --overwrite to the same call would repeat days of training.
        return (
            f"The encoder is complete. To embed, use --model {config.embedding.model} --overwrite without --pretrain."
        )
    return "Use the original settings or --overwrite."


def _keep_complete(chosen: Sequence[StoredRun], missing: Sequence[StoredRun], encoder: RunEncoder) -> list[StoredRun]:
    """Keep the runs that have an embedding after those `missing` were to be embedded."""
    tried = {run.paths.embedding for run in missing}
    return [
        run
        for run in chosen
        if run.paths.embedding not in tried or find_embedding_state(run.paths, encoder, run.sidecar["TableSHA256"])[0]
    ]


def _write_tables(
    config: AppConfig,
    encoders: Sequence[RunEncoder],
    label: str,
    complete: Sequence[StoredRun],
    left_out: Mapping[str, tuple[str, str]],
) -> str:
    """Write the tables of features, status and quality, unless the call only probes a part; return counts of runs."""
    if config.probing.probe_part:
        return ""
    for one in encoders:
        _write_features(config, one, label, complete)
    return _report_runs(config, encoders[0].loaded.name, complete, left_out)


def _write_features(config: AppConfig, encoder: RunEncoder, label: str, complete: Sequence[StoredRun]) -> None:
    how = config.selection.sessions
    if sentence := describe_sessions(complete, how):
        LOGGER.info("Features: %s.", sentence)
    for one in encoder.readouts:
        runs = one.name_outputs(complete)
        used = keep_first_sessions(runs) if how == "first" else runs
        # Wide features have no table by session, which would need all means.
        means = read_means(used if one.is_array else runs, config.running, min_kept=config.min_kept)
        name, description = one.loaded.name, f"{describe_weights(config.min_kept)} {one.loaded.description}"
        path = write_features(
            config.out_dir,
            atlas=label,
            model=name,
            description=description,
            rows=average_runs(used, means, min_kept=config.min_kept, by_session=how == "each"),
            as_array=one.is_array,
        )
        n_participants = len({run.entities["sub"] for run in used})
        LOGGER.info("Wrote the features of %d participants (%d runs) to %s", n_participants, len(used), path)
        if not one.is_array:
            rows = average_runs(runs, means, min_kept=config.min_kept, by_session=True)
            write_session_features(config.out_dir, atlas=label, model=name, description=description, rows=rows)


def write_group_methods(config: AppConfig) -> None:
    """Write only the methods text of a group call. Raises SemantoksError if the call as a whole cannot work."""
    _, atlas, chosen, left_out = choose_stored(config)
    check_writable(config.out_dir)
    encoder = build_run_encoder(config.embedding, *atlas, seed=config.running.random_seed)
    write_stored_methods(config, encoder, chosen, left_out)


def _plan_probes(config: AppConfig, chosen: Sequence[StoredRun], atlas: AtlasNames) -> CallPlan:
    """Check the requested probes; InputError if a column is missing or no phenotype can be probed."""
    from bids_semantoks.analyses.analyse import plan_call  # noqa: PLC0415 - scikit-learn is slow to load

    check(
        config.probing.probe_part is None or not (config.pretraining.pretrain or config.probing.scaling),
        "--probe-part cannot be combined with --pretrain or --scaling.",
        "Train first, in a call without it.",
    )
    task_runs = choose_stored(config, prefers_rest=False)[2] if config.probing.task_blocks else []
    return plan_call(config, chosen, task_runs, atlas)


def _open_outputs(config: AppConfig) -> None:
    check_writable(config.out_dir)
    open_work_dir(config.running.work_dir, config.out_dir)
    if read_rank() == 0:
        open_log(config.out_dir, to_json(config))


def _pretrain(config: AppConfig, chosen: Sequence[StoredRun], atlas: AtlasNames) -> AppConfig:
    """Pretrain an encoder and return the configuration that embeds with
    it; a dry run only logs what would be trained."""
    from bids_semantoks.pretraining.run import pretrain_encoder, preview_training  # noqa: PLC0415 - most do not train

    if config.running.dry_run:
        preview_training(config, chosen, *atlas)
        return config
    _open_outputs(config)
    if config.embedding.model != EmbeddingConfig().model:
        LOGGER.warning(
            "--model %s is ignored: --pretrain embeds with the encoder that it trains.", config.embedding.model
        )
    path = pretrain_encoder(config, chosen, *atlas)
    return dataclasses.replace(config, embedding=dataclasses.replace(config.embedding, model=str(path)))


def read_means(stored: Sequence[StoredRun], running: RunningConfig, *, min_kept: float | None) -> dict[Path, RunMean]:
    """Average embeddings over the windows of each run, by path of the embedding; `min_kept` as in `weigh_windows`.
    Raises ResourceError if a reading process was killed."""
    n_procs = choose_n_procs(running, n_jobs=len(stored) // _RUNS_PER_READER, model_bytes=0)
    read: dict[Path, RunMean] = {}
    results = run_jobs(build_mean_reader, (min_kept,), [run.paths for run in stored], n_procs=n_procs)
    for i, result in Progress("Averaging").each("run", results, total=len(stored)):
        path = stored[i].paths.embedding
        if isinstance(result, WorkerDied):
            raise ResourceError(f"Failed to read {path}: {result}.", hint="Reduce --n-procs.")
        read[path] = result
    return read


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
        LOGGER.info("Computing features from %d runs of task rest; use --task-id for others.", len(rest))
        return rest
    tasks = sorted({run.entities.get("task", "n/a") for run in kept})
    if prefers_rest:
        LOGGER.info("Computing features from %d runs of task %s.", len(kept), ", ".join(tasks))
    return kept


def choose_stored(
    config: AppConfig, *, prefers_rest: bool = True
) -> tuple[str, AtlasNames, list[StoredRun], dict[str, tuple[str, str]]]:
    """Choose stored runs made with one atlas in one space: atlas label, parcels and networks, runs sorted by name, and
    reason and message by stem of those excluded by the limits of this call.

    Raises InputError if none is left, ConfigurationError if runs have another atlas of the same label or
    other settings than requested.
    """
    atlas, space = choose_kind(config)
    names = read_atlas_table(config.out_dir, name=atlas, space=space)
    found = find_stored_runs(config.out_dir, atlas=atlas, model="")
    stored = [run for run in found if run.entities.get("space", "") == space]
    if not config.selection.participant_label:
        known = {run.entities["sub"] for run in stored}
        warn_of_lost(config.out_dir, known, atlas=atlas, space=space)
        warn_of_missing_outputs(config.bids_dir, config.out_dir, known)
    chosen = select_stored(stored, config.selection, where=str(config.out_dir), prefers_rest=prefers_rest)
    sha256 = read_atlas_checksum(config.out_dir, name=atlas, space=space)
    others = [run for run in chosen if run.sidecar["Atlas"]["SHA256"] != sha256]
    if others:
        raise ConfigurationError(
            f"{len(others)} of {len(chosen)} runs have signals of a different atlas with the label {atlas}; the first "
            f"is {others[0].paths.stem}.",
            hint="Rerun the participant level on them with --overwrite, or exclude them.",
        )
    check_settings(config, chosen, to_json(load_denoising(config.signals.denoise)))
    kept, left_out = leave_out(config, chosen)
    left_out |= find_excluded(config.out_dir, config.selection, [run.paths.stem for run in kept])
    kept = [run for run in kept if run.paths.stem not in left_out]
    if not kept:
        raise InputError(
            f"The limits of this call exclude all {len(chosen)} runs, e.g. {chosen[0].paths.stem}: "
            f"{left_out[chosen[0].paths.stem][1]}",
            hint="Lower --min-time or --min-coverage, or exclude fewer.",
        )
    return atlas, names, kept, left_out
