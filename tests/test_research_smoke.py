"""Fine-tuning, blocks of tasks and scaling from the command line."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.documented import find_undocumented

from bids_semantoks.analyses import task_blocks
from bids_semantoks.cli import call

N, P, T, N_TASK = 33, 11, 115, 7


NETWORKS = ("Vis", "SomMot", "Default")


PARCELS = tuple(f"LH_{NETWORKS[i % 3]}_{i}" for i in range(P))


LABELS = tuple(f"{i:02d}" for i in range(1, N + 1))


ONSETS = np.arange(10, 210, 25)


#: One window a run, for embedding takes the time; one thread, for small encoders on a busy machine wait for the second.
MODEL = ("--model", "random:tiny", "--n-windows", "1", "--n-procs", "1", "--omp-nthreads", "1")


Group = Callable[..., tuple[int, str]]


def write_tsv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in (header, *rows)) + "\n")


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_run(series: Path, label: str, task: str, values: np.ndarray) -> Path:
    folder = series / f"sub-{label}" / "func"
    stem = folder / f"sub-{label}_task-{task}_space-MNI152NLin6Asym_atlas-Own_stat-mean_timeseries"
    write_tsv(stem.with_suffix(".tsv"), PARCELS, np.round(values, 4).tolist())
    stem.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Rest of everybody, and of the first seven a task whose two types drive the parcels of one network each."""
    root, rng = tmp_path_factory.mktemp("extras"), np.random.default_rng(0)
    series, out = root / "series", root / "out"
    people = []
    for number, label in enumerate(LABELS):
        common = rng.standard_normal((T, 1)) * (20 + 2 * number) / 30
        noise = rng.standard_normal((T, P))
        write_run(series, label, "rest", noise + np.where(np.arange(P) < P // 2, common, 0))
        people.append((f"sub-{label}", 20 + 2 * number, "FM"[number % 2], f"f{max(number, 2)}"))
        if number < N_TASK:
            types = [("look", "move")[i % 2] for i in range(len(ONSETS))]
            times = 2.0 * np.arange(T)
            values = rng.standard_normal((T, P))
            for onset, kind in zip(ONSETS, types, strict=True):
                inside = (times > onset + 4) & (times < onset + 18)
                values[np.ix_(inside, np.arange(P) % 3 == (kind == "move"))] += 2.5
            folder = write_run(series, label, "blocks", values)
            rows = [(onset, 15, kind, "n/a") for onset, kind in zip(ONSETS, types, strict=True)]
            write_tsv(
                folder / f"sub-{label}_task-blocks_events.tsv", ("onset", "duration", "trial_type", "empty"), rows
            )
    write_tsv(series / "participants.tsv", ("participant_id", "age", "sex", "family"), people)
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (series / "dataset_description.json").write_text(json.dumps(description))
    options = [*MODEL, "--min-time", "0", "--no-band-pass", "-q"]
    assert call([str(series), str(out), "participant", *options]) == 0
    return series, out


@pytest.fixture
def group(study: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Group:
    """Call the group level; gives its exit code and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = call([*map(str, study), "group", *MODEL, *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


QUICK = ("--n-permutations", "0", "--n-repeats", "1", "--baselines", "random")


def test_fine_tuned_encoder_stands_beside_the_others(study: tuple[Path, Path], group: Group) -> None:
    out = study[1]
    code, said = group("--probe", "age", *QUICK, "--finetune", "--finetune-epochs", "1")
    assert code == 0, said
    rows = {row["model"]: row for row in read_tsv(out / "group_probe.tsv") if row["metric"] == "mae"}
    tuned, frozen = rows["finetuned"], rows["RandomTiny"]
    assert (tuned["role"], tuned["protocol"], tuned["p_value"]) == ("finetuned", "finetune", "n/a")
    assert tuned["n_rows"] == frozen["n_rows"] == str(N)
    assert tuned["chance"] == frozen["chance"]
    lines = read_tsv(out / "group_predictions.tsv")
    assert len({row["score"] for row in lines if row["model"] == "finetuned"}) == N
    page = (out / "group.html").read_text()
    assert "fine-tuned encoder" in page
    assert "The best baseline, fine-tuned" not in page


def test_blocks_are_told_apart_without_a_phenotype(study: tuple[Path, Path], group: Group) -> None:
    out = study[1]
    code, said = group("--task-blocks", "trial_type", "--n-repeats", "2")
    assert code == 0, said
    rows = read_tsv(out / "group_task_blocks.tsv")
    designs = {(row["design"], row["model"], row["position"]) for row in rows}
    models = {("RandomTiny", "first"), ("RandomTiny", "last"), ("random", "first"), ("random", "last")}
    wanted = {*models, ("parcel_means", "n/a")}
    assert designs == {(design, *model) for design in ("across", "within") for model in wanted}
    for row in rows:
        assert (row["n_participants"], row["chance"]) == (str(N_TASK), "0.5")
        assert row["n_blocks"] == str(N_TASK * len(ONSETS))
        if row["model"] == "parcel_means":
            assert float(row["value"]) > 0.9
            assert float(row["p_value"]) < 0.02  # of a sign test, 2^-6, where all seven are perfect
    folds = {row["design"]: row["folds"] for row in rows}
    assert folds["within"] == f"a time segment of their only run ({N_TASK} participants)"
    dictionary = json.loads((out / "group_task_blocks.json").read_text())
    assert set(rows[0]) | {"Facts"} == set(dictionary)
    assert dictionary["Facts"]["Types"] == {"look": 28, "move": 28}
    assert f"{N} runs (task rest) without events" in dictionary["Facts"]["Out"]
    page = (out / "group.html").read_text()
    assert 'id="blocks"' in page
    assert "Blocks of trial_type (up to 40 s)" in page


def test_blocks_of_a_family_are_never_on_both_sides(
    study: tuple[Path, Path], group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    score = task_blocks.score_design

    def remember(blocks: Any, target: Any, design: Any, *rest: Any) -> Any:
        seen.append((design, blocks.participants))
        return score(blocks, target, design, *rest)

    monkeypatch.setattr(task_blocks, "score_design", remember)
    asked = ("--probe", "age", "--n-permutations", "0", "--n-repeats", "1", "--baselines", "none")
    code, said = group(*asked, "--task-blocks", "trial_type", "--group-by", "family")
    assert code == 0, said
    design, people = next((design, people) for design, people in seen if design.name == "across")
    # The first three are of one family.
    family = np.isin(people, LABELS[:3])
    assert family.sum() == 3 * len(ONSETS)
    for split in design.splits:
        assert {family[split.test].sum(), family[split.train].sum()} == {0, family.sum()}
    rows = read_tsv(study[1] / "group_task_blocks.tsv")
    folds = {row["folds"] for row in rows if row["design"] == "across"}
    assert folds == {"a fifth of the participants (those of one family together), 1 times five folds"}


def test_families_of_blocks_need_no_phenotype(study: tuple[Path, Path], group: Group, tmp_path: Path) -> None:
    table = tmp_path / "families.tsv"
    write_tsv(table, ("participant_id", "kin"), [(f"sub-{label}", f"k{i // 2}") for i, label in enumerate(LABELS)])
    asked = ("--task-blocks", "trial_type", "--n-repeats", "1", "--baselines", "none", "--phenotype", str(table))
    code, said = group(*asked)
    assert code == 4
    assert "--phenotype has no effect without --probe" in said
    code, said = group(*asked, "--group-by", "kin")
    assert code == 0, said
    # Seven participants are four pairs, of which five folds cannot be made.
    facts = json.loads((study[1] / "group_task_blocks.json").read_text())["Facts"]
    assert "across participants: 4 groups of kin are too few for five folds" in facts["Out"]


def damage(out: Path, series: Path) -> None:
    """Drop the volumes of a block from the tables, and break the events of the first participants."""
    path = next((out / "sub-01" / "func").glob("*task-blocks*stat-mean_timeseries.tsv"))
    lines = path.read_text().splitlines()
    gone = range(1 + 7, 1 + 17)  # the response to the block of 10 to 25 s lasts from volume 7 to 16
    path.write_text("\n".join("\t".join(["n/a"] * P) if i in gone else line for i, line in enumerate(lines)) + "\n")
    sidecar = json.loads(path.with_suffix(".json").read_text())
    sidecar["TableSHA256"] = sidecar["FilesSHA256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(sidecar))
    for label, old, new in (
        ("02", "\n35\t15\t", "\n35\tn/a\t"),
        ("03", "\n35\t15\t", "\n35\t40\t"),
        ("04", "\n185\t", "\n985\t"),
    ):
        events = series / f"sub-{label}" / "func" / f"sub-{label}_task-blocks_events.tsv"
        text = events.read_text()
        assert old in text
        events.write_text(text.replace(old, new))


def test_blocks_that_cannot_be_seen_are_left_out_and_told(
    study: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series, out = tmp_path / "series", tmp_path / "out"
    skipped = shutil.ignore_patterns("*task-rest*", "encoders", "group*", "sub-2*", "sub-3*")
    for old, new in zip(study, (series, out), strict=True):
        shutil.copytree(old, new, ignore=skipped)
    damage(out, series)
    arguments = ("--task-blocks", "trial_type", "--n-repeats", "1", "--baselines", "chance")
    code = call([str(series), str(out), "group", *MODEL, *arguments])
    assert code == 0, capsys.readouterr()
    facts = json.loads((out / "group_task_blocks.json").read_text())["Facts"]
    assert sum(facts["Types"].values()) == N_TASK * len(ONSETS) - 3
    told = "; ".join(facts["Out"])
    assert "1 blocks with n/a for onset or duration" in told
    assert "the end of 1 blocks during which another begins" in told
    assert "1 blocks too brief, outside their run" in told
    assert "1 blocks with less than half" in told


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--task-blocks", "colour"), 3, "no column colour: found onset, duration, trial_type, empty"),
        (("--task-blocks", "empty"), 3, "found 7 tables without "),
        (("--task-blocks", "trial_type", "-t", "rest"), 3, "needs events for the runs (task rest)"),
        (("--probe", "sex", "--scaling", "0.3", "1"), 4, "at least 16 participants; with 33 in total, found 0.3 (10)"),
        (("--probe", "sex", "--scaling", "1.5"), 4, "above 0 and at most 1, found 1.5"),
        (("--probe", "sex", "--scaling", "0.99", "1"), 4, "the same number of participants: 0.99 (33), 1 (33)"),
        (("--scaling", "1"), 4, "--scaling has no effect without --probe"),
        (("--task-blocks", "trial_type", "--n-permutations", "5"), 4, "--n-permutations has no effect without --pr"),
        (("--probe", "sex", "--scaling", "1", "--encoder-name", "x"), 4, "--encoder-name x has no effect: --scaling"),
        (("--probe", "sex", "--scaling-seeds", "2"), 4, "--scaling-seeds 2 has no effect without --scaling"),
        (("--probe", "sex", "--finetune-epochs", "2"), 4, "--finetune-epochs 2 has no effect without --finetune"),
        (("--probe", "sex", "--finetune", "--covariate", "age"), 4, "cannot remove covariates (age)"),
        (("--probe", "sex", "--scaling", "1", "--train-batch-size", "64"), 4, "A batch of 64 is larger than the data"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    group: Group, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, said = group(*arguments)
    assert found == code, said
    assert message in " ".join(said.split()), said
    assert "Pretraining" not in said


TRAINING = ("--encoder-config", "tiny", "--epochs", "1", "--train-batch-size", "8")


def test_shares_are_pretrained_once_and_compared_with_their_first_weights(
    study: tuple[Path, Path], group: Group
) -> None:
    out = study[1]
    arguments = ("--probe", "age", "sex", *QUICK, "--scaling", "0.5", "1", "--scaling-seeds", "2", *TRAINING)
    code, said = group(*arguments)
    assert code == 0, said
    rows = read_tsv(out / "group_scaling.tsv")
    assert len(rows) == 3 * 4  # r of age, AUROC and balanced accuracy of sex; four encoders
    counts = {("0.5", "16", "16"), ("1", "33", "33")}
    assert {(row["share"], row["n_pretraining"], row["n_pretrained"]) for row in rows} == counts
    assert {row["source"] for row in rows} == {"own"}
    for row in rows:
        gain = float(row["value"]) - float(row["value_random"])
        assert float(row["gain"]) == pytest.approx(gain, abs=1e-8)
        assert float(row["gain_low"]) <= float(row["gain"]) <= float(row["gain_high"])
    own = [row for row in rows if row["metric"] == "r"]
    assert len({row["value"] for row in own}) == 4
    by_seed = {row["seed"]: row["value_random"] for row in own}
    assert len(set(by_seed.values())) == 2
    assert all(row["value_random"] == by_seed[row["seed"]] for row in own)
    # random:tiny is the tiny encoder of seed 0: the weights that trainings with this seed start from.
    for metric in ("r", "auroc", "balanced_accuracy"):
        (probed,) = [
            row for row in read_tsv(out / "group_probe.tsv") if row["role"] == "encoder" and row["metric"] == metric
        ]
        first = {row["value_random"] for row in rows if (row["metric"], row["seed"]) == (metric, "0")}
        assert [float(value) for value in first] == pytest.approx([float(probed["value"])], abs=1e-7)
    facts = json.loads((out / "group_scaling.json").read_text())["Facts"]
    (fit,) = [fit for fit in facts["Fits"] if fit["Metric"] == "r"]
    slopes = [
        (float(own[i + 2]["gain"]) - float(own[i]["gain"])) / np.log10(33 / 16) for i in (0, 1)
    ]  # by share, then seed
    assert fit["Slope"] == pytest.approx(np.mean(slopes), abs=1e-5)
    assert fit["Low"] < fit["Slope"] < fit["High"]
    assert [share["Participants"] for share in fit["Shares"]] == [16, 33]
    assert fit["Shares"][1]["Gain"] == pytest.approx(np.mean([float(row["gain"]) for row in own[2:]]), abs=1e-5)
    encoders = sorted((out / "encoders").glob("scaling-tiny-own-*/model.safetensors"))
    assert len(encoders) == 4
    page = (out / "group.html").read_text()
    assert "The same participants are used for pretraining and probing" in page
    times = [path.stat().st_mtime_ns for path in encoders]
    before = (out / "group_scaling.tsv").read_bytes()
    code, said = group(*arguments)
    assert code == 0, said
    assert said.count("is complete; skipping training") == 4
    assert "Pretraining scaling" not in said
    assert [path.stat().st_mtime_ns for path in encoders] == times
    assert (out / "group_scaling.tsv").read_bytes() == before
    assert find_undocumented(out) == set()


def test_another_study_is_pretrained_on(study: tuple[Path, Path], group: Group, tmp_path: Path) -> None:
    out, other = study[1], tmp_path / "other"
    folders = [f"sub-{label}" for label in LABELS[17:]]
    shutil.copytree(out, other, ignore=shutil.ignore_patterns("encoders", "logs", "group*", *folders))
    arguments = ("--probe", "sex", *QUICK, "--scaling", "1", "--scaling-seeds", "1", *TRAINING)
    code, said = group(*arguments, "-d", f"elsewhere={other}")
    assert code == 0, said
    rows = read_tsv(out / "group_scaling.tsv")
    assert {(row["source"], row["n_pretraining"], row["n_pretrained"], row["n_tested"]) for row in rows} == {
        ("elsewhere", "17", "n/a", str(N))
    }
    assert "17 participants of elsewhere" in (out / "group.html").read_text()


def write_file(path: Path, n_participants: int) -> Path:
    rng = np.random.default_rng(2)
    with h5py.File(path, "w") as file:
        for name, size in (("schaefer400", 400), ("tian3", 50), ("buckner7", 7)):
            values = rng.standard_normal((n_participants, size, 104)).astype(np.float32)
            file.create_dataset(f"timeseries/{name}", data=values)
        file["long_subject_id"] = [f"p{i}".encode() for i in range(n_participants)]
    return path


def test_a_file_of_other_people_is_pretrained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = files("bids_semantoks").joinpath("data/encoders/parcels457.tsv").read_text(encoding="utf-8")
    parcels = [line.split("\t")[1] for line in table.splitlines()[1:]]
    networks = [line.split("\t")[2] for line in table.splitlines()[1:]]
    series, out, rng = tmp_path / "series", tmp_path / "out", np.random.default_rng(4)
    atlas = tmp_path / "atlas-Own457_dseg.tsv"
    write_tsv(atlas, ("index", "label", "network_label"), list(zip(range(1, 458), parcels, networks, strict=True)))
    for label in LABELS[:11]:
        folder = series / f"sub-{label}" / "func"
        stem = folder / f"sub-{label}_task-rest_space-MNI152NLin6Asym_atlas-Own457_stat-mean_timeseries"
        write_tsv(stem.with_suffix(".tsv"), parcels, np.round(rng.standard_normal((103, 457)), 3).tolist())
        stem.with_suffix(".json").write_text(json.dumps({"RepetitionTime": 2.0}))
    people = [(f"sub-{label}", round(rng.normal(), 3)) for label in LABELS[:11]]
    write_tsv(series / "participants.tsv", ("participant_id", "score"), people)
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (series / "dataset_description.json").write_text(json.dumps(description))
    options = [*MODEL, "--atlas", str(atlas)]
    assert call([str(series), str(out), "participant", *options, "--min-time", "0", "--no-band-pass"]) == 0
    capsys.readouterr()
    data = write_file(tmp_path / "people.h5", 32)
    arguments = ["--probe", "score", *QUICK, "--scaling", "0.5", "1", "--scaling-seeds", "1", *TRAINING]
    code = call([str(series), str(out), "group", *options, *arguments, "--pretrain-data", str(data)])
    assert code == 0, capsys.readouterr().err
    rows = read_tsv(out / "group_scaling.tsv")
    assert [(row["source"], row["share"], row["n_pretraining"], row["n_pretrained"]) for row in rows] == [
        ("people.h5", "0.5", "16", "n/a"),
        ("people.h5", "1", "32", "n/a"),
    ]
    # One seed starts from one set of weights, and was trained to two others.
    assert len({row["value_random"] for row in rows}) == 1
    assert len({row["value"] for row in rows}) == 2
    trained = [json.loads((out / "encoders" / row["encoder"] / "config.json").read_text()) for row in rows]
    assert [len(one["details"]["participants"]["sha256"]) for one in trained] == [16, 32]
    page = (out / "group.html").read_text()
    assert "Pretrained on shares of the 32 participants of people.h5, probed on those of this study" in page
    assert 'href="group_scaling.tsv"' in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-d", "other={series}"), 3, "has no signals of atlas Own"),
        (("-d", "own={series}"), 4, "reserved name own"),
        (("-d", "other={out}"), 4, "is OUT_DIR itself, not another study"),
        (("-d", "other={series}", "-d", "more={out}"), 4, "shares of one dataset, found other="),
        (("--pretrain-data", "{small}"), 4, "at least 16 participants; with 5 in total, found 1 (5)"),
        (("--pretrain-data", "{large}"), 6, "Vis has 4 parcels instead of 61"),
    ],
)
def test_data_that_shares_cannot_be_taken_of_is_refused(
    study: tuple[Path, Path], group: Group, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    places = {"series": study[0], "out": study[1]}
    places |= {name: write_file(tmp_path / f"{name}.h5", n) for name, n in (("small", 5), ("large", 18))}
    given = [text.format(**places) for text in arguments]
    found, said = group("--probe", "sex", *QUICK, "--scaling", "1", *TRAINING, *given)
    assert found == code, said
    assert message in " ".join(said.split()), said
    assert "Pretraining" not in said
