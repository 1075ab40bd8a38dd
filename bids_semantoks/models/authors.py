"""Read checkpoints in the format of the Brain-Semantoks authors."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ConfigurationError, ModelError
from bids_semantoks.models.encoder import compute_temporal_positions
from bids_semantoks.models.initialise import compute_kernel_norm
from bids_semantoks.models.parcels import NetworkLayout, default_layout
from bids_semantoks.records import CANONICAL_NETWORKS

DEFAULT_PATCH = 20
_AGAIN = "Copy or download the file again."
_TRANSFORMER = "inter_network_transformer."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AuthorsCheckpoint:
    """The parts of an authors' checkpoint that an encoder needs, under our tensor names."""

    config: EncoderConfig  # derived from the tensor shapes
    layout: NetworkLayout  # with parcel names where the counts are those of the default layout
    encoder: dict[str, Tensor]
    head: dict[str, Tensor]  # empty where the file has no projection head
    names: dict[str, str]  # our name of each tensor -> the authors' name, for messages
    epoch: int | None


class _State(dict[str, Tensor]):
    """Tensors by the authors' names; a missing one raises ModelError with its name."""

    path: Path

    def __missing__(self, key: str) -> Tensor:
        raise ModelError(f"{self.path} lacks {key}, which every checkpoint of the authors holds.")

    def below(self, prefix: str) -> _State:
        part = _State({key.removeprefix(prefix): value for key, value in self.items() if key.startswith(prefix)})
        part.path = self.path
        return part


def load_authors_checkpoint(path: Path, *, which: str = "teacher") -> AuthorsCheckpoint:
    """Read the teacher or student of an authors' ``.pth`` checkpoint without executing anything in it.

    The file stores each tokenizer once per atlas; only the first copy is used. Raises ModelError where the file is
    damaged, holds code, lacks tensors or has networks we cannot label.
    """
    content = load_tensors(path)
    state = _live_state(content, path)
    part = state.below(f"{which}_encoder.")
    if not part:
        found = sorted({key.split(".")[0] for key in state})[:8]
        raise ModelError(f"{path} holds no {which}_encoder, found {', '.join(found) or 'no tensors'}.")
    atlas = next((key.split(".")[1] for key in part if key.startswith("network_tokenizers.")), "")
    tokenizers = part.below(f"network_tokenizers.{atlas}.")
    predictor = state.below(f"{which}_predictor.mlp.")
    n_networks = _count(tokenizers)
    layout = _derive_layout([tokenizers[f"{n}.branches.0.weight"].shape[1] for n in range(n_networks)], path)
    config = _derive_config(part, tokenizers, predictor, _stated_patch(content), path)
    names = {ours: f"{which}_encoder.{theirs}" for ours, theirs in _pair_names(atlas, n_networks, config.depth)}
    encoder = {ours: state[theirs] for ours, theirs in names.items()}
    for ours in ("class_token", "mask_token"):
        encoder[ours] = encoder[ours].reshape(-1)
    for n in range(n_networks):
        key = f"tokenizer.networks.{n}.branches.structured."
        slconv = tokenizers.below(f"{n}.branches.1.slconv.")
        encoder[f"{key}kernels"] = torch.stack([slconv[f"kernel_list.{i}"] for i in range(config.structured_scales)])
        if not bool(slconv.get("kernel_norm_initialized", torch.tensor(True))):
            encoder[f"{key}kernel_norm"] = compute_kernel_norm(encoder[f"{key}kernels"], config.structured_decay)
    head = {}
    for i in range(config.head_layers if predictor else 0):
        for kind in ("weight", "bias"):
            head[f"layers.{i}.{kind}"] = predictor[f"{2 * i}.{kind}"]
            names[f"layers.{i}.{kind}"] = f"{which}_predictor.mlp.{2 * i}.{kind}"
    epoch = content.get("epoch")
    return AuthorsCheckpoint(
        config=config,
        layout=layout,
        encoder=encoder,
        head=head,
        names=names,
        epoch=epoch if isinstance(epoch, int) else None,
    )


def load_tensors(path: Path) -> dict[str, Any]:
    """Read a ``torch.save`` file of tensors and plain values; ModelError where it is damaged or could run code."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        is_zip = zipfile.is_zipfile(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if start.startswith(b"PK") and not is_zip:
        raise ModelError(f"{path} is truncated: it begins as a checkpoint but its end is missing.", hint=_AGAIN)
    if not is_zip and not start.startswith(b"\x80"):
        raise ModelError(f"{path} is no checkpoint: it {'is empty' if not start else f'begins with {start!r}'}.")
    try:
        # Mapped, so that the student, the dead copies and the optimizer are never read.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ModelError(
            f"{path} holds more than tensors and plain values{f' ({found[1]})' if found else ''}: such a file may run "
            "code when it is opened, so it was refused and nothing in it was executed."
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        detail = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"{path} is damaged or no checkpoint: {detail}.", hint=_AGAIN) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is no checkpoint: it holds a {type(content).__name__} instead of a dictionary.")
    return content


def _live_state(content: Mapping[str, Any], path: Path) -> _State:
    """Select the model's tensors and strip the prefixes that wrappers add to every name."""
    state = content.get("model_state_dict")
    if not isinstance(state, dict):
        raise ModelError(
            f"{path} is no checkpoint of the authors: it has no model_state_dict, found {', '.join(map(str, content))}."
        )
    tensors = _State({str(key): value for key, value in state.items() if isinstance(value, Tensor)})
    tensors.path = path
    for prefix in ("module.", "_orig_mod."):
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = tensors.below(prefix)
    return tensors


