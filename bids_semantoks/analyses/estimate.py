"""Estimate memory and time of probes in advance, so that a call that cannot fit is refused at once, not after hours.
Shape letters: n rows, t rows that train, d features, r axes of a span, k classes. Counts of operations are those of the
solvers in `statistics`, seconds are theirs on this machine."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import ResourceError, name_count
from bids_semantoks.runtime.logs import describe_seconds
from bids_semantoks.runtime.resources import count_cpus, find_memory_limit
from bids_semantoks.statistics.baselines import CONNECTIVITY, OF_SIGNALS
from bids_semantoks.statistics.linear import N_INNER_FOLDS, PENALTIES
from bids_semantoks.statistics.spans import Features, SharedSpans
from bids_semantoks.statistics.splits import ROLES

LOGGER = logging.getLogger("bids_semantoks")
_Result = TypeVar("_Result")
_Work = Callable[[Features, Sequence[Design]], list[_Result]]


class SharedFolds:
    """Results of the nested protocol that wait until their phenotype is requested, and spans of the latest features.
    `designs` are still to be probed; `stays` tells of features whether they live as long as this."""

    def __init__(self, designs: Sequence[Design], *, stays: Callable[[Features], bool]) -> None:
        self.designs, self._stays = designs, stays
        self._waiting: dict[tuple[str, int, int], Any] = {}
        self._spans: SharedSpans | None = None

    def compute(self, what: str, work: _Work[_Result], features: Features, design: Design) -> _Result:
        """Compute predictions or the test of a phenotype by `work`, and with it those that share its folds."""
        if not self._stays(features):
            return work(features, [design])[0]
        if self._spans is None or self._spans.features is not features:
            self._spans = SharedSpans(features)
        if not any(design is one for one in self.designs):
            return work(self._spans, [design])[0]
        # Both live as long as this: no other object has their identity.
        key = what, id(features), id(design)
        if key not in self._waiting:
            designs = find_sharing(design, self.designs)
            for one, result in zip(designs, work(self._spans, designs), strict=True):
                self._waiting[what, id(features), id(one)] = result
        waiting: _Result = self._waiting.pop(key)
        return waiting


def find_sharing(design: Design, others: Sequence[Design], *, whatever_splits: bool = False) -> list[Design]:
    """Find the designs with the same rows, splits, groups and covariates as one of them, which comes first; with
    `whatever_splits` those that could have the same splits, as a value of the same rows is known."""
    return [design, *(one for one in others if one is not design and _is_shared(one, design, whatever_splits))]


def _is_shared(first: Design, second: Design, whatever_splits: bool) -> bool:
    if first.rows.keys != second.rows.keys:
        return False
    same: list[tuple[Any, Any]] = [(first.covariates, second.covariates), (first.groups, second.groups)]
    if whatever_splits:
        same.append((np.isnan(first.target.values), np.isnan(second.target.values)))
    elif [(one.repetition, one.fold) for one in first.splits] != [(one.repetition, one.fold) for one in second.splits]:
        return False
    else:
        pairs = zip(first.splits, second.splits, strict=True)
        same += [(getattr(one, role), getattr(other, role)) for one, other in pairs for role in ROLES]
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in same)


WIDTH: Final = 1536  # width of the embedding of the published encoder

_BASE_BYTES: Final = 700 * 2**20  # of the program with its libraries
_SAMPLE_CELLS: Final = 20_000_000  # to which tables of bootstrap samples are held, as shared spans are to these bytes
_SPAN_BYTES: Final = 2**30
_TABLE_CELLS: Final = 10_000_000
_N_BOOTSTRAP: Final = 2000
_N_TANGENT: Final = 100  # principal components of the tangent space

#: Steps of Newton and conjugate gradients that a logistic fit takes, together: 60 with many people, 240 where there are
#: as many numbers as people, which can always be told apart.
_N_STEPS: Final = 150

#: Seconds on a CPU of 50 billion operations a second, for what is not counted in operations.
_CELL_SECONDS: Final = 0.32e-6  # a number in a table of text
_EMBEDDING_SECONDS: Final = 3e-3  # an embedding of eight windows
_ENTRY_SECONDS: Final = 6e-8  # an entry of a covariance
_CORRELATION_SECONDS: Final = 2e-8
_TANGENT_SECONDS: Final = 4e-3  # the tangent vector of a row in a fold
_PASS_SECONDS: Final = 1e-8  # a number of a table that is scaled
_STEP_SECONDS: Final = 2e-8  # a number in a step of a logistic fit
_DRAW_SECONDS: Final = 15e-9  # a row of a bootstrap sample, drawn, and scored for a metric and a repetition
_SCORE_SECONDS: Final = 20e-9

_WORTH_SAYING: Final = 0.6  # with so much less time --same-splits is worth to be named


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Resources needed by probes."""

    kept_bytes: int  # features and what is in memory in addition to a fold
    fold_bytes: int  # of one fold
    seconds: float  # on one CPU

    def count_bytes(self, n_threads: int) -> int:
        """Estimate the memory where `n_threads` folds are worked on at once."""
        return self.kept_bytes + n_threads * self.fold_bytes


