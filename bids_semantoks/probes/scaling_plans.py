"""The encoders that ``--scaling`` pretrains, and on whom: decided and checked before any work."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.hdf5 import open_signals
from bids_semantoks.models.initialise import read_encoder_config
from bids_semantoks.models.parcels import build_layout, match_parcels
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds, find_stored_runs
from bids_semantoks.pretraining.plan import read_training_config
from bids_semantoks.statistics.scaling_law import choose_share
from bids_semantoks.training.batches import choose_batch_size

LOGGER = logging.getLogger("bids_semantoks")

FEWEST: Final = 16
OWN: Final = "own"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SharedData:
    """Signals that shares are drawn from."""

    name: str  # ``own``, or that of the other study or file
    participants: tuple[str, ...]
    stored: tuple[StoredRun, ...]  # runs; empty for a file
    parcels: tuple[str, ...]
    networks: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]  # participant and checksum of each run; of a file its size and date


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingJob:
    """One encoder to be pretrained."""

    share: float  # of the participants
    participants: frozenset[str]  # those chosen
    seed: int  # of choice and training
    encoder: str  # folder below ``OUT_DIR/encoders``


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingPlan:
    """All encoders to be pretrained."""

    data: SharedData
    jobs: tuple[ScalingJob, ...]  # by share, then seed


def plan_scaling(
    config: AppConfig, chosen: Sequence[StoredRun], atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> ScalingPlan:
    """Check shares, data and recipe before any work.

    Raises ConfigurationError where a share has fewer than 16 participants or two are equal, a batch does not fit,
    several processes train, or --encoder-name would have no effect; InputError where the other study has no signals;
    ModelError where an encoder of its atlas does not fit the atlas of this study.
    """
    asked, n_seeds = config.probing, config.probing.scaling_seeds
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigurationError(
            "--scaling trains in one process, found several.", hint="Start it without torchrun; shares are small."
        )
    given = config.pretraining.encoder_name
    if given is not None and not config.pretraining.pretrain:
        raise ConfigurationError(
            f"--encoder-name {given} would do nothing: --scaling names its encoders by share and seed.",
            hint="Leave it away.",
        )
    data = find_shared_data(config, chosen, atlas)
    n_all = len(data.participants)
    sizes = {share: round(share * n_all) for share in sorted(asked.scaling)}
    small = [f"{share:g} ({n})" for share, n in sizes.items() if n < FEWEST]
    if small:
        raise ConfigurationError(
            f"--scaling needs shares with {FEWEST} participants or more: of {n_all}, found {', '.join(small)}.",
            hint=f"The smallest share that can be trained on is {FEWEST / n_all:.2g}."
            if n_all >= FEWEST
            else "Pretrain on another study's signals with -d NAME=OUT_DIR.",
        )
    if len(set(sizes.values())) < len(sizes):
        listed = ", ".join(f"{share:g} ({n})" for share, n in sizes.items())
        raise ConfigurationError(f"--scaling has shares of the same number of participants: {listed}.")
    match_parcels(*atlas, build_layout(data.parcels, data.networks))
    encoder = read_encoder_config(config.pretraining.encoder_config)
    recipe = read_training_config(config.pretraining)
    settings = [to_json(encoder), to_json(recipe), config.embedding.precision]
    choose_batch_size(min(sizes.values()), recipe.batch_size, n_parts=config.pretraining.accumulate)
    jobs = []
    for share, size in sizes.items():
        for seed in range(config.running.random_seed, config.running.random_seed + n_seeds):
            people = choose_share(list(data.participants), size, seed=seed)
            jobs.append(
                ScalingJob(
                    share=share,
                    participants=people,
                    seed=seed,
                    encoder=_name_encoder(config, data, people, seed, settings),
                )
            )
    LOGGER.info(
        "Scaling: %d encoders on %s participants of %s.",
        len(jobs),
        ", ".join(str(size) for size in sizes.values()),
        "this dataset" if data.name == OWN else data.name,
    )
    return ScalingPlan(data=data, jobs=tuple(jobs))


def _name_encoder(
    config: AppConfig, data: SharedData, people: frozenset[str], seed: int, settings: Sequence[object]
) -> str:
    """Name the folder so that other people, runs, seeds or recipes never share it."""
    keys = sorted(key for label, key in data.keys if label in people or not label)
    digest = hashlib.sha256(json.dumps([sorted(people), keys, data.name, settings]).encode()).hexdigest()[:8]
    stem = "".join(c for c in Path(config.pretraining.encoder_config).stem if c.isalnum())
    source = "".join(c for c in data.name if c.isalnum()) or "other"
    return f"scaling-{stem}-{source}-{len(people)}-seed{seed}-{digest}"


def find_shared_data(
    config: AppConfig, chosen: Sequence[StoredRun], atlas: tuple[tuple[str, ...], tuple[str, ...]]
) -> SharedData:
    """Find the signals to draw shares from: another study (-d), a file (--pretrain-data) or this dataset.

    Raises ConfigurationError where several are named, or this one again, and InputError where the other study has no
    signals of the same atlas.
    """
    file, named = config.pretraining.pretrain_data, config.selection.derivatives
    if len(named) + (file is not None) > 1:
        raise ConfigurationError(
            f"--scaling takes shares of one dataset, found {', '.join([*named, *([str(file)] if file else [])])}.",
            hint="Give one of -d and --pretrain-data.",
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
        return _collect(OWN, chosen, *atlas)
    return _find_study(config, named[0], chosen[0].entities["atlas"])


def _find_study(config: AppConfig, given: str, label: str) -> SharedData:
    name, _, text = given.rpartition("=")
    out_dir = Path(text)
    name = name or out_dir.resolve().name
    if out_dir.resolve() == config.out_dir.resolve():
        raise ConfigurationError(
            f"-d {given} is OUT_DIR itself, not another study.", hint="Without -d shares are of its own participants."
        )
    if name == OWN:
        raise ConfigurationError(
            f"-d {given} calls another study {OWN}, which stands for this one.", hint="Give -d NAME=OUT_DIR."
        )
    kinds = find_stored_kinds(out_dir) if out_dir.is_dir() else []
    space = next((space for found, space in kinds if found == label), "")
    stored = find_stored_runs(out_dir, atlas=label, model="")
    found = [run for run in stored if run.entities.get("space", "") == space]
    if not found:
        listed = ", ".join(f"{one} in {place or 'no space named'}" for one, place in kinds) or "none"
        raise InputError(
            f"-d {given} has no signals of atlas {label}, written here, to take shares of: found {listed}.",
            hint="Give the OUT_DIR of a participant level run with the same atlas.",
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
