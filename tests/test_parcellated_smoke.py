"""The whole way from series that another pipeline parcellated: participant, group, and again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.documented import find_undocumented

from bids_semantoks.cli import call
from bids_semantoks.demo.study import write_parcellated
from bids_semantoks.errors import name_count
from bids_semantoks.files import read_table
from bids_semantoks.outputs.store import read_statuses
from bids_semantoks.records import CANONICAL_NETWORKS

App = Callable[..., tuple[int, str]]
N = 2


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("series") / "xcp_d"
    write_parcellated(root, n_participants=N, short=True)
    return root


@pytest.fixture(scope="module")
def found(series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the participant and group levels make of the series, without naming the atlas. Only read it."""
    out = tmp_path_factory.mktemp("found") / "out"
    for level in ("participant", "group"):
        assert call([str(series), str(out), level, "--model", "random:tiny", "--n-procs", "1", "-q"]) == 0
    return out


def read_tables(root: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob(pattern)}


def own_series(series: Path, tmp_path: Path) -> Path:
    shutil.copytree(series, tmp_path / "xcp_d")
    return tmp_path / "xcp_d"


def test_series_are_encoded_and_averaged(series: Path, found: Path) -> None:
    statuses = dict(read_statuses(found))
    assert len(statuses) == N
    assert {status["status"] for status in statuses.values()} == {"ok"}
    tables = sorted(found.glob("sub-*/func/*_stat-mean_timeseries.tsv"))
    assert [table.name for table in tables] == [
        f"sub-00{i}_task-rest_space-MNI152NLin2009cAsym_atlas-Demo457_stat-mean_timeseries.tsv" for i in range(1, N + 1)
    ]
    for table in tables:
        parcels, values = read_table(table)
        columns, source = read_table(series / table.relative_to(found))
        assert parcels == columns
        np.testing.assert_array_equal(values.astype(np.float32), source.astype(np.float32))
    lines = (found / "phenotype" / "Demo457RandomTiny.tsv").read_text().splitlines()
    assert len(lines) == N + 1


def test_sidecar_says_that_nothing_was_cleaned(found: Path) -> None:
    (path,) = found.glob("sub-002/func/*_stat-mean_timeseries.json")
    sidecar = json.loads(path.read_text())
    assert sidecar["Pipeline"] == "xcp_d-like"
    assert sidecar["Denoising"]["Preset"] == "none: as found"
    assert "xcp_d-like" in sidecar["Denoising"]["Description"]
    assert "from xcp_d-like" in sidecar["Description"]
    assert sidecar["Sources"] == [f"bids:xcp_d:sub-002/func/{path.with_suffix('.tsv').name}"]
    assert sidecar["Settings"]["denoising"] is None
    assert sidecar["MeanFramewiseDisplacement"] is None
    (coverage,) = found.glob("sub-002/func/*_stat-coverage_bold.tsv")
    assert coverage.read_text().splitlines()[1] == "Demo_LH_Vis_1\t1\tn/a\tn/a\ttrue"


def test_all_outputs_are_described(found: Path) -> None:
    assert find_undocumented(found) == set()


def test_outputs_are_valid_bids(found: Path) -> None:
    validator = Path(sys.executable).with_name("bids-validator-deno")
    if not validator.is_file():
        pytest.skip("needs bids-validator-deno")
    done = subprocess.run([validator, str(found), "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue["code"] for issue in issues if issue["severity"] == "error"] == []


def test_the_same_call_goes_on_and_denoising_does_not_count(
    series: Path, found: Path, tmp_path: Path, app: App
) -> None:
    out = tmp_path / "out"
    shutil.copytree(found, out)
    code, text = app(series, out, "--denoise", "36p", "--no-band-pass", "--fd-threshold", "0.2")
    assert code == 0
    assert f"Keeping {N} runs " in text
    assert text.splitlines()[0].endswith(f" xcp_d-like (parcellated series) in {series}")
    assert "no denoising, filtering or scrubbing" in text
    next(out.glob("sub-002/func/*_stat-mean_timeseries.json")).unlink()
    code, text = app(series, out)
    assert code == 0
    assert f"Keeping {name_count(N - 1, 'run')} " in text
    assert f"{N} ok, 0 skipped" in text
    assert read_tables(out, "*_embedding.tsv") == read_tables(found, "*_embedding.tsv")


def test_a_changed_table_is_read_again(series: Path, tmp_path: Path, app: App) -> None:
    root, out = own_series(series, tmp_path), tmp_path / "out"
    select = ("--participant-label", "001")
    assert app(root, out, *select)[0] == 0
    before = read_tables(out, "*_embedding.tsv")
    (table,) = root.glob("sub-001/func/*_timeseries.tsv")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:20], *lines[40:]]) + "\n")
    code, text = app(root, out, *select, "--min-time", "60")
    assert code == 0
    assert "1 ok" in text
    assert read_tables(out, "*_embedding.tsv") != before


