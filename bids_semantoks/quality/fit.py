"""How well a run fits the encoder's training data: a traffic light with a reason for each property."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

GREEN, AMBER, RED = "green", "amber", "red"
_MIN_SECONDS: Final = 100.0
_MIN_COVERAGE: Final = 0.8
_USUAL_COVERAGE: Final = 0.9

_OURS: Final = "convention of this program"

#: Training data of the published encoder (0.735 s, six minutes, 0.01-0.1 Hz) and its evaluation (up to 3 s).
PUBLISHED_LIMITS: Final[Mapping[str, Any]] = {
    "repetition_time_of_the_sources_in_s": [0.735, 3.0],
    "length_of_the_runs_in_s": [200.0, 360.0],
    "band": [0.01, 0.1],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FitItem:
    """One judged property of a run."""

    name: str
    value: str
    level: str  # green, amber or red
    words: str  # reason for the level
    source: str  # where the limits come from


def judge_fit(signals: Mapping[str, Any], embedding: Mapping[str, Any], coverage: NDArray[np.float64]) -> list[FitItem]:
    """Judge repetition time, length, band, coverage and networks of a run by its sidecars.

    `coverage` (P,) is the share of each parcel that has data, NaN if unknown. Limits come from the encoder's
    own training, else from `PUBLISHED_LIMITS`.
    """
    own = embedding.get("Model", {}).get("Limits") or {}
    limits = {**PUBLISHED_LIMITS, **own}
    source = "this encoder was trained on" if own else "of the published encoder's data"
    kept = signals["VolumesKept"] * signals["RepetitionTime"]
    origin = "training data of this encoder" if own else "data of the published encoder"
    return [
        _judge_repetition_time(signals["RepetitionTime"], limits, source, origin),
        _judge_length(kept, limits, source, origin),
        _judge_band(signals, limits, source, origin),
        _judge_coverage(coverage, limits),
        _judge_networks(embedding.get("MaskedNetworks", [])),
    ]


def find_worst(items: list[FitItem]) -> str:
    """Return the worst level among at least one item."""
    return max((item.level for item in items), key=(GREEN, AMBER, RED).index)


def _judge_repetition_time(value: float, limits: Mapping[str, Any], source: str, origin: str) -> FitItem:
    low, high = limits["repetition_time_of_the_sources_in_s"]
    inside = low - 1e-6 <= value <= high + 1e-6
    words = f"{'within' if inside else 'outside'} {_range(low, high, 's')} {source}"
    return FitItem(
        name="repetition time", value=f"{value:g} s", level=GREEN if inside else AMBER, words=words, source=origin
    )


def _judge_length(kept: float, limits: Mapping[str, Any], source: str, origin: str) -> FitItem:
    low, high = limits["length_of_the_runs_in_s"]
    shown = f"{kept:.0f} s kept"
    if kept < _MIN_SECONDS:
        words = f"under {_MIN_SECONDS:.0f} s: half a window or more is padding"
        return FitItem(
            name="length", value=shown, level=RED, words=words, source="the window of the published encoder, 200 s"
        )
    if kept < low:
        words = f"shorter than the {low:.0f} s {source}"
        return FitItem(name="length", value=shown, level=AMBER, words=words, source=origin)
    # A longer run only gives more windows to average.
    return FitItem(
        name="length",
        value=shown,
        level=GREEN,
        words=f"not shorter than {low:.0f} s; {high:.0f} s is usual",
        source=origin,
    )


def _judge_band(signals: Mapping[str, Any], limits: Mapping[str, Any], source: str, origin: str) -> FitItem:
    if not signals["Settings"].get("denoising"):
        return FitItem(
            name="band",
            value="as found",
            level=AMBER,
            words="filtered elsewhere, if at all: not known here",
            source=origin,
        )
    band, wanted = signals["Settings"].get("band_pass"), limits["band"]
    shown = _range(band[0], band[1], "Hz") if band else "no filter"
    if not isinstance(wanted, list):
        if shown == wanted:
            return FitItem(name="band", value=shown, level=GREEN, words=f"the same as {source}", source=origin)
        return FitItem(name="band", value=shown, level=AMBER, words=f"band {source}: {wanted}", source=origin)
    inside = band is not None and np.allclose(band, wanted)
    words = f"{'the same as' if inside else 'differs from'} {_range(wanted[0], wanted[1], 'Hz')} {source}"
    return FitItem(name="band", value=shown, level=GREEN if inside else AMBER, words=words, source=origin)


def _judge_coverage(coverage: NDArray[np.float64], limits: Mapping[str, Any]) -> FitItem:
    if np.isnan(coverage).all():
        return FitItem(
            name="coverage",
            value="not known",
            level=AMBER,
            words="the series came without a coverage table",
            source=_OURS,
        )
    mean = float(np.nanmean(coverage))
    usual = max(_MIN_COVERAGE, float(limits.get("smallest_share_of_parcels_with_signal", _USUAL_COVERAGE)))
    level = GREEN if mean >= usual else AMBER if mean >= _MIN_COVERAGE else RED
    words = {
        GREEN: f"at least {usual:.2f} of the atlas has data",
        AMBER: f"under {usual:.2f}: parts of the atlas lie outside the data or the brain mask",
        RED: f"under {_MIN_COVERAGE:.1f}: much of the atlas lies outside the data or the brain mask",
    }[level]
    return FitItem(name="coverage", value=f"{mean:.2f} on average", level=level, words=words, source=_OURS)


def _judge_networks(masked: list[str]) -> FitItem:
    if not masked:
        return FitItem(
            name="networks", value="all present", level=GREEN, words="every network has signal", source=_OURS
        )
    words = "these networks have no signal; their tokens are the encoder's guess"
    return FitItem(name="networks", value=f"absent: {', '.join(masked)}", level=RED, words=words, source=_OURS)


def _range(low: float, high: float, unit: str) -> str:
    if low == high:
        return f"{low:g} {unit}"
    if not low or not high:
        return f"{'up to' if not low else 'from'} {high or low:g} {unit}"
    return f"{low:g} to {high:g} {unit}"
