"""Further preparations of the same people stand in one table on the same splits, and their folders are only read."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.cli import call
from bids_semantoks.outputs.methods import describe_preparation

T = 120
LABELS = tuple(f"{number:02d}" for number in range(1, 21))
#: Who has no series without the global signal, and who has nothing else.
ABSENT, ALONE = ("05", "11"), "77"
QUICK = ("--n-permutations", "19", "--n-repeats", "1", "--n-procs", "1")
ASKED = ("--probe", "age", *QUICK, "--baselines", "pearson", "motion", "random")
NETWORKS = ("Vis", "SomMot", "Default")

Group = Callable[..., tuple[int, str]]


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_series(root: Path, series: dict[str, np.ndarray], atlas: str) -> None:
    for label, values in series.items():
        stem = root / f"sub-{label}" / "func" / f"sub-{label}_task-rest_space-MNI152NLin6Asym_atlas-{atlas}"
        stem.parent.mkdir(parents=True)
        names = [f"LH_{NETWORKS[i % 3]}_{i}" for i in range(values.shape[1])]
        path = stem.with_name(f"{stem.name}_stat-mean_timeseries.tsv")
        np.savetxt(path, values, fmt="%.4f", delimiter="\t", header="\t".join(names), comments="")
        path.with_suffix(".json").write_text('{"RepetitionTime": 2.0}')
    rows = [f"sub-{label}\t{20 + 3 * number}\n" for number, label in enumerate(series)]
    (root / "participants.tsv").write_text("participant_id\tage\n" + "".join(rows))
    generators = [{"Name": "XCP-D", "Version": "0.10.0"}]
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": generators}
    (root / "dataset_description.json").write_text(json.dumps(description))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Series and outputs of two preparations: the second has no global signal, fewer parcels, and other people."""
    root, rng = tmp_path_factory.mktemp("preparations"), np.random.default_rng(0)
    whole = {}
    for number, label in enumerate((*LABELS, ALONE)):
        common = rng.standard_normal((T, 1)) * (1 + number / 8)
        whole[label] = rng.standard_normal((T, 12)) + np.where(np.arange(12) < 6, common, 0)
    less = {label: (one - one.mean(axis=1, keepdims=True))[:, :9] for label, one in whole.items()}
    write_series(root / "whole", {label: whole[label] for label in LABELS}, "Own")
    write_series(root / "less", {label: one for label, one in less.items() if label not in ABSENT}, "Small")
    for name in ("whole", "less"):
        options = ["--model", "random:tiny", "--n-procs", "1", "--min-time", "0", "-q"]
        assert call([str(root / name), str(root / f"{name}_out"), "participant", *options]) == 0
    return root


