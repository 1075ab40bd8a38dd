"""Read tensors from torch.save and safetensors files, shards, folders and hub caches.

Nothing in a file is ever executed. Other files are identified: a pointer, a web page, an archive, a truncated file.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import shlex
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bids_semantoks.errors import ModelError, name_some
from bids_semantoks.files import hash_file, hash_text, parse_json, read_json

WEIGHTS_FILE: Final = "model.safetensors"
AUTHORS_FILE: Final = "brainsemantoks_ckpt_epoch_100.pth"
WEIGHTS_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")

#: Shards of a model: its name, their number, how many there are, the ending.
SHARD: Final = re.compile(r"(.*-)(\d{5})-of-(\d{5})(\.\w+)")

#: Parts of names that wrappers of modules add: parallel, compiled and averaged ones.
_WRAPPERS: Final = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_COUNTERS: Final = {"n_averaged"}

_ROLES: Final = {"teacher": r"teacher|target|(?<![a-z])ema(?![a-z])|averaged", "student": r"student|online"}
_FLOATS: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_AGAIN: Final = "Copy or download it again."
_SAVE_TENSORS: Final = "Save only the tensors where it was created: torch.save(model.state_dict(), FILE)."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightFile:
    """Contents of a weights file, or of all its shards."""

    path: Path
    states: Mapping[str, Mapping[str, Tensor]]  # by the keys that lead to them, wrappers taken off all names
    values: Mapping[str, Any]  # the dictionary of torch.save, whole; empty for safetensors
    notes: Mapping[str, Any] = field(default_factory=dict)  # what our own files repeat: encoder and layout
    sha256: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Encoder and head among the tensors of a file, float32, by their names inside."""

    prefix: str  # of the encoder's names in the file
    encoder: Mapping[str, Tensor]
    head_prefix: str = ""
    head: Mapping[str, Tensor] = field(default_factory=dict)  # empty where there is none


def read_weights(path: Path) -> WeightFile:
    """Read a weights file of any kind, with all shards if it is one of them or their index. Raises ModelError if it is
    missing, damaged, something else, or could run code."""
    paths = _find_shards(path)
    values: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for one in paths:
        found, notes = _read_file(one)
        values |= found
    states: dict[str, dict[str, Tensor]] = {}
    for name, tensors in _walk(values):
        _merge(states.setdefault(name, {}), tensors, path)
    hashes = [hash_file(one) for one in paths]
    return WeightFile(
        path=path,
        states=states,
        values=values,
        notes=notes,
        sha256=hashes[0] if len(hashes) == 1 else hash_text("".join(hashes)),
    )


