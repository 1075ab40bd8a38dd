"""Allow one training of an encoder at a time: a heartbeat file in its folder instead of locks, which fail on network
disks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bids_semantoks.disk import name_temporary, read_space, read_start
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import read_json
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.loop import StopRequest

LOGGER = logging.getLogger("bids_semantoks")

CLAIM_FILE: Final = ".training.json"
_BEAT: Final = 10.0  # seconds between heartbeats
_PATIENCE: Final = 60.0  # seconds without a heartbeat after which a training on another machine counts as dead
_POLL: Final = 0.5


@contextlib.contextmanager
def claim(directory: Path, ranks: Ranks, request: StopRequest) -> Iterator[None]:
    """Hold the folder of an encoder while its training writes to it; collective.

    Raises ConfigurationError in all ranks if another call trains there. A crashed call on this machine is detected at
    once, one on another machine within a minute. A call whose claim was taken over meanwhile is asked to stop.
    """
    other = _take(directory / CLAIM_FILE, request) if ranks.is_first else ""
    if ranks.any(bool(other)):
        raise ConfigurationError(
            f"The encoder {directory} is being trained by {other or 'another call'}.",
            hint=f"Wait for it or choose another --encoder-name. If that call has died, delete {CLAIM_FILE} there.",
        )
    if not ranks.is_first:
        yield
        return
    path, has_ended = directory / CLAIM_FILE, threading.Event()
    beating = threading.Thread(target=_beat, args=(path, request, has_ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        has_ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            if _read(path) == _identify_call(request):
                path.unlink()
            directory.rmdir()  # only if nothing was written


def _take(path: Path, request: StopRequest) -> str:
    """Create the claim; return its holder if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while not request.reason:
        try:
            # Only one caller can create it, also on network disks; its content is for the others.
            with path.open("x", encoding="utf-8") as file:
                json.dump(_identify_call(request), file)
            return ""
        except FileExistsError:
            holder = _read(path)
            if _is_alive(path, holder):
                holder = _read(path)
                return f"process {holder.get('process', '?')} on {holder.get('host', 'another machine')}"
            if _remove(path, holder):
                LOGGER.info("The last call that trained %s was killed; resuming its training.", path.parent.name)
        except OSError:
            path.unlink(missing_ok=True)  # it may have been created before the disk was full
            raise
    return ""


def _remove(path: Path, dead: dict[str, Any]) -> bool:
    """Remove the claim of a dead call, but not that of another call which found it dead as well and was quicker."""
    aside = path.with_name(name_temporary())
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        is_dead = _read(aside) == dead
        if not is_dead:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        return is_dead
    return False


def _identify_call(request: StopRequest) -> dict[str, Any]:
    process = os.getpid()
    known = {"host": socket.gethostname(), "process": process, "call": str(request.started)}
    return known | {"space": read_space(), "since": read_start(process)}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(path: Path, found: dict[str, Any]) -> bool:
    """Return whether the holder of a claim is still alive: check the process on this machine, else wait for a
    heartbeat."""
    if found.get("host") == socket.gethostname() and found.get("space") == read_space() != "":
        return read_start(found["process"]) == str(found["since"])
    # The clock of another machine may be wrong: only check whether the modification time changes.
    before, until = _read_time(path), time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(_POLL)
        now = _read_time(path)
        if now != before:
            return now is not None
    return False


def _read_time(path: Path) -> int | None:
    # Opened, since a network disk may otherwise return cached attributes.
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _beat(path: Path, request: StopRequest, has_ended: threading.Event) -> None:
    while not has_ended.wait(_BEAT):
        found = _read(path)
        if found and found != _identify_call(request):
            request.reason = request.reason or "another call, which trains the same encoder"
            return
        with contextlib.suppress(OSError):
            os.utime(path)
