"""Architecture of an encoder."""

from __future__ import annotations

from dataclasses import dataclass

from bids_semantoks.config.fields import check

_COUNTS = (
    *("window", "patch", "width", "depth", "head_width", "mlp_ratio", "dense_kernel"),
    *("structured_taps", "structured_scales", "head_hidden", "head_out", "head_layers"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Architecture of an encoder, stored in its checkpoint. Defaults are the published model."""

    repetition_time: float = 2.0  # seconds between volumes of a window
    window: int = 100  # volumes in a window (W), a multiple of patch
    patch: int = 20  # volumes in a patch
    width: int = 768  # token width D, even and a multiple of head_width
    depth: int = 8  # transformer blocks
    head_width: int = 64  # width of one attention head
    mlp_ratio: int = 4  # hidden width of a block's MLP over D
    layer_scale: float = 0.1  # initial LayerScale
    # network (one tokenizer each), whole (one for all parcels), parcel (one shared linear projection)
    spatial: str = "network"
    dense: str = "full"  # dense branch: full, separable (depthwise then pointwise) or none
    dense_kernel: int = 3  # taps of the dense branch
    structured: str = "structured"  # depthwise branch: structured (multi-scale), free (plain taps, same length) or none
    structured_taps: int = 4  # taps per scale
    structured_scales: int = 3  # kernel length is taps * 2^(scales - 1)
    structured_decay: float = 2.0  # weight of a scale over the next longer one
    pooling: str = "mean"  # over the volumes of a patch: mean, max or attention
    head_hidden: int = 1024  # hidden width of the projection head
    head_out: int = 128  # output width of the projection head
    head_layers: int = 2  # linear layers of the projection head

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            check(value >= 1, f"{name} must be 1 or more, found {value}.")
        check(
            self.patch >= 1 and self.window >= self.patch and self.window % self.patch == 0,
            f"window must be a multiple of patch, found window {self.window} and patch {self.patch}.",
        )
        for name in ("repetition_time", "structured_decay"):
            value = getattr(self, name)
            check(value > 0, f"{name} must be positive, found {value}.")
        check(
            self.width % 2 == 0 and self.width % self.head_width == 0,
            f"width must be even and a multiple of head_width, found {self.width} and {self.head_width}.",
        )
        for name, value, allowed in (
            ("spatial", self.spatial, ("network", "whole", "parcel")),
            ("dense", self.dense, ("full", "separable", "none")),
            ("structured", self.structured, ("structured", "free", "none")),
            ("pooling", self.pooling, ("mean", "max", "attention")),
        ):
            check(value in allowed, f"{name} must be one of {', '.join(allowed)}, found {value!r}.")
        if self.spatial == "parcel":
            self._check_parcel()
        check(
            self.dense != "none" or self.structured != "none" or self.spatial == "parcel",
            "a tokenizer needs a dense or a structured branch, found neither.",
        )
        check(
            self.structured == "none" or self.spatial == "parcel" or self.patch >= self.kernel_length,
            f"patch must be at least the structured kernel's length {self.kernel_length}, found {self.patch}.",
        )

    def _check_parcel(self) -> None:
        """Refuse settings that the one linear layer shared by all parcels would ignore."""
        for name, value, allowed in (
            ("dense", self.dense, ("full", "none")),
            ("structured", self.structured, ("structured", "none")),
            ("pooling", self.pooling, ("mean",)),
        ):
            check(
                value in allowed,
                f"{name} {value!r} would do nothing with spatial 'parcel', whose tokens come from one linear layer.",
                f"Leave {name} away.",
            )

    @property
    def n_patches(self) -> int:
        """Patches in a window (K)."""
        return self.window // self.patch

    @property
    def n_heads(self) -> int:
        """Attention heads."""
        return self.width // self.head_width

    @property
    def kernel_length(self) -> int:
        """Taps of the whole structured kernel."""
        return int(self.structured_taps * 2 ** (self.structured_scales - 1))
