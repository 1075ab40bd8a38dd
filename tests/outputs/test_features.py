"""Features of participants and the status of runs, with what their sidecars say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bids_semantoks.outputs.features import write_features, write_group_status


def test_features_are_described_column_by_column(tmp_path: Path) -> None:
    rows = [("01", 2, 7, np.array([0.5, -1 / 3]))]
    path = write_features(tmp_path, atlas="Own", model="Tiny", description="By chance.", rows=rows)
    assert path == tmp_path / "phenotype" / "OwnTiny.tsv"
    assert path.read_text() == "participant_id\tn_runs\tn_windows\tdim0001\tdim0002\nsub-01\t2\t7\t0.5\t-0.333333333\n"
    sidecar = json.loads(path.with_suffix(".json").read_text())
    order = ["Description", "participant_id", "MeasurementToolMetadata", "n_runs", "n_windows", "dim0001", "dim0002"]
    assert list(sidecar) == order
    assert sidecar["Description"] == "Mean embedding of each participant. By chance."
    assert sidecar["dim0002"] == {"Description": "Dimension 2 of the embedding."}


def test_the_status_of_each_run_is_listed(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "runs"
    folder.mkdir(parents=True)
    status = {"status": "skipped", "reason": "too_short", "seconds": 0.25, "device": None, "host": "x"}
    (folder / "sub-01_task-rest_status.json").write_text(json.dumps(status))
    write_group_status(tmp_path)
    header, line = (tmp_path / "group_status.tsv").read_text().splitlines()
    assert line.split("\t") == ["sub-01_task-rest", "skipped", "too_short", "0.25", "n/a", "n/a", "n/a"]
    assert list(json.loads((tmp_path / "group_status.json").read_text())) == header.split("\t")
