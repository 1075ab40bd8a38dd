"""A predictor that is saved in one study predicts in another, says what differs, and refuses what it does not know."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.documented import find_undocumented

import bids_semantoks as bs
from bids_semantoks.cli import call
from bids_semantoks.errors import ConfigurationError, InputError, ModelError

T, P = 120, 6
QUICK = ("--n-permutations", "0", "--n-repeats", "1", "--baselines", "none")


def read_tsv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_study(root, n, *, seed, shift=0.0, absent=(), first=0):
    """Write series whose coupling follows age, in two sites; the last participants lack parcels."""
    rng = np.random.default_rng(seed)
    lines = ["participant_id\tage\tsex\tsite\tpart\tthird of life"]
    for number in range(n):
        label, age = f"{first + number:03d}", rng.uniform(20, 80)
        common = rng.standard_normal((T, 1)) * (0.2 + (age - 20) / 30)
        values = rng.standard_normal((T, P)) + common * (np.arange(P) < P // 2) + shift * rng.standard_normal((T, 1))
        values[:, list(absent) if number == n - 1 else []] = np.nan
        stem = root / f"sub-{label}" / "func" / f"sub-{label}_task-rest_space-MNI152NLin6Asym_atlas-Own"
        stem.parent.mkdir(parents=True)
        path = stem.with_name(f"{stem.name}_stat-mean_timeseries.tsv")
        names = [f"LH_{('Vis', 'SomMot', 'Default')[i % 3]}_{i}" for i in range(P)]
        table = "\n".join("\t".join("n/a" if np.isnan(x) else f"{x:.4f}" for x in row) for row in values)
        path.write_text("\t".join(names) + "\n" + table + "\n")
        path.with_suffix(".json").write_text('{"RepetitionTime": 2.0}')
        sex, part = "FM"[int(age + rng.normal(0, 9) > 50)], f"{age:.2f}" if number < 20 else "n/a"
        third = ("young", "<b>old</b>", "older")[int((age - 20) // 20)]
        lines.append(f"sub-{label}\t{age:.2f}\t{sex}\t{'AB'[number % 2]}\t{part}\t{third}")
    (root / "participants.tsv").write_text("\n".join(lines) + "\n")
    generators = [{"Name": "XCP-D", "Version": "0.10.0"}]
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": generators}
    (root / "dataset_description.json").write_text(json.dumps(description))


def run(root, level, *options):
    options = ("--model", "random:tiny", "--n-procs", "1", "--min-time", "0", *options)
    return call([str(root), str(root.with_name(f"{root.name}_out")), level, "-q", *options])


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two studies with their outputs, the first with a predictor of age and sex each and one of age alone."""
    root = tmp_path_factory.mktemp("predictor")
    home, abroad = root / "home", root / "abroad"
    write_study(home, 26, seed=0)
    write_study(abroad, 22, seed=1, absent=(1, 4), first=300)
    for study in (home, abroad):
        assert run(study, "participant") == 0
    assert run(home, "group", "--probe", "age", "sex", "--covariate", "site", *QUICK, "--save-predictor", "both") == 0
    assert run(home, "group", "--probe", "age", *QUICK, "--save-predictor", "alone", "RandomTiny") == 0
    assert run(home, "group", "--probe", "third of life", *QUICK, "--save-predictor", "third") == 0
    assert "saved" in (home.with_name("home_out") / "logs" / "CITATION.md").read_text()
    return home, abroad


def find(home, name):
    return home.with_name("home_out") / "predictors" / name


