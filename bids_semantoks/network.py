"""Whether this process may use the network, and whether a server answers."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

HUB_SERVER: Final = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
_PATIENCE: Final = 5.0  # seconds
_OFFLINE: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# Number of this job in an array, as SLURM, PBS, LSF and Grid Engine give it; the last two set it in all jobs.
_ARRAYS: Final = ("SLURM_ARRAY_TASK_ID", "PBS_ARRAY_INDEX", "PBS_ARRAYID", "LSB_JOBINDEX", "SGE_TASK_ID")
_NO_ARRAY: Final = ("", "0", "undefined")


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids downloads now, rather than when a library was
    imported."""
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in _OFFLINE)


def find_array_job() -> str:
    """Return the variable and value that mark this process as one of a scheduler's job array; empty if it is not."""
    for name in _ARRAYS:
        value = os.environ.get(name, "").strip()
        is_numbered_always = name in ("LSB_JOBINDEX", "SGE_TASK_ID")
        if value and not (is_numbered_always and value in _NO_ARRAY):
            return f"{name}={value}"
    return ""


def can_connect(address: str) -> bool:
    """Tell within 5 s whether a server answers (libraries try for half a minute); True if a proxy is set, which alone
    knows."""
    parts = urlsplit(address)
    if parts.scheme in getproxies() or "all" in getproxies():
        return True
    ports = {"http": 80, "https": 443}
    try:
        place = (parts.hostname or "", parts.port or ports.get(parts.scheme, 443))
        socket.create_connection(place, timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


@functools.cache
def _can_connect_once(server: str) -> bool:
    return can_connect(server)


def find_obstacle(address: str) -> str:
    """Return in half a sentence why this process cannot download from an address (scheme included); empty if nothing is
    known.

    Each server is tried once per process; ``file:`` needs no network.
    """
    parts = urlsplit(address)
    if parts.scheme == "file":
        return ""
    if is_offline():
        return "HF_HUB_OFFLINE forbids to fetch it"
    # A thousand jobs that start together would all fetch the same thing; one call before them can.
    if job := find_array_job():
        return f"a job of an array ({job}) fetches nothing"
    if not _can_connect_once(f"{parts.scheme}://{parts.netloc}"):
        return f"the network cannot be reached ({parts.netloc})"
    return ""


class FetchError(Exception):
    """A Hugging Face file could not be fetched; the reason is half a sentence, `is_absent` if the server has no such
    file."""

    def __init__(self, reason: str, *, is_absent: bool = False) -> None:
        super().__init__(reason)
        self.is_absent = is_absent


def fetch_hub_file(repository: str, name: str, *, cache: Path | None = None) -> Path:
    """Download a file of a Hugging Face repository (ORG/NAME) into `cache`, by default the hub client's. Raises
    FetchError."""
    # Imported late: it is needed by few calls, and its constants read the environment.
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
    )

    # The bases are the errors of the HTTP library, which differs between versions, and OSError.
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__mro__[1:2], OSError, ValueError)
    if obstacle := find_obstacle(constants.ENDPOINT):
        raise FetchError(obstacle)
    try:
        return Path(hf_hub_download(repository, name, cache_dir=cache))
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but means that no connection was made
        raise FetchError("the network cannot be reached") from error
    except EntryNotFoundError as error:
        raise FetchError(f"{repository} has no {name}", is_absent=True) from error
    except failures as error:
        raise FetchError(f"it cannot be fetched ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
