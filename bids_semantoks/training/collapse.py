"""Detection of collapsed projections during training."""

from __future__ import annotations

import math
from typing import Final

from bids_semantoks.training.schedules import Schedules


class CollapseWatch:
    """Detect when all projections are one point for an epoch (at least 50 steps), from twice the warm-up on."""

    #: Spread over that of projections all over the sphere, below which they count as one point.
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
            f"for {self._n_collapsed} steps their spread was below {self.LEAST_SPREAD:.0%} of the possible (now "
            f"{relative:.2%}, effective rank {rank:.2f}, cosine {cosine:.4f}, loss {loss:.4f})"
        )