def test_a_predictor_is_saved_with_what_must_be_known_of_it(studies):
    home, _ = studies
    assert {path.name for path in find(home, "").iterdir()} == {"both_age", "both_sex", "alone", "third"}
    facts = json.loads((find(home, "both_sex") / "predictor.json").read_text())
    assert facts["classes"] == ["F", "M"]
    assert facts["covariates"] == [{"name": "site", "levels": ["A", "B"]}]
    assert facts["n_participants"] == 26
    assert facts["atlas"] == "Own"
    assert len(facts["parcels"]) == P
    scores = {one["metric"]: one["value"] for one in facts["scores"]}
    assert 0 <= scores["auroc"] <= 1
    assert facts["options"]["covariate"] == ["site"]
    assert str(home.parent) not in (find(home, "both_sex") / "predictor.json").read_text()
    card = (find(home, "alone") / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: bids_semantoks" in card
    assert "research use only" in card


def test_a_study_abroad_is_predicted_flagged_and_scored(studies):
    home, abroad = studies
    assert run(abroad, "group", "--apply-predictor", str(find(home, "both_age")), "--recalibrate", "part") == 0
    out = abroad.with_name("abroad_out")
    rows = read_tsv(out / "phenotype" / "both_agePredicted.tsv")
    assert len(rows) == 22
    assert list(rows[0])[:4] == ["participant_id", "prediction", "low", "high"]
    widths = {round(float(row["high"]) - float(row["low"]), 3) for row in rows}
    assert len(widths) == 1
    assert "absent parcels" in rows[-1]["flags"]
    assert rows[-1]["n_absent_parcels"] == "2"
    described = json.loads((out / "phenotype" / "both_agePredicted.json").read_text())
    assert set(rows[0]) <= set(described)
    assert "research use only" in described["Description"]
    facts = json.loads((out / "group_predictor.json").read_text())["Facts"]
    assert facts["Recalibration"]["Participants"] == 20
    assert facts["Shifts"] == []
    assert {one[0] for one in facts["Bias"]} == {"all", "site A", "site B"}
    scores = {row["metric"]: row for row in read_tsv(out / "group_predictor.tsv")}
    truth = {row["participant_id"]: float(row["part"]) for row in read_tsv(abroad / "participants.tsv")[:20]}
    errors = [abs(truth[row["participant_id"]] - float(row["prediction"])) for row in rows[:20]]
    assert float(scores["mae"]["value"]) == pytest.approx(np.mean(errors))
    assert facts["Recalibration"]["Before"] == pytest.approx(np.mean(errors), abs=1e-5)
    page = (out / "group.html").read_text()
    assert "research use only" in page
    assert "Predictor both_age" in page
    assert "vovk2015" in (out / "logs" / "CITATION.md").read_text()
    assert find_undocumented(out) == set()
    assert find_undocumented(home.with_name("home_out")) == set()


def code_sites(home, predictor, frame):
    """Predict with sites that are numbers, which pandas reads as such."""
    copy = home.with_name("coded")
    shutil.copytree(predictor.path, copy)
    facts = json.loads((copy / "predictor.json").read_text())
    facts["covariates"][0]["levels"] = facts["sites"] = ["1", "2"]
    (copy / "predictor.json").write_text(json.dumps(facts))
    coded = frame.assign(site=frame["site"].map({"A": 1.0, "B": 2.0}))
    return bs.load_predictor(copy).predict(coded)["probability_M"]


def test_python_predicts_the_same_from_a_table(studies):
    home, abroad = studies
    assert run(abroad, "group", "--apply-predictor", str(find(home, "both_sex")), "--recalibrate", "sex") == 0
    rows = read_tsv(abroad.with_name("abroad_out") / "phenotype" / "both_sexPredicted.tsv")
    assert find_undocumented(abroad.with_name("abroad_out")) == set()
    frame = bs.load_outputs(abroad.with_name("abroad_out"), atlas="Own", phenotypes=abroad)
    predictor = bs.load_predictor(find(home, "both_sex"))
    found = predictor.predict(frame)
    assert found["participant_id"].tolist() == [row["participant_id"] for row in rows]
    np.testing.assert_allclose(found["probability_M"], [float(row["probability_M"]) for row in rows], rtol=1e-7)
    assert found["set"].tolist() == [row["set"] for row in rows]
    wide = predictor.predict(frame, level=0.99)
    assert (wide["set"].str.len() >= found["set"].str.len()).all()
    np.testing.assert_array_equal(code_sites(home, predictor, frame), found["probability_M"])
    frame.loc[frame.index[:2], "site"] = ["C", None]
    found = predictor.predict(frame)
    assert found["prediction"].isna().tolist() == [True, True, *[False] * 20]
    assert found["flags"].iloc[0].startswith("no site")
    with pytest.raises(InputError, match="site"):
        predictor.predict(frame.drop(columns="site"))
    turned = frame[frame.columns[::-1]].assign(dimension_1=1.0)
    pd.testing.assert_frame_equal(predictor.predict(turned), found)
    with pytest.raises(ModelError, match="dimensions"):
        predictor.predict(frame.drop(columns="dim0001"))
    with pytest.raises(InputError, match="embeddings of 1 row have other than finite numbers, first row 3"):
        predictor.predict(frame.assign(dim0002=[*frame["dim0002"][:2], "high", *frame["dim0002"][3:]]))
    origin = frame.attrs["bids_semantoks"]
    frame.attrs["bids_semantoks"] = origin | {"min_kept": 0.3}
    with pytest.raises(ConfigurationError, match=r"min_kept 0\.3, but the predictor was fitted with 0\.5"):
        predictor.predict(frame)
    frame.attrs["bids_semantoks"] = origin
    origin["embedding_settings"][0] |= {"n_windows": 3}
    with pytest.raises(ConfigurationError, match=r"n_windows \(here 3, there 8\)"):
        predictor.predict(frame)


@pytest.mark.parametrize("model", ["pearson", "tangent", "parcel_moments", "covariates", "random"])
def test_baselines_travel_as_embeddings_do(studies, model):
    home, abroad = studies
    covariate, out = ("age",) if model == "covariates" else ("site",), abroad.with_name("abroad_out")
    asked = ("--probe", "sex", "--covariate", *covariate, *QUICK[:-2], "--baselines", model)
    assert run(home, "group", *asked, "--save-predictor", model, model) == 0
    scores = {
        row["metric"]: row for row in read_tsv(home.with_name("home_out") / "group_probe.tsv") if row["model"] == model
    }
    facts = json.loads((find(home, model) / "predictor.json").read_text())
    for one in facts["scores"]:
        assert one["value"] == pytest.approx(float(scores[one["metric"]]["value"]), rel=1e-6)
    assert (facts["encoder_sha256"] == "") == (model != "random")
    assert find_undocumented(home.with_name("home_out")) == set()
    assert run(abroad, "group", "--apply-predictor", str(find(home, model))) == 0
    rows = read_tsv(out / "phenotype" / f"{model}Predicted.tsv")
    assert len({row["probability_M"] for row in rows}) > 1
    assert "absent parcels" in rows[-1]["flags"]
    frame = bs.load_outputs(out, atlas="Own", phenotypes=abroad, model="RandomTiny" + "Untrained" * (model == "random"))
    found = bs.load_predictor(find(home, model)).predict(frame.iloc[::-1])
    np.testing.assert_allclose(found["probability_M"][::-1], [float(row["probability_M"]) for row in rows], rtol=1e-7)
    if model == "random":
        with pytest.raises(ModelError, match="--random-seed 0"):
            bs.load_predictor(find(home, model)).predict(bs.load_outputs(out, atlas="Own", model="RandomTiny"))
    elif model != "covariates":
        with pytest.raises(InputError, match="no rows"):
            bs.load_predictor(find(home, model)).predict(frame.iloc[:0])
        frame.attrs.clear()
        with pytest.raises(InputError, match="signals"):
            bs.load_predictor(find(home, model)).predict(frame)


def test_a_model_whose_features_do_not_vary_is_refused(studies, capsys):
    home, _ = studies
    asked = ("--probe", "sex", *QUICK[:-2], "--baselines", "motion", "--save-predictor", "still", "motion")
    assert run(home, "group", *asked) == 3
    assert "by motion: no feature varies" in capsys.readouterr().err


def test_people_at_home_are_in_the_training_range(studies):
    home, _ = studies
    assert run(home, "group", "--apply-predictor", "alone") == 0
    facts = json.loads((home.with_name("home_out") / "group_predictor.json").read_text())["Facts"]
    assert {name for name, _ in facts["Flags"]} <= {"features"}, "others are fitted to their own range"
    assert facts["Coverage"]["Found"] >= 0.9


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--model", "random:tiny:7"), 6, "SHA-256"),
        (("--n-windows", "3", "--overwrite"), 4, "n_windows"),
        (("--min-kept", "0.3"), 4, "0.3"),
        (("--recalibrate", "nowhere"), 3, "nowhere"),
        (("--probe", "age"), 4, "--probe"),
        (("--sessions", "each"), 4, "sessions"),
        (("--apply-predictor", "nowhere/p"), 6, "No predictor nowhere/p: neither a folder nor one of"),
        (("--apply-predictor", "third", "--recalibrate", "part"), 4, "3"),
    ],
)
def test_what_the_predictor_was_not_made_for_is_refused(studies, capsys, options, code, word):
    home, abroad = studies
    options = [str(find(home, "third")) if one == "third" else one for one in options]
    chosen = [] if "--apply-predictor" in options else ["--apply-predictor", str(find(home, "alone"))]
    assert run(abroad, "group", *chosen, *options) == code
    assert word in capsys.readouterr().err


