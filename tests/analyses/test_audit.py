"""What the audit says of embeddings in which people and sex are planted, and where it cannot measure anything."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.documented import find_undocumented

from bids_semantoks.analyses import leakage, rows
from bids_semantoks.analyses.audit import LIMITS, check_pretraining, plan_audit
from bids_semantoks.cli import call, parse
from bids_semantoks.config import EmbeddingConfig, PretrainingConfig
from bids_semantoks.embedding import build_run_encoder

N, N_TWICE, T = 23, 11, 110
PARCELS = tuple(f"LH_{('Vis', 'SomMot', 'Default')[i % 3]}_{i}" for i in range(7))
MODEL = ("--model", "random:tiny", "--n-windows", "1", "--n-procs", "1", "--omp-nthreads", "1")
QUICK = ("--n-repeats", "1", "--n-permutations", "39")


def read_table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "group_audit.tsv").open(newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t"))
    return {" ".join(filter(lambda one: one != "n/a", (row["question"], row["between"]))): row for row in found}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Series of people, the first of whom have two sessions, and their outputs."""
    root, rng = tmp_path_factory.mktemp("audit"), np.random.default_rng(0)
    series, out = root / "series", root / "out"
    lines = ["participant_id\tgender\tage\tkin"]
    for number in range(N):
        for session in ("1", "2") if number < N_TWICE else ("1",):
            folder = series / f"sub-{number:02d}" / f"ses-{session}" / "func"
            folder.mkdir(parents=True)
            path = folder / (
                f"sub-{number:02d}_ses-{session}_task-rest_space-MNI152NLin6Asym_atlas-Own_stat-mean_timeseries.tsv"
            )
            values = rng.standard_normal((T, len(PARCELS)))
            np.savetxt(path, values, fmt="%.4f", delimiter="\t", header="\t".join(PARCELS), comments="")
            path.with_suffix(".json").write_text('{"RepetitionTime": 2.0}')
        # One age is no number, and one person is of a gender too rare to be predicted.
        gender = "X" if number == 5 else "FM"[number % 2]
        lines.append(f"sub-{number:02d}\t{gender}\t{'89+' if number == 3 else 20 + number}\tk{number % 2}{number // 4}")
    (series / "participants.tsv").write_text("\n".join(lines) + "\n")
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (series / "dataset_description.json").write_text(json.dumps(description))
    assert call([str(series), str(out), "participant", *MODEL, "--min-time", "0", "-q"]) == 0
    return series, out


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings of one dimension for each participant, and others for gender."""

    def read(own: rows.Rows, model: str) -> np.ndarray[Any, Any]:
        assert model == "RandomTiny"
        rng = np.random.default_rng(len(own.keys))
        numbers = own.participants.astype(int)
        truth = np.hstack([9 * np.eye(N)[numbers], np.tile(numbers[:, None] % 2, 40)])
        return truth + 0.1 * rng.standard_normal(truth.shape)

    monkeypatch.setattr(leakage, "read_embeddings", read)
    monkeypatch.setattr(rows, "read_embeddings", read)


@pytest.mark.usefixtures("planted")
def test_what_was_planted_is_given_away_and_all_else_is_not_claimed(
    study: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = study[1]
    assert call([*map(str, study), "group", *MODEL, "--audit", *QUICK, "--group-by", "kin"]) == 0, capsys.readouterr()
    found = read_table(out)
    assert list(found) == ["identification sessions", "identification runs", "pretraining", "sex", "age", "site"]
    people = found["identification sessions"]
    assert (people["value"], people["n_participants"]) == ("1", str(N_TWICE))
    assert float(people["chance"]) == pytest.approx(1 / N_TWICE)
    # All were found: the exact lower end of an interval, not 1.
    assert float(people["ci_low"]) == pytest.approx(0.025 ** (1 / N_TWICE))
    assert f"100 % [72, 100] of the scans of {N_TWICE} participants across sessions (chance 9.1 %)" in people["verdict"]
    assert "personal data" in people["verdict"]
    assert found["identification runs"]["value"] == "n/a"
    assert f"0 of {N} participants have two runs" in found["identification runs"]["verdict"]
    assert (found["pretraining"]["value"], found["pretraining"]["n_participants"]) == ("0", str(N))
    sex = found["sex"]
    assert (sex["column"], sex["metric"], sex["chance"]) == ("column gender of participants.tsv", "auroc", "0.5")
    assert (float(sex["value"]), float(sex["p_value"])) == (1, pytest.approx(1 / 40))
    assert sex["n_participants"] == str(N - 1), "X is too rare"
    assert sex["verdict"].startswith("Embeddings of RandomTiny give away sex (AUROC 1.00")
    assert found["age"]["value"] == "n/a"
    assert "'89+' of sub-03" in found["age"]["verdict"]
    assert "no column is named site, site_id" in found["site"]["verdict"]
    facts = json.loads((out / "group_audit.json").read_text())
    assert set(found["sex"]) == set(facts) - {"Facts"}
    assert facts["Facts"]["Limits"] == list(LIMITS)
    page = (out / "group.html").read_text()
    assert "could not be drawn" not in page
    assert 'id="audit"' in page
    assert "Probes of" not in page
    assert "[@finn2015]" in (out / "logs" / "CITATION.md").read_text()
    assert find_undocumented(out) == set()
    (out / "group.html").unlink()
    assert call([*map(str, study), "group", "--reports-only"]) == 0
    assert (out / "group.html").read_text() == page


def test_an_audit_stands_beside_probes_and_works_without_a_table_of_people(
    study: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study[1]
    arguments = ("--probe", "gender", "--exclude-participant-label", "05", "--baselines", "none", *QUICK, "--audit")
    assert call([*map(str, study), "group", *MODEL, *arguments]) == 0, capsys.readouterr()
    page = (out / "group.html").read_text()
    assert page.index('id="probe-1"') < page.index('id="audit"')
    assert read_table(out)["pretraining"]["n_participants"] == str(N - 1)
    for name in ("group_probe", "group_audit"):
        (out / f"{name}.json").unlink()
    # A dataset without participants.tsv: only what embeddings alone tell.
    assert call([str(tmp_path), str(out), "group", *MODEL, "--audit", *QUICK]) == 0, capsys.readouterr()
    found = read_table(out)
    assert {found[name]["value"] for name in ("sex", "age", "site")} == {"n/a"}
    assert 0 <= float(found["identification sessions"]["value"]) <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--audit", "--signals-only"), 4, "--audit needs embeddings"),
        (("--audit", "--probe", "age", "--probe-part", "1"), 4, "--probe-part"),
        (("--audit", "--n-bins", "2"), 4, "--n-bins has no effect without --probe"),
        (("--audit", "--group-by", "family"), 3, "family"),
    ],
)
def test_what_an_audit_cannot_do_is_refused_before_any_work(
    study: tuple[Path, Path], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    assert call([*map(str, study), "group", *MODEL, *arguments]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Audit:" not in said


@pytest.mark.parametrize(
    ("details", "value", "message"),
    [
        ({}, math.nan, "cannot be checked"),
        ({"participants": {"salt": "s", "sha256": [hashlib.sha256(b"s01").hexdigest()]}}, 1 / 3, "1 of 3 participants"),
        ({"participants": {"salt": "s", "sha256": [hashlib.sha256(b"s77").hexdigest()]}}, 0, "None of the 3"),
    ],
)
def test_overlap_with_pretraining_is_known_by_the_list_alone(details: Any, value: float, message: str) -> None:
    encoder = build_run_encoder(
        EmbeddingConfig(model="random:tiny"), PARCELS, tuple(name.split("_")[1] for name in PARCELS), seed=0
    )
    loaded = dataclasses.replace(encoder.loaded, is_random=False, details=details)
    row = check_pretraining(dataclasses.replace(encoder, loaded=loaded), {"01", "02", "03"})
    assert row["value"] == pytest.approx(value, nan_ok=True)
    assert message in str(row["verdict"])


def test_what_scaling_trains_is_no_matter_of_the_audit(study: tuple[Path, Path]) -> None:
    config = parse([*map(str, study), "group", "--audit", "--probe", "age", "--scaling", "0.5", "--epochs", "3"])
    own = plan_audit(config, []).config
    assert (own.probing.scaling, own.pretraining) == ((), PretrainingConfig())
