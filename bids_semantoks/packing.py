"""Signals packed for training: each run is read, put into shape and stored once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError, RunSkipped
from bids_semantoks.inputs.hdf5 import SignalsFile, iterate_blocks
from bids_semantoks.outputs.stored_runs import StoredRun, read_signals
from bids_semantoks.pool import WorkerDied, run_jobs
from bids_semantoks.signals.temporal import interpolate_dropped, resample, zscore
from bids_semantoks.training.store import PackedRun, SignalStore, SignalView
from bids_semantoks.training_data import SignalSource, TrainingData

LOGGER = logging.getLogger("bids_semantoks")


def standardise(
    table: NDArray[np.floating[Any]], *, repetition_time: float, n_dummy: int, target: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Turn the table of a run into what is packed, by the steps that windows are cut with.

    Parameters
    ----------
    table : NDArray, shape (T, P)
        Cleaned signals; rows of dropped volumes and columns of absent parcels are NaN.
    repetition_time : float
        Seconds between rows.
    n_dummy : int
        Leading dummy volumes among the dropped.
    target : float
        The encoder's repetition time in seconds.

    Returns
    -------
    values : NDArray, float32, shape (T', P)
        Resampled and z-scored over the run; absent parcels are zero.
    present : NDArray, bool, shape (P,)
        Parcels that have a signal.

    Raises
    ------
    RunSkipped
        When no volume has signals, or the run lasts less than one sample.
    """
    signals = np.asarray(table, dtype=np.float64)[n_dummy:]
    present: NDArray[np.bool_] = np.asarray(~np.isnan(signals).all(axis=0))
    kept = np.asarray(~np.isnan(signals[:, present]).any(axis=1))
    if not present.any() or not kept.any():
        raise RunSkipped("too_few_kept", f"None of {len(table)} volumes has signals in all present parcels.")
    if not np.isfinite(signals[kept][:, present]).all():
        raise RunSkipped("no_content", "The table holds infinite values.")
    complete = interpolate_dropped(signals[:, present], kept)
    resampled = resample(complete, repetition_time, target)
    if not len(resampled):
        raise RunSkipped("too_short", f"{len(complete)} volumes give no sample of {target:g} s.")
    values = np.zeros((len(resampled), table.shape[1]), dtype=np.float32)
    values[:, present] = zscore(resampled)
    return values, present


class TableReader:
    """Reads the tables of stored runs, in whichever process.

    Parameters
    ----------
    order : tuple of int, length P
        Position in the atlas of each parcel of the encoder.
    parcels : tuple of str
        The atlas' parcels.
    target : float
        The encoder's repetition time in seconds.
    """

    def __init__(self, order: tuple[int, ...], parcels: tuple[str, ...], target: float) -> None:
        self.order = list(order)
        self.parcels = parcels
        self.target = target

    def __call__(self, source: SignalSource) -> PackedRun | str:
        """Read one run.

        Parameters
        ----------
        source : SignalSource
            Its ``where`` is a `StoredRun`.

        Returns
        -------
        PackedRun or str
            The run, or why it cannot be trained on.
        """
        stored: StoredRun = source.where
        path, sidecar = stored.paths.signals, stored.sidecar
        try:
            parcels, table = read_signals(stored.paths)
            if parcels != self.parcels:
                return f"{path} has {len(parcels)} parcels that are not the {len(self.parcels)} of the atlas"
            values, present = standardise(
                table[:, self.order],
                repetition_time=sidecar["RepetitionTime"],
                n_dummy=sidecar["VolumesDropped"]["Dummy"]["Count"],
                target=self.target,
            )
        except (RunSkipped, OSError, ValueError) as error:
            return f"{path}: {error}"
        return PackedRun(
            key=source.key,
            participant=source.participant,
            repetition_time=float(sidecar["RepetitionTime"]),
            values=values,
            present=present,
        )


def pack_file(
    store: SignalStore,
    data: TrainingData,
    file: SignalsFile,
    *,
    target: float,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Pack the participants of an HDF5 file, block by block.

    Parameters
    ----------
    store : SignalStore
        Where to; its parcels are those of the file.
    data : TrainingData
        From `describe_file`.
    file : SignalsFile
        From `describe_file`.
    target : float
        Repetition time in seconds.
    is_wanted : callable
        Asked before a row is read; when it says no, what was read before is packed and that is all.
    """
    by_row = {source.where: source for source in data.sources if source.key not in store}
    if not by_row:
        return
    LOGGER.info("Packing %d of %d runs of %s into %s.", len(by_row), len(data.sources), file.path, store.directory)
    store.add(itertools.takewhile(lambda _: is_wanted(), _read_rows(by_row, file, target)))


def _read_rows(by_row: Mapping[int, SignalSource], file: SignalsFile, target: float) -> Iterator[PackedRun]:
    for block in iterate_blocks(file, rows=by_row.keys()):
        for row, (table, problem) in enumerate(zip(block.signals, block.problems, strict=True), start=block.start):
            source = by_row.get(row)
            if source is None:
                continue
            try:
                if problem:
                    raise RunSkipped("no_content", f"{problem}.")
                values, present = standardise(table, repetition_time=target, n_dummy=0, target=target)
            except RunSkipped as error:
                LOGGER.warning("Left out of the training: participant %s, row %d: %s", source.participant, row, error)
                continue
            yield PackedRun(
                key=source.key,
                participant=source.participant,
                repetition_time=target,
                values=values,
                present=present,
            )


Reader = Callable[[SignalSource], PackedRun | str]


def pack_missing(
    store: SignalStore,
    sources: Sequence[SignalSource],
    build_reader: Callable[..., Reader],
    arguments: tuple[Any, ...],
    *,
    n_procs: int,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Pack the runs that the store lacks; what cannot be read is left out and named.

    Parameters
    ----------
    store : SignalStore
        Where to.
    sources : sequence of SignalSource
        All runs to train on.
    build_reader : callable
        Called once in each process with `arguments`.
    arguments : tuple
        Picklable.
    n_procs : int
        Processes that read.
    is_wanted : callable
        Asked before a run is read; when it says no, what was read before is packed and that is all.
    """
    missing = [source for source in sources if source.key not in store]
    if not missing:
        return
    LOGGER.info("Packing %d of %d runs into %s.", len(missing), len(sources), store.directory)
    results = run_jobs(build_reader, arguments, missing, n_procs=n_procs, is_wanted=is_wanted)
    store.add(_keep_readable(results, missing))


def _keep_readable(results: Iterator[tuple[int, Any]], missing: Sequence[SignalSource]) -> Iterator[PackedRun]:
    for i, result in results:
        if isinstance(result, PackedRun):
            yield result
            continue
        reason = f"participant {missing[i].participant}: {result}" if isinstance(result, WorkerDied) else result
        LOGGER.warning("Left out of the training: %s.", str(reason).rstrip("."))


def select_packed(store: SignalStore, sources: Sequence[SignalSource]) -> SignalView:
    """Choose what was packed of the runs to train on.

    Parameters
    ----------
    store : SignalStore
        Filled by `pack_missing`.
    sources : sequence of SignalSource
        All runs to train on.

    Returns
    -------
    SignalView
        Those that could be read, in the order of their keys, whatever the order on disk.

    Raises
    ------
    InputError
        When none could be read.
    """
    keys = sorted({source.key for source in sources if source.key in store})
    if not keys:
        raise InputError(
            f"None of {len(sources)} runs has signals to train on.", hint="The warnings above say why for each."
        )
    return store.select(keys)
