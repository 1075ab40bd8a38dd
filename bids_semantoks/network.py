"""Whether this process may use the network, and whether it would get anywhere."""

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
    """Tell whether the environment forbids downloads now, not when a library was imported.

    Returns
    -------
    bool
        True when HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set to a true value.
    """
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in _OFFLINE)


def find_array_job() -> str:
    """Find out whether this process is one of many that a scheduler started from one submission.

    Returns
    -------
    str
        The variable that says so, with its value; empty when there is none.
    """
    for name in _ARRAYS:
        value = os.environ.get(name, "").strip()
        is_numbered_always = name in ("LSB_JOBINDEX", "SGE_TASK_ID")
        if value and not (is_numbered_always and value in _NO_ARRAY):
            return f"{name}={value}"
    return ""


def can_connect(address: str) -> bool:
    """Tell whether a server answers, in seconds; libraries would try for half a minute before giving up.

    Parameters
    ----------
    address : str
        Address of the server, with scheme.

    Returns
    -------
    bool
        True also when a proxy is set, which alone can tell.
    """
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
    """Find what keeps this process from downloading.

    Parameters
    ----------
    address : str
        What is to be downloaded: an address with scheme. ``file:`` needs no network.

    Returns
    -------
    str
        Half a sentence; empty when nothing is known to be in the way. A server is asked once in a process.
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
    """A file of the Hugging Face hub could not be fetched.

    Parameters
    ----------
    reason : str
        Half a sentence on why.
    is_absent : bool
        Whether the server answered, but has no such file.
    """

    def __init__(self, reason: str, *, is_absent: bool = False) -> None:
        super().__init__(reason)
        self.is_absent = is_absent


def fetch_hub_file(repository: str, name: str, *, cache: Path | None = None) -> Path:
    """Fetch a file of the Hugging Face hub that no local cache holds.

    Parameters
    ----------
    repository : str
        ORG/NAME.
    name : str
        Name of the file in it.
    cache : Path or None
        Cache to put it into; by default that of the hub's client.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FetchError
        It cannot be fetched from here, or is not there.
    """
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
