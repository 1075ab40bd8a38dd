"""Participant level: extract, encode and write each run; a bad run never stops the others."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bids_semantoks.atlases.load import find_all_spaces, load_atlas, load_surface_atlas
from bids_semantoks.atlases.series_atlas import load_series_atlas, name_series_atlas
from bids_semantoks.config import AppConfig, SignalsConfig, to_json
from bids_semantoks.disk import check_writable
from bids_semantoks.embedding import RunEncoder, build_run_encoder, embed_run
from bids_semantoks.errors import ConfigurationError, RunFailed, RunSkipped, name_count
from bids_semantoks.files import read_object, write_json
from bids_semantoks.inputs.accounting import describe_absent_content
from bids_semantoks.inputs.datasets import Dataset
from bids_semantoks.inputs.names import Derivative, is_surface_file
from bids_semantoks.inputs.runs import find_runs, open_inputs
from bids_semantoks.inputs.series_runs import find_atlas_tables, find_series
from bids_semantoks.outcomes import Outcome, Tally, isolate, review, run_batch
from bids_semantoks.outputs.dataset import (
    check_same_atlas,
    keep_identity,
    write_atlas,
    write_dataset,
    write_descriptions,
)
from bids_semantoks.outputs.features import count_planned, remove_features
from bids_semantoks.outputs.methods import write_citation
from bids_semantoks.outputs.sidecars import build_signals_sidecar, check_table
from bids_semantoks.outputs.store import (
    StoredRun,
    add_connectivity,
    find_encoders,
    read_sidecar,
    remove_outputs,
    remove_signals,
    write_signals,
)
from bids_semantoks.quality.run_qc import check_kept_time, write_run_qc
from bids_semantoks.records import Atlas, ParcelSignals, Run
from bids_semantoks.reports.cohort_page import report_all
from bids_semantoks.reports.figures_run import draw_figures
from bids_semantoks.reports.reporting import ReportQueue, build_facts, build_picture_grid
from bids_semantoks.reports.run_data import write_run_data
from bids_semantoks.run_plan import (
    Plan,
    RunJob,
    build_jobs,
    check_is_here,
    check_no_conflict,
    check_space,
    describe_settings,
    make_signals,
)
from bids_semantoks.runtime.logs import open_log
from bids_semantoks.runtime.resources import open_work_dir, share_cpus
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.read_series import read_first_header

LOGGER = logging.getLogger("bids_semantoks")


def run_participants(config: AppConfig, inputs: tuple[Dataset, tuple[str, ...]] | None = None) -> Tally:
    """Run the participant level (on `inputs` opened before) and count the outcomes of its runs. Raises SemantoksError,
    before anything is written, if the call as a whole cannot work."""
    if config.pretraining.pretrain:
        LOGGER.warning("--pretrain is ignored at the participant level; use it at the group level.")
    plan, encoder, jobs = build_plan(config, inputs)
    check_no_conflict(jobs, overwrite=config.running.overwrite)
    if not config.running.overwrite:
        check_same_atlas(config.out_dir, plan.atlas)
    check_writable(config.out_dir)
    open_work_dir(config.running.work_dir, config.out_dir)
    open_log(config.out_dir, to_json(config))
    done, todo = [job for job in jobs if job.is_complete], [job for job in jobs if not job.is_complete]
    reports = ReportQueue(config.out_dir, (job.participant for job in todo))
    write_methods(plan, encoder, jobs)
    _write_shared_files(plan, encoder)
    tally, former = Tally(), _find_features(jobs)
    in_this_process = RunWorker(plan, encoder)
    for job in review(done, in_this_process, tally):
        # Its report still shows it as complete.
        reports.expect(job.participant)
        reports.finish(job.participant)
    reports.write_absent(job.participant for job in done if not reports.left[job.participant])
    n_bytes, device = encoder.n_bytes if encoder else 0, in_this_process.device
    n_procs = share_cpus(config.running, n_jobs=len(todo), model_bytes=n_bytes, device=device)
    if n_procs > 1:
        LOGGER.info("Processing %d runs with %d processes.", len(todo), n_procs)
    run_batch(
        functools.partial(RunWorker, plan) if n_procs > 1 else lambda: in_this_process,
        todo,
        n_procs=n_procs,
        stop_on_failure=config.running.stop_on_first_crash,
        tally=tally,
        on_done=lambda job: reports.finish(job.participant),
    )
    if tally.n_failed:
        _clear_failed(plan, encoder, todo)
    _remove_features(plan, former)
    if tally.absent:
        LOGGER.warning("%s", describe_absent_content([job.run for job in tally.absent]))
    reports.write_rest()
    write_methods(plan, encoder, jobs)
    reports.update_methods(job.participant for job in jobs)
    report_all(config, plan.dataset, encoder.loaded.name if encoder else None, [job.version for job in done])
    return tally


def _clear_failed(plan: Plan, encoder: RunEncoder | None, jobs: Sequence[RunJob]) -> None:
    """Remove outdated outputs of a run that was not attempted, or whose worker was killed."""
    for job in jobs:
        status = read_object(job.paths.status)
        with contextlib.suppress(RunSkipped, RunFailed):
            check_space(plan, job.run)
            _clear(plan, job)
            if encoder and (sidecar := read_sidecar(job.paths.signals_sidecar)):
                encoder.clear(job.paths, sidecar)
        if status and not job.paths.status.is_file():
            # Only the record of this call remains of the run.
            write_json(job.paths.status, status)


def _clear(plan: Plan, job: RunJob) -> None:
    """Remove outputs with other settings or from an older input, which must not be mistaken for current ones, whatever
    the outcome. Those of a run whose input files were dropped are kept, as they cannot be recomputed: RunSkipped
    no_content."""
    check_is_here(plan, job.run)
    remove_signals(job.paths, settings=plan.settings, inputs=job.inputs)


def _find_features(jobs: Sequence[RunJob]) -> list[tuple[RunJob, set[str]]]:
    """Find the encoders that embedded each run before, whose features its participant may be in."""
    there = any((jobs[0].paths.out_dir / "phenotype").glob("*.tsv")) if jobs else False
    return [(job, labels) for job in jobs if there and (labels := find_encoders(job.paths))]


def _remove_features(plan: Plan, former: Sequence[tuple[RunJob, set[str]]]) -> None:
    """Remove participants from features that were averaged over an embedding that is gone."""
    stale: dict[str, set[str]] = {}
    for job, labels in former:
        for label in labels - find_encoders(job.paths):
            stale.setdefault(label, set()).add(job.participant)
    for model, participants in sorted(stale.items()):
        remove_features(plan.config.out_dir, atlas=plan.atlas.name, model=model, participants=participants)


def build_plan(
    config: AppConfig, inputs: tuple[Dataset, tuple[str, ...]] | None = None
) -> tuple[Plan, RunEncoder | None, list[RunJob]]:
    """Find the runs, resolve atlas and encoder (None for signals only) and determine what is left to do. Writes
    nothing. Raises SemantoksError if anything requested is missing or incompatible."""
    dataset, participants = inputs or open_inputs(config)
    denoised, is_parcellated = dataset.denoised, dataset.is_parcellated
    config = _adapt(config, dataset)
    denoising = load_denoising(config.signals.denoise, config.signals.band_pass)
    if is_parcellated:
        runs, atlas = _find_series(config, dataset, participants)
    else:
        if denoised is not None:
            done = f"The images were already denoised by {denoised.pipeline}; no regressors are removed."
            denoising = dataclasses.replace(denoising, description=done)
        spaces = find_all_spaces(config.signals.atlas, directory=config.signals.atlas_dir)
        runs = find_runs(dataset, config.selection, participants, preferred_spaces=spaces)
        atlas = load_run_atlas(config, runs[0])
    atlas = keep_identity(config.out_dir, atlas)
    encoder = _build_encoder(config, atlas)
    plan = Plan(
        config=config,
        dataset=dataset,
        is_parcellated=is_parcellated,
        denoised_by=denoised.pipeline if denoised else "",
        atlas=atlas,
        denoising=denoising,
        settings=describe_settings(config.signals, atlas, None if is_parcellated else denoising),
        # Runs in native space are an exception that the methods text must mention.
        averaged_over=next((run for run in runs if run.warp), runs[0]).averaged_over,
    )
    people = name_count(len({run.entity("sub") for run in runs}), "participant")
    space, what = atlas.space or "an unknown space", encoder.loaded.description if encoder else "no encoder"
    facts = name_count(len(runs), "run"), people, space, atlas.name, len(atlas.parcels), what.rstrip(".")
    LOGGER.info("Found %s of %s in %s; atlas %s (%d parcels); %s.", *facts)
    for warning in encoder.frozen.match.warnings if encoder else ():
        LOGGER.warning("%s", warning)
    return plan, encoder, build_jobs(plan, encoder, runs)


def _build_encoder(config: AppConfig, atlas: Atlas) -> RunEncoder | None:
    if config.signals.signals_only:
        return None
    return build_run_encoder(config.embedding, atlas.parcels, atlas.networks, seed=config.running.random_seed)


def load_run_atlas(config: AppConfig, run: Run) -> Atlas:
    """Load the atlas of a call in the space of a run, on surfaces where its data are."""
    signals, work_dir, space = config.signals, config.running.work_dir, run.space
    if is_surface_file(run.bold.name) and not run.problem:
        return load_surface_atlas(signals.atlas, space=space, directory=signals.atlas_dir)
    cohort = run.entity("cohort") or ""
    return load_atlas(signals.atlas, space=space, cohort=cohort, directory=signals.atlas_dir, work_dir=work_dir)


def _adapt(config: AppConfig, dataset: Dataset) -> AppConfig:
    """Fit options to a dataset: the atlas of its layout unless the user requests another than the default, no second
    denoising, and in a dry run no new pybids database."""
    selection, signals, layout = config.selection, config.signals, dataset.derivatives[0].layout
    if config.running.dry_run and selection.bids_database_dir and not selection.bids_database_dir.exists():
        selection = dataclasses.replace(selection, bids_database_dir=None)
    if dataset.denoised is not None:
        signals = _without_second_denoising(signals, dataset.denoised)
    if layout is not None and layout.atlas and signals.atlas == SignalsConfig().atlas:
        signals = dataclasses.replace(signals, atlas=layout.atlas)
    return dataclasses.replace(config, selection=selection, signals=signals)


def _without_second_denoising(signals: SignalsConfig, denoised: Derivative) -> SignalsConfig:
    """Disable denoising and filtering that were already applied to the inputs; ConfigurationError if the user requests
    them."""
    usual, band = SignalsConfig(), signals.band_pass
    where = f"the images in {denoised.path} were already denoised by {denoised.pipeline}"
    hint = "Remove the option, or use the dataset before denoising."
    if signals.denoise not in (usual.denoise, "none"):
        raise ConfigurationError(f"--denoise {signals.denoise} would denoise twice: {where}.", hint=hint)
    if signals.denoise != "none":
        LOGGER.info("Using --denoise none instead of %s: %s.", signals.denoise, where)
    if denoised.source.is_filtered and band is not None:
        if band != usual.band_pass:
            low, high = band
            raise ConfigurationError(
                f"--band-pass {low:g} {high:g} would filter twice: {where} and filtered.", hint=hint
            )
        LOGGER.info("Skipping the band-pass filter: already applied by %s.", denoised.pipeline)
        band = None
    return dataclasses.replace(signals, denoise="none", band_pass=band)


def _find_series(config: AppConfig, dataset: Dataset, participants: tuple[str, ...]) -> tuple[tuple[Run, ...], Atlas]:
    """Find the tables of a parcellated dataset and the atlas of their parcels."""
    LOGGER.info("Using the series unchanged: no denoising, filtering or scrubbing.")
    # The default is an atlas for extraction; here the dataset has its own.
    asked = config.signals.atlas if config.signals.atlas != SignalsConfig().atlas else ""
    label, runs = find_series(dataset, config.selection, participants, atlas=asked)
    columns = read_first_header(runs)
    if not label:
        asked, label = name_series_atlas(columns, asked, SignalsConfig().atlas)
    atlas = load_series_atlas(
        label,
        columns,
        space=runs[0].space,
        asked=asked,
        tables=find_atlas_tables(dataset, label, runs[0].space),
        directory=config.signals.atlas_dir,
    )
    return runs, atlas


class RunWorker:
    """Processes one run at a time with tools loaded once; loads the encoder if none is given and the plan needs one."""

    def __init__(self, plan: Plan, encoder: RunEncoder | None = None) -> None:
        self.plan = plan
        self.encoder = encoder or _build_encoder(plan.config, plan.atlas)
        self.device = str(self.encoder.frozen.device) if self.encoder else "cpu"
        self._grid = functools.cache(functools.partial(build_picture_grid, plan.atlas))

    def __call__(self, job: RunJob) -> Outcome:
        """Write the missing outputs of a run with its status and quality, then its figures if requested, which cannot
        affect the outputs."""
        note, action = " ".join(job.run.time_problems), "kept" if job.is_complete else "made"
        outcome = isolate(lambda: self._complete(job), job, device=self.device, note=note, action=action)
        if not (job.is_complete and job.paths.qc.is_file()):
            write_run_qc(job.paths, seconds=None if job.is_complete else outcome.seconds)
        kind, atlas = self.plan.config.running.figures, self.plan.atlas
        if kind and outcome.status != "failed" and (sidecar := read_sidecar(job.paths.signals_sidecar)):
            draw_figures(job.paths, sidecar, (atlas.parcels, atlas.networks), kind)
        return outcome

    def _complete(self, job: RunJob) -> tuple[str, ...]:
        """Write the missing outputs of a run; return warnings. Sidecars are written last, so that interrupted work is
        repeated."""
        plan, paths = self.plan, job.paths
        if not job.is_complete:
            paths.qc.unlink(missing_ok=True)  # it must not outlive its source
        check_space(plan, job.run)
        warnings: tuple[str, ...] = ()
        needs_embedding = job.needs_embedding
        sidecar = None if job.needs_signals else read_sidecar(paths.signals_sidecar)
        if sidecar is not None:
            self._check_kept_time(job, sidecar)
            if job.is_complete:
                return ()
            try:
                check_table(paths.signals, sidecar)
                if job.needs_connectivity:
                    add_connectivity(paths, sidecar, plan.config.signals.connectivity)
            except RunFailed as error:
                sidecar, warnings = None, (f"{error.message} It was recomputed.",)
        if sidecar is None:
            _clear(plan, job)
            signals = make_signals(plan, job.run)
            warnings, sidecar = (*warnings, *signals.warnings), self._write_signals(job, signals)
            needs_embedding = True
        if self.encoder and needs_embedding:
            # Read back, so that both levels encode exactly the values in the table.
            stored = StoredRun(entities=dict(job.run.entities), paths=paths, sidecar=sidecar)
            warnings += embed_run(stored, self.encoder)
        return warnings

    def _check_kept_time(self, job: RunJob, sidecar: dict[str, Any]) -> None:
        """Skip a stored run that is too short for this call; with --overwrite, its outputs are removed."""
        try:
            check_kept_time(sidecar, self.plan.config.signals.min_time)
        except RunSkipped:
            if self.plan.config.running.overwrite:
                remove_outputs(job.paths)
            raise

    def _write_signals(self, job: RunJob, signals: ParcelSignals) -> dict[str, Any]:
        """Write the signals; return the sidecar, not read back since another process may be replacing it on disk."""
        plan, asked = self.plan, self.plan.config.signals
        sidecar = build_signals_sidecar(
            job.run,
            plan.atlas,
            signals,
            settings=plan.settings,
            inputs=job.inputs,
            dataset=plan.source_name(job.run),
            min_time=asked.min_time,
        )

        def show() -> list[Path]:
            return write_run_data(job.paths, signals, (plan.atlas.parcels, plan.atlas.networks), self._grid)

        return write_signals(
            *(job.paths, plan.atlas, signals, sidecar),
            save_raw=asked.save_raw_signals,
            connectivity=asked.connectivity,
            show=show,
        )


def write_methods(plan: Plan, encoder: RunEncoder | None, jobs: Sequence[RunJob]) -> None:
    """Write the methods text of a call; `encoder` is None if only signals are written."""
    chosen = plan.config.selection
    # For a part of the study, such as a job for one participant, counts would be meaningless.
    is_part = bool(chosen.participant_label or chosen.exclude_participant_label)
    cohort = None if is_part else count_planned([job.paths for job in jobs])
    signals = {
        **plan.settings,
        **{"averaged_over": plan.averaged_over, "denoised_by": plan.denoised_by},
        "uses_pybids": chosen.bids_database_dir is not None,
        "pipelines": list(dict.fromkeys(one.pipeline for one in plan.dataset.derivatives)),
        "n_parcels": len(plan.atlas.parcels),
        "min_time": plan.config.signals.min_time,
    }
    write_citation(plan.config.out_dir, build_facts(signals, encoder, cohort=cohort))


def _write_shared_files(plan: Plan, encoder: RunEncoder | None) -> None:
    out_dir, dataset = plan.config.out_dir, plan.dataset
    write_dataset(
        out_dir,
        sources={one.name: one.path for one in dataset.derivatives},
        upstream=tuple(one.pipeline for one in dataset.derivatives),
    )
    write_atlas(out_dir, plan.atlas)
    raw = {"raw": "Signals before denoising."} if plan.config.signals.save_raw_signals else {}
    write_descriptions(out_dir, raw | (encoder.description if encoder else {}))
