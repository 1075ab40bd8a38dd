"""ComBat against the published equations, and what its folds may know."""

import dataclasses

import numpy as np
import pytest
from bids_semantoks.statistics.targets import build_class_target
from scipy.linalg import expm

from bids_semantoks.statistics.harmonise import HarmonisedFeatures, add_sites, fit_sites, remove_sites
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_fold_scores
from bids_semantoks.statistics.spans import TableFeatures, TangentFeatures, WideFeatures
from bids_semantoks.statistics.splits import build_splits

#: Adjusted rows by neuroHarmonize 2.5.2 with its estimates iterated to 1e-10: the first two of those it was fitted to,
#: and the last two of the others, four features each.
TRAIN = [[0.825911842, 0.102793429, 0.346102216, -0.131664363], [-1.086915052, -0.48917884, 1.83918397, -0.914157781]]
TEST = [[-0.622151576, 2.505075453, -0.466752135, 2.19386116], [-1.591789579, 0.248544611, 0.482813258, -3.328621105]]


def make_rows(n=60, d=8):
    """Rows of three sites of other mean and scale, with an effect of age."""
    rng = np.random.default_rng(5)
    sites, age = np.repeat(["a", "b", "c"], [30, 18, 12]), rng.normal(40, 10, n)
    which = np.repeat([0, 1, 2], [30, 18, 12])[:, None]
    values = rng.normal(size=(n, d)) * (1 + 0.3 * which) + 0.8 * which * rng.normal(size=d)
    return values + 0.03 * age[:, None] * rng.normal(size=d), sites, age[:, None], np.arange(n) % 5 == 0


def harmonise_as_published(values, sites, kept, *, pools):
    """The equations of Johnson et al. and Fortin et al., a site and a feature at a time, over all rows."""
    names = sorted(set(sites))
    design = np.column_stack([*[(sites == name).astype(float) for name in names], kept])
    beta = np.linalg.lstsq(design, values, rcond=None)[0]
    grand = sum((sites == name).mean() * beta[i] for i, name in enumerate(names))
    deviation = np.sqrt(((values - design @ beta) ** 2).mean(axis=0))
    stand = grand + kept @ beta[len(names) :]
    standard, found = (values - stand) / deviation, np.empty_like(values)
    for name in names:
        own = standard[sites == name]
        gamma, delta, n = own.mean(axis=0), own.var(axis=0, ddof=1), len(own)
        bar, tau = gamma.mean(), gamma.var(ddof=1)
        mean, spread = delta.mean(), delta.var(ddof=1)
        lam, theta = mean**2 / spread + 2, mean**3 / spread + mean
        for g in range(values.shape[1]):
            gamma_star, delta_star, change = gamma[g], delta[g], 1.0
            while pools and change > 1e-10:
                new_gamma = (n * tau * gamma[g] + delta_star * bar) / (n * tau + delta_star)
                new_delta = (theta + ((own[:, g] - new_gamma) ** 2).sum() / 2) / (n / 2 + lam - 1)
                change = max(abs(new_gamma / gamma_star - 1), abs(new_delta / delta_star - 1))
                gamma_star, delta_star = new_gamma, new_delta
            found[sites == name, g] = (own[:, g] - gamma_star) / np.sqrt(delta_star)
    return found * deviation + stand


@pytest.mark.parametrize("method", ["combat", "mean_scale"])
def test_rows_are_harmonised_as_published(method):
    values, sites, kept, _ = make_rows()
    expected = harmonise_as_published(values, sites, kept, pools=method == "combat")
    remove_sites(fit_sites(values, sites, kept, method=method), values, sites, kept)
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_training_and_test_rows_are_those_of_neuroharmonize():
    values, sites, kept, tested = make_rows()
    train, test = values[~tested], values[tested]
    effects = fit_sites(train, sites[~tested], kept[~tested])
    remove_sites(effects, train, sites[~tested], kept[~tested])
    remove_sites(effects, test, sites[tested], kept[tested])
    np.testing.assert_allclose(train[:2, :4], TRAIN, atol=1e-6)
    np.testing.assert_allclose(test[-2:, :4], TEST, atol=1e-6)


def test_a_new_site_is_estimated_from_its_own_rows():
    values, sites, kept, _ = make_rows()
    known, new = sites != "c", sites == "c"
    effects = fit_sites(values[known], sites[known], kept[known])
    both = add_sites(effects, values[new], sites[new], kept[new])
    assert both.names.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(both.shift[:2], effects.shift)
    standard = (values[new] - effects.mean - kept[new] @ effects.slopes) / effects.deviation
    own, size = standard.mean(axis=0), standard.var(axis=0, ddof=1)
    # Estimates lie between those of the rows and their mean over features.
    assert (np.abs(both.shift[2] - own.mean()) < np.abs(own - own.mean())).all()
    assert both.scale[2].std() < size.std()
    with pytest.raises(KeyError):
        remove_sites(effects, values[new], np.full(new.sum(), "d"), kept[new])


def test_constant_features_stay_and_a_single_site_changes_nothing():
    values = np.column_stack([make_rows()[0], np.full(60, 3.0)])
    before = values.copy()
    remove_sites(fit_sites(values, np.full(60, "a")), values, np.full(60, "a"))
    # ComBat scales by n, and the variance of a site by n - 1.
    change = (values - before.mean(axis=0)) * np.sqrt(60 / 59)
    np.testing.assert_allclose(change, before - before.mean(axis=0), atol=1e-14)


