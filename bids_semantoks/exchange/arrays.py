"""Parcel series and images from Python: arrays, tables and files. Shape letters: T volumes, P parcels, C columns."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.atlases.label_tables import PREFIX, is_numbered, rename_columns
from bids_semantoks.atlases.load import find_all_spaces
from bids_semantoks.atlases.series_atlas import list_orders, load_order, load_series_atlas
from bids_semantoks.bids_names import parse_entities
from bids_semantoks.errors import AtlasError, InputError, ModelError
from bids_semantoks.inputs.repetition_time import find_given_time
from bids_semantoks.records import Atlas, Floats, ParcelSignals, Run
from bids_semantoks.signals.read_series import PTSERIES, read_columns, read_series, take_series

LOGGER = logging.getLogger("bids_semantoks")

#: Positions that a message shows.
_N_SHOWN: Final = 3

#: Share of columns with names of an encoder's parcels from which the others are taken to be misspelt.
_MOST: Final = 0.9


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParcelSeries:
    """Series of one run, averaged over parcels and cleaned, as the command line stores them."""

    series: NDArray[np.float32]  # (T, P) NaN in dropped volumes and absent parcels
    coverage: NDArray[np.float64]  # (P,) share of each parcel that has data; 1 or 0 where only presence is known
    kept: NDArray[np.bool_]  # (T,) False for dummy, scrubbed and empty volumes
    parcels: tuple[str, ...]  # (P,)
    networks: tuple[str, ...]  # (P,) empty for a parcel without network
    repetition_time: float  # seconds
    n_dummy: int  # leading dummy volumes
    n_padding: int  # volumes at the end that hold no data
    sidecar: Mapping[str, Any]  # as written by the command line next to the table
    warnings: tuple[str, ...] = ()  # shortcomings of the run, in words

    def __post_init__(self) -> None:
        if self.series.shape != (self.kept.size, len(self.parcels)):
            raise ValueError(f"series {self.series.shape} fit neither {self.kept.size} volumes nor the parcels")


def take_array(
    series: object, *, parcels: str | Sequence[str] | None, repetition_time: float | None, expected: Sequence[str] = ()
) -> tuple[Run, Atlas, ParcelSignals]:
    """Read series (T, P), a table with one column per parcel, or its path, as the command line reads a table.

    `parcels` names the columns (P,), or an order that ships with this package; `expected` are the encoder's, for
    messages. Raises InputError for arrays that cannot be series, AtlasError if nothing tells the networks, and what
    `read_series` does.
    """
    is_path = isinstance(series, str | Path)
    is_table = hasattr(series, "iloc")
    run = _describe_run(Path(str(series)) if is_path else Path(f"({type(series).__name__})"), repetition_time)
    found, table = read_columns(run.bold) if is_path else _read_array(series)
    columns = _name_columns(found, table, parcels, tuple(map(str, getattr(series, "index", ()) if is_table else ())))
    try:
        atlas = _find_atlas(columns)
    except AtlasError as error:
        raise explain_misfit(error, columns, expected) from error
    if is_path and columns == found:
        return run, atlas, read_series(run, atlas, min_time=0.0)
    return run, atlas, take_series(run, atlas, columns, table, min_time=0.0)


def _describe_run(path: Path, repetition_time: float | None) -> Run:
    """Describe series as a run; InputError if neither `repetition_time` nor a sidecar gives a time."""
    time, source = find_given_time(repetition_time, path.with_suffix(".json"))
    # Of series in CIFTI the header states it.
    if time is None and not path.name.endswith(PTSERIES):
        raise InputError("The repetition time of the series is unknown.", hint="Give repetition_time= in seconds.")
    return Run(
        entities=(("sub", "x"),),
        bold=path,
        mask=None,
        confounds=None,
        repetition_time=time,
        time_source=source,
        pipeline="another program",
        dataset=path.parent,
    )


def _read_array(series: object) -> tuple[tuple[str, ...], Floats]:
    """Read an array or a table of pandas or polars: names of columns (C,), numbered where there are none, and values
    (T, C)."""
    what = f"The series ({type(series).__name__})"
    names = getattr(series, "columns", None)
    try:
        # Missing values of pandas' own kinds have no other way to NaN.
        found = series.to_numpy(dtype=np.float64, na_value=np.nan) if hasattr(series, "iloc") else np.asarray(series)  # type: ignore[attr-defined]
        values = np.asarray(found if np.isrealobj(found) else [], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be read as an array of numbers: {error!s:.100}.") from error
    if values.ndim != 2 or not values.size:
        raise InputError(f"{what} have shape {found.shape} and type {found.dtype}; expected real numbers (T, P).")
    if np.isinf(values).any():
        raise InputError(f"{what} contain infinite values.", hint="Use NaN for missing values.")
    numbered = tuple(map(str, range(1, values.shape[1] + 1)))
    return (numbered if names is None else tuple(map(str, names))), values


def _name_columns(
    found: tuple[str, ...], table: Floats, parcels: str | Sequence[str] | None, rows: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Name the columns (C,) of a table by `parcels`, else by its own header; InputError if they do not fit, or where
    `rows` are named instead."""
    is_named, shape = not is_numbered(found), f"{table.shape[0]} x {table.shape[1]}"
    if parcels is None and not is_named:
        if rows and not is_numbered(rows):
            raise _refuse_turned(shape, f"the rows have names ({rows[0]}), the columns do not")
        raise InputError(
            f"The {len(found)} columns of the series have no parcel names.",
            hint=f"Give parcels=[...], one name per column, or the name of a parcel order shipped with this package: "
            f"{', '.join(list_orders())}.",
        )
    names = found if parcels is None else load_order(parcels) if isinstance(parcels, str) else tuple(map(str, parcels))
    if len(names) != len(found):
        if len(names) == len(table):
            raise _refuse_turned(shape, f"{len(names)} parcel names match the number of rows")
        raise InputError(
            f"The series have {len(found)} columns, but parcels has {len(names)} names"
            f"{f' ({parcels})' if isinstance(parcels, str) else ''}.",
            hint="Expected (T, P): volumes x parcels.",
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(
            f"parcels has {twice[0]} {names.count(twice[0])} times.", hint="Each parcel must be one column."
        )
    if parcels is not None and is_named and (wrong := _find_mismatches(found, names)):
        raise InputError(f"The column names differ from parcels: {wrong}.", hint="Remove parcels, or the column names.")
    return names


def _refuse_turned(shape: str, why: str) -> InputError:
    return InputError(f"The series ({shape}) appear to be parcels x volumes: {why}.", hint="Transpose them to (T, P).")


def _bare(names: Sequence[str]) -> list[str]:
    return [name.removeprefix(PREFIX) for name in rename_columns(names)]


def _find_mismatches(found: Sequence[str], expected: Sequence[str]) -> str:
    """Describe the first positions whose names differ, spelling aside; empty if none does."""
    pairs = enumerate(zip(_bare(found), _bare(expected), found, expected, strict=False), start=1)
    wrong = [f"column {n} is {own}, expected {other}" for n, (a, b, own, other) in pairs if a != b]
    return "; ".join(wrong[:_N_SHOWN]) + (f" and {len(wrong) - _N_SHOWN} more" if len(wrong) > _N_SHOWN else "")


@functools.lru_cache(maxsize=16)
def _find_atlas(columns: tuple[str, ...]) -> Atlas:
    return load_series_atlas("Series", columns, space="", asked="", tables=(), directory=None)


def names_most(columns: Sequence[str], expected: Sequence[str]) -> bool:
    """Return whether nearly all columns (C,) are among the parcels `expected`, so that the others are misspelt."""
    known = set(_bare(expected))
    return sum(name in known for name in _bare(columns)) >= _MOST * len(columns)


def explain_misfit(
    error: AtlasError | ModelError, columns: Sequence[str], expected: Sequence[str]
) -> AtlasError | ModelError:
    """Add to an error the first columns that the encoder's parcels lack, beside those `expected` in these places."""
    known = set(_bare(expected))
    unknown = [n for n, name in enumerate(_bare(columns)) if name not in known]
    if not unknown:
        return error
    shown = [
        f"column {n + 1} is {columns[n]}" + (f", the encoder has {expected[n]} there" if n < len(expected) else "")
        for n in unknown[:_N_SHOWN]
    ]
    more = f"{len(unknown)} of {len(columns)} columns are not among its {len(expected)} parcels: {'; '.join(shown)}."
    return type(error)(f"{error.message} {more}", hint=error.hint)


def describe_image(
    bold: str | Path,
    companions: Mapping[str, str | Path | None],
    *,
    atlas: str,
    repetition_time: float | None,
    space: str | None,
) -> tuple[Run, tuple[str, ...]]:
    """Describe a BOLD image and its `companions`, mask and confounds, as a run, with notes. Its space is the one given,
    that in its name, or the first of the atlas; InputError if a file is not there."""
    path = _find(bold, "image")
    entities = parse_entities(path.name)
    named, notes = space or entities.get("space"), []
    if named is None:
        named = find_all_spaces(atlas, directory=None)[0]
        notes.append(f"{path.name} has no template space in its name; assuming {named}, the first space of {atlas}.")
        LOGGER.warning("%s Set space= if this is wrong.", notes[0])
    entities = {"sub": "x", **entities, "space": named}
    time, source = find_given_time(repetition_time, path.with_name(f"{path.name.partition('.')[0]}.json"))
    mask, confounds = (_find(one, name) if one else None for name, one in companions.items())
    run = Run(
        entities=tuple(entities.items()),
        bold=path,
        mask=mask,
        confounds=confounds,
        repetition_time=time,
        time_source=source,
        pipeline="another program",
        dataset=Path(path.anchor),
        missing=(("mask", "Pass it as mask=."), ("confounds", 'Pass it as confounds=, or use denoise="none".')),
    )
    return run, tuple(notes)


def _find(path: str | Path, what: str) -> Path:
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise InputError(f"The {what} {found} does not exist.", hint="Give the path to a file.")
    return found
