"""The published probe, in torch for GPUs: BatchNorm and a linear layer per learning rate, chosen on validation windows.
Legend: R repetitions, L learning rates, C outputs, D features, B windows in a batch, m windows, n rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bids_semantoks.models.encoder import draw_head
from bids_semantoks.records import Floats, Indices, Reals
from bids_semantoks.statistics.predictions import Predictions, PredictionTable, Target, compute_probabilities
from bids_semantoks.statistics.splits import Split

RATES = (0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
EPOCHS = 50
SGD_MOMENTUM = 0.9
NORM_MOMENTUM = 0.1
NORM_EPS = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowTable:
    """Embeddings of single windows."""

    name: str  # of the model, in reports
    values: Reals  # (m, D), finite
    row_of: Indices  # (m,) row (participant or session) of each window

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.row_of.shape != self.values.shape[:1]:
            raise ValueError(f"{self.name}: values {self.values.shape} and row_of {self.row_of.shape} do not fit")
        if not np.isfinite(self.values).all():
            raise ValueError(f"{self.name}: windows must be finite")


def cross_validate_published(
    probe: PublishedProbe,
    splits: Sequence[Split],
    *,
    rates: Sequence[float] = RATES,
    epochs: int = EPOCHS,
    seed: int = 0,
    each: Callable[[Sequence[Sequence[Split]]], Iterable[Sequence[Split]]] = iter,
) -> Predictions:
    """Predict tested rows by the published protocol; splits are from `build_published_splits`, with validation rows.

    Repetitions train together on a GPU, where a step costs the same for one and for ten, and one by one on a CPU, whose
    caches hold one. Repetition r draws weights and batches with `seed` + r. Decisions are for the most probable class;
    `penalty` holds the chosen rate. Raises ValueError if a split lacks validation rows or a row has no window.
    `each` yields what trains together again, and may count it.
    """
    rates = sorted(rates, reverse=True)
    for split in splits:
        if not len(split.validation):
            raise ValueError(f"repetition {split.repetition} has no validation rows to choose a learning rate by")
        lacking = np.setdiff1d(np.concatenate([split.train, split.validation, split.test]), probe.table.row_of)
        if len(lacking):
            raise ValueError(f"row {lacking[0]} has no window")
    shape = max(s.repetition for s in splits) + 1, max(s.fold for s in splits) + 1
    table = PredictionTable(probe.target, shape, is_softmax=True)
    for group in each(_group_splits(probe, splits)):
        heads = probe.train(group, rates=rates, epochs=epochs, seed=seed)
        for index, split in enumerate(group):
            rate = probe.select(heads, split, index)
            where, rows = (split.repetition, split.fold), (split.train, split.test)
            parts = np.sort(split.train), split.test
            train, test = (probe.average_outputs(heads, part, index, rate) for part in parts)
            scores = probe.scale(test, split)
            logits = (_find_logits(train), _find_logits(test)) if probe.target.is_class else None
            table.add(where, rows, scores, rates[rate], logits=logits, weighs_classes_alike=False)
    return table.build(probe.table.name)


def _group_splits(probe: PublishedProbe, splits: Sequence[Split]) -> list[list[Split]]:
    """Group splits that can train together: all of a size on a GPU, each alone on a CPU."""
    if probe.windows.device.type == "cpu":
        return [[split] for split in splits]
    groups: dict[int, list[Split]] = {}
    for split in splits:
        groups.setdefault(len(probe.find_windows(split.train)), []).append(split)
    return list(groups.values())


class PublishedProbe:
    """Train, select and test heads over the splits of one phenotype. Continuous targets are standardised by the
    training windows: otherwise a learning rate would depend on their unit."""

    def __init__(
        self, table: WindowTable, target: Target, *, device: str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.table, self.target = table, target
        # BatchNorm removes any shift, and a small mean keeps single precision exact.
        shift = table.values.mean(axis=0, dtype=np.float64)
        self.windows = torch.as_tensor(table.values - shift).to(device=device, dtype=dtype)
        self.shift = torch.as_tensor(shift).to(self.windows)

    def find_windows(self, rows: Indices) -> Indices:
        """Find the windows of rows: positions in the table, ascending."""
        return np.flatnonzero(np.isin(self.table.row_of, rows))

    def compute_targets(self, split: Split) -> tuple[Floats, tuple[float, float]]:
        """Compute targets (m, C), class indicators or standardised values, and the training windows' (mean, SD)."""
        labels = self.target.compute_labels(split.train)[self.table.row_of]
        if self.target.is_class:
            return (labels[:, None] == np.arange(len(self.target.class_names))).astype(np.float64), (0.0, 1.0)
        train = labels[self.find_windows(split.train)]
        unit = (float(train.mean()), float(train.std()) or 1.0)
        return ((labels - unit[0]) / unit[1])[:, None], unit

    def train(self, splits: Sequence[Split], *, rates: Sequence[float], epochs: int, seed: int) -> Heads:
        """Train heads on splits with equal numbers of training windows; repetition r draws with `seed` + r."""
        options: dict[str, Any] = {"device": self.windows.device, "dtype": self.windows.dtype}
        found = np.stack([self.find_windows(split.train) for split in splits])  # (R, windows)
        targets = torch.stack([torch.as_tensor(self.compute_targets(split)[0]) for split in splits]).to(**options)
        n_outputs, n_features = targets.shape[2], self.windows.shape[1]
        seeds = [seed + split.repetition for split in splits]
        weights = torch.stack([draw_head(n_outputs, n_features, seed=s) for s in seeds]).to(**options)
        heads = Heads(weights, rates, is_class=self.target.is_class)
        heads.mean -= self.shift  # a running mean starts at 0 of the windows as they were given
        repeats = torch.arange(len(splits), device=self.windows.device)[:, None]
        batches = [draw_batches(found.shape[1], epochs=epochs, seed=s) for s in seeds]
        for parts in zip(*batches, strict=True):
            chosen = np.stack([rows[part] for rows, part in zip(found, parts, strict=True)])
            index = torch.as_tensor(chosen, device=self.windows.device)
            batch = self.windows.index_select(0, index.flatten()).reshape(*index.shape, n_features)
            heads.step(batch, targets[repeats, index])
        return heads

    def select(self, heads: Heads, split: Split, index: int) -> int:
        """Choose the position of the best rate on validation windows, by balanced accuracy or absolute error. Rates of
        `heads` must descend, so that the largest wins a tie; `index` is the split's position in `heads`."""
        found = self.find_windows(split.validation)
        targets, _ = self.compute_targets(split)
        values = self._predict(heads, found, index)  # (B, L, C)
        if not self.target.is_class:
            return int(np.abs(values - targets[found][:, None]).mean(axis=(0, 2)).argmin())
        labels = targets[found].argmax(axis=1)
        hit = values.argmax(axis=2) == labels[:, None]
        recalls = [hit[labels == k].mean(axis=0) for k in np.unique(labels)]
        return int(np.mean(recalls, axis=0).argmax())

    def _predict(self, heads: Heads, found: Indices, index: int) -> Floats:
        windows = self.windows[torch.as_tensor(found, device=self.windows.device)]
        return np.asarray(heads.predict(windows, index).double().cpu().numpy())

    def average_outputs(self, heads: Heads, part: Indices, index: int, rate: int) -> Floats:
        """Average the outputs of the head of a rate over the windows of each row of a part: (rows, C)."""
        found = self.find_windows(part)
        outputs = self._predict(heads, found, index)[:, rate]
        rows = np.searchsorted(part, self.table.row_of[found])
        total = np.zeros((len(part), outputs.shape[1]))
        np.add.at(total, rows, outputs)
        return np.asarray(total / np.bincount(rows, minlength=len(part))[:, None])

    def scale(self, outputs: Floats, split: Split) -> Floats:
        """Turn outputs (rows, C) of heads trained on a split into class probabilities, or values in their own unit."""
        if self.target.is_class:
            return compute_probabilities(outputs, is_softmax=True)
        _, (centre, deviation) = self.compute_targets(split)
        return np.asarray(outputs * deviation + centre)


