"""What a participant call has to do: runs found, atlas and encoder matched, and what is already there."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from bids_semantoks.config import AppConfig, SignalsConfig, to_json
from bids_semantoks.embedding import RunEncoder, build_run_encoder, find_embedding_state
from bids_semantoks.errors import ConfigurationError, InputError, RunFailed, RunSkipped
from bids_semantoks.inputs.dataset import Dataset, check_out_dir, find_dataset
from bids_semantoks.inputs.index import find_participants, find_runs
from bids_semantoks.inputs.parcellated import find_atlas_tables, find_series
from bids_semantoks.outputs.provenance import (
    compute_settings_hash,
    describe_differences,
    describe_inputs,
    has_files,
    is_made_alike,
    read_sidecar,
)
from bids_semantoks.outputs.store import OutputPaths, build_paths
from bids_semantoks.records import Atlas, ParcelSignals, Run
from bids_semantoks.signals.atlas import load_atlas
from bids_semantoks.signals.confounds import Denoising, load_denoising
from bids_semantoks.signals.extract import check_run, extract_signals
from bids_semantoks.signals.parcellated import read_series
from bids_semantoks.signals.parcellated_atlas import load_series_atlas
from bids_semantoks.signals.parcellated_tables import read_header
from bids_semantoks.signals.surface_sources import check_is_volumetric, find_all_spaces, load_surface_atlas
from bids_semantoks.signals.surfaces import is_surface

LOGGER = logging.getLogger("bids_semantoks")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What all runs of a call share.

    Parameters
    ----------
    config : AppConfig
        What was asked.
    dataset : Dataset
        What is read.
    atlas : Atlas
        Where signals are averaged.
    denoising : Denoising
        Which regressors are removed.
    averaged_over : str
        What the signals of parcels are means of, in words.
    """

    config: AppConfig
    dataset: Dataset
    atlas: Atlas
    denoising: Denoising
    averaged_over: str = ""

    def source_name(self, run: Run) -> str:
        """Name of a run's dataset in BIDS URIs.

        Parameters
        ----------
        run : Run
            A run of one of the datasets that are read.

        Returns
        -------
        str
            Its key in DatasetLinks.
        """
        return next(one.name for one in self.dataset.derivatives if one.path == run.dataset)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides whether signals are up to date, besides their inputs."""
        signals = self.config.signals
        atlas = {"atlas": self.atlas.name, "atlas_sha256": self.atlas.sha256, "space": self.atlas.space}
        if transforms := sorted({one.transform.name for one in self.atlas.volumes if one.transform is not None}):
            atlas["atlas_warped"] = " and ".join(transforms)
        # Series are taken as they are: options of denoising change nothing about them, so they do not count.
        found = dict.fromkeys(("denoising", "band_pass", "fd_threshold", "dummy_scans", "min_coverage"))
        if self.dataset.is_parcellated:
            return atlas | found
        return atlas | {
            "denoising": to_json(self.denoising),
            "band_pass": list(signals.band_pass) if signals.band_pass else None,
            "fd_threshold": signals.fd_threshold,
            "dummy_scans": signals.dummy_scans,
            "min_coverage": signals.min_coverage,
        }


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunJob:
    """One run and what is left to do for it.

    Parameters
    ----------
    run : Run
        The source run.
    paths : OutputPaths
        Where its outputs go.
    inputs : dict
        Size and modification time of its files.
    settings_hash : str
        Hash of all settings that decide the result.
    needs_signals, needs_embedding : bool
        What is absent or out of date.
    differences : tuple of str
        Settings that what is on disk was made with and this call does not have.
    """

    run: Run
    paths: OutputPaths
    inputs: dict[str, Any]
    settings_hash: str
    needs_signals: bool
    needs_embedding: bool
    differences: tuple[str, ...]

    @property
    def participant(self) -> str:
        """Label of the participant."""
        return str(self.run.entity("sub"))


def build_plan(config: AppConfig) -> tuple[Plan, RunEncoder | None, list[RunJob]]:
    """Find the runs, resolve atlas and encoder, and see what is left to do. Writes nothing.

    Parameters
    ----------
    config : AppConfig
        What was asked.

    Returns
    -------
    plan : Plan
        What all runs share.
    encoder : RunEncoder or None
        Fitted to the atlas; None when only signals are wanted.
    jobs : list of RunJob
        Every run that was found.

    Raises
    ------
    SemantoksError
        When anything that was asked for is not there or does not fit together.
    """
    dataset = find_dataset(config.bids_dir, config.out_dir, config.selection)
    LOGGER.info("%s", dataset.describe())
    for sentence in dataset.describe_recognised():
        LOGGER.info("%s", sentence)
    check_out_dir(config.bids_dir, config.out_dir, dataset, config.running.work_dir)
    config = _without_second_denoising(_without_new_database(config), dataset)
    signals = config.signals
    denoising = load_denoising(signals.denoise)
    if dataset.denoised is not None and not dataset.is_parcellated:
        done = f"{dataset.denoised.pipeline} denoised the images before; no regressors are removed here."
        denoising = dataclasses.replace(denoising, description=done)
    participants = find_participants(dataset, config.selection)
    if dataset.is_parcellated:
        runs, atlas = _find_series(config, dataset, participants)
    else:
        spaces = find_all_spaces(signals.atlas, directory=signals.atlas_dir)
        runs = find_runs(dataset, config.selection, participants, preferred_spaces=spaces)
        atlas = _load_atlas(config, runs[0])
    encoder = None
    if not signals.signals_only:
        seed = config.running.random_seed
        encoder = build_run_encoder(config.embedding, atlas.parcels, atlas.networks, seed=seed)
    plan = Plan(config=config, dataset=dataset, atlas=atlas, denoising=denoising, averaged_over=runs[0].averaged_over)
    LOGGER.info(
        "%d runs of %d participants in %s; atlas %s (%d parcels); %s.",
        len(runs),
        len({run.entity("sub") for run in runs}),
        atlas.space or "no space named",
        atlas.name,
        len(atlas.parcels),
        encoder.loaded.description.rstrip(".") if encoder else "no encoder",
    )
    for warning in encoder.warnings if encoder else ():
        LOGGER.warning("%s", warning)
    return plan, encoder, [_build_job(plan, encoder, run) for run in runs]


def _load_atlas(config: AppConfig, run: Run) -> Atlas:
    signals = config.signals
    if is_surface(run.bold):
        return load_surface_atlas(signals.atlas, space=run.space, directory=signals.atlas_dir)
    check_is_volumetric(signals.atlas, run.space)
    work_dir = config.running.work_dir
    return load_atlas(signals.atlas, space=run.space, directory=signals.atlas_dir, work_dir=work_dir)


def _without_new_database(config: AppConfig) -> AppConfig:
    """Let a dry run use a pybids database that is there, but make none."""
    folder = config.selection.bids_database_dir
    if not config.running.dry_run or folder is None or folder.exists():
        return config
    return dataclasses.replace(config, selection=dataclasses.replace(config.selection, bids_database_dir=None))


def _without_second_denoising(config: AppConfig, dataset: Dataset) -> AppConfig:
    """Neither denoise nor filter what comes denoised or filtered, and refuse when the user asks for it."""
    denoised, signals, usual = dataset.denoised, config.signals, SignalsConfig()
    if denoised is None:
        return config
    where = f"the images in {denoised.path} were denoised by {denoised.pipeline}"
    hint = "Leave the option away, or read the dataset that they were made from."
    if signals.denoise not in (usual.denoise, "none"):
        raise ConfigurationError(f"--denoise {signals.denoise} would denoise twice: {where}.", hint=hint)
    if signals.denoise != "none":
        LOGGER.info("Denoising is none instead of %s: %s.", signals.denoise, where)
    band = signals.band_pass
    if denoised.source.is_filtered and band is not None:
        if band != usual.band_pass:
            low, high = band
            raise ConfigurationError(
                f"--band-pass {low:g} {high:g} would filter twice: {where} and filtered.", hint=hint
            )
        LOGGER.info("No filter is applied: %s has done so.", denoised.pipeline)
        band = None
    return dataclasses.replace(config, signals=dataclasses.replace(signals, denoise="none", band_pass=band))


def _find_series(config: AppConfig, dataset: Dataset, participants: tuple[str, ...]) -> tuple[tuple[Run, ...], Atlas]:
    """Find the tables of a parcellated dataset and what describes their parcels."""
    LOGGER.info("The series are used as they are: no denoising, filter or scrubbing here.")
    # The default names the atlas to extract; here the dataset has its own.
    asked = config.signals.atlas if config.signals.atlas != SignalsConfig().atlas else ""
    label, runs = find_series(dataset, config.selection, participants, atlas=asked)
    atlas = load_series_atlas(
        label,
        _read_first_header(runs),
        space=runs[0].space,
        asked=asked,
        tables=find_atlas_tables(dataset, label, runs[0].space),
        directory=config.signals.atlas_dir,
    )
    return runs, atlas


def _read_first_header(runs: tuple[Run, ...]) -> tuple[str, ...]:
    """Read the first header that can be read; what is wrong with the others is for their runs to say."""
    for run in runs:
        try:
            return read_header(run.bold)
        except (RunFailed, RunSkipped) as error:
            LOGGER.warning("%s", error)
    raise InputError(f"None of {len(runs)} tables of series can be read, the first is {runs[0].bold}.")


def _build_job(plan: Plan, encoder: RunEncoder | None, run: Run) -> RunJob:
    config = plan.config
    paths = build_paths(config.out_dir, run, plan.atlas.name, encoder.loaded.name if encoder else "")
    inputs = describe_inputs(run, with_metadata="compcor" in plan.denoising.strategy)
    settings = plan.settings
    sidecar = read_sidecar(paths.signals_sidecar)
    differences = describe_differences(sidecar["Settings"], settings) if sidecar else []
    has_signals = (
        sidecar is not None
        and is_made_alike(sidecar, settings, inputs)
        and has_files(paths.directory, sidecar.get("Files", {}))
        and (paths.raw.is_file() or not config.signals.save_raw_signals)
    )
    has_embedding = True
    if encoder:
        has_embedding, others = find_embedding_state(
            paths,
            settings=encoder.settings,
            signals_sha256=sidecar["TableSHA256"] if sidecar and has_signals else "",
            needs_tokens=config.embedding.save_tokens,
        )
        differences += others
    return RunJob(
        run=run,
        paths=paths,
        inputs=inputs,
        settings_hash=compute_settings_hash({**settings, **(encoder.settings if encoder else {})}),
        needs_signals=not has_signals,
        needs_embedding=not has_embedding,
        differences=tuple(differences),
    )


def check_no_conflict(jobs: list[RunJob], *, overwrite: bool) -> None:
    """Refuse to replace outputs that were made with other settings.

    Parameters
    ----------
    jobs : list of RunJob
        Every run that was found.
    overwrite : bool
        Whether replacing was asked for.

    Raises
    ------
    ConfigurationError
        When outputs of the same names differ in settings.
    """
    conflicts = [job for job in jobs if job.differences]
    if conflicts and not overwrite:
        first = conflicts[0]
        raise ConfigurationError(
            f"{len(conflicts)} of {len(jobs)} runs were already done with other settings, the first is "
            f"{first.paths.stem} in {first.paths.directory}: {'; '.join(first.differences)}.",
            hint="Use another output directory, the former settings, or --overwrite.",
        )


def check_kept_time(sidecar: Mapping[str, Any], signals: SignalsConfig) -> None:
    """Hold signals from an earlier call against this call's limit.

    Parameters
    ----------
    sidecar : mapping
        Sidecar of the signals.
    signals : SignalsConfig
        The limit.

    Raises
    ------
    RunSkipped
        ``too_few_kept``.
    """
    kept = sidecar["VolumesKept"] * sidecar["RepetitionTime"]
    # A product of binary fractions may fall short of the same time written in decimals.
    if kept < signals.min_time * (1 - 1e-9):
        raise RunSkipped(
            "too_few_kept",
            f"{kept:.0f} s of kept data, less than the {signals.min_time:g} s of --min-time.",
        )


def check_space(plan: Plan, run: Run) -> None:
    """Refuse a run that has no image in the space of the call.

    Parameters
    ----------
    plan : Plan
        What all runs share.
    run : Run
        The run.

    Raises
    ------
    RunFailed
        ``space_mismatch``.
    """
    if run.problem or run.space != plan.atlas.space:
        raise RunFailed(
            "space_mismatch",
            f"The run has no image in {plan.atlas.space}, only in {run.space or 'native space'}: {run.bold}."
            if run.space != plan.atlas.space
            else run.problem,
            hint="Choose another --space, leave the run out, or have fMRIPrep write this space.",
        )


def make_signals(plan: Plan, run: Run) -> ParcelSignals:
    """Make the signals of a run: extracted from its image, or as a parcellated dataset has them.

    Parameters
    ----------
    plan : Plan
        What all runs share.
    run : Run
        The run.

    Returns
    -------
    ParcelSignals
        Its signals.

    Raises
    ------
    RunSkipped, RunFailed
        Whatever keeps the run from being done.
    """
    if plan.dataset.is_parcellated:
        return read_series(run, plan.atlas, min_time=plan.config.signals.min_time)
    return extract_signals(run, plan.atlas, plan.config.signals, plan.denoising)


def describe_jobs(plan: Plan, jobs: list[RunJob]) -> list[str]:
    """Say for each run what would happen to it, and why, reading no image data.

    Parameters
    ----------
    plan : Plan
        What all runs share.
    jobs : list of RunJob
        Every run that was found.

    Returns
    -------
    list of str
        One line a run.
    """
    return [f"{job.paths.stem}: {_describe_job(plan, job)}" for job in jobs]


def _describe_job(plan: Plan, job: RunJob) -> str:
    if job.differences and not plan.config.running.overwrite:
        return f"refuse, done with other settings: {'; '.join(job.differences)}"
    try:
        check_space(plan, job.run)
        if job.needs_signals and plan.dataset.is_parcellated:
            make_signals(plan, job.run)
        elif job.needs_signals:
            check_run(job.run, plan.config.signals, plan.denoising)
        elif sidecar := read_sidecar(job.paths.signals_sidecar):
            check_kept_time(sidecar, plan.config.signals)
    except RunSkipped as error:
        return f"skip, {error.reason}: {error}"
    except RunFailed as error:
        return f"fail, {error.reason}: {error}"
    if job.needs_signals:
        what = "take the series" if plan.dataset.is_parcellated else "extract"
        return what if plan.config.signals.signals_only else f"{what} and encode"
    return "encode the signals that are there" if job.needs_embedding else "skip, already_done"
