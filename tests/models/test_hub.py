"""Encoders on the hub, in its client's caches, and why the hub gives none."""

import http.server
import shutil
import socket
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError

from bids_semantoks.errors import ModelError
from bids_semantoks.models.checkpoints import load_encoder, write_checkpoint
from bids_semantoks.models.encoder import build_encoder
from bids_semantoks.models.hub import HubName, find_origin, label_folder, load_from_hub, parse_repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def add(repository):
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(COMMIT)
        snapshot = root / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        return snapshot

    return add


def test_a_cached_checkpoint_of_the_authors_needs_no_network(cache, parity_checkpoint):
    snapshot = cache("SamGijsen/Brain-Semantoks")
    shutil.copy(parity_checkpoint, snapshot / "brainsemantoks_ckpt_epoch_100.pth")
    loaded = load_encoder("SamGijsen/Brain-Semantoks")
    assert loaded.name == "BrainSemantoks"
    assert loaded.config.width == 64


def test_a_cached_checkpoint_of_ours(cache, small_config, small_layout):
    write_checkpoint(cache("lab/my-encoder"), build_encoder(small_config, small_layout, 1))
    loaded = load_encoder("lab/my-encoder")
    assert loaded.name == "myencoder"
    assert loaded.layout == small_layout


def test_a_repository_of_another_lab_may_hold_the_format_of_the_authors(cache, parity_checkpoint):
    shutil.copy(parity_checkpoint, cache("lab/retrained") / "brainsemantoks_ckpt_epoch_100.pth")
    assert load_encoder("lab/retrained").name == "retrained"


def test_offline_the_message_says_how_to_fetch_beforehand(cache):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE") as caught:
        load_encoder("SamGijsen/Brain-Semantoks")
    assert "bids_semantoks-fetch DIR --model SamGijsen/Brain-Semantoks" in str(caught.value)
    assert "BIDS_SEMANTOKS_CACHE_DIR" in str(caught.value)


def test_without_network_the_answer_comes_at_once(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        connect = socket.create_connection
        tries, asked = [], []
        monkeypatch.setattr(socket, "create_connection", lambda *a, **k: tries.append(k) or connect(*a, **k))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **_: asked.append(a))
        with pytest.raises(ModelError, match=r"Brain-Semantoks is neither .* and the network cannot be reached"):
            load_encoder("SamGijsen/Brain-Semantoks")
    # The hub's client would try again and again, for a minute or more.
    assert asked == []
    (patience,) = [one["timeout"] for one in tries]
    assert 0 < patience <= 5


