"""Encoders on the Hugging Face hub and in the caches of its client: ORG/NAME, or a folder of a cache, to files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from bids_semantoks.errors import ModelError, name_some
from bids_semantoks.models.weight_files import (
    AUTHORS_FILE,
    WEIGHTS_FILE,
    WEIGHTS_NAMES,
    WEIGHTS_SUFFIXES,
    check_content,
    choose_file,
)
from bids_semantoks.runtime.downloads import FetchError, fetch_hub_file, find_hub_caches, find_hub_file, find_snapshot

AUTHORS_REPOSITORY: Final = "SamGijsen/Brain-Semantoks"
CONFIG_FILE: Final = "config.json"
OUR_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE)
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES: Final = (*WEIGHTS_SUFFIXES, ".json")


def label_encoder(text: str) -> str:
    """Make the label of an encoder in output names: letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Encoder"


def name_repository(repository: str) -> str:
    """Name an encoder after its repository (ORG/NAME)."""
    name = repository.rpartition("/")[2]
    return "BrainSemantoks" if repository == AUTHORS_REPOSITORY else label_encoder(name)


def resolve_cache(directory: Path, name: str = "") -> tuple[Path, str]:
    """Find the snapshot of a folder of the hub client's cache, and the encoder's name; other folders stay as they are.

    Raises ModelError where it holds several or none.
    """
    path = directory.resolve()
    inside = [one for one in (path, *path.parents[:2]) if one.name.startswith("models--")]
    if inside:
        name = name or name_repository(inside[0].name.removeprefix("models--").replace("--", "/", 1))
    if path.parent.name == "snapshots":
        return directory, name
    repositories = [one for one in sorted((*path.glob("models--*"), *path.glob("hub/models--*"))) if one.is_dir()]
    if len(repositories) == 1:
        return resolve_cache(repositories[0], name)
    if repositories:
        known = name_some([one.name.removeprefix("models--").replace("--", "/", 1) for one in repositories])
        raise ModelError(
            f"{directory} is a cache of {len(repositories)} repositories: {known[:200]}.",
            hint="Give one of their folders, or its ORG/NAME, to --model.",
        )
    if not inside:
        return directory, name
    snapshot = find_snapshot(inside[0])
    if snapshot is None:
        found = [one.name for one in (inside[0] / "snapshots").glob("*/")]
        raise ModelError(
            f"{inside[0]} has {len(found)} snapshots and no refs/main that chooses one"
            f"{f': {name_some(found)[:200]}' if found else ''}.",
            hint="Give the folder of one snapshot to --model, or download the encoder again.",
        )
    return snapshot, name


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
    cached = _find_cached(repository)
    if cached is not None:
        return cached
    for names in layouts:
        try:
            return [fetch_hub_file(repository, name, cache=cache) for name in names][-1]
        except FetchError as error:
            if not error.is_absent:
                raise _unreachable(repository, error) from error
    raise ModelError(
        f"the repository {repository} holds no encoder: expected {' and '.join(OUR_FILES)}, or {AUTHORS_FILE}.",
        hint=f"Of files with other names, download the folder (hf download {repository} --local-dir DIR) and give DIR "
        "to --model.",
    )


def _find_cached(repository: str) -> Path | None:
    """Find a repository's weights under other names in the local caches; ModelError where a link there is broken."""
    for cache in find_hub_caches():
        folder = cache / f"models--{repository.replace('/', '--')}"
        if (snapshot := find_snapshot(folder)) is None:
            continue
        for path in sorted(snapshot.iterdir()):
            if path.name in (CONFIG_FILE, *WEIGHTS_NAMES):
                check_content(path)
        if any(path.name.endswith(WEIGHTS_SUFFIXES) for path in snapshot.iterdir()):
            return choose_file(snapshot)
    return None


def _unreachable(repository: str, error: FetchError) -> ModelError:
    return ModelError(
        f"the encoder {repository} is neither a path nor in a Hugging Face cache ({AUTHORS_FILE}), and {error}.",
        hint=error.hint
        or f"Fetch it beforehand on a machine with network, `bids_semantoks-fetch DIR --model {repository}`, and set "
        "BIDS_SEMANTOKS_CACHE_DIR here to the same directory; or give the path of the file to --model.",
    )
