"""Describe what was removed from a run's signals, for the comparison of runs with training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bids_semantoks.outputs.credits import AROMA, find_cleaning

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
    found = {_name_kind(name) for name in regressors if not name.startswith((_GLOBAL, *_FILTERS))}
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


def _name_kind(regressor: str) -> str:
    return next((kind for starts, kind in _KINDS if regressor.startswith(starts)), _OTHER)
