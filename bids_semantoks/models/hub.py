"""Finds a checkpoint of the Hugging Face hub: in the local cache first, then over the network."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from bids_semantoks.errors import ModelError
from bids_semantoks.models.storage import CONFIG_FILE, WEIGHTS_FILE

AUTHORS_REPOSITORY = "SamGijsen/Brain-Semantoks"
AUTHORS_FILE = "brainsemantoks_ckpt_epoch_100.pth"
OUR_FILES = (CONFIG_FILE, WEIGHTS_FILE)

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATIENCE = 5.0  # seconds
_FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".json", ".safetensors")


def is_repository(text: str) -> bool:
    """Tell whether a model name has the form ORG/NAME.

    Parameters
    ----------
    text : str
        What the user gave for the model.

    Returns
    -------
    bool
        False for everything that looks like a file.
    """
    is_file = text.endswith(_FILE_SUFFIXES)
    return bool(_REPOSITORY.fullmatch(text)) and not is_file and ".." not in text and "--" not in text


def load_from_hub(repository: str) -> Path:
    """Find the checkpoint file of a repository, downloading it only when the cache lacks it.

    Parameters
    ----------
    repository : str
        ORG/NAME.

    Returns
    -------
    Path
        The checkpoint file (ours: ``model.safetensors`` beside ``config.json``; or the authors' ``.pth``).

    Raises
    ------
    ModelError
        When it is not in the cache and cannot be downloaded, or the repository holds no checkpoint.
    """
    # Imported late: its constants read the environment, and nothing else needs it.
    from huggingface_hub import constants, hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import (  # noqa: PLC0415
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
    )

    # The bases are the errors of the HTTP library, which differs between versions, and OSError.
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__mro__[1:2], OSError, ValueError)
    layouts = ((AUTHORS_FILE,),) if repository == AUTHORS_REPOSITORY else (OUR_FILES, (AUTHORS_FILE,))
    for names in layouts:
        try:
            return [Path(hf_hub_download(repository, name, local_files_only=True)) for name in names][-1]
        except (LocalEntryNotFoundError, ValueError):
            continue
    if is_offline():
        raise _unreachable(repository, "HF_HUB_OFFLINE forbids to fetch it")
    if not can_connect(constants.ENDPOINT):
        raise _unreachable(repository, "the network cannot be reached")
    for names in layouts:
        try:
            return [Path(hf_hub_download(repository, name)) for name in names][-1]
        except LocalEntryNotFoundError as error:  # also an EntryNotFoundError, but means that no connection was made
            raise _unreachable(repository, "the network cannot be reached") from error
        except EntryNotFoundError:
            continue
        except failures as error:
            raise _unreachable(repository, f"it cannot be fetched ({_first_line(error)})") from error
    raise ModelError(
        f"the repository {repository} holds no encoder: expected {' and '.join(OUR_FILES)}, or {AUTHORS_FILE}."
    )


def is_offline() -> bool:
    """Tell whether the environment forbids downloads now, not when the library was imported.

    Returns
    -------
    bool
        True when HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set to a true value.
    """
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on") for name in names)


def can_connect(address: str) -> bool:
    """Tell whether a server answers, in seconds; the library would try for half a minute before giving up.

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
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=_PATIENCE).close()
    except OSError:
        return False
    return True


def _unreachable(repository: str, reason: str) -> ModelError:
    name = AUTHORS_FILE if repository == AUTHORS_REPOSITORY else ""
    return ModelError(
        f"the encoder {repository} is neither a path nor in the Hugging Face cache, and {reason}.",
        hint=f"Fetch it beforehand on a machine with network, `{f'hf download {repository} {name}'.rstrip()}`, and "
        "point HF_HOME here to the same cache; or give the path of the file to --model.",
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".") or type(error).__name__