def test_values_by_session_are_refused_where_they_are_needed_and_else_left_out(studies, capsys, tmp_path):
    home, _ = studies
    table = tmp_path / "phenotype" / "tall.tsv"
    table.parent.mkdir()
    lines = [f"sub-{n:03d}\tses-{ses}\t{30 + n + int(ses)}" for n in range(26) for ses in "12"]
    table.write_text("\n".join(["participant_id\tsession_id\tage", *lines]) + "\n")
    options = ("--apply-predictor", "alone", "--phenotype", str(table))
    assert run(home, "group", *options, "--recalibrate", "age") == 3
    assert "one value per session" in capsys.readouterr().err
    assert run(home, "group", *options) == 0
    facts = json.loads((home.with_name("home_out") / "group_predictor.json").read_text())["Facts"]
    assert facts["Coverage"] is None


def test_names_of_any_kind_reach_table_and_page(studies, tmp_path):
    home, abroad = studies
    hostile = tmp_path / "<b>a.b"
    shutil.copytree(find(home, "third"), hostile)
    assert run(abroad, "group", "--apply-predictor", str(hostile)) == 0
    out = abroad.with_name("abroad_out")
    (path,) = out.glob("phenotype/bab*Predicted.tsv")
    assert {"probability_young", "probability_<b>old</b>"} <= set(read_tsv(path)[0])
    page = (out / "group.html").read_text()
    assert "Predictor &lt;b&gt;a.b" in page
    assert "<b>old" not in page
    assert "<b>a.b" not in page
    shutil.copytree(find(home, "alone"), tmp_path / "alone")
    facts = json.loads((tmp_path / "alone" / "predictor.json").read_text())
    facts |= {"phenotype": "</script><b>x", "encoder": "<b>y", "model": "<b>z"}
    (tmp_path / "alone" / "predictor.json").write_text(json.dumps(facts))
    assert run(abroad, "group", "--apply-predictor", str(tmp_path / "alone"), "--recalibrate", "age") == 0
    page = (out / "group.html").read_text()
    assert "&lt;/script&gt;&lt;b&gt;x" in page
    assert not any(text in page for text in ("</script><b>x", "<b>y", "<b>z"))


