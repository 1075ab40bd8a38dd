"""Reads encoders from wherever they come, and writes ours: config.json beside model.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
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
from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.build import ENCODER_NAMES, build_encoder, build_head, read_encoder_config
from bids_semantoks.models.heads import ProjectionHead
from bids_semantoks.models.hub import AUTHORS_FILE, AUTHORS_REPOSITORY, OUR_FILES, is_repository, load_from_hub
from bids_semantoks.models.layout import (
    NetworkLayout,
    build_layout,
    default_layout,
    layout_from_json,
    layout_to_json,
)
from bids_semantoks.models.transformer import Encoder

FORMAT = "bids_semantoks encoder 1"
_RANDOM = re.compile(r"random:(\w+)(?::(\d+))?")
_N_NAMED = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedEncoder:
    """An encoder and where it comes from.

    Parameters
    ----------
    encoder : Encoder
        On the CPU, in evaluation mode.
    config : EncoderConfig
        Its architecture.
    layout : NetworkLayout
        Its parcels and networks.
    name : str
        Label in output names, letters and digits only.
    sha256 : str
        Checksum of the file with the weights; of the recipe when they are random.
    provenance : str
        One sentence on where the weights come from.
    is_random : bool
        Whether the weights were never trained.
    head : ProjectionHead or None
        Projection head, when there is one.
    details : mapping
        What the checkpoint's writer noted: data, participants, limits.
    """

    encoder: Encoder
    config: EncoderConfig
    layout: NetworkLayout
    name: str
    sha256: str
    provenance: str
    is_random: bool = False
    head: ProjectionHead | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def load_encoder(
    name_or_path: str | Path, *, layout_of_atlas: tuple[Sequence[str], Sequence[str]] | None = None
) -> LoadedEncoder:
    """Load an encoder by name or path.

    Parameters
    ----------
    name_or_path : str or Path
        A directory or file of ours, a checkpoint of the authors, ``random:paper|small|tiny[:SEED]``,
        or ORG/NAME of the Hugging Face hub.
    layout_of_atlas : tuple of (parcels, networks), optional
        Parcel names and network labels that a random encoder is laid out for; by default the published layout.

    Returns
    -------
    LoadedEncoder
        The encoder, ready to be matched to an atlas.

    Raises
    ------
    ModelError
        When it is not found, damaged, or no encoder.
    """
    text = str(name_or_path)
    if text.startswith("random"):
        return _build_random(text, layout_of_atlas)
    path = Path(text).expanduser()
    if path.exists():
        return _load_path(path)
    if is_repository(text):
        file = load_from_hub(text)
        name = "BrainSemantoks" if text == AUTHORS_REPOSITORY else _label(text.split("/")[1])
        return _load_ours(file, name) if file.name == OUR_FILES[1] else _load_authors(file, name)
    raise ModelError(
        f"no encoder {text!r}: there is no such file or directory.",
        hint=f"Known besides paths: ORG/NAME of the Hugging Face hub, such as {AUTHORS_REPOSITORY}, and "
        f"{', '.join(f'random:{name}' for name in ENCODER_NAMES)}.",
    )


def write_checkpoint(
    directory: Path,
    encoder: Encoder,
    *,
    head: ProjectionHead | None = None,
    details: Mapping[str, Any] | None = None,
) -> str:
    """Write an encoder, each file under a temporary name first.

    Parameters
    ----------
    directory : Path
        Made when it is not there.
    encoder : Encoder
        The encoder to write.
    head : ProjectionHead, optional
        Its projection head.
    details : mapping, optional
        JSON values to keep: data, hashed participants, limits.

    Returns
    -------
    str
        SHA-256 of the file with the weights.

    Raises
    ------
    ResourceError
        When the directory cannot be written.
    """
    # The weights' file repeats what decides an embedding, so that its checksum stands for all of it.
    essence = {"encoder": to_json(encoder.config), "layout": layout_to_json(encoder.layout)}
    modules = {"encoder": encoder} if head is None else {"encoder": encoder, "head": head}
    tensors = {
        f"{part}.{key}": value.detach().cpu().contiguous()
        for part, module in modules.items()
        for key, value in module.state_dict().items()
    }
    weights = save(tensors, metadata={"format": FORMAT, **{key: _canonical(value) for key, value in essence.items()}})
    config = {"format": FORMAT, **essence, "details": dict(details or {})}
    text = json.dumps(config, indent=2, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in zip(OUR_FILES, (text.encode(), weights), strict=True):
            _write_atomically(directory / name, content)
    except OSError as error:
        raise ResourceError(f"the encoder cannot be written to {directory}: {error}.") from error
    return hashlib.sha256(weights).hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _build_random(text: str, layout_of_atlas: tuple[Sequence[str], Sequence[str]] | None) -> LoadedEncoder:
    found = _RANDOM.fullmatch(text)
    if found is None or found[1] not in ENCODER_NAMES:
        raise ModelError(f"no encoder {text!r}: expected random:{'|'.join(ENCODER_NAMES)}, with :SEED if wanted.")
    size, seed = found[1], int(found[2] or 0)
    config = read_encoder_config(size)
    layout = default_layout() if layout_of_atlas is None else build_layout(*layout_of_atlas)
    recipe = {"encoder": to_json(config), "layout": layout_to_json(layout), "seed": seed, "recipe": FORMAT}
    return LoadedEncoder(
        encoder=build_encoder(config, layout, seed).eval(),
        config=config,
        layout=layout,
        name=f"Random{size.capitalize()}" + (f"Seed{seed}" if seed else ""),
        sha256=hashlib.sha256(_canonical(recipe).encode()).hexdigest(),
        provenance=f"Random weights ({size}, seed {seed}), never trained: for trying things out, not for results.",
        is_random=True,
        head=build_head(config, seed).eval(),
    )


def _load_path(path: Path) -> LoadedEncoder:
    if path.is_dir():
        if (path / AUTHORS_FILE).exists():
            return _load_authors(path / AUTHORS_FILE, "BrainSemantoks")
        if not any((path / name).exists() for name in OUR_FILES):
            raise ModelError(f"{path} holds no encoder: expected {' and '.join(OUR_FILES)}, or {AUTHORS_FILE}.")
        return _load_ours(path / OUR_FILES[1], _label(path.resolve().name))
    if path.name in OUR_FILES:
        return _load_ours(path.with_name(OUR_FILES[1]), _label(path.resolve().parent.name))
    return _load_authors(path, "BrainSemantoks" if path.name == AUTHORS_FILE else _label(path.stem))


def _load_authors(path: Path, name: str) -> LoadedEncoder:
    content = load_authors_checkpoint(path)
    encoder = Encoder(content.config, content.layout)
    head = ProjectionHead(content.config) if content.head else None
    _assign(encoder, content.encoder, path, content.names)
    if head is not None:
        _assign(head, content.head, path, content.names)
    epoch = f", epoch {content.epoch}" if content.epoch is not None else ""
    return LoadedEncoder(
        encoder=encoder.eval(),
        config=content.config,
        layout=content.layout,
        name=name,
        sha256=_hash_file(path),
        provenance=f"Teacher encoder of {path.name}, a checkpoint of the Brain-Semantoks authors{epoch}.",
        head=None if head is None else head.eval(),
    )


def _load_ours(path: Path, name: str) -> LoadedEncoder:
    config_path = path.with_name(OUR_FILES[0])
    for file in (config_path, path):
        if not file.is_file():
            raise ModelError(f"{path.parent} holds no complete encoder: {file.name} is missing.")
    config, layout, details = _read_config(config_path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or truncated: {error}.", hint="Copy or download it again.") from error
    for key, value in (("encoder", to_json(config)), ("layout", layout_to_json(layout))):
        if metadata.get(key) != _canonical(value):
            raise ModelError(
                f"{config_path} does not belong to {path.name}: the weights were written with another {key}.",
                hint="Copy both files again; neither may be edited.",
            )
    encoder = Encoder(config, layout)
    _assign(encoder, _below(tensors, "encoder."), path)
    head_state = _below(tensors, "head.")
    head = ProjectionHead(config) if head_state else None
    if head is not None:
        _assign(head, head_state, path)
    return LoadedEncoder(
        encoder=encoder.eval(),
        config=config,
        layout=layout,
        name=name,
        sha256=_hash_file(path),
        provenance=f"Encoder trained with bids_semantoks, read from {path.parent.name}.",
        head=None if head is None else head.eval(),
        details=details,
    )


def _read_config(path: Path) -> tuple[EncoderConfig, NetworkLayout, Mapping[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
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


def _assign(module: nn.Module, state: Mapping[str, Tensor], path: Path, names: Mapping[str, str] | None = None) -> None:
    """Give a module its tensors after checking that all are there, of the right shape and finite."""
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


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _canonical(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Encoder"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
