"""Read checkpoints in the format of the Brain-Semantoks authors."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ConfigurationError, ModelError
from bids_semantoks.models.encoder import compute_kernel_norm, compute_temporal_positions
from bids_semantoks.models.parcels import NetworkLayout, default_layout
from bids_semantoks.models.weight_files import WeightFile, find_part, list_names, read_weights
from bids_semantoks.records import CANONICAL_NETWORKS

DEFAULT_PATCH = 20
_LIVE_ATLAS = "schaefer400"

#: Rounding error of numbers up to 1 in bfloat16; a file may once have been stored in it, whatever its type is now.
_ROUNDING = 4e-3
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

    def __init__(self, tensors: Mapping[str, Tensor], path: Path, prefix: str) -> None:
        super().__init__(tensors)
        self.path, self.prefix = path, prefix

    def __missing__(self, key: str) -> Tensor:
        raise ModelError(f"{self.path} lacks {self.prefix}{key}, which every checkpoint of the authors has.")

    def below(self, prefix: str) -> _State:
        part = {key.removeprefix(prefix): value for key, value in self.items() if key.startswith(prefix)}
        return _State(part, self.path, f"{self.prefix}{prefix}")


def load_authors_checkpoint(path: Path, *, which: str = "teacher", file: WeightFile | None = None) -> AuthorsCheckpoint:
    """Read the teacher or student of an authors' checkpoint, from `file` if it was read, executing nothing in it. The
    file stores each tokenizer once per atlas; only the first copy is used. Raises ModelError if the file is damaged,
    holds code, lacks tensors or has networks we cannot label."""
    file = file or read_weights(path)
    found = find_part(file, "network_tokenizers.", r"mlp\.0\.weight", which=which)
    if found is None:
        raise ModelError(f"{path} contains no {which}_encoder; found {list_names(file)}.")
    part = _State(found.encoder, path, found.prefix)
    atlases = [key.split(".")[1] for key in part if key.startswith("network_tokenizers.")]
    # The first of the authors' files; other programs sort the names.
    atlas = _LIVE_ATLAS if _LIVE_ATLAS in atlases else atlases[0]
    tokenizers = part.below(f"network_tokenizers.{atlas}.")
    predictor = _State(found.head, path, found.head_prefix).below("mlp.")
    n_networks = _count(tokenizers)
    layout = _derive_layout([tokenizers[f"{n}.branches.0.weight"].shape[1] for n in range(n_networks)], path)
    config = _derive_config(part, tokenizers, predictor, _stated_patch(file.values), path)
    pairs = dict(_pair_names(atlas, n_networks, config.depth))
    names = {ours: f"{found.prefix}{theirs}" for ours, theirs in pairs.items()}
    encoder = {ours: part[theirs] for ours, theirs in pairs.items()}
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
            names[f"layers.{i}.{kind}"] = f"{predictor.prefix}{2 * i}.{kind}"
    epoch = file.values.get("epoch")
    return AuthorsCheckpoint(
        config=config,
        layout=layout,
        encoder=encoder,
        head=head,
        names=names,
        epoch=int(epoch) if isinstance(epoch, numbers.Integral) else None,
    )


def _derive_layout(counts: list[int], path: Path) -> NetworkLayout:
    """Derive the networks from the number of parcels that each tokenizer reads."""
    if counts == list(default_layout().counts):
        return default_layout()
    if len(counts) != len(CANONICAL_NETWORKS):
        raise ModelError(
            f"{path} has {len(counts)} networks of {', '.join(map(str, counts[:20]))} parcels; labels are available "
            f"only for the {len(CANONICAL_NETWORKS)} networks {', '.join(CANONICAL_NETWORKS)}."
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
        raise ModelError(f"{path} has structured kernels with several decays or none; expected 2 throughout.")
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
        raise ModelError(f"{path} has inconsistent tensor shapes: {error}") from error
    ours = torch.from_numpy(compute_temporal_positions(config.n_patches, width))
    if positions.shape != ours.shape or not torch.allclose(positions, ours, atol=_ROUNDING):
        raise ModelError(f"{path} has temporal positions that differ from the published model.")
    return config


def _stated_patch(content: Mapping[str, Any]) -> int:
    """Read the patch length from the stored configuration: no tensor reveals it."""
    stated: Any = content.get("config")
    for key in ("data", "patch_size"):
        stated = stated.get(key) if isinstance(stated, dict) else None
    return int(stated) if isinstance(stated, numbers.Integral) and int(stated) > 0 else DEFAULT_PATCH


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
