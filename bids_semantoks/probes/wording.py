"""Scores, p values and differences in words."""

from __future__ import annotations

import math

from bids_semantoks.probes.findings import ModelResult
from bids_semantoks.probing.metrics import Score


def format_score(score: Score) -> str:
    """Write a score with its interval.

    Parameters
    ----------
    score : Score
        Of any metric.

    Returns
    -------
    str
        Such as ``0.71 [0.64, 0.77]``.
    """
    if math.isnan(score.value):
        return "n/a"
    if math.isnan(score.ci_low):
        return format_number(score.value)
    return f"{format_number(score.value)} [{format_number(score.ci_low)}, {format_number(score.ci_high)}]"


def format_number(value: float) -> str:
    """Write a number with two decimals.

    Parameters
    ----------
    value : float
        Any.

    Returns
    -------
    str
        Zero has no sign.
    """
    return f"{round(value, 2) + 0.0:.2f}"


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


def format_difference(result: ModelResult) -> str:
    """Write how much better the encoder is than a baseline.

    Parameters
    ----------
    result : ModelResult
        Of the baseline.

    Returns
    -------
    str
        With its interval; empty for none.
    """
    found = result.comparison
    if found is None or math.isnan(found.difference):
        return ""
    return f"{found.difference:+.2f} [{found.ci_low:+.2f}, {found.ci_high:+.2f}]"
