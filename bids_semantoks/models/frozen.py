"""Encode windows with a frozen encoder: masks for missing data, batches, any device.

Legend: B windows, P parcels, N networks (rows of tokens), K patches in a window, W volumes in a window, D width.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_semantoks.config import EncoderConfig
from bids_semantoks.errors import ConfigurationError, ResourceError, RunFailed
from bids_semantoks.models.checkpoints import LoadedEncoder
from bids_semantoks.models.encoder import pool_tokens
from bids_semantoks.models.parcels import ParcelMatch, token_rows
from bids_semantoks.records import Bools, Embedding, Indices, Windows

PRECISIONS = {"auto": None, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
POOLINGS = ("cls_avg", "cls", "avg", "networks")


def resolve_device(name: str) -> torch.device:
    """Resolve ``auto`` (CUDA or CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; ConfigurationError if malformed,
    ResourceError if absent."""
    kind, _, number = name.partition(":")
    if name in ("auto", "cpu"):
        return torch.device("cuda" if name == "auto" and torch.cuda.is_available() else "cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ResourceError(
                "Device mps (Apple) was requested but is not available.", hint="Use --device auto or cpu."
            )
        return torch.device(name)
    if kind != "cuda" or (":" in name and not number.isdecimal()):
        raise ConfigurationError(f"--device must be auto, cpu, cuda, cuda:N or mps, found {name!r}.")
    n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or 0) >= n_devices:
        found = f"only {n_devices} CUDA devices are" if n_devices else "no CUDA device is"
        raise ResourceError(f"Device {name} was requested but {found} available.", hint="Use --device auto or cpu.")
    return torch.device(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means exhausted memory, for which libraries also raise only a general one."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "_ALLOC_FAILED"))


def find_real_patches(n_real: Indices, config: EncoderConfig) -> Bools:
    """Mark the patches (B, K) that hold a real volume, from the real volumes (B,) of windows padded at the end."""
    first_volumes = np.arange(config.n_patches) * config.patch
    return first_volumes < n_real[:, None]


def find_clip_patches(n_windows: int, config: EncoderConfig, *, last: bool) -> Bools:
    """Mark the one real patch (B, K) of windows that hold a short clip at their start or end."""
    real = np.zeros((n_windows, config.n_patches), dtype=np.bool_)
    real[:, -1 if last else 0] = True
    return real


class FrozenEncoder:
    """A loaded encoder, matched to an atlas, that turns windows into embeddings; moves `loaded` to the device.

    Precision ``auto`` and ``fp32`` mean float32 without TF32, ``bf16`` and ``fp16`` mixed precision. Pooling is
    ``cls_avg`` (mean of tokens, then class token), ``cls``, ``avg`` or ``networks`` (the mean token of each network,
    one after the other). Other settings raise ValueError.
    """

    def __init__(
        self,
        loaded: LoadedEncoder,
        match: ParcelMatch,
        *,
        device: torch.device | str = "auto",
        precision: str = "auto",
        batch_size: int = 32,
        pooling: str = "cls_avg",
    ) -> None:
        if precision not in PRECISIONS or pooling not in POOLINGS or batch_size < 1:
            raise ValueError(f"found precision {precision!r}, pooling {pooling!r} and batch size {batch_size}")
        if match.order.shape != (loaded.layout.n_parcels,):
            raise ValueError(f"the match has {match.order.size} parcels, the encoder {loaded.layout.n_parcels}")
        self.loaded = loaded
        self.match = match
        self.device = resolve_device(device) if isinstance(device, str) else device
        self.precision = precision
        self.batch_size = batch_size
        self.pooling = pooling
        self._encoder = loaded.encoder.to(self.device).eval()
        self._rows = token_rows(loaded.config, loaded.layout)
        self.readout_networks, self._groups = _group_rows(self._rows, loaded)

    def with_readout(self, pooling: str, name: str) -> FrozenEncoder:
        """Build the same encoder, sharing its weights, with another pooling and label."""
        other = copy.copy(self)
        other.loaded, other.pooling = replace(self.loaded, name=name), pooling
        return other

    @property
    def n_dims(self) -> int:
        """Length of an embedding."""
        n_parts = {"cls_avg": 2, "networks": len(self.readout_networks)}.get(self.pooling, 1)
        return self.loaded.config.width * n_parts

    def encode(self, windows: Windows, *, with_tokens: bool = False, real_patches: Bools | None = None) -> Embedding:
        """Encode the windows of one run, parcels in atlas order, into one float32 vector each on the CPU.
        `real_patches` (B, K) marks the non-empty patches, by default those with a real volume. ValueError if windows do
        not fit or are not finite, RunFailed low_coverage (no encoded parcel has a signal) or out_of_memory."""
        readouts = (self.pooling,)
        return self.encode_readouts(windows, readouts, with_tokens=with_tokens, real_patches=real_patches)[self.pooling]

    def encode_readouts(
        self, windows: Windows, poolings: Sequence[str], *, with_tokens: bool = False, real_patches: Bools | None = None
    ) -> dict[str, Embedding]:
        """Encode the windows of one run once, and read them out by several poolings. Raises as `FrozenEncoder.encode`
        does."""
        if real_patches is None:
            real_patches = find_real_patches(windows.n_real, self.loaded.config)
        present, mask = self._find_masks(windows, real_patches)
        vectors: dict[str, list[NDArray[np.float32]]] = {pooling: [] for pooling in poolings}
        tokens = []
        for start in range(0, len(mask), self.batch_size):
            batch = slice(start, start + self.batch_size)
            output = self._encode_batch(windows.values[batch], present, mask[batch])  # (b, 1 + N*K, D)
            for pooling in poolings:
                vectors[pooling].append(self._pool(output, pooling))
            if with_tokens:
                tokens.append(output.cpu().numpy())
        layout = self.loaded.layout
        absent = [
            name
            for name, parcels in zip(layout.network_names, layout.indices, strict=True)
            if not present[list(parcels)].any()
        ]
        shared: dict[str, Any] = {
            "tokens": np.concatenate(tokens) if with_tokens else None,
            "masked_networks": tuple(absent),
            "n_masked_patches": (~real_patches).sum(axis=1),
        }
        return {pooling: Embedding(vectors=np.concatenate(parts), **shared) for pooling, parts in vectors.items()}

    @property
    def networks(self) -> dict[str, Bools]:
        """Token rows (N,) of each network present in the atlas, by name."""
        layout, order = self.loaded.layout, self.match.order
        network_of = {
            parcel: name
            for name, parcels in zip(layout.network_names, layout.indices, strict=True)
            for parcel in parcels
            if order[parcel] >= 0
        }
        named = [{network_of[parcel] for parcel in row if parcel in network_of} for row in self._rows]
        present = [name for name in layout.network_names if any(name in names for names in named)]
        return {name: np.array([name in names for names in named]) for name in present}

    def encode_variants(self, windows: Windows, hidden: Bools) -> NDArray[np.float32]:
        """Encode the windows of one run once per set of masked rows: hidden (V, N) -> (V, B, D). Rows without a signal
        are masked in every set. Raises as `FrozenEncoder.encode` does."""
        present, mask = self._find_masks(windows, find_real_patches(windows.n_real, self.loaded.config))
        step = max(1, self.batch_size // len(hidden))
        parts = []
        for start in range(0, len(mask), step):
            batch = slice(start, start + step)
            masks = mask[None, batch] | hidden[:, None, :, None]  # (V, b, N, K)
            output = self._encode_batch(windows.values[batch], present, masks.reshape(-1, *mask.shape[1:]))
            parts.append(self._pool(output, self.pooling).reshape(*masks.shape[:2], -1))
        return np.concatenate(parts, axis=1)

    def _find_masks(self, windows: Windows, real_patches: Bools) -> tuple[Bools, Bools]:
        """Find the parcels (P,) that have a signal and the tokens (B, N, K) to mask."""
        self._check(windows)
        present = (self.match.order >= 0) & windows.present[self.match.order]
        if not present.any():
            raise RunFailed("low_coverage", "No parcel used by the encoder has a signal in this run.")
        real_rows = np.array([present[list(row)].any() for row in self._rows])
        return present, ~(real_rows[:, None] & real_patches[:, None, :])

    def _check(self, windows: Windows) -> None:
        config = self.loaded.config
        n_windows, n_volumes, n_parcels = windows.values.shape
        if n_volumes != config.window or n_parcels != self.match.n_atlas_parcels or n_windows == 0:
            raise ValueError(
                f"windows must have shape (B, {config.window}, {self.match.n_atlas_parcels}), "
                f"found {windows.values.shape}"
            )
        if windows.n_real.min() < 1 or windows.n_real.max() > config.window:
            raise ValueError(
                f"real volumes must be between 1 and {config.window}, found "
                f"{windows.n_real.min()}..{windows.n_real.max()}"
            )
        if not np.isfinite(windows.values).all():
            raise ValueError("windows have non-finite values")

    def _encode_batch(self, values: NDArray[np.float32], present: Bools, mask: Bools) -> torch.Tensor:
        """Encode one batch to float32 tokens on the device; a mask for v*b windows repeats the b windows v times."""
        try:
            x = np.where(present, values[:, :, self.match.order], np.float32(0)).transpose(0, 2, 1)  # (b, P, W)
            with torch.inference_mode(), _exact_float32(), self._autocast():
                inputs = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.device)
                masked = torch.from_numpy(mask).to(self.device) if mask.any() else None
                made = self._encoder.tokenizer(inputs)
                if len(mask) > len(made):
                    made = made.repeat(len(mask) // len(made), 1, 1, 1)
                tokens: torch.Tensor = self._encoder.refine(made, masked).float()
                return tokens
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            smaller = len(mask) // 2
            raise RunFailed(
                "out_of_memory",
                f"{len(mask)} windows at a time do not fit in the memory of {self.device}.",
                hint=f"Use --batch-size {smaller}." if smaller else "Use a machine with more memory, or --device cpu.",
            ) from error

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        dtype = PRECISIONS[self.precision]
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    def _pool(self, tokens: torch.Tensor, pooling: str) -> NDArray[np.float32]:
        """Pool tokens to embeddings; masked tokens count in means, as in the published model."""
        with torch.inference_mode():
            pooled = self._pool_networks(tokens) if pooling == "networks" else pool_tokens(tokens, pooling)
            vectors: NDArray[np.float32] = pooled.cpu().numpy()
        return vectors

    def _pool_networks(self, tokens: torch.Tensor) -> torch.Tensor:
        """Average the tokens of each network: (B, 1 + N*K, D) -> (B, networks * D)."""
        rows = tokens[:, 1:].reshape(len(tokens), len(self._rows), -1, tokens.shape[-1]).mean(dim=2)  # (B, N, D)
        return torch.stack([rows[:, group].mean(dim=1) for group in self._groups], dim=1).flatten(1)


def _group_rows(rows: Sequence[Sequence[int]], loaded: LoadedEncoder) -> tuple[tuple[str, ...], list[list[int]]]:
    """Group rows of tokens by the network of their parcels, in the order of the layout: names and positions. One row of
    several networks stands for the whole brain."""
    layout = loaded.layout
    found: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        names = {layout.network_names[layout.networks[parcel]] for parcel in row}
        found.setdefault(names.pop() if len(names) == 1 else "whole brain", []).append(position)
    ordered = sorted(found, key=[*layout.network_names, "whole brain"].index)
    return tuple(ordered), [found[name] for name in ordered]


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """Keep float32 products exact: TF32 would make CPU and CUDA differ by more than 1e-4."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
