"""Determine which outputs of each run are missing or out of date, and what prevents computing them."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from bids_semantoks.config import AppConfig, SignalsConfig, to_json
from bids_semantoks.config.call import parse_motion_filter
from bids_semantoks.disk import check_content
from bids_semantoks.embedding import RunEncoder, find_embedding_state
from bids_semantoks.errors import ConfigurationError, RunFailed, RunSkipped, SemantoksError
from bids_semantoks.files import format_cell, hash_values
from bids_semantoks.inputs.datasets import Dataset
from bids_semantoks.outputs.connectivity import has_connectivity
from bids_semantoks.outputs.sidecars import (
    describe_differences,
    describe_inputs,
    find_maker,
    has_files,
    is_made_alike,
    is_older,
)
from bids_semantoks.outputs.store import OutputPaths, build_paths, read_former_status, read_sidecar
from bids_semantoks.quality.run_qc import check_kept_time
from bids_semantoks.records import Atlas, ParcelSignals, Run
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.signals.cleaning import CLEANING
from bids_semantoks.signals.denoising import Denoising
from bids_semantoks.signals.extract import check_names, check_run, extract_signals
from bids_semantoks.signals.read_series import read_series

_ACTIONS: Final = ("make", "keep", "skip", "fail", "refuse")
LOGGER = logging.getLogger("bids_semantoks")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that all runs of a call share."""

    config: AppConfig
    dataset: Dataset
    is_parcellated: bool  # series are read instead of images
    denoised_by: str  # pipeline that denoised the images before; empty for none
    atlas: Atlas
    denoising: Denoising
    settings: dict[str, Any]  # from `describe_settings`
    averaged_over: str  # what parcel signals are averaged over, in words

    def source_name(self, run: Run) -> str:
        """Return the name of a run's dataset in BIDS URIs: its key in DatasetLinks."""
        return next(one.name for one in self.dataset.derivatives if one.path == run.dataset)


