"""Remove differences of mean and scale between sites from features, fitted to training rows: ComBat (Johnson et al.,
Biostatistics 8, 2007; Fortin et al., NeuroImage 167, 2018). Shape letters: n rows, d features, k kept columns, s sites.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

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
