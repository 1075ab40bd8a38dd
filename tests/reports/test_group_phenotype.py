"""Networks masked, seeds averaged, people scanned again, and the page drawn again from its tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bids_semantoks.cli import call
from bids_semantoks.config import EmbeddingConfig
from bids_semantoks.embedding import build_run_encoder
from bids_semantoks.records import Windows

N, P, T = 23, 11, 110


NETWORKS = ("Vis", "SomMot", "Default")


PARCELS = tuple(f"LH_{NETWORKS[i % 3]}_{i}" for i in range(P))


Group = Callable[..., tuple[int, str]]


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write_tsv(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join("\t".join(map(str, row)) for row in (header, *rows)) + "\n")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """People with a covariance of their own, seven of them with two sessions; two sites, two repetition times."""
    root, rng = tmp_path_factory.mktemp("extras"), np.random.default_rng(0)
    series, out, people = root / "series", root / "out", []
    for number in range(1, N + 1):
        label, mix = f"{number:02d}", rng.standard_normal((P, P))
        for session in "12"[: 2 if number <= 7 else 1]:
            values = rng.standard_normal((T, P)) @ mix
            folder = series / f"sub-{label}" / f"ses-{session}" / "func"
            name = f"sub-{label}_ses-{session}_task-rest_space-MNI152NLin6Asym_atlas-Own_stat-mean_timeseries"
            write_tsv(folder / f"{name}.tsv", PARCELS, [tuple(row) for row in np.round(values, 4).tolist()])
            (folder / f"{name}.json").write_text(json.dumps({"RepetitionTime": 2.0 if number % 3 else 2.5}))
        people.append((f"sub-{label}", 20 + number, "AB"[number % 2]))
    write_tsv(series / "participants.tsv", ("participant_id", "age", "site"), people)
    description = {"Name": "x", "BIDSVersion": "1.10.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "x"}]}
    (series / "dataset_description.json").write_text(json.dumps(description))
    options = ["--model", "random:tiny", "--n-procs", "1", "--min-time", "0", "-q"]
    assert call([str(series), str(out), "participant", *options]) == 0
    return series, out


@pytest.fixture
def group(found: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Group:
    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        options = ["--model", "random:tiny", "--n-procs", "1"]
        if "--probe" in arguments:
            options += ["--n-repeats", "2", "--n-permutations", "9"]
        code = call([*map(str, found), "group", *options, *arguments])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_networks_are_masked_and_the_page_is_drawn_again(
    found: tuple[Path, Path], group: Group, tmp_path: Path
) -> None:
    out = found[1]
    asked = ("--probe", "age", "--baselines", "pearson", "random", "site", "--network-importance")
    code, said = group(*asked, "-w", str(tmp_path))
    assert code == 0, said
    assert "Masking networks: 6 variants of 30 runs" in said
    assert "Masking networks took" in said
    assert len(list((tmp_path / "masked").glob("*.npy"))) == 30
    rows = [row for row in read_tsv(out / "group_probe.tsv") if (row["role"], row["metric"]) == ("importance", "r")]
    names = [f"RandomTiny {how} {network}" for how in ("only", "without") for network in NETWORKS]
    assert [row["model"] for row in rows] == names
    for row in rows:
        assert float(row["ci_low"]) <= float(row["value"]) <= float(row["ci_high"])
        assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
        assert float(row["difference_p_holm"]) >= float(row["difference_p"])
        assert row["p_value"] == "n/a"
    retest = {row["features"]: row for row in read_tsv(out / "group_retest.tsv")}
    assert set(retest) == {"RandomTiny", "random", "pearson"}
    assert (retest["pearson"]["identification"], retest["pearson"]["n_participants"]) == ("1", "7")
    assert float(retest["pearson"]["icc_median"]) > 0.8
    strata = {(row["by"], row["level"]) for row in read_tsv(out / "group_strata.tsv")}
    assert strata == {("site", "A"), ("site", "B"), ("repetition_time", "2 s"), ("repetition_time", "2.5 s")}
    points = read_tsv(out / "group_map.tsv")
    assert len(points) == 30
    assert {row["session_id"] for row in points} == {"ses-1", "ses-2"}
    for name in ("group_retest", "group_strata", "group_map"):
        header = (out / f"{name}.tsv").read_text().partition("\n")[0].split("\t")
        assert set(header) <= set(json.loads((out / f"{name}.json").read_text()))
    page = (out / "group.html").read_text()
    for part in ("Network importance", "Two sessions", "within each repetition time"):
        assert part in page
    assert "Could not draw figure" not in page
    (out / "group.html").unlink()
    tables = {path: path.stat().st_mtime_ns for path in out.glob("group_*")}
    code, said = group("--reports-only")
    assert code == 0, said
    assert (out / "group.html").read_text() == page
    assert tables == {path: path.stat().st_mtime_ns for path in out.glob("group_*")}


def test_seeds_are_averaged_in_each_split(found: tuple[Path, Path], group: Group) -> None:
    out, seeds = found[1], ("random:tiny:5", "random:tiny:6")
    alone = {}
    for model in ("random:tiny", *seeds):
        code, said = group("--model", model, "--probe", "age", "--baselines", "none")
        assert code == 0, said
        rows = [row for row in read_tsv(out / "group_probe.tsv") if (row["role"], row["metric"]) == ("encoder", "r")]
        alone |= {row["model"]: float(row["value"]) for row in rows}
    assert len(alone) == 3
    code, said = group("--probe", "age", "--baselines", "random", "motion", "--replicates", *seeds)
    assert code == 0, said
    scores = [row for row in read_tsv(out / "group_probe.tsv") if (row["metric"], row["phenotype"]) == ("r", "age")]
    by_model, values = {row["model"]: row for row in scores}, list(alone.values())
    together = by_model["RandomTiny"]
    assert float(together["value"]) == pytest.approx(np.mean(values), abs=1e-8)
    assert float(together["seed_sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-8)
    assert (together["n_seeds"], together["n_repeats"], by_model["random"]["n_seeds"]) == ("3", "2", "3")
    assert (by_model["motion"]["n_seeds"], by_model["motion"]["seed_sd"]) == ("1", "n/a")
    facts = json.loads((out / "group_probe.json").read_text())["Facts"]
    assert facts["Seeds"]["age"]["RandomTiny"]["r"] == pytest.approx(values, abs=1e-8)
    ensemble = by_model["RandomTinyEnsemble"]
    assert (ensemble["role"], ensemble["n_seeds"], ensemble["p_value"]) == ("ensemble", "1", "n/a")
    assert float(ensemble["difference"]) != 0
    assert ensemble["value"] not in (together["value"], *alone.values())
    # Of values it is the mean of what the encoders predict, as that of the mean over encoders is.
    predicted = {}
    for row in read_tsv(out / "group_predictions.tsv"):
        predicted.setdefault(row["model"], []).append(float(row["score"]))
    assert predicted["RandomTinyEnsemble"] == pytest.approx(predicted["RandomTiny"], abs=1e-7)
    assert "mean of 3 encoders" in (out / "group.html").read_text()
    assert {row["n_tests"] for row in read_tsv(out / "group_predictions.tsv")} == {"2"}
    code, said = group("--probe", "age", "--replicates", "random:tiny")
    assert code == 4
    assert "--replicates random:tiny has the same weights as RandomTiny" in said


def test_a_dry_run_says_what_would_be_probed(group: Group) -> None:
    code, said = group("--probe", "age", "--baselines", "pearson", "site", "--network-importance", "--dry-run")
    assert code == 0
    line = next(line for line in said.splitlines() if "Would probe age" in line)
    for part in ("(number)", "participants.tsv: 23 participants", "10 splits in 2 repetitions", "out: nobody",
                 "baselines: pearson, site", "9 permutations", "networks masked one by one"):  # fmt: skip
        assert part in line


def test_the_page_needs_probes_of_this_version(
    found: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = found[0]
    # Without probes there is only the page of quality, of people without runs.
    assert call([str(series), str(tmp_path), "group", "--reports-only", "-q"]) == 0
    assert [path.name for path in tmp_path.glob("*.html")] == ["group_qc.html"]
    (tmp_path / "group_probe.json").write_text(json.dumps({"Facts": {"Encoder": {}}}))
    assert call([str(series), str(tmp_path), "group", "--reports-only", "-q"]) == 3
    assert "Overview" in capsys.readouterr().err


def test_variants_are_what_masked_tokens_give() -> None:
    networks = tuple(NETWORKS[i % 3] for i in range(P))
    encoder = build_run_encoder(EmbeddingConfig(model="random:tiny", batch_size=4), PARCELS, networks, seed=0)
    window = encoder.loaded.config.window
    values = np.random.default_rng(0).standard_normal((3, window, P)).astype(np.float32)

    def build(present: np.ndarray) -> Windows:
        return Windows(
            values=values * present, n_real=np.full(3, window), present=present, onset=np.arange(3.0), duration=1.0,
            kept=np.ones(3),
        )  # fmt: skip

    everything, masking = np.ones(P, dtype=bool), encoder.frozen
    assert tuple(masking.networks) == NETWORKS
    own = np.stack(list(masking.networks.values()))
    variants = masking.encode_variants(build(everything), np.concatenate([np.zeros((1, 3), dtype=bool), own]))
    np.testing.assert_allclose(variants[0], encoder.frozen.encode(build(everything)).vectors, atol=1e-5)
    # A network without any signal is masked by the encoder itself.
    silent = np.array([network != "SomMot" for network in networks])
    np.testing.assert_allclose(variants[2], encoder.frozen.encode(build(silent)).vectors, atol=1e-5)
    assert np.abs(variants[1] - variants[2]).max() > 1e-3


def test_each_readout_is_a_model_of_its_own_beside_a_control_of_its_width(
    found: tuple[Path, Path], group: Group
) -> None:
    out = found[1]
    code, said = group("--probe", "age", "site", "--pooling", "cls_avg", "networks", "--baselines", "chance")
    assert code == 0, said
    rows = [row for row in read_tsv(out / "group_probe.tsv") if row["role"] != "leakage"]
    for name in ("age", "site"):
        main = {row["model"]: row["role"] for row in rows if row["phenotype"] == name}
        assert main == {
            "RandomTiny": "encoder",
            "RandomTinyNetworks": "readout",
            "RandomTinyNetworksProjected": "readout",
            "chance": "baseline",
        }
    (features,) = (out / "phenotype").glob("*RandomTinyNetworks.tsv")
    people = read_tsv(features)
    assert list(people[0]) == ["participant_id", "n_runs", "n_windows"]
    array = np.load(features.with_suffix(".npy"))
    assert (array.dtype, len(array)) == (np.float32, len(people))
    assert "RandomTinyNetworksProjected" in (out / "group.html").read_text()
    # Alone, a readout is the encoder.
    code, said = group("--probe", "age", "--pooling", "networks", "--baselines", "chance")
    assert code == 0, said
    table = [row for row in read_tsv(out / "group_probe.tsv") if row["role"] != "leakage"]
    again = {row["model"]: row for row in table if row["metric"] == "r"}
    before = {row["model"]: row for row in rows if (row["phenotype"], row["metric"]) == ("age", "r")}
    assert again["RandomTinyNetworks"]["role"] == "encoder"
    assert again["RandomTinyNetworks"]["value"] == before["RandomTinyNetworks"]["value"]
    assert again["RandomTinyNetworksProjected"]["value"] == before["RandomTinyNetworksProjected"]["value"]
    code, said = group("--probe", "age", "--pooling", "networks", "--finetune")
    assert code == 4
    assert "the first readout of --pooling is networks" in said
