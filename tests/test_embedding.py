"""Stored runs whose embedding is not there, or is not the one that is asked for, are embedded."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from bids_semantoks.config import AppConfig, EmbeddingConfig, RunningConfig, SignalsConfig
from bids_semantoks.embedding import EncoderRecipe, embed_missing, find_missing
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.outcomes import Tally
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.store import find_stored_runs, read_embedding

SPACE = "MNI152NLin2009cAsym"


@pytest.fixture
def config(study, outputs, tmp_path) -> AppConfig:
    shutil.copytree(outputs, tmp_path / "out")
    return AppConfig(
        bids_dir=study,
        out_dir=tmp_path / "out",
        level="group",
        signals=SignalsConfig(atlas="Demo457"),
        embedding=EmbeddingConfig(model="random:tiny"),
        running=RunningConfig(n_procs=1),
    )


def find(config):
    parcels, networks = read_atlas_table(config.out_dir, name="Demo457", space=SPACE)
    recipe = EncoderRecipe(config=config, parcels=parcels, networks=networks)
    encoder = recipe.build()
    stored = list(find_stored_runs(config.out_dir, atlas="Demo457", model="RandomTiny"))
    assert len(stored) == 6
    return recipe, encoder, stored, find_missing(stored, encoder, config)


def change(config, stage, **changes):
    return dataclasses.replace(config, **{stage: dataclasses.replace(getattr(config, stage), **changes)})


def test_what_is_gone_or_out_of_date_is_embedded_again_and_nothing_else(config):
    recipe, encoder, stored, missing = find(config)
    assert missing == []
    gone, outdated = stored[1].paths, stored[4].paths
    before = {paths: read_embedding(paths) for paths in (gone, outdated)}
    gone.embedding.unlink()
    sidecar = json.loads(outdated.embedding_sidecar.read_text())
    assert sidecar["SignalsSHA256"] == stored[4].sidecar["TableSHA256"]
    outdated.embedding_sidecar.write_text(json.dumps({**sidecar, "SignalsSHA256": "0" * 64}))
    missing = find_missing(stored, encoder, config)
    assert [job.paths for job in missing] == [gone, outdated]
    tally = Tally()
    embed_missing(recipe, encoder, missing, tally)
    assert (tally.n_ok, tally.n_failed) == (2, 0)
    for paths, vectors in before.items():
        np.testing.assert_array_equal(read_embedding(paths), vectors)
    assert find(config)[3] == []


def test_embeddings_without_tokens_are_incomplete_where_tokens_are_asked_for(config):
    _, _, stored, missing = find(change(config, "embedding", save_tokens=True))
    assert [job.paths for job in missing] == [run.paths for run in stored]


def test_other_settings_are_refused_unless_they_may_overwrite(config):
    other = change(config, "embedding", n_windows=3)
    with pytest.raises(ConfigurationError, match=r"_embedding\.tsv was made with other settings: .*n_windows.*8.*3"):
        find(other)
    _, _, stored, missing = find(change(other, "running", overwrite=True))
    assert len(missing) == len(stored)
    assert len({job.settings_hash for job in missing}) == 1
    # What was trained for days must not be trained again by the call that the message proposes.
    with pytest.raises(ConfigurationError, match=r"Embed by --model random:tiny --overwrite, not --pretrain"):
        find(change(other, "pretraining", pretrain=True))
