"""Load encoders from any source: our directories, the authors' files, the hub, or a seed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bids_semantoks.config import EncoderConfig, to_json
from bids_semantoks.errors import ModelError
from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.build import ENCODER_NAMES, build_encoder, build_head, read_encoder_config
from bids_semantoks.models.heads import ProjectionHead
from bids_semantoks.models.hub import AUTHORS_FILE, AUTHORS_REPOSITORY, is_repository, load_from_hub
from bids_semantoks.models.layout import NetworkLayout, build_layout, default_layout, layout_to_json
from bids_semantoks.models.storage import (
    CONFIG_FILE,
    FORMAT,
    WEIGHTS_FILE,
    assign_tensors,
    canonical_json,
    read_checkpoint,
)
from bids_semantoks.models.transformer import Encoder

_RANDOM = re.compile(r"random:(\w+)(?::(\d+))?")


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
        sha256=hashlib.sha256(canonical_json(recipe).encode()).hexdigest(),
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
        sha256=_hash_file(directory / WEIGHTS_FILE),
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
        sha256=_hash_file(path),
        description=f"Teacher encoder of {path.name}, a checkpoint of the Brain-Semantoks authors{epoch}.",
        head=None if head is None else head.eval(),
    )


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text) or "Encoder"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
