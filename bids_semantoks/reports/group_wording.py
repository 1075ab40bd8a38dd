"""Scores, p values and differences as text."""

from __future__ import annotations

import math
from typing import Any, Final

#: Models and metrics in words that readers know.
MODEL_NAMES: Final = {
    "pearson": "Pearson connectivity",
    "ledoit_wolf": "Ledoit-Wolf connectivity",
    "tangent": "tangent connectivity",
    "parcel_moments": "means and variances",
    "motion": "motion, scan length",
    "covariates": "covariates only",
    "random": "random weights",
    "finetuned": "fine-tuned encoder",
    "chance": "chance",
}


METRIC_NAMES: Final = {
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "calibration_error": "calibration error",
    "r": "r",
    "r2": "R²",
    "mae": "mean absolute error",
    "r_pooled": "pooled r",
    "calibration_slope": "calibration slope",
}


def format_number(value: float) -> str:
    """Format with two decimals, never -0.00; ``n/a`` for NaN."""
    return "n/a" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def format_interval(value: float, low: float, high: float) -> str:
    """Format a number with its interval, ``0.71 [0.64, 0.77]``; without the interval if its ends are NaN."""
    if math.isnan(value):
        return "n/a"
    if math.isnan(low):
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def format_score(row: Any) -> str:
    """Format a score with its interval, ``0.71 [0.64, 0.77]``."""
    return format_interval(row.value, row.ci_low, row.ci_high)


def format_p(value: float) -> str:
    """Format a p value with three decimals or ``<0.001``; empty for NaN."""
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def describe_p(value: float) -> str:
    """Format a known p value for a sentence: ``p = 0.012`` or ``p < 0.001``."""
    return "p < 0.001" if value < 0.001 else f"p = {format_p(value)}"


def format_difference(row: Any) -> str:
    """Format the encoder's score minus this baseline's, with its interval; empty for NaN."""
    if math.isnan(row.difference):
        return ""
    return f"{row.difference:+.2f} [{row.difference_low:+.2f}, {row.difference_high:+.2f}]"
