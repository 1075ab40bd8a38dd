"""Encode the same windows with several sets of networks masked, tokenizing them once.

Legend: V sets of masked rows, B windows, N networks (rows of tokens), K patches in a window, D embedding dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.models.encode import FrozenEncoder, find_real_patches
from bids_semantoks.records import Windows


class MaskingEncoder(FrozenEncoder):
    """A frozen encoder whose networks can be masked; shares the weights of `frozen`."""

    def __init__(self, frozen: FrozenEncoder) -> None:
        super().__init__(
            frozen.loaded,
            frozen.match,
            device=frozen.device,
            precision=frozen.precision,
            batch_size=frozen.batch_size,
            pooling=frozen.pooling,
        )

    @property
    def networks(self) -> dict[str, NDArray[np.bool_]]:
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

    def encode_variants(self, windows: Windows, hidden: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Encode the windows of one run once per set of masked rows: hidden (V, N) -> (V, B, D).

        Rows without a signal are masked in every set. Raises as `FrozenEncoder.encode` does.
        """
        present, mask = self._find_masks(windows, find_real_patches(windows.n_real, self.loaded.config))
        step = max(1, self.batch_size // len(hidden))
        parts = []
        for start in range(0, len(mask), step):
            batch = slice(start, start + step)
            masks = mask[None, batch] | hidden[:, None, :, None]  # (V, b, N, K)
            output = self._encode_batch(windows.values[batch], present, masks.reshape(-1, *mask.shape[1:]))
            parts.append(self._pool(output).reshape(*masks.shape[:2], -1))
        return np.concatenate(parts, axis=1)
