"""Parcel signals of many participants in one HDF5 file, as laid out by the published model's authors.
``timeseries/<atlas>``: (participants, P parcels, T volumes every 2 s), NaN-padded; ``long_subject_id``: labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError
from bids_semantoks.files import read_records
from bids_semantoks.records import Bools, Indices

#: Atlases in the order in which the encoder reads their parcels, and parcels of each.
ATLASES: Final = (("schaefer400", 400), ("tian3", 50), ("buckner7", 7))

# Parcels and networks of the published encoder, in the order of ATLASES.
_PARCELS: Final = Path(__file__).parent.parent / "data" / "encoders" / "parcels457.tsv"
# HDF5 can declare sizes without storing data; these limits are days of scanning and 100 times the largest study.
_MOST_VOLUMES: Final = 500_000
_MOST_RUNS: Final = 20_000_000
_GROUP: Final = "timeseries"
_IDS: Final = "long_subject_id"

_HINT: Final = (
    "Expected timeseries/schaefer400, timeseries/tian3 and timeseries/buckner7 [participants, parcels, volumes], "
    "one volume every 2 s, padded with NaN at the end, and long_subject_id [participants]."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalsFile:
    """Contents of a signals file, without the signals."""

    path: Path
    ids: tuple[str, ...]  # participant of each row, repeated for participants with several runs
    parcels: tuple[str, ...]  # (P,) in signal order
    networks: tuple[str, ...]  # (P,) network labels
    n_volumes: int  # volumes of the longest array, padding included


def open_signals(path: Path) -> SignalsFile:
    """Check the layout of an HDF5 file and read its participants and parcels. InputError if it is unreadable,
    lacks a dataset or has one of another shape."""
    with _open(path) as file:
        shapes = [_check_shape(file, path, name, n_parcels) for name, n_parcels in ATLASES]
        ids = _read_ids(file, path, most=max(shape[0] for shape in shapes))
    described = ", ".join(f"{name} {shape[0]}" for (name, _), shape in zip(ATLASES, shapes, strict=True))
    if {shape[0] for shape in shapes} != {len(ids)}:
        _refuse(path, f"has {len(ids)} participants in {_IDS}, but {described} in {_GROUP}")
    if not ids:
        _refuse(path, "contains no participants")
    _, rows = read_records(_PARCELS)
    return SignalsFile(
        path=path,
        ids=ids,
        parcels=tuple(name for _, name, _ in rows),
        networks=tuple(network for _, _, network in rows),
        n_volumes=max(shape[2] for shape in shapes),
    )


def iterate_runs(
    source: SignalsFile, *, rows: Collection[int] | None = None, max_bytes: int = 64 * 2**20
) -> Iterator[tuple[int, NDArray[np.float32], str]]:
    """Yield row, signals (T, P) and problem (empty if sound) of the runs in file order, read block by block, so that
    memory does not grow with their number. With `rows`, blocks without any of these rows are skipped. Signals come
    without padding, absent parcels as NaN. T is 0 if a run has no signal, or a problem: a NaN between its volumes, an
    infinite value or atlases of unequal length. Raises InputError if the file is damaged."""
    with _open(source.path) as file:
        tables = [file[f"{_GROUP}/{name}"] for name, _ in ATLASES]
        # At least one HDF5 chunk, so that chunks are not decompressed repeatedly.
        chunk = max(table.chunks[0] if table.chunks else 1 for table in tables)
        size = max(1, max_bytes // (len(source.parcels) * source.n_volumes * 4) // chunk) * chunk
        starts = range(0, len(source.ids), size)
        wanted = set(starts) if rows is None else {row - row % size for row in rows}
        for start in (one for one in starts if one in wanted):
            runs = _read_block(source, tables, start, min(size, len(source.ids) - start))
            for row, (run, problem) in enumerate(runs, start):
                yield row, run, problem


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"The HDF5 file {path} does not exist or is not a file.", hint="Check --pretrain-data.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} cannot be read as HDF5: {error}.", hint=_HINT) from error


def _refuse(path: Path, problem: str) -> NoReturn:
    raise InputError(f"The HDF5 file {path} {problem}.", hint=_HINT)


def _check_shape(file: Any, path: Path, name: str, n_parcels: int) -> tuple[int, int, int]:
    group = file.get(_GROUP)
    there = sorted(group) if isinstance(group, h5py.Group) else None
    table = group.get(name) if there is not None else None
    if not isinstance(table, h5py.Dataset):
        found = f"{_GROUP} with {', '.join(there) or 'nothing'}" if there is not None else ", ".join(file) or "nothing"
        _refuse(path, f"has no dataset {_GROUP}/{name}: found {found}")
    if table.ndim != 3 or table.shape[1] != n_parcels or not table.shape[2]:
        _refuse(path, f"has {_GROUP}/{name} of shape {table.shape}, expected (participants, {n_parcels}, volumes)")
    if table.dtype.kind not in "fiu":
        _refuse(path, f"has {_GROUP}/{name} of type {table.dtype}, expected numbers")
    n, _, n_volumes = table.shape
    if n_volumes > _MOST_VOLUMES or n > _MOST_RUNS:
        _refuse(
            path, f"has {_GROUP}/{name} of shape {table.shape}, larger than any known study: its header may be damaged"
        )
    return int(n), n_parcels, int(n_volumes)


def _read_ids(file: Any, path: Path, *, most: int) -> tuple[str, ...]:
    table = file.get(_IDS)
    if not isinstance(table, h5py.Dataset):
        _refuse(path, f"has no dataset {_IDS}: found {', '.join(file)}")
    if table.ndim != 1:
        _refuse(path, f"has {_IDS} of shape {table.shape}, expected (participants,)")
    if table.shape[0] > most:
        _refuse(path, f"has {table.shape[0]} participants in {_IDS}, but {most} in {_GROUP}")
    # Labels that are not UTF-8 stay distinct and printable.
    return tuple(
        one.decode(errors="backslashreplace") if isinstance(one, bytes) else str(one) for one in table[:].tolist()
    )


def _read_block(
    source: SignalsFile, tables: list[Any], start: int, n_runs: int
) -> Iterator[tuple[NDArray[np.float32], str]]:
    """Yield the signals (T, P) and the problem, if any, of each run."""
    parts: list[NDArray[np.float32]] = []
    for table, (name, _) in zip(tables, ATLASES, strict=True):
        try:
            parts.append(np.asarray(table[start : start + n_runs], dtype=np.float32))
        except OSError as error:
            stop = start + n_runs
            _refuse(source.path, f"is damaged: {_GROUP}/{name}, participants {start} to {stop - 1} ({error})")
    measured = [(name, part, *_measure(part)) for (name, _), part in zip(ATLASES, parts, strict=True)]
    for i in range(n_runs):
        # A run may lack an atlas entirely; the others must have the same length.
        found = {name: int(lengths[i]) for name, _, lengths, _ in measured if lengths[i]}
        broken = (_describe_problem(part[i], name) for name, part, _, is_broken in measured if is_broken[i])
        problem = next(broken, "")
        if not problem and len(set(found.values())) > 1:
            problem = f"unequal numbers of volumes: {', '.join(f'{name} {n}' for name, n in found.items())}"
        n_volumes = 0 if problem else max(found.values(), default=0)
        run = np.full((n_volumes, len(source.parcels)), np.nan, dtype=np.float32)
        first = 0
        for part in parts:
            filled = part[i, :, :n_volumes].T
            run[: len(filled), first : first + part.shape[1]] = filled
            first += part.shape[1]
        yield run, problem


def _measure(values: NDArray[np.float32]) -> tuple[Indices, Bools]:
    """Measure one atlas, (runs, P, T): the length of each run (0 if the atlas is absent) and whether it is broken."""
    missing = np.isnan(values)  # (runs, parcels, T)
    n_volumes = values.shape[2]
    ends = np.argmax(~np.asarray(missing.all(axis=1))[:, ::-1], axis=1)
    n_real = n_volumes - missing.sum(axis=2)  # (runs, parcels)
    lengths: Indices = np.where(n_real.any(axis=1), n_volumes - ends, 0).astype(np.int64)
    # Absent parcels are NaN throughout; every other must be complete up to the end of the run.
    has_hole = (n_real > 0) & (n_real != lengths[:, None])
    has_infinite = np.isfinite(values).sum(axis=2) != n_real
    return lengths, np.asarray((has_hole | has_infinite).any(axis=1))


def _describe_problem(values: NDArray[np.float32], name: str) -> str:
    """Locate the first invalid NaN or infinite value in one run's series (P, T)."""
    missing = np.isnan(values)
    n_volumes = int(_measure(values[None])[0][0])
    holes = np.argwhere(missing[:, :n_volumes] & ~np.asarray(missing.all(axis=1))[:, None])
    kind, places = (
        ("NaN before the end of the run", holes) if len(holes) else ("an infinite value", np.argwhere(np.isinf(values)))
    )
    parcel, volume = places[0].tolist()
    return f"{kind}: {_GROUP}/{name}, parcel {parcel}, volume {volume} of {n_volumes}"
