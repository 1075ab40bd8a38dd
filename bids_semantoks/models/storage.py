"""Our own checkpoint: config.json beside model.safetensors, read and written.

The weights' file repeats what decides an embedding (architecture, parcels, networks), so that its checksum stands
for all of it and a config.json that was edited or mixed up is noticed.
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
    """What a checkpoint of ours holds.

    Parameters
    ----------
    encoder : Encoder
        On the CPU, in training mode.
    head : ProjectionHead or None
        Its projection head, when it was kept.
    details : mapping
        What the writer noted: data, participants, limits.
    """

    encoder: Encoder
    head: ProjectionHead | None
    details: Mapping[str, Any]


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
    """Read a checkpoint of ours.

    Parameters
    ----------
    directory : Path
        Directory of config.json and model.safetensors.

    Returns
    -------
    Checkpoint
        Encoder, head and details.

    Raises
    ------
    ModelError
        When a file is missing or damaged, or the two do not belong together.
    """
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
    """Give a module its tensors after checking that all are there, of the right shape and finite.

    Parameters
    ----------
    module : nn.Module
        An encoder or a head, without values.
    state : mapping of str to Tensor
        Its tensors; they are copied, in float32.
    path : Path
        Where they come from, for messages.
    names : mapping of str to str, optional
        The name that each tensor has in the file, where it is another.

    Raises
    ------
    ModelError
        When tensors are missing, unknown, of another shape or not finite; the first few are named.
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
    """Write plain values so that equal values give equal text.

    Parameters
    ----------
    values : Any
        JSON values.

    Returns
    -------
    str
        Sorted and without spaces.
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
