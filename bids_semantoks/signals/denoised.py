"""Kept volumes and head motion of images that another pipeline has denoised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Run
from bids_semantoks.signals.confounds import Regressors
from bids_semantoks.signals.run_tables import load_movement
from bids_semantoks.signals.tables import ConfoundsTable

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
_DISPLACEMENT = "framewise_displacement"


def select_volumes(run: Run, *, n_volumes: int, dummy_scans: str, fd_threshold: float | None) -> Regressors:
    """Select the volumes to keep of a denoised run, without regressors.

    Volumes that the pipeline censored are dropped; T counts them even where the image leaves them out, so that time is
    not too short. `dummy_scans` ``auto`` drops none (the pipeline did); volumes over `fd_threshold` (mm) are scrubbed
    as well. Raises RunFailed no_confounds where `fd_threshold` has no motion table, bad_confounds where a table is
    damaged or does not match the volumes; RunSkipped no_content.
    """
    kept, notes = _read_censored(run, n_volumes)
    n_dummy = 0 if dummy_scans == "auto" else min(int(dummy_scans), kept.size)
    kept[:n_dummy] = False
    displacement = _read_displacement(run, kept.size)
    if fd_threshold is not None:
        if displacement is None:
            raise RunFailed(
                "no_confounds",
                f"There is no table of framewise_displacement beside {run.bold}, but --fd-threshold needs one.",
                hint="Leave --fd-threshold away.",
            )
        kept &= ~(displacement > fd_threshold)
    if displacement is None:
        displacement = np.full(kept.size, np.nan)
        notes.append("No table of motion: framewise displacement is unknown.")
    return Regressors(
        names=(),
        values=np.zeros((kept.size, 0)),
        kept=kept,
        n_dummy=n_dummy,
        framewise_displacement=displacement,
        warnings=tuple(notes),
    )


def insert_left_out(values: Float64, run: Run) -> Float64:
    """Insert NaN rows for volumes that the pipeline censored and left out of the image: values (n, P) -> (T, P)."""
    kept, _ = _read_censored(run, len(values))
    if len(values) == kept.size:
        return values
    whole = np.full((kept.size, values.shape[1]), np.nan)
    whole[kept] = values
    return whole


def _read_censored(run: Run, n_volumes: int) -> tuple[Bool, list[str]]:
    if run.confounds is None:
        return np.ones(n_volumes, dtype=np.bool_), []
    table = ConfoundsTable(run.confounds)
    column = _DISPLACEMENT if _DISPLACEMENT in table.names else table.names[0]
    kept: Bool = np.asarray(table.read_column(column) == 0)
    n_censored = int((~kept).sum())
    if n_volumes == kept.size:
        note = f"{n_censored} volumes that {run.pipeline} censored and interpolated are n/a."
        return kept, [note] if n_censored else []
    if n_volumes != kept.size - n_censored:
        table.refuse(
            f"keeps {kept.size - n_censored} of {kept.size} volumes, but {run.bold.name} has {n_volumes}: neither fits",
            hint="Are table and image from one call of the pipeline?",
        )
    return kept, [f"{n_censored} censored volumes were left out by {run.pipeline} and are n/a."]


def _read_displacement(run: Run, n_rows: int) -> Float64 | None:
    for path in run.tables:
        if run.columns:
            table = load_movement(path, run.columns, repetition_time=run.repetition_time or 1.0)
        else:
            table = ConfoundsTable(path)
        if _DISPLACEMENT in table.names:
            if table.n_rows != n_rows:
                table.refuse(f"has {table.n_rows} rows, but the run has {n_rows} volumes")
            return table.read_column(_DISPLACEMENT)
    return None
