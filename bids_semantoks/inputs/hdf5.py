"""Parcel signals of many participants in one HDF5 file, in the layout of the published model's authors.

``timeseries/<atlas>`` holds [participants, parcels, volumes], padded with NaN at the end; ``long_subject_id`` names the
participants. Shape letters: P parcels, T volumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError

Lengths = NDArray[np.int64]

#: Atlases in the order in which the encoder reads their parcels, and parcels of each.
ATLASES: Final = (("schaefer400", 400), ("tian3", 50), ("buckner7", 7))
_GROUP: Final = "timeseries"
_IDS: Final = "long_subject_id"
_HINT: Final = (
    "Expected timeseries/schaefer400, timeseries/tian3 and timeseries/buckner7 [participants, parcels, volumes], "
    "padded with NaN at the end, and long_subject_id [participants]."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalsFile:
    """What such a file holds, without its signals.

    Parameters
    ----------
    path : Path
        The file.
    ids : tuple of str
        Participant of each row; one who has several runs is named several times.
    parcels, networks : tuple of str, length P
        Names and network labels, in the order of the signals.
    n_volumes : int
        Volumes of the longest run there may be, padding included.
    """

    path: Path
    ids: tuple[str, ...]
    parcels: tuple[str, ...]
    networks: tuple[str, ...]
    n_volumes: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """Some consecutive runs.

    Parameters
    ----------
    start : int
        Row of the first.
    ids : tuple of str
        Participant of each.
    signals : tuple of NDArray, float32, shape (T, P)
        Signals without padding; columns of absent parcels are NaN, and a run without any signal has no row (T is 0).
    """

    start: int
    ids: tuple[str, ...]
    signals: tuple[NDArray[np.float32], ...]


def open_signals(path: Path) -> SignalsFile:
    """Check the layout of a file and read who is in it.

    Parameters
    ----------
    path : Path
        HDF5 file.

    Returns
    -------
    SignalsFile
        Participants and parcels.

    Raises
    ------
    InputError
        When the file cannot be read, lacks a dataset, or a dataset has another shape.
    """
    with _open(path) as file:
        shapes = [_check_shape(file, path, name, n_parcels) for name, n_parcels in ATLASES]
        ids = _read_ids(file, path)
    described = ", ".join(f"{name} {shape[0]}" for (name, _), shape in zip(ATLASES, shapes, strict=True))
    if {shape[0] for shape in shapes} != {len(ids)}:
        _refuse(path, f"has {len(ids)} participants in {_IDS}, but {described} in {_GROUP}")
    if not ids:
        _refuse(path, "holds no participant")
    parcels, networks = _read_parcels()
    return SignalsFile(
        path=path, ids=ids, parcels=parcels, networks=networks, n_volumes=max(shape[2] for shape in shapes)
    )


def iterate_blocks(source: SignalsFile, *, max_bytes: int = 64 * 2**20) -> Iterator[Block]:
    """Read the signals block by block, so that memory does not grow with the number of runs.

    Parameters
    ----------
    source : SignalsFile
        From `open_signals`.
    max_bytes : int
        Size of a block; one that cuts through the file's own compressed chunks would inflate them again and again, so a
        block is never smaller than a chunk.

    Yields
    ------
    Block
        Consecutive runs, all of them once, in the file's order.

    Raises
    ------
    InputError
        When a run has a NaN between its volumes, atlases of different lengths, or the file is damaged.
    """
    with _open(source.path) as file:
        tables = [file[f"{_GROUP}/{name}"] for name, _ in ATLASES]
        size = _choose_block(tables, len(source.parcels) * source.n_volumes * 4, max_bytes)
        for start in range(0, len(source.ids), size):
            ids = source.ids[start : start + size]
            yield Block(start=start, ids=ids, signals=tuple(_read_block(source, tables, start, ids)))


def read_lengths(source: SignalsFile, *, max_bytes: int = 64 * 2**20) -> Lengths:
    """Read how long every run is, which takes a pass over all signals.

    Parameters
    ----------
    source : SignalsFile
        From `open_signals`.
    max_bytes : int
        As for `iterate_blocks`.

    Returns
    -------
    NDArray, int64, shape (n,)
        Volumes of each run without padding; 0 for one without any signal.

    Raises
    ------
    InputError
        As `iterate_blocks` does.
    """
    return np.array(
        [len(run) for block in iterate_blocks(source, max_bytes=max_bytes) for run in block.signals], dtype=np.int64
    )


def _open(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"The HDF5 file {path} does not exist, or is no file.", hint="Check --pretrain-data.")
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
    return int(n), n_parcels, int(n_volumes)


def _read_ids(file: Any, path: Path) -> tuple[str, ...]:
    table = file.get(_IDS)
    if not isinstance(table, h5py.Dataset):
        _refuse(path, f"has no dataset {_IDS}: found {', '.join(file)}")
    if table.ndim != 1:
        _refuse(path, f"has {_IDS} of shape {table.shape}, expected (participants,)")
    # Labels that are no UTF-8 stay apart and can be printed.
    return tuple(
        one.decode(errors="backslashreplace") if isinstance(one, bytes) else str(one) for one in table[:].tolist()
    )


def _read_parcels() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read names and networks of the published encoder's parcels, whose order is that of the atlases here."""
    text = files("bids_semantoks").joinpath("data/encoders/parcels457.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    return tuple(row[1] for row in rows), tuple(row[2] for row in rows)


def _choose_block(tables: list[Any], bytes_of_run: int, max_bytes: int) -> int:
    chunk = max(table.chunks[0] if table.chunks else 1 for table in tables)
    return max(1, max_bytes // bytes_of_run // chunk) * chunk


def _read_block(
    source: SignalsFile, tables: list[Any], start: int, ids: tuple[str, ...]
) -> Iterator[NDArray[np.float32]]:
    parts: list[NDArray[np.float32]] = []
    for table, (name, _) in zip(tables, ATLASES, strict=True):
        try:
            parts.append(np.asarray(table[start : start + len(ids)], dtype=np.float32))
        except OSError as error:
            stop = start + len(ids)
            _refuse(source.path, f"is damaged: {_GROUP}/{name}, participants {start} to {stop - 1} ({error})")
    lengths = [_find_lengths(source, part, start, ids, name) for part, (name, _) in zip(parts, ATLASES, strict=True)]
    for i, participant in enumerate(ids):
        # An atlas may be absent from a run altogether; those that are there must agree.
        found = {name: int(n[i]) for n, (name, _) in zip(lengths, ATLASES, strict=True) if n[i]}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name} {n}" for name, n in found.items())
            _refuse(source.path, f"has unequal numbers of volumes for participant {participant}: {listed}")
        n_volumes = max(found.values(), default=0)
        run = np.full((n_volumes, len(source.parcels)), np.nan, dtype=np.float32)
        first = 0
        for part in parts:
            filled = part[i, :, :n_volumes].T
            run[: len(filled), first : first + part.shape[1]] = filled
            first += part.shape[1]
        yield run


def _find_lengths(
    source: SignalsFile, values: NDArray[np.float32], start: int, ids: tuple[str, ...], name: str
) -> Lengths:
    """Volumes of each run in one atlas; 0 where it is absent."""
    real = ~np.isnan(values)
    n_volumes = values.shape[2]
    last = np.where(real.any(axis=2), n_volumes - np.argmax(real[:, :, ::-1], axis=2), 0)
    lengths: Lengths = last.max(axis=1).astype(np.int64)
    # Absent parcels are NaN throughout; every other must be complete up to the end of the run.
    broken = (last > 0) & (real.sum(axis=2) != lengths[:, None])
    if broken.any():
        i, parcel = (int(index) for index in np.argwhere(broken)[0])
        volume = int(np.flatnonzero(~real[i, parcel])[0])
        _refuse(
            source.path,
            f"has NaN before the end of a run: {_GROUP}/{name}, participant {ids[i]} (row {start + i}), "
            f"parcel {parcel}, volume {volume} of {int(lengths[i])}",
        )
    if np.isinf(values).any():
        i, parcel, volume = (int(index) for index in np.argwhere(np.isinf(values))[0])
        _refuse(
            source.path,
            f"has an infinite value: {_GROUP}/{name}, participant {ids[i]} (row {start + i}), parcel {parcel}, "
            f"volume {volume}",
        )
    return lengths
