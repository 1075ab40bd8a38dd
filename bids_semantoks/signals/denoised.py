"""Images that another pipeline has denoised: which of their volumes count, and how much the participant moved."""

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
    """Select the volumes to keep of a run that came denoised.

    Parameters
    ----------
    run : Run
        `confounds` is the table of censored volumes, `tables` that of motion, where there are any.
    n_volumes : int
        Volumes of the image.
    dummy_scans : str
        ``auto`` for none (the pipeline dropped them), or their number.
    fd_threshold : float or None
        Volumes with more framewise displacement (mm) are scrubbed as well; None scrubs nothing more.

    Returns
    -------
    Regressors
        Without regressors. Volumes that the pipeline censored are not kept; where it left them out of the image, T
        counts them nevertheless, so that time is not too short.

    Raises
    ------
    RunFailed
        ``no_confounds`` when `fd_threshold` is given and no table holds displacement; ``bad_confounds`` when a table
        is damaged or fits neither the image nor the volumes kept.
    RunSkipped
        ``no_content`` when a table is a datalad link whose content was not fetched.
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
    """Put back, as NaN, the volumes that a pipeline censored and left out of an image.

    Parameters
    ----------
    values : NDArray, float64, shape (n, P)
        One row a volume of the image.
    run : Run
        The run, which passed `select_volumes`.

    Returns
    -------
    NDArray, float64, shape (T, P)
        The same array when nothing was left out.
    """
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