def _derive_layout(counts: list[int], path: Path) -> NetworkLayout:
    """Derive the networks from the number of parcels that each tokenizer reads."""
    if counts == list(default_layout().counts):
        return default_layout()
    if len(counts) != len(CANONICAL_NETWORKS):
        raise ModelError(
            f"{path} has {len(counts)} networks of {', '.join(map(str, counts))} parcels; the labels are known only "
            f"for the {len(CANONICAL_NETWORKS)} networks {', '.join(CANONICAL_NETWORKS)}."
        )
    return NetworkLayout(
        network_names=CANONICAL_NETWORKS, networks=tuple(int(n) for n in np.repeat(np.arange(len(counts)), counts))
    )


def _derive_config(part: _State, tokenizers: _State, predictor: _State, patch: int, path: Path) -> EncoderConfig:
    """Derive the architecture from the tensor shapes."""
    width = part["norm.weight"].shape[0]
    positions = part[f"{_TRANSFORMER}temporal_pos_embedding"]
    slconv = tokenizers.below("0.branches.1.slconv.")
    decay = torch.cat([value.reshape(-1) for key, value in tokenizers.items() if key.endswith("slconv.multiplier")])
    if decay.numel() == 0 or bool((decay != decay[0]).any()):
        raise ModelError(f"{path} has structured kernels of several decays, or of none; expected 2 in all.")
    n_head_layers = len({key.split(".")[0] for key in predictor})
    head: dict[str, Any] = {}
    if n_head_layers:
        last = predictor[f"{2 * (n_head_layers - 1)}.weight"].shape[0]
        hidden = predictor["0.weight"].shape[0] if n_head_layers > 1 else EncoderConfig().head_hidden
        head = {"head_layers": n_head_layers, "head_hidden": hidden, "head_out": last}
    try:
        config = EncoderConfig(
            patch=patch,
            window=patch * positions.shape[0],
            width=width,
            depth=_count(part.below(f"{_TRANSFORMER}transformer_blocks.")),
            mlp_ratio=part[f"{_TRANSFORMER}transformer_blocks.0.mlp.0.weight"].shape[0] // width,
            dense_kernel=tokenizers["0.branches.0.weight"].shape[2],
            structured_taps=slconv["kernel_list.0"].shape[-1],
            structured_scales=_count(slconv.below("kernel_list.")),
            structured_decay=float(decay[0]),
            **head,
        )
    except ConfigurationError as error:
        raise ModelError(f"{path} has tensors of an encoder that cannot be: {error}") from error
    ours = torch.from_numpy(compute_temporal_positions(config.n_patches, width))
    if positions.shape != ours.shape or not torch.allclose(positions, ours, atol=1e-4):
        raise ModelError(f"{path} has another table of temporal positions than the published model.")
    return config


def _stated_patch(content: Mapping[str, Any]) -> int:
    """Read the patch length from the stored configuration: no tensor reveals it."""
    stated: Any = content.get("config")
    for key in ("data", "patch_size"):
        stated = stated.get(key) if isinstance(stated, dict) else None
    return stated if isinstance(stated, int) and stated > 0 else DEFAULT_PATCH


def _pair_names(atlas: str, n_networks: int, depth: int) -> Iterator[tuple[str, str]]:
    """Pair our name with the authors' name for each tensor that is copied unchanged."""
    pairs = [
        ("branches.dense.convolution.", "branches.0.", ("weight", "bias")),
        ("branches.structured.projection.", "branches.1.projection.", ("weight", "bias")),
        ("norm.", "norm.", ("weight", "bias")),
    ]
    for n in range(n_networks):
        ours, theirs = f"tokenizer.networks.{n}.", f"network_tokenizers.{atlas}.{n}."
        yield f"{ours}branches.structured.skip", f"{theirs}branches.1.slconv.D"
        yield f"{ours}branches.structured.kernel_norm", f"{theirs}branches.1.slconv.kernel_norm"
        for our_part, their_part, kinds in pairs:
            yield from ((f"{ours}{our_part}{kind}", f"{theirs}{their_part}{kind}") for kind in kinds)
    for i in range(depth):
        ours, theirs = f"blocks.{i}.", f"{_TRANSFORMER}transformer_blocks.{i}."
        yield f"{ours}attention.qkv.weight", f"{theirs}attn.qkv.weight"
        yield f"{ours}attention_scale", f"{theirs}ls1.gamma"
        yield f"{ours}mlp_scale", f"{theirs}ls2.gamma"
        for our_part, their_part in (
            ("attention_norm", "norm1"),
            ("attention.projection", "attn.proj"),
            ("mlp_norm", "norm2"),
            ("mlp.0", "mlp.0"),
            ("mlp.2", "mlp.3"),
        ):
            yield from ((f"{ours}{our_part}.{kind}", f"{theirs}{their_part}.{kind}") for kind in ("weight", "bias"))
    yield "class_token", f"{_TRANSFORMER}cls_token"
    yield "mask_token", f"{_TRANSFORMER}mask_embedding"
    yield "network_positions", f"{_TRANSFORMER}network_learnable_pos_embedding.weight"
    yield from ((f"norm.{kind}", f"norm.{kind}") for kind in ("weight", "bias"))


def _count(state: Mapping[str, Tensor]) -> int:
    """Count the entries of a list from the numbers that the names begin with."""
    numbers = [int(number) for key in state if (number := key.split(".")[0]).isdecimal()]
    return max(numbers, default=-1) + 1
