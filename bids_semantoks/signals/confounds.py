"""Confounds of a run, read as text so that errors can name row and column, and filtered framewise displacement."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from bids_semantoks import files
from bids_semantoks.config.call import parse_motion_filter
from bids_semantoks.disk import check_content
from bids_semantoks.errors import RunFailed, RunSkipped, list_twice, name_some
from bids_semantoks.files import is_missing, parse_table
from bids_semantoks.records import FilteredMotion, Floats, Run
from bids_semantoks.signals.denoising import AROMA, HIGH_PASS_PERIOD, Denoising

MOVEMENTS: Final = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")
DISPLACEMENT: Final = "framewise_displacement"
_HEAD_RADIUS: Final = 50.0  # mm
_NO_WIDTH: Final = 1e-6  # Hz


Column = Sequence[str] | Floats


class ConfoundsTable:
    """A TSV of confounds with a header, or `columns` (T,) in its place: numbers, or text that is checked when read.
    Raises RunFailed bad_confounds without a header of unique names, RunSkipped no_content (datalad)."""

    def __init__(self, path: Path, columns: Mapping[str, Column] | None = None, *, hint: str = "") -> None:
        self.path = path
        self._hint = hint or "Use another --denoise preset, or rerun fMRIPrep so that it writes these columns."
        self._columns = dict(self._read_text() if columns is None else columns)
        self.names = tuple(self._columns)
        self.n_rows = len(self._columns[self.names[0]])

    def _read_text(self) -> dict[str, Column]:
        try:
            names, rows, _ = parse_table(read_text(self.path))
        except ValueError as error:
            self.refuse(str(error))
        if not names:
            self.refuse("is empty")
        if all(map(_is_number, names)):
            self.refuse(
                "has no header: its first line contains only numbers", hint="Was it written by fMRIPrep before 1.2?"
            )
        if twice := list_twice(names):
            self.refuse(f"has duplicate columns: {', '.join(twice[:5])}")
        return {name: [row[position] for row in rows] for position, name in enumerate(names)}

    def refuse(self, problem: str, *, hint: str = "") -> NoReturn:
        """Raise RunFailed bad_confounds; `problem` continues the sentence after the path."""
        raise RunFailed("bad_confounds", f"{self.path} {problem}.", hint=hint)

    def check_columns(self, names: Sequence[str], why: str) -> None:
        """Raise RunFailed bad_confounds with the missing columns and why they are required."""
        missing = [name for name in names if name not in self._columns]
        if missing:
            self.refuse(f"lacks {name_some(missing)}, required for {why}", hint=self._hint)

    def with_columns(self, columns: Mapping[str, Column]) -> ConfoundsTable:
        """Return a new table of the same path with columns appended."""
        return ConfoundsTable(self.path, {**self._columns, **columns}, hint=self._hint)

    def read_cells(self, name: str) -> Column:
        """Return an existing column (T,) as it is."""
        return self._columns[name]

    def read_column(self, name: str) -> Floats:
        """Read an existing column (T,); NaN for n/a. Raises RunFailed bad_confounds with the row
        of a value that is neither finite nor n/a."""
        cells = self._columns[name]
        if isinstance(cells, np.ndarray):
            return cells.copy()
        values = np.full(self.n_rows, np.nan)
        for number, cell in enumerate(cells):
            if is_missing(cell):
                continue
            if not _is_number(cell):
                self.refuse(f"has {cell!r} in row {number + 1} of column {name}; expected a number or n/a")
            values[number] = float(cell)
        self._columns[name] = values
        return values.copy()

    def read_regressor(self, name: str, kept: NDArray[np.bool_]) -> Floats:
        """Read an existing column (T,), finite in every kept volume. n/a in the first volume (derivatives) becomes the
        value of the first kept volume that has one, or 0 if there is none. Raises RunFailed bad_confounds for n/a in a
        later kept volume."""
        values = self.read_column(name)
        known = np.flatnonzero(kept & ~np.isnan(values))
        if np.isnan(values[0]):
            values[0] = values[known[0]] if known.size else 0.0
        gaps = np.flatnonzero(kept & np.isnan(values))
        if gaps.size:
            self.refuse(f"has n/a in row {gaps[0] + 1} of column {name}; n/a is only allowed in the first row")
        return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def read_text(path: Path) -> str:
    """Read a text file of a run; RunFailed bad_confounds, RunSkipped no_content (datalad link or pointer)."""
    try:
        check_content(path)
        return files.read_text(path)
    except ValueError as error:
        raise RunFailed("bad_confounds", f"{path} {error}.") from error
    except OSError as error:
        raise RunFailed("bad_confounds", f"{path} cannot be read ({error.strerror}).") from error


def read_censored(run: Run, n_volumes: int, *, hint: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[str]]:
    """Read which volumes of a run (T,) its pipeline kept, which are among the `n_volumes` stored ones, and a note;
    without a table of censored volumes, all. Raises RunFailed bad_confounds with `hint` if the numbers do not match."""
    if run.confounds is None:
        return np.ones(n_volumes, dtype=np.bool_), np.ones(n_volumes, dtype=np.bool_), []
    table = ConfoundsTable(run.confounds)
    # XCP-D's exact_* columns select volumes for matrices of a fixed duration.
    flags = [name for name in table.names if not name.startswith("exact_")]
    if DISPLACEMENT in flags:
        flags = [DISPLACEMENT]
    if not flags:
        table.refuse(f"has no column {DISPLACEMENT} with the censored volumes")
    kept = np.asarray(np.all([table.read_column(name) == 0 for name in flags], axis=0))
    n_kept = int(kept.sum())
    n_censored = kept.size - n_kept
    if n_volumes == kept.size:
        note = f"{n_censored} volumes censored and interpolated by {run.pipeline} are set to n/a."
        return kept, np.ones_like(kept), [note] if n_censored else []
    if n_volumes != n_kept:
        found = f"keeps {n_kept} of {kept.size} volumes, but {run.bold.name} has {n_volumes}, which matches neither"
        table.refuse(found, hint=hint)
    return kept, kept.copy(), [f"{n_censored} censored volumes were removed by {run.pipeline} and are set to n/a."]


def open_confounds(run: Run, denoising: Denoising, *, repetition_time: float) -> ConfoundsTable | Path | None:
    """Open the confounds of a run not yet denoised; ICA-AROMA components are read only if `denoising` uses them.
    Returns a table where columns were computed or added, else the path of fMRIPrep's table, or None. Raises RunFailed
    bad_confounds (damaged or mismatched files), RunSkipped no_content (datalad link without content)."""
    if run.confounds is not None and run.columns:
        return load_movement(run.confounds, run.columns, repetition_time=repetition_time)
    if run.confounds is not None and run.tables and "ica_aroma" in denoising.strategy:
        kind = str(dict(denoising.options)["ica_aroma"])
        return _add_components(ConfoundsTable(run.confounds), run.tables, AROMA[kind])
    return run.confounds


def load_movement(path: Path, columns: tuple[str, ...], *, repetition_time: float) -> ConfoundsTable:
    """Load movement regressors, ignoring any header, and derive the columns that fMRIPrep would write.

    One row per volume, separated by white space. `columns`: trans_* in mm, rot_* in radians or rot_*_deg in
    degrees, empty to ignore a column. Adds first derivatives, squares, cosines of a 128 s high-pass, and
    framewise displacement in mm on a 50 mm sphere (Power et al. 2012, NeuroImage 59:2142-2154). Raises
    RunFailed bad_confounds, RunSkipped no_content.
    """
    values = _read_numbers(path, len(columns))
    named = {name: values[:, position] for position, name in enumerate(columns) if name}
    for axis in "xyz":
        if f"rot_{axis}_deg" in named:
            named[f"rot_{axis}"] = np.deg2rad(named.pop(f"rot_{axis}_deg"))
    if missing := [name for name in MOVEMENTS if name not in named]:
        raise RunFailed("bad_confounds", f"The layout does not define the columns {', '.join(missing)} of {path}.")
    table: dict[str, Floats] = {}
    for name in MOVEMENTS:
        step = np.diff(named[name], prepend=np.nan)
        table |= {name: named[name], f"{name}_derivative1": step}
        table |= {f"{name}_power2": named[name] ** 2, f"{name}_derivative1_power2": step**2}
    table[DISPLACEMENT] = compute_displacement(np.stack([named[name] for name in MOVEMENTS]))
    table |= build_cosines(len(values), repetition_time)
    hint = "With movement regressors only, use --denoise none or 24p; --fd-threshold also works."
    return ConfoundsTable(path, table, hint=hint)


def compute_displacement(parameters: Floats) -> Floats:
    """Compute framewise displacement (T,) in mm on a 50 mm sphere; NaN first. `parameters` (6, T): mm, then radians."""
    steps = np.abs(np.diff(parameters, axis=1, prepend=np.nan))
    displacement: Floats = steps[:3].sum(axis=0) + _HEAD_RADIUS * steps[3:].sum(axis=0)
    return displacement


def count_cosines(seconds: float) -> int:
    """Count the cosines, without the constant, of a high-pass at 128 s over a run; -1 for a run under 64 s."""
    return math.floor(2 * seconds / HIGH_PASS_PERIOD + 1e-9) - 1


def build_cosines(n_volumes: int, repetition_time: float) -> dict[str, Floats]:
    """Build the cosine regressors (T,) of a 128 s high-pass, without the constant; none for a run under 128 s."""
    n_functions = count_cosines(n_volumes * repetition_time) + 1
    phase = np.pi * (np.arange(n_volumes) + 0.5) / n_volumes
    return {f"cosine{order - 1:02d}": np.sqrt(2 / n_volumes) * np.cos(order * phase) for order in range(1, n_functions)}


def _read_numbers(path: Path, n_columns: int) -> Floats:
    rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
    # The layout defines the columns; there may also be a header, e.g. from abcd-hcp-pipeline.
    if rows and all(re.fullmatch(r"(?!nan|inf)[A-Za-z]\w*", cell, re.IGNORECASE) for cell in rows[0]):
        del rows[0]
    if not rows:
        raise RunFailed("bad_confounds", f"{path} is empty.")
    for number, row in enumerate(rows, start=1):
        if len(row) != n_columns:
            raise RunFailed(
                "bad_confounds", f"{path} has {len(row)} values in row {number}, but the layout defines {n_columns}."
            )
        for column, cell in enumerate(row, start=1):
            if not _is_number(cell):
                problem = f"has {cell!r} in row {number}, column {column}; expected a number"
                raise RunFailed("bad_confounds", f"{path} {problem}.")
    return np.array(rows, dtype=np.float64)


def _add_components(table: ConfoundsTable, paths: tuple[Path, ...], prefix: str) -> ConfoundsTable:
    """Append the noise components of fMRIPost-AROMA to fMRIPrep's confounds."""
    if own := [kind for kind in AROMA.values() if any(name.startswith(kind) for name in table.names)]:
        table.refuse(f"has {own[0]}* columns, and so does {paths[0]}", hint="Remove the ICA-AROMA dataset.")
    components = ConfoundsTable(paths[0])
    if components.n_rows != table.n_rows:
        components.refuse(f"has {components.n_rows} rows, but {table.path} has {table.n_rows}")
    if len(paths) == 1:
        names = tuple(name for name in components.names if name.startswith(prefix))
        if not names:
            components.refuse(f"has no {prefix}* column")
        return table.with_columns({name: components.read_cells(name) for name in names})
    rejected = _read_rejected(paths[1], components)
    values = np.stack([components.read_column(name) for name in components.names], axis=1)
    is_noise = np.isin(components.names, rejected)
    noise = values[:, is_noise]
    if prefix == AROMA["orthogonal"]:
        signal = np.column_stack([np.ones(len(values)), values[:, ~is_noise]])
        noise = noise - signal @ np.linalg.lstsq(signal, noise, rcond=None)[0]
    width = max(2, len(str(len(rejected))))
    return table.with_columns({f"{prefix}{n:0{width}d}": column for n, column in enumerate(noise.T)})


