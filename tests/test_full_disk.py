"""Wherever the disk is full, a call ends with code 5 and one sentence, and goes on once there is room."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def levels(study, outputs):
    return {
        "participant": (None, "participant", ("--participant-label", "001", "--save-tokens")),
        "reports": (outputs, "participant", ("--reports-only",)),
        "embed": (outputs, "group", ("--model", "random:tiny:3")),
        "probe": (outputs, "group", PROBE),
        "pretrain": (outputs, "group", PRETRAIN),
    }


def read_tables(out: Path) -> dict[Path, bytes]:
    paths = (path for path in out.rglob("*") if path.suffix in TABLES and "logs" not in path.parts)
    # They hold seconds.
    return {
        path.relative_to(out): path.read_bytes()
        for path in paths
        if path.name not in ("training_log.tsv", "group_status.tsv")
    }


def list_cases():
    for name in ("participant", "reports", "embed", "probe", "pretrain"):
        if name in ("participant", "probe"):
            yield name, 2
        yield pytest.param(name, 60, marks=pytest.mark.long)


@pytest.mark.parametrize(("name", "n_points"), list_cases())
def test_a_full_disk_at_any_moment(study, levels, disk, tmp_path, app, name, n_points):
    ready, level, arguments = levels[name]

    def run(out, first=sys.maxsize, code=errno.ENOSPC):
        disk.root, disk.number, disk.first, disk.code = str(out), 0, first, code
        try:
            return app(study, out, *arguments, level=level)
        finally:
            disk.root = ""

    def prepare(word):
        out = tmp_path / word
        if ready is not None:
            shutil.copytree(ready, out)
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
