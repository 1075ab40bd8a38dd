"""Count the participants and runs that are used and excluded, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.outputs.store import OutputPaths, read_statuses

#: Reasons of runs that were skipped or failed, as a text names them; others are shown as they are.
_REASONS: Final = {
    "too_short": "shorter than required",
    "too_few_kept": "with too little data left",
    "no_content": "without files on disk",
    "no_mask": "without a brain mask",
    "no_confounds": "without confounds",
    "no_repetition_time": "without a usable repetition time",
    "bad_confounds": "with unusable confounds",
    "bad_image": "with unusable images",
    "space_mismatch": "not in the space of the atlas",
    "excluded": "excluded by quality control",
    "other_preparation": "without signals in another preparation",
    "low_coverage": "with low coverage of the atlas",
    "out_of_memory": "out of memory",
    "disk_full": "out of disk space",
    "internal": "due to internal errors",
}


def count_cohort(
    out_dir: Path,
    used: Collection[str],
    *,
    is_wanted: Callable[[str], bool],
    left_out: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Any]:
    """Count participants and runs that are used and that are not, by the statuses of all calls.

    `used` are stems of runs, `left_out` gives reason and message by stem where this call decides, and `is_wanted` tells
    by its stem whether a run would have been used if it could. Returns ``participants``, ``runs``,
    ``participants_out`` (who have no run in use), ``runs_out`` and ``reasons`` (phrases).
    """
    inside = set(used)
    out = {stem: reason for stem, (reason, _) in (left_out or {}).items()}
    for name, status in read_statuses(out_dir):
        stem = name.partition("_desc-")[0]
        if status["status"] != "ok" and is_wanted(stem):
            out.setdefault(stem, str(status.get("reason", "")))
    out = {stem: reason for stem, reason in out.items() if stem not in inside}
    people, others = ({parse_entities(stem)["sub"] for stem in stems} for stems in (inside, out))
    counts = Counter(out.values()).most_common()
    return {
        "participants": len(people),
        "runs": len(inside),
        "participants_out": len(others - people),
        "runs_out": len(out),
        "reasons": [f"{count} {_REASONS.get(reason, reason.replace('_', ' '))}" for reason, count in counts],
    }


def count_planned(paths: Sequence[OutputPaths]) -> dict[str, Any] | None:
    """Count the runs of a participant call, as `count_cohort`; None while none is complete."""
    used = [one.stem for one in paths if (one.embedding_sidecar if one.model else one.signals_sidecar).is_file()]
    stems = {one.stem for one in paths}
    return count_cohort(paths[0].out_dir, used, is_wanted=stems.__contains__) if used else None
