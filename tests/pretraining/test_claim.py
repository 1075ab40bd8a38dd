"""Two calls never train one encoder in one folder, and a call that was killed holds nobody back."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time

import pytest

from bids_semantoks.errors import ConfigurationError
from bids_semantoks.pretraining import claim as module
from bids_semantoks.pretraining.claim import CLAIM_FILE, claim
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.loop import StopRequest


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("_BEAT", 0.05), ("_PATIENCE", 0.5), ("_POLL", 0.02)):
        monkeypatch.setattr(module, name, seconds)


def hold(folder, request=None):
    return claim(folder, Ranks(), request or StopRequest())


def write_claim(folder, **changes):
    folder.mkdir(exist_ok=True)
    found = module._identify_call(StopRequest()) | changes
    (folder / CLAIM_FILE).write_text(json.dumps(found))


def test_the_second_call_is_refused_and_the_first_goes_on(tmp_path):
    folder = tmp_path / "tiny"
    with hold(folder):
        with pytest.raises(ConfigurationError, match=rf"tiny is being trained by process {os.getpid()} on ") as caught:
            hold(folder).__enter__()
        assert "--encoder-name" in str(caught.value)
        (folder / "config.json").touch()
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    with hold(folder):
        pass


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with hold(tmp_path / "tiny"):
        pass
    assert not (tmp_path / "tiny").exists()


def test_a_call_that_was_killed_on_this_machine_holds_nobody_back(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 60.0)
    dead = subprocess.Popen(["sleep", "60"])
    since = module.read_start(dead.pid)
    write_claim(tmp_path, process=dead.pid, since=since)
    with pytest.raises(ConfigurationError, match=f"process {dead.pid}"):
        hold(tmp_path).__enter__()
    dead.kill()
    dead.wait()
    started = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - started < 5
    # Another process has its number meanwhile.
    write_claim(tmp_path, since="1")
    with hold(tmp_path):
        assert json.loads((tmp_path / CLAIM_FILE).read_text())["since"] != "1"


def test_a_call_on_another_machine_is_believed_while_it_gives_signs_of_life(tmp_path):
    write_claim(tmp_path, host="node7")
    has_ended = threading.Event()

    def beat():
        while not has_ended.wait(0.05):
            os.utime(tmp_path / CLAIM_FILE)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigurationError, match="on node7"):
            hold(tmp_path).__enter__()
    finally:
        has_ended.set()
        thread.join()
    with hold(tmp_path):  # silent for longer than the patience
        assert json.loads((tmp_path / CLAIM_FILE).read_text())["host"] == socket.gethostname()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_claim_that_says_nothing_is_waited_for(tmp_path, text):
    (tmp_path / CLAIM_FILE).write_text(text)
    with hold(tmp_path):
        assert "process" in json.loads((tmp_path / CLAIM_FILE).read_text())


def test_a_call_whose_claim_was_taken_over_is_asked_to_stop(tmp_path):
    request = StopRequest()
    with hold(tmp_path, request):
        write_claim(tmp_path, host="node7")
        until = time.monotonic() + 10
        while not request.reason and time.monotonic() < until:
            time.sleep(0.02)
    assert request.reason == "another call, which trains the same encoder"
    assert (tmp_path / CLAIM_FILE).exists()


def test_a_call_gives_signs_of_life(tmp_path):
    with hold(tmp_path):
        before = (tmp_path / CLAIM_FILE).stat().st_mtime_ns
        until = time.monotonic() + 10
        while (tmp_path / CLAIM_FILE).stat().st_mtime_ns == before and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / CLAIM_FILE).stat().st_mtime_ns > before


def test_of_two_calls_that_find_a_dead_claim_the_slower_leaves_the_claim_of_the_quicker(tmp_path):
    path = tmp_path / CLAIM_FILE
    write_claim(tmp_path, process=1, since="1")
    dead = json.loads(path.read_text())
    write_claim(tmp_path)  # the quicker one
    assert not module._remove(path, dead)
    assert json.loads(path.read_text())["process"] == os.getpid()
    assert [one.name for one in tmp_path.iterdir()] == [CLAIM_FILE]
    assert module._remove(path, json.loads(path.read_text()))
    assert not module._remove(path, dead)
    assert list(tmp_path.iterdir()) == []
