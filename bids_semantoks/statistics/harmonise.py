"""Remove differences of mean and scale between sites from features, fitted to training rows (ComBat: Johnson et al.,
Biostatistics 8, 2007; Fortin et al., NeuroImage 167, 2018), and test whether predictions ride on a confounder. Shape
letters: n rows, d features, k kept columns, s sites."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from bids_semantoks.records import Floats, Indices
from bids_semantoks.statistics.spans import Features, Span, build_covariate_designs

METHODS: Final = ("combat", "mean_scale")

#: Relative change of the estimates of a site at which their iteration stops.
_TOLERANCE: Final = 1e-10
_MOST_STEPS: Final = 10_000

#: A feature that varies less at a site, in units of its deviation within sites, is constant but for rounding.
_LEAST_SHARE: Final = 1e-5

#: Numbers of a table that are worked on at a time: 32 MB.
_MOST_CELLS: Final = 2**22

Labels = NDArray[np.str_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SiteEffects:
    """What training rows say of each site, and of what all sites have in common."""

    names: Labels  # (s,)
    mean: Floats  # (d,) average of the sites, weighted by their rows, where kept columns are 0
    slopes: Floats  # (k, d) of kept columns
    deviation: Floats  # (d,) within sites; 0 where the feature is constant at each
    shift: Floats  # (s, d) in units of `deviation`
    scale: Floats  # (s, d) variance in units of that within sites; positive


def fit_sites(
    values: NDArray[np.floating[Any]], sites: Labels, kept: Floats | None = None, *, method: str = "combat"
) -> SiteEffects:
    """Estimate mean and variance of every site in rows (n, d) with site labels (n,), beside the linear effects of kept
    columns (n, k). ``combat`` shrinks the estimates of a site towards each other by empirical Bayes, ``mean_scale``
    takes them as they are."""
    names, which = np.unique(sites, return_inverse=True)
    is_site = (which[:, None] == np.arange(len(names))).astype(np.float64)
    design = is_site if kept is None else np.hstack([is_site, kept])
    inverse, shares = np.linalg.pinv(design), is_site.mean(axis=0)
    mean, deviation = np.empty((2, values.shape[1]))
    slopes = np.empty((design.shape[1] - len(names), values.shape[1]))
    for some, part in _cut(values):
        fit = inverse @ part
        residuals = part - design @ fit
        mean[some], slopes[:, some] = shares @ fit[: len(names)], fit[len(names) :]
        size = np.abs(part).max(axis=0, initial=0.0)
        found = np.sqrt((residuals**2).mean(axis=0))
        deviation[some] = np.where(found > 1e-10 * size, found, 0.0)
    none = np.zeros((0, values.shape[1]))
    common = SiteEffects(names=names[:0], mean=mean, slopes=slopes, deviation=deviation, shift=none, scale=none)
    return add_sites(common, values, sites, kept, method=method)


def add_sites(
    effects: SiteEffects,
    values: NDArray[np.floating[Any]],
    sites: Labels,
    kept: Floats | None = None,
    *,
    method: str = "combat",
) -> SiteEffects:
    """Add sites from rows (n, d) of their own, whatever is predicted: what sites have in common stays as it was."""
    names, which = np.unique(sites, return_inverse=True)
    shift, scale = np.zeros((len(names), values.shape[1])), np.ones((len(names), values.shape[1]))
    varies = np.zeros(scale.shape, dtype=bool)
    for some, part in _cut(values):
        standard, deviation = _standardise(effects, part, kept, some)[0], effects.deviation[some]
        for site in range(len(names)):
            own = which == site
            shift[site, some] = standard[own].mean(axis=0)
            scale[site, some] = standard[own].var(axis=0, ddof=min(1, own.sum() - 1))
            varies[site, some] = (deviation > 0) & (part[own].std(axis=0) > _LEAST_SHARE * deviation)
    # A feature that is constant at one site, as that of a parcel outside its images, has no scale there. It takes the
    # common mean, and no part in the prior.
    scale[~varies] = 1.0
    for site, own in enumerate(varies):
        if method == "combat" and own.sum() > 1:
            count = int((which == site).sum())
            shift[site, own], scale[site, own] = _shrink(shift[site, own], scale[site, own], count)
    return dataclasses.replace(
        effects,
        names=np.concatenate([effects.names, names]),
        shift=np.concatenate([effects.shift, shift]),
        scale=np.concatenate([effects.scale, scale]),
    )


def _shrink(shift: Floats, variance: Floats, count: int) -> tuple[Floats, Floats]:
    """Shrink means (d,) and variances (d,) of `count` rows of a site towards those of its other features: normal and
    inverse gamma priors, whose moments are those over features, and both posterior means until they agree."""
    centre, spread = shift.mean(), shift.var(ddof=1)
    level, width = variance.mean(), variance.var(ddof=1)
    # The posterior mean of a variance, times `width`: it holds where all variances are equal, and the prior a point.
    prior, divisor = level * (width + level**2), width * count / 2 + width + level**2
    found, scale = shift, variance
    for _ in range(_MOST_STEPS):
        former = found, scale
        found = (spread * count * shift + scale * centre) / np.maximum(spread * count + scale, 1e-300)
        squares = (count - 1) * variance + count * (shift - found) ** 2
        scale = (0.5 * squares * width + prior) / max(divisor, 1e-300)
        pairs = zip((found, scale), former, strict=True)
        if all((np.abs(new - old) <= _TOLERANCE * np.abs(old)).all() for new, old in pairs):
            break
    return found, scale


def remove_sites(
    effects: SiteEffects, values: NDArray[np.floating[Any]], sites: Labels, kept: Floats | None = None
) -> None:
    """Remove the shift and scale of their site from rows (n, d), in place; what kept columns explain stays. Every
    label of `sites` (n,) must be among the names of the effects."""
    places = {name: place for place, name in enumerate(effects.names.tolist())}
    which = np.array([places[site] for site in sites.tolist()], dtype=np.int64)
    root = np.sqrt(effects.scale)
    for some, part in _cut(values):
        standard, common = _standardise(effects, part, kept, some)
        standard = (standard - effects.shift[which, some]) / root[which, some]
        values[:, some] = common + standard * effects.deviation[some]


def _standardise(effects: SiteEffects, part: Floats, kept: Floats | None, some: slice) -> tuple[Floats, Floats]:
    """Centre features (n, some) on what all sites have in common, in units of their deviation, 0 where constant within
    sites; also return what was subtracted."""
    common = effects.mean[some] if kept is None else effects.mean[some] + kept @ effects.slopes[:, some]
    deviation = effects.deviation[some]
    return np.asarray((part - common) / np.where(deviation > 0, deviation, np.inf)), common


def _cut(values: NDArray[np.floating[Any]]) -> Iterator[tuple[slice, Floats]]:
    """Yield some columns at a time, and their values in float64."""
    step = max(1, _MOST_CELLS // max(len(values), 1))
    for start in range(0, values.shape[1], step):
        some = slice(start, start + step)
        yield some, np.asarray(values[:, some], dtype=np.float64)


class Rotatable(Features, Protocol):
    """Features whose rows can be changed before they are rotated."""

    def take(self, train: Indices, test: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        """Copy the training rows (n_train, d) and the test rows (n_test, d)."""
        ...

    def rotate(self, train: Any, test: Any, designs: tuple[Floats, Floats], /) -> Span:
        """Scale and rotate rows, which may be changed, without the regressors of `build_covariate_designs`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HarmonisedFeatures:
    """Features without differences between sites, fitted to the training rows of each span, before covariates are
    removed. Rows of a site without training rows are adjusted by an estimate from themselves.

    With `apart` all test rows are, as a classifier of sites needs: estimates from training rows leave these without
    the differences that are there by chance, and test rows with the opposite ones.
    """

    name: str
    features: Rotatable
    sites: Labels  # (n,) of rows; those of unknown sites are not in any split
    kept: Floats | None  # (n, k) columns whose linear effects stay in the features
    method: str  # one of `METHODS`
    apart: bool = False

    def compute_span(self, train: Indices, test: Indices, covariates: Floats | None = None) -> Span:
        """Harmonise, then remove covariates (n, c) and rotate as the features themselves do."""
        rows = self.features.take(train, test)
        places = self.sites[train], self.sites[test]
        kept = (None, None) if self.kept is None else (self.kept[train], self.kept[test])
        first = second = fit_sites(rows[0], places[0], kept[0], method=self.method)
        new = ~np.isin(places[1], first.names)
        if self.apart:
            second = fit_sites(rows[1], places[1], kept[1], method=self.method)
        elif new.any():
            own = None if kept[1] is None else kept[1][new]
            second = add_sites(first, rows[1][new], places[1][new], own, method=self.method)
        for effects, values, sites, columns in zip((first, second), rows, places, kept, strict=True):
            remove_sites(effects, values, sites, columns)
        return self.features.rotate(*rows, build_covariate_designs(train, test, covariates))


