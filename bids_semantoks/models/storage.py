"""Read and write our checkpoints: config.json beside model.safetensors.

The weights file repeats architecture and layout: its checksum covers them, and an edited config.json is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bids_semantoks.config import EncoderConfig, from_json, to_json
from bids_semantoks.errors import ConfigurationError, ModelError, ResourceError
from bids_semantoks.models.heads import ProjectionHead
from bids_semantoks.models.layout import NetworkLayout, layout_from_json, layout_to_json
from bids_semantoks.models.transformer import Encoder

FORMAT = "bids_semantoks encoder 1"
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_N_NAMED = 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """Contents of one of our checkpoints."""

    encoder: Encoder  # on the CPU, in training mode
    head: ProjectionHead | None
    details: Mapping[str, Any]  # notes of the writer: data, participants, limits


def write_checkpoint(
    directory: Path,
    encoder: Encoder,
    *,
    head: ProjectionHead | None = None,
    details: Mapping[str, Any] | None = None,
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
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in ((WEIGHTS_FILE, weights), (CONFIG_FILE, text.encode())):
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
