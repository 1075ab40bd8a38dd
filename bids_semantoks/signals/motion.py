"""Framewise displacement from filtered movement parameters, without the apparent motion of breathing (T volumes)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bids_semantoks.config.call import parse_motion_filter
from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.records import FilteredMotion, Floats
from bids_semantoks.signals.confounds import MOVEMENTS, ConfoundsTable, compute_displacement

_DISPLACEMENT = "framewise_displacement"
_NO_WIDTH = 1e-6


def design_filter(motion_filter: str, repetition_time: float) -> tuple[Floats, Floats, str]:
    """Design ``lp:HZ`` or ``notch:LOW-HIGH``: numerator and denominator to run forwards and backwards, and a note.

    Edges of a stop band above the Nyquist frequency are replaced by their aliases (Fair et al. 2020,
    NeuroImage 208, 116400). Raises RunFailed bad_confounds for edges that this repetition time (s) does not allow.
    """
    from scipy.signal import butter, iirnotch

    kind, edges = parse_motion_filter(motion_filter)
    rate = 1.0 / repetition_time
    reach = f"With TR = {repetition_time:g} s the highest frequency is {rate / 2:g} Hz"
    if kind == "lp":
        if edges[0] >= rate / 2:
            hint = f"The edge is in Hz: {edges[0]:g} breaths per minute are lp:{edges[0] / 60:.4g}."
            message = f"{reach}; --motion-filter {motion_filter} would remove nothing."
            raise RunFailed(
                "bad_confounds", message, hint=hint if edges[0] > 1 else "Lower its edge, or remove the option."
            )
        # Twice order 2, as both directions count.
        return *butter(2, edges[0], fs=rate), ""
    band = [edge / 60 for edge in edges]
    low, high = sorted(abs(edge - round(edge * repetition_time) * rate) for edge in band)
    folded = f"{reach}; --motion-filter {motion_filter} ({band[0]:.3g} to {band[1]:.3g} Hz) is aliased"
    if high - low < _NO_WIDTH:
        message = f"{folded}: both edges map to {low:.3g} Hz, so the band is empty."
        raise RunFailed("bad_confounds", message, hint="Choose other edges, or a low-pass: --motion-filter lp:HZ.")
    note = f"{folded}: removing {low:.3g} to {high:.3g} Hz instead." if band[1] > rate / 2 else ""
    centre = (low + high) / 2
    return *iirnotch(centre, centre / (high - low), fs=rate), note


def filter_motion(
    table: ConfoundsTable, motion_filter: str, *, n_dummy: int, repetition_time: float, notes: list[str]
) -> FilteredMotion:
    """Compute framewise displacement (T,) in mm from the six movement parameters of a table, filtered.

    Volumes before `n_dummy` are not filtered, since their jumps would cause ringing; they and the first volume after
    them are NaN. Raises RunFailed bad_confounds if a parameter is missing or was filtered before.
    """
    option = f"--motion-filter {motion_filter}"
    if _is_filtered(table.path):
        table.refuse(f"contains motion parameters that are already filtered; {option} would filter them again")
    table.check_columns(MOVEMENTS, option)
    numerator, denominator, note = design_filter(motion_filter, repetition_time)
    notes.extend([note] if note else [])
    steady = np.arange(table.n_rows) >= n_dummy
    parameters = np.stack([table.read_regressor(name, steady)[steady] for name in MOVEMENTS])
    values = np.full(table.n_rows, np.nan)
    if (n_steady := parameters.shape[1]) > 1:
        from scipy.signal import filtfilt

        # Padded with the nearest value before and after the run, as in XCP-D.
        smooth = filtfilt(numerator, denominator, parameters, axis=1, padtype="constant", padlen=n_steady - 1)
        values[steady] = compute_displacement(smooth)
    return FilteredMotion(values=values, source=f"{option}, from the movement parameters of {table.path.name}")


def read_filtered(paths: Sequence[Path], n_volumes: int) -> tuple[FilteredMotion | None, tuple[str, ...]]:
    """Read the displacement (T,) that a pipeline computed from filtered motion: a column of its motion table, or a
    table with ``desc-filtered``. An unreadable table only gives a note, since it is optional."""
    for path in paths:
        name = _DISPLACEMENT if _is_filtered(path) else f"{_DISPLACEMENT}_filtered"
        try:
            table = ConfoundsTable(path)
            if name not in table.names:
                continue
            values = table.read_column(name)
        except (RunFailed, RunSkipped) as error:
            return None, (f"Filtered motion is unavailable: {error.message}",)
        if values.size != n_volumes:
            return None, (
                f"Filtered motion is unavailable: {path.name} has {values.size} rows for {n_volumes} volumes.",
            )
        return FilteredMotion(values=values, source=f"{name} in {path.name}"), ()
    return None, ()


def _is_filtered(path: Path) -> bool:
    return "_desc-filtered_" in path.name
