"""Find a checkpoint of the Hugging Face hub, in local caches first, then over the network."""

from __future__ import annotations

import re
from pathlib import Path

from bids_semantoks.errors import ModelError
from bids_semantoks.models.storage import CONFIG_FILE, WEIGHTS_FILE
from bids_semantoks.runtime.downloads import FetchError, fetch_hub_file, find_hub_file

AUTHORS_REPOSITORY = "SamGijsen/Brain-Semantoks"
AUTHORS_FILE = "brainsemantoks_ckpt_epoch_100.pth"
OUR_FILES = (CONFIG_FILE, WEIGHTS_FILE)

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".json", ".safetensors")


def is_repository(text: str) -> bool:
    """Tell whether a model name has the form ORG/NAME and does not look like a file."""
    is_file = text.endswith(_FILE_SUFFIXES)
    return bool(_REPOSITORY.fullmatch(text)) and not is_file and ".." not in text and "--" not in text


def load_from_hub(repository: str, *, cache: Path | None = None) -> Path:
    """Find a repository's weights file (ours or the authors'), downloading it only if no local cache holds it.

    Downloads go to `cache`, by default the hub client's. Raises ModelError where they fail or hold no checkpoint.
    """
    layouts = ((AUTHORS_FILE,),) if repository == AUTHORS_REPOSITORY else (OUR_FILES, (AUTHORS_FILE,))
    for names in layouts:
        found = [find_hub_file(repository, name) for name in names]
        if all(found) and found[-1] is not None:
            return found[-1]
    for names in layouts:
        try:
            return [fetch_hub_file(repository, name, cache=cache) for name in names][-1]
        except FetchError as error:
            if not error.is_absent:
                raise _unreachable(repository, str(error)) from error
    raise ModelError(
        f"the repository {repository} holds no encoder: expected {' and '.join(OUR_FILES)}, or {AUTHORS_FILE}."
    )


def _unreachable(repository: str, reason: str) -> ModelError:
    return ModelError(
        f"the encoder {repository} is neither a path nor in a Hugging Face cache ({AUTHORS_FILE}), and {reason}.",
        hint=f"Fetch it beforehand on a machine with network, `bids_semantoks-fetch DIR --model {repository}`, and set "
        "BIDS_SEMANTOKS_CACHE_DIR here to the same directory; or give the path of the file to --model.",
    )
