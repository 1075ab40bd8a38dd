"""Encoders pretrained on shares of the data, each probed on this study's participants."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.embedding import RunEncoder, build_run_encoder
from bids_semantoks.outputs.group_tables import SCALING_MEANINGS, SCALING_NAME, ScalingRow, write_rows
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun, read_signals
from bids_semantoks.pretraining.run import pretrain_encoder
from bids_semantoks.probes.designs import Design, build_design
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.scaling_plans import OWN, ScalingJob, ScalingPlan
from bids_semantoks.probes.twins import build_untrained
from bids_semantoks.signals.windows import build_windows
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.scaling_law import average_gains, compute_gain, fit_log_line
from bids_semantoks.statistics.spans import TableFeatures

LOGGER = logging.getLogger("bids_semantoks")

_CLASS_METRICS: Final = ("auroc", "balanced_accuracy")
_VALUE_METRICS: Final = ("r",)

Pair = tuple[ScalingJob, Predictions, Predictions]


def measure_scaling(
    plan: ProbePlan, scaling: ScalingPlan, stored: Sequence[StoredRun], atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> Path:
    """Pretrain on all shares, probe each encoder and write ``OUT_DIR/group_scaling.tsv``.

    Finished encoders are not trained again. Raises TrainingStopped when asked to end early; the same call then resumes.
    """
    config = plan.config
    designs = _build_designs(plan, stored)
    started = time.monotonic()
    untrained: dict[int, list[Predictions]] = {}
    trained: list[list[Predictions]] = []
    for number, job in enumerate(scaling.jobs, start=1):
        LOGGER.info("Scaling, encoder %d of %d: %s.", number, len(scaling.jobs), job.encoder)
        encoder = _load(config, _pretrain(config, scaling, job, started), atlas)
        if job.seed not in untrained:
            # The very weights that this training started from: what differs is the training alone.
            first = build_untrained(encoder, job.seed, f"{encoder.loaded.name}Untrained")
            untrained[job.seed] = predict_designs(first, designs, plan)
        trained.append(predict_designs(encoder, designs, plan))
    rows: list[ScalingRow] = []
    fits = []
    for position, design in enumerate(designs):
        pairs = [
            (job, found[position], untrained[job.seed][position])
            for job, found in zip(scaling.jobs, trained, strict=True)
        ]
        for metric in _CLASS_METRICS if pairs[0][1].classes else _VALUE_METRICS:
            own, fit = _compare(design, metric, pairs, scaling.data.name, seed=config.running.random_seed)
            rows += own
            fits.append(fit)
    facts = _describe(config, scaling, fits)
    return write_rows(config.out_dir / f"{SCALING_NAME}.tsv", ScalingRow, rows, meanings=SCALING_MEANINGS, facts=facts)


def _build_designs(plan: ProbePlan, stored: Sequence[StoredRun]) -> list[Design]:
    designs = []
    for name in plan.config.probing.probe:
        rows = plan.build_rows(stored, name)
        designs.append(build_design(plan, rows, plan.build_phenotype(rows, name)))
    return designs


def _pretrain(config: AppConfig, scaling: ScalingPlan, job: ScalingJob, started: float) -> Path:
    asked = config.pretraining
    left = asked.max_hours
    if left is not None:
        # The limit is that of all trainings together; one that starts too late still saves before it ends.
        left = max(left - (time.monotonic() - started) / 3600, 1e-6)
    own = dataclasses.replace(
        config,
        pretraining=dataclasses.replace(asked, encoder_name=job.encoder, max_hours=left),
        running=dataclasses.replace(config.running, random_seed=job.seed),
    )
    data = scaling.data
    return pretrain_encoder(own, data.stored, data.parcels, data.networks, participants=job.participants)


def _load(config: AppConfig, directory: Path, atlas: tuple[tuple[str, ...], tuple[str, ...]]) -> RunEncoder:
    embedding = dataclasses.replace(config.embedding, model=str(directory), save_tokens=False)
    return build_run_encoder(embedding, *atlas, seed=config.running.random_seed)


def predict_designs(encoder: RunEncoder, designs: Sequence[Design], plan: ProbePlan) -> list[Predictions]:
    """Embed all runs once and predict each design by the nested protocol on its splits, out of fold."""
    runs = {run.paths.stem: run for design in designs for own in design.rows.runs for run in own}
    vectors = {stem: embed_signals(encoder, run) for stem, run in runs.items()}
    found = []
    for design in designs:
        means = [np.mean([vectors[run.paths.stem] for run in own], axis=0) for own in design.rows.runs]
        found.append(
            cross_validate(
                TableFeatures(name=encoder.loaded.name, values=np.stack(means)),
                design.target,
                design.splits,
                covariates=design.covariates,
                groups=design.groups,
                seed=plan.config.running.random_seed,
            )
        )
    return found


def embed_signals(encoder: RunEncoder, run: StoredRun) -> NDArray[np.float64]:
    """Embed a run as for the tables of embeddings, without writing any: mean over windows (D,) for D dimensions."""
    model = encoder.loaded.config
    windows = build_windows(
        read_signals(run.paths)[1],
        repetition_time=run.sidecar["RepetitionTime"],
        n_dummy=run.sidecar["VolumesDropped"]["Dummy"]["Count"],
        target_repetition_time=model.repetition_time,
        window=model.window,
        n_windows=encoder.config.n_windows,
    )
    return np.asarray(encoder.frozen.encode(windows).vectors.mean(axis=0, dtype=np.float64))


def _compare(
    design: Design, metric: str, pairs: Sequence[Pair], source: str, *, seed: int
) -> tuple[list[ScalingRow], dict[str, Any]]:
    """Score all encoders against their own initial weights: rows of the table, and the line and means through them."""
    tested = set(map(str, design.rows.participants[~np.isnan(design.target.values)]))
    people = design.rows.participants if design.rows.has_sessions else None
    gains = [compute_gain(first, second, metric, participants=people, seed=seed) for _, first, second in pairs]
    jobs = [job for job, _, _ in pairs]
    rows = [
        ScalingRow(
            phenotype=design.target.name,
            metric=metric,
            source=source,
            share=job.share,
            n_pretraining=len(job.participants),
            seed=job.seed,
            value=one.value,
            value_random=one.value_random,
            gain=one.gain,
            gain_low=one.interval[0],
            gain_high=one.interval[1],
            n_tested=len(tested),
            n_pretrained=len(tested & job.participants) if source == OWN else None,
            encoder=job.encoder,
        )
        for job, one in zip(jobs, gains, strict=True)
    ]
    sizes = np.array([len(job.participants) for job in jobs])
    fit = fit_log_line(sizes, np.array([one.gain for one in gains]), np.array([job.seed for job in jobs]))
    shares = []
    for size in dict.fromkeys(sizes.tolist()):
        mean = average_gains([one for one, own in zip(gains, sizes, strict=True) if own == size])
        low, high = mean.over_participants
        numbers = {"Gain": mean.gain, "Low": low, "High": high}
        numbers |= {"LowOverSeeds": mean.over_seeds[0], "HighOverSeeds": mean.over_seeds[1]}
        shares.append({"Participants": size, "Encoders": mean.n, **_round(numbers)})
    line = {"Slope": fit.slope, "Low": fit.ci_low, "High": fit.ci_high, "Intercept": fit.intercept}
    named = {"Phenotype": design.target.name, "Metric": metric, "Encoders": fit.n_points}
    return rows, {**named, **_round(line), "Shares": shares}


def _round(numbers: dict[str, float]) -> dict[str, float | None]:
    return {key: None if math.isnan(value) else round(value, 6) for key, value in numbers.items()}


def _describe(config: AppConfig, scaling: ScalingPlan, fits: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "Fits": fits,
        "Source": scaling.data.name,
        "ParticipantsThere": len(scaling.data.participants),
        "Pretraining": to_json(config)["pretraining"],
        "Description": "gain = level of the seed + Slope * log10(participants); Intercept is that of the mean level. "
        "The interval of Slope is over encoders, all probed on the same people. Low and High of Shares: 95 % "
        "interval of the mean gain over participants tested; LowOverSeeds and HighOverSeeds: over seeds.",
        "SoftwareVersions": find_versions(),
    }
