"""Wherever the disk is full, a call ends with code 5 and one sentence, and goes on once there is room."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from bids_semantoks.demo.study import write_study

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TABLES = (".tsv", ".npy", ".safetensors")
PRETRAIN = ("--pretrain", "--encoder-config", "tiny", "--epochs", "2", "--train-batch-size", "4")
PROBE = ("--probe", "age", "--n-repeats", "2", "--n-permutations", "5")


class Disk:
    """Counts what is created below `root`, and refuses it from number `first` on."""

    def __init__(self) -> None:
        self.root, self.number, self.first, self.code = "", 0, sys.maxsize, errno.ENOSPC

    def __call__(self, event, arguments):
        if not self.root or event not in ("open", "os.mkdir") or not isinstance(arguments[0], str | os.PathLike):
            return
        writes = event == "os.mkdir" or arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and os.fspath(arguments[0]).startswith(self.root):
            self.number += 1
            if self.number > self.first:
                raise OSError(self.code, os.strerror(self.code), arguments[0])


@pytest.fixture(scope="module")
def disk():
    """One for all, since an audit hook cannot be taken away."""
    disk = Disk()
    sys.addaudithook(disk)
    return disk


#: Level and options of each call; the group level works on signals that are there.
CALLS = {
    "participant": ("participant", ("--participant-label", "001", "--save-tokens")),
    "reports": ("participant", ("--reports-only",)),
    "embed": ("group", ("--model", "random:tiny:3")),
    "probe": ("group", PROBE),
    "pretrain": ("group", PRETRAIN),
}


@pytest.fixture
def ready(request, n_points, tmp_path, app):
    """A study and what the participant level made of it: that of all tests, or one of enough people to probe."""
    if n_points < 10:
        return request.getfixturevalue("study"), request.getfixturevalue("outputs")
    write_study(tmp_path / "raw", n_participants=12, short=True)
    assert app(tmp_path / "raw", tmp_path / "ready", "--signals-only")[0] == 0
    return tmp_path / "raw", tmp_path / "ready"


def read_tables(out: Path) -> dict[Path, bytes]:
    paths = (path for path in out.rglob("*") if path.suffix in TABLES and "logs" not in path.parts)
    # They hold seconds.
    return {
        path.relative_to(out): path.read_bytes()
        for path in paths
        if path.name not in ("training_log.tsv", "group_status.tsv", "group_qc.tsv")
    }


#: The others need what only longer runs make.
QUICK = [("participant", 2), ("embed", 2)]
LONG = [(name, 60) for name in ("participant", "reports", "embed", "probe", "pretrain")]


@pytest.mark.parametrize(
    ("name", "n_points"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)]
)
def test_a_full_disk_at_any_moment(ready, disk, tmp_path, app, name, n_points):
    (study, outputs), (level, arguments) = ready, CALLS[name]

    def run(out, first=sys.maxsize, code=errno.ENOSPC):
        disk.root, disk.number, disk.first, disk.code = str(out), 0, first, code
        try:
            return app(study, out, *arguments, level=level)
        finally:
            disk.root = ""

    def prepare(word):
        out = tmp_path / word
        if name != "participant":
            shutil.copytree(outputs, out)
        return out

    whole = prepare("whole")
    code, text = run(whole)
    assert code == 0, text
    n_writes, expected = disk.number, read_tables(whole)
    rng = random.Random(5)
    for first in sorted(rng.sample(range(n_writes), min(n_points, n_writes))):
        out = prepare("full")
        code, text = run(out, first, rng.choice(ERRORS))
        assert code == 5, (first, text)
        assert text.splitlines()[-1].startswith("bids_semantoks: ")
        assert "Traceback" not in text
        assert not list(out.rglob("*.tmp"))
        code, text = run(out)
        assert code == 0, (first, text)
        assert read_tables(out) == expected
        shutil.rmtree(out)
