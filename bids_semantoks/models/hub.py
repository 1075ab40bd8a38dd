"""Where the weights of an encoder are: in a folder, on the Hugging Face hub (ORG/NAME[/SUBFOLDER][@REVISION]), or in a
cache of its client."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bids_semantoks.bids_names import check_name
from bids_semantoks.errors import ModelError, name_some
from bids_semantoks.models.encoder import ENCODER_NAMES
from bids_semantoks.models.weight_files import AUTHORS_FILE, SHARD, WEIGHTS_FILE, WEIGHTS_SUFFIXES, check_content
from bids_semantoks.runtime.downloads import FetchError, fetch_hub_file, find_hub_caches, find_hub_file, find_snapshot

AUTHORS_REPOSITORY: Final = "SamGijsen/Brain-Semantoks"
#: Folders of that repository with the same encoder trained from other seeds.
AUTHORS_SEEDS: Final = ("second_random_seed", "third_random_seed")
CONFIG_FILE: Final = "config.json"
OUR_FILES: Final = (CONFIG_FILE, WEIGHTS_FILE)
_REPOSITORY: Final = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:/(?P<subfolder>[\w.-]+(?:/[\w.-]+)*))?"
    r"(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?"
)
_SEED: Final = re.compile(r"(?:(?P<word>[a-z]+)_)?(?:random_)?seed[_-]?(?P<number>\d*)", re.IGNORECASE)
_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_FILE_SUFFIXES: Final = (*WEIGHTS_SUFFIXES, ".json")

#: Names by which libraries save a whole model, in the order in which they are looked for.
WEIGHTS_NAMES: Final = (
    AUTHORS_FILE,
    *(WEIGHTS_FILE, f"{WEIGHTS_FILE}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("model.pt", "model.pth", "model.bin", "model.ckpt"),
)

#: Files that trainers write next to the weights.
_NO_WEIGHTS: Final = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states)\b.*|.*optim_states.*"
)


def label_encoder(text: str) -> str:
    """Make the label of an encoder in output names: letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Encoder"


def find_seed(folder: str) -> str:
    """Find the number of the seed that a folder is named after, such as 2 of ``second_random_seed``; empty for none."""
    found = _SEED.fullmatch(folder)
    word = (found["word"] or "").lower() if found else ""
    if found is None or bool(found["number"]) == (word in _ORDINALS):
        return ""
    return found["number"] or str(_ORDINALS.index(word) + 1)


def label_folder(folder: str) -> str:
    """Make the part of an encoder's label that tells its folder: ``second_random_seed`` becomes ``Seed2``."""
    plain, seed = label_encoder(folder), find_seed(folder)
    return f"Seed{seed}" if seed else plain[:1].upper() + plain[1:]


class HubName(NamedTuple):
    """An encoder on the hub."""

    repository: str  # ORG/NAME
    subfolder: str = ""
    revision: str = ""  # branch, tag or commit; empty for the main branch

    @property
    def label(self) -> str:
        """Label in output names: the repository's name, then that of its folder."""
        name = self.repository.rpartition("/")[2]
        first = "BrainSemantoks" if self.repository == AUTHORS_REPOSITORY else label_encoder(name)
        return first + "".join(map(label_folder, filter(None, self.subfolder.split("/"))))

    def place(self, name: str) -> str:
        """Return the path in the repository of a file of the encoder."""
        return f"{self.subfolder}/{name}" if self.subfolder else name

    def __str__(self) -> str:
        folder, revision = f"/{self.subfolder}" if self.subfolder else "", f"@{self.revision}" if self.revision else ""
        return self.repository + folder + revision


def _name_repository(folder: str) -> str:
    """Name the repository (ORG/NAME) of a folder of the client's cache."""
    return folder.removeprefix("models--").replace("--", "/", 1)


def parse_repository(text: str) -> HubName | None:
    """Read ORG/NAME[/SUBFOLDER][@REVISION]; None if the text has another form or looks like a file."""
    found = _REPOSITORY.fullmatch(text)
    if found is None or text.endswith(_FILE_SUFFIXES) or ".." in text or "--" in found["repository"]:
        return None
    if any(part.startswith(".") for part in (found["subfolder"] or "").split("/")):
        return None
    return HubName(found["repository"], found["subfolder"] or "", found["revision"] or "")


