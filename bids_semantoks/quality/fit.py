"""How well a run fits the encoder's training data: a traffic light with a reason for each property."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.outputs.credits import AROMA, FIX, find_cleaning

NOT_KNOWN: Final = "not known"
KEPT, REGRESSED = "kept", "regressed out"
NOTHING: Final = "nothing"
UNSCRUBBED: Final = "none"
ELSEWHERE: Final = "by the pipeline before"
#: Beginnings of the names of regressors and what these remove; cosines belong to the filter, and the global signal is
#: handled separately.
_KINDS: Final = (
    (("trans_", "rot_"), "motion"),
    (("csf", "white_matter", "wm_"), "white matter and CSF"),
    (("a_comp_cor", "w_comp_cor", "c_comp_cor", "t_comp_cor"), "CompCor"),
    (("aroma_",), AROMA),
)
_GLOBAL: Final = "global_signal"
_FILTERS: Final = ("cosine",)
_OTHER: Final = "other regressors"


def describe_noise(signals: Mapping[str, Any]) -> str:
    """Name the kinds of noise that were removed from a run, by the sidecar of its signals."""
    regressors = _find_regressors(signals)
    if regressors is None:
        return _find_cleaning(signals) or NOT_KNOWN
    others = [name for name in regressors if not name.startswith((_GLOBAL, *_FILTERS))]
    found = {next((kind for starts, kind in _KINDS if name.startswith(starts)), _OTHER) for name in others}
    return ", ".join(kind for kind in (*(kind for _, kind in _KINDS), _OTHER) if kind in found) or NOTHING


def describe_global_signal(signals: Mapping[str, Any]) -> str:
    """Return whether the global signal was regressed out, by the sidecar of the signals."""
    regressors = _find_regressors(signals)
    if regressors is None:
        return KEPT if _find_cleaning(signals) else NOT_KNOWN
    return REGRESSED if any(name.startswith(_GLOBAL) for name in regressors) else KEPT


def describe_scrubbing(signals: Mapping[str, Any]) -> str:
    """Name the rule by which volumes with motion were dropped, by the sidecar of the signals."""
    scrubbed = signals["VolumesDropped"]["Scrubbed"]
    if limit := scrubbed.get("FramewiseDisplacementAboveMillimetres"):
        measure = "filtered framewise" if scrubbed.get("FramewiseDisplacement") == "filtered" else "framewise"
        return f"{measure} displacement above {limit:g} mm"
    if _find_regressors(signals) is not None or _find_cleaning(signals):
        return UNSCRUBBED
    return ELSEWHERE if scrubbed["Count"] else NOT_KNOWN


def compute_scrubbed_share(signals: Mapping[str, Any]) -> float:
    """Compute the share (0 to 1) of the volumes after dummies and before padding that were dropped."""
    dropped = signals["VolumesDropped"]
    n_scrubbed = int(dropped["Scrubbed"]["Count"])
    return n_scrubbed / max(n_scrubbed + int(signals["VolumesKept"]), 1)


def describe_cleaning(sidecars: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Describe how training data were cleaned, for the limits of their encoder: each way that occurs. Without
    `sidecars`, for data of which nothing is known, each is `NOT_KNOWN`."""
    ways = {"noise_removed": describe_noise, "global_signal": describe_global_signal, "scrubbing": describe_scrubbing}
    found: dict[str, Any] = {key: sorted({way(one) for one in sidecars}) or [NOT_KNOWN] for key, way in ways.items()}
    if sidecars:
        share = max(compute_scrubbed_share(one) for one in sidecars)
        found["largest_share_of_scrubbed_volumes"] = round(share, 4)
    return found


def _find_regressors(signals: Mapping[str, Any]) -> list[str] | None:
    """Find the names of regressors; None if another pipeline cleaned the signals."""
    denoising = signals.get("Denoising") or {}
    if not signals["Settings"].get("denoising") or "DenoisedBy" in denoising:
        return None
    return [str(name) for name in denoising.get("Regressors", [])]


