"""Confounds of a run that are not fMRIPrep's table alone: bare movement regressors, and components of ICA-AROMA.

Shape letters: T volumes, C columns.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import RunFailed
from bids_semantoks.records import Run
from bids_semantoks.signals.denoising import Denoising
from bids_semantoks.signals.tables import ConfoundsTable, read_text

Float64 = NDArray[np.float64]

_MOVEMENTS: Final = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")
_HEAD_RADIUS: Final = 50.0
_HIGH_PASS_PERIOD: Final = 128.0
_COMPONENT: Final = "aroma_motion_"


def open_confounds(run: Run, denoising: Denoising, *, repetition_time: float) -> ConfoundsTable | Path | None:
    """Open the confounds of a run.

    Parameters
    ----------
    run : Run
        The run, not denoised.
    denoising : Denoising
        What is to be removed; components of ICA-AROMA are read for it only.
    repetition_time : float
        Seconds.

    Returns
    -------
    ConfoundsTable or Path or None
        A table with what was computed or put beside; else the path of fMRIPrep's table, or None for no table.

    Raises
    ------
    RunFailed
        ``bad_confounds`` when a file is damaged or two do not fit each other.
    RunSkipped
        ``no_content`` when a file is a datalad link whose content was not fetched.
    """
    if run.confounds is not None and run.columns:
        return load_movement(run.confounds, run.columns, repetition_time=repetition_time)
    if run.confounds is not None and run.tables and "ica_aroma" in denoising.strategy:
        return _add_components(ConfoundsTable(run.confounds), run.tables)
    return run.confounds


def load_movement(path: Path, columns: tuple[str, ...], *, repetition_time: float) -> ConfoundsTable:
    """Load movement regressors without a header, with all that can be computed from them.

    Parameters
    ----------
    path : Path
        Text file: one row a volume, numbers parted by white space.
    columns : tuple of str, length C
        ``trans_x`` ... (mm), ``rot_x`` ... (radians) or ``rot_x_deg`` ... (degrees); empty for a column to pass over.
    repetition_time : float
        Seconds.

    Returns
    -------
    ConfoundsTable
        With the columns that fMRIPrep would write of them: the six movements, their first derivatives and squares,
        framewise displacement [1]_ (mm, on a sphere of 50 mm), and the cosines of a high-pass of 128 s.

    Raises
    ------
    RunFailed
        ``bad_confounds``.
    RunSkipped
        ``no_content``.

    References
    ----------
    .. [1] Power, J. D., Barnes, K. A., Snyder, A. Z., Schlaggar, B. L., & Petersen, S. E. (2012). Spurious but
       systematic correlations in functional connectivity MRI networks arise from subject motion. NeuroImage, 59(3),
       2142-2154.
    """
    values = _read_numbers(path, len(columns))
    named = {name: values[:, position] for position, name in enumerate(columns) if name}
    for axis in "xyz":
        if f"rot_{axis}_deg" in named:
            named[f"rot_{axis}"] = np.deg2rad(named.pop(f"rot_{axis}_deg"))
    if missing := [name for name in _MOVEMENTS if name not in named]:
        raise RunFailed("bad_confounds", f"The layout names no column {', '.join(missing)} of {path}.")
    table: dict[str, Float64] = {}
    for name in _MOVEMENTS:
        step = np.diff(named[name], prepend=np.nan)
        table |= {name: named[name], f"{name}_derivative1": step}
        table |= {f"{name}_power2": named[name] ** 2, f"{name}_derivative1_power2": step**2}
    steps = np.stack([np.abs(table[f"{name}_derivative1"]) for name in _MOVEMENTS])
    table["framewise_displacement"] = steps[:3].sum(axis=0) + _HEAD_RADIUS * steps[3:].sum(axis=0)
    table |= build_cosines(len(values), repetition_time)
    rows = np.stack(list(table.values()), axis=1).tolist()
    lines = ["\t".join("n/a" if math.isnan(cell) else repr(cell) for cell in row) for row in rows]
    hint = "Movement regressors alone bear --denoise none or 24p, and --fd-threshold."
    return ConfoundsTable(path, text="\n".join(["\t".join(table), *lines]), hint=hint)


def build_cosines(n_volumes: int, repetition_time: float) -> dict[str, Float64]:
    """Build the cosines of a high-pass of 128 s.

    Parameters
    ----------
    n_volumes : int
        T.
    repetition_time : float
        Seconds.

    Returns
    -------
    dict of str to NDArray, float64, shape (T,)
        ``cosine00`` and so on, without the constant; none for a run under 128 s.
    """
    n_functions = math.floor(2 * n_volumes * repetition_time / _HIGH_PASS_PERIOD + 1e-9)
    phase = np.pi * (np.arange(n_volumes) + 0.5) / n_volumes
    return {f"cosine{order - 1:02d}": np.sqrt(2 / n_volumes) * np.cos(order * phase) for order in range(1, n_functions)}


def _read_numbers(path: Path, n_columns: int) -> Float64:
    rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
    for number, row in enumerate(rows, start=1):
        if len(row) != n_columns:
            raise RunFailed(
                "bad_confounds", f"{path} has {len(row)} values in row {number}, but the layout names {n_columns}."
            )
    try:
        values = np.array(rows, dtype=np.float64).reshape(len(rows), n_columns)
    except ValueError as error:
        raise RunFailed("bad_confounds", f"{path} holds something that is no number ({error}).") from error
    if not rows or not np.isfinite(values).all():
        raise RunFailed("bad_confounds", f"{path} {'holds NaN or infinity' if rows else 'is empty'}.")
    return values


def _add_components(table: ConfoundsTable, paths: tuple[Path, ...]) -> ConfoundsTable:
    """Put the noise components that fMRIPost-AROMA found beside fMRIPrep's confounds."""
    if any(name.startswith(_COMPONENT) for name in table.names):
        table.refuse(
            f"has {_COMPONENT}* columns of its own, and so has {paths[0]}", hint="Leave the dataset of ICA-AROMA away."
        )
    components = ConfoundsTable(paths[0])
    if components.n_rows != table.n_rows:
        components.refuse(f"has {components.n_rows} rows, but {table.path} has {table.n_rows}")
    if len(paths) > 1:
        names = _read_rejected(paths[1], components)
    else:
        names = tuple(name for name in components.names if name.startswith(_COMPONENT))
        if not names:
            components.refuse(f"has no {_COMPONENT}* column")
    width = max(2, len(str(len(names))))
    named = {
        name if name.startswith(_COMPONENT) else f"{_COMPONENT}{number:0{width}d}": components.read_cells(name)
        for number, name in enumerate(names)
    }
    return table.with_columns(named)


def _read_rejected(path: Path, mixing: ConfoundsTable) -> tuple[str, ...]:
    """Columns of the mixing matrix that ICA-AROMA classified as motion; it has no header of names."""
    lines = [line.split("\t") for line in read_text(path).splitlines()]
    if not lines or "classification" not in lines[0]:
        raise RunFailed("bad_confounds", f"{path} has no column classification.")
    column = lines[0].index("classification")
    classes = [row[column] if len(row) > column else "" for row in lines[1:]]
    if len(classes) != len(mixing.names):
        raise RunFailed(
            "bad_confounds", f"{path} has {len(classes)} components, but {mixing.path} {len(mixing.names)} columns."
        )
    return tuple(name for name, kind in zip(mixing.names, classes, strict=True) if kind == "rejected")
