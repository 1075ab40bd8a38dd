"""Packed signals: a memory-mapped store that grows by segments, larger than memory if need be: float16 to train on, or
float32 as tables hold them; and embeddings, one volume of float64 each.

Legend: R runs, T volumes of a run, P parcels.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.disk import is_left_behind, remove_leftovers, tag_owner
from bids_semantoks.errors import InputError
from bids_semantoks.files import open_atomic, read_json, write_text
from bids_semantoks.records import Bools, Indices, Reals

FORMAT: Final = "bids_semantoks signals 2"
_SEGMENT_BYTES: Final = 2**30
_ENDINGS: Final = {"<f2": ".f16", "<f4": ".f32", "<f8": ".f64"}
_COLUMNS: Final = ("key", "participant", "n_volumes", "repetition_time", "crc32", "present")
_REMEDY: Final = "Delete the directory; it will be recreated."


def _sum_up(columns: Mapping[str, Any]) -> int:
    """Compute the checksum of an index, which also determines the layout of the volumes."""
    return zlib.crc32(json.dumps(columns).encode())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedRun:
    """One run to be packed."""

    key: str  # checksum over everything that determines the values: source table, its repetition time, parcels
    participant: str  # label
    repetition_time: float  # seconds, of the source
    # (T, P); to train on z-scored, at the encoder's repetition time, absent parcels zero
    values: Reals
    present: Bools  # (P,) parcels that have a signal


@dataclass(frozen=True, slots=True)
class _Entry:
    """Location of a packed run."""

    path: Path
    first: int  # volume of the segment at which the run starts
    n_volumes: int
    participant: str
    repetition_time: float
    crc32: int
    present: str  # base64 of packed bits


class SignalStore:
    """Packed signals in a directory, made by `add`; InputError if an index is damaged, outdated or of other parcels. A
    segment is a file of volumes, run after run, next to a JSON index that is written last; segments without index are
    ignored. So no lock is needed, and a process that dies loses at most one segment."""

    def __init__(self, directory: Path, n_parcels: int, dtype: str = "<f2") -> None:
        self.directory = directory
        self.n_parcels = n_parcels
        self.dtype, self._ending = dtype, _ENDINGS[dtype]
        self._format = FORMAT if dtype == "<f2" else f"{FORMAT} {dtype}"
        self._entries: dict[str, _Entry] = {}
        for index in sorted(directory.glob("*.json")):
            self._entries.update(self._read_index(index))

    def __contains__(self, key: str) -> bool:
        """Whether a run is packed."""
        return key in self._entries

    def __len__(self) -> int:
        """Count the packed runs (R)."""
        return len(self._entries)

    def add(self, runs: Iterable[PackedRun], *, segment_bytes: int = _SEGMENT_BYTES) -> int:
        """Pack runs one by one, holding one in memory at a time, and count them; skip those already packed. Segments
        close at `segment_bytes`. Raises ValueError if values are not finite or misshaped, OSError when the disk is
        full."""
        n_packed, pending = 0, iter(runs)
        while n_added := self._add_segment(pending, segment_bytes):
            n_packed += n_added
        return n_packed

    def fill(self, keys: Sequence[str], read: Callable[[list[str]], Iterable[PackedRun]]) -> SignalView:
        """Pack what is missing of `keys`, as `read` finds it, and select all of them, in this order."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.remove_orphans()
        self.add(read([key for key in dict.fromkeys(keys) if key not in self]))
        return self.select(keys)

    def remove_orphans(self) -> None:
        """Remove leftovers of killed calls: partial segments, and segments without their index."""
        remove_leftovers(self.directory)
        for path in self.directory.glob(f"*{self._ending}"):
            with contextlib.suppress(OSError):
                if not path.with_suffix(".json").exists() and is_left_behind(path.name, path.stat()):
                    path.unlink()

    def _add_segment(self, runs: Iterator[PackedRun], segment_bytes: int) -> int:
        first = next(runs, None)
        if first is None:
            return 0
        path = self.directory / f"{tag_owner()}{os.urandom(8).hex()}{self._ending}"
        index = path.with_suffix(".json")
        rows: list[tuple[Any, ...]] = []
        try:
            with open_atomic(path, is_durable=True) as file:
                rows.append(self._write_run(file, first))
                while file.tell() < segment_bytes and (run := next(runs, None)) is not None:
                    rows.append(self._write_run(file, run))
            columns = dict(zip(_COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
            content = {"format": self._format, "n_parcels": self.n_parcels, "crc32": _sum_up(columns), "runs": columns}
            write_text(index, json.dumps(content))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._entries.update(self._read_index(index))
        return len(rows)

    def _write_run(self, file: BinaryIO, run: PackedRun) -> tuple[Any, ...]:
        if run.values.ndim != 2 or run.values.shape[1] != self.n_parcels or not len(run.values):
            raise ValueError(f"signals must have shape (T, {self.n_parcels}), found {run.values.shape}")
        with np.errstate(over="ignore"):  # refused below
            packed = run.values.astype(self.dtype)
        if self.dtype == "<f2" and not np.isfinite(packed).all():
            raise ValueError(f"signals of participant {run.participant} have non-finite values")
        content = packed.tobytes()
        file.write(content)
        bits = base64.b64encode(np.packbits(run.present).tobytes()).decode()
        return run.key, run.participant, len(packed), run.repetition_time, zlib.crc32(content), bits

    def _read_index(self, index: Path) -> Mapping[str, _Entry]:
        path = index.with_suffix(self._ending)
        try:
            values = read_json(index)
            if values["format"] != self._format:
                raise InputError(
                    f"The packed signals {index} have another format version: expected {self._format!r}, "
                    f"found {values['format']!r}.",
                    hint=_REMEDY,
                )
            if values["n_parcels"] != self.n_parcels:
                raise InputError(
                    f"The packed signals {index} have {values['n_parcels']} parcels, expected {self.n_parcels}.",
                    hint=_REMEDY,
                )
            if values["crc32"] != (found := _sum_up(values["runs"])):
                raise ValueError(f"its checksum is {found}, expected {values['crc32']}")
            columns = [values["runs"][name] for name in _COLUMNS]
            rows = list(zip(*columns, strict=True))
            ends = np.cumsum([row[2] for row in rows], dtype=np.int64)
            size = path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"The packed signals {index} are damaged: {error}.", hint=_REMEDY) from error
        expected = int(ends[-1]) * self.n_parcels * np.dtype(self.dtype).itemsize
        if size != expected:
            raise InputError(f"The packed signals {path} have {size} bytes, expected {expected}.", hint=_REMEDY)
        return {
            key: _Entry(path, int(end) - n_volumes, n_volumes, participant, float(repetition_time), crc32, present)
            for (key, participant, n_volumes, repetition_time, crc32, present), end in zip(rows, ends, strict=True)
        }

    def select(self, keys: Sequence[str]) -> SignalView:
        """Select packed runs by key, in this order; InputError if one is not packed."""
        missing = [key for key in keys if key not in self._entries]
        if missing:
            raise InputError(f"{len(missing)} runs are not packed in {self.directory}, the first is {missing[0]}.")
        return SignalView([self._entries[key] for key in keys], self.n_parcels, self.dtype)


class SignalView:
    """Selected runs of a store, read from disk on demand."""

    def __init__(self, entries: Sequence[_Entry], n_parcels: int, dtype: str = "<f2") -> None:
        self.n_parcels, self.dtype = n_parcels, np.dtype(dtype)
        self.participants = tuple(entry.participant for entry in entries)
        self.lengths = np.array([entry.n_volumes for entry in entries], dtype=np.int64)
        self.repetition_times = tuple(entry.repetition_time for entry in entries)
        bits = np.frombuffer(b"".join(base64.b64decode(entry.present) for entry in entries), dtype=np.uint8)
        self.present: Bools = np.unpackbits(bits.reshape(len(entries), -1), axis=1, count=n_parcels).astype(np.bool_)
        self._entries = list(entries)
        self._maps: dict[Path, NDArray[Any]] = {}
        self._checked = np.zeros(len(entries), dtype=np.bool_)

    def __len__(self) -> int:
        """Count the runs (R)."""
        return len(self._entries)

    @property
    def n_bytes(self) -> int:
        """Size of all signals."""
        return int(self.lengths.sum()) * self.n_parcels * self.dtype.itemsize

    def read(self, run: int) -> NDArray[Any]:
        """Read a run as a view of the mapped file, (T, P); InputError if the first read finds another checksum."""
        entry = self._entries[run]
        if entry.path not in self._maps:
            self._maps[entry.path] = np.memmap(entry.path, dtype=self.dtype, mode="r").reshape(-1, self.n_parcels)
        values = self._maps[entry.path][entry.first : entry.first + entry.n_volumes]
        if not self._checked[run]:
            found = zlib.crc32(values.data)
            if found != entry.crc32:
                raise InputError(
                    f"The packed signals {entry.path} are damaged: the run of participant {entry.participant} has "
                    f"checksum {found}, expected {entry.crc32}.",
                    hint=_REMEDY,
                )
            self._checked[run] = True
        return values

    def read_batch(self, runs: Indices) -> NDArray[np.float16]:
        """Read runs (B,), zero-padded at the end to the longest: signals (B, T, P)."""
        lengths = self.lengths[runs]
        signals = np.zeros((len(runs), int(lengths.max()), self.n_parcels), dtype=np.float16)
        for row, run in enumerate(runs.tolist()):
            signals[row, : lengths[row]] = self.read(run)
        return signals
