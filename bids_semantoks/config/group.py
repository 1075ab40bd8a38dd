"""Configuration of the group level: pretraining and probing."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_semantoks.config.options import check, option


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingConfig:
    """Pretrain an encoder on the signals (group level)."""

    pretrain: bool = option(False, "Pretrain an encoder on the stored signals, then embed with it.")
    encoder_config: str = option("paper", "Architecture: paper, small, tiny, or a JSON file.", metavar="NAME_OR_FILE")
    encoder_name: str | None = option(
        None, "Name of the encoder in OUT_DIR/encoders; by default that of the architecture.", metavar="NAME"
    )
    training_config: Path | None = option(
        None, "JSON file that overrides the recipe: masks, ratios, loss weights, augmentation.", metavar="FILE"
    )
    epochs: int | None = option(None, "Passes over the participants.  [default: the recipe's, 100]", metavar="N")
    train_batch_size: int | None = option(
        None,
        "Participants per step, over all GPUs.  [default: 512; with fewer data the largest power of "
        "two that leaves 8 steps per epoch]",
        metavar="N",
    )
    accumulate: int = option(
        1, "Number of parts for gradient accumulation, if a batch does not fit in memory.", metavar="N"
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate at batch size 256; scaled with the batch size.  [default: the recipe's, 0.0007]",
        metavar="RATE",
    )
    max_hours: float | None = option(
        None, "Save and stop after this many hours; repeat the call to resume.", metavar="HOURS"
    )
    checkpoint_every: int | None = option(
        None,
        "Epochs between checkpoints.  [default: at the end of an epoch, at least two minutes apart]",
        metavar="EPOCHS",
    )
    pretrain_data: Path | None = option(
        None, "Pretrain on this HDF5 file (one volume every 2 s) instead of the signals in OUT_DIR.", metavar="FILE.h5"
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "train_batch_size", "accumulate", "checkpoint_every"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"--{name.replace('_', '-')} must be 1 or more, found {value}.")
        for name in ("learning_rate", "max_hours"):
            value = getattr(self, name)
            check(value is None or value > 0, f"--{name.replace('_', '-')} must be above 0, found {value}.")
        check(
            self.encoder_name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.encoder_name) is not None,
            f"--encoder-name may only contain letters, digits, dots and hyphens, found {self.encoder_name!r}.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbingConfig:
    """Predict phenotypes from embeddings (group level)."""

    probe: tuple[str, ...] = option(
        (), "Phenotypes to predict: columns of participants.tsv, sessions.tsv or phenotype/*.tsv.", metavar="COLUMN..."
    )
    probe_part: int | None = option(
        None,
        "Probe only the K-th phenotype of --probe (from 1), and store its results for the same call "
        "without this option, which joins them; 0 only embeds.",
        metavar="K",
    )
    phenotype: Path | None = option(
        None,
        "Phenotype table to search first: a path, or relative to BIDS_DIR or the raw dataset above it.",
        metavar="FILE",
    )
    id_column: str | None = option(
        None,
        "ID column of the --phenotype table and of tables without participant_id (eid, record_id, "
        "src_subject_id, ...).",
        metavar="NAME",
    )
    protocol: str = option(
        "nested",
        "Nested cross-validation, the published evaluation (BatchNorm and a linear layer, trained by SGD), or that of "
        "the Brainmarks benchmark (random splits, scaling, logistic regression; classes only).",
        choices=("nested", "paper", "brainmarks"),
    )
    probe_kind: str = option(
        "auto",
        "Type of phenotypes; auto: text and integers with few distinct values are classes.",
        choices=("auto", "classification", "regression"),
    )
    n_bins: int = option(
        0, "Bin continuous phenotypes into this many classes of equal size; 0 disables binning.", metavar="N"
    )
    n_repeats: int = option(
        10,
        "Number of repetitions (5 folds each in the nested protocol; 100 with --protocol brainmarks); not used with "
        "--splits and --leave-out.",
        metavar="N",
    )
    splits: Path | None = option(
        None, "Use the splits in this table (group_splits.tsv of an earlier call).", metavar="FILE"
    )
    same_splits: bool = option(
        False,
        "Use the same splits for all phenotypes of the same participants, not stratified by their values; faster, "
        "since models share the most expensive computations with thousands of participants and connectivity.",
    )
    group_by: str | None = option(
        None, "Keep participants with the same value (e.g. family, site) on one side of every split.", metavar="COLUMN"
    )
    leave_out: str | None = option(
        None, "Leave-one-group-out (e.g. site) instead of repeated k-fold.", metavar="COLUMN"
    )
    covariate: tuple[str, ...] = option(
        (),
        "Covariates to remove from the features by regression fitted to training folds: columns, or mean_fd, max_fd, "
        "kept_seconds, kept_share, scrubbed_share, temporal_snr, which need no column.",
        metavar="COLUMN...",
    )
    harmonize: str | None = option(
        None,
        "Remove differences between the values of this column (site, scanner) from embeddings, connectivity and parcel "
        "moments, fitted to training folds.",
        metavar="COLUMN",
    )
    harmonize_method: str = option(
        "combat",
        "ComBat with empirical Bayes, or the mean and scale of each site as they are.",
        choices=("combat", "mean_scale"),
    )
    harmonize_keep: tuple[str, ...] = option(
        (),
        "Covariates whose linear effects --harmonize keeps in the features; never the predicted phenotype.",
        metavar="COLUMN...",
    )
    strata: tuple[str, ...] = option(
        (),
        "Also score the encoder within subgroups by these columns (sex, age, ...) if each class has ten participants; "
        "numeric columns are split at their tertiles.",
        metavar="COLUMN...",
    )
    n_permutations: int = option(200, "Number of label permutations for the p value; 0 disables the test.", metavar="N")
    baselines: tuple[str, ...] = option(
        ("pearson", "ledoit_wolf", "tangent", "parcel_moments", "motion", "site", "covariates", "random", "chance"),
        "Models to compare with on the same splits; covariates are those of --covariate; none disables all baselines.",
        metavar="NAME...",
    )
    replicates: tuple[str, ...] = option(
        (),
        "Encoders trained like --model with other seeds: scores are averaged over all of them within each split, and "
        "random weights are drawn the same number of times.",
        metavar="NAME_OR_PATH...",
    )
    network_importance: bool = option(
        False, "Also probe with all networks but one masked, and with each network masked, on the same splits."
    )
    finetune: bool = option(
        False, "Also fine-tune the encoder on each training part, in addition to probing the frozen encoder."
    )
    finetune_epochs: int = option(50, "Epochs of fine-tuning; the best on validation data is used.", metavar="N")
    task_blocks: str | None = option(
        None,
        "Column of events.tsv to classify from blocks of up to 40 s, across and within participants.",
        metavar="COLUMN",
    )
    save_predictor: str | None = option(
        None,
        "Fit a model to everybody after its evaluation and save it as predictors/NAME (NAME_PHENOTYPE for several): "
        "the linear probe of the first --model, or of the given model of group_probe.tsv (a readout, pearson, ...).",
        metavar="NAME [MODEL]",
        rest="save_predictor_model",
    )
    save_predictor_model: tuple[str, ...] = ()
    apply_predictor: str | None = option(
        None,
        "Predict with a saved predictor, of this OUT_DIR by its name or of another study by its folder; for research "
        "use only.",
        metavar="NAME_OR_PATH",
    )
    recalibrate: str | None = option(
        None,
        "Column with true values of some people here, by which --apply-predictor corrects intercept and slope.",
        metavar="COLUMN",
    )
    audit: bool = option(
        False,
        "Before sharing: measure how well embeddings identify people in another session or run, how many were in the "
        "encoder's pretraining, and whether sex, age and site can be predicted.",
    )
    scaling: tuple[float, ...] = option(
        (),
        "Pretrain on these shares of the data (in OUT_DIR, in --pretrain-data, or in another study's "
        "OUT_DIR given by -d) and probe each encoder; shares between 0 and 1.",
        metavar="SHARE...",
    )
    scaling_seeds: int = option(3, "Number of encoders pretrained per share of --scaling.", metavar="N")

    def __post_init__(self) -> None:
        check(
            self.n_bins == 0 or self.n_bins >= 2, f"--n-bins must be 0 (no binning) or 2 or more, found {self.n_bins}."
        )
        check(self.n_repeats >= 1, f"--n-repeats must be 1 or more, found {self.n_repeats}.")
        check(self.n_permutations >= 0, f"--n-permutations must be 0 or more, found {self.n_permutations}.")
        check(
            not (self.n_bins and self.probe_kind == "classification"),
            f"--n-bins {self.n_bins} is for continuous phenotypes, but --probe-kind is classification.",
        )
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
        known: Any = {field.name: field.default for field in dataclasses.fields(self)}
        unknown = sorted(set(self.baselines) - {*known["baselines"], "none"})
        check(
            not unknown,
            f"--baselines has unknown names: {', '.join(unknown)}.",
            f"Expected {', '.join(known['baselines'])} or none.",
        )
        check(
            "none" not in self.baselines or len(self.baselines) == 1,
            f"--baselines combines none with {', '.join(sorted(set(self.baselines) - {'none'}))}.",
            "Use none alone.",
        )
        check(
            "covariates" not in self.baselines or bool(self.covariate) or set(self.baselines) == {*known["baselines"]},
            "--baselines covariates has no effect without --covariate.",
            "Add --covariate COLUMN.",
        )
        check(
            self.protocol == "nested" or not self.covariate,
            f"--covariate {' '.join(self.covariate)} is only supported by the nested protocol.",
            "Remove --protocol.",
        )
        check(
            self.probe_part is None
            or (0 <= self.probe_part <= len(self.probe) and not (self.task_blocks or self.audit)),
            f"--probe-part must be between 0 and {len(self.probe)}, the number of phenotypes, found {self.probe_part}.",
            "Use --task-blocks and --audit only in the call that joins the parts.",
        )
        self._check_extras()
        self._check_harmonisation()
        self._check_predictors()
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        if self.audit:
            alone = ("audit", "n_repeats", "n_permutations", "group_by", "phenotype", "id_column")
            given = [name for name in given if name not in alone]
        if self.task_blocks is not None:
            # Blocks need no phenotype, and follow these; their p values come from participants, not permutations.
            own = ["task_blocks", "n_repeats", "baselines", *([] if self.n_permutations else ["n_permutations"])]
            # Families are kept together there as well, and may be in a separate table.
            own += ["group_by", "phenotype", "id_column"] if self.group_by is not None else []
            given = [name for name in given if name not in own]
        if self.apply_predictor is not None:
            given = [name for name in given if name not in ("apply_predictor", "recalibrate", "phenotype", "id_column")]
        check(
            bool(self.probe) or not given,
            f"{', '.join('--' + name.replace('_', '-') for name in given)} has no effect without --probe.",
            "Add --probe COLUMN.",
        )
        check(len(set(self.probe)) == len(self.probe), f"--probe has duplicates: {', '.join(self.probe)}.")

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

    def _check_harmonisation(self) -> None:
        idle = [f"--harmonize-keep {' '.join(self.harmonize_keep)}"] if self.harmonize_keep else []
        idle += ["--harmonize-method mean_scale"] if self.harmonize_method != "combat" else []
        check(
            self.harmonize is not None or not idle,
            f"{' and '.join(idle)} has no effect without --harmonize.",
            "Add --harmonize COLUMN.",
        )
        if self.harmonize is None:
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
        check(self.finetune_epochs >= 1, f"--finetune-epochs must be 1 or more, found {self.finetune_epochs}.")
        check(
            self.finetune or self.finetune_epochs == 50,
            f"--finetune-epochs {self.finetune_epochs} has no effect without --finetune.",
        )
        check(
            not (self.finetune and self.covariate),
            f"--finetune cannot remove covariates ({', '.join(self.covariate)}), since it trains on signals.",
            "Remove --finetune or --covariate, or separate groups with --leave-out.",
        )
        twice = sorted({name for name in self.replicates if self.replicates.count(name) > 1})
        check(not twice, f"--replicates has duplicates: {', '.join(twice)}.")
        check(self.scaling_seeds >= 1, f"--scaling-seeds must be 1 or more, found {self.scaling_seeds}.")
        check(
            bool(self.scaling) or self.scaling_seeds == 3,
            f"--scaling-seeds {self.scaling_seeds} has no effect without --scaling.",
        )
        outside = [share for share in self.scaling if not 0 < share <= 1]
        check(not outside, f"--scaling shares must be above 0 and at most 1, found {', '.join(map(str, outside))}.")
        doubled = sorted({share for share in self.scaling if self.scaling.count(share) > 1})
        check(not doubled, f"--scaling has duplicates: {', '.join(map(str, doubled))}.")

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
        check(
            self.recalibrate is None or self.apply_predictor is not None,
            f"--recalibrate {self.recalibrate} has no effect without --apply-predictor.",
        )
        check(
            self.apply_predictor is None or not (self.probe or self.task_blocks or self.audit),
            "--apply-predictor cannot be combined with --probe, --task-blocks or --audit.",
            "Use separate calls.",
        )
