"""Pack signals for training: each run is read, standardised and stored once."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.errors import InputError, RunFailed, RunSkipped, name_some
from bids_semantoks.inputs.hdf5 import SignalsFile, iterate_runs
from bids_semantoks.outputs.store import StoredRun, read_signals
from bids_semantoks.pretraining.plan import SignalSource, TrainingData
from bids_semantoks.records import Bools
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.runtime.processes import WorkerDied, run_jobs
from bids_semantoks.signals.cleaning import count_padding
from bids_semantoks.signals.filters import fill_gaps
from bids_semantoks.signals.windows import resample, select_signals, zscore
from bids_semantoks.training.packed import PackedRun, SignalStore, SignalView

LOGGER = logging.getLogger("bids_semantoks")


def standardise(
    table: NDArray[np.floating[Any]], *, repetition_time: float, n_dummy: int, target: float
) -> tuple[NDArray[np.float32], Bools]:
    """Resample a run's table to `target` and z-score it for training, by the same steps as windows.

    `table` (T, P) is NaN in dropped rows and absent parcels, its first `n_dummy` rows are dummy volumes; times are
    in seconds. Returns values (T', P), zero in absent parcels, and which parcels are present (P,). Raises
    RunSkipped too_few_kept, no_content or too_short.
    """
    signals, present, kept = select_signals(table, n_dummy)
    complete = fill_gaps(signals, kept)
    resampled = resample(complete, repetition_time, target)
    if not len(resampled):
        raise RunSkipped("too_short", f"{len(complete)} volumes are too short to resample to {target:g} s.")
    values = np.zeros((len(resampled), table.shape[1]), dtype=np.float32)
    values[:, present] = zscore(resampled)
    return values, present


def _standardise_run(
    source: SignalSource, table: NDArray[np.floating[Any]], *, repetition_time: float, n_dummy: int, target: float
) -> PackedRun:
    values, present = standardise(table, repetition_time=repetition_time, n_dummy=n_dummy, target=target)
    return PackedRun(
        key=source.key, participant=source.participant, repetition_time=repetition_time, values=values, present=present
    )


class TableReader:
    """Reads stored runs in any process: `order` (P,) is the atlas position of
    each encoder parcel, `target` is in seconds."""

    def __init__(self, order: list[int], parcels: tuple[str, ...], target: float) -> None:
        self.order, self.parcels, self.target = order, parcels, target

    def __call__(self, source: SignalSource) -> PackedRun | str:
        """Read one run whose ``where`` is a `StoredRun`; return why if it cannot be trained on."""
        stored: StoredRun = source.where
        path = stored.paths.signals
        try:
            parcels, table = read_signals(stored.paths, stored.sidecar)
            if parcels != self.parcels:
                return f"{path} has {len(parcels)} parcels that differ from the {len(self.parcels)} of the atlas"
            return _standardise_run(
                source,
                table[: len(table) - stored.n_padding, self.order],
                repetition_time=stored.repetition_time,
                n_dummy=stored.n_dummy,
                target=self.target,
            )
        except RunFailed as error:
            return error.message
        except (RunSkipped, OSError, ValueError) as error:
            return f"{path}: {error}"


def _read_rows(missing: Sequence[SignalSource], file: SignalsFile, target: float) -> Iterator[PackedRun]:
    """Read rows of an HDF5 file, block by block."""
    by_row = {source.where: source for source in missing}
    for row, table, problem in iterate_runs(file, rows=by_row.keys()):
        source = by_row.get(row)
        if source is None:
            continue
        try:
            if problem:
                raise RunSkipped("no_content", f"{problem}.")
            if n_padding := count_padding(table):
                LOGGER.warning(
                    "Participant %s, row %d: %d volumes at the end have no data (identical values) and are removed.",
                    *(source.participant, row, n_padding),
                    extra={"once": "padding in HDF5"},
                )
            run = _standardise_run(source, table, repetition_time=target, n_dummy=0, target=target)
        except RunSkipped as error:
            LOGGER.warning("Excluded from training:  participant %s, row %d: %s", source.participant, row, error)
            continue
        yield run


def pack_signals(
    store: SignalStore,
    data: TrainingData,
    order: Sequence[int],
    *,
    target: float,
    n_procs: int = 1,
    is_wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Pack the runs that the store lacks; unreadable runs are excluded with a warning. `order` (P,) is the atlas
    position of each encoder parcel in stored tables, `n_procs` how many processes read these; `target` is the
    repetition time in seconds. Once `is_wanted` returns False, reading stops and what was read is packed."""
    missing = [source for source in data.sources if source.key not in store]
    if not missing:
        return
    place = f" of {data.file.path}" if data.file else ""
    LOGGER.info("Packing %d of %d runs%s into %s.", len(missing), len(data.sources), place, store.directory)
    progress = Progress("Packing")
    if data.file is not None:
        rows = itertools.takewhile(lambda _: is_wanted(), _read_rows(missing, data.file, target))
        store.add(progress.each("run", rows, total=len(missing)))
        return
    build_reader = functools.partial(TableReader, list(order), data.parcels, target)
    results = run_jobs(build_reader, missing, n_procs=n_procs, is_wanted=is_wanted)
    store.add(_keep_readable(progress.each("run", results, total=len(missing)), missing))


def _keep_readable(results: Iterator[tuple[int, Any]], missing: Sequence[SignalSource]) -> Iterator[PackedRun]:
    for i, result in results:
        if isinstance(result, PackedRun):
            yield result
            continue
        reason = f"participant {missing[i].participant}: {result}" if isinstance(result, WorkerDied) else result
        LOGGER.warning("Excluded from training:  %s.", str(reason).rstrip("."))


def select_packed(
    store: SignalStore, sources: Sequence[SignalSource], *, min_time: float = 0.0, target: float = 1.0
) -> SignalView:
    """Select the packed runs among `sources`, sorted by key whatever their order on disk; those with less than
    `min_time` seconds, at `target` seconds per volume, are excluded with a warning. InputError if none are left."""
    keys = sorted({source.key for source in sources if source.key in store})
    if keys:
        view = store.select(keys)
        long = view.lengths * target >= min_time * (1 - 1e-9)
        if short := [view.participants[i] for i in np.flatnonzero(~long)]:
            LOGGER.warning(
                "Excluded from training:  %d of %d runs with less than --min-time %g s, of participants %s.",
                *(len(short), len(keys), min_time, name_some(short)),
            )
        keys = [key for key, here in zip(keys, long, strict=True) if here]
    if not keys:
        raise InputError(
            f"None of the {len(sources)} runs has signals to train on.", hint="See the warnings above for the reasons."
        )
    return store.select(keys)
