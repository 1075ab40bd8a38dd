"""``group_task_blocks.tsv``: how well types of blocks are told apart."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

NAME: Final = "group_task_blocks"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BlockRow:
    """One model in one design.

    Parameters
    ----------
    column : str
        Of events.tsv.
    design : str
        ``across`` or ``within`` participants.
    model, position : str
        What told blocks apart; where in the window its encoder saw the block (``first``, ``last``, or empty).
    metric : str
        ``balanced_accuracy``.
    value, ci_low, ci_high, p_value, chance : float
        Mean over participants, its 95 % interval, test against chance.
    difference, difference_low, difference_high, difference_p : float
        The encoder (block first) less this, in the same participants; NaN for itself.
    n_participants, n_blocks, n_classes : int
        What was tested.
    folds : str
        What a fold leaves out.
    """

    column: str
    design: str
    model: str
    position: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    p_value: float
    chance: float
    difference: float
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
