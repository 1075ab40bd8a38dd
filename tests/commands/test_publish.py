"""The command that prepares an encoder for the hub."""

import json

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalTokenNotFoundError

import bids_semantoks as bs
from bids_semantoks.commands.publish import call
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint
from bids_semantoks.pretraining.card import write_model_card

ASKED = ("--license", "cc-by-nc-4.0", "--data-terms", "Data of *nobody*; terms allow it.")


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
    assert call([str(encoder), "lab/Own", *ASKED, "--dataset", "lab/data", "--out", str(out)]) == 0
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
            call([str(encoder), *arguments])
        assert end.value.code == 2
    else:
        assert call([str(encoder), *arguments]) == code
    assert [path.name for path in tmp_path.iterdir()] == ["encoders"]


def test_weights_of_others_and_folders_that_exist_are_refused(encoder, tmp_path, capsys):
    assert call([str(tmp_path), "lab/Own", *ASKED, "--out", str(tmp_path / "x")]) == 6
    assert call([str(encoder), "lab/Own", *ASKED, "--out", str(encoder)]) == 4
    (encoder / "model.safetensors").write_bytes(b"damaged")
    assert call([str(encoder), "lab/Own", *ASKED, "--out", str(tmp_path / "x")]) == 6
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
    assert call(asked) == 5
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("bids_semantoks.commands.publish.is_offline", lambda: False)
    (tmp_path / "x" / "README.md").write_text("edited")
    assert call(asked) == 0
    assert done == [("lab/Own", {"private": True, "exist_ok": True}), ("lab/Own", tmp_path / "x")]
    assert (tmp_path / "x" / "README.md").read_text() == "edited"
    assert "https://hub/commit" in capsys.readouterr().out

    def refuse(*_, **__):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    assert call(asked) == 5
    assert "no token" in capsys.readouterr().err
