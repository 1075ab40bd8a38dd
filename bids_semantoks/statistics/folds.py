"""Parallel folds, and decompositions shared between targets predicted from the same rows."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

from threadpoolctl import threadpool_limits

from bids_semantoks.records import Floats, Indices
from bids_semantoks.statistics.spans import Features, Span

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_BYTES = 2**30  # memory for spans that may be needed again: six folds of 5,000 participants and connectivity

_N_THREADS: ContextVar[int] = ContextVar("n_threads", default=1)


@contextlib.contextmanager
def use_threads(n_threads: int) -> Iterator[None]:
    """Let `run_folds` work on this many folds at once. Libraries for linear algebra then use one thread each, whatever
    the number: the partition of a product affects its last digits."""
    token = _N_THREADS.set(n_threads)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            yield
    finally:
        _N_THREADS.reset(token)


def run_folds(
    work: Callable[[_Item], _Result],
    folds: Sequence[_Item],
    *,
    each: Callable[[Sequence[_Item]], Iterable[_Item]] = iter,
) -> list[_Result]:
    """Work on every fold, several at a time within `use_threads`, and return the results in order. `each` yields the
    folds again, and may count them."""
    n_threads = min(_N_THREADS.get(), len(folds))
    if n_threads <= 1:
        return [work(fold) for fold in each(folds)]
    with ThreadPoolExecutor(n_threads) as pool:
        waiting = [pool.submit(work, fold) for fold in folds]
        try:
            return [one.result() for one, _ in zip(waiting, each(folds), strict=True)]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class SharedSpans:
    """Features with a cache of the most recent spans, up to `most_bytes`, for repeated use of the same rows."""

    def __init__(self, features: Features, *, most_bytes: int = _MOST_BYTES) -> None:
        self.features, self.most_bytes = features, most_bytes
        self._kept: OrderedDict[bytes, Span] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Name in reports."""
        return self.features.name

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Compute the span as the features do, or find it."""
        parts = (train, test) if covariates is None else (train, test, covariates)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(str((part.shape, part.dtype.str)).encode() + part.tobytes())
        key = digest.digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        span = self.features.compute_span(train, test, covariates)
        with self._lock:
            self._kept[key] = span
            while self._kept and sum(map(_count_bytes, self._kept.values())) > self.most_bytes:
                self._kept.popitem(last=False)
        return span


def _count_bytes(span: Span) -> int:
    return span.train.nbytes + span.test.nbytes + span.eigenvalues.nbytes
