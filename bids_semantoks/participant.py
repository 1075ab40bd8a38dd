"""Participant level: extract, encode and write each run; a bad run never stops the others."""

from __future__ import annotations

import functools
import logging
from typing import Any

from bids_semantoks.batch import run_batch
from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.embedding import EncodedRun, RunEncoder, build_run_encoder, encode_run
from bids_semantoks.errors import RunSkipped
from bids_semantoks.files import check_writable
from bids_semantoks.jobs import (
    Plan,
    RunJob,
    check_is_here,
    check_kept_time,
    check_no_conflict,
    check_space,
    make_signals,
)
from bids_semantoks.outcomes import Outcome, Tally, isolate, report_outcome
from bids_semantoks.outputs.dataset import check_same_atlas, write_atlas, write_dataset, write_descriptions
from bids_semantoks.outputs.methods import write_citation
from bids_semantoks.outputs.sidecars import build_signals_sidecar, read_sidecar
from bids_semantoks.outputs.store import read_signals, remove_signals, write_signals
from bids_semantoks.planning import build_plan
from bids_semantoks.records import ParcelSignals
from bids_semantoks.reports.reporting import ReportQueue, build_facts, build_picture_grid, describe_signals
from bids_semantoks.reports.run_figures import draw_embedding, draw_signals
from bids_semantoks.runtime.logs import open_log
from bids_semantoks.runtime.resources import choose_n_procs, choose_n_threads, limit_threads, open_work_dir

LOGGER = logging.getLogger("bids_semantoks")


