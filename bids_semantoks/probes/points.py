"""The embedding in two dimensions, with columns that participants may be coloured by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from bids_semantoks.outputs.group_tables import PointTable
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.designs import COLOUR_NAMES
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.rows import Rows, build_rows, compute_motion, read_embeddings
from bids_semantoks.reports.figures_map import compute_axes

#: What the table of points and its dictionary have already.
_TAKEN: Final = ("axis1", "axis2", "mean_fd", "kept_seconds", "session", "Facts")


def build_points(plan: ProbePlan, stored: Sequence[StoredRun], model: str) -> PointTable:
    """Project mean embeddings onto two axes, one point per session where anybody has several, else per participant.
    Colours are site, sex, age and probed columns, where present, motion, scan length and session."""
    sessions = build_rows(stored, by_session=True)
    has_several = len(set(sessions.participants)) < len(sessions.keys)
    rows = sessions if has_several else build_rows(stored, by_session=False)
    points, shares = compute_axes(read_embeddings(rows, model))
    return PointTable(
        keys=rows.keys,
        points=points,
        shares=(float(shares[0]), float(shares[1])),
        columns=_find_colours(plan, rows),
    )


def _find_colours(plan: ProbePlan, rows: Rows) -> dict[str, tuple[str | None, ...]]:
    names = [plan.site, *(name for name in COLOUR_NAMES if name in plan.columns), *plan.config.probing.probe]
    found: dict[str, tuple[str | None, ...]] = {
        (f"{name} (phenotype)" if name in _TAKEN else name): plan.columns[name].find(rows.keys)
        for name in dict.fromkeys(filter(None, names))
        if rows.has_sessions or not plan.columns[name].has_sessions
    }
    motion, seconds = compute_motion(rows)
    found["mean_fd"] = tuple(None if math.isnan(value) else f"{value:.4g}" for value in motion.tolist())
    found["kept_seconds"] = tuple(f"{value:g}" for value in seconds.tolist())
    if rows.has_sessions:
        found["session"] = tuple(session or None for _, session in rows.keys)
    return found
