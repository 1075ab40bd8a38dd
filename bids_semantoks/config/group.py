"""Configuration of the group level: pretraining, with the architecture and the recipe of an encoder, and probing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.config.options import check, check_effect, check_least, list_changed, option, spell_flag
from bids_semantoks.errors import list_twice


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingConfig:
    """Pretrain an encoder on the signals (group level)."""

    pretrain: bool = option(False)
    encoder_config: str = option("paper", metavar="NAME_OR_FILE")
    encoder_name: str | None = option(None, metavar="NAME")
    training_config: Path | None = option(None, metavar="FILE")
    epochs: int | None = option(None, metavar="N")
    train_batch_size: int | None = option(None, metavar="N")
    accumulate: int = option(1, metavar="N")
    learning_rate: float | None = option(None, metavar="RATE")
    max_hours: float | None = option(None, metavar="HOURS")
    checkpoint_every: int | None = option(None, metavar="EPOCHS")
    pretrain_data: Path | None = option(None, metavar="FILE.h5")

    def __post_init__(self) -> None:
        check_least(self, 1, "epochs", "train_batch_size", "accumulate", "checkpoint_every")
        for name in ("learning_rate", "max_hours"):
            value = getattr(self, name)
            check(value is None or value > 0, f"{spell_flag(name)} must be above 0, found {value}.")
        check(
            self.encoder_name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.encoder_name) is not None,
            f"--encoder-name may only contain letters, digits, dots and hyphens, found {self.encoder_name!r}.",
        )


_BASELINES: Final = (
    *("pearson", "ledoit_wolf", "tangent", "parcel_moments", "motion", "site", "covariates", "random", "chance"),
)
#: Options that mean something without --probe, beside another.
_WITHOUT_PROBE: Final = {
    "audit": ("audit", "n_repeats", "n_permutations", "group_by", "phenotype", "id_column"),
    "task_blocks": ("task_blocks", "n_repeats", "baselines"),  # blocks need no phenotype, and follow these
    "apply_predictor": ("apply_predictor", "recalibrate", "phenotype", "id_column"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbingConfig:
    """Predict phenotypes from embeddings (group level)."""

    probe: tuple[str, ...] = option((), metavar="COLUMN...")
    probe_part: int | None = option(None, metavar="K")
    phenotype: Path | None = option(None, metavar="FILE")
    id_column: str | None = option(None, metavar="NAME")
    protocol: str = option("nested", choices=("nested", "paper", "brainmarks"))
    probe_kind: str = option("auto", choices=("auto", "classification", "regression"))
    n_bins: int = option(0, metavar="N")
    n_repeats: int = option(10, metavar="N")
    splits: Path | None = option(None, metavar="FILE")
    same_splits: bool = option(False)
    group_by: str | None = option(None, metavar="COLUMN")
    leave_out: str | None = option(None, metavar="COLUMN")
    covariate: tuple[str, ...] = option((), metavar="COLUMN...")
    harmonize: str | None = option(None, metavar="COLUMN")
    harmonize_method: str = option("combat", choices=("combat", "mean_scale"))
    harmonize_keep: tuple[str, ...] = option((), metavar="COLUMN...")
    strata: tuple[str, ...] = option((), metavar="COLUMN...")
    n_permutations: int = option(200, metavar="N")
    baselines: tuple[str, ...] = option(_BASELINES, metavar="NAME...")
    replicates: tuple[str, ...] = option((), metavar="NAME_OR_PATH...")
    network_importance: bool = option(False)
    finetune: bool = option(False)
    finetune_epochs: int = option(50, metavar="N")
    task_blocks: str | None = option(None, metavar="COLUMN")
    save_predictor: str | None = option(None, metavar="NAME [MODEL]", rest="save_predictor_model")
    save_predictor_model: tuple[str, ...] = ()
    apply_predictor: str | None = option(None, metavar="NAME_OR_PATH")
    recalibrate: str | None = option(None, metavar="COLUMN")
    audit: bool = option(False)
    scaling: tuple[float, ...] = option((), metavar="SHARE...")
    scaling_seeds: int = option(3, metavar="N")

    def __post_init__(self) -> None:
        check_least(self, 1, "n_repeats", "finetune_epochs", "scaling_seeds")
        check_least(self, 0, "n_permutations")
        self._check_splits()
        self._check_baselines()
        self._check_extras()
        self._check_harmonisation()
        self._check_predictors()
        self._check_phenotypes()

    @property
    def reads_signals(self) -> bool:
        """Whether probes read stored signals, and not only embeddings."""
        baselines = {"pearson", "ledoit_wolf", "tangent", "parcel_moments", "random"}.intersection(self.baselines)
        others = self.network_importance or self.finetune or self.task_blocks or self.scaling or self.replicates
        # A predictor may be one of connectivity.
        return bool(self.task_blocks or self.apply_predictor or (self.probe and (baselines or others)))

    @property
    def beside(self) -> list[str]:
        """Columns, or measures of runs, beside the phenotypes."""
        others = filter(None, (self.group_by, self.leave_out, self.harmonize))
        return [*self.covariate, *self.strata, *self.harmonize_keep, *others]

    def _check_phenotypes(self) -> None:
        check(len(set(self.probe)) == len(self.probe), f"--probe has duplicates: {', '.join(self.probe)}.")
        check(
            self.n_bins == 0 or self.n_bins >= 2, f"--n-bins must be 0 (no binning) or 2 or more, found {self.n_bins}."
        )
        check(
            not (self.n_bins and self.probe_kind == "classification"),
            f"--n-bins {self.n_bins} is for continuous phenotypes, but --probe-kind is classification.",
        )
        check(
            self.probe_part is None
            or (0 <= self.probe_part <= len(self.probe) and not (self.task_blocks or self.audit)),
            f"--probe-part must be between 0 and {len(self.probe)}, the number of phenotypes, found {self.probe_part}.",
            "Use --task-blocks and --audit only in the call that joins the parts.",
        )
        beside = [names for other, names in _WITHOUT_PROBE.items() if getattr(self, other) not in (None, False)]
        used = {name for names in beside for name in names}
        if self.task_blocks is not None:
            # Their p values come from participants, not permutations; families, kept together there as well, may be in
            # a separate table.
            used |= set() if self.n_permutations else {"n_permutations"}
            used |= set() if self.group_by is None else {"group_by", "phenotype", "id_column"}
        idle = [name for name in list_changed(self) if name not in used]
        check_effect(bool(self.probe) or not idle, ", ".join(map(spell_flag, idle)), "--probe", "Add --probe COLUMN.")

    def _check_splits(self) -> None:
        check(
            self.leave_out is None or (self.group_by is None and self.splits is None and self.protocol == "nested"),
            f"--leave-out {self.leave_out} makes its own splits.",
            "Remove --group-by, --splits and --protocol.",
        )
        check(
            not self.same_splits or (self.splits is None and self.leave_out is None),
            f"--same-splits has no effect with {'--splits' if self.splits else '--leave-out'}.",
            "Remove one of the options.",
        )

    def _check_baselines(self) -> None:
        unknown = sorted(set(self.baselines) - {*_BASELINES, "none"})
        check(
            not unknown,
            f"--baselines has unknown names: {', '.join(unknown)}.",
            f"Expected {', '.join(_BASELINES)} or none.",
        )
        check(
            "none" not in self.baselines or len(self.baselines) == 1,
            f"--baselines combines none with {', '.join(sorted(set(self.baselines) - {'none'}))}.",
            "Use none alone.",
        )
        is_used = bool(self.covariate) or set(self.baselines) == set(_BASELINES) or "covariates" not in self.baselines
        check_effect(is_used, "--baselines covariates", "--covariate", "Add --covariate COLUMN.")
        check(
            self.protocol == "nested" or not self.covariate,
            f"--covariate {' '.join(self.covariate)} is only supported by the nested protocol.",
            "Remove --protocol.",
        )

    def _check_harmonisation(self) -> None:
        idle = [f"--harmonize-keep {' '.join(self.harmonize_keep)}"] if self.harmonize_keep else []
        idle += ["--harmonize-method mean_scale"] if self.harmonize_method != "combat" else []
        if self.harmonize is None:
            check_effect(not idle, " and ".join(idle), "--harmonize", "Add --harmonize COLUMN.")
            return
        kept = [name for name in self.harmonize_keep if name in self.probe]
        check(
            not kept,
            f"--harmonize-keep {' '.join(kept)} would put the predicted phenotype into the features of test rows.",
            "Remove it, or probe it in a separate call.",
        )
        check(
            self.harmonize not in (*self.probe, *self.harmonize_keep),
            f"--harmonize {self.harmonize} would remove what "
            f"{'--probe' if self.harmonize in self.probe else '--harmonize-keep'} {self.harmonize} asks for.",
            "Choose another column.",
        )
        others = [f"--protocol {self.protocol}"] if self.protocol != "nested" else []
        others += [f"--{name}" for name in ("finetune", "scaling") if getattr(self, name)]
        check(
            not others,
            f"--harmonize {self.harmonize} cannot be combined with {' or '.join(others)}.",
            "Remove one of the options.",
        )

    def _check_extras(self) -> None:
        check_effect(
            self.finetune or self.finetune_epochs == 50, f"--finetune-epochs {self.finetune_epochs}", "--finetune"
        )
        check(
            not (self.finetune and self.covariate),
            f"--finetune cannot remove covariates ({', '.join(self.covariate)}), since it trains on signals.",
            "Remove --finetune or --covariate, or separate groups with --leave-out.",
        )
        twice = list_twice(self.replicates)
        check(not twice, f"--replicates has duplicates: {', '.join(twice)}.")
        check_effect(
            bool(self.scaling) or self.scaling_seeds == 3, f"--scaling-seeds {self.scaling_seeds}", "--scaling"
        )
        outside = [share for share in self.scaling if not 0 < share <= 1]
        check(not outside, f"--scaling shares must be above 0 and at most 1, found {', '.join(map(str, outside))}.")
        twice = list_twice(self.scaling)
        check(not twice, f"--scaling has duplicates: {', '.join(map(str, twice))}.")

    def _check_predictors(self) -> None:
        name, model = self.save_predictor, self.save_predictor_model
        check(
            name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None,
            f"--save-predictor names may only contain letters, digits, dots, hyphens and underscores, found {name!r}.",
        )
        check(len(model) <= 1, f"--save-predictor has {len(model)} models: {', '.join(model)}.", "Give one.")
        check(
            name is None or (self.protocol == "nested" and not (self.n_bins or self.replicates or self.harmonize)),
            "--save-predictor saves one linear model of the nested protocol, without bins or harmonisation.",
            "Remove --protocol, --n-bins, --replicates and --harmonize.",
        )
        is_used = self.recalibrate is None or self.apply_predictor is not None
        check_effect(is_used, f"--recalibrate {self.recalibrate}", "--apply-predictor")
        check(
            self.apply_predictor is None or not (self.probe or self.task_blocks or self.audit),
            "--apply-predictor cannot be combined with --probe, --task-blocks or --audit.",
            "Use separate calls.",
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
