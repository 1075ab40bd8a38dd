"""Pretraining recipe."""

from __future__ import annotations

from dataclasses import dataclass

from bids_semantoks.config.fields import check


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
        check(self.epochs >= 1, f"epochs must be 1 or more, found {self.epochs}.")
        check(
            self.batch_size is None or self.batch_size >= 1, f"batch_size must be 1 or more, found {self.batch_size}."
        )
        check(
            all(0 <= level <= 3 for level in self.levels),
            f"augmentation levels must lie in 0..3, found {', '.join(map(str, self.levels))}.",
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
            check(0 <= value <= 1, f"{name} must lie in 0..1, found {value:g}.")
        for name in ("cls_weight", "token_weight", "ttr_weight", "coding_rate_weight"):
            value = getattr(self, name)
            check(value >= 0, f"{name} must be 0 or more, found {value:g}.")
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
        check(self.warmup_epochs >= 0, f"warmup_epochs must be 0 or more, found {self.warmup_epochs:g}.")
        for name in ("weight_decay", "betas", "momentum"):
            pair = getattr(self, name)
            check(
                all(0 <= value <= 1 for value in pair),
                f"{name} must hold two numbers in 0..1, found {pair[0]:g} {pair[1]:g}.",
            )
        check(max(self.betas) < 1, f"betas must lie below 1, found {self.betas[0]:g} {self.betas[1]:g}.")

    @property
    def levels(self) -> tuple[int, int, int, int]:
        """Augmentation levels of parcels, time, noise and scale."""
        return self.augmentation_levels or (self.augmentation,) * 4
