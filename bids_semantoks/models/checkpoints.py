"""Load encoders by path or name, and read and write our checkpoints: config.json beside model.safetensors.

The weights file repeats architecture and layout: its checksum covers them, and an edited config.json is noticed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bids_semantoks.config import EncoderConfig, from_json, to_json
from bids_semantoks.errors import ConfigurationError, ModelError, ResourceError
from bids_semantoks.files import hash_file, hash_text, open_atomic, read_json
from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.encoder import Encoder, ProjectionHead
from bids_semantoks.models.initialise import ENCODER_NAMES, build_encoder, build_head, read_encoder_config
from bids_semantoks.models.parcels import NetworkLayout, build_layout, default_layout, layout_from_json, layout_to_json
from bids_semantoks.runtime.downloads import FetchError, fetch_hub_file, find_hub_file

FORMAT = "bids_semantoks encoder 1"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_N_NAMED = 4
_RANDOM = re.compile(r"random:(\w+)(?::(\d+))?")
AUTHORS_REPOSITORY = "SamGijsen/Brain-Semantoks"
AUTHORS_FILE = "brainsemantoks_ckpt_epoch_100.pth"
OUR_FILES = (CONFIG_FILE, WEIGHTS_FILE)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".json", ".safetensors")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """Contents of one of our checkpoints."""

    encoder: Encoder  # on the CPU, in training mode
    head: ProjectionHead | None
    details: Mapping[str, Any]  # notes of the writer: data, participants, limits


def write_checkpoint(
    directory: Path, encoder: Encoder, *, head: ProjectionHead | None = None, details: Mapping[str, Any] | None = None
) -> str:
    """Write an encoder atomically into `directory`, creating it, and return the SHA-256 of the weights file.

    `details` takes JSON values (data, hashed participants, limits). Raises ResourceError where writing fails.
    """
    essence = {"encoder": to_json(encoder.config), "layout": layout_to_json(encoder.layout)}
    modules = {"encoder": encoder} if head is None else {"encoder": encoder, "head": head}
    tensors = {
        f"{part}.{key}": value.detach().cpu().contiguous()
        for part, module in modules.items()
        for key, value in module.state_dict().items()
    }
    # One entry only: the library writes several in random order, and the checksum with them.
    weights = save(tensors, metadata={"bids_semantoks": canonical_json(essence)})
    config = {"format": FORMAT, **essence, "details": dict(details or {})}
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    try:
        for name, content in ((WEIGHTS_FILE, weights), (CONFIG_FILE, text.encode())):
            with open_atomic(directory / name, is_durable=True) as file:
                file.write(content)
    except OSError as error:
        raise ResourceError(f"the encoder cannot be written to {directory}: {error}.") from error
    return hashlib.sha256(weights).hexdigest()


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read one of our checkpoints; ModelError where a file is missing or damaged, or the two do not belong together."""
    config_path, path = directory / CONFIG_FILE, directory / WEIGHTS_FILE
    for file in (config_path, path):
        if not file.is_file():
            raise ModelError(f"{directory} holds no complete encoder: {file.name} is missing.")
    config, layout, details = _read_config(config_path)
    try:
        with safe_open(path, framework="pt") as content:
            essence = json.loads((content.metadata() or {}).get("bids_semantoks", "{}"))
            tensors: dict[str, Tensor] = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or truncated: {error}.", hint="Copy or download it again.") from error
    for key, value in (("encoder", to_json(config)), ("layout", layout_to_json(layout))):
        if essence.get(key) != value:
            raise ModelError(
                f"{config_path} does not belong to {path.name}: the weights were written with another {key}.",
                hint="Copy both files again; neither may be edited.",
            )
    encoder = Encoder(config, layout)
    assign_tensors(encoder, _below(tensors, "encoder."), path)
    head_state = _below(tensors, "head.")
    head = ProjectionHead(config) if head_state else None
    if head is not None:
        assign_tensors(head, head_state, path)
    return Checkpoint(encoder=encoder, head=head, details=details)


def _read_config(path: Path) -> tuple[EncoderConfig, NetworkLayout, Mapping[str, Any]]:
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, dict) else values
        raise ModelError(f"{path} describes no encoder: expected format {FORMAT!r}, found {found!r}.")
    try:
        config = from_json(EncoderConfig, values["encoder"], where=str(path))
        return config, layout_from_json(values["layout"]), values["details"]
    except (ConfigurationError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}.") from error
    except KeyError as error:
        raise ModelError(f"{path} is damaged: it lacks {error}.") from error