def list_widths(encoder: RunEncoder | None, others: Sequence[RunEncoder] = ()) -> tuple[int, ...]:
    """List how many numbers the embedding of each readout has, that of the encoder first; without an encoder those of
    the published one."""
    if encoder is None:
        return (WIDTH,)
    return tuple(readout.frozen.n_dims for one in (encoder, *others) for readout in one.readouts)


def check_resources(plan: ProbePlan, n_parcels: int, widths: Sequence[int] = (WIDTH,)) -> None:
    """Log the resources that the probes need; ResourceError with the estimate if they are not available."""
    plan = plan.choose_part()
    if not plan.designs:
        return
    found, (limit, where) = estimate(plan, n_parcels, widths), find_memory_limit(plan.config.running)
    n_rows = max(len(design.rows.keys) for _, design in plan.designs)
    n_threads = choose_fold_threads(plan, n_parcels, widths)
    asked, needed = plan.config.probing, found.count_bytes(n_threads) / 2**30
    what = f"{n_rows} rows, {name_count(len(plan.designs), 'phenotype')}"
    if found.count_bytes(1) > limit:
        wide = [name for name in CONNECTIVITY if name in asked.baselines]
        others = [name for name in asked.baselines if name not in wide] or ["none"]
        hint = "Increase --mem or use a machine with more memory."
        if wide and estimate(plan, n_parcels, widths, without=wide).count_bytes(1) <= limit:
            hint = (
                f"{', '.join(wide)} are exact and grow with the square of the number of rows; omit them with "
                f"--baselines {' '.join(others)}, or provide more memory."
            )
        raise ResourceError(
            f"Probing needs about {found.count_bytes(1) / 2**30:.1f} GB of memory ({what}), found "
            f"{limit / 2**30:.1f} GB ({where}).",
            hint=hint,
        )
    LOGGER.info(
        "Probing (%s) needs about %.1f GB of memory and takes %s on %s; available memory: %.1f GB (%s).",
        *(what, needed, describe_seconds(found.seconds / n_threads), name_count(n_threads, "CPU")),
        *(limit / 2**30, where),
    )
    shared = estimate(plan, n_parcels, widths, shares_all=True).seconds
    if shared < _WORTH_SAYING * found.seconds and not (asked.splits or asked.leave_out or asked.same_splits):
        LOGGER.info("With --same-splits it would take about %s.", describe_seconds(shared / n_threads))


