"""Encoders pretrained on shares of the data, each probed on this study's participants.

Shape letters: n rows (participants or sessions), D dimensions of an embedding.
"""

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
from bids_semantoks.outputs.provenance import find_versions
from bids_semantoks.outputs.scaling_tables import ScalingRow, write_scaling_tables
from bids_semantoks.outputs.store import StoredRun, read_signals
from bids_semantoks.pretraining import pretrain_encoder
from bids_semantoks.probes.designs import Design, build_design
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.rows import Rows
from bids_semantoks.probes.scaling_plans import ScalingJob, ScalingPlan
from bids_semantoks.probes.untrained import build_untrained
from bids_semantoks.probing.linear import cross_validate
from bids_semantoks.probing.scaling import fit_log_line
from bids_semantoks.probing.scorers import build_scorer
from bids_semantoks.probing.spans import TableFeatures
from bids_semantoks.signals.temporal import build_windows

LOGGER = logging.getLogger("bids_semantoks")

_CLASS_METRICS: Final = ("auroc", "balanced_accuracy")
_VALUE_METRICS: Final = ("r",)


def measure_scaling(
    plan: ProbePlan, scaling: ScalingPlan, stored: Sequence[StoredRun], atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> Path:
    """Pretrain on all shares, probe each encoder, and write the table.

    Parameters
    ----------
    plan : ProbePlan
        Phenotypes, and the configuration of the call.
    scaling : ScalingPlan
        From `plan_scaling`; encoders that are finished are not trained again.
    stored : sequence of StoredRun
        Runs of this study.
    atlas : tuple of (parcels, networks)
        Of these runs.

    Returns
    -------
    Path
        ``OUT_DIR/group_scaling.tsv``.

    Raises
    ------
    TrainingStopped
        When asked to end early; the same call goes on.
    """
    config = plan.config
    designs = _build_designs(plan, stored)
    started = time.monotonic()
    found: list[tuple[ScalingJob, list[dict[str, float]]]] = []
    baselines: list[list[dict[str, float]]] = []
    for number, job in enumerate(scaling.jobs, start=1):
        LOGGER.info("Scaling, encoder %d of %d: %s.", number, len(scaling.jobs), job.encoder)
        encoder = _load(config, _pretrain(config, scaling, job, started), atlas)
        if not baselines:
            for draw in range(config.probing.scaling_seeds):
                untrained = build_untrained(encoder, draw)
                baselines.append([score_encoder(untrained, design, plan) for design in designs])
        found.append((job, [score_encoder(encoder, design, plan) for design in designs]))
    rows = []
    for position, design in enumerate(designs):
        tested = set(map(str, design.rows.participants[~np.isnan(design.target.values)]))
        for metric in found[0][1][position]:
            base = float(np.mean([scores[position][metric] for scores in baselines]))
            for job, scores in found:
                value = scores[position][metric]
                rows.append(
                    ScalingRow(
                        phenotype=design.target.name,
                        metric=metric,
                        source=scaling.data.name,
                        share=job.share,
                        n_pretraining=len(job.participants),
                        seed=job.seed,
                        value=value,
                        value_random=base,
                        gain=value - base,
                        n_tested=len(tested),
                        n_pretrained=len(tested & job.participants) if scaling.data.name == "own" else None,
                        encoder=job.encoder,
                    )
                )
    return write_scaling_tables(config.out_dir, rows, _describe(config, scaling, rows, baselines, designs))


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


def score_encoder(encoder: RunEncoder, design: Design, plan: ProbePlan) -> dict[str, float]:
    """Embed the rows of a design and score the nested protocol on its splits.

    Parameters
    ----------
    encoder : RunEncoder
        Trained or not.
    design : Design
        What is predicted, and on which splits.
    plan : ProbePlan
        Gives the seed.

    Returns
    -------
    dict of str to float
        Mean over repetitions by metric.
    """
    features = TableFeatures(name=encoder.loaded.name, values=embed_rows(encoder, design.rows))
    predictions = cross_validate(
        features,
        design.target,
        design.splits,
        covariates=design.covariates,
        groups=design.groups,
        seed=plan.config.running.random_seed,
    )
    metrics = _CLASS_METRICS if predictions.classes else _VALUE_METRICS
    everyone = np.ones((1, predictions.fold.shape[1]))
    return {metric: float(build_scorer(predictions, metric)(everyone)[0]) for metric in metrics}


def embed_rows(encoder: RunEncoder, rows: Rows) -> NDArray[np.float64]:
    """Embed runs as the tables of embeddings are made, without writing any.

    Parameters
    ----------
    encoder : RunEncoder
        Fitted to the atlas of the signals.
    rows : Rows
        Participants or sessions.

    Returns
    -------
    NDArray, float64, shape (n, D)
        Mean over windows, then runs.
    """
    model = encoder.loaded.config
    means = []
    for runs in rows.runs:
        vectors = []
        for run in runs:
            windows = build_windows(
                read_signals(run.paths)[1],
                repetition_time=run.sidecar["RepetitionTime"],
                n_dummy=run.sidecar["VolumesDropped"]["Dummy"]["Count"],
                target_repetition_time=model.repetition_time,
                window=model.window,
                n_windows=encoder.config.n_windows,
            )
            vectors.append(encoder.frozen.encode(windows).vectors.mean(axis=0, dtype=np.float64))
        means.append(np.mean(vectors, axis=0))
    return np.stack(means)


def _describe(
    config: AppConfig,
    scaling: ScalingPlan,
    rows: Sequence[ScalingRow],
    baselines: Sequence[Sequence[dict[str, float]]],
    designs: Sequence[Design],
) -> dict[str, Any]:
    fits = []
    for phenotype, metric in dict.fromkeys((row.phenotype, row.metric) for row in rows):
        own = [row for row in rows if (row.phenotype, row.metric) == (phenotype, metric)]
        fit = fit_log_line(np.array([row.n_pretraining for row in own]), np.array([row.gain for row in own]))
        position = [design.target.name for design in designs].index(phenotype)
        spread = [scores[position][metric] for scores in baselines]
        numbers = {"Slope": fit.slope, "Low": fit.ci_low, "High": fit.ci_high, "Intercept": fit.intercept}
        fits.append(
            {
                "Phenotype": phenotype,
                "Metric": metric,
                **{key: None if math.isnan(value) else round(value, 6) for key, value in numbers.items()},
                "Encoders": fit.n_points,
                "RandomWeights": [round(value, 6) for value in spread],
            }
        )
    return {
        "Fits": fits,
        "Source": scaling.data.name,
        "ParticipantsThere": len(scaling.data.participants),
        "Pretraining": to_json(config)["pretraining"],
        "Description": "Gain = Intercept + Slope * log10(participants); the interval is over encoders, which are all "
        "probed on the same people.",
        "SoftwareVersions": find_versions(),
    }
