"""The command that writes one table for a cohort."""

import shutil

import numpy as np
import pandas as pd

import bids_semantoks as bs
from bids_semantoks.commands.export import call


def test_an_export_holds_what_load_outputs_gives(outputs, study, tmp_path, capsys):
    path = tmp_path / "windows.parquet"
    assert call([str(outputs), str(path), "--level", "window", "--phenotype", str(study), "--columns", "age"]) == 0
    frame, read = bs.load_outputs(outputs, level="window"), pd.read_parquet(path)
    dims = [name for name in frame if name.startswith("dim")]
    np.testing.assert_array_equal(read[dims], frame[dims].astype(np.float32))
    assert read["name"].tolist() == frame["name"].tolist()
    assert "age" in read
    assert "sex" not in read
    origin = read.attrs["bids_semantoks"]
    assert origin["encoder"]["SHA256"] == origin["embedding_settings"][0]["model_sha256"]
    assert origin["signals_settings"][0]["atlas"] == "Demo457"
    assert f"{len(frame)} rows (one per window), {len(dims)} dimensions" in capsys.readouterr().out


def test_an_export_replaces_nothing_unasked_and_says_what_is_wrong(outputs, study, tmp_path, capsys):
    path = tmp_path / "table.csv"
    path.write_text("mine")
    assert call([str(outputs), str(path)]) == 4
    assert path.read_text() == "mine"
    path.rename(path.with_suffix(".json"))
    assert call([str(outputs), str(path)]) == 4
    assert path.with_suffix(".json").read_text() == "mine"
    assert call([str(outputs), str(path), "--overwrite"]) == 0
    assert len(pd.read_csv(path)) == 4
    capsys.readouterr()
    other = str(tmp_path / "other.npz")
    assert call([str(outputs), other, "--phenotype", str(study), "--columns", "agee"]) == 3
    assert "agee" in (said := capsys.readouterr().err)
    assert "Did you mean age?" in said
    assert call([str(outputs), other, "--columns", "age"]) == 4
    assert call([str(tmp_path / "none"), other]) == 3
    assert call([str(outputs), str(tmp_path / "other.xls")]) == 4


def test_the_group_level_does_not_read_an_export_in_its_folder(outputs, study, tmp_path, app):
    shutil.copytree(outputs, tmp_path / "out")
    for level in ("participant", "run"):
        assert call([str(tmp_path / "out"), str(tmp_path / "out" / f"{level}.csv"), "--level", level]) == 0
    assert app(study, tmp_path / "out", level="group")[0] == 0
    assert pd.read_csv(tmp_path / "out" / "phenotype" / "Demo457RandomTiny.tsv", sep="\t").shape[0] == 4
