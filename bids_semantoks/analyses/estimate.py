"""Memory and time that probes take, estimated before any work: what cannot fit is refused at once, not after hours.

Shape letters: n rows, t rows that train, d features, r axes of a span, k classes. Counts of operations are those of the
solvers in `statistics`, seconds are theirs on this machine.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Sequence
from typing import Final

import numpy as np

from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.analyses.sharing import find_sharing
from bids_semantoks.config.group import ProbingConfig
from bids_semantoks.errors import ResourceError
from bids_semantoks.runtime.progress import describe_seconds
from bids_semantoks.runtime.resources import count_cpus, find_memory_limit
from bids_semantoks.statistics.baselines import CONNECTIVITY, OF_SIGNALS
from bids_semantoks.statistics.linear import N_INNER_FOLDS, PENALTIES

LOGGER = logging.getLogger("bids_semantoks")

#: Numbers an embedding has at most: that of the published encoder.
WIDTH: Final = 1536

#: The program with its libraries, and tables of bootstrap samples and shared spans, which are held to a size.
_BASE_BYTES: Final = 700 * 2**20
_SAMPLE_CELLS: Final = 20_000_000
_SPAN_BYTES: Final = 2**30
_TABLE_CELLS: Final = 10_000_000

_N_BOOTSTRAP: Final = 2000

#: Steps of Newton and conjugate gradients that a logistic fit takes, together; measured on noise and on effects.
_N_STEPS: Final = 60

#: Principal components of the tangent space.
_N_TANGENT: Final = 100


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What probes take."""

    kept_bytes: int  # features and what is held beside a fold
    fold_bytes: int  # of one fold
    seconds: float  # on one CPU

    def count_bytes(self, n_threads: int) -> int:
        """Estimate the memory where `n_threads` folds are worked on at once."""
        return self.kept_bytes + n_threads * self.fold_bytes


