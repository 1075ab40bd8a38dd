"""Confounds beyond fMRIPrep's table: bare movement regressors and ICA-AROMA components. T volumes, C columns."""

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
    """Open the confounds of a run not yet denoised; ICA-AROMA components are read only if `denoising` uses them.

    Returns a table where columns were computed or added, else the path of fMRIPrep's table, or None. Raises RunFailed
    bad_confounds (damaged or mismatched files), RunSkipped no_content (datalad link without content).
    """
    if run.confounds is not None and run.columns:
        return load_movement(run.confounds, run.columns, repetition_time=repetition_time)
    if run.confounds is not None and run.tables and "ica_aroma" in denoising.strategy:
        return _add_components(ConfoundsTable(run.confounds), run.tables)
    return run.confounds


def load_movement(path: Path, columns: tuple[str, ...], *, repetition_time: float) -> ConfoundsTable:
    """Load headerless movement regressors and derive the columns that fMRIPrep would write.

    One row per volume, separated by white space. `columns`: trans_* in mm, rot_* in radians or rot_*_deg in degrees,
    empty to ignore a column. Adds first derivatives, squares, cosines of a 128 s high-pass, and framewise displacement
    in mm on a 50 mm sphere (Power et al. 2012, NeuroImage 59:2142-2154). Raises RunFailed bad_confounds, RunSkipped
    no_content.
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
    """Build the cosine regressors (T,) of a 128 s high-pass, without the constant; none for a run under 128 s."""
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
    """Append the noise components of fMRIPost-AROMA to fMRIPrep's confounds."""
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
    """List the columns of the headerless mixing matrix that ICA-AROMA classified as motion."""
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