@pytest.mark.parametrize("method", ["combat", "mean_scale"])
def test_a_feature_that_is_constant_at_a_site_takes_the_common_mean_there(method):
    values, sites, _, _ = make_rows()
    # Parcels outside the images of a site, and a number of volumes that each site has its own of.
    values[sites == "b", 3], values[sites == "b", 5] = 0.1, 0.0
    own = np.column_stack([values, np.select([sites == "a", sites == "b"], [150.0, 196.1], 240.0)])
    found = own.copy()
    remove_sites(fit_sites(found, sites, method=method), found, sites)
    assert np.ptp(found[sites == "b"][:, [3, 5]], axis=0).max() < 1e-12
    np.testing.assert_allclose(found[sites == "b"][0, [3, 5]], own.mean(axis=0)[[3, 5]], atol=1e-12)
    assert np.ptp(found[:, -1]) < 1e-12
    # Other features are harmonised as without them.
    others = np.delete(values, [3, 5], axis=1)
    remove_sites(fit_sites(others, sites, method=method), others, sites)
    np.testing.assert_allclose(np.delete(found[:, :-1], [3, 5], axis=1)[sites == "b"], others[sites == "b"], atol=1e-12)


def build_features(kind, values):
    if kind != "tangent":
        kinds = {"table": TableFeatures, "wide": WideFeatures}
        return kinds[kind](name="x", values=values.astype(np.float32))
    lower, symmetric = np.tril_indices(3), np.zeros((len(values), 3, 3))
    symmetric[:, *lower] = symmetric[:, *lower[::-1]] = 0.2 * values
    return TangentFeatures(name="x", packed=expm(symmetric)[:, *lower].astype(np.float32))


@pytest.mark.parametrize("kind", ["table", "wide", "tangent"])
def test_test_rows_change_nothing_but_themselves(kind):
    values, sites, kept, tested = make_rows(d=6)
    train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
    inner = build_features(kind, values)
    shared = {"name": "x", "sites": sites, "kept": kept, "method": "combat"}
    span = HarmonisedFeatures(features=inner, **shared).compute_span(train, test)
    fewer = HarmonisedFeatures(features=inner, **shared).compute_span(train, test[::2])
    np.testing.assert_allclose(fewer.train, span.train, rtol=1e-7)
    np.testing.assert_allclose(fewer.test, span.test[::2], atol=1e-7)
    # Neither estimates nor axes know the values of test rows, so the penalty that inner folds choose cannot.
    others = build_features(kind, np.where(tested[:, None], 5 - 2 * values, values))
    for apart in (False, True):
        one, other = (
            HarmonisedFeatures(features=features, apart=apart, **shared).compute_span(train, test)
            for features in (inner, others)
        )
        np.testing.assert_array_equal(one.train, other.train)
        np.testing.assert_array_equal(one.train, span.train)
        assert not np.allclose(one.test, other.test)
    alike = HarmonisedFeatures(name="x", features=inner, sites=sites, kept=None, method="mean_scale")
    found = alike.compute_span(train, test).train
    for site in "abc":
        np.testing.assert_allclose(found[sites[train] == site].mean(axis=0), 0, atol=1e-6)
    assert np.abs(inner.compute_span(train, test).train[sites[train] == "c"].mean(axis=0)).max() > 0.1


def test_rows_of_a_table_stay_as_they_are():
    values, sites, _, tested = make_rows()
    before, features = values.copy(), TableFeatures(name="x", values=values)
    own = HarmonisedFeatures(name="x", features=features, sites=sites, kept=None, method="mean_scale")
    own.compute_span(np.flatnonzero(~tested), np.flatnonzero(tested))
    np.testing.assert_array_equal(values, before)


def score_sites(size, method, seed):
    """Balanced accuracies of a classifier of four sites that differ by `size`: before and after harmonisation, each
    half by itself, and after with estimates from training rows alone."""
    rng, sites = np.random.default_rng(seed), np.repeat(["a", "b", "c", "d"], 60)
    which = np.repeat(np.arange(4), 60)
    scale, shift = np.exp(0.3 * size * rng.normal(size=(4, 40))), size * rng.normal(size=(4, 40))
    values = (rng.normal(size=(240, 40)) * scale[which] + shift[which]).astype(np.float32)
    plain, target = TableFeatures(name="x", values=values), build_class_target("site", sites.tolist())
    own = HarmonisedFeatures(name="x", features=plain, sites=sites, kept=None, method=method)
    splits = build_splits(target.compute_strata(), n_repeats=1, n_folds=2)
    models = plain, dataclasses.replace(own, apart=True), own
    found = [cross_validate(one, target, splits) for one in models]
    return [float(np.mean(compute_fold_scores(one, "balanced_accuracy"))) for one in found]


def test_a_classifier_of_sites_is_at_chance_where_sites_do_not_differ():
    before, apart, together = np.mean([score_sites(0.0, "combat", seed) for seed in range(8)], axis=0)
    assert before == pytest.approx(0.25, abs=0.03)
    assert apart == pytest.approx(0.25, abs=0.03)
    # Why halves are harmonised apart: else training rows teach the opposite of what is true by chance.
    assert together < 0.22


def test_a_classifier_of_sites_is_near_chance_after_harmonisation():
    before, apart, _ = np.mean([score_sites(0.8, "combat", seed) for seed in range(4)], axis=0)
    assert before > 0.95
    assert 0.25 < apart < 0.4  # 30 rows of a site leave a part of its shift to the prior
    before, apart, _ = score_sites(0.8, "mean_scale", 0)
    assert before > 0.95
    assert apart == pytest.approx(0.25, abs=0.01)
