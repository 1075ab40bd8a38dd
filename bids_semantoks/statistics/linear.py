"""The default protocol: nested cross-validation of ridge or logistic regression, with the penalty chosen inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logit

from bids_semantoks.records import Floats, Indices, Labels
from bids_semantoks.statistics.predictions import Predictions, PredictionTable, Target, compute_probabilities
from bids_semantoks.statistics.spans import Features, Span
from bids_semantoks.statistics.splits import Split, build_inner_folds, run_folds

N_INNER_FOLDS = 5

#: Cells of a table that is held at once, where many targets or problems are solved together: 80 MB.
_MOST_CELLS = 10_000_000

#: Penalties in units of `compute_mean_eigenvalue`: from almost no shrinkage to almost no effect.
PENALTIES = np.logspace(-4, 4, 13)


def cross_validate(features: Features, target: Target, splits: Sequence[Split], **options: Any) -> Predictions:
    """Predict one target as `cross_validate_all` does, whose `options` are covariates, groups, seed and each."""
    return cross_validate_all(features, [target], splits, **options)[0]


def cross_validate_all(
    features: Features,
    targets: Sequence[Target],
    splits: Sequence[Split],
    *,
    covariates: Floats | None = None,
    groups: Labels | None = None,
    seed: int = 0,
    each: Callable[[Sequence[Split]], Iterable[Split]] = iter,
) -> list[Predictions]:
    """Predict every tested row by a model not trained on it: ridge for values, one-vs-rest logistic for classes.

    The penalty is chosen in inner folds of the training rows, which include the validation rows of a split. Rows of one
    of `groups` (n,) stay together there, as they must in `splits`. Covariates (n, c) are removed from the features by
    regression fitted to the training rows. The result warns of penalties chosen at the edge of the grid. `each` yields
    the splits again, and may count them. Targets share the span of a split, and values also what is solved in its inner
    folds, the most expensive steps for wide features.
    """
    shape = max(s.repetition for s in splits) + 1, max(s.fold for s in splits) + 1
    tables = [PredictionTable(target, shape) for target in targets]
    of_values = [table for table in tables if not table.target.is_class]
    of_classes = [table for table in tables if table.target.is_class]

    def predict(split: Split) -> None:
        """Predict all targets in one split."""
        train = np.sort(np.concatenate([split.train, split.validation]))
        span = features.compute_span(train, split.test, covariates)
        together = None if groups is None else groups[train]
        penalties = np.full(len(of_values), np.nan)
        if of_values and len(span.eigenvalues):
            columns = np.column_stack([table.target.values[train] for table in of_values])
            penalties = choose_fold_penalties(span, columns, together, seed=seed + split.repetition)
        for table, penalty in zip(of_values, penalties.tolist(), strict=True):
            _predict_values(table, span, (split, train), penalty)
        for table in of_classes:
            _predict_classes(table, span, (split, train), together, seed=seed + split.repetition)

    # Each fold fills cells of its own. The first repetition comes last, as a permutation test reuses its spans.
    run_folds(predict, splits[::-1], each=each)
    return [table.build(features.name, _describe_edges(features.name, table)) for table in tables]


def _predict_values(table: PredictionTable, span: Span, part: tuple[Split, Indices], penalty: float) -> None:
    """Predict the tested rows of a split by ridge regression on its sorted training rows, by the mean without
    features."""
    (split, train), labels = part, table.target.values[part[1]]
    scores = np.full((len(span.test), 1), labels.mean())
    if len(span.eigenvalues):
        scores = fit_ridge(span, labels[:, None], np.array([penalty])).predict(span.test)
    table.add((split.repetition, split.fold), (train, split.test), scores, penalty)


def _predict_classes(
    table: PredictionTable, span: Span, part: tuple[Split, Indices], groups: Labels | None, *, seed: int
) -> None:
    """Predict class probabilities of the tested rows of a split by logistic regression on its sorted training rows, of
    which `groups` are the groups."""
    (split, train), n_classes = part, table.scores.shape[2]
    labels = table.target.compute_labels(train)[train].astype(np.int64)
    is_class = (labels[:, None] == np.arange(n_classes)).astype(np.float64)  # (n, K)
    if len(span.eigenvalues):
        fit, penalty = fit_classes(span, labels, n_classes, groups, seed=seed)
        logits = fit.predict(span.test)
        scores, decided = compute_probabilities(logits), (fit.predict(span.train), logits)
    else:
        codes = is_class[:, 1:] if n_classes == 2 else is_class
        level = logit(np.clip(codes.mean(axis=0), 1e-3, 1 - 1e-3))
        scores, penalty = np.tile(is_class.mean(axis=0), (len(span.test), 1)), np.nan
        decided = np.tile(level, (len(span.train), 1)), np.tile(level, (len(span.test), 1))
    table.add((split.repetition, split.fold), (train, split.test), scores, penalty, logits=decided)


def fit_values(span: Span, values: Floats, groups: Labels | None, *, seed: int) -> tuple[LinearFit, float]:
    """Fit ridge regression of values (n,) to the training rows, with the penalty that inner folds choose."""
    penalty = choose_fold_penalties(span, values[:, None], groups, seed=seed)
    return fit_ridge(span, values[:, None], penalty), float(penalty[0])


def fit_classes(
    span: Span, labels: Indices, n_classes: int, groups: Labels | None, *, seed: int
) -> tuple[LinearFit, float]:
    """Fit logistic regressions of classes (n,) to the training rows, with the penalty that inner folds choose: one of
    the second of two classes, else one of each."""
    fold_of = build_inner_folds(np.arange(len(labels)), strata=labels, groups=groups, n_folds=N_INNER_FOLDS, seed=seed)
    is_class = (labels[:, None] == np.arange(n_classes)).astype(np.float64)  # (n, K)
    codes = is_class[:, 1:] if n_classes == 2 else is_class
    penalty = float(_choose(_compute_log_losses(span, codes, labels, fold_of)))
    return fit_logistic(span, codes, np.full(codes.shape[1], penalty)), penalty


def _compute_log_losses(span: Span, codes: Floats, labels: Indices, fold_of: Indices) -> Floats:
    """Compute the log loss of each penalty over inner folds; penalties and classes are fitted together, and as many
    folds as memory has room for: all of them up to 10,000 rows and 15 classes."""
    folds, width = np.unique(fold_of), codes.shape[1]
    together = max(1, _MOST_CELLS // (len(labels) * len(PENALTIES) * width))
    chosen = np.empty((len(labels), len(PENALTIES)))
    for start in range(0, len(folds), together):
        some = folds[start : start + together]
        weights = np.repeat(fold_of[:, None] != some, len(PENALTIES) * width, axis=1).astype(np.float64)
        penalties = np.tile(np.repeat(PENALTIES, width), len(some))
        targets = np.tile(codes, len(some) * len(PENALTIES))
        fit = fit_logistic(span, targets, penalties, weights=weights, tolerance=1e-4)
        inside = np.isin(fold_of, some)
        logits = fit.predict(span.train).reshape(len(labels), len(some), len(PENALTIES), width)[inside]
        own = logits[np.arange(len(logits)), np.searchsorted(some, fold_of[inside])]  # (rows, penalties, width)
        odds = compute_probabilities(own)
        chosen[inside] = np.take_along_axis(odds, labels[inside][:, None, None], axis=2)[:, :, 0]
    return np.asarray(-np.log(np.clip(chosen, 1e-15, None)).mean(axis=0))


def _choose(losses: Floats) -> Floats:
    """Choose the best penalty by losses (a,) or (a, m), the largest of ties."""
    return np.asarray(PENALTIES[::-1][losses[::-1].argmin(axis=0)])


def _describe_edges(model: str, table: PredictionTable) -> tuple[str, ...]:
    """Warn if the best penalty may be outside the grid."""
    known, target = table.penalty[~np.isnan(table.penalty)], table.target.name
    messages = []
    lowest, highest = ((known == edge).sum() / max(len(known), 1) for edge in (PENALTIES[0], PENALTIES[-1]))
    if lowest > 0:
        messages.append(f"{model} for {target}: the smallest penalty was chosen in {lowest:.0%} of the folds.")
    if highest > 0:
        messages.append(
            f"{model} for {target}: the largest penalty was chosen in {highest:.0%} of the folds, i.e. the features "
            "contribute almost nothing."
        )
    return tuple(messages)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearFit:
    """Coefficients in a span."""

    coefficients: Floats  # (r, m)
    intercepts: Floats  # (m,) never penalised

    def predict(self, rows: Floats) -> Floats:
        """Predict values or log odds (n, m) of rows (n, r), the `train` or `test` of the span."""
        return rows @ self.coefficients + self.intercepts


def compute_mean_eigenvalue(span: Span) -> float:
    """Compute the sum of the eigenvalues over training rows, the unit of penalties; 1 without features."""
    return float(span.eigenvalues.sum() / len(span.train)) or 1.0


def fit_ridge(span: Span, targets: Floats, penalties: Floats) -> LinearFit:
    """Solve ridge regression exactly: targets (n, m), penalties (m,) in units of the mean eigenvalue."""
    means = targets.mean(axis=0)
    shrunk = span.eigenvalues[:, None] + penalties * compute_mean_eigenvalue(span)
    return LinearFit(coefficients=span.train.T @ (targets - means) / shrunk, intercepts=means)


def compute_fold_errors(span: Span, targets: Floats, fold_of: Indices, penalties: Floats = PENALTIES) -> Floats:
    """Compute the mean squared error (a,) or (a, m) of ridge regression over held-out folds, without a new
    decomposition, for targets (n,) or (n, m). What is solved for a fold and a penalty serves all targets."""
    columns = targets.reshape(len(targets), -1)
    columns = columns - columns.mean(axis=0)
    projected, ridge = span.train.T @ columns, penalties * compute_mean_eigenvalue(span)
    errors = np.zeros((len(penalties), columns.shape[1]))
    for fold in np.unique(fold_of):
        part, own = span.train[fold_of == fold], columns[fold_of == fold]
        # The constant is one more axis, of length 1, that is never shrunk.
        part = np.column_stack([part, np.full(len(part), len(columns) ** -0.5)])
        left_out = _leave_out_by_rows if len(part) <= part.shape[1] else _leave_out_by_axes
        errors += left_out(span.eigenvalues, projected, part, own, ridge)
    return (errors / len(columns)).reshape(len(penalties), *targets.shape[1:])


def choose_fold_penalties(span: Span, targets: Floats, groups: Labels | None, *, seed: int) -> Floats:
    """Choose the penalty (m,) of each target (n, m) of the training rows as the nested protocol does, in inner folds
    that keep `groups` (n,) together."""
    rows = np.arange(len(targets))
    fold_of = build_inner_folds(rows, strata=None, groups=groups, n_folds=N_INNER_FOLDS, seed=seed)
    return _choose(compute_fold_errors(span, targets, fold_of))


def _leave_out_by_rows(eigenvalues: Floats, projected: Floats, part: Floats, own: Floats, ridge: Floats) -> Floats:
    """Sum the squared errors (a, m) in rows g that are left out, (I - H_gg)^-1 e_g: H is the hat matrix, e the
    residuals of the fit to all rows. `projected` (r, m) are targets in the axes, `part` (g, r + 1) the axes and `own`
    (g, m) the targets of g."""
    errors = np.zeros((len(ridge), own.shape[1]))
    step = max(1, _MOST_CELLS // own.size)
    for start in range(0, len(ridge), step):
        some = ridge[start : start + step]
        gains = 1 / (eigenvalues[:, None] + some)  # (r, some)
        shrunk = (gains[:, :, None] * projected[:, None]).reshape(len(gains), -1)
        residuals = own[:, None] - (part[:, :-1] @ shrunk).reshape(len(own), len(some), -1)
        for index in range(len(some)):
            scaled = part * np.sqrt(np.append(gains[:, index], 1.0))
            solved = _solve(scaled @ scaled.T, np.ones(len(part)), residuals[:, index])
            errors[start + index] = (solved**2).sum(axis=0)
    return errors


def _leave_out_by_axes(eigenvalues: Floats, projected: Floats, part: Floats, own: Floats, ridge: Floats) -> Floats:
    """Sum the same where axes are fewer than rows, by a fit to the other rows, whose products with the axes are those
    of all rows less those of g."""
    errors = np.zeros((len(ridge), own.shape[1]))
    gram = part.T @ part
    others = np.vstack([projected, np.zeros(own.shape[1])]) - part.T @ own
    step = max(1, _MOST_CELLS // own.size)
    for start in range(0, len(ridge), step):
        some = ridge[start : start + step].tolist()
        slopes = [_solve(gram, np.append(eigenvalues + penalty, 1.0), others) for penalty in some]
        fitted = (part @ np.hstack(slopes)).reshape(len(own), len(slopes), -1)
        errors[start : start + step] = ((own[:, None] - fitted) ** 2).sum(axis=0)
    return errors


def _solve(product: Floats, diagonal: Floats, right: Floats) -> Floats:
    """Solve (D - P) x = y for a symmetric matrix P that leaves the difference from the diagonal positive definite."""
    system = np.negative(product)
    system[np.diag_indices_from(system)] += diagonal
    # Transposed it is as LAPACK wants it, and not copied.
    return np.asarray(cho_solve(cho_factor(system.T, overwrite_a=True, check_finite=False), right, check_finite=False))


def choose_loo_penalties(span: Span, targets: Floats, penalties: Floats = PENALTIES) -> Floats:
    """Choose the penalty (m,) of each target (n, m) by leave-one-out error in closed form, the largest of ties.
    Penalties (a,) ascend, in units of the mean eigenvalue."""
    axes = span.train / np.sqrt(span.eigenvalues)
    centred = targets - targets.mean(axis=0)
    projected = axes.T @ centred
    best = np.full(targets.shape[1], np.inf)
    chosen = np.full(targets.shape[1], penalties[-1])
    mean = compute_mean_eigenvalue(span)
    for penalty in penalties[::-1]:
        kept = span.eigenvalues / (span.eigenvalues + penalty * mean)
        leverage = 1 / len(targets) + (axes**2) @ kept
        residuals = centred - axes @ (kept[:, None] * projected)
        error = ((residuals / (1 - leverage)[:, None]) ** 2).mean(axis=0)
        chosen = np.where(error < best, penalty, chosen)
        best = np.minimum(error, best)
    return chosen


def fit_logistic(
    span: Span,
    targets: Floats,
    penalties: Floats,
    *,
    weights: Floats | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 50,
) -> LinearFit:
    """Fit many penalised logistic regressions at once by Newton steps with conjugate gradients. Columns of `targets`
    (n, m), 0 or 1, are independent problems that share the rows. The objective is the sum of log losses, weighted by
    `weights` (n, m), plus half of penalty (in units of the mean eigenvalue) times the squared length of the slopes.
    `tolerance` limits the gradient per row, in units of the scaled columns."""
    weights = np.ones_like(targets) if weights is None else weights
    ridge = penalties * compute_mean_eigenvalue(span)
    share = np.clip((weights * targets).sum(axis=0) / weights.sum(axis=0), 1e-3, 1 - 1e-3)
    slopes = np.zeros((span.train.shape[1], targets.shape[1]))
    offsets = np.log(share / (1 - share))
    active = np.arange(targets.shape[1])
    for _ in range(max_iterations):
        problem = _Columns(span, targets[:, active], weights[:, active], ridge[active])
        slopes[:, active], offsets[active], gradient = problem.step(slopes[:, active], offsets[active])
        active = active[gradient > tolerance]
        if not len(active):
            break
    return LinearFit(coefficients=slopes, intercepts=offsets)


class _Columns:
    """Logistic problems that have not converged yet."""

    def __init__(self, span: Span, targets: Floats, weights: Floats, ridge: Floats) -> None:
        self.rows, self.eigenvalues = span.train, span.eigenvalues[:, None]
        self.targets, self.weights, self.ridge = targets, weights, ridge

    def compute_loss(self, logits: Floats, slopes: Floats) -> Floats:
        fit = (self.weights * (np.logaddexp(0, logits) - self.targets * logits)).sum(axis=0)
        return np.asarray(fit + self.ridge / 2 * (slopes**2).sum(axis=0))

    def step(self, slopes: Floats, offsets: Floats) -> tuple[Floats, Floats, Floats]:
        """Take one damped Newton step, also returning the scaled gradient before it."""
        logits = self.rows @ slopes + offsets
        odds = expit(logits)
        error = self.weights * (odds - self.targets)
        gradient, gradient_offset = self.rows.T @ error + self.ridge * slopes, error.sum(axis=0)
        curvature = self.weights * odds * (1 - odds)
        unit = np.sqrt(self.eigenvalues / 4 + self.ridge)
        size = np.sqrt(((gradient / unit) ** 2).sum(axis=0) + gradient_offset**2 / len(logits)) / np.sqrt(len(logits))
        move, move_offset = self._solve(gradient, gradient_offset, curvature)
        change = self.rows @ move + move_offset
        before, length = self.compute_loss(logits, slopes), np.ones(len(offsets))
        for _ in range(20):
            worse = self.compute_loss(logits - length * change, slopes - length * move) > before * (1 + 1e-12)
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        return slopes - length * move, offsets - length * move_offset, size

    def _solve(self, gradient: Floats, gradient_offset: Floats, curvature: Floats) -> tuple[Floats, Floats]:
        """Solve for the Newton step by conjugate gradients, as precisely as the size of the gradient warrants."""
        total = curvature.sum(axis=0) + 1e-12
        scale = self.eigenvalues * (total / len(curvature)) + self.ridge
        x, x0 = np.zeros_like(gradient), np.zeros_like(gradient_offset)
        r, r0 = gradient.copy(), gradient_offset.copy()
        z, z0 = r / scale, r0 / total
        p, p0 = z, z0
        size = (r * z).sum(axis=0) + r0 * z0
        goal = size * np.minimum(0.01, size / len(curvature)) + 1e-300
        for _ in range(60):
            change = curvature * (self.rows @ p + p0)
            q, q0 = self.rows.T @ change + self.ridge * p, change.sum(axis=0)
            along = size / ((p * q).sum(axis=0) + p0 * q0 + 1e-300)
            x, x0, r, r0 = x + along * p, x0 + along * p0, r - along * q, r0 - along * q0
            z, z0 = r / scale, r0 / total
            former, size = size, (r * z).sum(axis=0) + r0 * z0
            if (size <= goal).all():
                break
            turn = size / (former + 1e-300)
            p, p0 = z + turn * p, z0 + turn * p0
        return x, x0
