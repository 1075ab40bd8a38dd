"""Scores, p values and differences in words."""

from __future__ import annotations

import math
from typing import Final

from bids_semantoks.outputs.probes import ScoreRow

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


def name_main_metric(kind: str) -> str:
    """Name the metric that models are ordered and compared by.

    Parameters
    ----------
    kind : str
        ``classification`` or ``regression``.

    Returns
    -------
    str
        ``auroc`` or ``r``.
    """
    return "auroc" if kind == "classification" else "r"


def format_number(value: float) -> str:
    """Write a number with two decimals.

    Parameters
    ----------
    value : float
        Any.

    Returns
    -------
    str
        Zero has no sign; n/a where unknown.
    """
    return "n/a" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def format_interval(value: float, low: float, high: float) -> str:
    """Write a number with its interval.

    Parameters
    ----------
    value, low, high : float
        Not-a-number where unknown.

    Returns
    -------
    str
        Such as ``0.71 [0.64, 0.77]``.
    """
    if math.isnan(value):
        return "n/a"
    if math.isnan(low):
        return format_number(value)
    return f"{format_number(value)} [{format_number(low)}, {format_number(high)}]"


def format_score(row: ScoreRow) -> str:
    """Write a score with its interval.

    Parameters
    ----------
    row : ScoreRow
        Of any metric.

    Returns
    -------
    str
        Such as ``0.71 [0.64, 0.77]``.
    """
    return format_interval(row.value, row.ci_low, row.ci_high)


def format_p(value: float) -> str:
    """Write a p value.

    Parameters
    ----------
    value : float
        Not-a-number for none.

    Returns
    -------
    str
        Empty for none.
    """
    return "" if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def describe_p(value: float) -> str:
    """Write a p value for a sentence.

    Parameters
    ----------
    value : float
        Known.

    Returns
    -------
    str
        Such as ``p = 0.012`` or ``p < 0.001``.
    """
    return "p < 0.001" if value < 0.001 else f"p = {format_p(value)}"


def format_difference(row: ScoreRow) -> str:
    """Write how much better the encoder is than a baseline.

    Parameters
    ----------
    row : ScoreRow
        Of the baseline.

    Returns
    -------
    str
        With its interval; empty for none.
    """
    if math.isnan(row.difference):
        return ""
    return f"{row.difference:+.2f} [{row.difference_low:+.2f}, {row.difference_high:+.2f}]"
