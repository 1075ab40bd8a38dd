"""Encoders pretrained on shares of the data, each probed on this study's participants."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_semantoks.analyses.choose import build_untrained
from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.analyses.predictors import predict_linear
from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.embedding import AtlasNames, RunEncoder, build_run_encoder, embed_mean
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.files import hash_text
from bids_semantoks.inputs.hdf5 import open_signals
from bids_semantoks.models.encoder import read_encoder_config
from bids_semantoks.models.parcels import build_layout, match_parcels
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.group_tables import build_group_table, write_group_table
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds, find_stored_runs
from bids_semantoks.pretraining.plan import read_training_config
from bids_semantoks.pretraining.run import pretrain_encoder
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.scaling_law import average_gains, choose_share, compute_gain, fit_log_line
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.training.batches import choose_batch_size

LOGGER = logging.getLogger("bids_semantoks")
_FEWEST: Final = 16  # least number of participants in a share
_OWN: Final = "own"  # name of this dataset as a source of signals


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingJob:
    """One encoder to be pretrained."""

    share: float  # of the participants
    participants: frozenset[str]  # those chosen
    seed: int  # of choice and training
    encoder: str  # folder below ``OUT_DIR/encoders``


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SharedData:
    """Signals that shares are drawn from."""

    name: str  # `_OWN`, or that of the other study or file
    participants: tuple[str, ...]
    stored: tuple[StoredRun, ...]  # runs; empty for a file
    parcels: tuple[str, ...]
    networks: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]  # participant and checksum of each run; of a file its size and date


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingPlan:
    """All encoders to be pretrained."""

    data: SharedData
    jobs: tuple[ScalingJob, ...]  # by share, then seed


def plan_scaling(config: AppConfig, chosen: Sequence[StoredRun], atlas: AtlasNames) -> ScalingPlan:
    """Check shares, data and recipe before any work. Raises ConfigurationError if a share has fewer than 16
    participants or two are equal, a batch does not fit, several processes train, or --encoder-name would have no
    effect; InputError if the other study has no signals; ModelError if an encoder of its atlas does not fit the atlas
    of this study."""
    asked = config.probing
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigurationError("--scaling trains in one process, found several.", hint="Start it without torchrun.")
    given = config.pretraining.encoder_name
    if given is not None and not config.pretraining.pretrain:
        raise ConfigurationError(
            f"--encoder-name {given} has no effect: --scaling names its encoders by share and seed.",
            hint="Remove the option.",
        )
    data = _find_shared_data(config, chosen, atlas)
    n_all = len(data.participants)
    sizes = {share: round(share * n_all) for share in sorted(asked.scaling)}
    small = [f"{share:g} ({n})" for share, n in sizes.items() if n < _FEWEST]
    if small:
        raise ConfigurationError(
            f"--scaling needs shares of at least {_FEWEST} participants; with {n_all} in total, found "
            f"{', '.join(small)}.",
            hint=f"The smallest possible share is {_FEWEST / n_all:.2g}."
            if n_all >= _FEWEST
            else "Use the signals of another study with -d NAME=OUT_DIR.",
        )
    if len(set(sizes.values())) < len(sizes):
        listed = ", ".join(f"{share:g} ({n})" for share, n in sizes.items())
        raise ConfigurationError(f"--scaling has shares of the same number of participants: {listed}.")
    match_parcels(*atlas, build_layout(data.parcels, data.networks))
    encoder = read_encoder_config(config.pretraining.encoder_config)
    recipe = read_training_config(config.pretraining)
    settings = [to_json(encoder), to_json(recipe), config.embedding.precision]
    choose_batch_size(min(sizes.values()), recipe.batch_size, n_parts=config.pretraining.accumulate)
    first, jobs = config.running.random_seed, []
    for share, size in sizes.items():
        for seed in range(first, first + asked.scaling_seeds):
            people = choose_share(list(data.participants), size, seed=seed)
            name = _name_encoder(config, data, people, seed, settings)
            jobs.append(ScalingJob(share=share, participants=people, seed=seed, encoder=name))
    LOGGER.info(
        "Scaling: %d encoders on %s participants of %s.",
        len(jobs),
        ", ".join(str(size) for size in sizes.values()),
        "this dataset" if data.name == _OWN else data.name,
    )
    return ScalingPlan(data=data, jobs=tuple(jobs))


def _name_encoder(
    config: AppConfig, data: SharedData, people: frozenset[str], seed: int, settings: Sequence[object]
) -> str:
    """Name the folder so that other participants, runs, seeds or recipes never share it."""
    keys = sorted(key for label, key in data.keys if label in people or not label)
    digest = hash_text(json.dumps([sorted(people), keys, data.name, settings]))[:8]
    stem = "".join(c for c in Path(config.pretraining.encoder_config).stem if c.isalnum())
    source = "".join(c for c in data.name if c.isalnum()) or "other"
    return f"scaling-{stem}-{source}-{len(people)}-seed{seed}-{digest}"


def _find_shared_data(config: AppConfig, chosen: Sequence[StoredRun], atlas: AtlasNames) -> SharedData:
    """Find the signals to draw shares from: another study (-d), a file (--pretrain-data) or this dataset. Raises
    ConfigurationError if several are named, or this one again, and InputError if the other study has no signals of the
    same atlas."""
    file, named = config.pretraining.pretrain_data, config.selection.derivatives
    if len(named) + (file is not None) > 1:
        raise ConfigurationError(
            f"--scaling uses shares of one dataset, found {', '.join([*named, *([str(file)] if file else [])])}.",
            hint="Use either -d or --pretrain-data.",
        )
    if file is not None:
        found, status = open_signals(file), file.stat()
        return SharedData(
            name=file.name,
            participants=tuple(sorted(set(found.ids))),
            stored=(),
            parcels=found.parcels,
            networks=found.networks,
            keys=(("", f"{status.st_size} {status.st_mtime_ns}"),),
        )
    if not named:
        return _collect(_OWN, chosen, *atlas)
    return _find_study(config, named[0], chosen[0].entities["atlas"])


def _find_study(config: AppConfig, given: str, label: str) -> SharedData:
    name, _, text = given.rpartition("=")
    out_dir = Path(text)
    name = name or out_dir.resolve().name
    if out_dir.resolve() == config.out_dir.resolve():
        raise ConfigurationError(
            f"-d {given} is OUT_DIR itself, not another study.", hint="Without -d, shares are drawn from OUT_DIR."
        )
    if name == _OWN:
        raise ConfigurationError(
            f"-d {given} uses the reserved name {_OWN} for another study.",
            hint="Use -d NAME=OUT_DIR with another name.",
        )
    kinds = find_stored_kinds(out_dir) if out_dir.is_dir() else []
    space = next((space for found, space in kinds if found == label), "")
    stored = find_stored_runs(out_dir, atlas=label, model="")
    found = [run for run in stored if run.entities.get("space", "") == space]
    if not found:
        listed = ", ".join(f"{one} in {place or 'an unknown space'}" for one, place in kinds) or "none"
        raise InputError(
            f"-d {given} has no signals of atlas {label}: found {listed}.",
            hint="Use an OUT_DIR of the participant level with the same atlas.",
        )
    rest = [run for run in found if run.entities.get("task", "").startswith("rest")]
    return _collect(name, rest or found, *read_atlas_table(out_dir, name=label, space=space))


def _collect(name: str, stored: Sequence[StoredRun], parcels: tuple[str, ...], networks: tuple[str, ...]) -> SharedData:
    return SharedData(
        name=name,
        participants=tuple(sorted({run.entities["sub"] for run in stored})),
        stored=tuple(stored),
        parcels=parcels,
        networks=networks,
        keys=tuple((run.entities["sub"], run.sidecar["TableSHA256"]) for run in stored),
    )


Pair = tuple[ScalingJob, Predictions, Predictions]


def measure_scaling(plan: ProbePlan, scaling: ScalingPlan, atlas: AtlasNames) -> Path:
    """Pretrain on all shares, probe each encoder and write ``OUT_DIR/group_scaling.tsv``. Finished encoders are not
    trained again. Raises TrainingStopped if requested to stop early; the same call then resumes."""
    config, designs = plan.config, [design for _, design in plan.designs]
    seed = config.running.random_seed
    started = time.monotonic()
    untrained: dict[int, list[Predictions]] = {}
    trained: list[list[Predictions]] = []
    for number, job in enumerate(Progress("Scaling").each("encoder", scaling.jobs), start=1):
        LOGGER.info("Scaling, encoder %d of %d: %s.", number, len(scaling.jobs), job.encoder)
        path = _pretrain(config, scaling, job, started)
        embedding = dataclasses.replace(config.embedding, model=str(path), save_tokens=False)
        encoder = build_run_encoder(embedding, *atlas, seed=seed)
        if job.seed not in untrained:
            # The initial weights of this training, so that only the training differs.
            first = build_untrained(encoder, job.seed, f"{encoder.loaded.name}Untrained")
            untrained[job.seed] = predict_designs(first, designs, seed=seed)
        trained.append(predict_designs(encoder, designs, seed=seed))
    rows: list[dict[str, object]] = []
    fits = []
    for position, design in enumerate(designs):
        pairs = [
            (job, found[position], untrained[job.seed][position])
            for job, found in zip(scaling.jobs, trained, strict=True)
        ]
        for metric in ("auroc", "balanced_accuracy") if pairs[0][1].classes else ("r",):
            own, fit = _compare(design, metric, pairs, scaling.data.name, seed=seed)
            rows += own
            fits.append(fit)
    facts, name = _describe(config, scaling, fits), "group_scaling"
    return write_group_table(config.out_dir, name, build_group_table(name, rows), facts)


def _pretrain(config: AppConfig, scaling: ScalingPlan, job: ScalingJob, started: float) -> Path:
    asked = config.pretraining
    left = asked.max_hours
    if left is not None:
        # The time limit holds for all trainings together; one that starts too late still saves before it ends.
        left = max(left - (time.monotonic() - started) / 3600, 1e-6)
    own = dataclasses.replace(
        config,
        pretraining=dataclasses.replace(asked, encoder_name=job.encoder, max_hours=left),
        running=dataclasses.replace(config.running, random_seed=job.seed),
    )
    data = scaling.data
    return pretrain_encoder(own, data.stored, data.parcels, data.networks, participants=job.participants)


def predict_designs(encoder: RunEncoder, designs: Sequence[Design], *, seed: int) -> list[Predictions]:
    """Embed all runs once and predict each design by the nested protocol on its splits, out of fold."""
    runs = {run.paths.stem: run for design in designs for own in design.rows.runs for run in own}
    min_kept = designs[0].rows.min_kept
    vectors = {stem: embed_mean(run, encoder, min_kept=min_kept) for stem, run in runs.items()}  # (D,) each
    found = []
    for design in designs:
        own = zip(design.rows.runs, design.rows.weights, strict=True)
        means = [weights @ np.stack([vectors[run.paths.stem] for run in runs]) for runs, weights in own]
        features = TableFeatures(name=encoder.loaded.name, values=np.stack(means))
        found.append(predict_linear(features, design, seed=seed))
    return found


def _compare(
    design: Design, metric: str, pairs: Sequence[Pair], source: str, *, seed: int
) -> tuple[list[dict[str, object]], dict[str, Any]]:
    """Score all encoders against their own initial weights: rows of the table, and the line and means through them."""
    tested = set(map(str, design.rows.participants[~np.isnan(design.target.values)]))
    units = design.rows.units
    gains = [compute_gain(first, second, metric, participants=units, seed=seed) for _, first, second in pairs]
    jobs = [job for job, _, _ in pairs]
    rows: list[dict[str, object]] = [
        {
            "phenotype": design.target.name,
            "metric": metric,
            "source": source,
            "share": job.share,
            "n_pretraining": len(job.participants),
            "seed": job.seed,
            "value": one.value,
            "value_random": one.value_random,
            "gain": one.gain,
            "gain_low": one.interval[0],
            "gain_high": one.interval[1],
            "n_tested": len(tested),
            "n_pretrained": len(tested & job.participants) if source == _OWN else None,
            "encoder": job.encoder,
        }
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
        "The interval of Slope is over encoders, all probed on the same participants. Low and High of Shares: 95 % "
        "interval of the mean gain over participants tested; LowOverSeeds and HighOverSeeds: over seeds.",
        "SoftwareVersions": find_versions(),
    }