def test_another_atlas_and_other_signals_are_refused(studies, capsys, tmp_path):
    home, _ = studies
    copy = tmp_path / "p"
    shutil.copytree(find(home, "alone"), copy)
    facts = json.loads((copy / "predictor.json").read_text())
    for change, code, word in (
        ({"parcels": [*facts["parcels"][:-1], "LH_Limbic_9"]}, 6, "LH_Limbic_9"),
        ({"signals_settings": facts["signals_settings"] | {"fd_threshold": 0.5}}, 4, "fd_threshold"),
    ):
        (copy / "predictor.json").write_text(json.dumps(facts | change))
        assert run(home, "group", "--apply-predictor", str(copy)) == code
        assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--probe", "age", "--save-predictor", "x", "pearson", *QUICK), "RandomTiny, or"),
        (("--probe", "age", "--save-predictor", "x", "pearson + RandomTiny"), "pearson + RandomTiny"),
        (("--probe", "age", "--save-predictor", "x", "site"), "tangent, parcel_moments, motion, random"),
        (("--probe", "age", "--covariate", "age", "--save-predictor", "x", "covariates"), "covariates"),
        (("--probe", "sex", "--save-predictor", "alone", *QUICK), "alone"),
        (("--probe", "age", "--save-predictor", "x", "a", "b"), "2 models"),
        (("--probe", "age", "--save-predictor", "../x"), "../x"),
        (("--probe", "age", "--save-predictor", "x", "--n-bins", "2"), "bins"),
        (("--probe", "age", "--save-predictor", "x", "--harmonize", "site"), "harmonisation"),
        (("--probe", "age", "--save-predictor", "alone", "--n-repeats", "3"), "alone"),
        (("--save-predictor", "x"), "--probe"),
        (("--recalibrate", "age"), "--apply-predictor"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_any_work(studies, capsys, options, word):
    home, _ = studies
    assert run(home, "group", *options) == 4
    assert word in capsys.readouterr().err
