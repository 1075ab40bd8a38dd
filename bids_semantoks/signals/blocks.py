"""Volumes that show the response to a task block, and windows that hold one block each.
T volumes of a run at the encoder's repetition time, P parcels, B blocks, W volumes in a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from bids_semantoks.records import Windows

#: Share of a lasting response above which a volume belongs to a block.
THRESHOLD: Final = 0.1
_STEP: Final = 0.05
_TAIL: Final = 32.0
#: Seconds after which a response does not change until its block ends.
_STEADY: Final = 64.0


def compute_response(times: NDArray[np.float64], duration: float) -> NDArray[np.float64]:
    """Compute the haemodynamic response to a block, 1 at a long block's plateau: times (n,) in s after onset -> (n,).

    Difference of gamma densities (shapes 6 and 16, scale 1 s, ratio 1/6) of Friston et al. (1998), NeuroImage 7, 30-40.
    """

    def integrate(t: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the response to a block that starts at 0 and never ends."""
        late = np.maximum(t, 0)
        return np.asarray((gammainc(6, late) - gammainc(16, late) / 6) / (1 - 1 / 6))

    return integrate(times) - integrate(times - duration)


def find_block_times(duration: float) -> tuple[float, float] | None:
    """Find the first and last second after onset with a response above a tenth of a long block's plateau; None where
    a block is too brief to get there."""
    shorter = min(duration, _STEADY)
    times = np.arange(0, shorter + _TAIL, _STEP)
    above = np.flatnonzero(compute_response(times, shorter) > THRESHOLD)
    return (float(times[above[0]]), float(times[above[-1]]) + duration - shorter) if len(above) else None


def find_block_volumes(
    onsets: Sequence[float],
    durations: Sequence[float],
    *,
    n_volumes: int,
    repetition_time: float,
    start: float,
    longest: int,
) -> list[tuple[int, int] | None]:
    """Find the first volume and the number of volumes of each block; no volume belongs to two blocks.

    `onsets` (ascending) and `durations` are in seconds from the run's first volume; volume 0 here is at `start` on that
    clock. A block is cut to its first `longest` volumes. None where a block is too brief, or its response starts
    outside these volumes.
    """
    spans: list[tuple[float, float] | None] = []
    for onset, duration in zip(onsets, durations, strict=True):
        span = find_block_times(duration)
        spans.append(None if span is None else (onset - start + span[0], onset - start + span[1]))
    found: list[tuple[int, int] | None] = []
    for number, span in enumerate(spans):
        if span is None:
            found.append(None)
            continue
        first = int(np.ceil(span[0] / repetition_time - 1e-9))
        end = int(np.floor(span[1] / repetition_time + 1e-9)) + 1
        # The response to a block outlasts it: the next one's volumes are the next one's.
        later = [other[0] for other in spans[number + 1 :] if other is not None]
        if later:
            end = min(end, int(np.ceil(min(later) / repetition_time - 1e-9)))
        end = min(end, first + longest, n_volumes)
        found.append((first, end - first) if first >= 0 and end > first else None)
    return found


def build_block_windows(
    signals: NDArray[np.float32],
    present: NDArray[np.bool_],
    blocks: Sequence[tuple[int, int]],
    *,
    window: int,
    patch: int,
    repetition_time: float,
    last: bool,
) -> Windows:
    """Build a window per block, signals (T, P) -> (B, W, P): the block in the first or `last` patch, zeros elsewhere.

    `signals` are z-scored over the run; `blocks` gives the first volume and the number of volumes, a patch at most, of
    each. All patches but the block's are to be masked.
    """
    values = np.zeros((len(blocks), window, signals.shape[1]), dtype=np.float32)
    offset = window - patch if last else 0
    for number, (first, length) in enumerate(blocks):
        values[number, offset : offset + length] = signals[first : first + length]
    lengths = np.array([length for _, length in blocks], dtype=np.int64)
    return Windows(
        values=values,
        n_real=offset + lengths,
        present=present,
        onset=np.array([first * repetition_time for first, _ in blocks]),
        duration=patch * repetition_time,
        kept=lengths / patch,
    )