def find_origin(path: Path) -> HubName | None:
    """Find which encoder of the hub a file or folder in its client's cache is, pinned to the commit; None elsewhere."""
    parts = path.parts
    at = next((i for i, part in enumerate(parts[:-1]) if part.startswith("models--")), None)
    if at is None or parts[at + 1 : at + 2] != ("snapshots",) or len(parts) < at + 3:
        return None
    inside = parts[at + 3 :] if path.is_dir() else parts[at + 3 : -1]
    return HubName(_name_repository(parts[at]), "/".join(inside), parts[at + 2])


def resolve_cache(directory: Path, name: str = "") -> tuple[Path, str]:
    """Find the snapshot of a folder of the hub client's cache, and the encoder's name; other folders stay as they are.
    Raises ModelError if it holds several or none."""
    path = directory.resolve()
    if (origin := find_origin(path)) is not None:
        return directory, name or origin.label
    inside = [one for one in (path, *path.parents[:2]) if one.name.startswith("models--")]
    if inside:
        name = name or HubName(_name_repository(inside[0].name)).label
    repositories = [one for one in sorted((*path.glob("models--*"), *path.glob("hub/models--*"))) if one.is_dir()]
    if len(repositories) == 1:
        return resolve_cache(repositories[0], name)
    if repositories:
        known = name_some([_name_repository(one.name) for one in repositories])
        raise ModelError(
            f"{directory} is a cache with {len(repositories)} repositories: {known[:200]}.",
            hint="Pass one of their folders, or its ORG/NAME, to --model.",
        )
    if not inside:
        return directory, name
    snapshot = find_snapshot(inside[0])
    if snapshot is None:
        found = [one.name for one in (inside[0] / "snapshots").glob("*/")]
        raise ModelError(
            f"{inside[0]} has {len(found)} snapshots but no refs/main to choose one"
            f"{f': {name_some(found)[:200]}' if found else ''}.",
            hint="Pass the folder of one snapshot to --model, or download the encoder again.",
        )
    return snapshot, name


def load_from_hub(name: HubName, *, cache: Path | None = None) -> Path:
    """Find the weights file (ours or the authors') of an encoder, downloading it only if no local cache holds it.
    Downloads go to `cache`, by default the hub client's. Raises ModelError if they fail or hold no checkpoint."""
    layouts = ((AUTHORS_FILE,),) if name.repository == AUTHORS_REPOSITORY else (OUR_FILES, (AUTHORS_FILE,))
    for files in layouts:
        found = [find_hub_file(name.repository, name.place(one), revision=name.revision) for one in files]
        if all(found) and found[-1] is not None:
            return found[-1]
    cached = _find_cached(name)
    if cached is not None:
        return cached
    for files in layouts:
        try:
            wanted = [name.place(one) for one in files]
            return [fetch_hub_file(name.repository, one, revision=name.revision, cache=cache) for one in wanted][-1]
        except FetchError as error:
            if not error.is_absent:
                raise _unreachable(name, error) from error
    raise ModelError(
        f"The repository {name} contains no encoder: expected {' and '.join(OUR_FILES)}, or {AUTHORS_FILE}.",
        hint=f"If its files have other names, download the folder (hf download {name.repository} --local-dir DIR) and "
        "pass DIR to --model.",
    )


def _find_cached(name: HubName) -> Path | None:
    """Find an encoder's weights under other names in the local caches; ModelError if a link there is broken."""
    for cache in find_hub_caches():
        snapshot = find_snapshot(cache / f"models--{name.repository.replace('/', '--')}", name.revision)
        if snapshot is None or not (snapshot / name.subfolder).is_dir():
            continue
        folder = snapshot / name.subfolder
        for path in sorted(folder.iterdir()):
            if path.name in (CONFIG_FILE, *WEIGHTS_NAMES):
                check_content(path)
        if any(path.name.endswith(WEIGHTS_SUFFIXES) for path in folder.iterdir()):
            return choose_file(folder)
    return None


def _unreachable(name: HubName, error: FetchError) -> ModelError:
    return ModelError(
        f"The encoder {name} is neither a path nor in a Hugging Face cache ({AUTHORS_FILE}), and {error}.",
        hint=error.hint
        or f"Run `bids_semantoks-fetch DIR --model {name}` on a machine with network access and set "
        "BIDS_SEMANTOKS_CACHE_DIR to the same directory here; or pass the path of the file to --model.",
    )


