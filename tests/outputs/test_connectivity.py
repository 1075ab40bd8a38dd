"""Correlations between parcels: their forms, and that they follow from the stored signals."""

import json
import shutil

import numpy as np

SELECT = ("--participant-label", "001")


def find(folder, ending):
    (path,) = folder.rglob(f"*_{ending}")
    return path


def read_files(out):
    return {path: path.read_bytes() for path in (out / "sub-001").rglob("*") if path.is_file()}


def test_connectivity_follows_from_stored_signals(study, outputs, tmp_path, app, monkeypatch):
    """Written in another form, or lost, it needs no image; without it all else is the same."""
    out = tmp_path / "out"
    table = find(outputs / "sub-001", "relmat.tsv")
    whole = table.read_bytes()
    assert app(study, out, *SELECT, "--connectivity", "none")[0] == 0
    assert not list(out.rglob("*_relmat.*"))
    names = {path.name for path in (outputs / "sub-001").rglob("*") if path.is_file() and "_relmat." not in path.name}
    assert {path.name for path in (out / "sub-001").rglob("*") if path.is_file()} == names
    monkeypatch.setattr("bids_semantoks.participant.make_signals", None)
    monkeypatch.setattr("bids_semantoks.participant.embed_run", None)
    assert "1 ok" in app(study, out, *SELECT, "--connectivity", "npy")[1]
    array = np.load(find(out / "sub-001", "relmat.npy"))
    assert app(study, out, *SELECT)[0] == 0
    assert find(out / "sub-001", "relmat.tsv").read_bytes() == whole
    rows = np.array([line.split("\t")[1:] for line in whole.decode().splitlines()[1:]])
    assert max(len(cell.lstrip("-0.").replace(".", "")) for cell in rows.flat if "e" not in cell) == 6
    np.testing.assert_allclose(np.where(rows == "n/a", "nan", rows).astype(float), array, rtol=5e-6)
    sidecar = json.loads(find(out / "sub-001", "relmat.json").read_text())
    assert sorted(name.rpartition(".")[2] for name in sidecar["Files"]) == ["npy", "tsv"]
    before = read_files(out)
    for form in ("none", "npy", "tsv"):
        assert "complete from an earlier call with the same" in app(study, out, *SELECT, "--connectivity", form)[1]
    assert read_files(out) == before


def test_outputs_whose_correlations_have_nine_digits_are_complete(study, outputs, tmp_path, app):
    """As versions before 0.2 wrote them: recorded in the sidecar of the signals."""
    out = tmp_path / "out"
    shutil.copytree(outputs, out)
    table, sidecar = find(out / "sub-001", "relmat.tsv"), find(out / "sub-001", "stat-mean_timeseries.json")
    table.write_bytes(table.read_bytes() + b"0.123456789")
    values = json.loads(sidecar.read_text())
    values["Files"][table.name] = table.stat().st_size
    sidecar.write_text(json.dumps(values))
    own = json.loads(table.with_suffix(".json").read_text())
    table.with_suffix(".json").write_text(json.dumps({k: v for k, v in own.items() if not k.startswith("Files")}))
    before = read_files(out)
    assert app(study, out, *SELECT)[0] == 0
    assert read_files(out) == before