def describe_settings(config: SignalsConfig, atlas: Atlas, denoising: Denoising | None) -> dict[str, Any]:
    """Collect the settings that determine, together with the inputs, whether signals are up to date; None for series,
    which are used unchanged, so that denoising options have no effect."""
    settings: dict[str, Any] = {"atlas": atlas.name, "atlas_sha256": atlas.sha256, "space": atlas.space}
    if transforms := sorted({one.transform.name for one in atlas.volumes if one.transform is not None}):
        settings["atlas_warped"] = " and ".join(transforms)
    if denoising and config.motion_filter is not None:
        kind, edges = parse_motion_filter(config.motion_filter)
        settings["motion_filter"] = [kind, *edges]
    return settings | {
        "denoising": to_json(denoising) if denoising else None,
        "cleaning": CLEANING if denoising else None,
        "band_pass": list(config.band_pass) if denoising and config.band_pass else None,
        "fd_threshold": config.fd_threshold if denoising else None,
        "dummy_scans": config.dummy_scans if denoising else None,
        "min_coverage": config.min_coverage if denoising else None,
    }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunJob:
    """One run and what remains to be done for it."""

    run: Run
    participant: str  # label
    paths: OutputPaths
    inputs: dict[str, Any]  # from `describe_inputs`
    settings_hash: str  # over the settings of signals and embedding
    attempt_hash: str  # over everything that determines the outcome: settings, inputs and limits
    needs_signals: bool = True
    needs_embedding: bool = True
    needs_connectivity: bool = False  # of signals that are there
    differences: tuple[str, ...] = ()  # settings in which the outputs on disk differ from this call
    version: str = ""  # of the program that made the signals on disk; empty if there are none

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to make."""
        return not (self.needs_signals or self.needs_embedding or self.needs_connectivity)


def build_job(plan: Plan, encoder: RunEncoder | None, run: Run) -> RunJob:
    """Determine which outputs of a run are missing or out of date; without an encoder, only signals count."""
    config, form = plan.config, plan.config.signals.connectivity
    job = _start_job(plan, encoder, run, describe_inputs(run, with_metadata="compcor" in plan.denoising.strategy))
    paths, sidecar = job.paths, read_sidecar(job.paths.signals_sidecar)
    differences = describe_differences(sidecar["Settings"], plan.settings) if sidecar else []
    has_signals = (
        sidecar is not None
        and is_made_alike(sidecar, plan.settings, job.inputs)
        and has_files(paths.directory, sidecar, out_dir=config.out_dir)
        and (paths.raw.is_file() or not config.signals.save_raw_signals)
        and not is_older(sidecar, config.running.redo_older_than)
    )
    has_embedding, has_matrix = True, form == "none"
    if encoder:
        sha256 = sidecar["TableSHA256"] if sidecar and has_signals else ""
        older = config.running.redo_older_than
        has_embedding, others = find_embedding_state(paths, encoder, sha256, redo_older_than=older)
        differences += others
    if sidecar and has_signals and not has_matrix:
        has_matrix = has_connectivity(paths.connectivity(form), sidecar)
    return dataclasses.replace(
        job,
        needs_signals=not has_signals,
        needs_embedding=not has_embedding,
        needs_connectivity=has_signals and not has_matrix,
        differences=tuple(differences),
        version=find_maker(sidecar) if sidecar else "",
    )


def _start_job(plan: Plan, encoder: RunEncoder | None, run: Run, inputs: dict[str, Any]) -> RunJob:
    """Build the job of a run of which nothing is known to be on disk."""
    settings = {**plan.settings, **(encoder.settings if encoder else {})}
    return RunJob(
        run=run,
        participant=run.entities[0][1],
        paths=build_paths(plan.config.out_dir, run, plan.atlas.name, encoder.loaded.name if encoder else ""),
        inputs=inputs,
        settings_hash=hash_values(settings),
        attempt_hash=hash_values({"settings": settings, "inputs": inputs, "min_time": plan.config.signals.min_time}),
    )


def build_jobs(plan: Plan, encoder: RunEncoder | None, runs: Sequence[Run]) -> list[RunJob]:
    """Build the job of each run; a run whose files or former outputs cannot be looked at fails alone."""
    jobs = []
    for run in runs:
        try:
            jobs.append(build_job(plan, encoder, run))
        except SemantoksError:
            # Concerns the whole call.
            raise
        except Exception as error:
            LOGGER.debug("Planning %s", run.bold, exc_info=True)
            problem = f"Unexpected error when checking {run.bold}: {type(error).__name__}: {error!s:.200}."
            jobs.append(_start_job(plan, encoder, dataclasses.replace(run, reason="internal", problem=problem), {}))
    return jobs


def check_no_conflict(jobs: list[RunJob], *, overwrite: bool) -> None:
    """Refuse to replace outputs made with other settings, unless `overwrite`: ConfigurationError."""
    conflicts = [job for job in jobs if job.differences]
    if conflicts and not overwrite:
        first = conflicts[0]
        raise ConfigurationError(
            f"{len(conflicts)} of {len(jobs)} runs were already processed with different settings; the first is "
            f"{first.paths.stem} in {first.paths.directory}: {'; '.join(first.differences)}.",
            hint="Use another output directory, the original settings, or --overwrite.",
        )


def check_space(plan: Plan, run: Run) -> None:
    """Refuse a run that cannot be used in this call: RunFailed unreadable_name, or space_mismatch without a usable
    image in the space of the call."""
    if run.reason != "space_mismatch":
        raise RunFailed(run.reason, run.problem)
    if run.problem or run.space != plan.atlas.space:
        raise RunFailed(
            "space_mismatch",
            f"The run has no image in {plan.atlas.space}; found {run.space or 'native space'}: {run.bold}."
            if run.space != plan.atlas.space
            else run.problem,
            hint="Choose another --space, exclude the run, or rerun fMRIPrep with this space.",
        )


def check_is_here(plan: Plan, run: Run) -> None:
    """Refuse a run whose files were never fetched (datalad): RunSkipped no_content."""
    # For series, `mask` is the coverage table, which is optional.
    mask = None if plan.is_parcellated else run.mask
    for path in (run.bold, run.partner, mask, run.confounds, run.warp):
        if path is not None:
            check_content(path)


def make_signals(plan: Plan, run: Run) -> ParcelSignals:
    """Extract the signals of a run, or read its series from a parcellated dataset. Raises RunSkipped or RunFailed."""
    if plan.is_parcellated:
        return read_series(run, plan.atlas, min_time=plan.config.signals.min_time)
    return extract_signals(run, plan.atlas, plan.config.signals, plan.denoising)


def describe_jobs(plan: Plan, jobs: list[RunJob]) -> tuple[list[str], str]:
    """Describe in one line per run what would be done and why, as a table with --format tsv; also count the actions.
    Based on names and settings, with --check also headers and tables; voxels are never read."""
    progress = Progress("Checking" if plan.config.running.check else "Planning")
    found = [(job, *_foresee(plan, job)) for job in progress.each("run", jobs)]
    counts = Counter(action for _, action, _, _ in found)
    total = ", ".join(f"{counts[action]} to {action}" for action in _ACTIONS if counts[action])
    if plan.config.running.format == "text":
        lines = []
        for job, action, reason, words in found:
            what = "" if action == "make" else f"{action}, {reason}: " if reason else f"{action}, "
            lines.append(f"{job.paths.stem}: {what}{words}")
        return lines, total
    rows = [("run", "participant_id", "action", "reason", "recorded", "message", "is_current")]
    for job, action, reason, words in found:
        former = read_former_status(job.paths)
        recorded, is_current = str(former.get("status", "")), str(_is_current(job, former)).lower() if former else ""
        rows.append((job.paths.stem, f"sub-{job.participant}", action, reason, recorded, words, is_current))
    return ["\t".join(map(format_cell, row)) for row in rows], total


def _is_current(job: RunJob, former: dict[str, Any]) -> bool:
    """Return whether a recorded status has the files, settings and limits of this call. Versions before 0.2 recorded
    settings only, so their runs are tried again."""
    return former.get("attempt_hash") == job.attempt_hash


def _check_job(plan: Plan, job: RunJob) -> None:
    """Check a run as far as possible before processing: RunSkipped or RunFailed."""
    check_space(plan, job.run)
    if job.needs_signals and not plan.config.running.check:
        check_is_here(plan, job.run)
        if not plan.is_parcellated:
            check_names(job.run, plan.config.signals, plan.denoising)
    elif job.needs_signals and plan.is_parcellated:
        make_signals(plan, job.run)
    elif job.needs_signals:
        check_run(job.run, plan.config.signals, plan.denoising)
    elif sidecar := read_sidecar(job.paths.signals_sidecar):
        check_kept_time(sidecar, plan.config.signals.min_time)


def _foresee(plan: Plan, job: RunJob) -> tuple[str, str, str]:
    """Predict what a call would do with a run: action (make, keep, skip, fail or refuse), reason and description."""
    if job.differences and not plan.config.running.overwrite:
        return "refuse", "", f"processed with different settings: {'; '.join(job.differences)}"
    try:
        _check_job(plan, job)
    except RunSkipped as error:
        return "skip", error.reason, str(error)
    except RunFailed as error:
        return "fail", error.reason, str(error)
    former = read_former_status(job.paths) if job.needs_signals and not plan.config.running.check else {}
    if former.get("status") == "skipped" and _is_current(job, former):
        # Checking its files again would give the same result.
        return "skip", former["reason"], former["message"]
    if job.needs_signals:
        what = "read the series" if plan.is_parcellated else "extract signals"
        return "make", "", what if plan.config.signals.signals_only else f"{what} and encode"
    if job.needs_embedding:
        return "make", "", "encode the existing signals"
    if job.needs_connectivity:
        return "make", "", "compute connectivity from the existing signals"
    return "keep", "", "complete with the same settings"
