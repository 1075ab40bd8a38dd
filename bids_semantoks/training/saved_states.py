"""Checkpoints of a training: written whole or not at all; the last two are kept."""

from __future__ import annotations

import logging
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from bids_semantoks.disk import is_full
from bids_semantoks.errors import ConfigurationError, ResourceError
from bids_semantoks.files import open_atomic

LOGGER = logging.getLogger("bids_semantoks")
FORMAT: Final = "bids_semantoks training 1"
_KEPT: Final = 2

#: Errors that readers raise for files that are truncated, overwritten or not checkpoints.
_DAMAGES: Final = (
    *(OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingState:
    """Everything that determines how a training continues."""

    settings: Mapping[str, Any]  # encoder, recipe, data and seed as plain values; must be equal to resume
    step: int  # optimiser steps taken, which index the schedules
    n_batches: int  # batches drawn, which index data order and random numbers; exceeds `step` where steps were skipped
    tensors: Mapping[str, Any]  # state dictionaries of module (student and teacher), optimiser and scaler


_STATE: Final = tuple(TrainingState.__dataclass_fields__)


def write_state(directory: Path, state: TrainingState) -> Path:
    """Write a checkpoint atomically, then remove all but the last two; ResourceError if it cannot be written."""
    path = directory / f"step-{state.step:08d}.pt"
    content = {"format": FORMAT} | {name: getattr(state, name) for name in _STATE}
    try:
        with open_atomic(path, is_durable=True) as file:
            torch.save(content, file)
    except OSError as error:
        raise describe_full_disk(error, path) from error
    except RuntimeError as error:
        # torch's writer hides the error of the file.
        raise ResourceError(
            f"The checkpoint {path} cannot be written: {error}.", hint="Free disk space; repeat the call to resume."
        ) from error
    for old in find_states(directory)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def describe_full_disk(error: OSError, path: Path) -> ResourceError:
    """Build the ResourceError for a training file that cannot be written."""
    return ResourceError(
        f"{'No space left' if is_full(error) else 'Cannot write'}: {path}: {error.strerror or error}.",
        hint="Free disk space; repeat the call to resume from the last checkpoint.",
    )


def find_states(directory: Path) -> list[Path]:
    """List the checkpoints in a directory, oldest first."""
    return sorted(directory.glob("step-*.pt"))


def read_last_state(directory: Path, settings: Mapping[str, Any]) -> TrainingState | None:
    """Read the newest intact checkpoint, None without one; damaged and outdated files are skipped with a warning.

    Raises ConfigurationError, listing the differences, if it was trained with other settings.
    """
    for path in reversed(find_states(directory)):
        try:
            content = _load(path)
            state = TrainingState(**{name: content[name] for name in _STATE})
            is_ours = content["format"] == FORMAT
        except _DAMAGES as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            LOGGER.warning("Skipping the damaged checkpoint %s: %s.", path, reason.rstrip("."))
            continue
        if not is_ours:
            LOGGER.warning("Skipping the checkpoint %s, which has another format version.", path)
            continue
        if differences := find_differences(state.settings, settings):
            raise ConfigurationError(
                f"The checkpoint {path} has different settings: {'; '.join(differences)}.",
                hint="Use the original settings, another --encoder-name, or --overwrite to restart.",
            )
        return state
    return None


def _load(path: Path) -> dict[str, Any]:
    """Load a checkpoint after verifying its checksums, which torch itself ignores."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise ValueError(f"the checksum of {broken} does not match")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"it contains a {type(content).__name__}")
    return content


def find_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Describe each setting that differs between nested mappings of plain values; `prefix` is their path."""
    found = []
    for key in sorted(set(stored) | set(wanted)):
        there, now = stored.get(key), wanted.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            found += find_differences(there, now, f"{prefix}{key}.")
        elif there != now:
            found.append(f"{prefix}{key} (on disk {_brief(there)}, now {_brief(now)})")
    return found


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
