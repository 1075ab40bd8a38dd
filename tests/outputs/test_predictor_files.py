"""A predictor is read as it was written; files that are damaged, hostile or do not fit together are refused."""

from __future__ import annotations

import json
import os
import pickle
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bids_semantoks.errors import ModelError
from bids_semantoks.files import hash_file
from bids_semantoks.outputs import predictor_files
from bids_semantoks.outputs.predictor_files import (
    CovariateFacts,
    PredictorFacts,
    RangeFacts,
    SavedPredictor,
    ScoreFacts,
    read_predictor,
    write_predicted,
    write_predictor,
)
from bids_semantoks.statistics.portable import fit_predictor
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.spans import TableFeatures

N = 40


@pytest.fixture
def saved():
    rng = np.random.default_rng(0)
    features = TableFeatures(name="x", values=np.column_stack([rng.normal(size=(N, 7)), np.ones(N)]))
    covariates = np.column_stack([np.arange(N) % 2, 1 - np.arange(N) % 2, rng.normal(size=N)]).astype(float)
    target = Target(name="group", values=(np.arange(N) // 3 % 3).astype(float), classes=("a", "b|c", "*d*"))
    linear = fit_predictor(features, target, np.arange(N), covariates=covariates)
    scores, positions = linear.predict(features.values, covariates)
    facts = PredictorFacts(
        format_version=1,
        phenotype="group",
        classes=target.classes,
        model="Tiny",
        encoder="random weights",
        encoder_sha256="0" * 64,
        encoder_source="random:tiny",
        embedding_settings={"model": "Tiny"},
        min_kept=None,
        window_seconds=200.0,
        signals_settings={"denoising": None},
        atlas="Own",
        atlas_sha256="1" * 64,
        parcels=("p", "q"),
        covariates=(CovariateFacts(name="sex", levels=("F", "M")), CovariateFacts(name="fd", levels=())),
        n_participants=N,
        penalty=1.0,
        scores=(ScoreFacts(metric="auroc", value=0.7, ci_low=0.6, ci_high=0.8),),
        ranges=(RangeFacts(name="mean_fd", low=0.1, high=0.2),),
        site_column="",
        sites=(),
        options={},
        software={},
    )
    return SavedPredictor(facts=facts, linear=linear, truth=target.values, scores=scores, positions=positions)


def test_a_predictor_is_read_as_it_was_written(saved, tmp_path):
    write_predictor(tmp_path / "p", saved)
    found = read_predictor(tmp_path / "p")
    rng = np.random.default_rng(1)
    values, covariates = rng.normal(size=(5, 8)), rng.normal(size=(5, 3))
    for own, other in zip(
        saved.linear.predict(values, covariates), found.linear.predict(values, covariates), strict=True
    ):
        np.testing.assert_array_equal(own, other)
    assert found.facts.covariates == saved.facts.covariates
    assert found.facts.tensors_sha256 == hash_file(tmp_path / "p" / "predictor.safetensors")
    card = (tmp_path / "p" / "README.md").read_text()
    assert "pipeline_tag: tabular-classification" in card
    assert r"\*d\*" in card
    assert r"AUROC 0.70 \[0.60, 0.80\]" in card


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda facts: facts.pop("parcels"), "parcels"),
        (lambda facts: facts.update(classes=["a"]), "classes"),
        (lambda facts: facts.update(classes=["a", "b"]), "expected finite float64"),
        (lambda facts: facts.update(covariates=[]), "expected finite float64"),
        (lambda facts: facts.update(penalty=float("inf")), "finite"),
        (lambda facts: facts.update(format_version=99), "99"),
        (lambda facts: facts.update(secret=1), "secret"),
        (lambda facts: facts.update(tensors_sha256="0"), "SHA-256"),
        (lambda facts: facts.update(model="pearson"), "expected finite float64"),
        (lambda facts: facts.update(model="tangent"), "model.reference"),
        (lambda facts: facts["scores"][0].update(metric="<b>"), "metric"),
        (lambda facts: facts["scores"][0].update(value=float("nan")), "finite"),
        (lambda facts: facts.update(n_participants=10**250), "participants"),
        (lambda facts: facts.update(n_participants=10**400), "n_participants must be int"),
        (lambda facts: facts.update(n_participants=True), "n_participants must be int"),
        (lambda facts: facts.update(parcels={"p": 1}), "parcels"),
        (lambda facts: facts.update(phenotype=None), "phenotype"),
    ],
)
def test_facts_that_do_not_fit_are_refused(saved, tmp_path, change, word):
    write_predictor(tmp_path, saved)
    facts = json.loads((tmp_path / "predictor.json").read_text())
    change(facts)
    (tmp_path / "predictor.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=word):
        read_predictor(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tensors: tensors.pop("model.axes"), "expected"),
        (lambda tensors: tensors.update(extra=np.zeros(1)), "extra"),
        (lambda tensors: tensors["model.weights"].fill(np.nan), "model.weights"),
        (lambda tensors: tensors.update({"model.weights": tensors["model.weights"].T.copy()}), "model.weights"),
        (lambda tensors: tensors.update({"home.truth": tensors["home.truth"].astype("f4")}), "home.truth"),
        (lambda tensors: tensors["home.truth"].fill(7.0), "class"),
        (lambda tensors: tensors["model.deviation"].fill(0.0), "scale"),
        (lambda tensors: tensors["scaling.scale"].fill(-1.0), "scale"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(saved, tmp_path, change, word):
    write_predictor(tmp_path, saved)
    path = tmp_path / "predictor.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    facts = json.loads((tmp_path / "predictor.json").read_text()) | {"tensors_sha256": hash_file(path)}
    (tmp_path / "predictor.json").write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=word):
        read_predictor(tmp_path)


def test_names_that_are_spelt_alike_get_tables_of_their_own(saved, tmp_path):
    paths = [
        write_predicted(tmp_path, name, ["1"], {"prediction": ["a"]}, saved.facts) for name in ("ab", "a.b", "a b", "ä")
    ]
    assert len(set(paths)) == 4
    assert paths[0].name == "abPredicted.tsv"
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*\.tsv", path.name) for path in paths)


def test_other_files_are_refused_and_never_executed(saved, tmp_path, monkeypatch):
    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    with pytest.raises(ModelError, match="not a predictor"):
        read_predictor(tmp_path)
    write_predictor(tmp_path, saved)
    path, facts = tmp_path / "predictor.safetensors", json.loads((tmp_path / "predictor.json").read_text())
    for content in (pickle.dumps(Hostile()), b"", path.read_bytes()[:-9], b"\xff" * 8 + b"{"):
        path.write_bytes(content)
        (tmp_path / "predictor.json").write_text(json.dumps(facts | {"tensors_sha256": hash_file(path)}))
        with pytest.raises(ModelError, match="damaged"):
            read_predictor(tmp_path)
    assert not (tmp_path / "ran").exists()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ModelError, match="not found"):
        read_predictor(tmp_path)
    (tmp_path / "predictor.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="nested"):
        read_predictor(tmp_path)
    monkeypatch.setattr(predictor_files, "_MOST_FACTS", 10)
    with pytest.raises(ModelError, match="at most 10"):
        read_predictor(tmp_path)