def _read_rejected(path: Path, mixing: ConfoundsTable) -> tuple[str, ...]:
    """List the columns of the headerless mixing matrix that ICA-AROMA classified as motion."""
    table = ConfoundsTable(path)
    if "classification" not in table.names:
        table.refuse("has no column classification")
    classes = [str(cell).strip() for cell in table.read_cells("classification")]
    if len(classes) != len(mixing.names):
        table.refuse(f"has {len(classes)} components, but {mixing.path} {len(mixing.names)} columns")
    return tuple(name for name, kind in zip(mixing.names, classes, strict=True) if kind == "rejected")


def design_filter(motion_filter: str, repetition_time: float) -> tuple[Floats, Floats, str]:
    """Design ``lp:HZ`` or ``notch:LOW-HIGH``: numerator and denominator to run forwards and backwards, and a note.
    Edges of a stop band above the Nyquist frequency are replaced by their aliases (Fair et al. 2020, NeuroImage 208,
    116400). Raises RunFailed bad_confounds for edges that this repetition time (s) does not allow."""
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
    table: ConfoundsTable, motion_filter: str | None, *, n_dummy: int, repetition_time: float, notes: list[str]
) -> FilteredMotion | None:
    """Compute framewise displacement (T,) in mm from the six movement parameters of a table, filtered; None without a
    filter. Volumes before `n_dummy` are not filtered, since their jumps would cause ringing; they and the next are NaN.
    Raises RunFailed bad_confounds if a parameter is missing or was filtered before."""
    if motion_filter is None:
        return None
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
    table with ``desc-filtered``; None with a note if unreadable."""
    values, source, notes = read_displacement(paths, n_volumes, filtered=True)
    return None if values is None else FilteredMotion(values=values, source=source), notes


def read_displacement(
    paths: Sequence[Path], n_volumes: int, *, filtered: bool = False
) -> tuple[Floats | None, str, tuple[str, ...]]:
    """Read framewise displacement (T,) from the first of several optional tables that has it, and name the column; None
    if none has it, with a note if a table cannot be used."""
    lack = "Filtered motion is unavailable" if filtered else "Motion is unavailable"
    for path in paths:
        name = f"{DISPLACEMENT}_filtered" if filtered and not _is_filtered(path) else DISPLACEMENT
        try:
            table = ConfoundsTable(path)
            values = table.read_column(name) if name in table.names else None
        except (RunFailed, RunSkipped) as error:
            return None, "", (f"{lack}: {error.message}",)
        if values is not None and values.size != n_volumes:
            return None, "", (f"{lack}: {path.name} has {values.size} rows for {n_volumes} volumes.",)
        if values is not None:
            return values, f"{name} in {path.name}", ()
    return None, "", ()


def _is_filtered(path: Path) -> bool:
    return "_desc-filtered_" in path.name