@pytest.fixture
def group(study: Path, capsys: pytest.CaptureFixture[str]) -> Group:
    """Call the group level on a preparation; gives its exit code and what it said."""

    def run(*arguments: str, name: str = "whole") -> tuple[int, str]:
        capsys.readouterr()
        folders = [str(study / "whole"), str(study / f"{name}_out")]
        code = call([*folders, "group", "--model", "random:tiny", *arguments])
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).split())

    return run


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def find_values(out: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    columns = ("value", "ci_low", "p_value", "n_participants")
    rows = [row for row in read_tsv(out / "group_probe.tsv") if row["phenotype"] == "age"]
    return {(row["model"], row["metric"]): tuple(row[column] for column in columns) for row in rows}


@pytest.mark.parametrize("protocol", ["nested", "paper"])
def test_models_of_a_preparation_score_as_they_do_alone(study: Path, group: Group, protocol: str) -> None:
    asked = [*ASKED, "--protocol", protocol, "--n-bins", "2"] if protocol == "paper" else list(ASKED)
    out, other = study / "whole_out", study / "less_out"
    before = snapshot(other)
    code, said = group(*asked, "-d", f"noGSR={other}")
    assert code == 0, said
    assert snapshot(other) == before, "what -d names is only read"
    assert f"{len(ABSENT)} participants without signals in the preparation noGSR" in said
    found = find_values(out)
    shared = [label for label in LABELS if label not in ABSENT]
    # A single repetition of the published evaluation tests a fifth.
    n_tested = len(shared) if protocol == "nested" else 4
    assert {values[-1] for values in found.values()} == {str(n_tested)}
    main = [row for row in read_tsv(out / "group_probe.tsv") if row["compared_with"] != "n/a"]
    rows = {row["model"]: row for row in main if row["role"] == "preparation"}
    assert {name: row["compared_with"] for name, row in rows.items()} == {
        "RandomTiny@noGSR": "RandomTiny",
        "pearson@noGSR": "pearson",
    }
    values = {model: float(one[0]) for (model, metric), one in found.items() if metric in ("r", "auroc")}
    for name, row in rows.items():
        # The plain mean over folds is not the score, but near.
        assert float(row["difference"]) == pytest.approx(values[row["compared_with"]] - values[name], abs=0.15)
    assert values["RandomTiny@noGSR"] != values["RandomTiny"]
    # The same people in a call about the other preparation alone, which embeds with the same weights.
    code, said = group(*asked, "--participant-label", *shared, name="less")
    assert code == 0, said
    alone = find_values(other)
    for (model, metric), expected in alone.items():
        if model in ("RandomTiny", "pearson"):
            assert found[f"{model}@noGSR", metric] == expected
    for path in other.glob("group_probe*"):
        path.unlink()


def test_page_tables_and_text_say_which_preparation_has_what(study: Path, group: Group) -> None:
    out, other = study / "whole_out", study / "less_out"
    code, said = group(*ASKED, "--model", "random:tiny", "-d", f"noGSR={other}")
    assert code == 0, said
    facts = json.loads((out / "group_probe.json").read_text())["Facts"]
    found = facts["Preparations"]
    assert {name: one["Settings"]["atlas"] for name, one in found.items()} == {"main": "Own", "noGSR": "Small"}
    assert found["noGSR"]["Pipelines"] == ["XCP-D 0.10.0"]
    assert (found["noGSR"]["Participants"], found["main"]["Runs"]) == (18, 18)
    assert facts["Overview"]["preparation noGSR"] == found["noGSR"]["Text"]
    page = (out / "group.html").read_text()
    assert "preparation noGSR" in page
    assert "atlas Small (9 parcels) in MNI152NLin6Asym; series as XCP-D 0.10.0 left them" in page
    assert "Pearson connectivity (noGSR)" in page
    assert "(Pearson connectivity minus this)" in page
    text = " ".join((out / "logs" / "CITATION.md").read_text().split())
    assert "from 2 preparations of their data: *main* (atlas Own (12 parcels)" in text
    assert "*noGSR* (atlas Small (9 parcels)" in text
    assert "2 without signals in another preparation" in text
    people = {row["participant_id"]: row["reason"] for row in read_tsv(out / "group_participants.tsv")}
    assert {people[f"sub-{label}"] for label in ABSENT} == {"no signals in the preparation noGSR"}
    assert f"sub-{ALONE}" not in people


def test_results_of_parts_know_their_preparations(study: Path, group: Group) -> None:
    out, asked = study / "whole_out", (*ASKED, "-d", f"noGSR={study / 'less_out'}")
    assert group(*asked)[0] == 0
    expected = (out / "group_probe.tsv").read_bytes()
    assert group(*asked, "--probe-part", "1")[0] == 0
    (part,) = (out / "logs" / "probes" / "parts").iterdir()
    code, said = group(*ASKED)
    assert code == 0
    assert "were probed by other calls" not in said
    code, said = group(*asked)
    assert code == 0
    assert "1 of 1 phenotypes were probed by other calls" in said
    assert (out / "group_probe.tsv").read_bytes() == expected
    assert not part.exists()


@pytest.mark.parametrize(
    ("given", "more", "code", "message"),
    [
        ("{less}", (), 4, "letters and digits, found ''"),
        ("no-gsr={less}", (), 4, "letters and digits, found 'no-gsr'"),
        ("main={less}", (), 4, "uses the reserved name main"),
        ("a={less} a={whole}", (), 4, "two preparations named a"),
        ("a={less} b={less}/../less_out", (), 4, "is the same folder as -d a="),
        ("a={whole}", (), 4, "is the same folder as OUT_DIR"),
        ("a={less}/nowhere", (), 3, "nowhere is not a directory"),
        ("a={series}", (), 3, "is not an output directory of bids_semantoks: found written by XCP-D 0.10.0"),
        ("a={less}/logs", (), 3, "is not an output directory of bids_semantoks: found no dataset_description.json"),
        ("a={less}", ("--model", "random:tiny:5"), 3, "18 of 18 runs of the preparation a have no embedding by"),
        (
            "a={less}",
            ("--model", "random:tiny", "random:tiny:5"),
            3,
            "less_out group --model random:tiny:5 --pooling cls_",
        ),
        ("a={less}", ("--n-windows", "3"), 4, "settings: n_windows"),
        ("a={less}", ("--participant-label", *ABSENT), 3, "Participant '05', '11' not found in"),
        ("a={less}", ("--pretrain",), 4, "with --pretrain would compare embeddings that do not exist"),
    ],
)
def test_what_cannot_be_a_preparation_ends_before_any_work(
    study: Path, group: Group, given: str, more: tuple[str, ...], code: int, message: str
) -> None:
    named = {"less": study / "less_out", "whole": study / "whole_out", "series": study / "whole"}
    before = snapshot(study)
    found, said = group(*ASKED, *more, "-d", *given.format(**named).split())
    assert (found, message in said) == (code, True), said
    assert snapshot(study) == before


def test_damaged_signals_count_as_absent(study: Path, group: Group, tmp_path: Path) -> None:
    copy = shutil.copytree(study / "less_out", tmp_path / "copy")
    path = next((copy / "sub-02").rglob("*_stat-mean_timeseries.tsv"))
    path.write_text(path.read_text().replace("\n", "\n\n", 1))
    code, said = group(*ASKED, "-d", f"noGSR={copy}", "--dry-run")
    assert code == 0, said
    assert "in the preparation noGSR" in said
    assert "3 participants without signals in the preparation noGSR" in said
    assert "17 participants; " in said


def test_without_probes_nothing_is_compared(study: Path, group: Group) -> None:
    code, said = group("-d", f"noGSR={study / 'less_out'}")
    assert code == 0
    assert "is not read: this call probes nothing" in said


def test_settings_are_put_into_words() -> None:
    settings = {"denoising": {"name": "simple+gsr"}, "band_pass": [0.01, 0.1], "fd_threshold": 0.5}
    sidecar = {
        "Settings": settings,
        "Atlas": {"Name": "Schaefer400", "Parcels": 400, "Space": "MNI152NLin6Asym"},
        "Pipeline": "fMRIPrep 24.1.1",
        "Denoising": {"Preset": "simple+gsr"},
    }
    assert describe_preparation(sidecar) == (
        "atlas Schaefer400 (400 parcels) in MNI152NLin6Asym; fMRIPrep 24.1.1, denoised by simple+gsr; band-pass "
        "filtered at 0.01 to 0.1 Hz; volumes above 0.5 mm scrubbed"
    )
    changed = {"band_pass": None, "fd_threshold": None}
    sidecar |= {"Settings": settings | changed, "Denoising": {"DenoisedBy": "ICA-FIX"}}
    assert describe_preparation(sidecar).endswith("denoised by ICA-FIX; not filtered; not scrubbed")
