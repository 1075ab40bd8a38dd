"""Probes from the command line: effects that were planted are found, people who lack something are counted."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_semantoks.analyses import analyse, design, predictors, probe
from bids_semantoks.analyses.rows import count_pretrained, describe_pretraining
from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.cli import call
from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.embedding import build_run_encoder
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.outputs.group_tables import read_split_lines
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics import linear, metrics, spans, splits
from bids_semantoks.statistics.predictions import Predictions

N, P, T = 31, 11, 120


NETWORKS = ("Vis", "SomMot", "Default")


PARCELS = tuple(f"LH_{NETWORKS[i % 3]}_{i}" for i in range(P))


QUICK = ("--n-permutations", "19", "--n-repeats", "1")


LABELS = tuple(f"{i:02d}" for i in range(1, N + 1))


Group = Callable[..., tuple[int, str]]


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in (header, *rows)) + "\n")


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def read_splits(out: Path) -> list[dict[str, str]]:
    columns = ("phenotype", "repetition", "fold", "participant_id", "role")
    return [
        dict(zip(columns, (name, str(repetition), str(fold), f"sub-{label}", role), strict=True))
        for name, repetition, fold, label, role in read_split_lines(out / "group_splits.tsv")
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Parcel series in which the first half of the parcels is the more alike the older one is, and their outputs."""
    root, rng = tmp_path_factory.mktemp("probes"), np.random.default_rng(0)
    series, out = root / "series", root / "out"
    people = []
    for number, label in enumerate(LABELS):
        age, site = 20 + 2 * number, "AB"[number % 2]
        sessions = ("1", "2") if number < 13 else ("",)
        for session in sessions:
            common = rng.standard_normal((T, 1)) * age / 30
            values = rng.standard_normal((T, P)) + np.where(np.arange(P) < P // 2, common, 0)
            part = f"_ses-{session}" if session else ""
            folder = series / f"sub-{label}" / (f"ses-{session}" if session else "") / "func"
            stem = folder / f"sub-{label}{part}_task-rest_space-MNI152NLin6Asym_atlas-Own_stat-mean_timeseries"
            write_tsv(stem.with_suffix(".tsv"), PARCELS, np.round(values, 4).tolist())
            stem.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
        family = f"f{number // 3}" if number > 2 else "n/a"
        sex = "n/a" if number == 7 else "FM"[(number // 2) % 2]
        ward = "north" if sex == "M" else "south"
        people.append((f"sub-{label}", "n/a" if number == 4 else age, sex, site, family, ward))
    people.append(("sub-99", 50, "F", "A", "f1", "south"))
    write_tsv(series / "participants.tsv", ("participant_id", "age", "sex", "site", "family", "ward"), people)
    rows = [(f"sub-{label}", f"ses-{s}", round(rng.normal(), 3)) for label in LABELS[:13] for s in (1, 2)]
    write_tsv(series / "phenotype" / "mood.tsv", ("participant_id", "session_id", "mood"), rows)
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (series / "dataset_description.json").write_text(json.dumps(description))
    options = ["--model", "random:tiny", "--n-procs", "1", "--min-time", "0", "-q"]
    assert call([str(series), str(out), "participant", *options]) == 0
    return series, out


@pytest.fixture
def group(found: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Group:
    """Call the group level; gives its exit code and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = call([*map(str, found), "group", "--model", "random:tiny", "--n-procs", "1", *QUICK, *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def select(out: Path, **wanted: str) -> list[dict[str, str]]:
    rows = read_tsv(out / "group_probe.tsv")
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_planted_effect_is_found_and_all_tables_agree(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    code, said = group("--probe", "age", "sex")
    assert code == 0, said
    (score,) = select(out, phenotype="age", model="pearson", metric="r")
    assert float(score["value"]) > 0.8
    assert float(score["ci_low"]) > 0.3
    assert (score["p_value"], score["p_smallest"]) == ("0.05", "0.05")
    assert score["p_statistic"] == "ridge_r_first_repetition"
    # One repetition was asked for: what is permuted is what is scored.
    assert float(score["p_statistic_value"]) == pytest.approx(float(score["value"]), abs=1e-8)
    # With 19 permutations p cannot fall below 0.05.
    assert score["verdict"] == "inconclusive"
    assert float(score["ci_low"]) < float(score["bound"]) < float(score["value"])
    assert score["n_participants"] == "30"
    assert float(score["difference_low"]) < float(score["difference"]) < float(score["difference_high"])
    compared = {key: row for row in read_tsv(out / "group_probe.tsv") if row["difference_p"] != "n/a"
                for key in [(row["phenotype"], row["model"])]}  # fmt: skip
    assert len(compared) == 18
    smallest = min(compared.values(), key=lambda row: float(row["difference_p"]))
    assert float(smallest["difference_p_holm"]) == pytest.approx(min(18 * float(smallest["difference_p"]), 1))
    # p belongs to one statistic, not to every metric.
    for phenotype, metric in (("age", "r"), ("sex", "auroc")):
        rows = select(out, phenotype=phenotype, model="pearson")
        assert [row["metric"] for row in rows if row["p_value"] != "n/a"] == [metric]
        assert [row["metric"] for row in rows if row["verdict"] != "n/a"] == [metric]
    assert select(out, phenotype="sex", model="pearson", metric="auroc")[0]["p_statistic"] == "ridge_auroc_fixed_split"
    assert {row["metric"] for row in select(out, phenotype="sex")} > {"average_precision", "brier_score", "macro_f1"}
    models = {row["model"] for row in select(out, phenotype="sex") if row["role"] != "added"}
    baselines = {"pearson", "ledoit_wolf", "tangent", "parcel_moments", "motion", "site", "random", "chance"}
    assert models == baselines | {"RandomTiny"}
    assert {row["role"] for row in select(out, phenotype="site")} == {"leakage"}
    assert {row["n_pretrained"] for row in read_tsv(out / "group_probe.tsv")} == {"0"}
    predictions = read_tsv(out / "group_predictions.tsv")
    own = [row for row in predictions if (row["phenotype"], row["model"]) == ("age", "pearson")]
    assert len(own) == 30
    truth, predicted = (np.array([float(row[name]) for row in own]) for name in ("truth", "predicted"))
    assert np.corrcoef(truth, predicted)[0, 1] > 0.7
    sexes = [row for row in predictions if (row["phenotype"], row["model"]) == ("sex", "RandomTiny")]
    assert {row["class"] for row in sexes} == {"M"}
    assert {row["predicted"] for row in sexes} <= {"F", "M"}
    written = json.loads((out / "group_probe.json").read_text())["Facts"]
    assert written["Site"] == "site"
    assert written["Overview"]["site"] == "column site of participants.tsv"
    own = written["Phenotypes"]["age"]["PermutationTest"]
    assert (own["Statistic"], own["SmallestP"], own["Permutations"]) == ("ridge_r_first_repetition", 0.05, 19)
    methods = (out / "logs" / "CITATION.md").read_text()
    assert own["Text"] in methods
    assert own["Text"].partition(": ")[2] in (out / "group.html").read_text()
    assert (
        "*age* was predicted in 30 participants (excluded: 1 with no signals, 1 with no value of age)" in methods
        or "*age* was predicted in 30 participants (excluded: 1 with no value of age; 1 with no signals)" in methods
    )
    facts = written["Phenotypes"]["sex"]
    area = float((np.diff(facts["Roc"]["False"]) * np.array(facts["Roc"]["Hit"])[:-1]).sum())
    counts = np.array(facts["Confusion"])
    recall = (np.diag(counts) / counts.sum(axis=1)).mean()
    for metric, shown in (("auroc", area), ("balanced_accuracy", recall)):
        (score,) = select(out, phenotype="sex", model="RandomTiny", metric=metric)
        assert float(score["value"]) == pytest.approx(shown, abs=1e-4)
    splits = [row for row in read_splits(out) if row["phenotype"] == "age"]
    tested = [row["participant_id"] for row in splits if row["role"] == "test"]
    assert sorted(tested) == sorted(f"sub-{label}" for i, label in enumerate(LABELS) if i != 4)
    for name in ("group_probe", "group_predictions", "group_splits"):
        header = (out / f"{name}.tsv").read_text().partition("\n")[0].split("\t")
        assert set(header) <= set(json.loads((out / f"{name}.json").read_text()))


def test_page_needs_nothing_else(found: tuple[Path, Path], group: Group) -> None:
    code, said = group("--probe", "age", "--baselines", "pearson", "--n-permutations", "0")
    assert code == 0, said
    page = (found[1] / "group.html").read_text()
    assert "Could not draw figure" not in page
    assert page.count("<svg ") == 4
    assert page.count('class="scatter') == 2
    assert "RandomTiny within each site" in page
    assert 'src="http' not in page
    assert "1 without a value" in page
    assert "has random weights" in page
    assert {row["model"] for row in select(found[1], phenotype="age")} == {
        *("RandomTiny", "pearson", "pearson + RandomTiny")
    }
    assert {row["p_value"] for row in select(found[1], phenotype="age")} == {"n/a"}


def test_sessions_are_rows_and_never_straddle_a_split(
    found: tuple[Path, Path], group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, together = found[1], []

    def cross_validate_all(features: Any, targets: Any, splits: Any, **known: Any) -> list[Predictions]:
        if targets[0].name == "mood":
            together.append(known["groups"])
        return linear.cross_validate_all(features, targets, splits, **known)

    def compute_scores(predictions: Predictions, *, participants: Any, **known: Any) -> tuple[metrics.Score, ...]:
        if predictions.target == "mood":
            together.append(participants)
        return metrics.compute_scores(predictions, participants=participants, **known)

    monkeypatch.setattr(predictors, "cross_validate_all", cross_validate_all)
    monkeypatch.setattr(probe, "compute_scores", compute_scores)
    code, said = group("--probe", "mood", "--baselines", "motion")
    assert code == 0, said
    # Penalties are chosen, and intervals drawn, by participants: of 44 rows, 26 belong to people with two sessions.
    assert len(together) == 4
    for labels in together:
        counts = np.unique(labels, return_counts=True)[1]
        assert (len(labels), len(counts), counts.max()) == (44, N, 2)
    (score,) = select(out, phenotype="mood", model="RandomTiny", metric="r")
    assert (score["n_participants"], score["n_rows"]) == ("13", "26")
    rows = [row for row in read_tsv(out / "group_predictions.tsv") if row["model"] == "RandomTiny"]
    assert {(row["participant_id"], row["session_id"]) for row in rows} == {
        (f"sub-{label}", f"ses-{session}") for label in LABELS[:13] for session in (1, 2)
    }
    roles: dict[tuple[str, str], set[str]] = {}
    for row in read_splits(out):
        roles.setdefault((row["fold"], row["participant_id"]), set()).add(row["role"])
    assert all(len(found_roles) == 1 for found_roles in roles.values())


def test_sessions_stay_together_where_one_of_two_sites_trains(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    inner: list[tuple[Any, Any]] = []
    build = splits.build_inner_folds

    def remember(rows: Any, *, groups: Any, **known: Any) -> Any:
        fold_of = build(rows, groups=groups, **known)
        inner.append((groups, fold_of))
        return fold_of

    monkeypatch.setattr(linear, "build_inner_folds", remember)
    code, said = group("--probe", "mood", "--baselines", "none", "--leave-out", "site")
    assert code == 0, said
    # Two folds of the phenotype, in any order: one trains on the six participants of a site, twice each.
    for (labels, fold_of), n_people in zip(sorted(inner[:2], key=lambda one: len(one[0])), (6, 7), strict=True):
        assert (len(labels), len(np.unique(labels))) == (2 * n_people, n_people)
        for label in np.unique(labels):
            assert len(np.unique(fold_of[labels == label])) == 1


def test_given_splits_are_used(found: tuple[Path, Path], group: Group, tmp_path: Path) -> None:
    path = tmp_path / "splits.tsv"
    parts = {label: i % 3 for i, label in enumerate(LABELS)}
    rows = [(0, fold, f"sub-{label}", "test") for label, fold in parts.items()]
    write_tsv(path, ("repetition", "fold", "participant_id", "role"), rows)
    assert group("--probe", "age", "--baselines", "none", "--splits", str(path))[0] == 0
    used = read_splits(found[1])
    for fold in range(3):
        tested = [row["participant_id"] for row in used if (row["fold"], row["role"]) == (str(fold), "test")]
        assert tested == [f"sub-{label}" for i, label in enumerate(LABELS) if parts[label] == fold and i != 4]
    code, said = group("--probe", "age", "--baselines", "none", "--splits", str(path), "--protocol", "paper")
    assert code == 3
    assert "no validation participants" in said


@pytest.mark.parametrize(("how", "n_rows"), [("first", N), ("mean", N), ("each", N + 13)])
def test_several_sessions_and_one_value_a_participant(
    found: tuple[Path, Path], group: Group, how: str, n_rows: int
) -> None:
    code, said = group("--probe", "age", "--baselines", "none", "--n-repeats", "1", "--sessions", how)
    assert code == 0, said
    assert f"age: 13 of {N} participants have several sessions (26 in all): " in " ".join(said.split())
    assert f"(--sessions {how})" in " ".join(said.split())
    assert ("(ses-1 of 13)" in said) == (how == "first")
    assert f"{n_rows - (2 if how == 'each' else 1)} of {n_rows}" in " ".join(said.split())
    rows = read_tsv(found[1] / "group_predictions.tsv")
    # The fifth participant has two sessions and no age.
    assert len(rows) == n_rows - (2 if how == "each" else 1)
    assert ({row["session_id"] for row in rows} == {"n/a"}) == (how != "each")
    features = read_tsv(next((found[1] / "phenotype").glob("*RandomTiny.tsv")))
    assert len(features) == n_rows
    first = features[0]
    assert (first["n_runs"], first.get("session_id")) == (
        {"mean": "2"}.get(how, "1"),
        "ses-1" if how == "each" else None,
    )
    parts: dict[tuple[str, str], set[str]] = {}
    for row in read_splits(found[1]):
        parts.setdefault((row["fold"], row["participant_id"]), set()).add(row["role"])
    assert all(len(roles) == 1 for roles in parts.values())


def test_a_phenotype_that_cannot_be_probed_leaves_the_others(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    table = tmp_path / "more.tsv"
    write_tsv(
        table, ("participant_id", "same", "rare"), [(f"sub-{x}", 1, "b" if i else "a") for i, x in enumerate(LABELS)]
    )
    quick = ("--baselines", "none", "--n-repeats", "1", "--phenotype", str(table))
    code, said = group("--probe", "same", "age", "rare", *quick)
    assert code == 7, said
    assert "same cannot be probed (the others will be): Column same of more.tsv is constant" in " ".join(said.split())
    assert {row["phenotype"] for row in read_tsv(found[1] / "group_probe.tsv") if row["role"] == "encoder"} == {"age"}
    warnings = json.loads((found[1] / "group_probe.json").read_text())["Facts"]["Warnings"]
    assert [warning[:20] for warning in warnings if "was not probed" in warning] == [
        "same was not probed:",
        "rare was not probed:",
    ]
    assert group("--probe", "same", "age", "--dry-run", *quick)[0] == 7
    # Nothing is left to probe, or a column is not there: before any work.
    assert group("--probe", "same", "rare", *quick)[0] == 3
    assert group("--probe", "age", "nowhere", *quick)[0] == 3


def test_phenotypes_of_calls_of_their_own_are_joined(
    found: tuple[Path, Path], group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = found[1]

    def read() -> dict[str, bytes]:
        kept = {path.name: path.read_bytes() for path in out.glob("group_*.tsv")}
        return {**kept, "facts": (out / "group_probe.json").read_bytes(), "page": (out / "group.html").read_bytes()}

    asked = ("--probe", "age", "sex", *QUICK, "--baselines", "motion")
    assert group(*asked)[0] == 0
    expected = read()
    for path in out.glob("group*"):
        path.unlink()
    for part in range(3):
        assert group(*asked, "--probe-part", str(part))[0] == 0
        assert not (out / "group_probe.tsv").exists()
    kept = sorted((out / "logs" / "probes" / "parts").iterdir())
    assert len(kept) == 2
    parts = {path: path.read_bytes() for path in kept}

    def compute(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(probe.Prober, "probe", compute)
        assert group(*asked)[0] == 0
    assert read() == expected
    assert not any(path.exists() for path in kept), "the tables have them"
    # Parts of another seed, and damaged ones, are not taken.
    for path, content in parts.items():
        path.write_bytes(content[: len(content) // 2])
    assert "is damaged; probing" in " ".join(group(*asked)[1].split())
    assert read() == expected
    for path, content in parts.items():
        path.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr(probe.Prober, "probe", compute)
        assert group(*asked, "--random-seed", "1")[0] == 1
    assert group(*asked, "--probe-part", "3")[0] == 4


def test_decisions_in_the_table_are_those_that_are_scored(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    table = tmp_path / "more.tsv"
    write_tsv(
        table, ("participant_id", "old"), [(f"sub-{x}", "no" if i < N - 6 else "yes") for i, x in enumerate(LABELS)]
    )
    quick = ("--n-repeats", "1", "--phenotype", str(table), "--baselines", "motion", "chance")
    assert group("--probe", "old", *quick)[0] == 0
    rows = read_tsv(found[1] / "group_predictions.tsv")
    for score in select(found[1], phenotype="old", metric="balanced_accuracy"):
        own = [row for row in rows if row["model"] == score["model"]]
        hits = [np.mean([row["predicted"] == name for row in own if row["truth"] == name]) for name in ("no", "yes")]
        assert np.mean(hits) == pytest.approx(float(score["value"])), score["model"]


def test_people_of_given_splits_who_are_not_here_are_counted(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    path = tmp_path / "splits.csv"
    rows = [(0, i % 2, f"sub-{label}", "Test") for i, label in enumerate([*LABELS[2:], "gone", "away", "left"])]
    path.write_text(
        "\n".join(",".join(map(str, row)) for row in [("repetition", "fold", "participant_id", "role"), *rows])
    )
    code, said = group("--probe", "age", "--baselines", "none", "--splits", str(path))
    assert code == 0, said
    assert "1 without a value" in said
    assert "3 of the given splits " in " ".join(said.split())
    out = json.loads((found[1] / "group_probe.json").read_text())["Facts"]["Phenotypes"]["age"]["Facts"]["out"]
    assert "3 of the given splits " in out


def test_given_splits_must_train_every_class(group: Group, tmp_path: Path) -> None:
    # sub-03, sub-04 and their like are M: all of them are tested, and nobody is left to learn M from.
    roles = {label: "test" if (i // 2) % 2 else "train" for i, label in enumerate(LABELS)}
    splits = tmp_path / "splits.tsv"
    rows = [(0, 0, f"sub-{label}", role) for label, role in roles.items()]
    write_tsv(splits, ("repetition", "fold", "participant_id", "role"), rows)
    code, said = group("--probe", "sex", "--baselines", "none", "--splits", str(splits))
    assert code == 3, said
    assert re.search("Repetition 0, fold 0 .* sex = M", " ".join(said.split()))


def test_families_stay_together_and_sites_are_left_out(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    assert group("--probe", "age", "--baselines", "none", "--group-by", "family")[0] == 0
    families = {f"sub-{label}": f"f{i // 3}" if i > 2 else label for i, label in enumerate(LABELS)}
    for fold in "01234":
        rows = [row for row in read_splits(out) if row["fold"] == fold]
        sides = {
            role: {families[row["participant_id"]] for row in rows if row["role"] == role} for role in ("train", "test")
        }
        assert not sides["train"] & sides["test"]
    before = (out / "group_splits.tsv").read_text()
    code, said = group("--probe", "age", "--baselines", "pearson", "--leave-out", "site")
    assert code == 0, said
    assert "copies are in" in said
    assert before in [path.read_text() for path in (out / "logs" / "probes").glob("*/group_splits.tsv")]
    tested = {row["participant_id"] for row in read_splits(out) if (row["fold"], row["role"]) == ("1", "test")}
    assert tested == {f"sub-{label}" for i, label in enumerate(LABELS) if i % 2 == 1}


def test_covariates_are_removed_and_stand_alone(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    assert group("--probe", "age", "--covariate", "sex", "age", "--baselines", "covariates")[0] == 0
    (score,) = select(out, phenotype="age", model="RandomTiny", metric="r")
    assert (score["covariates"], score["n_participants"]) == ("sex", "29")
    (alone,) = select(out, phenotype="age", model="covariates", metric="r")
    assert alone["covariates"] == "n/a"
    leaks = {row["covariates"] for row in select(out, phenotype="site")}
    assert leaks == {"n/a", "sex, age"}
    facts = json.loads((out / "group_probe.json").read_text())["Facts"]["Phenotypes"]["age"]["Facts"]
    assert (facts["used as"], facts["covariates removed"]) == ("number", "sex (category, 2 levels)")
    assert "sex (category, 2 levels)" in (out / "group.html").read_text()
    assert (
        "1 without a value; 1 without a value of sex; 1 more in participants.tsv without runs here"
        in (out / "group.html").read_text()
    )


def test_codes_and_labels_of_an_exported_table_are_named(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    out, table = found[1], tmp_path / "export.csv"
    rows = [(label.lstrip("0"), 20 + i, i // 2 if i > 5 else -9, -9999 if i < 3 else 100 + i) for i, label in
            enumerate(LABELS)]  # fmt: skip
    lines = ["eid,years,kin,iq", *(",".join(map(str, row)) for row in rows)]
    table.write_text("\n".join(lines) + "\n", encoding="utf-16")
    asked = ("--probe", "years", "--covariate", "iq", "--phenotype", str(table), "--baselines", "none")
    code, said = group(*asked)
    assert code == 3
    assert "--id-column eid" in said
    code, said = group(*asked, "--id-column", "eid", "--group-by", "kin")
    assert code == 0, said
    written = json.loads((out / "group_probe.json").read_text())["Facts"]
    assert written["Phenotypes"]["years"]["Facts"]["covariates removed"] == "iq (number)"
    assert "category" in written["Phenotypes"]["years"]["Facts"]["kept together by kin"]
    for name, code_count in (("iq", "'-9999' (3)"), ("kin", "'-9' (6)")):
        (warning,) = (one for one in written["Warnings"] if f"Column {name} of export.csv" in one)
        assert code_count in warning
        assert warning in said
    table.write_text("\n".join([*lines[:5], lines[5].replace(",104", ",<70"), *lines[6:]]) + "\n")
    for option in ("--covariate", "--group-by", "--leave-out"):
        code, said = group("--probe", "years", option, "iq", *asked[4:], "--id-column", "eid")
        assert code == 3
        assert f"'<70' of sub-{LABELS[4]} (row 6)" in said


def test_small_sites_neither_hide_leakage_nor_are_scored(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    out, table = found[1], tmp_path / "sites.tsv"
    # Five are of site D, one of whom has no sex: with sex removed, the other sites are still told apart.
    sites = ["ABC"[i % 3] if i > 5 else "D" if i else "C" for i in range(N)]
    sites[1], sites[7] = "C", "D"
    rows = [(f"sub-{label}", site) for label, site in zip(LABELS, sites, strict=True)]
    write_tsv(table, ("participant_id", "site"), rows)
    arguments = ("--phenotype", str(table), "--covariate", "sex", "--baselines", "none")
    code, said = group("--probe", "age", *arguments)
    assert code == 0, said
    leaks = {row["covariates"]: row for row in select(out, phenotype="site", metric="auroc")}
    assert (leaks["n/a"]["n_participants"], leaks["sex"]["n_participants"]) == ("31", "26")
    levels = {row["level"]: row for row in read_tsv(out / "group_strata.tsv") if row["by"] == "site"}
    assert levels["D"]["value"] == "n/a"
    assert float(levels["C"]["value"]) <= 1
    assert "Not scored (fewer than ten participants): A (" in (out / "group.html").read_text()


def test_families_stay_together_where_leakage_is_measured(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    designs: list[Any] = []
    run = probe.Prober.run

    def remember(self: probe.Prober, features: Any, design: Any, *, role: str, protocol: str = "nested") -> Any:
        designs.extend([design] if role == "leakage" else [])
        return run(self, features, design, role=role, protocol=protocol)

    monkeypatch.setattr(probe.Prober, "run", remember)
    code, said = group("--probe", "age", "--baselines", "none", "--group-by", "family")
    assert code == 0, said
    families = np.array([f"f{i // 3}" if i > 2 else label for i, label in enumerate(LABELS)])
    assert [design.target.name for design in designs] == ["site"]
    for split in designs[0].splits:
        assert not set(families[split.train]) & set(families[split.test])


def test_names_are_kept_as_they_were_written(found: tuple[Path, Path], group: Group, tmp_path: Path) -> None:
    out, table = found[1], tmp_path / "names.csv"
    hands = ("left  handed", "right\N{NO-BREAK SPACE}handed", '"no\nidea"')
    rows = [f"sub-{label},{hands[i % 3]},{'uv'[i % 2]},{i % 7}.5" for i, label in enumerate(LABELS)]
    table.write_text("\n".join(["participant_id,hand  used,mean_fd,Facts", *rows]) + "\n", encoding="utf-8")
    arguments = ("--phenotype", str(table), "--baselines", "chance", "--n-permutations", "0")
    code, said = group("--probe", "hand  used", "mean_fd", "Facts", *arguments)
    assert code == 0, said
    assert "Could not draw figure" not in said
    truth = {row["truth"] for row in read_tsv(out / "group_predictions.tsv") if row["phenotype"] == "hand  used"}
    assert truth == {*hands[:2], "no idea"}
    points = read_tsv(out / "group_map.tsv")
    assert {row["mean_fd (phenotype)"] for row in points} == {"u", "v"}
    assert {"mean_fd", "Facts (phenotype)", "axis1"} < set(points[0])


def test_designs_are_built_once_and_anew_only_where_runs_were_lost(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    seen: list[Any] = []
    build, revise = design.build_design, design.revise_plan

    def remember_design(plan: Any, rows: Any, phenotype: Phenotype) -> Any:
        built.append(phenotype.name)
        return build(plan, rows, phenotype)

    def remember_plan(*known: Any) -> Any:
        seen.append(known)
        return revise(*known)

    monkeypatch.setattr(design, "build_design", remember_design)
    monkeypatch.setattr(analyse, "revise_plan", remember_plan)
    code, said = group("--probe", "age", "mood", "--baselines", "none", "--n-permutations", "0")
    assert code == 0, said
    assert built == ["age", "mood"]
    ((plan, config, stored),) = seen
    fewer = revise(plan, config, [run for run in stored if run.entities["sub"] != LABELS[0]])
    assert built == ["age", "mood", "age", "mood"]
    assert [len(one.rows.keys) for _, one in plan.designs] == [N, N + 13]
    assert [len(one.rows.keys) for _, one in fewer.designs] == [N - 1, N + 13 - 2]


def test_a_score_that_no_fold_has_is_not_chance(found: tuple[Path, Path], group: Group, tmp_path: Path) -> None:
    table = tmp_path / "wards.tsv"
    write_tsv(table, ("participant_id", "ward"), [(f"sub-{label}", f"w{label}") for label in LABELS])
    arguments = ("--phenotype", str(table), "--leave-out", "ward", "--baselines", "chance", "--n-permutations", "0")
    code, said = group("--probe", "age", *arguments)
    assert code == 0, said
    (score,) = select(found[1], phenotype="age", model="RandomTiny", metric="mae")
    assert float(score["ci_low"]) < float(score["value"])
    page = (found[1] / "group.html").read_text()
    assert "no test part has two values" in page
    assert "chance explains as well" not in page


def test_published_protocol_and_bins(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    code, said = group("--probe", "age", "--protocol", "paper", "--n-bins", "2", "--baselines", "pearson")
    assert code == 0, said
    rows = {row["model"]: row for row in select(out, phenotype="age", metric="auroc")}
    assert rows["RandomTiny"]["protocol"] == "paper"
    assert rows["pearson"]["protocol"] == "nested"
    assert rows["RandomTiny"]["kind"] == "classification"
    roles = {row["role"] for row in read_splits(out)}
    assert roles == {"train", "validation", "test"}


def test_sites_are_harmonised_within_folds_and_what_is_left_is_measured(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    asked = ("--probe", "age", "--harmonize", "site", "--harmonize-keep", "sex", "--baselines", "pearson", "motion")
    code, said = group(*asked, "--leave-out", "site")
    assert code == 0, said
    assert "sites with fewer than 20 rows in a part: A (" in said
    cells = {row["model"]: row["harmonized"] for row in select(out, phenotype="age", metric="r")}
    assert cells["RandomTiny"] == cells["pearson"] == cells["pearson + RandomTiny"] == "site (combat)"
    assert cells["motion"] == "n/a"
    before, after = select(out, phenotype="site", metric="balanced_accuracy")
    assert (before["harmonized"], after["harmonized"]) == ("n/a", "site (combat)")
    facts = json.loads((out / "group_probe.json").read_text())["Facts"]["Phenotypes"]["age"]["Facts"]
    assert "keeping sex; test rows of unseen sites by their own rows" in facts["harmonised"]
    tests = [row for row in read_tsv(out / "group_strata.tsv") if row["metric"] == "confounder_share"]
    assert [row["by"] for row in tests] == ["mean_fd", "site"] or [row["by"] for row in tests] == ["site"]
    assert all(0.05 <= float(row["p_value"]) <= 1 and 0 <= float(row["value"]) <= 1 for row in tests)
    page = (out / "group.html").read_text()
    assert f"balanced accuracy of {float(before['value']):.2f}" in page
    assert f"and {float(after['value']):.2f} " in page
    assert "only effects within sites remain to be predicted" in page
    assert f"p = {float(tests[-1]['p_value']):.3f}" in page
    assert "ComBat" in (out / "logs" / "CITATION.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--probe", "agee"), 3, "Column agee not found in participants.tsv"),
        (("--probe", "family"), 3, "classes with fewer than 5 members"),
        (("--probe", "age", "--group-by", "site"), 3, "age cannot be split: 2 groups cannot be divided into 5 folds"),
        (
            ("--probe", "age", "site", "--leave-out", "site"),
            3,
            "--leave-out site separates the classes that --probe site",
        ),
        (
            ("--probe", "sex", "--leave-out", "ward"),
            3,
            "Without ward north there are no training participants with sex = M",
        ),
        (("--probe", "age", "--covariate", "mood"), 3, "mood of mood.tsv has one value per session, but age"),
        (
            ("--probe", "age", "--protocol", "paper", "--covariate", "sex"),
            4,
            "--covariate sex is only supported by the nested",
        ),
        (("--group-by", "site"), 4, "--group-by has no effect without --probe|has no effect without --probe"),
        (("--probe", "age", "--baselines", "none", "pearson"), 4, "--baselines combines none with pearson"),
        (("--probe", "age", "--baselines", "covariates"), 4, "--baselines covariates has no effect without --cov"),
        (("--probe", "site", "--baselines", "site"), 4, "--baselines site has no effect: site is the predicted"),
        (("--probe", "age", "--baselines", "site", "--leave-out", "site"), 4, "with --leave-out site, every test site"),
        (("--probe", "age", "--harmonize-keep", "sex"), 4, "has no effect without --harmonize"),
        (("--probe", "age", "sex", "--harmonize", "site", "--harmonize-keep", "sex"), 4, "put the predicted phenotype"),
        (("--probe", "age", "site", "--harmonize", "site"), 4, "--harmonize site would remove what --probe site"),
        (("--probe", "sex", "--harmonize", "site", "--protocol", "paper"), 4, "cannot be combined with --protocol"),
        (("--probe", "age", "--harmonize", "family"), 3, "fewer than 5 rows"),
        (("--probe", "sex", "site", "--n-bins", "3"), 4, "--n-bins 3 has no effect: sex, site have classes"),
    ],
)
def test_what_cannot_be_probed_ends_before_any_work(
    group: Group, found: tuple[Path, Path], arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = sorted_naturally(str(path) for path in (found[1] / "logs").iterdir())
    ended, said = group(*arguments)
    assert ended == code
    assert any(part in said for part in message.split("|"))
    assert sorted_naturally(str(path) for path in (found[1] / "logs").iterdir()) == before


def test_pretrained_participants_are_counted_by_their_hashes() -> None:
    networks = tuple(NETWORKS[i % 3] for i in range(P))
    random = build_run_encoder(EmbeddingConfig(model="random:tiny"), PARCELS, networks, seed=0)
    assert count_pretrained({"01"}, random) == 0
    hashes = [hashlib.sha256(f"salt{label}".encode()).hexdigest() for label in ("01", "02", "sub-03")]
    details = {"participants": {"salt": "salt", "sha256": hashes}}
    own = dataclasses.replace(random, loaded=dataclasses.replace(random.loaded, is_random=False, details=details))
    assert count_pretrained({"01", "03", "1", "44"}, own) == 2
    assert describe_pretraining(own, 2, 4).startswith("2 of 4 participants ")
    foreign = dataclasses.replace(random, loaded=dataclasses.replace(random.loaded, is_random=False))
    assert count_pretrained({"01"}, foreign) is None
    assert "overlap cannot be checked" in describe_pretraining(foreign, None, 4)


def test_people_are_listed_by_reason(found: tuple[Path, Path], group: Group) -> None:
    code, said = group("--probe", "age", "--covariate", "sex", "--baselines", "none", "--n-permutations", "0")
    assert code == 0, said
    rows = {row["participant_id"]: row for row in read_tsv(found[1] / "group_participants.tsv")}
    assert len(rows) == N + 1
    out = {label: row["reason"] for label, row in rows.items() if row["used"] == "out"}
    assert out == {"sub-05": "no value of age", "sub-08": "no value of a covariate or group", "sub-99": "no signals"}
    assert (rows["sub-99"]["age"], rows["sub-99"]["sex"], rows["sub-99"]["kept_seconds"]) == ("50", "F", "n/a")
    assert float(rows["sub-01"]["kept_seconds"]) > 0
    facts = json.loads((found[1] / "group_probe.json").read_text())["Facts"]["Phenotypes"]["age"]["People"]
    assert [line[:2] for line in facts["Lines"]] == [
        ["in", "29"],
        *[[f"out: {reason}", "1"] for reason in ("no value of age", "no value of a covariate or group", "no signals")],
    ]
    page = (found[1] / "group.html").read_text()
    assert "out: no value of a covariate or group" in page


def test_subgroups_are_scored_where_each_class_has_ten(found: tuple[Path, Path], group: Group) -> None:
    quick = ("--baselines", "none", "--n-permutations", "0")
    code, said = group("--probe", "age", "sex", "--strata", "sex", "age", "site", *quick)
    assert code == 0, said
    rows = read_tsv(found[1] / "group_strata.tsv")
    levels = {(row["phenotype"], row["by"]): [] for row in rows}
    for row in rows:
        levels[row["phenotype"], row["by"]].append(row)
    assert set(levels) == {("age", "site"), ("age", "sex"), ("sex", "site"), ("sex", "age")}
    # Ages are cut at their tertiles; one person has none.
    thirds = ["up to 41.33", "41.33 to 60.67", "above 60.67", "n/a"]
    assert [row["level"] for row in levels["sex", "age"]] == thirds
    assert {row["value"] for row in levels["sex", "age"]} == {"n/a"}
    by_sex = {row["level"]: row for row in levels["age", "sex"]}
    assert (by_sex["F"]["n_least"], by_sex["n/a"]["n_least"]) == (by_sex["F"]["n_participants"], "1")
    assert float(by_sex["F"]["value"]) <= 1
    assert by_sex["n/a"]["value"] == "n/a"
    for row in levels["sex", "site"]:
        assert (row["value"] == "n/a") == (int(row["n_least"]) < 10)
    code, said = group("--probe", "sex", "--strata", "sex", *quick)
    assert code == 4
    assert "--strata sex has no effect: sex is the predicted phenotype" in " ".join(said.split())
    assert group("--strata", "sex")[0] == 4


def test_measures_of_runs_are_covariates_without_a_column(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    out, quick = found[1], ("--baselines", "covariates", "--n-permutations", "0")
    code, said = group("--probe", "age", "--covariate", "kept_share", "sex", *quick)
    assert code == 0, said
    assert "quality measure kept_share of each run" in " ".join(said.split())
    (score,) = select(out, phenotype="age", model="RandomTiny", metric="r")
    assert score["covariates"] == "kept_share, sex"
    facts = json.loads((out / "group_probe.json").read_text())["Facts"]["Phenotypes"]["age"]["Facts"]
    assert facts["covariates removed"] == "kept_share (number), sex (category, 2 levels)"
    # These series have no motion; a column of that name is used where there is one.
    code, said = group("--probe", "age", "--covariate", "mean_fd", *quick)
    assert code == 3
    assert "none of the 44 runs has this measure" in " ".join(said.split())
    table = tmp_path / "more.tsv"
    write_tsv(table, ("participant_id", "mean_fd"), [(f"sub-{label}", i % 7 / 10) for i, label in enumerate(LABELS)])
    code, said = group("--probe", "age", "--covariate", "mean_fd", "--phenotype", str(table), *quick)
    assert code == 0, said
    assert "the column mean_fd of more.tsv" in " ".join(said.split())


def test_each_encoder_is_added_to_connectivity_and_covariates(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    code, said = group("--probe", "age", "sex", "--covariate", "site", "--baselines", "ledoit_wolf", "covariates")
    assert code == 0, said
    for phenotype, metric in (("age", "r"), ("sex", "auroc")):
        rows = {row["model"]: row for row in select(out, phenotype=phenotype, role="added", metric=metric)}
        assert set(rows) == {"ledoit_wolf + RandomTiny", "covariates + RandomTiny"}
        for name, row in rows.items():
            base = name.partition(" + ")[0]
            assert row["compared_with"] == base
            (alone,) = select(out, phenotype=phenotype, model=base, metric=metric, role="baseline")
            # The mean over folds of a repetition is not the score over all of it, but near.
            gain = float(row["value"]) - float(alone["value"])
            assert float(row["difference"]) == pytest.approx(gain, abs=0.1)
            assert float(row["difference_p_holm"]) >= float(row["difference_p"])
            assert (row["p_value"], row["verdict"]) == ("n/a", "n/a")
            assert alone["compared_with"] == "RandomTiny"
    page = (out / "group.html").read_text()
    assert "Added value of the encoder" in page
    assert "Ledoit-Wolf connectivity + RandomTiny" in page


def test_classes_are_predicted_as_brainmarks_does(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    code, said = group(
        "--probe", "age", "sex", "--protocol", "brainmarks", "--baselines", "pearson", "--n-repeats", "4"
    )
    assert code == 7, said
    assert "age is continuous, but --protocol brainmarks" in said
    rows = select(out, phenotype="sex", model="RandomTiny")
    assert {row["protocol"] for row in rows} == {"brainmarks"}
    assert {"accuracy", "balanced_accuracy", "macro_f1"} < {row["metric"] for row in rows}
    assert {(row["n_repeats"], row["n_folds"]) for row in rows} == {("4", "1")}
    # One person weighs a sixth of a test part at most, so that scores are far from any other protocol's.
    splits = [row for row in read_splits(out) if row["repetition"] == "0"]
    assert sorted(row["role"] for row in splits).count("test") == 6
    former = {row["metric"]: row["value"] for row in rows}
    given = out.parent / "brainmarks_splits.tsv"
    given.write_bytes((out / "group_splits.tsv").read_bytes())
    code, said = group("--probe", "sex", "--protocol", "brainmarks", "--baselines", "none", "--splits", str(given))
    assert code == 0, said
    again = select(out, phenotype="sex", model="RandomTiny")
    assert {row["metric"]: row["value"] for row in again} == former


def test_several_encoders_stand_in_one_table_on_the_same_splits(found: tuple[Path, Path], group: Group) -> None:
    out = found[1]
    asked = ("--probe", "age", "--baselines", "pearson", "random")
    code, said = group("--model", "random:tiny", "random:tiny:5", "random:tiny:6", *asked)
    assert code == 0, said
    rows = {row["model"]: row for row in select(out, phenotype="age", metric="r")}
    encoders = [name for name, row in rows.items() if row["role"] == "encoder"]
    assert encoders[0] == "RandomTiny"
    assert len(set(encoders)) == 3
    for name in encoders[1:]:
        assert rows[name]["compared_with"] == "RandomTiny"
        assert rows[f"pearson + {name}"]["compared_with"] == "pearson"
        assert (out / "phenotype" / f"Own{name}.tsv").is_file()
        assert rows[name]["value"] != rows["RandomTiny"]["value"]
    assert {row["n_participants"] for row in rows.values()} == {"30"}
    page = (out / "group.html").read_text()
    assert all(name in page for name in encoders)
    code, said = group("--model", "random:tiny", "random:tiny:0", "--probe", "age")
    assert code == 4
    assert "has the same weights as RandomTiny" in said
    # Of two uses of the option the last counts.
    code, said = group("--model", "random:tiny:5", "--probe", "age", "--baselines", "none")
    assert code == 0, said
    assert {row["model"] for row in select(out, role="encoder")} == set(encoders[1:2])


def test_phenotypes_with_the_same_people_and_splits_share_what_is_decomposed(
    found: tuple[Path, Path], group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "splits.tsv", []
    labels = [label for i, label in enumerate(LABELS) if i not in (4, 7)]  # they lack age or sex
    rows = [
        (0, fold, f"sub-{label}", "test" if i % 3 == fold else "train")
        for fold in range(3)
        for i, label in enumerate(labels)
    ]
    write_tsv(path, ("repetition", "fold", "participant_id", "role"), rows)
    compute = spans.KernelFeatures.compute_span

    def remember(self: Any, *rows: Any) -> Any:
        asked.append(self.name)
        return compute(self, *rows)

    monkeypatch.setattr(spans.KernelFeatures, "compute_span", remember)
    call = ("--baselines", "pearson", "--splits", str(path), "--n-permutations", "5")
    code, said = group("--probe", "age", *call)
    assert code == 0, said
    alone, asked[:] = (len(asked), select(found[1], phenotype="age")), []
    code, said = group("--probe", "age", "sex", *call)
    assert code == 0, said
    # Three folds serve values, their test and classes; the test of classes draws five of its own.
    assert (alone[0], len(asked)) == (3, 3 + 5)
    drop = {"difference_p_holm", "n_pretrained"}
    both = [{k: v for k, v in row.items() if k not in drop} for row in select(found[1], phenotype="age")]
    assert both == [{k: v for k, v in row.items() if k not in drop} for row in alone[1]]


def test_the_same_splits_for_all_phenotypes_are_decomposed_once(
    found: tuple[Path, Path], group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, asked, compute = tmp_path / "scores.tsv", [], spans.KernelFeatures.compute_span
    rng = np.random.default_rng(0)
    rows = [
        (f"sub-{label}", *rng.normal(size=2).round(3), "n/a" if i == 3 else i % 7) for i, label in enumerate(LABELS)
    ]
    write_tsv(table, ("participant_id", "fluency", "memory", "speed"), rows)

    def remember(self: Any, *rows: Any) -> Any:
        asked.append(rows)
        return compute(self, *rows)

    monkeypatch.setattr(spans.KernelFeatures, "compute_span", remember)
    call = ("--probe", "fluency", "memory", "speed", "--phenotype", str(table), "--probe-kind", "regression")
    counts, folds = [], []
    for more in ((), ("--same-splits",)):
        asked.clear()
        code, said = group(*call, "--baselines", "pearson", *more)
        assert code == 0, said
        counts.append(len(asked))
        rows = read_splits(found[1])
        own = [[(row["fold"], row["participant_id"]) for row in rows if row["phenotype"] == name and
                row["role"] == "test"] for name in ("fluency", "memory", "speed")]  # fmt: skip
        folds.append((own[0] == own[1], own[0] == own[2]))
    # Two have the same people; the third lacks one.
    assert (counts, folds) == ([3 * 5, 2 * 5], [(False, False), (True, False)])
    assert group(*call, "--same-splits", "--leave-out", "site")[0] == 4
    text = (found[1] / "logs" / "CITATION.md").read_text()
    assert "the same for all phenotypes of the same participants" in " ".join(text.split())


def test_tables_of_signals_are_parsed_once_where_there_is_a_work_directory(
    found: tuple[Path, Path], group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, parsed, read = found[1], [], StoredRun.read_signals

    def remember(run: StoredRun) -> Any:
        parsed.append(run.paths.stem)
        return read(run)

    call = ("--probe", "age", "--baselines", "pearson", "parcel_moments", "--n-permutations", "0")
    assert group(*call)[0] == 0
    monkeypatch.setattr(StoredRun, "read_signals", remember)
    counts, tables = [], []
    for more in ((), ("--work-dir", str(tmp_path / "work")), ("--work-dir", str(tmp_path / "work"))):
        parsed.clear()
        assert group(*call, *more)[0] == 0
        counts.append((len(parsed), len(set(parsed))))
        tables.append([(out / f"group_{name}.tsv").read_bytes() for name in ("probe", "predictions", "retest")])
    n_runs = counts[0][1]
    assert counts[0][0] > n_runs
    # Baselines and two sides of retest, each of which reads one table for the number of parcels.
    assert counts[1:] == [(n_runs + 3, n_runs), (3, 2)]
    assert tables[0] == tables[1] == tables[2]
    assert {row["features"] for row in read_tsv(out / "group_retest.tsv")} == {"RandomTiny", "pearson"}