def test_our_own_outputs_give_the_same_bytes(outputs: Path, tmp_path: Path, app: App) -> None:
    out = tmp_path / "again"
    code, text = app(outputs, out, "--participant-label", "001", "002")
    assert code == 0
    assert "3 ok, 0 skipped, 0 failed" in text
    for pattern in ("*_embedding.tsv", "*_stat-mean_timeseries.tsv", "*_stat-coverage_bold.tsv", "*_relmat.tsv"):
        expected = {name: content for name, content in read_tables(outputs, pattern).items() if name < "sub-003"}
        assert len(expected) == 3
        assert read_tables(out, pattern) == expected
    # Dummy volumes were dropped in some of them, and are told from others only by our sidecars.
    sidecars = [json.loads(path.read_text()) for path in out.rglob("*_stat-mean_timeseries.json")]
    assert any(sidecar["VolumesDropped"]["Dummy"]["Count"] > 0 for sidecar in sidecars)


def test_an_output_dataset_is_never_written_into(outputs: Path, app: App) -> None:
    code, text = app(outputs, outputs / "derivatives" / "again")
    assert code == 4
    assert "is inside an input" in text
    assert not (outputs / "derivatives").exists()


def test_series_in_no_space(series: Path, tmp_path: Path, app: App) -> None:
    root, out = tmp_path / "giga", tmp_path / "out"
    shutil.copytree(series, root)
    for path in root.glob("sub-*/func/*_timeseries.*"):
        name = path.name.replace("_space-MNI152NLin2009cAsym_atlas-Demo457_stat-mean", "_seg-Demo457")
        path.rename(path.with_name(name))
    for level in ("participant", "group"):
        code, text = app(root, out, level=level)
        assert code == 0, text
    names = sorted(path.name for path in out.glob("sub-001/func/*.tsv"))
    assert names[0] == "sub-001_task-rest_atlas-Demo457_desc-RandomTiny_embedding.tsv"
    assert (out / "sourcedata" / "atlases" / "atlas-Demo457_dseg.tsv").is_file()
    assert len((out / "phenotype" / "Demo457RandomTiny.tsv").read_text().splitlines()) == N + 1
    # What was written is again an input.
    code, text = app(out, tmp_path / "again")
    assert code == 0, text
    assert read_tables(tmp_path / "again", "*_embedding.tsv") == read_tables(out, "*_embedding.tsv")


def test_runs_fail_and_are_skipped_one_by_one(tmp_path: Path, app: App) -> None:
    root, out = tmp_path / "xcp_d", tmp_path / "out"
    write_parcellated(root, n_participants=5, short=True)
    tables = sorted(root.glob("sub-*/func/*_timeseries.tsv"))
    tables[0].with_suffix(".json").unlink()
    tables[1].write_text("\n".join(tables[1].read_text().splitlines()[:30]) + "\n")
    tables[2].write_text(tables[2].read_text().replace("Demo_LH_Vis_2\t", "Heart\t"))
    tables[3].unlink()
    tables[3].symlink_to(root / ".git" / "annex" / "objects" / "gone")
    code, text = app(root, out)
    assert code == 7
    assert "1 ok, 2 skipped, 2 failed" in text
    reasons = {stem[:7]: status["reason"] for stem, status in read_statuses(out)}
    assert reasons == {
        "sub-001": "no_repetition_time",
        "sub-002": "too_short",
        "sub-003": "bad_image",
        "sub-004": "no_content",
        "sub-005": "",
    }
    _, text = app(root, tmp_path / "dry", "--dry-run", "--check")
    lines = [line for line in text.splitlines() if line.startswith("sub-")]
    assert [line.split(": ")[1].split(",")[0] for line in lines] == [
        "fail",
        "skip",
        "fail",
        "skip",
        "read the series and encode",
    ]
    assert not (tmp_path / "dry").exists()


def test_signals_only_and_group_later(series: Path, found: Path, tmp_path: Path, app: App) -> None:
    out = tmp_path / "out"
    assert app(series, out, "--signals-only")[0] == 0
    assert app(series, out, level="group")[0] == 0
    assert read_tables(out, "*_embedding.tsv") == read_tables(found, "*_embedding.tsv")


def test_real_series_with_networks_of_their_own(shared: Path, tmp_path: Path) -> None:
    data = shared / "data" / "abide_cc200_dev.npz"
    if not data.is_file():
        pytest.skip("needs the real series beside the checkout")
    root, out = tmp_path / "cc200", tmp_path / "out"
    tool = shared / "tools" / "timeseries_to_bids.py"
    subprocess.run([sys.executable, str(tool), str(data), str(root), "--participants", "6"], check=True)
    for level in ("participant", "group"):
        # Three of the six are enough to see; drawing reports takes most of the time.
        chosen = ["--participant-label", *sorted(path.name for path in root.glob("sub-*"))[:3]]
        assert call([str(root), str(out), level, "--model", "random:tiny", "--n-procs", "1", "-q", *chosen]) == 0
    embeddings = sorted(out.glob("sub-*/func/*_atlas-CC200_desc-RandomTiny_embedding.tsv"))
    assert len(embeddings) == 3
    assert all(np.isfinite(read_table(path)[1]).all() for path in embeddings)
    table = next(out.glob("sourcedata/atlases/*/*_atlas-CC200_dseg.tsv")).read_text().splitlines()
    networks = {line.split("\t")[2] for line in table[1:]} - {"n/a"}
    assert len(table) == 201
    assert networks
    assert networks <= set(CANONICAL_NETWORKS)
    sidecar = json.loads(embeddings[0].with_suffix(".json").read_text())
    assert sidecar["ResampledRepetitionTime"] == 2.0
    assert sidecar["RepetitionTime"] == pytest.approx(float(np.load(data)["repetition_time"][0]))