class RunWorker:
    """Processes one run at a time with tools loaded once; loads the encoder if none is given and the plan needs one."""

    def __init__(self, plan: Plan, encoder: RunEncoder | None = None) -> None:
        self.plan = plan
        config = plan.config
        if encoder is None and not config.signals.signals_only:
            atlas, seed = plan.atlas, config.running.random_seed
            encoder = build_run_encoder(config.embedding, atlas.parcels, atlas.networks, seed=seed)
        self.encoder = encoder
        self.device = str(encoder.frozen.device) if encoder else "cpu"
        self._grid = functools.cache(functools.partial(build_picture_grid, plan.atlas))
        self._signals: ParcelSignals | None = None
        self._encoded: EncodedRun | None = None

    def __call__(self, job: RunJob) -> Outcome:
        """Process one run and write its status."""
        self._signals = self._encoded = None
        outcome = isolate(functools.partial(self._complete, job), job, device=self.device)
        if outcome.status == "ok":
            self._draw(job)
        return outcome

    def _draw(self, job: RunJob) -> None:
        """Draw the figures of a run after its outputs are written, so that a failing figure cannot spoil them."""
        sidecar = read_sidecar(job.paths.signals_sidecar)
        if self._signals is not None:
            threshold = self.plan.config.signals.fd_threshold
            draw_signals(job.paths, self.plan.atlas, self._signals, threshold=threshold, grid=self._grid())
        if self._encoded is not None and self.encoder is not None and sidecar is not None:
            rows = self.encoder.token_rows
            draw_embedding(job.paths, self._encoded.windows, self._encoded.embedding, rows, sidecar)

    def _complete(self, job: RunJob) -> tuple[str, ...]:
        config = self.plan.config
        check_space(self.plan, job.run)
        warnings: tuple[str, ...] = ()
        sidecar = None if job.needs_signals else read_sidecar(job.paths.signals_sidecar)
        if sidecar is None:
            check_is_here(self.plan, job.run)
            # Should extraction fail, what an older input gave must not pass for this run's.
            remove_signals(job.paths, settings=self.plan.settings, inputs=job.inputs)
            warnings, sidecar = self._write_signals(job)
        else:
            check_kept_time(sidecar, config.signals)
            if not job.needs_embedding:
                raise RunSkipped("already_done", "Complete with the same settings.")
        if self.encoder:
            # Read back, so that what is encoded is what the table holds, here as at group level.
            self._encoded = encode_run(self.encoder, job.paths, read_signals(job.paths)[1], sidecar)
            warnings += self._encoded.warnings
        return warnings

    def _write_signals(self, job: RunJob) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Write the signals; return warnings and sidecar, not read back since another process may be replacing it on
        disk."""
        plan = self.plan
        signals = make_signals(plan, job.run)
        sidecar = build_signals_sidecar(
            job.run,
            plan.atlas,
            signals,
            settings=plan.settings,
            inputs=job.inputs,
            dataset=plan.source_name(job.run),
            min_time=plan.config.signals.min_time,
        )
        save_raw = plan.config.signals.save_raw_signals
        sha256 = write_signals(job.paths, plan.atlas, signals, sidecar, save_raw=save_raw)
        self._signals = signals
        return signals.warnings, {**sidecar, "TableSHA256": sha256}


def run_participants(config: AppConfig) -> Tally:
    """Run the participant level and count the outcomes of its runs. Raises SemantoksError, before anything is written,
    if
    the
    call as a whole cannot work."""
    if config.pretraining.pretrain:
        LOGGER.warning("--pretrain trains at the group level, and does nothing at the participant level.")
    plan, encoder, jobs = build_plan(config)
    check_no_conflict(jobs, overwrite=config.running.overwrite)
    if not config.running.overwrite:
        check_same_atlas(config.out_dir, plan.atlas)
    check_writable(config.out_dir)
    open_work_dir(config.running.work_dir, config.out_dir)
    open_log(config.out_dir, to_json(config))
    write_methods(plan, encoder)
    _write_shared_files(plan, encoder)
    tally = Tally()
    done = [job for job in jobs if not (job.needs_signals or job.needs_embedding)]
    todo = [job for job in jobs if job.needs_signals or job.needs_embedding]
    reports = ReportQueue(config.out_dir, (job.participant for job in todo))
    in_this_process = RunWorker(plan, encoder)
    for job in done:
        outcome = in_this_process(job)
        tally.add(outcome)
        if outcome.reason != "already_done":
            report_outcome(job, outcome, progress="[done]")
    if tally.n_done:
        LOGGER.info("%d runs are complete from an earlier call with the same settings.", tally.n_done)
    reports.write_absent(job.participant for job in done if not reports.left[job.participant])
    n_bytes = encoder.n_bytes if encoder else 0
    device = in_this_process.device
    n_procs = choose_n_procs(config.running, n_jobs=len(todo), model_bytes=n_bytes, device=device)
    if n_procs > 1:
        limit_threads(choose_n_threads(config.running, n_procs=n_procs))
        LOGGER.info("%d processes for %d runs.", n_procs, len(todo))
    run_batch(
        RunWorker if n_procs > 1 else lambda: in_this_process,
        (plan,) if n_procs > 1 else (),
        todo,
        n_procs=n_procs,
        stop_on_failure=config.running.stop_on_first_crash,
        tally=tally,
        on_done=lambda job: reports.finish(job.participant),
    )
    reports.write_rest()
    return tally


def write_methods(plan: Plan, encoder: RunEncoder | None) -> None:
    """Write the methods text of a call; `encoder` is None if only signals are written."""
    signals = describe_signals(
        {
            **plan.settings,
            "averaged_over": plan.averaged_over,
            "denoised_by": plan.dataset.denoised.pipeline if plan.dataset.denoised else "",
        },
        pipelines=[one.pipeline for one in plan.dataset.derivatives],
        n_parcels=len(plan.atlas.parcels),
        min_time=plan.config.signals.min_time,
    )
    write_citation(plan.config.out_dir, build_facts(signals, encoder))


def _write_shared_files(plan: Plan, encoder: RunEncoder | None) -> None:
    out_dir, dataset = plan.config.out_dir, plan.dataset
    write_dataset(
        out_dir,
        sources={one.name: one.path for one in dataset.derivatives},
        upstream=tuple(one.pipeline for one in dataset.derivatives),
    )
    write_atlas(out_dir, plan.atlas)
    rows = {}
    if plan.config.signals.save_raw_signals:
        rows["raw"] = "Signals before denoising."
    if encoder:
        rows[encoder.loaded.name] = f"Embedding by the encoder {encoder.loaded.name}: {encoder.loaded.description}"
    write_descriptions(out_dir, rows)
