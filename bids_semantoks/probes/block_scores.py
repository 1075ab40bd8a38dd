"""Decoding of block types, across participants and within each, by the encoder and its baselines."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import InputError
from bids_semantoks.outputs.group_tables import BLOCK_MEANINGS, BLOCKS_NAME, BlockRow, write_rows
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.probes.clips import BlockPlan, Blocks, embed_blocks
from bids_semantoks.probes.twins import build_twin
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import average_participants, score_participants
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import Split, build_splits, build_within_splits
from bids_semantoks.statistics.targets import Target, build_class_target

LOGGER = logging.getLogger("bids_semantoks")

_FEWEST_PEOPLE: Final = 5
_FEWEST_BLOCKS: Final = 5
_METRIC: Final = "balanced_accuracy"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockDesign:
    """Splits for telling blocks apart."""

    name: str  # ``across`` or ``within``
    splits: tuple[Split, ...]  # the same for all models
    groups: NDArray[Any] | None  # rows kept together where penalties are chosen
    folds: str  # what a fold leaves out, in words
    widening: float  # factor of the standard errors behind intervals


def probe_blocks(config: AppConfig, plan: BlockPlan, encoder: RunEncoder) -> Path:
    """Embed blocks, tell their types apart and write ``OUT_DIR/group_task_blocks.tsv``.
    Raises InputError where there are too few blocks of two types for any fold."""
    model = encoder.loaded.name
    encoders = {model: encoder}
    if "random" in config.probing.baselines:
        encoders["random"] = build_twin(encoder)
    blocks = embed_blocks(plan, encoders)
    blocks, target = select_types(blocks, plan.column)
    designs, notes = build_designs(blocks, target, config, plan.families)
    LOGGER.info("Telling %d blocks apart: %s.", len(blocks.labels), ", ".join(target.classes))
    rows = [row for design in designs for row in score_design(blocks, target, design, model, config)]
    for row in rows:
        place = f" ({row.position} patch)" if row.position else ""
        LOGGER.info(
            "%s participants, %s%s: balanced accuracy %.3f [%.3f, %.3f], chance %.3f",
            *(row.design, row.model, place, row.value, row.ci_low, row.ci_high, row.chance),
        )
    facts = {
        "Encoder": {"Name": model, "SHA256": encoder.loaded.sha256, "Description": encoder.loaded.description},
        "Types": dict(sorted(Counter(blocks.labels.tolist()).items())),
        "Out": [*blocks.notes, *notes],
        "LongestBlock": encoder.loaded.config.patch * encoder.loaded.config.repetition_time,
        "RandomSeed": config.running.random_seed,
        "SoftwareVersions": find_versions(),
    }
    return write_rows(config.out_dir / f"{BLOCKS_NAME}.tsv", BlockRow, rows, meanings=BLOCK_MEANINGS, facts=facts)


def select_types(blocks: Blocks, column: str) -> tuple[Blocks, Target]:
    """Drop types too rare for five folds; InputError where fewer than two types are left."""
    counts = Counter(blocks.labels.tolist())
    kept = {label for label, count in counts.items() if count >= _FEWEST_BLOCKS}
    if len(kept) < 2:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(counts.items()))
        raise InputError(
            f"--task-blocks {column} needs two types with {_FEWEST_BLOCKS} blocks each inside their runs: "
            f"found {listed}."
        )
    inside = np.array([label in kept for label in blocks.labels])
    rare = sorted(set(counts) - kept)
    notes = (*blocks.notes, f"blocks of rare types: {', '.join(rare)}") if rare else blocks.notes
    chosen = Blocks(
        labels=blocks.labels[inside],
        participants=blocks.participants[inside],
        runs=blocks.runs[inside],
        onsets=blocks.onsets[inside],
        features={key: values[inside] for key, values in blocks.features.items()},
        notes=notes,
    )
    return chosen, build_class_target(column, chosen.labels.tolist())


def build_designs(
    blocks: Blocks, target: Target, config: AppConfig, families: Mapping[str, str]
) -> tuple[list[BlockDesign], list[str]]:
    """Split the blocks across participants (`families` stay together) and within each, noting why a design is missing.
    Raises InputError where neither is possible."""
    designs, notes = [], []
    labels, people = target.values.astype(np.int64), blocks.participants
    groups = np.array([families.get(str(label), f"sub-{label}") for label in people])
    n_groups, column = len(np.unique(groups)), config.probing.group_by
    if n_groups >= _FEWEST_PEOPLE:
        n_repeats = config.probing.n_repeats
        splits = build_splits(labels, groups=groups, n_repeats=n_repeats, seed=config.running.random_seed)
        widening = math.sqrt(1 + len(labels) / float(np.mean([len(split.train) for split in splits])))
        together = f" (those of one {column} together)" if column else ""
        folds = f"a fifth of the participants{together}, {n_repeats} times five folds"
        designs.append(BlockDesign(name="across", splits=splits, groups=groups, folds=folds, widening=widening))
    else:
        who = f"in {n_groups} groups by {column}" if column else f"{n_groups}"
        notes.append(f"across participants: {who} are too few for five folds")
    within, kinds = build_within_splits(labels, people, blocks.runs, blocks.onsets)
    if within:
        by_time = sum(kind == "time" for kind in kinds.values())
        parts = [f"one run ({len(kinds) - by_time} participants)"] if by_time < len(kinds) else []
        parts += [f"a stretch of time of their only run ({by_time} participants)"] if by_time else []
        designs.append(BlockDesign(name="within", splits=within, groups=None, folds=" or ".join(parts), widening=1.0))
    n_out = len(np.unique(people)) - len(kinds)
    if n_out:
        notes.append(f"within participants: {n_out} whose parts to train on would not hold two blocks of each type")
    if not designs:
        raise InputError(f"Blocks of {target.name} cannot be divided: {'; '.join(notes)}.")
    return designs, notes


def score_design(blocks: Blocks, target: Target, design: BlockDesign, model: str, config: AppConfig) -> list[BlockRow]:
    """Score all models on the same blocks and folds, the encoder first; differences are from that first row."""
    keys = [(model, "first"), (model, "last"), ("random", "first"), ("random", "last"), ("parcel_means", "")]
    wanted = [key for key in keys if key in blocks.features]
    chance = 1 / len(target.classes)
    rows: list[BlockRow] = []
    first: NDArray[np.float64] | None = None
    for name, position in wanted:
        features = TableFeatures(name=name, values=blocks.features[name, position])
        predictions = cross_validate(
            features, target, design.splits, groups=design.groups, seed=config.running.random_seed
        )
        scores = score_participants(predictions, blocks.participants, _METRIC)
        mean = average_participants(scores, reference=chance, widening=design.widening, limits=(0.0, 1.0))
        nothing = np.full(len(scores), np.nan)
        compared = average_participants(
            nothing if first is None else first - scores, reference=0.0, widening=design.widening
        )
        first = scores if first is None else first
        rows.append(
            BlockRow(
                column=target.name,
                design=design.name,
                model=name,
                position=position,
                metric=_METRIC,
                value=mean.value,
                ci_low=mean.ci_low,
                ci_high=mean.ci_high,
                p_value=mean.p_value,
                chance=chance,
                difference=compared.value,
                difference_low=compared.ci_low,
                difference_high=compared.ci_high,
                difference_p=compared.p_value,
                n_participants=mean.n,
                n_blocks=int(predictions.tested.sum()),
                n_classes=len(target.classes),
                folds=design.folds,
            )
        )
    return rows