#: Steps of a chain, each of which offers every row one exchange.
_N_STEPS: Final = 50

#: Powers of a continuous phenotype that explain the confounder.
_DEGREE: Final = 3

#: Log likelihood (m, h) of the confounder's value in some rows (m, h) if it were that of others (h,).
_Likelihood = Callable[[Indices, Indices], Floats]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ConfounderTest:
    """Whether predictions are independent of a confounder, given what they predict."""

    value: float  # share of the variance of the predictions that the confounder explains
    expected: float  # median of the same where they are independent
    p_value: float  # (1 + permutations with at least this share) / (1 + permutations)


def compute_confounder_test(
    scores: Floats,
    truth: Floats,
    confounder: Floats,
    *,
    truth_is_class: bool,
    is_category: bool,
    n_permutations: int = 200,
    seed: int = 0,
) -> ConfounderTest:
    """Permute a confounder (n,) while it keeps its relation to the truth (n,), and compare the share of the variance of
    predictions (n, q) that it explains.

    Its distribution given the truth is modelled: frequencies (categories) or mean and variance (numbers) of each class,
    or a cubic polynomial of continuous values, logistic for categories. Categories are numbers 0, 1, ...; no NaN.
    """
    rng = np.random.default_rng(seed)
    modelled = _fit_categories if is_category else _fit_numbers
    likelihood = modelled(truth, confounder, truth_is_class=truth_is_class)
    columns = confounder[_permute(likelihood, len(confounder), n_permutations, rng)]
    shares = _compute_shares(scores, np.vstack([confounder, columns]), is_category=is_category)
    value, null = float(shares[0]), shares[1:]
    p_value = (1 + int((null >= value - 1e-12).sum())) / (1 + n_permutations)
    return ConfounderTest(value=value, expected=float(np.median(null)), p_value=p_value)