def test_the_cache_of_this_program_counts_too(tmp_path, monkeypatch, parity_checkpoint):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "ours"))
    root = tmp_path / "ours" / "huggingface" / "hub" / "models--lab--retrained"
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    shutil.copy(parity_checkpoint, root / "snapshots" / COMMIT / "brainsemantoks_ckpt_epoch_100.pth")
    assert load_encoder("lab/retrained").name == "retrained"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """The hub's own client, with a shelf of files instead of a server; gives the shelf and the calls made."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("BIDS_SEMANTOKS_CACHE_DIR", str(tmp_path / "ours"))
    monkeypatch.setattr("bids_semantoks.runtime.downloads.find_obstacle", lambda address: "")
    shelf, calls = tmp_path / "shelf", []
    shelf.mkdir()

    def give(repository, name, *, cache_dir=None, revision=None):
        calls.append((repository, name if revision is None else f"{name}@{revision}", cache_dir))
        if not (shelf / name).is_file():
            raise EntryNotFoundError(f"404 for {name}")
        return str(shelf / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", give)
    return shelf, calls


def test_a_checkpoint_is_fetched_when_no_cache_has_it(client, parity_checkpoint, tmp_path):
    shelf, calls = client
    shutil.copy(parity_checkpoint, shelf / "brainsemantoks_ckpt_epoch_100.pth")
    assert load_from_hub(HubName("lab/retrained"), cache=tmp_path / "to") == shelf / "brainsemantoks_ckpt_epoch_100.pth"
    assert [name for _, name, _ in calls] == ["config.json", "brainsemantoks_ckpt_epoch_100.pth"]
    assert {cache for _, _, cache in calls} == {tmp_path / "to"}


def test_a_repository_without_a_checkpoint_says_what_was_expected(client):
    with pytest.raises(ModelError, match=r"lab/empty.*config\.json and model\.safetensors"):
        load_from_hub(HubName("lab/empty"))


def test_a_failing_client_is_quoted(client, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ModelError, match=r"\(\[Errno 5\] Input/output"):
        load_from_hub(HubName("lab/model"))


def test_a_job_of_an_array_does_not_fetch_weights(client, monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "17")
    with pytest.raises(ModelError, match=r"\(SLURM_ARRAY_TASK_ID=17\).*DIR"):
        load_from_hub(HubName("lab/model"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SamGijsen/Brain-Semantoks", True),
        ("lab/model_1.0", True),
        ("./lab/model", False),
        ("/lab/model", False),
        ("lab/model.pth", False),
        ("lab/model/more", True),
        ("lab/model/second/more@v1.0", True),
        ("lab/model@refs/pr/1", True),
        ("lab/model@", False),
        ("lab@main/model", False),
        ("lab/model/", False),
        ("lab/model/more.pth", False),
        ("lab/model/../more", False),
        ("lab/model/.hidden", False),
        ("lab/model..more", False),
        ("model", False),
    ],
)
def test_what_is_a_repository(text, expected):
    found = parse_repository(text)
    assert (found is not None) is expected
    assert found is None or str(found) == text


ANSWERS = {
    "gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model lab/model is restricted."}),
    "gated, logged out": (401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "You must be authenticated."}),
    "denied": (403, {}),
    "misspelt": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "absent": (404, {"X-Error-Code": "RepoNotFound"}),
    "many": (429, {}),
    "busy": (503, {}),
    "login": (200, {"Content-Type": "text/html"}),
    "portal": (302, {"Location": "http://portal.invalid/login"}),
}


@pytest.mark.parametrize(
    ("kind", "reason", "hint"),
    [
        ("gated", "restricted (gated, 403)", "accept its terms, and set HF_TOKEN"),
        ("gated, logged out", "restricted (gated, 401)", "accept its terms, and set HF_TOKEN"),
        ("denied", "denies access to it (403)", "accept its terms, and set HF_TOKEN"),
        ("misspelt", "no such repository, or", "Check the name"),
        ("absent", "no such repository, or", "Check the name"),
        ("many", "limits the rate of requests (429)", "minutes"),
        ("busy", "(503)", "Try again later"),
        ("login", "a page that is not", "login page"),
        ("portal", "a page that is not", "login page"),
    ],
)
def test_the_reason_of_the_hub_is_told(monkeypatch, tmp_path, kind, reason, hint):
    status, headers = ANSWERS[kind]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SLURM_ARRAY_TASK_ID", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("bids_semantoks.runtime.downloads.find_obstacle", lambda address: "")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "nothing"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(ModelError) as caught:
            load_from_hub(HubName("lab/model"), cache=tmp_path / "to")
    finally:
        server.shutdown()
        server.server_close()
    text = str(caught.value)
    assert reason in text
    assert hint in text
    assert len(text) < 500


def add_snapshot(hub, repository, commit, *, is_main=False):
    root = hub / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    if is_main:
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(commit)
    return snapshot


@pytest.mark.parametrize("given", ["ORG/NAME", "snapshot", "snapshots", "repository", "hub"])
def test_a_copied_cache_is_read_by_name_and_by_any_of_its_folders(
    tmp_path, monkeypatch, given, small_config, small_layout
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = add_snapshot(tmp_path, "lab/my-encoder", COMMIT)
    write_checkpoint(snapshot, build_encoder(small_config, small_layout, 1))
    places = {"snapshot": snapshot, "snapshots": snapshot.parent, "repository": snapshot.parents[1], "hub": tmp_path}
    loaded = load_encoder(places.get(given, "lab/my-encoder"))
    assert (loaded.name, loaded.layout) == ("myencoder", small_layout)


def test_a_cache_with_several_snapshots_or_repositories_asks_which(tmp_path, small_config, small_layout):
    for commit in ("abc", "def"):
        write_checkpoint(add_snapshot(tmp_path, "lab/one", commit), build_encoder(small_config, small_layout, 1))
    with pytest.raises(ModelError, match=r"2 snapshots.*refs/main"):
        load_encoder(tmp_path / "models--lab--one")
    assert load_encoder(tmp_path / "models--lab--one" / "snapshots" / "abc").name == "one"
    add_snapshot(tmp_path, "lab/two", "abc")
    with pytest.raises(ModelError, match="2 repositories: lab/one, lab/two"):
        load_encoder(tmp_path)


def test_links_of_a_cache_without_its_blobs_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = add_snapshot(tmp_path, "lab/model", COMMIT, is_main=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a1b")
    for given in ("lab/model", snapshot, snapshot.parents[1], snapshot / "model.safetensors"):
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            load_encoder(given)


def test_other_names_in_a_cached_repository_are_read(tmp_path, monkeypatch, parity_checkpoint):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copy(parity_checkpoint, add_snapshot(tmp_path, "lab/model", COMMIT, is_main=True) / "epoch50.pth")
    assert load_encoder("lab/model").name == "model"


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("second_random_seed", "Seed2"),
        ("third_random_seed", "Seed3"),
        ("seed-7", "Seed7"),
        ("seed_2", "Seed2"),
        ("random_seed_10", "Seed10"),
        ("my_seed", "Myseed"),
        ("large", "Large"),
    ],
)
def test_labels_tell_folders_apart(folder, label):
    assert label_folder(folder) == label
    assert HubName("SamGijsen/Brain-Semantoks", folder).label == f"BrainSemantoks{label}"
    assert HubName("lab/my-encoder", f"runs/{folder}", "v1").label == f"myencoderRuns{label}"


def test_seeds_of_one_repository_have_labels_of_their_own_and_are_pinned(cache, parity_checkpoint):
    snapshot = cache("SamGijsen/Brain-Semantoks")
    shutil.copy(parity_checkpoint, snapshot / "brainsemantoks_ckpt_epoch_100.pth")
    (snapshot / "second_random_seed").mkdir()
    path = snapshot / "second_random_seed" / "brainsemantoks_ckpt_epoch_100.pth"
    shutil.copy(parity_checkpoint, path)
    first, second = (load_encoder(f"SamGijsen/Brain-Semantoks{sub}") for sub in ("", "/second_random_seed"))
    assert (first.name, second.name) == ("BrainSemantoks", "BrainSemantoksSeed2")
    assert first.origin == f"SamGijsen/Brain-Semantoks@{COMMIT}"
    assert second.origin == f"SamGijsen/Brain-Semantoks/second_random_seed@{COMMIT}"
    assert second.origin in second.description
    # The file and the folder of the cache are the same encoder.
    for given in (path, path.parent):
        assert (load_encoder(given).name, load_encoder(given).origin) == ("BrainSemantoksSeed2", second.origin)


def test_a_revision_is_a_branch_or_a_commit_of_any_cache(cache, small_config, small_layout):
    old = cache("lab/my-encoder")
    new = old.with_name("f" * 40)
    for seed, snapshot in enumerate((old, new)):
        write_checkpoint(snapshot, build_encoder(small_config, small_layout, seed))
    (old.parents[1] / "refs" / "v2").write_text(new.name)
    main = load_encoder("lab/my-encoder")
    assert main.origin == f"lab/my-encoder@{COMMIT}"
    for revision in ("v2", new.name, new.name[:8]):
        loaded = load_encoder(f"lab/my-encoder@{revision}")
        assert (loaded.name, loaded.origin) == ("myencoder", f"lab/my-encoder@{new.name}")
        assert loaded.sha256 != main.sha256
    assert load_encoder(f"lab/my-encoder@{COMMIT[:7]}").sha256 == main.sha256
    with pytest.raises(ModelError, match="lab/my-encoder@v3"):
        load_encoder("lab/my-encoder@v3")


def test_subfolder_and_revision_are_asked_of_the_hub(client, parity_checkpoint):
    shelf, calls = client
    (shelf / "second").mkdir()
    shutil.copy(parity_checkpoint, shelf / "second" / "brainsemantoks_ckpt_epoch_100.pth")
    found = load_from_hub(HubName("lab/retrained", "second", "v1"))
    assert found == shelf / "second" / "brainsemantoks_ckpt_epoch_100.pth"
    assert [name for _, name, _ in calls] == ["second/config.json@v1", "second/brainsemantoks_ckpt_epoch_100.pth@v1"]
    assert find_origin(found) is None


def test_copies_of_seeds_outside_a_cache_have_labels_of_their_own(tmp_path, parity_checkpoint):
    names = []
    for folder in ("first", "second_random_seed", "seed3"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "brainsemantoks_ckpt_epoch_100.pth"
        names.append(load_encoder(shutil.copy(parity_checkpoint, path)).name)
    assert names == ["BrainSemantoks", "BrainSemantoksSeed2", "BrainSemantoksSeed3"]
