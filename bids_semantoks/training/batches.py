"""What each step of a training gets: settings, and a batch of runs that seed and position alone determine, so that a
resumed or parallel training sees the same data.

Legend: B runs in a batch, P parcels, T volumes of the longest run, R runs in all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bids_semantoks.config import TrainingConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.records import Bools, Floats, Indices
from bids_semantoks.training.packed import SignalView

PAPER_BATCH = 512
REFERENCE_BATCH = 256
FEWEST_STEPS = 8
_SMALLEST_BATCH = 2
_RESIDENT_SHARE = 0.4
_ORDER_STREAM, VIEW_STREAM, COIN_STREAM = 0, 1, 2


class Batch(NamedTuple):
    """Runs of one part of a batch, on the training device."""

    signals: Tensor  # (B, P, T) float16, zero-padded at the end
    lengths: Tensor  # (B,) int64, volumes of each run
    present: Tensor  # (B, P) bool, parcels that have a signal


def choose_batch_size(n_participants: int, wanted: int | None, *, n_parts: int) -> int:
    """Choose the participants of an optimiser step, a multiple of `n_parts` (processes times accumulated parts).
    Without a wanted size it is 512 or, with fewer data, the largest power of two that leaves 8 steps per epoch. Raises
    ConfigurationError if the batch exceeds the data or cannot be split into equal parts."""
    if wanted is None:
        wanted = PAPER_BATCH
        while wanted > _SMALLEST_BATCH and n_participants // wanted < FEWEST_STEPS:
            wanted //= 2
        wanted = max(wanted // n_parts, 1) * n_parts
    if wanted > n_participants:
        raise ConfigurationError(
            f"A batch of {wanted} is larger than the data: {n_participants} participants.",
            hint="Use a smaller --train-batch-size, or remove the option.",
        )
    if wanted % n_parts:
        raise ConfigurationError(
            f"A batch of {wanted} cannot be split into {n_parts} equal parts (processes times --accumulate).",
            hint="Use a multiple.",
        )
    return wanted


def check_participants(participants: Collection[str], *, batch_size: int | None = None) -> None:
    """Refuse fewer than two participants (InputError) and a batch larger than the data (ConfigurationError)."""
    labels = sorted(set(participants))
    if len(labels) < _SMALLEST_BATCH:
        raise InputError(
            f"Pretraining needs at least two participants, found {len(labels)}: {', '.join(labels)}.",
            hint="Process more participants first, or select more.",
        )
    if batch_size is not None:
        choose_batch_size(len(labels), batch_size, n_parts=1)


def compute_seed(seed: int, *position: int) -> int:
    """Derive a 64-bit seed from the training's seed and a position (stream, batch, process); no two draws share one."""
    return int(np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0])


class BatchOrder:
    """Order of participants, and the run drawn for each, in every epoch; an incomplete last batch is dropped.
    `participants` names the participant of each run. Raises as `check_participants` does."""

    def __init__(self, participants: tuple[str, ...], batch_size: int, seed: int) -> None:
        self.batch_size = batch_size
        self.seed = seed
        check_participants(participants, batch_size=batch_size)
        labels, owner = np.unique(np.array(participants), return_inverse=True)
        self.n_participants = len(labels)
        self._runs = np.argsort(owner, kind="stable")
        self._counts = np.bincount(owner)
        self._firsts = np.cumsum(self._counts) - self._counts
        self._epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.n_participants // self.batch_size

    def draw(self, number: int) -> Indices:
        """Draw batch `number`, counted over all epochs: one run of each of its participants, (B,)."""
        epoch, position = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, _ORDER_STREAM, epoch])
            order = rng.permutation(self.n_participants)
            drawn = (rng.random(self.n_participants) * self._counts[order]).astype(np.int64)
            self._order = self._runs[self._firsts[order] + drawn]
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]


