"""Configuration of the group level: pretraining and probing."""

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
        return bool(self.task_blocks or (self.probe and (baselines or others)))

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