def find_weights(text: str) -> tuple[Path, str]:
    """Find the weights file of an encoder by its path, or its name on the hub, and its label in output names. Raises
    ModelError if it is not found or incomplete."""
    try:
        path, name = Path(text).expanduser(), ""
    except RuntimeError as error:
        raise ModelError(f"Encoder {text!r} not found: unknown user.") from error
    check_name(path, ModelError, "The encoder")
    if path.is_symlink() and not path.exists():
        check_content(path)
    if not path.exists():
        if (asked := parse_repository(text)) is None:
            raise ModelError(
                f"Encoder {text!r} not found: no such file or directory.",
                hint="Besides paths: ORG/NAME[/SUBFOLDER][@REVISION] on the Hugging Face Hub, such as "
                f"{AUTHORS_REPOSITORY}, or {', '.join(f'random:{one}' for one in ENCODER_NAMES)}.",
            )
        path, name = load_from_hub(asked), asked.label
    if path.is_dir():
        path, name = resolve_cache(path, name)
        if (path / WEIGHTS_FILE).is_file() != (path / CONFIG_FILE).is_file() and not (path / AUTHORS_FILE).exists():
            _check_complete(path)
        return choose_file(path), name or label_encoder(path.resolve().name)
    if path.name == CONFIG_FILE:
        return choose_file(path.parent), name or label_encoder(path.resolve().parent.name)
    seed = find_seed(path.absolute().parent.name)
    usual = f"BrainSemantoks{f'Seed{seed}' if seed else ''}" if path.name == AUTHORS_FILE else ""
    # The folder names a model rather than its file where this is ours, a shard or an index of shards.
    is_part = path.name == WEIGHTS_FILE or path.name.endswith(".index.json") or SHARD.fullmatch(path.name)
    return path, name or usual or label_encoder(path.resolve().parent.name if is_part else path.stem)


def _check_complete(directory: Path) -> None:
    """Raise ModelError if a folder holds only one of our two files, and nothing else that could be read."""
    missing = next(name for name in OUR_FILES if not (directory / name).is_file())
    check_content(directory / missing)
    others = missing == WEIGHTS_FILE and any(one.name.endswith(WEIGHTS_SUFFIXES) for one in directory.iterdir())
    if not others and not (missing == WEIGHTS_FILE and (directory / f"{WEIGHTS_FILE}.index.json").exists()):
        raise ModelError(f"{directory} does not contain a complete encoder: {missing} is missing.")


def choose_file(directory: Path) -> Path:
    """Choose the weights file of a folder: by its usual names, else the only one. ModelError if there are none or
    several, or its link is broken."""
    for name in WEIGHTS_NAMES:
        if (directory / name).is_symlink() or (directory / name).is_file():
            check_content(directory / name)
            return directory / name
    found = _list_candidates(directory)
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(
            f"{directory} contains {len(found)} weights files: {_name(found)}.", hint="Pass one of them to --model."
        )
    if any(directory.glob("*.distcp")):
        raise ModelError(
            f"{directory} contains a distributed PyTorch checkpoint.",
            hint="Convert it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.",
        )
    raise ModelError(
        f"{directory} contains no encoder: expected config.json and {WEIGHTS_FILE}, or {AUTHORS_FILE}.",
        hint=_suggest(directory),
    )


def _list_candidates(directory: Path) -> list[Path]:
    """List weights files; of shards the first."""
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        is_hidden = path.name.startswith(".")
        if path.name.endswith(WEIGHTS_SUFFIXES) and not is_hidden and not _NO_WEIGHTS.fullmatch(path.name):
            shard = SHARD.fullmatch(path.name)
            found.setdefault(f"{shard[1]}{shard[3]}{shard[4]}" if shard else path.name, path)
    return list(found.values())


def _suggest(directory: Path) -> str:
    """Suggest what in a folder may have been intended."""
    if any((directory / "checkpoints").glob("step-*.pt")):
        return "Its training has not finished; repeat the call with --pretrain to resume it."
    below = [path for path in sorted(directory.glob("*/")) if not path.name.startswith(".")]
    encoders = [path for path in below if any((path / name).is_file() for name in WEIGHTS_NAMES)]
    return f"It has encoders in the folders {_name(encoders)}." if encoders else ""


def _name(paths: Sequence[Path]) -> str:
    return textwrap.shorten(name_some([path.name for path in paths]), 200, placeholder=" ...")
