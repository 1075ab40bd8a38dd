"""The commands that turn arrays into a dataset, write one table for a cohort, and prepare an encoder for the hub."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError

import bids_semantoks as bs
from bids_semantoks.commands.exchange import EXPORT, IMPORT, PUBLISH
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint
from bids_semantoks.pretraining.card import write_model_card

ASKED = ("--license", "cc-by-nc-4.0", "--data-terms", "Data of *nobody*; terms allow it.")


def test_what_is_imported_is_embedded_as_the_arrays_are(tmp_path, capsys):
    series = np.random.default_rng(0).standard_normal((2, 100, 400)).astype(np.float32)
    np.save(tmp_path / "stack.npy", series)
    asked = ["--repetition-time", "2", "--atlas", "Schaefer400"]
    assert IMPORT.call([str(tmp_path / "stack.npy"), *asked, str(tmp_path / "data")]) == 0
    assert f"bids_semantoks {tmp_path / 'data'} OUT_DIR participant" in capsys.readouterr().out
    assert bs.run([tmp_path / "data", tmp_path / "out", "participant", "--model", "random:tiny", "-q"]) == 0
    frame = bs.load_outputs(tmp_path / "out", level="window").query("participant_id == 'sub-02'")
    encoder = bs.load_encoder("random:tiny")
    direct = encoder.encode(series[1], repetition_time=2.0, parcels="Schaefer400-7Networks")
    np.testing.assert_allclose(frame.filter(like="dim"), direct.vectors, atol=1e-6)
    assert IMPORT.call([str(tmp_path / "stack.npy"), *asked, str(tmp_path / "data")]) == 4
    assert "not an empty folder" in capsys.readouterr().err


def test_an_export_holds_what_load_outputs_gives(outputs, study, tmp_path, capsys):
    path = tmp_path / "windows.parquet"
    assert (
        EXPORT.call([str(outputs), str(path), "--level", "window", "--phenotype", str(study), "--columns", "age"]) == 0
    )
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
    assert EXPORT.call([str(outputs), str(path)]) == 4
    assert path.read_text() == "mine"
    path.rename(path.with_suffix(".json"))
    assert EXPORT.call([str(outputs), str(path)]) == 4
    assert path.with_suffix(".json").read_text() == "mine"
    assert EXPORT.call([str(outputs), str(path), "--overwrite"]) == 0
    assert len(pd.read_csv(path)) == 4
    capsys.readouterr()
    other = str(tmp_path / "other.npz")
    assert EXPORT.call([str(outputs), other, "--phenotype", str(study), "--columns", "agee"]) == 3
    assert "agee" in (said := capsys.readouterr().err)
    assert "Did you mean age?" in said
    assert EXPORT.call([str(outputs), other, "--columns", "age"]) == 4
    assert EXPORT.call([str(outputs), other, "--min-kept", "50"]) == 4
    assert EXPORT.call([str(tmp_path / "none"), other]) == 3
    assert EXPORT.call([str(outputs), str(tmp_path / "other.xls")]) == 4


def test_the_group_level_does_not_read_an_export_in_its_folder(outputs, study, tmp_path, app):
    shutil.copytree(outputs, tmp_path / "out")
    for level in ("participant", "run"):
        assert EXPORT.call([str(tmp_path / "out"), str(tmp_path / "out" / f"{level}.csv"), "--level", level]) == 0
    assert app(study, tmp_path / "out", level="group")[0] == 0
    assert pd.read_csv(tmp_path / "out" / "phenotype" / "Demo457RandomTiny.tsv", sep="\t").shape[0] == 4


@pytest.fixture
def encoder(tmp_path):
    """A folder as --pretrain leaves it."""
    folder, loaded = tmp_path / "encoders" / "own", load_encoder("random:tiny")
    details = {
        "data": {"source": "signals"},
        "limits": {},
        "recipe": {"epochs": 1},
        "n_parameters": 7,
        "participants": {"salt": "s", "sha256": ["0" * 64]},
    }
    sha256 = write_checkpoint(folder, loaded.encoder, details=details)
    write_model_card(folder, name="own", sha256=sha256, details=details, drawn=())
    (folder / "training_log.tsv").write_text("step\n")
    (folder / "state.pt").write_text("not to be shared")
    return folder


def test_what_is_published_loads_and_lists_nobody(encoder, tmp_path, capsys):
    out = tmp_path / "ready"
    assert PUBLISH.call([str(encoder), "lab/Own", *ASKED, "--dataset", "lab/data", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "training_log.tsv",
    ]
    assert "participants" not in json.loads((out / "config.json").read_text())["details"]
    assert "0" * 64 not in (out / "config.json").read_text()
    assert "participants" in json.loads((encoder / "config.json").read_text())["details"]
    assert bs.load_encoder(out).sha256 == bs.load_encoder(encoder).sha256
    card = ModelCard.load(out / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.datasets == ["lab/data"]
    assert card.data.library_name == "bids_semantoks"
    assert r"Data of \*nobody\*; terms allow it." in card.text
    assert ModelCard.load(encoder / "README.md").data.license is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("lab/Own", "--license", "cc-by-4.0"), 2),
        (("lab/Own", "--data-terms", "x"), 2),
        (("lab/Own", "--license", "cc-by-4.0", "--data-terms", " "), 4),
        (("lab/Own", "--license", "CC BY", "--data-terms", "x"), 4),
        (("Own", *ASKED), 4),
        (("lab/Own/folder", *ASKED), 4),
    ],
)
def test_nothing_is_published_without_licence_terms_and_name(encoder, tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    if code == 2:
        with pytest.raises(SystemExit) as end:
            PUBLISH.call([str(encoder), *arguments])
        assert end.value.code == 2
    else:
        assert PUBLISH.call([str(encoder), *arguments]) == code
    assert [path.name for path in tmp_path.iterdir()] == ["encoders"]


def test_weights_of_others_and_folders_that_exist_are_refused(encoder, tmp_path, capsys):
    assert PUBLISH.call([str(tmp_path), "lab/Own", *ASKED, "--out", str(tmp_path / "x")]) == 6
    assert PUBLISH.call([str(encoder), "lab/Own", *ASKED, "--out", str(encoder)]) == 4
    (encoder / "model.safetensors").write_bytes(b"damaged")
    assert PUBLISH.call([str(encoder), "lab/Own", *ASKED, "--out", str(tmp_path / "x")]) == 6
    assert not (tmp_path / "x").exists()


def test_a_prepared_folder_is_uploaded_as_it_is(encoder, tmp_path, monkeypatch, capsys):
    done = []

    class Hub:
        def create_repo(self, repository, **options):
            done.append((repository, options))

        def upload_folder(self, *, repo_id, folder_path):
            done.append((repo_id, folder_path))
            return type("Commit", (), {"commit_url": "https://hub/commit"})

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    asked = [str(encoder), "lab/Own", *ASKED, "--out", str(tmp_path / "x"), "--upload"]
    assert PUBLISH.call(asked) == 5
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("bids_semantoks.commands.exchange.is_offline", lambda: False)
    (tmp_path / "x" / "README.md").write_text("edited")
    assert PUBLISH.call(asked) == 0
    assert done == [("lab/Own", {"private": True, "exist_ok": True}), ("lab/Own", tmp_path / "x")]
    assert (tmp_path / "x" / "README.md").read_text() == "edited"
    assert "https://hub/commit" in capsys.readouterr().out

    def refuse(*_, **__):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    assert PUBLISH.call(asked) == 5
    assert "no token" in capsys.readouterr().err
