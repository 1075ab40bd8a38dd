"""``group_task_blocks.tsv``: how well types of blocks are told apart."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

NAME: Final = "group_task_blocks"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockRow:
    """One model in one design; the columns are explained in `MEANINGS`."""

    column: str  # of events.tsv
    design: str  # across or within participants
    model: str
    position: str  # of the block in the encoder's window: first, last or empty
    metric: str
    value: float
    ci_low: float
    ci_high: float
    p_value: float
    chance: float
    difference: float  # encoder (block first) less this model, paired by participant; NaN for the encoder itself
    difference_low: float
    difference_high: float
    difference_p: float
    n_participants: int
    n_blocks: int
    n_classes: int
    folds: str


MEANINGS: Final[dict[str, Any]] = {
    "column": {"Description": "Column of events.tsv whose values were told apart."},
    "design": {
        "Description": "Whom a model was trained on.",
        "Levels": {"across": "other participants", "within": "other blocks of the same participant"},
    },
    "model": {"Description": "The encoder, or a baseline on the same blocks and folds."},
    "position": {
        "Description": "Patch of the window that holds the block, all others being masked.",
        "Levels": {"first": "the first", "last": "the last"},
    },
    "metric": {"Description": "How predictions are scored, out of fold."},
    "value": {"Description": "Mean over participants of their balanced accuracy."},
    "ci_low": {
        "Description": "Lower end of its 95 % interval (Student's t over participants; across participants widened "
        "because folds share their training rows; exact where all blocks of all are right, or wrong)."
    },
    "ci_high": {"Description": "Upper end of the 95 % interval."},
    "p_value": {
        "Description": "Two-sided test of the mean against chance, as the interval; a sign test where all score alike."
    },
    "chance": {"Description": "One over the number of classes."},
    "difference": {"Description": "The encoder, block first, less this model, mean over participants."},
    "difference_low": {"Description": "Lower end of its 95 % interval."},
    "difference_high": {"Description": "Upper end of its 95 % interval."},
    "difference_p": {"Description": "Two-sided p value of the difference, paired by participant."},
    "n_participants": {"Description": "Participants tested."},
    "n_blocks": {"Description": "Blocks tested."},
    "n_classes": {"Description": "Types of blocks."},
    "folds": {"Description": "What a fold leaves out."},
}