def check_resources(plan: ProbePlan, n_parcels: int) -> None:
    """Say what the probes take, and refuse what cannot fit: ResourceError with the estimate."""
    found, (limit, where) = estimate(plan, n_parcels), find_memory_limit(plan.config.running)
    n_rows = max(len(design.rows.keys) for _, design in plan.designs)
    n_threads = choose_fold_threads(plan, n_parcels)
    asked, needed = plan.config.probing, found.count_bytes(n_threads) / 2**30
    what = f"{n_rows} rows, {_count(len(plan.designs), 'phenotype')}"
    if found.count_bytes(1) > limit:
        wide = [name for name in CONNECTIVITY if name in asked.baselines]
        others = [name for name in asked.baselines if name not in wide] or ["none"]
        hint = "Give more memory by --mem or another machine."
        if wide and estimate(plan, n_parcels, without=wide).count_bytes(1) <= limit:
            hint = (
                f"{', '.join(wide)} are exact and grow with the square of the rows; leave them out by --baselines "
                f"{' '.join(others)}, or give more memory."
            )
        raise ResourceError(
            f"Probing takes about {found.count_bytes(1) / 2**30:.1f} GB of memory ({what}), found "
            f"{limit / 2**30:.1f} GB ({where}).",
            hint=hint,
        )
    LOGGER.info(
        "Probing (%s) takes about %.1f GB of memory, and %s on %s; of memory there are %.1f GB (%s).",
        *(what, needed, describe_seconds(found.seconds / n_threads), _count(n_threads, "CPU"), limit / 2**30, where),
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def choose_fold_threads(plan: ProbePlan, n_parcels: int) -> int:
    """Choose how many folds are worked on at once: one a CPU, or fewer where memory has room for fewer."""
    if not plan.designs:
        return 1
    running, found = plan.config.running, estimate(plan, n_parcels, with_seconds=False)
    limit, _ = find_memory_limit(running)
    fitting = int((limit - found.kept_bytes) // max(found.fold_bytes, 1))
    return max(1, min(running.n_procs or count_cpus(), fitting))


def estimate(plan: ProbePlan, n_parcels: int, *, without: Sequence[str] = (), with_seconds: bool = True) -> Estimate:
    """Estimate what all models of a plan take on all phenotypes, leaving out the baselines `without`."""
    asked, designs = plan.config.probing, [design for _, design in plan.designs]
    names = [name for name in asked.baselines if name not in ("none", *without)]
    n, kept = max(len(design.rows.keys) for design in designs), _BASE_BYTES
    widths: list[int | None] = []
    further = [name for name in names if name in OF_SIGNALS]
    for own, size in ((names, n_parcels), *((further, len(one.atlas[0])) for one in plan.preparations)):
        widths += _list_widths(own, size, n_encoders=1 + len(asked.replicates))
        kernels = [name for name in ("pearson", "ledoit_wolf") if name in own]
        estimators = {"pearson" if name == "pearson" else "ledoit_wolf" for name in own if name in CONNECTIVITY}
        # While they are made, one table stands beside its parts.
        kept += 4 * n * (size * (size + 1) // 2) * (len(estimators) + bool(estimators)) + 8 * n**2 * len(kernels)
    kept += sum(8 * n * width for width in widths if width)
    kept += 8 * 4 * min(_N_BOOTSTRAP * n, _SAMPLE_CELLS)
    largest = max(_count_fold_bytes(design, width) for design in designs for width in widths)
    if "tangent" in names:
        size = min(_N_TANGENT, n_parcels)
        largest = max(largest, 8 * n * size * size * 4 + _count_fold_bytes(designs[0], None))
    spans = max(8 * _count_train(d) * _count_axes(d, width) * 6 for d in designs for width in widths)
    kept += min(spans, _SPAN_BYTES)
    seconds = _estimate_seconds(asked, designs, widths, "tangent" in names) if with_seconds else 0.0
    return Estimate(kept_bytes=kept, fold_bytes=largest, seconds=seconds)


def _list_widths(names: Sequence[str], n_parcels: int, *, n_encoders: int) -> list[int | None]:
    """List the features of each model; None for kernels, which have as many axes as rows."""
    found: list[int | None] = [WIDTH] * n_encoders
    for name in names:
        if name in CONNECTIVITY:
            found.append(None)
        elif name == "random":
            found += [WIDTH] * n_encoders
        else:
            found.append(2 * n_parcels if name == "parcel_moments" else 3 * (name != "chance"))
    return found


def _count_train(design: Design) -> int:
    return max(len(split.train) + len(split.validation) for split in design.splits)


def _count_axes(design: Design, width: int | None) -> int:
    n_train = _count_train(design)
    return n_train if width is None else min(width, n_train)


def _count_fold_bytes(design: Design, width: int | None) -> int:
    """Count the bytes of a fold: its rows, decomposed, and the problems that are solved together."""
    t, r = _count_train(design), _count_axes(design, width)
    wide = 7 * t * t if r == t else 0
    narrow = 6 * t * (width or 0)
    classes = len(design.target.class_names) if design.target.is_class else 0
    columns = len(PENALTIES) * (classes if classes > 2 else 1)
    # A Newton step holds about twenty tables of rows x problems.
    solved = 20 * min(N_INNER_FOLDS * columns * t, max(_TABLE_CELLS, columns * t)) if classes else 4 * _TABLE_CELLS
    return 8 * (wide + narrow + min(solved, 20 * N_INNER_FOLDS * columns * t))


def _estimate_seconds(
    asked: ProbingConfig, designs: Sequence[Design], widths: Sequence[int | None], has_tangent: bool
) -> float:
    product, eigen = _time_operations()
    total, seen = 0.0, set[int]()
    for design in designs:
        # Those that share the decompositions of another are not decomposed again.
        is_new = id(design) not in seen
        seen |= {id(one) for one in find_sharing(design, designs)}
        n, t = len(design.rows.keys), _count_train(design)
        n_folds = len(design.splits) + (N_INNER_FOLDS if asked.n_permutations and design.target.is_class else 0)
        for width in widths:
            r = _count_axes(design, width)
            span = eigen * r**3 + product * (2 * t * t * r if r == t else 4 * t * r * r)
            total += is_new * n_folds * span + len(design.splits) * product * _count_solving(design, t, r)
            total += asked.n_permutations * len(PENALTIES) * N_INNER_FOLDS * 4 * t * r * product
            # Samples are drawn in 15 ns a cell, and scored by sums over folds.
            total += _N_BOOTSTRAP * n * (15e-9 + 60 * len(design.splits) / N_INNER_FOLDS * product)
        if has_tangent and is_new:
            total += n_folds * n * 2 * eigen * _N_TANGENT**3
    return total


def _count_solving(design: Design, t: int, r: int) -> float:
    """Count the operations of choosing a penalty in the inner folds of t rows and r axes, and of the fit."""
    if design.target.is_class:
        classes = len(design.target.class_names)
        columns = N_INNER_FOLDS * len(PENALTIES) * (classes if classes > 2 else 1)
        return float(4 * t * r * columns * _N_STEPS)
    left_out = t / N_INNER_FOLDS
    if left_out <= r:  # a system of the rows left out for each penalty
        return N_INNER_FOLDS * len(PENALTIES) * (left_out**3 + 2 * left_out**2 * r)
    return N_INNER_FOLDS * (2 * left_out * r**2 + len(PENALTIES) * r**3)  # or one of the axes


def _time_operations() -> tuple[float, float]:
    """Measure, on one CPU, the seconds of one operation of a product, and of decomposing a matrix by its size cubed."""
    values = np.random.default_rng(0).standard_normal((400, 400))
    values = values + values.T
    found = []
    for work, size in ((lambda: values @ values, 2 * 400.0**3), (lambda: np.linalg.eigh(values), 400.0**3)):
        started = time.thread_time()
        for _ in range(3):
            work()
        found.append((time.thread_time() - started) / 3 / size)
    return found[0], found[1]
