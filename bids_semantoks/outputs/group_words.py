"""Words of the group for tables, page and methods: models, metrics, scores, p values, verdicts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from bids_semantoks.statistics.significance import PermutationTest

#: Display names of models and metrics.
MODEL_NAMES: Final = {
    "pearson": "Pearson connectivity",
    "ledoit_wolf": "Ledoit-Wolf connectivity",
    "tangent": "tangent connectivity",
    "parcel_moments": "means and variances",
    "site": "site only",
    "motion": "motion and scan length",
    "covariates": "covariates only",
    "random": "random weights",
    "finetuned": "fine-tuned encoder",
    "chance": "chance",
}

METRIC_NAMES: Final = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier_score": "Brier score",
    "macro_f1": "macro F1",
    "calibration_error": "calibration error",
    "r": "r",
    "r2": "R²",
    "mae": "mean absolute error",
    "r_pooled": "pooled r",
    "calibration_slope": "calibration slope",
}

CONFOUNDER_SHARE: Final = "confounder_share"  # metric of a row of group_strata.tsv that tests a confounder

#: Display names of the statistics of permutation tests.
STATISTIC_NAMES: Final = {
    "ridge_auroc_fixed_split": "ridge AUROC",
    "ridge_r_fixed_split": "ridge r",
    "ridge_r_first_repetition": "ridge r",
}


def name_added(base: str, encoder: str) -> str:
    """Name a baseline together with an encoder, as in the tables: ``pearson + RandomTiny``."""
    return f"{base} + {encoder}"


def name_prepared(model: str, preparation: str) -> str:
    """Name a model of a further preparation, as in the tables: ``RandomTiny@noGSR``."""
    return f"{model}@{preparation}"


def split_prepared(name: str) -> tuple[str, str]:
    """Split the name of a model into that of the main preparation and the preparation, empty for the main one."""
    model, _, preparation = name.partition("@")
    return model, preparation


def show_model(name: str) -> str:
    """Name a model as readers know it, with its preparation: ``Pearson connectivity (noGSR)``."""
    model, preparation = split_prepared(name)
    return f"{MODEL_NAMES.get(model, model)}{f' ({preparation})' if preparation else ''}"


def describe_test(test: PermutationTest) -> str:
    """Describe a permutation test by its statistic, value and p, and its smallest possible p."""
    return format_test(test.name, test.value, test.p_value, test.smallest)


def format_test(statistic: str, value: float, p_value: float, smallest: float) -> str:
    """Format a permutation test: ``permutation test: ridge AUROC 0.56, p = 0.048, smallest possible 0.005``."""
    return (
        f"permutation test: {STATISTIC_NAMES[statistic]} {format_number(value)}, {describe_p(p_value)}, smallest "
        f"possible {smallest:.2g}"
    )


def describe_row_test(row: Any) -> str:
    """Describe the permutation test of a row of scores; empty if there was none."""
    if math.isnan(row.p_value):
        return ""
    return format_test(row.p_statistic, row.p_statistic_value, row.p_value, row.p_smallest)


def describe_verdict(row: Any) -> str:
    """Describe the verdict of a row of scores in words; an undetected effect remains possible within the interval."""
    if row.verdict == "not detected":
        low, high = format_number(row.ci_low), format_number(row.ci_high)
        return f"not detected; {METRIC_NAMES[row.metric]} between {low} and {high} cannot be excluded"
    is_above = row.bound > row.chance
    bound = f"the one-sided 95 % bound, {format_number(row.bound)}, {'is' if is_above else 'is not'} above chance"
    if row.verdict == "above chance":
        return "above chance" if row.ci_low > row.chance else f"above chance ({bound})"
    if row.verdict != "inconclusive":
        return str(row.verdict)
    if math.isnan(row.p_value):
        return f"inconclusive: {bound}, but no permutation test was run"
    return f"inconclusive: {bound}, but the permutation test has {describe_p(row.p_value)}"


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


def format_share(value: float, low: float = math.nan, high: float = math.nan) -> str:
    """Format a share in per cent with its interval, ``92 % [85, 97]``; two digits below ten per cent."""
    cells = [f"{100 * one:.0f}" if one >= 0.1 else f"{100 * one:.2g}" for one in (value, low, high)]
    return f"{cells[0]} %" if math.isnan(low) else f"{cells[0]} % [{cells[1]}, {cells[2]}]"


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
