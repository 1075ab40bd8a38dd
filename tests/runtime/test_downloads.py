"""Whether the network may be used, without ever using more of it than this machine; and what a download leaves."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import logging
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from bids_semantoks.errors import AtlasError, ResourceError
from bids_semantoks.files import hash_content
from bids_semantoks.runtime import downloads
from bids_semantoks.runtime.downloads import (
    Pin,
    can_connect,
    check_file,
    download,
    find_array_job,
    find_cache,
    find_hub_caches,
    find_hub_file,
    find_obstacle,
    find_templateflow_homes,
    is_offline,
)

ARRAYS = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "LSB_JOBINDEX", "SGE_TASK_ID")


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    for name in (*ARRAYS, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_that_answers_or_a_proxy_is_worth_a_try(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert not can_connect(address)
        server.listen()
        assert can_connect(address)
    assert not can_connect(address)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert can_connect(address)


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("ON", True), ("0", False), ("", False)])
def test_the_environment_is_read_when_it_is_asked(monkeypatch, value, expected):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert is_offline() is expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SLURM_ARRAY_TASK_ID", "0", True),
        ("PBS_ARRAY_INDEX", "3", True),
        ("PBS_ARRAYID", "3", True),
        ("LSB_JOBINDEX", "0", False),
        ("LSB_JOBINDEX", "2", True),
        ("SGE_TASK_ID", "undefined", False),
        ("SGE_TASK_ID", "2", True),
        ("SLURM_JOB_ID", "5", False),
    ],
)
def test_jobs_of_an_array_are_recognised(monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert bool(find_array_job()) is expected


def test_what_is_in_the_way_of_a_download(monkeypatch):
    assert find_obstacle("file:///somewhere") == ""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert find_obstacle(address).startswith("the network cannot be reached (127.0.0.1:")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert "(SLURM_ARRAY_TASK_ID=4)" in find_obstacle(address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_obstacle(address) == "downloads are disabled (HF_HUB_OFFLINE)"


VARIABLES = (
    "BIDS_SEMANTOKS_CACHE_DIR",
    "XDG_CACHE_HOME",
    "TEMPLATEFLOW_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")


def test_caches_of_a_user_with_a_home():
    assert find_cache() == Path("/home/ada/.cache/bids_semantoks")
    assert find_templateflow_homes() == [
        Path("/home/ada/.cache/templateflow"),
        Path("/home/ada/.cache/bids_semantoks/templateflow"),
    ]
    assert find_hub_caches() == [
        Path("/home/ada/.cache/huggingface/hub"),
        Path("/home/ada/.cache/bids_semantoks/huggingface/hub"),
    ]


@pytest.mark.parametrize(
    ("name", "function", "expected"),
    [
        ("BIDS_SEMANTOKS_CACHE_DIR", find_cache, "/x"),
        ("XDG_CACHE_HOME", find_cache, "/x/bids_semantoks"),
        ("TEMPLATEFLOW_HOME", find_templateflow_homes, "/x"),
        ("XDG_CACHE_HOME", find_templateflow_homes, "/x/templateflow"),
        ("HF_HOME", find_hub_caches, "/x/hub"),
        ("HF_HUB_CACHE", find_hub_caches, "/x"),
        ("HUGGINGFACE_HUB_CACHE", find_hub_caches, "/x"),
        ("XDG_CACHE_HOME", find_hub_caches, "/x/huggingface/hub"),
    ],
)
def test_variables_move_them(monkeypatch, name, function, expected):
    monkeypatch.setenv(name, "/x")
    found = function()
    assert (found[0] if isinstance(found, list) else found) == Path(expected)


def test_a_user_without_home_has_no_cache(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert find_cache() is None
    assert find_templateflow_homes() == []
    assert find_hub_caches() == []
    assert find_hub_file("lab/model", "config.json") is None
    monkeypatch.setenv("TEMPLATEFLOW_HOME", "/t")
    assert find_templateflow_homes() == [Path("/t")]


def test_a_file_of_the_hub_is_that_of_the_main_revision(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--lab--model"
    for revision in ("abc", "def"):
        (folder / "snapshots" / revision).mkdir(parents=True)
        (folder / "snapshots" / revision / "config.json").write_text(revision)
    assert find_hub_file("lab/model", "config.json") is None
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("def\n")
    found = find_hub_file("lab/model", "config.json")
    assert found is not None
    assert found.read_text() == "def"
    assert find_hub_file("lab/model", "model.safetensors") is None


CONTENT = bytes(range(256)) * 9000


@pytest.fixture
def server(monkeypatch):
    """A server of one file; other paths are short by 100 bytes, empty, compressed on their way, or not there."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["User-Agent"] == "bids_semantoks"
            assert self.headers["Accept-Encoding"] == "identity"
            if self.path == "/absent":
                self.send_error(404)
                return
            content = b"" if self.path == "/empty" else CONTENT
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:-100] if self.path == "/short" else content)

        def log_message(self, *arguments):
            pass

    downloads._can_connect_once.cache_clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_comes_whole_with_its_checksum(tmp_path, server, caplog, capfd):
    target, sha256 = tmp_path / "a" / "b.nii.gz", hashlib.sha256(CONTENT).hexdigest()
    before = os.umask(0o077)
    try:
        with caplog.at_level(logging.INFO):
            download(f"{server}/file", target, pin=Pin(sha256=(sha256,)))
    finally:
        os.umask(before)
    assert target.read_bytes() == CONTENT
    record = target.with_name("b.nii.gz.sha256")
    assert record.read_text() == f"{sha256}  b.nii.gz\n"
    assert [path.stat().st_mode & 0o777 for path in (target, record)] == [0o644, 0o644]
    assert sorted(target.parent.iterdir()) == [target, record]
    assert [one.getMessage() for one in caplog.records] == [f"Fetching {server}/file ..."]
    assert capfd.readouterr() == ("", "")
    assert check_file(target) == sha256


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("absent", ("404 Not Found ({place})",)),
        ("short", ("{folder}: 2303900 of 2304000 bytes",)),
        ("empty", ("{folder}: it is empty",)),
    ],
)
def test_what_does_not_come_whole_leaves_nothing(tmp_path, server, path, words):
    folder = tmp_path / "to"
    with pytest.raises(AtlasError) as caught:
        download(f"{server}/{path}", folder / "file")
    text = str(caught.value)
    assert text.startswith("file ")
    assert all(one.format(place=server.split("/")[-1], folder=folder) in text for one in words)
    assert not list(folder.iterdir())


