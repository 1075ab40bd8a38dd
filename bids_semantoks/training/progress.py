"""Progress of pretraining: rows of the training log, progress messages, and an error if training diverged."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from bids_semantoks.errors import TrainingDiverged
from bids_semantoks.runtime.logs import Pace, draw_bar
from bids_semantoks.training.batches import BatchOrder, Schedules, StepSettings
from bids_semantoks.training.distill import StepReport

LOGGER = logging.getLogger("bids_semantoks")

LOG_COLUMNS: Final = (
    *("step", "epoch", "loss", "cls", "ttr", "token", "rank", "spread", "cosine", "gradient_norm"),
    *("learning_rate", "weight_decay", "momentum", "ttr_weight", "is_masked", "participants_per_second"),
)

_MEASURED: Final = ("loss", *LOG_COLUMNS[3:10])
_LOG_ROWS: Final = 5000
_MOST_SKIPPED: Final = 50


#: Takes rows of the training log.
WriteRows = Callable[[Sequence[Mapping[str, float]]], None]


@dataclass(slots=True, kw_only=True)
class Meter:
    """Collect, check and report the results of steps."""

    schedules: Schedules
    order: BatchOrder
    is_first: bool  # whether this process writes
    flush_every: int  # steps whose reports are read together, since reading waits for the device
    describe_last: Callable[[], str]  # describes where the last good checkpoint is
    write: WriteRows
    watch: CollapseWatch
    n_skipped: int = 0
    _waiting: list[tuple[int, StepSettings, bool, Tensor]] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)
    _n_since: int = 0
    _pace: Pace = field(default_factory=Pace)
    _has_begun: bool = False

    def add(self, report: StepReport, step: int, settings: StepSettings) -> None:
        """Add the report of one step, still on the device; `step` counts the steps done before."""
        self._pace.finish((step + 1) / self.schedules.n_steps)
        self.n_skipped = 0 if report.is_done else self.n_skipped + 1
        values = torch.stack([*report.losses, report.gradient_norm])
        self._waiting.append((step, settings, report.is_done, values))
        self._n_since += 1
        if len(self._waiting) >= self.flush_every:
            self.flush()

    def flush(self) -> None:
        """Check, log and report the collected steps. Raises TrainingDiverged where a value is not finite, projections
        have collapsed or float16 overflows repeatedly."""
        if not self._waiting:
            return
        table = torch.stack([entry[-1] for entry in self._waiting]).cpu().tolist()
        now = time.monotonic()
        rate = self._n_since * self.order.batch_size / max(now - self._since, 1e-9)
        self._since, self._n_since = now, 0
        every = max(1, self.schedules.n_steps // _LOG_ROWS)
        rows, latest = [], None
        for (step, settings, is_done, _), values in zip(self._waiting, table, strict=True):
            self._check(step, values, is_done=is_done)
            if is_done:
                latest = self._build_row(step, settings, values, rate)
                if step % every == 0:
                    rows.append(latest)
        self._waiting.clear()
        if self.is_first:
            self.write(rows)
            if latest:
                self._say(latest)

    def _check(self, step: int, values: list[float], *, is_done: bool) -> None:
        last = self.describe_last
        if not is_done:
            if self.n_skipped > _MOST_SKIPPED:
                raise TrainingDiverged(
                    f"{self.n_skipped} steps in a row overflowed in float16, the last was step {step + 1}. {last()}",
                    hint="Use --precision bf16, or a lower --learning-rate.",
                )
            return
        broken = [(name, value) for name, value in zip(_MEASURED, values, strict=True) if not math.isfinite(value)]
        if broken:
            name, value = broken[0]
            raise TrainingDiverged(
                f"The {name.replace('_', ' ')} became {value} at step {step + 1}. {last()}",
                hint="Use a lower --learning-rate.",
            )
        reason = self.watch.add(step, rank=values[4], spread=values[5], cosine=values[6], loss=values[0])
        if reason:
            raise TrainingDiverged(
                f"The projections collapsed: {reason} at step {step + 1}. {last()}",
                hint="Use a lower --learning-rate, or a larger batch or coding_rate_weight.",
            )

    def _build_row(self, step: int, settings: StepSettings, values: list[float], rate: float) -> dict[str, float]:
        row = dict(zip(_MEASURED, values, strict=True))
        row |= {name: float(value) for name, value in settings._asdict().items()}
        epoch = step // self.order.steps_per_epoch
        return row | {"step": step + 1, "epoch": epoch + 1, "participants_per_second": rate}

    def _say(self, row: Mapping[str, float]) -> None:
        """Log a line at intervals, and always the first and last; in between, update the progress bar on terminals."""
        n_steps, step = self.schedules.n_steps, int(row["step"])
        is_line = step == n_steps or not self._has_begun
        extra = {"is_progress": True, "is_fleeting": False} if is_line else self._pace.choose()
        self._has_begun = True
        if extra is None:
            return
        LOGGER.info(
            "%s epoch %d/%d, step %d/%d: loss %.4f, rank %.1f, %.0f participants/s%s",
            draw_bar(step / n_steps),
            row["epoch"],
            n_steps // self.order.steps_per_epoch,
            step,
            n_steps,
            row["loss"],
            row["rank"],
            row["participants_per_second"],
            self._pace.describe_left(step / n_steps) if step < n_steps else "",
            extra=extra,
        )


class CollapseWatch:
    """Detect when all projections are one point for an epoch (at least 50 steps), from twice the warm-up on."""

    #: Spread relative to projections distributed over the whole sphere, below which they count as one point.
    LEAST_SPREAD: Final = 0.05
    #: Agreement of teacher and student above which nothing more can be learned.
    MOST_COSINE: Final = 0.995

    def __init__(self, n_columns: int, steps_per_epoch: int, schedules: Schedules) -> None:
        self.n_columns = n_columns
        self.patience = max(50, steps_per_epoch)
        self.first = 2 * int(schedules.learning_rate.argmax())
        self._n_collapsed = 0

    def add(self, step: int, *, rank: float, spread: float, cosine: float, loss: float) -> str:
        """Check one step (values as in `Losses`): describe the collapse, or return an empty string."""
        relative = spread * math.sqrt(self.n_columns)
        is_collapsed = relative < self.LEAST_SPREAD and cosine > self.MOST_COSINE
        self._n_collapsed = self._n_collapsed + 1 if is_collapsed and step >= self.first else 0
        if self._n_collapsed < self.patience:
            return ""
        return (
            f"for {self._n_collapsed} steps their spread was below {self.LEAST_SPREAD:.0%} of the maximum (now "
            f"{relative:.2%}, effective rank {rank:.2f}, cosine {cosine:.4f}, loss {loss:.4f})"
        )
