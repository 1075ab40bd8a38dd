"""Architecture of an encoder and recipe of its pretraining."""

from __future__ import annotations

from dataclasses import dataclass

from bids_semantoks.config.options import check, check_least


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
        check_least(self, 1, "window", "patch", "width", "depth", "head_width", "mlp_ratio", "dense_kernel")
        check_least(self, 1, "structured_taps", "structured_scales", "head_hidden", "head_out", "head_layers")
        check(
            self.window >= self.patch and self.window % self.patch == 0,
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
                f"{name} {value!r} has no effect with spatial 'parcel', whose tokens come from one linear layer.",
                f"Remove {name}.",
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


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Recipe of pretraining by self-distillation. Defaults are the published recipe."""

    epochs: int = 100  # passes over the participants
    # participants per step over all ranks and accumulated parts; None: 512, or fewer with little data
    batch_size: int | None = None
    augmentation: int = 1  # strength of the augmentation of views, 0 (none) to 3
    augmentation_levels: tuple[int, int, int, int] | None = None  # parcels, time, noise, scale; overrides augmentation
    # student masks: slice (network or temporal, fair coin per view), network, temporal, random or block
    mask: str = "slice"
    mask_ratio: tuple[float, float] = (0.65, 0.85)  # lowest and highest nominal share of masked tokens
    masked_batches: float = 0.5  # probability that a batch is masked
    cls_weight: float = 1.0  # loss on class tokens; 0 switches it off
    token_weight: float = 0.5  # loss on masked tokens; 0 switches it off
    ttr_weight: float = 0.5  # regulariser on time-averaged network tokens, at the first step; 0 switches it off
    ttr_share: float = 0.05  # share of the epochs after which ttr_weight has fallen to 0
    coding_rate_weight: float = 1.0  # keeps projections from collapsing; 0 switches it off
    coding_rate_eps: float = 0.05  # distortion of the coding rate
    learning_rate: float = 7e-4  # peak at an effective batch of 256, scaled in proportion
    warmup_epochs: float = 3.0  # rise from 0, at most half of all epochs
    weight_decay: tuple[float, float] = (0.05, 0.3)  # at the first and at the last step
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    adam_eps: float = 1e-8  # of AdamW
    momentum: tuple[float, float] = (0.99, 1.0)  # of the teacher's moving average, at the first and at the last step
    clip: float = 1.0  # largest gradient norm

    def __post_init__(self) -> None:
        check_least(self, 1, "epochs", "batch_size")
        check_least(self, 0, "cls_weight", "token_weight", "ttr_weight", "coding_rate_weight", "warmup_epochs")
        check(
            all(0 <= level <= 3 for level in self.levels),
            f"augmentation levels must be between 0 and 3, found {', '.join(map(str, self.levels))}.",
        )
        masks = ("slice", "network", "temporal", "random", "block")
        check(self.mask in masks, f"mask must be one of {', '.join(masks)}, found {self.mask!r}.")
        low, high = self.mask_ratio
        check(0 < low <= high <= 1, f"mask_ratio needs 0 < LOW <= HIGH <= 1, found {low:g} {high:g}.")
        self._check_weights()
        self._check_optimiser()

    def _check_weights(self) -> None:
        for name in ("masked_batches", "ttr_share"):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} must be between 0 and 1, found {value:g}.")
        check(
            self.cls_weight > 0 or (self.ttr_weight > 0 and self.ttr_share > 0) or self.token_weight > 0,
            "nothing would be learnt: cls_weight, ttr_weight and token_weight are all 0.",
        )
        check(
            self.cls_weight > 0 or self.token_weight == 0 or self.masked_batches > 0,
            "the token loss needs masked batches, found masked_batches 0.",
        )
        check(self.coding_rate_eps > 0, f"coding_rate_eps must be above 0, found {self.coding_rate_eps:g}.")

    def _check_optimiser(self) -> None:
        for name in ("learning_rate", "adam_eps", "clip"):
            value = getattr(self, name)
            check(value > 0, f"{name} must be above 0, found {value:g}.")
        for name in ("weight_decay", "betas", "momentum"):
            pair = getattr(self, name)
            check(
                all(0 <= value <= 1 for value in pair),
                f"{name} must hold two numbers in 0..1, found {pair[0]:g} {pair[1]:g}.",
            )
        check(max(self.betas) < 1, f"betas must be below 1, found {self.betas[0]:g} {self.betas[1]:g}.")

    @property
    def levels(self) -> tuple[int, int, int, int]:
        """Augmentation levels of parcels, time, noise and scale."""
        return self.augmentation_levels or (self.augmentation,) * 4
