"""What the map of participants is coloured by.

Shape letters: n rows (participants).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bids_semantoks.inputs.phenotypes import parse_number
from bids_semantoks.outputs.figures_probes import Colouring
from bids_semantoks.probes.designs import COLOUR_NAMES
from bids_semantoks.probes.findings import ProbeResults
from bids_semantoks.probes.rows import Rows, compute_motion


def build_colourings(results: ProbeResults) -> list[Colouring]:
    """Choose what the map of participants is coloured by.

    Parameters
    ----------
    results : ProbeResults
        What was found.

    Returns
    -------
    list of Colouring
        Site, sex, age and what was probed, where they are there, motion, and sessions.
    """
    plan, rows = results.plan, results.rows
    names = [plan.site, *(name for name in COLOUR_NAMES if name in plan.columns), *plan.config.probing.probe]
    found = [
        build_colouring(name, plan.columns[name].find(rows.keys))
        for name in dict.fromkeys(filter(None, names))
        if not plan.columns[name].has_sessions
    ]
    motion, seconds = compute_motion(rows)
    if not np.isnan(motion).all():
        found.append(_colour_by_numbers("motion: mean FD (mm)", motion))
    else:
        found.append(_colour_by_numbers("kept data (s)", seconds))
    counts = _count_sessions(rows)
    if counts.max() > 1:
        found.append(build_colouring("sessions", [str(count) for count in counts.tolist()]))
    return found


def _count_sessions(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([len({run.entities.get("ses", "") for run in runs}) for runs in rows.runs])


def _colour_by_numbers(name: str, values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Colouring:
    labels = tuple(None if math.isnan(value) else f"{value:g}" for value in values.tolist())
    return Colouring(name=name, labels=labels, numbers=values)


def build_colouring(name: str, labels: Sequence[str | None]) -> Colouring:
    """Decide whether a column is a quantity or names.

    Parameters
    ----------
    name : str
        Of the column.
    labels : sequence of (str or None), length n
        Text.

    Returns
    -------
    Colouring
        A quantity where there are more than ten different numbers.
    """
    numbers = [math.nan if label is None else parse_number(label) for label in labels]
    if None in numbers or len(set(labels)) <= 10:
        return Colouring(name=name, labels=tuple(labels), numbers=None)
    return Colouring(name=name, labels=tuple(labels), numbers=np.array(numbers, dtype=np.float64))
