"""Fine-tuning of encoder and head for one phenotype, from a fresh copy of the encoder for each fold and learning rate.
Legend: B windows, P parcels, T volumes of a run, W volumes in a window, C outputs, n rows."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bids_semantoks.analyses.design import Design
from bids_semantoks.analyses.rows import Rows
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.models.encoder import Encoder, TunedEncoder, build_parameter_groups
from bids_semantoks.models.frozen import PRECISIONS
from bids_semantoks.pretraining.packing import standardise
from bids_semantoks.records import Bools, Floats, Indices, Labels
from bids_semantoks.signals.windows import compute_kept_share, select_signals, window_starts
from bids_semantoks.statistics.predictions import Predictions, PredictionTable, Target, compute_probabilities
from bids_semantoks.statistics.series import weigh_windows
from bids_semantoks.statistics.splits import Split, build_inner_folds
from bids_semantoks.training.batches import REFERENCE_BATCH, compute_learning_rates, compute_seed
from bids_semantoks.training.loop import choose_precision
from bids_semantoks.training.views import compute_membership, cut_views, draw_views, find_absent

LOGGER = logging.getLogger("bids_semantoks")
_TEST_BATCH = 64
_INNER_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRecipe:
    """How to fine-tune; the defaults are the published recipe."""

    rates: tuple[float, ...] = (1e-4,)  # at a batch of 256, scaled with the batch; validation rows choose among several
    epochs: int = 50  # each draws one random window of every training row
    batch_size: int = 16  # windows in a step
    weight_decay: float = 0.05  # of AdamW; none on biases, norms and LayerScale
    layer_decay: float = 0.9  # learning rate of a layer over that of the next one
    clip: float = 1.0  # largest gradient norm
    levels: tuple[int, int, int, int] = (0, 1, 1, 1)  # augmentation of parcels, time, noise and scale
    n_windows: int = 8  # equally spaced windows of a run, averaged in validation and test


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TuningRuns:
    """Signals to fine-tune on, parcels in the encoder's order."""

    # each (T, P), z-scored, at the encoder's repetition time; absent parcels are zero
    signals: tuple[NDArray[np.float32], ...]
    present: Bools  # (runs, P) parcels that have a signal
    row_of: Indices  # (runs,) row (participant or session) of each run
    # (runs,) weight of each run in its row, and of each equally spaced window in its run; None if all are weighted
    # equally
    run_weights: Floats | None = None
    window_weights: tuple[Floats, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuned:
    """One fine-tuned model, with the weights of its best epoch."""

    model: TunedEncoder
    epoch: int  # from 1
    loss: tuple[float, ...]  # of validation rows: (1 - balanced accuracy, cross-entropy), or (mean absolute error,)


def finetune(
    encoder: RunEncoder,
    design: Design,
    *,
    epochs: int,
    seed: int,
    each: Callable[[Sequence[Split]], Iterable[Split]] = iter,
) -> Predictions:
    """Fine-tune an encoder for one phenotype, afresh for every fold; `encoder` itself keeps its weights."""
    device, n_folds = encoder.frozen.device, len(design.splits)
    LOGGER.info("Fine-tuning for %s: %d folds of %d epochs on %s.", design.target.name, n_folds, epochs, device)
    tuning = Finetuning(
        encoder.loaded.encoder,
        read_tuning_runs(design.rows, encoder),
        design.target,
        FinetuneRecipe(epochs=epochs, n_windows=encoder.config.n_windows),
        pooling=encoder.frozen.pooling,
        device=device,
        precision=choose_precision(encoder.config.precision, device),
    )
    return cross_validate_finetuned(tuning, design.splits, groups=design.groups, seed=seed, each=each)


def cross_validate_finetuned(
    tuning: Finetuning,
    splits: Sequence[Split],
    *,
    groups: Labels | None = None,
    seed: int = 0,
    each: Callable[[Sequence[Split]], Iterable[Split]] = iter,
) -> Predictions:
    """Predict tested rows with encoders fine-tuned without them, on the same splits as other models.

    Where a split lacks validation rows, a fifth of its training rows validates; rows with the same entry in `groups`
    (n,) stay together. `penalty` holds the chosen learning rate; decisions weigh classes as the linear model on the
    same splits does. Raises ValueError if a row with a known target has no run. `each` yields the splits again, and
    may count them.
    """
    target = tuning.target
    lacking = [row for row in np.flatnonzero(~np.isnan(target.values)) if not len(tuning.runs_of[row])]
    if lacking:
        raise ValueError(f"row {lacking[0]} has no run")
    table = PredictionTable(target, (max(s.repetition for s in splits) + 1, max(s.fold for s in splits) + 1))
    for split in each(splits):
        own = compute_seed(seed, split.repetition, split.fold)
        inner = add_validation(split, target, groups=groups, seed=seed + split.repetition)
        # All rates use the same draws, so that they are compared on the same windows.
        rates = sorted(tuning.recipe.rates, reverse=True)
        trained = ((rate, tuning.train(inner, rate=rate, seed=own, reference=split.train)) for rate in rates)
        rate, best = min(trained, key=lambda one: one[1].loss)
        scores = finish_outputs(tuning, best, split)
        is_published = len(split.validation) > 0
        rows = (split.train, split.test)
        table.add((split.repetition, split.fold), rows, scores, rate, weighs_classes_alike=not is_published)
    return table.build("finetuned")


class Finetuning:
    """Train and test on the splits of one phenotype; the encoder is copied and never changed. Continuous targets are
    predicted in units of the training rows' mean and deviation. `pooling` names the embedding that the head reads;
    precision ``bf16`` trains in mixed precision, all others in float32."""

    def __init__(
        self,
        encoder: Encoder,
        runs: TuningRuns,
        target: Target,
        recipe: FinetuneRecipe,
        *,
        pooling: str = "cls_avg",
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.encoder, self.runs, self.target, self.recipe = encoder, runs, target, recipe
        self.pooling, self.device = pooling, torch.device(device)
        self.dtype = PRECISIONS[precision] if precision == "bf16" else None
        self.config = encoder.config
        self.membership = compute_membership(encoder.config, encoder.layout)
        self.runs_of = [np.flatnonzero(runs.row_of == row) for row in range(len(target.values))]

    def compute_targets(self, train: Indices) -> tuple[Floats, tuple[float, float]]:
        """Compute targets (n,), class indices or standardised values, and the training rows' (mean, SD)."""
        labels = self.target.compute_labels(train)
        if self.target.is_class:
            return labels, (0.0, 1.0)
        unit = float(labels[train].mean()), float(labels[train].std()) or 1.0
        return (labels - unit[0]) / unit[1], unit

    def train(self, split: Split, *, rate: float, seed: int, reference: Indices | None = None) -> Tuned:
        """Train once from the loaded encoder and return the first of the best epochs on the validation rows. `rate`
        applies to a batch of 256; `reference` rows decide bins and units, by default the training rows."""
        recipe = self.recipe
        targets, _ = self.compute_targets(split.train if reference is None else reference)
        n_outputs = len(self.target.class_names) if self.target.is_class else 1
        model = TunedEncoder(self.encoder, n_outputs, pooling=self.pooling, seed=seed).to(self.device)
        size = min(recipe.batch_size, len(split.train))
        groups = build_parameter_groups(
            model, rate=rate * size / REFERENCE_BATCH, layer_decay=recipe.layer_decay, weight_decay=recipe.weight_decay
        )
        optimiser = torch.optim.AdamW(groups)
        peaks = [group["lr"] for group in groups]
        order = [list(_cut_batches(len(split.train), size, seed, epoch)) for epoch in range(recipe.epochs)]
        schedule = iter(compute_learning_rates(sum(map(len, order)), n_warmup=0, peak=1.0))
        generator = torch.Generator().manual_seed(compute_seed(seed, 1))
        best: tuple[tuple[float, ...], int, dict[str, Tensor]] | None = None
        for epoch, batches in enumerate(order, start=1):
            model.train()
            for batch in batches:
                factor = float(next(schedule))
                for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                self._step(model, optimiser, split.train[batch], targets, generator)
            loss = self._validate(model, split.validation, targets)
            if best is None or loss < best[0]:
                # Cloned, since state_dict shares memory with the parameters that training goes on changing.
                best = loss, epoch, {key: value.detach().clone() for key, value in model.state_dict().items()}
        assert best is not None
        model.load_state_dict(best[2])
        return Tuned(model=model.eval(), epoch=best[1], loss=best[0])

    def _step(
        self,
        model: TunedEncoder,
        optimiser: torch.optim.Optimizer,
        rows: Indices,
        targets: Floats,
        generator: torch.Generator,
    ) -> None:
        x, mask = self._draw(rows, generator)
        wanted = torch.as_tensor(targets[rows])
        with self._autocast():
            outputs = model(x, mask)
        loss = self._compute_loss(outputs.float(), wanted.to(self.device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), self.recipe.clip)
        optimiser.step()

    def _compute_loss(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        if self.target.is_class:
            return F.cross_entropy(outputs, wanted.long())
        return F.l1_loss(outputs[:, 0], wanted.float())

    def _draw(self, rows: Indices, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw a run of each row and an augmented window of it; on the CPU, so that all devices see the same."""
        unit = torch.rand(len(rows), generator=generator, dtype=torch.float64).tolist()
        chosen = [self._choose_run(row, u) for row, u in zip(rows, unit, strict=True)]
        signals, lengths, present = self._read(chosen)
        views, n_real = draw_views(
            signals, lengths, present, window=self.config.window, levels=self.recipe.levels, generator=generator
        )
        return self._send(views, n_real, present)

    def _choose_run(self, row: int, unit: float) -> int:
        """Choose a run of a row by a number from 0 to 1, as often as it weighs."""
        runs, weights = self.runs_of[row], self.runs.run_weights
        if weights is None:
            return int(runs[int(unit * len(runs))])
        edges = np.cumsum(weights[runs])
        return int(runs[np.searchsorted(edges[:-1], unit * edges[-1], side="right")])

    def _read(self, runs: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Read runs, padded to the longest: (B, P, T), (B,), (B, P)."""
        parts = [torch.from_numpy(self.runs.signals[run]) for run in runs]
        lengths = torch.tensor([len(part) for part in parts])
        signals = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True).transpose(1, 2)
        return signals, lengths, torch.from_numpy(self.runs.present[list(runs)])

    def _send(self, views: Tensor, n_real: Tensor, present: Tensor) -> tuple[Tensor, Tensor | None]:
        config = self.config
        mask = find_absent(n_real, present, rows=self.membership, patch=config.patch, n_patches=config.n_patches)
        return views.to(self.device), mask.to(self.device) if bool(mask.any()) else None

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def _validate(self, model: TunedEncoder, rows: Indices, targets: Floats) -> tuple[float, ...]:
        outputs, wanted = self.predict(model, rows), targets[rows]
        loss = float(self._compute_loss(torch.as_tensor(outputs), torch.as_tensor(wanted)))
        if not self.target.is_class:
            return (loss,)
        hit = outputs.argmax(axis=1) == wanted
        recalls = [hit[wanted == k].mean() for k in np.unique(wanted)]
        # Few rows give many epochs of the same accuracy, among which the loss decides.
        return 1.0 - float(np.mean(recalls)), loss

    def predict(self, model: TunedEncoder, rows: Indices) -> Floats:
        """Average logits or values over equally spaced windows of all runs of each row, as these weigh: rows (m,) ->
        (m, C)."""
        model.eval()
        picks = [(i, *window) for i, row in enumerate(rows) for window in self._iterate_windows(row)]
        outputs = []
        with torch.inference_mode(), self._autocast():
            for first in range(0, len(picks), _TEST_BATCH):
                part = picks[first : first + _TEST_BATCH]
                signals, lengths, present = self._read([run for _, run, _, _ in part])
                starts = torch.tensor([start for _, _, start, _ in part])
                views = cut_views(signals, lengths, present, starts, window=self.config.window)
                x, mask = self._send(views, lengths.clamp(max=self.config.window), present)
                outputs.append(model(x, mask).float().cpu())
        values = torch.cat(outputs).double().numpy()
        position, weights = np.array([i for i, *_ in picks]), np.array([weight for *_, weight in picks])
        own = [position == i for i in range(len(rows))]
        return np.stack([np.average(values[one], axis=0, weights=weights[one]) for one in own])

    def _iterate_windows(self, row: int) -> Iterator[tuple[int, int, float]]:
        """Yield run, start and weight of the windows of a row that count."""
        runs = self.runs
        for run in self.runs_of[row]:
            starts = window_starts(len(runs.signals[run]), self.config.window, self.recipe.n_windows)
            weights = np.ones(len(starts)) if runs.window_weights is None else runs.window_weights[run]
            scale = 1.0 if runs.run_weights is None else float(runs.run_weights[run])
            for start, weight in zip(starts.tolist(), weights.tolist(), strict=True):
                if weight:
                    yield int(run), start, scale * weight


def _cut_batches(n_rows: int, size: int, seed: int, epoch: int) -> Iterator[Indices]:
    order = np.random.default_rng(compute_seed(seed, 0, epoch)).permutation(n_rows)
    for start in range(0, n_rows, size):
        # One window has no variance for BatchNorm to divide by.
        if n_rows - start > 1:
            yield order[start : start + size]


def add_validation(split: Split, target: Target, *, groups: Labels | None, seed: int) -> Split:
    """Set aside a fifth of the training rows, stratified and by group, for validation if the split has none."""
    if len(split.validation):
        return split
    # Strata of the training rows alone: quantiles over all rows would let tested ones choose who validates.
    own = dataclasses.replace(target, values=target.values[split.train])
    fold_of = build_inner_folds(
        np.arange(len(split.train)),
        strata=own.compute_strata(n_folds=_INNER_FOLDS),
        groups=None if groups is None else groups[split.train],
        n_folds=_INNER_FOLDS,
        seed=seed,
    )
    return dataclasses.replace(split, train=split.train[fold_of != 0], validation=split.train[fold_of == 0])


def finish_outputs(tuning: Finetuning, tuned: Tuned, split: Split) -> Floats:
    """Turn the outputs of tested rows into class probabilities, or into values in their own units: (n_test, C)."""
    outputs = tuning.predict(tuned.model, split.test)
    if tuning.target.is_class:
        return compute_probabilities(outputs, is_softmax=True)
    _, (centre, deviation) = tuning.compute_targets(split.train)
    return np.asarray(outputs * deviation + centre)


def read_tuning_runs(rows: Rows, encoder: RunEncoder) -> TuningRuns:
    """Read the signals of all rows at the encoder's repetition time, parcels in its order, with what runs and windows
    weigh in `rows`."""
    order, config = encoder.frozen.match.order, encoder.loaded.config
    signals: list[NDArray[np.float32]] = []
    present, row_of, window_weights = [], [], []
    for row, runs in enumerate(rows.runs):
        for run in runs:
            table = run.read_signals()
            times = {"repetition_time": run.repetition_time, "target": config.repetition_time}
            values, is_present = standardise(table, n_dummy=run.n_dummy, **times)
            has_signal = (order >= 0) & is_present[order]
            signals.append(np.where(has_signal, values[:, order], np.float32(0)))
            present.append(has_signal)
            row_of.append(row)
            if rows.min_kept is not None:
                starts = window_starts(len(values), config.window, encoder.config.n_windows)
                onsets, kept = starts.astype(np.float64) * config.repetition_time, select_signals(table, run.n_dummy)[2]
                duration = config.window * config.repetition_time
                shares = compute_kept_share(kept, run.repetition_time, onsets, duration)
                window_weights.append(weigh_windows(shares, rows.min_kept))
    is_weighted = rows.min_kept is not None
    return TuningRuns(
        signals=tuple(signals),
        present=np.stack(present),
        row_of=np.array(row_of),
        run_weights=np.concatenate(rows.weights) if is_weighted else None,
        window_weights=tuple(window_weights) if is_weighted else None,
    )