class BatchFeed:
    """Load batches onto the device: from GPU memory where all signals fit, else read ahead from disk. `part` is the one
    of `n_parts` equal parts of each batch that this process trains on."""

    def __init__(self, view: SignalView, order: BatchOrder, device: torch.device, *, part: int, n_parts: int) -> None:
        self.view = view
        self.order = order
        self.device = device
        self.part = part
        self.n_parts = n_parts
        self.present = torch.from_numpy(view.present).to(device)
        self.resident: Tensor | None = None  # all signals, (T, P), where they fit into GPU memory
        if device.type == "cuda" and view.n_bytes < _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self.resident = self._load()
        self._firsts = np.cumsum(view.lengths) - view.lengths

    def _load(self) -> Tensor:
        flat = torch.empty(int(self.view.lengths.sum()), self.view.n_parcels, dtype=torch.float16, device=self.device)
        first = 0
        for run, length in enumerate(self.view.lengths.tolist()):
            flat[first : first + length] = torch.from_numpy(np.array(self.view.read(run)))
            first += length
        return flat

    def stream(self, first: int, n_slices: int) -> Iterator[list[Batch]]:
        """Yield this process' part of every batch from `first` on, endlessly, in `n_slices` for accumulation."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            number = first
            coming = pool.submit(self._prepare, number)
            while True:
                runs, signals = coming.result()
                number += 1
                coming = pool.submit(self._prepare, number)
                size = len(runs) // n_slices
                pieces = [slice(start, start + size) for start in range(0, len(runs), size)]
                yield [self._finish(runs[piece], None if signals is None else signals[piece]) for piece in pieces]

    def _prepare(self, number: int) -> tuple[Indices, Tensor | None]:
        runs = self.order.draw(number)
        size = len(runs) // self.n_parts
        mine = runs[self.part * size : (self.part + 1) * size]
        if self.resident is not None:
            return mine, None
        signals = torch.from_numpy(self.view.read_batch(mine))
        return mine, signals.pin_memory() if self.device.type == "cuda" else signals

    def _finish(self, runs: Indices, signals: Tensor | None) -> Batch:
        index, lengths, firsts = self._send(np.stack([runs, self.view.lengths[runs], self._firsts[runs]])).unbind()
        if signals is None:
            values = self._gather(firsts, lengths, longest=int(self.view.lengths[runs].max()))
        else:
            values = signals.to(self.device, non_blocking=True)
        return Batch(values.transpose(1, 2), lengths, self.present[index])

    def _send(self, values: Indices) -> Tensor:
        """Copy numbers to the device, through pinned memory: otherwise every step would wait for the GPU."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else tensor

    def _gather(self, firsts: Tensor, lengths: Tensor, *, longest: int) -> Tensor:
        """Gather runs from GPU memory, padded like those from disk: (B, T, P)."""
        assert self.resident is not None
        volumes = torch.arange(longest, device=self.device)
        rows = (firsts[:, None] + volumes).clamp(max=len(self.resident) - 1)  # (B, T)
        return self.resident[rows].masked_fill_((volumes >= lengths[:, None])[..., None], 0.0)


class StepSettings(NamedTuple):
    """Settings of one step."""

    learning_rate: float
    weight_decay: float
    momentum: float  # of the teacher's moving average, after the optimiser's step
    ttr_weight: float  # of the regulariser on time-averaged network tokens
    is_masked: bool  # whether the student sees masked views


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Schedules:
    """Settings of all steps: arrays of shape (n_steps,), named as in `StepSettings`."""

    learning_rate: Floats
    weight_decay: Floats
    momentum: Floats
    ttr_weight: Floats
    is_masked: Bools

    @property
    def n_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return len(self.learning_rate)

    def at(self, step: int) -> StepSettings:
        """Return the settings of one step, counted from 0."""
        return StepSettings(*(getattr(self, name)[step].item() for name in StepSettings._fields))


def build_schedules(config: TrainingConfig, *, steps_per_epoch: int, batch_size: int, seed: int) -> Schedules:
    """Build the schedules of a recipe; the rate scales with `batch_size`, a step's participants over all ranks. Steps
    are optimiser steps: several accumulated parts make one. All ranks must pass the same `seed`, which draws the masked
    batches. Raises ValueError unless there are steps and participants."""
    if steps_per_epoch < 1 or batch_size < 1:
        raise ValueError(f"found {steps_per_epoch} steps per epoch and a batch of {batch_size}")
    n_steps = config.epochs * steps_per_epoch
    return Schedules(
        learning_rate=compute_learning_rates(
            n_steps,
            n_warmup=round(config.warmup_epochs * steps_per_epoch),
            peak=config.learning_rate * batch_size / REFERENCE_BATCH,
        ),
        weight_decay=compute_half_cosine(n_steps, *config.weight_decay),
        momentum=compute_half_cosine(n_steps, *config.momentum),
        ttr_weight=compute_ttr_weights(n_steps, n_active=round(config.ttr_share * n_steps), first=config.ttr_weight),
        is_masked=np.random.default_rng(seed).random(n_steps) < config.masked_batches,
    )


def compute_learning_rates(n_steps: int, *, n_warmup: int, peak: float) -> Floats:
    """Compute learning rates: linear from 0 to the peak (`n_warmup` at most half of all), then half a cosine to 0."""
    n_warmup = min(n_warmup, n_steps // 2)
    steps = np.arange(n_steps, dtype=np.float64)
    progress = (steps - n_warmup) / (n_steps - n_warmup)
    return peak * np.where(steps < n_warmup, steps / max(1, n_warmup), _half_cosine(progress))


def compute_half_cosine(n_steps: int, first: float, last: float) -> Floats:
    """Go from the first value at step 0 to the last at step `n_steps` along half a cosine."""
    return last + (first - last) * _half_cosine(np.arange(n_steps) / n_steps)


def compute_ttr_weights(n_steps: int, *, n_active: int, first: float) -> Floats:
    """Compute weights of the regulariser on time-averaged tokens: half a cosine over `n_active` steps, then 0."""
    steps = np.arange(n_steps)
    return np.where(steps < n_active, first * _half_cosine(steps / max(1, n_active)), 0.0)


def _half_cosine(progress: Floats) -> Floats:
    """Fall from 1 at progress 0 to 0 at progress 1."""
    return np.asarray((1.0 + np.cos(np.pi * progress)) / 2.0)
