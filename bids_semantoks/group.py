"""Group level: choose stored runs, pretrain, embed, average by participant, analyse and report; never opens BOLD."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bids_semantoks.analyses.choose import choose_stored, embed_others, load_others
from bids_semantoks.bids_names import check_name
from bids_semantoks.config import AppConfig, EmbeddingConfig, to_json
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
    read_means,
)
from bids_semantoks.errors import InputError, name_count
from bids_semantoks.inputs.names import find_roots
from bids_semantoks.outcomes import Tally
from bids_semantoks.outputs.dataset import write_descriptions
from bids_semantoks.outputs.features import (
    average_runs,
    describe_sessions,
    describe_weights,
    keep_first_sessions,
    write_features,
    write_group_status,
    write_session_features,
)
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds
from bids_semantoks.quality.cohort import CallFacts, build_rows, describe_rows, find_excluded
from bids_semantoks.reports.cohort_page import report_cohort
from bids_semantoks.reports.reporting import write_stored_methods
from bids_semantoks.runtime.logs import open_log
from bids_semantoks.runtime.resources import check_launch, open_work_dir, read_rank

if TYPE_CHECKING:
    from bids_semantoks.analyses.analyse import CallPlan
    from bids_semantoks.analyses.applying import ApplicationPlan

LOGGER = logging.getLogger("bids_semantoks")
_RUNS_PER_READER = 300  # fewer runs are read faster than a process starts


def run_group(config: AppConfig) -> Tally:
    """Run the group level and count the outcomes of its runs. Raises SemantoksError if the call cannot work."""
    _check_bids_dir(config)
    LOGGER.info("Running the group level on the signals in %s.", config.out_dir)
    if config.signals.signals_only:
        check(not config.probing.audit, "--audit needs embeddings, which --signals-only does not make.", "Remove one.")
        return _report_quality(config)
    asked, running = config.pretraining, config.running
    if asked.pretrain or config.probing.scaling:
        check_launch()
    is_probing = bool(config.probing.probe or config.probing.audit) or config.probing.task_blocks is not None
    # Without stored signals to embed, the call only trains.
    only_trains = asked.pretrain and asked.pretrain_data and not is_probing and not find_stored_kinds(config.out_dir)
    label, atlas, chosen, left_out = ("", ((), ()), [], {}) if only_trains else choose_stored(config)
    # A misspelt column must not end a call after hours of pretraining or embedding.
    probes, application = _plan_probes(config, chosen, atlas, is_probing=is_probing), _plan_application(config, chosen)
    if asked.pretrain:
        config = _pretrain(config, chosen, atlas)
        if running.dry_run or only_trains or read_rank() > 0:
            # The other ranks only take part in training; the first continues alone.
            return Tally(is_silent=read_rank() > 0 and not running.dry_run)
    encoder, others = _load_encoders(config, atlas, probes)
    chosen = _check_predictors(config, application, (encoder, *others), encoder.name_outputs(chosen))
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
    write_stored_methods(config, (encoder, *others), chosen, left_out)
    embed_missing(missing, encoder, atlas, running, tally)
    if tally.is_disk_full:
        return tally
    complete = _keep_complete(chosen, missing, encoder)
    # Without need of them, the signals of 50,000 runs would be read for their checksums alone.
    reads_signals = config.probing.reads_signals or bool(probes is not None and others)
    complete = leave_out_damaged(complete, tally) if reads_signals else complete
    if len(complete) < len(chosen) and complete:
        write_stored_methods(config, (encoder, *others), complete, left_out)
    embed_others(complete, others, running)
    tally.cohort = _write_tables(config, (encoder, *others), label, complete, left_out)
    _apply_predictor(application, complete)
    if probes is not None:
        from bids_semantoks.analyses.analyse import run_call  # noqa: PLC0415 - scikit-learn is slow to load

        tally.n_refused = run_call(probes, config, encoder, complete, atlas, left_out=left_out, others=others)
    return tally


def _load_encoders(config: AppConfig, atlas: AtlasNames, plan: CallPlan | None) -> tuple[RunEncoder, list[RunEncoder]]:
    """Load the encoder and those that are compared with it, and check that probes by them fit into memory."""
    encoder = build_run_encoder(config.embedding, *atlas, seed=config.running.random_seed)
    others = load_others(config, encoder, atlas)
    if plan is not None and not config.pretraining.pretrain:
        plan.check_resources(atlas, encoder, others)
    return encoder, others


def _plan_application(config: AppConfig, chosen: Sequence[StoredRun]) -> ApplicationPlan | None:
    """Read the predictor to be applied, if any, and check it against the signals, before anything is embedded."""
    if config.probing.apply_predictor is None:
        return None
    from bids_semantoks.analyses.applying import ApplicationPlan  # noqa: PLC0415 - scikit-learn is slow to load

    return ApplicationPlan(config, chosen)


def _apply_predictor(plan: ApplicationPlan | None, complete: Sequence[StoredRun]) -> None:
    if plan is not None:
        plan.run(complete)


def _check_predictors(
    config: AppConfig, application: ApplicationPlan | None, encoders: Sequence[RunEncoder], chosen: list[StoredRun]
) -> list[StoredRun]:
    """Check predictors to be saved or applied against the encoders, before anything is embedded; return `chosen`."""
    if application is not None:
        application.check_encoders(encoders)
    if config.probing.save_predictor is not None:
        from bids_semantoks.analyses.saving import check_saving  # noqa: PLC0415 - as in _plan_application

        check_saving(config, encoders, chosen)
    return chosen


def _check_bids_dir(config: AppConfig) -> None:
    check_name(config.bids_dir, InputError, "BIDS_DIR")
    if not config.bids_dir.is_dir():
        raise InputError(
            f"BIDS_DIR {config.bids_dir} is not a directory.",
            hint="Give the dataset that the participant level processed.",
        )
    if config.selection.derivatives and not (config.probing.probe or config.probing.task_blocks):
        LOGGER.warning("-d %s is not read: this call probes nothing.", " ".join(config.selection.derivatives))


def _report_quality(config: AppConfig) -> Tally:
    """Write the table and page of the quality of all runs, for which no encoder is loaded."""
    facts = CallFacts(roots=find_roots(config.bids_dir), left_out=find_excluded(config.out_dir, config.selection))
    if config.running.dry_run:
        rows = build_rows(config.out_dir, facts)
    else:
        _open_outputs(config)
        rows = report_cohort(config.out_dir, facts)
    return Tally(cohort=describe_rows(rows))


def _list_features(label: str, encoders: Sequence[RunEncoder]) -> str:
    """List the tables of features of all readouts."""
    readouts = [one for encoder in encoders for one in encoder.readouts]
    return ", ".join(f"phenotype/{label}{one.loaded.name}.tsv" for one in readouts)


def _name_remedy(config: AppConfig) -> str:
    """Return the hint for embeddings with different settings."""
    if config.pretraining.pretrain:
        # Adding --overwrite to the same call would repeat days of training.
        model = config.embedding.model
        return f"The encoder is complete. To embed, use --model {model} --overwrite without --pretrain."
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
    used = [run.paths.stem for run in complete]
    write_group_status(config.out_dir, used=used, left_out=left_out)
    roots, model = find_roots(config.bids_dir), encoders[0].loaded.name
    rows = report_cohort(config.out_dir, CallFacts(model=model, roots=roots, used=used, left_out=left_out))
    # Of the atlas and space of the call alone, and of runs without signals.
    kinds = {(run.entities.get("atlas"), run.entities.get("space")) for run in complete} | {(None, None)}
    return describe_rows([row for row in rows if len(kinds) == 1 or (row.get("atlas"), row.get("space")) in kinds])


def _write_features(config: AppConfig, encoder: RunEncoder, label: str, complete: Sequence[StoredRun]) -> None:
    how = config.selection.sessions
    if sentence := describe_sessions(complete, how):
        LOGGER.info("Features: %s.", sentence)
    for one in encoder.readouts:
        runs = one.name_outputs(complete)
        used = keep_first_sessions(runs) if how == "first" else runs
        # Wide features have no table by session, which would need all means.
        places = [run.paths for run in (used if one.is_array else runs)]
        means = read_means(places, config.running, min_kept=config.min_kept)
        name, description = one.loaded.name, f"{describe_weights(config.min_kept)} {one.loaded.description}"
        path = write_features(
            config.out_dir,
            atlas=label,
            model=name,
            description=description,
            rows=average_runs(used, means, min_kept=config.min_kept, by_session=how == "each"),
            as_array=one.is_array,
        )
        people = name_count(len({run.entities["sub"] for run in used}), "participant")
        LOGGER.info("Wrote the features of %s (%s) to %s", people, name_count(len(used), "run"), path)
        if not one.is_array:
            rows = average_runs(runs, means, min_kept=config.min_kept, by_session=True)
            write_session_features(config.out_dir, atlas=label, model=name, description=description, rows=rows)


def write_group_methods(config: AppConfig) -> None:
    """Write only the methods text of a group call. Raises SemantoksError if the call as a whole cannot work."""
    from bids_semantoks.analyses.preparations import (  # noqa: PLC0415 - as in run_group
        describe_preparations,
        find_unshared,
        keep_shared,
        open_preparations,
    )

    _, atlas, chosen, left_out = choose_stored(config)
    check_writable(config.out_dir)
    encoder = build_run_encoder(config.embedding, *atlas, seed=config.running.random_seed)
    encoders, further = (encoder, *load_others(config, encoder, atlas)), open_preparations(config, chosen)
    left_out |= find_unshared(chosen, further)
    chosen = keep_shared(chosen, further)
    preparations = describe_preparations(chosen, further)
    write_stored_methods(config, encoders, chosen, left_out, preparations=preparations)


def _plan_probes(
    config: AppConfig, chosen: Sequence[StoredRun], atlas: AtlasNames, *, is_probing: bool
) -> CallPlan | None:
    """Check the requested probes, if any; InputError if a column is missing or no phenotype can be probed."""
    if not is_probing:
        return None
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
    model = config.embedding.model
    if model != EmbeddingConfig().model:
        LOGGER.warning("--model %s is ignored: --pretrain embeds with the encoder that it trains.", model)
    path = pretrain_encoder(config, chosen, *atlas)
    return dataclasses.replace(config, embedding=dataclasses.replace(config.embedding, model=str(path)))
