"""Load encoders by path or name, and read and write our checkpoints: config.json next to model.safetensors.

The weights file repeats architecture and layout: its checksum covers them, and an edited config.json is detected.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bids_semantoks.config import EncoderConfig, from_json, to_json
from bids_semantoks.errors import ConfigurationError, ModelError, ResourceError
from bids_semantoks.files import hash_text, open_atomic, read_json, read_text
from bids_semantoks.models.authors import AuthorsCheckpoint, load_authors_checkpoint
from bids_semantoks.models.encoder import (
    ENCODER_NAMES,
    Encoder,
    ProjectionHead,
    build_encoder,
    build_head,
    read_encoder_config,
)
from bids_semantoks.models.hub import CONFIG_FILE, find_origin, find_weights
from bids_semantoks.models.parcels import NetworkLayout, choose_layout, default_layout, layout_from_json
from bids_semantoks.models.weight_files import (
    WEIGHTS_FILE,
    Part,
    WeightFile,
    check_content,
    check_dense,
    find_part,
    read_weights,
)

FORMAT = "bids_semantoks encoder 1"
_N_NAMED = 2
_RANDOM = re.compile(r"random:(\w+)(?::(\d+))?")
LOGGER = logging.getLogger("bids_semantoks")


def write_checkpoint(
    directory: Path, encoder: Encoder, *, head: ProjectionHead | None = None, details: Mapping[str, Any] | None = None
) -> str:
    """Write an encoder atomically into `directory`, creating it, and return the SHA-256 of the weights file. `details`
    takes JSON values (data, hashed participants, limits). Raises ResourceError if writing fails."""
    essence = _extract_essence(encoder.config, encoder.layout)
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


def _extract_essence(config: EncoderConfig, layout: NetworkLayout) -> dict[str, Any]:
    return {"encoder": to_json(config), "layout": to_json(layout)}


def _parse(values: Mapping[str, Any], path: Path) -> tuple[EncoderConfig, NetworkLayout, Mapping[str, Any]]:
    try:
        config = from_json(EncoderConfig, values["encoder"], where=str(path))
        return config, layout_from_json(values["layout"]), values["details"]
    except (ConfigurationError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {_brief(error)}.") from error
    except KeyError as error:
        raise ModelError(f"{path} is damaged: it lacks {error}.") from error


def _brief(error: object) -> str:
    return textwrap.shorten(str(error), 250, placeholder=" ...").rstrip(".")


def assign_tensors(
    module: nn.Module, state: Mapping[str, Tensor], path: Path, names: Mapping[str, str] | None = None
) -> None:
    """Load float32 copies of tensors into an empty module; `names` (our tensor name -> the file's) serves messages.
    Raises ModelError if tensors are missing, unknown, misshapen or not finite."""
    for key, value in state.items():
        check_dense(path, key, value)
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    names = names or {}
    problems = [
        f"{names.get(key, key)} {'is missing' if key not in state else f'has shape {found} instead of {shape}'}"
        for key, shape in expected.items()
        if (found := tuple(state[key].shape) if key in state else None) != shape
    ]
    problems += [f"{key} is unknown" for key in state if key not in expected]
    problems += [
        f"{names.get(key, key)} holds {str(value.dtype).removeprefix('torch.')}"
        for key, value in state.items()
        if key in expected and not value.is_floating_point()
    ]
    # Only once all shapes fit, as this goes through all values.
    problems = problems or [
        f"{names.get(key, key)} has non-finite values"
        for key, value in state.items()
        if not bool(value.isfinite().all())
    ]
    if problems:
        rest = f" and {len(problems) - _N_NAMED} more" if len(problems) > _N_NAMED else ""
        listed = "; ".join(problem[:150] for problem in problems[:_N_NAMED])
        raise ModelError(f"{path} does not match this encoder: {listed}{rest}.")
    module.load_state_dict({key: value.to(torch.float32, copy=True) for key, value in state.items()}, assign=True)


def canonical_json(values: Any) -> str:
    """Serialise JSON values so that equal values give equal text: keys sorted, no spaces."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


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
    origin: str = ""  # ORG/NAME[/SUBFOLDER]@COMMIT of weights from the hub


def load_encoder(
    name_or_path: str | Path, *, atlas: tuple[Sequence[str], Sequence[str]] | None = None, seed: int = 0
) -> LoadedEncoder:
    """Load an encoder: a path to our files or the authors', ``random:paper|small|tiny[:SEED]``, or
    ORG/NAME[/SUBFOLDER][@REVISION] on the hub.

    A random encoder is laid out for `atlas`, its parcel names and network labels, by `choose_layout` (default: the
    published layout), and `seed` applies where its name gives none. Raises ModelError if the encoder is not found,
    damaged or unreadable.
    """
    text = str(name_or_path)
    if text.partition(":")[0] == "random":
        return _build_random(text, atlas, seed)
    return _load_file(*find_weights(text))


def _build_random(text: str, atlas: tuple[Sequence[str], Sequence[str]] | None, seed: int) -> LoadedEncoder:
    found = _RANDOM.fullmatch(text)
    if found is None or found[1] not in ENCODER_NAMES:
        raise ModelError(f"Unknown encoder {text!r}: expected random:{'|'.join(ENCODER_NAMES)}[:SEED].")
    size, seed = found[1], seed if found[2] is None else int(found[2])
    config = read_encoder_config(size)
    layout = default_layout() if atlas is None else choose_layout(*atlas)
    recipe = {**_extract_essence(config, layout), "seed": seed, "recipe": FORMAT}
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


def _load_file(path: Path, name: str) -> LoadedEncoder:
    """Load an encoder of ours, described next to the file or in it, or one of the authors'."""
    file = read_weights(path)
    described, sha256 = _describe_ours(file), file.sha256
    part: AuthorsCheckpoint | Part | None
    names: Mapping[str, str] = {}
    details: Mapping[str, Any] = {}
    if described is None:
        part = content = load_authors_checkpoint(path, file=file)
        config, layout, names = content.config, content.layout, content.names
        epoch = f", epoch {content.epoch}" if content.epoch is not None else ""
        description = f"Teacher encoder of {path.name}, a checkpoint of the Brain-Semantoks authors{epoch}."
    else:
        _check_card(file)
        config, layout, details = described
        part = find_part(file, "class_token", r"layers\.0\.weight")
        description = f"Encoder trained with bids_semantoks, read from {path.parent.resolve().name}."
        # Our own files repeat what describes them; of others the checksum must cover it, too.
        if not file.notes:
            sha256 = hash_text(f"{file.sha256} {canonical_json(_extract_essence(config, layout))}")
    encoder, head = Encoder(config, layout), ProjectionHead(config) if part and part.head else None
    assign_tensors(encoder, part.encoder if part else {}, path, names)
    if part and head is not None:
        assign_tensors(head, part.head, path, names)
    # The commit says exactly which weights these were, whatever the branch holds by then.
    origin = find_origin(path.absolute())
    return LoadedEncoder(
        encoder=encoder.eval(),
        config=config,
        layout=layout,
        name=name,
        sha256=sha256,
        description=f"{description.rstrip('.')} ({origin})." if origin else description,
        head=None if head is None else head.eval(),
        details=details,
        origin=str(origin or ""),
    )


def _check_card(file: WeightFile) -> None:
    """Compare our weights with the checksum in the model card next to them, if there is one: ModelError."""
    card = file.path.parent / "README.md"
    try:
        found = re.search(r"`model\.safetensors`, SHA-256 `([0-9a-f]{64})`", read_text(card))
    except (OSError, ValueError):
        return
    if file.path.name == WEIGHTS_FILE and found and found[1] != file.sha256:
        raise ModelError(
            f"{file.path} has SHA-256 {file.sha256[:12]}, but {card.name} lists {found[1][:12]}: it is damaged, or "
            "the files of two encoders are mixed.",
            hint="Copy or download the folder again.",
        )


def _describe_ours(file: WeightFile) -> tuple[EncoderConfig, NetworkLayout, Mapping[str, Any]] | None:
    """Read architecture, layout and details of an encoder of ours; None for a file that is not ours."""
    path = file.path.parent / CONFIG_FILE
    if str(file.values.get("format")).startswith("bids_semantoks training"):
        raise ModelError(
            f"{file.path} is the saved state of an unfinished training run.",
            hint="Repeat the call with --pretrain to resume it and write the encoder.",
        )
    values: Any = None
    damage = None
    try:
        values = read_json(path) if path.is_file() else None
    except (OSError, ValueError) as error:
        check_content(path)
        damage = error
    is_ours = isinstance(values, dict) and values.get("format") == FORMAT
    if not file.notes:
        return _parse(values, path) if is_ours else None
    if not path.is_file() or (file.path.name != WEIGHTS_FILE and not is_ours):
        LOGGER.warning("%s has no %s next to it; its training data are unknown.", file.path, CONFIG_FILE)
        return _parse({"details": {}, **file.notes}, file.path)
    if damage:
        raise ModelError(f"{path} is damaged: {_brief(damage)}.") from damage
    if not is_ours:
        found = _brief(repr(values.get("format") if isinstance(values, dict) else values))
        raise ModelError(f"{path} is not an encoder configuration: expected format {FORMAT!r}, found {found}.")
    described = _parse(values, path)
    for key, value in _extract_essence(*described[:2]).items():
        if file.notes.get(key) != value:
            raise ModelError(
                f"{path} does not belong to {file.path.name}: the weights were written with another {key}.",
                hint="Copy both files again, unmodified.",
            )
    return described