def test_a_server_that_is_gone_and_a_folder_that_cannot_be(tmp_path, server, monkeypatch):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "a" / "b"
    with pytest.raises(AtlasError, match=rf"{below}: \[Errno 20\]"):
        download(f"{server}/file", below / "c")
    monkeypatch.setattr(downloads, "find_obstacle", lambda address: "")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        with pytest.raises(AtlasError) as caught:
            download(address, tmp_path / "c")
    assert f" {tmp_path}: [Errno 111] Connection refused." in str(caught.value)


def test_a_file_on_this_machine_is_copied_and_another_than_expected_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = tmp_path / "a b.nii.gz"
    source.write_bytes(CONTENT)
    download(source.as_uri(), tmp_path / "to" / "c")
    assert (tmp_path / "to" / "c").read_bytes() == CONTENT
    with pytest.raises(AtlasError, match=r"a%20b.nii.gz.*SHA-256 [0-9a-f]{64}, expected 00:"):
        download(source.as_uri(), tmp_path / "to" / "d", pin=Pin(sha256=("00",)))
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["c", "c.sha256"]
    with pytest.raises(AtlasError, match=r"^e .*HF_HUB_OFFLINE"):
        download("https://localhost/e", tmp_path / "to" / "e")


@pytest.mark.parametrize(
    ("pin", "words"),
    [
        ({"size": len(CONTENT) + 1}, f"has {len(CONTENT)} bytes, expected {len(CONTENT) + 1}"),
        ({"size": len(CONTENT), "md5": "0" * 32}, f"MD5 {hashlib.md5(CONTENT).hexdigest()}, expected 000"),
        ({"sha256": ("00", "11")}, "expected 00"),
    ],
)
def test_a_truncated_or_replaced_download_is_refused(tmp_path, pin, words):
    source = tmp_path / "a"
    source.write_bytes(CONTENT)
    with pytest.raises(AtlasError, match=words):
        download(source.as_uri(), tmp_path / "to" / "a", pin=Pin(**pin))
    assert not list((tmp_path / "to").iterdir())
    download(source.as_uri(), tmp_path / "a2", pin=Pin(size=len(CONTENT), md5=hashlib.md5(CONTENT).hexdigest()))


def test_compression_does_not_change_what_a_file_is(tmp_path):
    plain, packed, cut = (tmp_path / name for name in ("a.nii", "a.nii.gz", "cut.nii.gz"))
    plain.write_bytes(CONTENT)
    packed.write_bytes(gzip.compress(CONTENT, mtime=7))
    cut.write_bytes(packed.read_bytes()[:-30])
    pin = Pin(sha256=(hashlib.sha256(CONTENT).hexdigest(),))
    assert [pin.find_fault(path) for path in (plain, packed)] == ["", ""]
    assert "expected" in pin.find_fault(cut)
    assert hash_content(cut) == ""


def test_templateflows_own_place_depends_on_the_system(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/Users/ada/Library/Caches/{name}")
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    assert find_templateflow_homes()[0] == Path("/Users/ada/Library/Caches/templateflow")


def test_a_file_is_compared_with_its_record(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    sha256 = hashlib.sha256(b"x").hexdigest()
    record = tmp_path / "a.sha256"
    for text in ("", "no record", sha256):
        record.write_text(text)
        assert check_file(path) == sha256
    record.write_bytes(b"\xff\xfe")
    assert check_file(path) == sha256
    record.write_text(f"{'0' * 64}  a\n")
    with pytest.raises(AtlasError, match=rf"{'0' * 64}.*\(a.sha256\)"):
        check_file(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_no_matter_of_atlas_or_model(tmp_path, monkeypatch, number):
    def fill(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(downloads, "_copy", fill)
    (tmp_path / "a").write_bytes(CONTENT)
    with pytest.raises(ResourceError, match=re.escape(os.strerror(number))) as caught:
        download((tmp_path / "a").as_uri(), tmp_path / "to" / "a")
    assert caught.value.exit_code == 5
    assert not list((tmp_path / "to").iterdir())
    monkeypatch.setattr(downloads, "find_obstacle", lambda address: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fill)
    with pytest.raises(ResourceError, match=re.escape(os.strerror(number))):
        downloads.fetch_hub_file("ORG/NAME", "config.json", cache=tmp_path)


def test_a_client_in_another_language_names_the_full_disk_in_words(tmp_path, monkeypatch):
    def fill(*_, **__):
        raise RuntimeError("Data processing error: IO error: No space left on device (os error 28)")

    monkeypatch.setattr(downloads, "find_obstacle", lambda address: "")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fill)
    with pytest.raises(ResourceError, match="os error 28"):
        downloads.fetch_hub_file("ORG/NAME", "config.json", cache=tmp_path)