def assign_tensors(
    module: nn.Module, state: Mapping[str, Tensor], path: Path, names: Mapping[str, str] | None = None
) -> None:
    """Load float32 copies of tensors into an empty module; `names` (our tensor name -> the file's) serves messages.

    Raises ModelError where tensors are missing, unknown, misshapen or not finite.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    names = names or {}
    problems = [
        f"{names.get(key, key)} {'is missing' if key not in state else f'has shape {found} instead of {shape}'}"
        for key, shape in expected.items()
        if (found := tuple(state[key].shape) if key in state else None) != shape
    ]
    problems += [f"{key} is unknown" for key in state if key not in expected]
    problems += [
        f"{names.get(key, key)} holds values that are not finite"
        for key, value in state.items()
        if key in expected and not bool(value.isfinite().all())
    ]
    if problems:
        rest = f" and {len(problems) - _N_NAMED} more" if len(problems) > _N_NAMED else ""
        raise ModelError(f"{path} does not hold this encoder: {'; '.join(problems[:_N_NAMED])}{rest}.")
    module.load_state_dict({key: value.to(torch.float32, copy=True) for key, value in state.items()}, assign=True)


def canonical_json(values: Any) -> str:
    """Serialise JSON values so that equal values give equal text: keys sorted, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedEncoder:
    """An encoder and its origin."""

    encoder: Encoder  # on the CPU, in evaluation mode
    config: EncoderConfig
    layout: NetworkLayout
    name: str  # label in output names, letters and digits only
    sha256: str  # of the weights file; of the recipe where weights are random
    description: str  # one sentence on the origin of the weights
    is_random: bool = False  # never trained
    head: ProjectionHead | None = None
    # notes of the checkpoint's writer: data, participants, limits
    details: Mapping[str, Any] = field(default_factory=dict)


def load_encoder(
    name_or_path: str | Path, *, atlas: tuple[Sequence[str], Sequence[str]] | None = None, seed: int = 0
) -> LoadedEncoder:
    """Load an encoder: a path to our files or the authors', ``random:paper|small|tiny[:SEED]``, or ORG/NAME on the hub.

    A random encoder is laid out for `atlas`, its parcel names and network labels (default: the published layout), and
    `seed` applies where its name gives none. Raises ModelError where the encoder is not found, damaged or unreadable.
    """
    text = str(name_or_path)
    if text.partition(":")[0] == "random":
        return _build_random(text, atlas, seed)
    path = Path(text).expanduser()
    if path.exists():
        return _load_path(path)
    if is_repository(text):
        file = load_from_hub(text)
        name = "BrainSemantoks" if text == AUTHORS_REPOSITORY else _label(text.split("/")[1])
        return _load_ours(file.parent, name) if file.name == WEIGHTS_FILE else _load_authors(file, name)
    raise ModelError(
        f"no encoder {text!r}: there is no such file or directory.",
        hint=f"Known besides paths: ORG/NAME of the Hugging Face hub, such as {AUTHORS_REPOSITORY}, and "
        f"{', '.join(f'random:{name}' for name in ENCODER_NAMES)}.",
    )


def _build_random(text: str, atlas: tuple[Sequence[str], Sequence[str]] | None, seed: int) -> LoadedEncoder:
    found = _RANDOM.fullmatch(text)
    if found is None or found[1] not in ENCODER_NAMES:
        raise ModelError(f"no encoder {text!r}: expected random:{'|'.join(ENCODER_NAMES)}, with :SEED if wanted.")
    size, seed = found[1], seed if found[2] is None else int(found[2])
    config = read_encoder_config(size)
    layout = default_layout() if atlas is None else build_layout(*atlas)
    recipe = {"encoder": to_json(config), "layout": layout_to_json(layout), "seed": seed, "recipe": FORMAT}
    return LoadedEncoder(
        encoder=build_encoder(config, layout, seed).eval(),
        config=config,
        layout=layout,
        name=f"Random{size.capitalize()}" + (f"Seed{seed}" if seed else ""),
        sha256=hash_text(canonical_json(recipe)),
        description=f"Random weights ({size}, seed {seed}), never trained: for trying things out, not for results.",
        is_random=True,
        head=build_head(config, seed).eval(),
    )


def _load_path(path: Path) -> LoadedEncoder:
    if path.is_dir():
        if (path / AUTHORS_FILE).exists():
            return _load_authors(path / AUTHORS_FILE, "BrainSemantoks")
        if not any((path / name).exists() for name in (CONFIG_FILE, WEIGHTS_FILE)):
            raise ModelError(f"{path} holds no encoder: expected {CONFIG_FILE} and {WEIGHTS_FILE}, or {AUTHORS_FILE}.")
        return _load_ours(path, _label(path.resolve().name))
    if path.name in (CONFIG_FILE, WEIGHTS_FILE):
        return _load_ours(path.parent, _label(path.resolve().parent.name))
    return _load_authors(path, "BrainSemantoks" if path.name == AUTHORS_FILE else _label(path.stem))


def _load_ours(directory: Path, name: str) -> LoadedEncoder:
    content = read_checkpoint(directory)
    return LoadedEncoder(
        encoder=content.encoder.eval(),
        config=content.encoder.config,
        layout=content.encoder.layout,
        name=name,
        sha256=hash_file(directory / WEIGHTS_FILE),
        description=f"Encoder trained with bids_semantoks, read from {directory.resolve().name}.",
        head=None if content.head is None else content.head.eval(),
        details=content.details,
    )


def _load_authors(path: Path, name: str) -> LoadedEncoder:
    content = load_authors_checkpoint(path)
    encoder = Encoder(content.config, content.layout)
    head = ProjectionHead(content.config) if content.head else None
    assign_tensors(encoder, content.encoder, path, content.names)
    if head is not None:
        assign_tensors(head, content.head, path, content.names)
    epoch = f", epoch {content.epoch}" if content.epoch is not None else ""
    return LoadedEncoder(
        encoder=encoder.eval(),
        config=content.config,
        layout=content.layout,
        name=name,
        sha256=hash_file(path),
        description=f"Teacher encoder of {path.name}, a checkpoint of the Brain-Semantoks authors{epoch}.",
        head=None if head is None else head.eval(),
    )


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Encoder"


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
