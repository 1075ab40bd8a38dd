"""Task blocks as rows: found in events tables, cut from the stored signals, embedded as one patch each. Shape
letters: n rows (blocks), T volumes, P parcels, D dimensions of an embedding."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.choose import build_twin
from bids_semantoks.config import AppConfig, EncoderConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import InputError, RunFailed, name_count
from bids_semantoks.inputs.pairing import Event, find_event_roots, find_events, read_events
from bids_semantoks.inputs.phenotypes import check_cells, find_columns
from bids_semantoks.models.frozen import find_clip_patches
from bids_semantoks.outputs.group_tables import build_group_table, write_group_table
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.pretraining.packing import standardise
from bids_semantoks.records import Bools, Floats, Labels, Reals
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.signals.windows import build_block_windows, compute_kept_share, find_block_volumes, select_signals
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import average_participants, score_participants
from bids_semantoks.statistics.predictions import Target, build_class_target
from bids_semantoks.statistics.significance import adjust_holm
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import Split, build_splits, build_within_splits

LOGGER = logging.getLogger("bids_semantoks")
_FEWEST: Final = 2  # least number of types, and of blocks of each, for a classification
_FEWEST_FOR_FOLDS: Final = 5  # least number of participants, and of blocks of a type, for five folds
_METRIC: Final = "balanced_accuracy"

#: Least kept share of a block's time: dropped volumes are interpolated, which carries no signal of the task.
_LEAST_KEPT: Final = 0.5

_Span = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockPlan:
    """Runs with their events, checked before any work."""

    column: str  # of the tables of events
    runs: tuple[tuple[StoredRun, tuple[Event, ...]], ...]
    notes: tuple[str, ...]  # what was left out, and why
    families: dict[str, str]  # --group-by group of participants that have one, never on both sides of a split


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Blocks:
    """All blocks, one per row."""

    labels: Labels  # (n,) types; participants and runs are (n,), too
    participants: Labels
    runs: Labels
    onsets: Floats  # (n,) seconds in the run
    # (n, D) by model and position of the block in the window
    features: dict[tuple[str, str], Reals]
    notes: tuple[str, ...]  # what was left out, and why


def plan_blocks(config: AppConfig, stored: Sequence[StoredRun]) -> BlockPlan:
    """Find the events of all runs before any work. Raises InputError if no run has events, a table lacks the column,
    or fewer than two types have two blocks each."""
    column = config.probing.task_blocks or ""
    roots = find_event_roots(config.bids_dir, config.selection.derivatives)
    runs, lacking = [], []
    empty: list[Path] = []
    n_timeless = 0
    for run in stored:
        path = find_events(run.entities, roots)
        if path is None:
            lacking.append(run)
            continue
        events, n_lost = read_events(path, column)
        n_timeless += n_lost
        if events:
            runs.append((run, events))
        else:
            empty.append(path)
    if not runs:
        what = f"{len(empty)} tables without rows with onset, duration and value, the first is"
        found = f"{what} {empty[0]}" if empty else "none"
        tasks = ", ".join(sorted({run.entities.get("task", "n/a") for run in stored}))
        raise InputError(
            f"--task-blocks {column} needs events for the runs (task {tasks}): looked for *_events.tsv with that "
            f"column in {', '.join(map(str, roots))}, found {found}.",
            hint="Use the raw dataset as BIDS_DIR, and select task runs with --task-id.",
        )
    counts = Counter(event.label for _, events in runs for event in events)
    if sum(count >= _FEWEST for count in counts.values()) < _FEWEST:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(counts.items()))
        raise InputError(
            f"--task-blocks {column} needs at least two types of blocks with two blocks each; found {listed}."
        )
    notes = []
    if lacking:
        tasks = ", ".join(sorted({run.entities.get("task", "n/a") for run in lacking}))
        notes.append(f"{name_count(len(lacking), 'run')} (task {tasks}) without events")
    if empty:
        notes.append(f"{name_count(len(empty), 'run')} whose events have no value of {column}")
    if n_timeless:
        notes.append(f"{n_timeless} blocks with n/a for onset or duration")
    n_cut = sum(
        later.onset < event.onset + event.duration - 1e-6
        for _, events in runs
        for event, later in itertools.pairwise(events)
    )
    if n_cut:
        notes.append(f"the end of {n_cut} blocks during which another begins")
    LOGGER.info("Blocks of %s: %d runs with events, types %s.", column, len(runs), ", ".join(sorted(counts)))
    return BlockPlan(column=column, runs=tuple(runs), notes=tuple(notes), families=_find_families(config, stored))


def _find_families(config: AppConfig, stored: Sequence[StoredRun]) -> dict[str, str]:
    asked = config.probing
    if asked.group_by is None:
        return {}
    keys = [(run.entities["sub"], "") for run in stored]
    where: dict[str, Any] = {"phenotype": asked.phenotype, "id_column": asked.id_column}
    column = find_columns(config.bids_dir, [asked.group_by], keys=keys, **where)[asked.group_by]
    check_cells(column, keys)
    return {label: text for (label, _), text in column.values.items() if text is not None}


def _find_blocks(
    run: StoredRun, events: Sequence[Event], model: EncoderConfig
) -> tuple[NDArray[np.float32], Bools, list[tuple[Event, _Span, bool]]]:
    """Find the blocks of a run: its signals (T, P) at the repetition time of the encoder, which parcels have one (P,),
    and of each event in reach its first volume and number of volumes, and whether enough of them were kept."""
    n_dummy, source_time, table = run.n_dummy, run.repetition_time, run.read_signals()
    signals, present = standardise(table, repetition_time=source_time, n_dummy=n_dummy, target=model.repetition_time)
    places = find_block_volumes(
        [event.onset for event in events],
        [event.duration for event in events],
        n_volumes=len(signals),
        repetition_time=model.repetition_time,
        start=n_dummy * source_time,
        longest=model.patch,
    )
    blocks = [(event, place) for event, place in zip(events, places, strict=True) if place is not None]
    kept = select_signals(table, n_dummy)[2]
    first, length = np.array([place for _, place in blocks], dtype=np.float64).reshape(-1, 2).T * model.repetition_time
    shares = compute_kept_share(kept, source_time, first, length)
    return signals, present, [(*block, bool(share >= _LEAST_KEPT)) for block, share in zip(blocks, shares, strict=True)]


def _embed_spans(
    signals: NDArray[np.float32],
    present: Bools,
    spans: Sequence[_Span],
    encoders: Mapping[str, RunEncoder],
    model: EncoderConfig,
) -> Iterator[tuple[tuple[str, str], Reals]]:
    """Yield one row per block, by model and position in the window."""
    yield ("parcel_means", ""), np.stack([signals[first : first + n].mean(axis=0) for first, n in spans])
    for position in ("first", "last"):
        is_last = position == "last"
        windows = build_block_windows(
            signals,
            present,
            spans,
            window=model.window,
            patch=model.patch,
            repetition_time=model.repetition_time,
            last=is_last,
        )
        real = find_clip_patches(len(spans), model, last=is_last)
        for name, encoder in encoders.items():
            yield (name, position), encoder.frozen.encode(windows, real_patches=real).vectors


def embed_blocks(plan: BlockPlan, encoders: Mapping[str, RunEncoder]) -> Blocks:
    """Embed each block as one patch, all others masked, first and last in the window; also average its parcels. The
    encoders share one architecture. Raises InputError if no block is left."""
    model = next(iter(encoders.values())).loaded.config
    rows: list[tuple[str, str, str, float]] = []
    parts: dict[tuple[str, str], list[Reals]] = {}
    n_out = n_dropped = 0
    for run, events in plan.runs:
        try:
            signals, present, blocks = _find_blocks(run, events, model)
        except RunFailed as error:
            LOGGER.warning("Excluding blocks: %s", error)
            continue
        kept = [(event, span) for event, span, is_seen in blocks if is_seen]
        n_out += len(events) - len(blocks)
        n_dropped += len(blocks) - len(kept)
        rows += [(event.label, run.entities["sub"], run.paths.stem, event.onset) for event, _ in kept]
        spans = [span for _, span in kept]
        for key, values in _embed_spans(signals, present, spans, encoders, model) if spans else ():
            parts.setdefault(key, []).append(values)
    if not rows:
        raise InputError(
            f"None of the {n_out + n_dropped} blocks of {plan.column} is within its run, long enough and kept "
            f"({n_dropped} were dropped with their volumes).",
            hint="Onsets and durations must be in seconds, relative to the run's first volume.",
        )
    labels, participants, stems, onsets = zip(*rows, strict=True)
    notes = list(plan.notes)
    if n_out:
        notes.append(f"{n_out} blocks too brief, outside their run, or with the same onset as another")
    if n_dropped:
        notes.append(f"{n_dropped} blocks with less than half of their volumes kept")
    return Blocks(
        labels=np.array(labels),
        participants=np.array(participants),
        runs=np.array(stems),
        onsets=np.array(onsets),
        features={key: np.concatenate(found) for key, found in parts.items()},
        notes=tuple(notes),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockDesign:
    """Splits for classifying blocks."""

    name: str  # ``across`` or ``within``
    splits: tuple[Split, ...]  # the same for all models
    groups: Labels | None  # rows kept together where penalties are chosen
    folds: str  # what a fold leaves out, in words
    widening: float  # factor of the standard errors behind intervals


def probe_blocks(config: AppConfig, plan: BlockPlan, encoder: RunEncoder) -> Path:
    """Embed blocks, classify their types and write ``OUT_DIR/group_task_blocks.tsv``. Raises InputError if there are
    too few blocks of two types for any fold."""
    model = encoder.loaded.name
    encoders = {model: encoder}
    if "random" in config.probing.baselines:
        encoders["random"] = build_twin(encoder)
    blocks = embed_blocks(plan, encoders)
    blocks, target = select_types(blocks, plan.column)
    designs, notes = build_block_designs(blocks, target, config, plan.families)
    LOGGER.info("Classifying %d blocks: %s.", len(blocks.labels), ", ".join(target.classes))
    rows = [row for design in designs for row in score_design(blocks, target, design, model, config)]
    for row, p_value in zip(rows, adjust_holm([row["difference_p"] for row in rows]).tolist(), strict=True):
        row["difference_p_holm"] = p_value
    for row in rows:
        place = f" ({row['position']} patch)" if row["position"] else ""
        LOGGER.info(
            "%s participants, %s%s: balanced accuracy %.3f [%.3f, %.3f], chance %.3f",
            *(row["design"], row["model"], place, row["value"], row["ci_low"], row["ci_high"], row["chance"]),
        )
    facts = {
        "Encoder": {"Name": model, "SHA256": encoder.loaded.sha256, "Description": encoder.loaded.description},
        "Types": dict(sorted(Counter(blocks.labels.tolist()).items())),
        "Out": [*blocks.notes, *notes],
        "LongestBlock": encoder.loaded.config.patch * encoder.loaded.config.repetition_time,
        "RandomSeed": config.running.random_seed,
        "SoftwareVersions": find_versions(),
    }
    name = "group_task_blocks"
    return write_group_table(config.out_dir, name, build_group_table(name, rows), facts)


def select_types(blocks: Blocks, column: str) -> tuple[Blocks, Target]:
    """Drop types too rare for five folds; InputError if fewer than two types are left."""
    counts = Counter(blocks.labels.tolist())
    kept = {label for label, count in counts.items() if count >= _FEWEST_FOR_FOLDS}
    if len(kept) < 2:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(counts.items()))
        raise InputError(
            f"--task-blocks {column} needs two types with at least {_FEWEST_FOR_FOLDS} blocks each within their runs: "
            f"found {listed}."
        )
    inside = np.array([label in kept for label in blocks.labels])
    rare = sorted(set(counts) - kept)
    notes = (*blocks.notes, f"blocks of rare types: {', '.join(rare)}") if rare else blocks.notes
    columns = {name: getattr(blocks, name)[inside] for name in ("labels", "participants", "runs", "onsets")}
    features = {key: values[inside] for key, values in blocks.features.items()}
    chosen = dataclasses.replace(blocks, **columns, features=features, notes=notes)
    return chosen, build_class_target(column, chosen.labels.tolist())


def build_block_designs(
    blocks: Blocks, target: Target, config: AppConfig, families: Mapping[str, str]
) -> tuple[list[BlockDesign], list[str]]:
    """Split the blocks across participants (`families` stay together) and within each, noting why a design is missing.
    Raises InputError if neither is possible."""
    designs, notes = [], []
    labels, people = target.values.astype(np.int64), blocks.participants
    groups = np.array([families.get(str(label), f"sub-{label}") for label in people])
    n_groups, column = len(np.unique(groups)), config.probing.group_by
    if n_groups >= _FEWEST_FOR_FOLDS:
        n_repeats = config.probing.n_repeats
        splits = build_splits(labels, groups=groups, n_repeats=n_repeats, seed=config.running.random_seed)
        widening = math.sqrt(1 + len(labels) / float(np.mean([len(split.train) for split in splits])))
        together = f" (those of one {column} together)" if column else ""
        folds = f"a fifth of the participants{together}, {n_repeats} times five folds"
        designs.append(BlockDesign(name="across", splits=splits, groups=groups, folds=folds, widening=widening))
    else:
        who = f"groups of {column}" if column else "participants"
        notes.append(f"across participants: {n_groups} {who} are too few for five folds")
    within, kinds = build_within_splits(labels, people, blocks.runs, blocks.onsets)
    if within:
        by_time = sum(kind == "time" for kind in kinds.values())
        parts = [f"one run ({len(kinds) - by_time} participants)"] if by_time < len(kinds) else []
        parts += [f"a time segment of their only run ({by_time} participants)"] if by_time else []
        designs.append(BlockDesign(name="within", splits=within, groups=None, folds=" or ".join(parts), widening=1.0))
    n_out = len(np.unique(people)) - len(kinds)
    if n_out:
        notes.append(f"within participants: {n_out} whose training parts would not have two blocks of each type")
    if not designs:
        raise InputError(f"Blocks of {target.name} cannot be split: {'; '.join(notes)}.")
    return designs, notes


def score_design(
    blocks: Blocks, target: Target, design: BlockDesign, model: str, config: AppConfig
) -> list[dict[str, Any]]:
    """Score all models on the same blocks and folds: rows of group_task_blocks.tsv, the encoder
    first; differences are from that first row."""
    keys = [(model, "first"), (model, "last"), ("random", "first"), ("random", "last"), ("parcel_means", "")]
    wanted = [key for key in keys if key in blocks.features]
    chance = 1 / len(target.classes)
    rows: list[dict[str, Any]] = []
    first: Floats | None = None
    progress = Progress(f"Blocks {design.name} participants")
    for name, position in progress.each("model", wanted):
        features = TableFeatures(name=name, values=blocks.features[name, position])
        predictions = cross_validate(
            features,
            target,
            design.splits,
            groups=design.groups,
            seed=config.running.random_seed,
            each=partial(progress.each, "fold"),
        )
        scores = score_participants(predictions, blocks.participants, _METRIC)
        mean = average_participants(scores, reference=chance, widening=design.widening, limits=(0.0, 1.0))
        change = np.full(len(scores), np.nan) if first is None else first - scores
        compared = average_participants(change, reference=0.0, widening=design.widening)
        first = scores if first is None else first
        rows.append(
            {
                "column": target.name,
                "design": design.name,
                "model": name,
                "position": position,
                "metric": _METRIC,
                **{key: getattr(mean, key) for key in ("value", "ci_low", "ci_high", "p_value")},
                "chance": chance,
                "difference": compared.value,
                "difference_low": compared.ci_low,
                "difference_high": compared.ci_high,
                "difference_p": compared.p_value,
                "n_participants": mean.n,
                "n_blocks": int(predictions.tested.sum()),
                "n_classes": len(target.classes),
                "folds": design.folds,
            }
        )
    return rows
