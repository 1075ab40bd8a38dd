"""The transformer of scikit-learn: as scikit-learn expects one, with the numbers of `encode`."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

import bids_semantoks as bs
from bids_semantoks.errors import InputError, ModelError

#: Checks of scikit-learn that hand over no data, or none that is used.
OWN_CHECKS = (
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
)


@pytest.fixture
def series():
    rng = np.random.default_rng(1)
    return [rng.standard_normal((60 + 5 * number, 100)) for number in range(6)]


@pytest.fixture
def embedder():
    return bs.Embedder("random:tiny", repetition_time=2.0, parcels="Schaefer100-7Networks", device="cpu")


def test_rows_are_what_encode_pools(embedder, series):
    frame = embedder.set_output(transform="pandas").fit_transform(series)
    assert list(frame.columns) == [f"dim{number:04d}" for number in range(1, 129)]
    encoder = bs.load_encoder("random:tiny", device="cpu")
    one = encoder.encode(series[2], repetition_time=2.0, parcels="Schaefer100-7Networks")
    np.testing.assert_array_equal(frame.iloc[2].to_numpy(), one.pooled)
    given = bs.Embedder(encoder, repetition_time=2.0, parcels="Schaefer100-7Networks").fit(series)
    np.testing.assert_array_equal(given.transform(series), frame.to_numpy())
    np.testing.assert_array_equal(embedder.fit_transform(np.stack([series[0]] * 2)).to_numpy()[1], frame.iloc[0])


def test_clones_pickles_and_processes_give_the_same_numbers(embedder, series):
    expected = embedder.fit_transform(series)
    np.testing.assert_array_equal(clone(embedder).fit_transform(series), expected)
    content = pickle.dumps(embedder)
    assert len(content) < 10_000, "weights must not travel"
    np.testing.assert_array_equal(pickle.loads(content).transform(series), expected)
    np.testing.assert_array_equal(embedder.set_params(n_jobs=2).transform(series), expected)


def test_other_weights_than_when_fitted_are_refused(embedder, series):
    other = pickle.loads(pickle.dumps(embedder.fit(series)))
    with pytest.raises(ModelError, match="random:tiny:1"):
        other.set_params(model="random:tiny:1").transform(series)


def test_it_works_within_pipeline_and_cross_validation(embedder, series):
    pipeline = make_pipeline(embedder, StandardScaler(), LogisticRegression())
    scores = cross_val_score(pipeline, series, ["a", "b"] * 3, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("wrong", [[], np.zeros((60, 100)), "series.csv"])
def test_one_series_or_none_is_refused(embedder, wrong):
    with pytest.raises(InputError, match="list of series"):
        embedder.fit(wrong)


def test_it_passes_the_checks_of_scikit_learn_that_need_no_table(embedder):
    """The others are skipped by scikit-learn itself: the tags say that a row is a series (T, P), not numbers."""
    results = check_estimator(embedder, on_fail=None, on_skip=None)
    assert {one["status"] for one in results} <= {"passed", "skipped"}
    assert "check_estimator_cloneable" in {one["check_name"] for one in results if one["status"] == "passed"}
    for check in OWN_CHECKS:
        check("Embedder", clone(embedder))
