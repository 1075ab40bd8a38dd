"""A full disk is recognised whatever wraps it, and only what dead processes left behind is removed."""

import errno
import os
import resource
import sqlite3
import subprocess
import sys
import time

import pytest

from bids_semantoks import disk, files
from bids_semantoks.errors import ConfigurationError, ResourceError


def wrap(error, kind=RuntimeError, *, is_linked=True):
    try:
        try:
            raise error
        except Exception as inner:  # noqa: BLE001 - any
            raise kind("wrapped") from (inner if is_linked else None)
    except kind as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EFBIG, "File too large"), True),
        (wrap(OSError(errno.ENOSPC, "full")), True),
        (wrap(wrap(OSError(errno.EDQUOT, "full")), ConfigurationError), True),
        (RuntimeError("IO error: No space left on device (os error 28)"), True),
        (sqlite3.OperationalError("database or disk is full"), True),
        (wrap(OSError(errno.ENOSPC, "full"), is_linked=False), False),
        (OSError(errno.EACCES, "Permission denied"), False),
        (OSError("no number"), False),
        (ValueError("28"), False),
    ],
)
def test_a_full_disk_is_recognised(error, expected):
    assert disk.is_full(error) == expected


OTHERS = ("sub-01.html", ".hidden", ".tmp", ".0123456789ab.tmp.json", "0123456789ab.tmp", ".making-mine", "x.tmp")


def test_only_what_dead_processes_left_is_removed(tmp_path):
    """Files of living processes, of other machines not long ago, and of others stay."""
    code = "from bids_semantoks.disk import tag_owner; print(tag_owner(), flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path.cwd())}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", code], text=True, env=environment, **pipes)
    owner = other.stdout.readline().strip()
    mine, theirs, away = disk.name_temporary(), f".{owner}{'a' * 12}.tmp", f".00000000-1-1-{'b' * 12}.tmp"
    away_old, nameless, nameless_old = f".00000000-1-1-{'c' * 12}.tmp", f".{'d' * 12}.tmp", f".{'e' * 12}.tmp"
    for name in (mine, theirs, away, away_old, nameless, nameless_old, *OTHERS):
        (tmp_path / name).write_text("x")
    for name in (f".making-{owner}x", f"bids_semantoks-fetched-{owner}y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    for name in (away_old, nameless_old, *OTHERS):
        os.utime(tmp_path / name, (0, time.time() - 2 * 86400))
    everything = {path.name for path in tmp_path.iterdir()}
    disk.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == everything - {away_old, nameless_old}
    other.communicate("\n")
    files.write_text(tmp_path / "new", "x")
    assert {path.name for path in tmp_path.iterdir()} == {mine, away, nameless, "new", *OTHERS}
    disk.remove_leftovers(tmp_path / "absent")


def test_files_of_other_users_are_judged_by_their_age(tmp_path, monkeypatch):
    """Processes of others may be hidden from this user, and would pass for dead."""
    path = tmp_path / f".{disk._identify_place()}-4194305-1-{'a' * 12}.tmp"
    path.write_text("x")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    disk.remove_leftovers(tmp_path)
    assert path.exists()
    monkeypatch.undo()
    disk.remove_leftovers(tmp_path)
    assert not path.exists()


def test_place_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match=r"Cannot write to .*file/out"):
        disk.check_writable(tmp_path / "file" / "out")


def test_a_file_size_limit_is_a_full_disk_before_anything_is_written(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match="No space left"):
            disk.check_writable(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "out").iterdir()) == []