def _permute(likelihood: _Likelihood, n_rows: int, n_permutations: int, rng: np.random.Generator) -> Indices:
    """Draw permutations (m, n): chains that start where one chain from the observed order ends. As that one takes the
    same exchanges in reverse order, the observed order is exchangeable with the ends of the others."""
    half = n_rows // 2
    pairs = [rng.permutation(n_rows)[: 2 * half].reshape(2, half) for _ in range(_N_STEPS)]
    order = np.arange(n_rows)[None]
    for first, second in reversed(pairs):
        _exchange(order, first, second, likelihood, rng)
    order = np.repeat(order, n_permutations, axis=0)
    for first, second in pairs:
        _exchange(order, first, second, likelihood, rng)
    return order


def _exchange(
    order: Indices, first: Indices, second: Indices, likelihood: _Likelihood, rng: np.random.Generator
) -> None:
    """Exchange values between pairs of rows (h,) of each chain (m, n), in place, as often as is likely."""
    here, there = order[:, first], order[:, second]
    gain = likelihood(there, first) + likelihood(here, second) - likelihood(here, first) - likelihood(there, second)
    swaps = rng.random(gain.shape) < 1 / (1 + np.exp(-np.clip(gain, -500, 500)))
    order[:, first], order[:, second] = np.where(swaps, there, here), np.where(swaps, here, there)


def _fit_numbers(truth: Floats, confounder: Floats, *, truth_is_class: bool) -> _Likelihood:
    """Model a number as normal about its mean given the truth, with the variance of each class."""
    design = truth[:, None] == np.unique(truth) if truth_is_class else _raise(truth)
    inverse = np.linalg.pinv(design.astype(np.float64))
    mean = design @ (inverse @ confounder)
    squares = (confounder - mean) ** 2
    variance = design @ (inverse @ squares) if truth_is_class else np.full(len(truth), squares.mean())
    variance = np.maximum(variance, 1e-12 * max(float(confounder.var()), 1e-300))

    def find(values: Indices, rows: Indices) -> Floats:
        # The variance of the row is that of its own distribution; its logarithm cancels between the exchanged.
        return np.asarray(-((confounder[values] - mean[rows]) ** 2) / (2 * variance[rows]))

    return find


def _fit_categories(truth: Floats, confounder: Floats, *, truth_is_class: bool) -> _Likelihood:
    """Model a category by its frequencies in each class, or by multinomial logistic regression on powers of values."""
    levels = confounder.astype(np.int64)
    if truth_is_class:
        _, which = np.unique(truth, return_inverse=True)
        # Half a person more in every cell, so that none is impossible.
        counts = np.full((which.max() + 1, levels.max() + 1), 0.5)
        np.add.at(counts, (which, levels), 1.0)
        table = np.log(counts / counts.sum(axis=1, keepdims=True))[which]
    else:
        found: Any = LogisticRegression(C=100.0, max_iter=1000).fit(_raise(truth)[:, 1:], levels)
        table = np.full((len(truth), levels.max() + 1), -30.0)
        table[:, found.classes_] = np.maximum(found.predict_log_proba(_raise(truth)[:, 1:]), -30.0)

    def find(values: Indices, rows: Indices) -> Floats:
        return np.asarray(table[rows, levels[values]])

    return find


def _raise(truth: Floats) -> Floats:
    """Raise standardised values (n,) to powers from 0: (n, 1 + degree)."""
    standard = (truth - truth.mean()) / (truth.std() or 1.0)
    return np.asarray(standard[:, None] ** np.arange(_DEGREE + 1))


def _compute_shares(scores: Floats, columns: Floats, *, is_category: bool) -> NDArray[np.float64]:
    """Compute the share of the variance of scores (n, q), not all constant, that each column (m, n) explains."""
    centred = scores - scores.mean(axis=0)
    total = float((centred**2).sum())
    if is_category:
        explained = np.zeros(len(columns))
        for level in np.unique(columns):
            inside = (columns == level).astype(np.float64)
            sums = inside @ centred
            explained += (sums**2).sum(axis=1) / np.maximum(inside.sum(axis=1), 1.0)
    else:
        own = columns - columns.mean(axis=1, keepdims=True)
        explained = ((own @ centred) ** 2).sum(axis=1) / np.maximum((own**2).sum(axis=1), 1e-300)
    return np.asarray(explained / max(total, 1e-300))
