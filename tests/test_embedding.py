"""Stored runs whose embedding is not there, or is not the one that is asked for, are embedded."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from bids_semantoks import embedding
from bids_semantoks.analyses import choose
from bids_semantoks.analyses.choose import build_twin, embed_stored
from bids_semantoks.config import AppConfig, EmbeddingConfig, RunningConfig, SignalsConfig
from bids_semantoks.embedding import build_run_encoder, embed_missing, find_missing, read_means
from bids_semantoks.errors import ConfigurationError, InputError, ResourceError
from bids_semantoks.files import hash_file, hash_values, write_table
from bids_semantoks.group import run_group
from bids_semantoks.outcomes import Tally
from bids_semantoks.outputs import features
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.features import average_runs, read_embedding
from bids_semantoks.outputs.store import OutputPaths, StoredRun, find_stored_runs

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
    encoder = build_run_encoder(config.embedding, parcels, networks, seed=0)
    stored = encoder.name_outputs(list(find_stored_runs(config.out_dir, atlas="Demo457", model="")))
    assert [run.paths.model for run in stored] == ["RandomTiny"] * 6
    missing = find_missing(stored, encoder, overwrite=config.running.overwrite, hint="Do otherwise.")
    return (parcels, networks), encoder, stored, missing


def change(config, stage, **changes):
    return dataclasses.replace(config, **{stage: dataclasses.replace(getattr(config, stage), **changes)})


@pytest.mark.parametrize("n_procs", [1, 2])
def test_what_is_gone_or_out_of_date_is_embedded_again_and_nothing_else(config, n_procs):
    atlas, encoder, stored, missing = find(config)
    assert missing == []
    gone, outdated = stored[1].paths, stored[4].paths
    before = {paths: read_embedding(paths) for paths in (gone, outdated)}
    gone.embedding.unlink()
    sidecar = json.loads(outdated.embedding_sidecar.read_text())
    assert sidecar["SignalsSHA256"] == stored[4].sidecar["TableSHA256"]
    outdated.embedding_sidecar.write_text(json.dumps({**sidecar, "SignalsSHA256": "0" * 64}))
    missing = find_missing(stored, encoder, overwrite=False, hint="")
    assert [run.paths for run in missing] == [gone, outdated]
    tally = Tally()
    embed_missing(missing, encoder, atlas, RunningConfig(n_procs=n_procs), tally)
    assert (tally.n_ok, tally.n_failed) == (2, 0)
    for paths, vectors in before.items():
        np.testing.assert_array_equal(read_embedding(paths), vectors)
    assert find(config)[3] == []


def test_embeddings_without_tokens_are_incomplete_where_tokens_are_asked_for(config):
    _, _, stored, missing = find(change(config, "embedding", save_tokens=True))
    assert [one.paths for one in missing] == [run.paths for run in stored]


def test_other_settings_are_refused_unless_they_may_overwrite(config):
    other = change(config, "embedding", n_windows=3)
    with pytest.raises(ConfigurationError, match=r"_embedding\.tsv.*n_windows.*8.*3"):
        find(other)
    _, encoder, stored, missing = find(change(other, "running", overwrite=True))
    assert len(missing) == len(stored)
    assert {run.settings_hash for run in missing} == {hash_values(encoder.settings)}


def test_an_encoder_to_compare_with_leaves_no_status_and_is_described(config, caplog):
    _, encoder, stored, _ = find(config)
    twin = build_twin(encoder, 1)
    caplog.set_level("INFO")
    embed_stored(stored, twin, why="to compare with", running=config.running)
    embed_stored(stored, twin, why="a second time", running=config.running)
    said = [record.message for record in caplog.records if not hasattr(record, "is_progress")]
    assert said == ["Embedding 6 runs to compare with."]
    paths = [dataclasses.replace(run.paths, model="RandomTinyUntrained2") for run in stored]
    assert all(path.embedding_sidecar.is_file() and not path.status.exists() for path in paths)
    assert "desc-RandomTinyUntrained2\tEmbedding by" in (config.out_dir / "descriptions.tsv").read_text()
    other = dataclasses.replace(twin, config=dataclasses.replace(twin.config, n_windows=3))
    with pytest.raises(ConfigurationError, match=r"n_windows.*8.*3"):
        embed_stored(stored, other, why="", running=config.running, overwrite=False)


def test_an_encoder_to_compare_with_embeds_in_several_processes_to_the_same_bytes(config, monkeypatch):
    _, encoder, stored, _ = find(config)
    asked = []
    run_jobs = choose.run_jobs

    def remember(build, jobs, *, n_procs):
        asked.append(n_procs)
        return run_jobs(build, jobs, n_procs=n_procs)

    monkeypatch.setattr(choose, "run_jobs", remember)
    made = []
    for n_procs in (1, 2):
        twin = build_twin(encoder, 1)
        running = dataclasses.replace(config.running, n_procs=n_procs)
        embed_stored(stored, twin, why="to compare with", running=running)
        paths = [dataclasses.replace(run.paths, model=twin.loaded.name) for run in stored]
        made.append([path.embedding.read_bytes() for path in paths])
        for path in paths:
            path.embedding_sidecar.unlink()
    assert asked == [1, 2]
    assert made[0] == made[1]


def test_what_was_trained_for_days_is_not_trained_again_by_the_proposed_call(config, monkeypatch):
    monkeypatch.setattr("bids_semantoks.pretraining.run.pretrain_encoder", lambda *_: "random:tiny")
    other = change(change(config, "embedding", n_windows=3), "pretraining", pretrain=True)
    with pytest.raises(ConfigurationError, match=r"--model random:tiny --overwrite "):
        run_group(other)


def test_the_settings_of_the_usual_readout_are_those_of_earlier_versions(config):
    _, encoder, stored, _ = find(config)
    sidecar = json.loads(stored[0].paths.embedding_sidecar.read_text())
    names = {"model", "model_sha256", "n_windows", "pooling", "precision", "gaps"}
    assert sidecar["Settings"].keys() == names
    assert (sidecar["Settings"]["pooling"], sidecar["Settings"]["model"]) == ("cls_avg", "RandomTiny")
    assert encoder.settings == sidecar["Settings"]
    assert encoder.others == ()


def embed(config):
    atlas, encoder, stored, missing = find(config)
    tally = Tally()
    embed_missing(missing, encoder, atlas, RunningConfig(n_procs=1), tally)
    assert tally.n_failed == 0
    return encoder, stored, missing


def test_several_readouts_are_stored_from_one_pass_and_found_again(config, monkeypatch):
    from bids_semantoks.models.frozen import FrozenEncoder  # noqa: PLC0415

    calls, encode = [], FrozenEncoder.encode_readouts
    monkeypatch.setattr(
        FrozenEncoder, "encode_readouts", lambda self, *a, **k: calls.append(a[1]) or encode(self, *a, **k)
    )
    several = change(config, "embedding", pooling=("cls_avg", "networks", "cls"))
    before = {path: path.read_bytes() for path in config.out_dir.glob("sub-*/**/*_desc-RandomTiny_embedding.tsv")}
    encoder, stored, missing = embed(several)
    assert [one.loaded.name for one in encoder.readouts] == ["RandomTiny", "RandomTinyNetworks", "RandomTinyCls"]
    assert len(missing) == len(before) == 6
    assert calls == [["cls_avg", "networks", "cls"]] * 6
    assert all(path.read_bytes() == content for path, content in before.items())
    wide, narrow = (one.place(stored[0].paths) for one in encoder.others)
    width = encoder.loaded.config.width
    vectors = np.load(wide.vectors)
    assert vectors.dtype == np.float32
    assert vectors.shape[1] == len(encoder.token_rows) * width > 2 * width
    assert wide.embedding.read_text().splitlines()[0] == "window\tonset\tduration\tkept"
    np.testing.assert_array_equal(read_embedding(wide), vectors)
    np.testing.assert_allclose(
        vectors.reshape(len(vectors), -1, width).mean(axis=1), read_embedding(stored[0].paths)[:, :width], atol=1e-6
    )
    np.testing.assert_array_equal(read_embedding(narrow), read_embedding(stored[0].paths)[:, width:])
    sidecar = json.loads(wide.embedding_sidecar.read_text())
    assert (sidecar["Pooling"], sidecar["PooledNetworks"]) == ("networks", list(encoder.token_rows))
    assert wide.vectors.name in sidecar["FilesSHA256"]
    assert find(several)[3] == []
    # One readout that is gone or damaged is made again.
    narrow.embedding.unlink()
    array = np.load(wide.vectors)
    np.save(wide.vectors, array + 1)
    assert find(several)[3] == [stored[0]]
    assert len(embed(several)[2]) == 1
    np.testing.assert_array_equal(np.load(wide.vectors), array)


def test_wide_readouts_are_columns_where_asked_for(config):
    several = change(config, "embedding", pooling=("cls_avg", "networks"))
    encoder, stored, _ = embed(several)
    wide = encoder.others[0].place(stored[0].paths)
    array = read_embedding(wide)
    columns = change(several, "embedding", networks_format="tsv")
    assert len(embed(columns)[2]) == 6
    assert not wide.vectors.exists()
    assert len(wide.embedding.read_text().splitlines()[0].split("\t")) == 4 + array.shape[1]
    np.testing.assert_array_equal(read_embedding(wide), array)
    # Columns serve a call that asks for none.
    assert find(several)[3] == []


def test_the_label_of_a_single_readout_tells_it(config):
    parcels, networks = read_atlas_table(config.out_dir, name="Demo457", space=SPACE)
    for pooling, name in (("cls", "RandomTinyCls"), ("avg", "RandomTinyAvg"), ("networks", "RandomTinyNetworks")):
        asked = dataclasses.replace(config.embedding, pooling=(pooling,))
        encoder = build_run_encoder(asked, parcels, networks, seed=0)
        assert (encoder.loaded.name, encoder.settings["pooling"], encoder.others) == (name, pooling, ())


def test_mean_embeddings_are_parsed_once_where_there_is_a_work_directory(config, tmp_path, monkeypatch):
    _, _, stored, _ = find(config)
    places = [run.paths for run in stored]
    plain = read_means(places, config.running, min_kept=0.5)
    parsed = []
    read = features.read_window_table
    monkeypatch.setattr(features, "read_window_table", lambda paths: (parsed.append(paths.stem), read(paths))[1])
    running = dataclasses.replace(config.running, work_dir=tmp_path / "work")
    for n_parsed in (len(places), 0):
        parsed.clear()
        kept = read_means(places, running, min_kept=0.5)
        assert len(set(parsed)) == max(n_parsed, 1)  # one is read to learn the width
        assert list(kept) == list(plain)
        for path, (n_windows, mean) in plain.items():
            assert kept[path][0] == n_windows
            np.testing.assert_array_equal(kept[path][1], mean)
    # Others that are weighted otherwise, or embedded again, are other numbers.
    parsed.clear()
    read_means(places, running, min_kept=None)
    assert len(set(parsed)) == len(places)
    changed = json.loads(places[2].embedding_sidecar.read_text())
    other = places[3]
    shutil.copy(other.embedding, places[2].embedding)
    changed["FilesSHA256"] = {places[2].embedding.name: hash_file(other.embedding)}
    places[2].embedding_sidecar.write_text(json.dumps(changed))
    again = read_means(places, running, min_kept=0.5)
    np.testing.assert_array_equal(again[places[2].embedding][1], plain[other.embedding][1])
    for path in (tmp_path / "work").rglob("*.f64"):
        path.write_bytes(bytes(path.stat().st_size))
    damaged = rf"run of participant {places[0].embedding.name.split('_')[0][4:]} has checksum .*will be recreated\.$"
    with pytest.raises(InputError, match=damaged):
        read_means(places, running, min_kept=0.5)


N_DIMS = 5


def write_run(folder, participant, session, n_windows, seed):
    stem = f"sub-{participant}_ses-{session}_task-rest_atlas-A"
    paths = OutputPaths(out_dir=folder, directory=folder, stem=stem, model="Tiny")
    vectors = np.random.default_rng(seed).standard_normal((n_windows, N_DIMS)).astype(np.float32)
    starts = np.arange(float(n_windows))[:, None]
    kept = np.linspace(1.0, 0.2, n_windows)[:, None]
    columns = ["window", "kept", *(f"dim{d:04d}" for d in range(1, N_DIMS + 1))]
    write_table(paths.embedding, columns, np.hstack([starts, kept, vectors]))
    sidecar = {"VolumesKept": 50 * n_windows, "RepetitionTime": 2.0}
    return StoredRun(entities={"sub": participant, "ses": session}, paths=paths, sidecar=sidecar), vectors


@pytest.mark.parametrize("n_procs", [1, 2])
def test_windows_are_averaged_then_runs(tmp_path, monkeypatch, n_procs):
    monkeypatch.setattr(embedding, "_RUNS_PER_READER", 1)
    (first, a), (second, b) = write_run(tmp_path, "02", "1", 3, 0), write_run(tmp_path, "02", "2", 7, 1)
    other, c = write_run(tmp_path, "01", "1", 2, 2)
    runs = [first, second, other]
    means = read_means([run.paths for run in runs], RunningConfig(n_procs=n_procs), min_kept=None)
    rows = average_runs(runs, means, min_kept=None)
    assert [row[:3] for row in rows] == [("01", 1, 2), ("02", 2, 10)]
    np.testing.assert_allclose(rows[0][3], c.astype(np.float64).mean(axis=0), rtol=1e-12)
    expected = (a.astype(np.float64).mean(axis=0) + b.astype(np.float64).mean(axis=0)) / 2
    np.testing.assert_allclose(rows[1][3], expected, rtol=1e-12)


def test_windows_and_runs_weigh_by_what_they_hold(tmp_path):
    (first, a), (second, b) = write_run(tmp_path, "02", "1", 3, 0), write_run(tmp_path, "02", "2", 7, 1)
    means = read_means([first.paths, second.paths], RunningConfig(n_procs=1), min_kept=0.5)
    rows = average_runs([first, second], means, min_kept=0.5)
    # Of three windows with 1, 0.6 and 0.2 of their data two count, of seven the first four.
    assert [row[:3] for row in rows] == [("02", 2, 6)]
    means = [
        np.average(vectors[:n].astype(np.float64), axis=0, weights=np.linspace(1.0, 0.2, len(vectors))[:n])
        for vectors, n in ((a, 2), (b, 4))
    ]
    np.testing.assert_allclose(rows[0][3], (3 * means[0] + 7 * means[1]) / 10, rtol=1e-8)


def die(*_):
    os._exit(9)


def build_dying(_):
    return die


def test_a_killed_reader_ends_the_call(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_RUNS_PER_READER", 1)
    monkeypatch.setattr(embedding, "build_mean_reader", build_dying)
    runs = [write_run(tmp_path, f"{n:02d}", "1", 2, n)[0] for n in range(3)]
    with pytest.raises(ResourceError, match=r"sub-0\d.*embedding.tsv: a worker process ended with exit code 9"):
        read_means([run.paths for run in runs], RunningConfig(n_procs=2), min_kept=None)