def _find_logits(outputs: Floats) -> Floats:
    """Find the decision values (n, m) behind outputs (n, C): the difference of two, else each against their mean, which
    a shift of all leaves alone."""
    if outputs.shape[1] == 2:
        return np.asarray(outputs[:, 1:] - outputs[:, :1])
    return np.asarray(outputs - outputs.mean(axis=1, keepdims=True))


def draw_batches(n_windows: int, *, epochs: int, seed: int) -> Iterator[Indices]:
    """Draw the batches of a repetition: positions (B,), an eighth of the windows each, between 2 and 256. The last
    batch of a pass is smaller; a single window is dropped, since it has no variance."""
    size = max(2, min(256, n_windows // 8))
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(n_windows)
        for start in range(0, n_windows, size):
            if n_windows - start > 1:
                yield order[start : start + size]


class Heads:
    """Heads of several repetitions and learning rates, each trained as if alone, from first weights (R, C, D). Heads
    that see the same batches share their normalisation, since BatchNorm has no parameters before its affine part. The
    loss is cross-entropy over C classes, or the absolute error of one output."""

    def __init__(self, weights: Tensor, rates: Sequence[float], *, is_class: bool) -> None:
        n_repeats, n_outputs, n_features = weights.shape
        options: dict[str, Any] = {"dtype": weights.dtype, "device": weights.device}
        self.is_class, self.n_outputs = is_class, n_outputs
        self.rates = -torch.tensor(list(rates), **options)[:, None, None]
        # Rows of weights, then gamma, then beta: one tensor, so that one call updates them all.
        self.parameters = torch.zeros(n_repeats, len(rates), n_outputs + 2, n_features, **options)
        self.parameters[:, :, :n_outputs] = weights[:, None]
        self.parameters[:, :, n_outputs] = 1
        self.biases = torch.zeros(n_repeats, len(rates), n_outputs, **options)
        self.velocity, self.bias_velocity = torch.zeros_like(self.parameters), torch.zeros_like(self.biases)
        self.gradient = torch.zeros_like(self.parameters)
        self.mean = torch.zeros(n_repeats, 1, n_features, **options)
        self.variance = torch.ones(n_repeats, 1, n_features, **options)

    def compute_outputs(self, normed: Tensor, part: slice = slice(None)) -> Tensor:
        """Apply the heads of some repetitions to normalised windows: (R, B, D) -> (R, B, L, C) logits or values."""
        weight, gamma, beta = self._split(self.parameters[part])
        folded = weight * gamma  # (R, L, C, D)
        shift = (weight @ beta.transpose(2, 3)).squeeze(3) + self.biases[part]  # (R, L, C)
        flat = torch.baddbmm(shift.flatten(1)[:, None], normed, folded.flatten(1, 2).transpose(1, 2))
        return flat.reshape(*normed.shape[:2], *shift.shape[1:])

    def _split(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.n_outputs
        return table[:, :, :c], table[:, :, c : c + 1], table[:, :, c + 1 : c + 2]

    def step(self, windows: Tensor, targets: Tensor) -> None:
        """Take one SGD step with momentum: windows (R, B, D), targets (R, B, C) as class indicators or values."""
        size = windows.shape[1]
        # Means as matrix products: reductions over rows take ten times as long on a CPU.
        average = torch.full((len(windows), 1, size), 1 / size, dtype=windows.dtype, device=windows.device)
        mean = average @ windows
        centred = windows - mean
        variance = average @ centred.square()
        normed = centred.mul_(torch.rsqrt(variance + NORM_EPS))
        self.mean.lerp_(mean, NORM_MOMENTUM)
        self.variance.lerp_(variance * (size / (size - 1)), NORM_MOMENTUM)
        outputs = self.compute_outputs(normed)
        wanted = targets[:, :, None]
        error = outputs.softmax(dim=3) - wanted if self.is_class else (outputs - wanted).sign()
        self._descend(normed, error / size)  # (R, B, L, C)

    def _descend(self, normed: Tensor, error: Tensor) -> None:
        """Update all heads: outputs x V' + W beta + b, V = W * gamma, with gradient G give dV = G' x and, exactly, W:
        dV * gamma + sum(G) beta', gamma: sum over outputs of dV * W, beta: W' sum(G), b: sum(G)."""
        weight, gamma, beta = self._split(self.parameters)
        weight_gradient, gamma_gradient, beta_gradient = self._split(self.gradient)
        folded = (error.flatten(2).transpose(1, 2) @ normed).reshape_as(weight)  # (R, L, C, D)
        total = error.sum(dim=1)  # (R, L, C)
        torch.sum(folded * weight, dim=2, keepdim=True, out=gamma_gradient)
        torch.matmul(total[:, :, None], weight, out=beta_gradient)
        torch.addcmul(folded * gamma, total[:, :, :, None], beta, out=weight_gradient)
        self.velocity.mul_(SGD_MOMENTUM).add_(self.gradient)
        self.bias_velocity.mul_(SGD_MOMENTUM).add_(total)
        self.parameters.addcmul_(self.velocity, self.rates)
        self.biases.addcmul_(self.bias_velocity, self.rates[:, :, 0])

    def predict(self, windows: Tensor, repetition: int) -> Tensor:
        """Apply the heads of one repetition, with running mean and variance: (B, D) -> (B, L, C) logits or values."""
        part = slice(repetition, repetition + 1)
        normed = (windows[None] - self.mean[part]) * torch.rsqrt(self.variance[part] + NORM_EPS)
        return self.compute_outputs(normed, part)[0]