def choose_fold_threads(plan: ProbePlan, n_parcels: int, widths: Sequence[int] = (WIDTH,)) -> int:
    """Choose the number of parallel folds: one per CPU, or fewer if memory is limited."""
    if not plan.designs:
        return 1
    running, found = plan.config.running, estimate(plan, n_parcels, widths, with_seconds=False)
    limit, _ = find_memory_limit(running)
    fitting = int((limit - found.kept_bytes) // max(found.fold_bytes, 1))
    return max(1, min(running.n_procs or count_cpus(), fitting))


def estimate(
    plan: ProbePlan,
    n_parcels: int,
    widths: Sequence[int] = (WIDTH,),
    *,
    without: Sequence[str] = (),
    with_seconds: bool = True,
    shares_all: bool = False,
) -> Estimate:
    """Estimate what all models of a plan take on all phenotypes, leaving out the baselines `without`. `widths` are
    those of `list_widths`; with `shares_all` as if phenotypes of the same participants had the same splits."""
    asked, designs = plan.config.probing, [design for _, design in plan.designs]
    names = [name for name in asked.baselines if name not in ("none", *without)]
    n = max(len(design.rows.keys) for design in designs)
    models, kept, making, copied = list[int | None](), _BASE_BYTES, 0, 0
    further = [name for name in names if name in OF_SIGNALS]
    for own, size in ((names, n_parcels), *((further, len(one.atlas[0])) for one in plan.preparations)):
        models += _list_models(own, size, widths, n_seeds=1 + len(asked.replicates))
        kernels = [name for name in ("pearson", "ledoit_wolf") if name in own]
        estimators = {"pearson" if name == "pearson" else "ledoit_wolf" for name in own if name in CONNECTIVITY}
        table = 4 * n * (size * (size + 1) // 2)
        # All tables are there while inner products are made, then only that of the tangent space, beside folds.
        # Where connectivity is harmonised, its tables stay, and each fold has a copy of one.
        copied = max(copied, table * bool(asked.harmonize and kernels))
        kept += table * ("tangent" in own) + (table if asked.harmonize else 8 * n**2) * len(kernels)
        making = max(making, kept + table * (len(estimators) - ("tangent" in own)))
    kept += sum(8 * n * width for width in models if width)
    kept += 8 * 4 * min(_N_BOOTSTRAP * n, _SAMPLE_CELLS)
    largest = max(_count_fold_bytes(design, width) for design in designs for width in models)
    if "tangent" in names:
        size = min(_N_TANGENT, n_parcels)
        largest = max(largest, 8 * n * size * size * 3 // 2 + _count_fold_bytes(designs[0], None))
    largest += copied
    spans = max(8 * math.prod(_count_sides(design, width)) * 6 for design in designs for width in models)
    kept += min(spans, _SPAN_BYTES)
    kept = max(kept, making - largest)
    seconds = _estimate_seconds(plan, models, shares_all) if with_seconds else 0.0
    return Estimate(kept_bytes=kept, fold_bytes=largest, seconds=seconds)


def _list_models(names: Sequence[str], n_parcels: int, widths: Sequence[int], *, n_seeds: int) -> list[int | None]:
    """List the features of each model; None for kernels, which have as many axes as rows."""
    found: list[int | None] = [*widths] * n_seeds
    for name in names:
        if name in CONNECTIVITY:
            found.append(None)
        elif name == "random":
            found += [widths[0]] * n_seeds
        else:
            found.append(2 * n_parcels if name == "parcel_moments" else 3 * (name != "chance"))
    return found


def _count_sides(design: Design, width: int | None) -> tuple[int, int]:
    """Count the training rows of the largest fold, and the axes of their span."""
    t = max(len(split.train) + len(split.validation) for split in design.splits)
    return t, t if width is None else min(width, t)


def _count_fold_bytes(design: Design, width: int | None) -> int:
    """Count the bytes of a fold: its rows, decomposed, and the problems that are solved together."""
    t, r = _count_sides(design, width)
    wide = 7 * t * t if r == t else 0
    narrow = 3 * t * (width or 0)
    classes = len(design.target.class_names) if design.target.is_class else 0
    columns = len(PENALTIES) * (classes if classes > 2 else 1)
    # A Newton step holds about twenty tables of rows x problems.
    solved = 20 * min(N_INNER_FOLDS * columns * t, max(_TABLE_CELLS, columns * t)) if classes else 4 * _TABLE_CELLS
    return 8 * (wide + narrow + min(solved, 20 * N_INNER_FOLDS * columns * t))


def _estimate_seconds(plan: ProbePlan, models: Sequence[int | None], shares_all: bool) -> float:
    product, eigen = _time_operations()
    asked, designs = plan.config.probing, [design for _, design in plan.designs]
    names, seen = [] if asked.baselines == ("none",) else asked.baselines, set[int]()
    n_tests = N_INNER_FOLDS if asked.n_permutations else 0
    total = _estimate_reading(designs[0], names, models, product)
    for design in designs:
        # Those that share the decompositions of another are not decomposed again, nor values solved again.
        is_new = id(design) not in seen
        seen |= {id(one) for one in find_sharing(design, designs, whatever_splits=shares_all)}
        n_classes = len(design.target.class_names) if design.target.is_class else 0
        n_folds = len(design.splits) + n_tests * (n_classes > 0)
        for width in models:
            total += is_new * n_folds * _estimate_span(design, width, product, eigen)
            if n_classes or is_new:
                total += _estimate_solving(design, width, n_classes, asked.n_permutations, product)
            total += _estimate_scoring(design, n_classes, asked.n_permutations, width, product)
        if "tangent" in names and is_new:
            total += n_folds * len(design.rows.keys) * _TANGENT_SECONDS
    # Motion, and the site with all its classes, are predicted from the embedding as well.
    n_sites = len(set(plan.columns[plan.site].values.values())) if plan.site else 0
    for n_classes in (0, n_sites) if n_sites else (0,):
        design, times = designs[0], 2 if asked.covariate else 1
        total += times * (len(design.splits) + n_tests) * _estimate_span(design, models[0], product, eigen)
        total += times * _estimate_solving(design, models[0], n_classes, asked.n_permutations, product)
        total += times * _estimate_scoring(design, n_classes, asked.n_permutations, models[0], product)
    return total


def _estimate_reading(design: Design, names: Sequence[str], models: Sequence[int | None], product: float) -> float:
    """Estimate the seconds of reading tables and of computing connectivity."""
    runs = [run for own in design.rows.runs for run in own]
    parcels = [int(run.sidecar["Atlas"]["Parcels"]) for run in runs]
    n_cells = sum(run.sidecar["VolumesTotal"] * own for run, own in zip(runs, parcels, strict=True))
    wide = [name for name in CONNECTIVITY if name in names]
    total = _CELL_SECONDS * n_cells * bool(wide or "parcel_moments" in names)
    n_readouts = sum(width is not None and width > 3 for width in models) - ("parcel_moments" in names)
    total += n_readouts * len(runs) * _EMBEDDING_SECONDS
    n_estimators = len({"pearson" if name == "pearson" else "ledoit_wolf" for name in wide})
    n, n_parcels = len(design.rows.keys), parcels[0] if parcels else 0
    total += n_estimators * _ENTRY_SECONDS * len(runs) * n_parcels**2
    n_kernels = sum(name != "tangent" for name in wide)
    return float(total + n_kernels * n * n_parcels**2 / 2 * (n * product + _CORRELATION_SECONDS))


def _estimate_span(design: Design, width: int | None, product: float, eigen: float) -> float:
    """Estimate the seconds of decomposing the training rows of a fold."""
    t, r = _count_sides(design, width)
    return eigen * r**3 + (product * 2 * t * t * r if r == t else t * r * (3 * r * product + _PASS_SECONDS))


def _estimate_solving(design: Design, width: int | None, n_classes: int, n_permutations: int, product: float) -> float:
    """Estimate the seconds of choosing penalties in inner folds and of fits, in all folds and in a permutation test."""
    (t, r), n_folds = _count_sides(design, width), len(design.splits)
    if n_classes:
        columns = N_INNER_FOLDS * len(PENALTIES) * (n_classes if n_classes > 2 else 1)
        return n_folds * columns * _N_STEPS * (4 * t * r * product + (t + r) * _STEP_SECONDS)
    left_out = t / N_INNER_FOLDS
    if left_out <= r:  # a system of the rows left out for each penalty
        once = N_INNER_FOLDS * len(PENALTIES) * (left_out**3 / 2 + left_out**2 * r)
    else:  # or one of the axes
        once = N_INNER_FOLDS * (left_out * r**2 + len(PENALTIES) * r**3 / 2)
    return float((n_folds + (N_INNER_FOLDS if n_permutations else 0)) * once * product)


def _estimate_scoring(design: Design, n_classes: int, n_permutations: int, width: int | None, product: float) -> float:
    """Estimate the seconds of predicting permutations and of drawing and scoring bootstrap samples."""
    n, (t, r) = len(design.rows.keys), _count_sides(design, width)
    n_columns = n_permutations * (n_classes if n_classes > 2 else 1)
    permuting = N_INNER_FOLDS * n_columns * len(PENALTIES) * 4 * t * r * product
    n_repeats = max(split.repetition for split in design.splits) + 1
    return permuting + _N_BOOTSTRAP * n * (_DRAW_SECONDS + n_repeats * max(n_classes, 1) * _SCORE_SECONDS)


def _time_operations() -> tuple[float, float]:
    """Measure, on one CPU, the seconds of one operation of a product, and of decomposing a matrix by its size cubed."""
    values = np.random.default_rng(0).standard_normal((400, 400))
    values = values + values.T
    found = []
    for work, size in ((lambda: values @ values, 2 * 400.0**3), (lambda: np.linalg.eigh(values), 400.0**3)):
        seconds = []
        # Threads that wait for each other would count; the quickest is that which other programs disturbed least.
        with threadpool_limits(1):
            for _ in range(5):
                started = time.thread_time()
                work()
                seconds.append(time.thread_time() - started)
        found.append(min(seconds) / size)
    return found[0], found[1]
