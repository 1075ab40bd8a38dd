"""Plan a participant call: find runs, match atlas and encoder, and determine what is left to do."""

from __future__ import annotations

import dataclasses
import logging

from bids_semantoks.atlases.load import check_is_volumetric, find_all_spaces, load_atlas, load_surface_atlas
from bids_semantoks.atlases.series_atlas import load_series_atlas
from bids_semantoks.config import AppConfig, SignalsConfig
from bids_semantoks.embedding import RunEncoder, build_run_encoder
from bids_semantoks.errors import ConfigurationError, InputError, RunFailed, RunSkipped
from bids_semantoks.inputs.datasets import Dataset, check_out_dir, find_dataset
from bids_semantoks.inputs.runs import find_participants, find_runs
from bids_semantoks.inputs.series_runs import find_atlas_tables, find_series
from bids_semantoks.jobs import Plan, RunJob, build_job
from bids_semantoks.records import Atlas, Run
from bids_semantoks.signals.denoising import load_denoising
from bids_semantoks.signals.read_series import read_header
from bids_semantoks.signals.surface_means import is_surface

LOGGER = logging.getLogger("bids_semantoks")


def build_plan(config: AppConfig) -> tuple[Plan, RunEncoder | None, list[RunJob]]:
    """Find the runs, resolve atlas and encoder (None for signals only) and determine what is left to do. Writes
    nothing.

    Raises SemantoksError if anything requested is missing or does not fit together.
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
    return plan, encoder, [build_job(plan, encoder, run) for run in runs]


def _load_atlas(config: AppConfig, run: Run) -> Atlas:
    signals = config.signals
    if is_surface(run.bold):
        return load_surface_atlas(signals.atlas, space=run.space, directory=signals.atlas_dir)
    check_is_volumetric(signals.atlas, run.space)
    work_dir = config.running.work_dir
    return load_atlas(signals.atlas, space=run.space, directory=signals.atlas_dir, work_dir=work_dir)


def _without_new_database(config: AppConfig) -> AppConfig:
    """Let a dry run use an existing pybids database, but not create one."""
    folder = config.selection.bids_database_dir
    if not config.running.dry_run or folder is None or folder.exists():
        return config
    return dataclasses.replace(config, selection=dataclasses.replace(config.selection, bids_database_dir=None))


def _without_second_denoising(config: AppConfig, dataset: Dataset) -> AppConfig:
    """Switch off denoising and filtering that the inputs went through already; ConfigurationError if the user requests
    them."""
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
    """Find the tables of a parcellated dataset and the atlas of their parcels."""
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
    """Read the first readable header; the other tables are reported with their runs."""
    for run in runs:
        try:
            return read_header(run.bold)
        except (RunFailed, RunSkipped) as error:
            LOGGER.warning("%s", error)
    raise InputError(f"None of {len(runs)} tables of series can be read, the first is {runs[0].bold}.")