def _find_cleaning(signals: Mapping[str, Any]) -> str:
    """Find how another pipeline cleaned the signals; empty if this is not known."""
    return find_cleaning([str(signals.get(key) or "") for key in ("Pipeline", "RecognizedAs")])


GREEN, AMBER, RED = "green", "amber", "red"
_MIN_SECONDS: Final = 100.0
_MIN_COVERAGE: Final = 0.8
_USUAL_COVERAGE: Final = 0.9
#: With a tenth of the volumes dropped, the others correlate above .97 with the whole scan (docs/reference/methods.md).
_SCRUBBED_SLACK: Final = 0.1
#: Properties whose limits are the same for all encoders.
_JUDGED_BY_US: Final = ("coverage", "networks")
OURS: Final = "convention of bids_semantoks"
#: Training data of the published encoder (0.735 s, six minutes, 0.01-0.1 Hz) and its evaluation (up to 3 s). UK Biobank
#: cleans by ICA-FIX; the paper names neither regressors nor scrubbing.
PUBLISHED_LIMITS: Final[Mapping[str, Any]] = {
    "repetition_time_of_the_sources_in_s": [0.735, 3.0],
    "length_of_the_runs_in_s": [200.0, 360.0],
    "band": [0.01, 0.1],
    "noise_removed": [FIX],
    "global_signal": [KEPT],
    "scrubbing": [UNSCRUBBED],
    "largest_share_of_scrubbed_volumes": 0.0,
}


class FitItem(NamedTuple):
    """One judged property of a run."""

    name: str
    value: str
    level: str  # green, amber or red
    words: str  # reason for the level
    source: str = ""  # where the limits come from


def judge_fit(signals: Mapping[str, Any], embedding: Mapping[str, Any], coverage: NDArray[np.float64]) -> list[FitItem]:
    """Judge repetition time, length, band, cleaning, coverage and networks of a run by its sidecars. `coverage` (P,) is
    the share of each parcel that has data, NaN if unknown. Limits come from the encoder's own training, else from
    `PUBLISHED_LIMITS`; an encoder trained by an earlier version does not say how its data were cleaned."""
    own = embedding.get("Model", {}).get("Limits") or {}
    limits = {**PUBLISHED_LIMITS, **own}
    source = "this encoder was trained on" if own else "of the published encoder's data"
    kept = signals["VolumesKept"] * signals["RepetitionTime"]
    data = f"{'this' if own else 'the published'} encoder's training data"
    cleaning = own or PUBLISHED_LIMITS
    items = [
        _judge_repetition_time(signals["RepetitionTime"], limits, source),
        _judge_length(kept, limits, source),
        _judge_band(signals, limits, source),
        _compare("regressors", describe_noise(signals), cleaning.get("noise_removed"), data),
        _compare("global signal", describe_global_signal(signals), cleaning.get("global_signal"), data),
        _judge_scrubbing(signals, cleaning, data),
        _judge_coverage(coverage, limits),
        _judge_networks(embedding.get("MaskedNetworks", [])),
    ]
    origin = "training data of this encoder" if own else "data of the published encoder"
    return [item._replace(source=OURS if item.name in _JUDGED_BY_US else origin) for item in items]


def find_worst(items: list[FitItem]) -> str:
    """Return the worst level among at least one item."""
    return max((item.level for item in items), key=(GREEN, AMBER, RED).index)


def _judge_repetition_time(value: float, limits: Mapping[str, Any], source: str) -> FitItem:
    low, high = limits["repetition_time_of_the_sources_in_s"]
    inside = low - 1e-6 <= value <= high + 1e-6
    words = f"{'within' if inside else 'outside'} {_range(low, high, 's')} {source}"
    return FitItem("repetition time", f"{value:g} s", GREEN if inside else AMBER, words)


def _judge_length(kept: float, limits: Mapping[str, Any], source: str) -> FitItem:
    low, high = limits["length_of_the_runs_in_s"]
    if kept < _MIN_SECONDS:
        level, words = RED, f"below {_MIN_SECONDS:.0f} s: half a window or more is padding"
    elif kept < low:
        level, words = AMBER, f"shorter than the {low:.0f} s {source}"
    else:  # a longer run only gives more windows to average
        level, words = GREEN, f"not shorter than {low:.0f} s; {high:.0f} s is usual"
    return FitItem("length", f"{kept:.0f} s kept", level, words)