def _find_shards(path: Path) -> list[Path]:
    """List the files that hold a model: itself, or the shards that an index or a numbered name belongs to."""
    if path.name.endswith(".index.json"):
        try:
            names = sorted(set(read_json(path)["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            check_content(path)
            raise ModelError(f"{path} is not an index of shards: it has no weight_map.", hint=_AGAIN) from error
    elif (match := SHARD.fullmatch(path.name)) and int(match[3]) > 0:
        names = [f"{match[1]}{i:05}-of-{match[3]}{match[4]}" for i in range(1, int(match[3]) + 1)]
    else:
        return [path]
    # Only names: an index must not lead out of its folder.
    paths = [path.parent / Path(str(name)).name for name in names]
    missing = [one.name for one in paths if not one.is_file()]
    if missing or not paths:
        raise ModelError(
            f"{path} needs {len(paths)} files, of which {len(missing)} are missing: {name_some(missing)}.",
            hint="Copy or download all of them into one folder.",
        )
    return paths


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    start = _read_start(path)
    is_safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 10**8
    if not is_safetensors:
        return load_tensors(path), {}
    try:
        with safe_open(path, framework="pt") as content:
            notes = parse_json((content.metadata() or {}).get("bids_semantoks", "{}"))
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
            return tensors, notes if isinstance(notes, dict) else {}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is damaged or truncated: {_brief(error)}.", hint=_AGAIN) from error


def _read_start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        check_content(path)
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a ``torch.save`` file of tensors and plain values; ModelError if it is damaged or could run code."""
    start, is_zip = _read_start(path), zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not is_zip:
        raise ModelError(f"{path} is a truncated checkpoint.", hint=_AGAIN)
    if not is_zip and not start.startswith(b"\x80"):
        check_content(path)
        raise ModelError(f"{path} is not a checkpoint: it begins with {start[:4]!r}.", hint=_AGAIN)
    if is_zip:
        _check_archive(path)
    try:
        # Mapped, so that the student, the dead copies and the optimizer are never read.
        with torch.serialization.safe_globals(_list_harmless()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S{1,60})", str(error))
        raise ModelError(
            f"{path} contains objects other than tensors and plain values{f' ({found[1]})' if found else ''}: loading "
            "it may run code, so it was refused and nothing in it was executed.",
            hint=_SAVE_TENSORS,
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        if "TorchScript" in str(error):
            raise ModelError(f"{path} is a TorchScript program, which contains code.", hint=_SAVE_TENSORS) from error
        raise ModelError(f"{path} is damaged or not a checkpoint: {_brief(error)}.", hint=_AGAIN) from error
    if isinstance(content, Tensor) or not isinstance(content, dict):
        raise ModelError(f"{path} is not a checkpoint: it contains a {type(content).__name__}; expected a dictionary.")
    return {str(key): value for key, value in content.items()}


def _check_archive(path: Path) -> None:
    """Raise ModelError if an archive is not a checkpoint of PyTorch, or for a record whose CRC does not match, which
    PyTorch never compares; those saved without one have 0."""
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(one.endswith("data.pkl") for one in archive.namelist()):
                raise ModelError(f"{path} is an archive without a PyTorch checkpoint.", hint="Unpack it first.")
            for record in archive.infolist():
                # PyTorch compresses nothing: what is may be endless, and is left to it to refuse.
                if record.CRC and record.compress_type == zipfile.ZIP_STORED:
                    name = record.filename
                    with archive.open(record) as content:
                        while content.read(1 << 20):
                            pass
    except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        if name:  # otherwise PyTorch reports the problem
            message = f"{path} is damaged: the checksum of its part {name[:150]} does not match."
            raise ModelError(message, hint=_AGAIN) from error


def _list_harmless() -> list[Any]:
    """List what besides tensors and plain values may be built: NumPy's numbers and arrays, options and paths. None of
    them runs code that a file brings along. NumPy 2 moved two of them."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    moved = [
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((scalar, "scalar"), (array, "_reconstruct"))
    ]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefdSU"}
    paths = [
        (getattr(pathlib, f"Pure{kind}"), f"pathlib{module}.{pure}{kind}")
        for module in ("", "._local")
        for kind in ("PosixPath", "WindowsPath")
        for pure in ("", "Pure")
    ]
    return [*moved, np.ndarray, np.dtype, *kinds, *paths, argparse.Namespace]


def check_content(path: Path) -> None:
    """Raise ModelError if a file is recognisably something else than weights or a description of them."""
    fetch = f"Run `datalad get {shlex.quote(path.name)}` in its folder."
    if path.is_symlink() and not path.exists():
        hint = fetch if ".git/annex" in str(path.readlink()) else "Download or copy it again (cp -rL)."
        raise ModelError(f"{path} is a broken link.", hint=hint)
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return
    text = start.decode("utf-8", errors="replace").strip()
    size = re.search(r"^size (\d+)$", text, re.MULTILINE)
    if text.startswith("version https://git-lfs"):
        of = f" of {int(size[1]):,} bytes" if size else ""
        hint = "Run `git lfs pull` in its folder, or download the file itself."
        raise ModelError(f"{path} is a Git LFS pointer to a file{of}.", hint=hint)
    if text.startswith("/annex/objects/") or ".git/annex/objects/" in text:
        raise ModelError(f"{path} is a git-annex pointer; the content has not been fetched.", hint=fetch)
    if re.match(r"<(!doctype|html|head|\?xml|!--)", text, re.IGNORECASE):
        hint = "Log in, or bypass the portal, and download the file again."
        raise ModelError(f"{path} is a web page (login or error), not a weights file.", hint=hint)
    if not start:
        raise ModelError(f"{path} is empty.", hint=_AGAIN)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise ModelError(f"{path} is compressed.", hint="Unpack it first.")
    if not path.name.endswith(".json") and "\ufffd" not in text and text.isprintable():
        raise ModelError(f"{path} is text, not a checkpoint: {text[:80]!r}.", hint=_AGAIN)


def _walk(values: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield each dictionary of tensors, however deep, with the keys that lead to it."""
    tensors = {str(key): value for key, value in values.items() if isinstance(value, Tensor)}
    if tensors:
        yield name, tensors
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{name}.{key}".lstrip("."))


def _merge(state: dict[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Add tensors without the wrappers in their names; ModelError if two differ but in their wrappers."""
    for key, value in tensors.items():
        parts = key.split(".")
        if parts[-1] in _COUNTERS:
            continue
        bare = ".".join(part for part in parts if part not in _WRAPPERS)
        before = state.setdefault(bare, value)
        if before is not value:
            check_dense(path, bare, before, value)
        if before is not value and not (before.shape == value.shape and torch.equal(before, value)):
            raise ModelError(
                f"{path} contains {bare} twice, with different values, under names such as {key[:150]}.",
                hint="Save only one of the models.",
            )


#: A tensor that repeats a few numbers may have as many as this, 256 MiB of float32.
_MOST_REPEATED = 1 << 26


def check_dense(path: Path, key: str, *values: Tensor) -> None:
    """Refuse tensors without values (meta), sparse ones, and large ones of a few repeated numbers: ModelError."""
    for value in values:
        found = "without its values" if value.is_meta else "as a sparse tensor" if value.layout != torch.strided else ""
        n_stored = 0 if found else value.untyped_storage().nbytes() // value.element_size()
        if not found and value.numel() > max(n_stored, _MOST_REPEATED):
            found = f"as {n_stored} numbers, but it has shape {tuple(value.shape)}"
        if found:
            message = f"{path} stores {key[:150]} {found}, which cannot be read."
            raise ModelError(message, hint="Save dense tensors from the CPU, each with all of its values.")


def find_part(file: WeightFile, mark: str, head: str, *, which: str = "teacher") -> Part | None:
    """Find the encoder with a tensor whose name begins with `mark`, and its head, whose first tensor matches `head`.
    Where there are several, `which` (teacher, student) chooses. None where there is none of this role; ModelError if
    there are several."""
    found = {
        (name, key[: f".{key}".index(f".{mark}")])
        for name, tensors in file.states.items()
        for key in tensors
        if f".{mark}" in f".{key}"
    }
    roles = {place: _find_role(".".join(place)) for place in found}
    wanted = [place for place in found if roles[place] == which] or [place for place in found if not roles[place]]
    if len(wanted) > 1:
        listed = ", ".join(sorted(".".join(place).strip(".") or "at the top" for place in wanted)[:4])
        raise ModelError(f"{file.path} contains {len(wanted)} encoders: {listed[:200]}.", hint="Save only one of them.")
    if not wanted:
        return None
    (place,) = wanted
    name, prefix = place
    state = file.states[name]
    heads = {
        match[1]
        for key in state
        if (match := re.fullmatch(rf"((?:.*\.)?(?:teacher_|student_)?(?:predictor|head)\.){head}", key))
        and _find_role(f"{name}.{match[1]}") == roles[place]
    }
    head_prefix = heads.pop() if len(heads) == 1 else ""
    outside = {key: value for key, value in state.items() if not head_prefix or not key.startswith(head_prefix)}
    return Part(
        prefix=prefix,
        encoder=_take(file.path, outside, prefix),
        head_prefix=head_prefix,
        head=_take(file.path, state, head_prefix) if head_prefix else {},
    )


def _find_role(text: str) -> str:
    return next((role for role, words in _ROLES.items() if re.search(words, text, re.IGNORECASE)), "")


def _take(path: Path, state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Take the tensors below a prefix, as float32; flags and counters stay what they are."""
    taken = {}
    for key, value in state.items():
        if key.startswith(prefix):
            check_dense(path, key, value)
            is_plain = value.dtype in (torch.bool, torch.int32, torch.int64)
            if value.dtype not in _FLOATS and not is_plain:
                kind = str(value.dtype).removeprefix("torch.")
                raise ModelError(
                    f"{path} stores {key[:150]} as {kind}, which cannot be read.",
                    hint="Save the encoder in float32, float16, bfloat16 or float64.",
                )
            taken[key.removeprefix(prefix)] = value if is_plain else value.to(torch.float32)
    return taken


def list_names(file: WeightFile) -> str:
    """List the beginnings of the names in a file, for messages."""
    found = {
        key.split(".")[0] if len(file.states) == 1 else f"{name}.{key}".lstrip(".").split(".")[0]
        for name, tensors in file.states.items()
        for key in tensors
    }
    keys = f" (keys {name_some([str(key)[:40] for key in file.values])})" if file.values else ""
    return textwrap.shorten(name_some(sorted(found)), 200, placeholder=" ...") if found else f"no tensors{keys}"


def _brief(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[0], 150, placeholder=" ...").rstrip(".")