def _judge_band(signals: Mapping[str, Any], limits: Mapping[str, Any], source: str) -> FitItem:
    if not signals["Settings"].get("denoising"):
        return FitItem("band", "as found", AMBER, "unknown: filtered elsewhere, if at all")
    band, wanted = signals["Settings"].get("band_pass"), limits["band"]
    shown = _range(band[0], band[1], "Hz") if band else "no filter"
    if isinstance(wanted, list):
        is_same = band is not None and np.allclose(band, wanted)
        words = f"{'the same as' if is_same else 'differs from'} {_range(wanted[0], wanted[1], 'Hz')} {source}"
    else:
        is_same = shown == wanted
        words = f"the same as {source}" if is_same else f"band {source}: {wanted}"
    return FitItem("band", shown, GREEN if is_same else AMBER, words)


def _compare(name: str, found: str, trained: list[str] | None, data: str) -> FitItem:
    known = [way for way in trained or [] if way != NOT_KNOWN]
    if found == NOT_KNOWN:
        level, words = AMBER, "unknown: denoised elsewhere"
    elif found in known:
        level, words = GREEN, f"the same as {data}"
    elif not known:
        level, words = AMBER, f"denoising of {data} is unknown"
    else:
        level, words = AMBER, f"{data}: {' or '.join(known)}"
    return FitItem(name, found, level, words)


def _judge_scrubbing(signals: Mapping[str, Any], limits: Mapping[str, Any], data: str) -> FitItem:
    """Compare rules of scrubbing; where training data had none, or others, the share of dropped volumes decides."""
    rule, share = describe_scrubbing(signals), compute_scrubbed_share(signals)
    value = f"{rule}, {share:.0%} of volumes" if share else rule
    item = _compare("scrubbing", rule, limits.get("scrubbing"), data)
    if "largest_share_of_scrubbed_volumes" not in limits:
        return item._replace(value=value, level=AMBER)
    most = float(limits["largest_share_of_scrubbed_volumes"])
    if share > most + _SCRUBBED_SLACK:
        words = f"at most {most:.0%} of a run was scrubbed in {data}; interpolated gaps are smoother than real signals"
        return FitItem("scrubbing", value, AMBER, words)
    if rule in (UNSCRUBBED, NOT_KNOWN) or item.level == GREEN:
        return item._replace(value=value)
    words = f"{data}: {' or '.join(limits['scrubbing'])}; few volumes are interpolated"
    return FitItem("scrubbing", value, GREEN, words)


def _judge_coverage(coverage: NDArray[np.float64], limits: Mapping[str, Any]) -> FitItem:
    if np.isnan(coverage).all():
        return FitItem("coverage", "not known", AMBER, "there is no coverage table for these series")
    mean = float(np.nanmean(coverage))
    usual = max(_MIN_COVERAGE, float(limits.get("smallest_share_of_parcels_with_signal", _USUAL_COVERAGE)))
    level = GREEN if mean >= usual else AMBER if mean >= _MIN_COVERAGE else RED
    words = {
        GREEN: f"at least {usual:.2f} of the atlas has data",
        AMBER: f"below {usual:.2f}: parts of the atlas are outside the data or the brain mask",
        RED: f"below {_MIN_COVERAGE:.1f}: much of the atlas is outside the data or the brain mask",
    }[level]
    return FitItem("coverage", f"{mean:.2f} on average", level, words)


def _judge_networks(masked: list[str]) -> FitItem:
    if not masked:
        return FitItem("networks", "all present", GREEN, "every network has signal")
    words = "these networks have no signal; the encoder predicts their tokens"
    return FitItem("networks", f"absent: {', '.join(masked)}", RED, words)


def _range(low: float, high: float, unit: str) -> str:
    if low == high:
        return f"{low:g} {unit}"
    if not low or not high:
        return f"{'up to' if not low else 'from'} {high or low:g} {unit}"
    return f"{low:g} to {high:g} {unit}"
