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
    """Learning an encoder from the signals (group level)."""

    pretrain: bool = option(False, "Pretrain an encoder on the stored signals, then embed with it.")
    encoder_config: str = option("paper", "Architecture: paper, small, tiny, or a JSON file.", metavar="NAME_OR_FILE")
    encoder_name: str | None = option(
        None, "Name below OUT_DIR/encoders; by default that of the architecture.", metavar="NAME"
    )
    training_config: Path | None = option(
        None, "JSON file over the recipe: masks, ratios, loss weights, augmentation.", metavar="FILE"
    )
    epochs: int | None = option(None, "Passes over the participants.  [default: the recipe's, 100]", metavar="N")
    train_batch_size: int | None = option(
        None,
        "Participants in one step, over all GPUs together.  [default: 512; with fewer data the largest power of "
        "two that leaves 8 steps an epoch]",
        metavar="N",
    )
    accumulate: int = option(
        1, "Parts that a batch is cut into where it does not fit into memory at once.", metavar="N"
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate at batch 256; it scales with the batch.  [default: the recipe's, 0.0007]",
        metavar="RATE",
    )
    max_hours: float | None = option(
        None, "Save and stop after this many hours; the same call goes on.", metavar="HOURS"
    )
    checkpoint_every: int | None = option(
        None,
        "Epochs between checkpoints.  [default: at the end of an epoch, when two minutes have passed]",
        metavar="EPOCHS",
    )
    pretrain_data: Path | None = option(
        None, "Pretrain on this HDF5 file, with a volume every 2 s, instead of OUT_DIR's signals.", metavar="FILE.h5"
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
            f"--encoder-name must hold letters, digits, dots and hyphens only, found {self.encoder_name!r}.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbingConfig:
    """Asking embeddings what they know of phenotypes (group level)."""

    probe: tuple[str, ...] = option(
        (), "Phenotypes to predict: columns of participants.tsv, sessions.tsv or phenotype/*.tsv.", metavar="COLUMN..."
    )
    probe_part: int | None = option(
        None,
        "Of the phenotypes of --probe, probe only the K-th, counted from 1, and keep its results for the same call "
        "without this option, which joins them; 0 only embeds.",
        metavar="K",
    )
    phenotype: Path | None = option(
        None,
        "Table of phenotypes to look in first: a path, or one below BIDS_DIR or the raw dataset above it.",
        metavar="FILE",
    )
    id_column: str | None = option(
        None,
        "Column of participants in the table of --phenotype, and in tables without participant_id (eid, record_id, "
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
        "What phenotypes are; auto takes text and few whole numbers for classes.",
        choices=("auto", "classification", "regression"),
    )
    n_bins: int = option(0, "Cut continuous phenotypes into this many classes of equal size; 0 for none.", metavar="N")
    n_repeats: int = option(
        10,
        "Repetitions, of 5 folds each in the nested protocol; 100 with --protocol brainmarks; --splits and --leave-out "
        "have their own.",
        metavar="N",
    )
    splits: Path | None = option(
        None, "Use the splits of this table (group_splits.tsv of an earlier call).", metavar="FILE"
    )
    group_by: str | None = option(
        None, "Keep participants of one family, site, ... on one side of every split.", metavar="COLUMN"
    )
    leave_out: str | None = option(None, "Leave each site, ... out once instead of repeated folds.", metavar="COLUMN")
    covariate: tuple[str, ...] = option(
        (),
        "Remove these from the features, by regression fitted to training folds: columns, or mean_fd, max_fd, "
        "kept_seconds, kept_share, scrubbed_share, temporal_snr, which need no column.",
        metavar="COLUMN...",
    )
    strata: tuple[str, ...] = option(
        (),
        "Score the encoder also within the subgroups of these columns (sex, age, ...) where each class has ten people; "
        "numbers are cut at their tertiles.",
        metavar="COLUMN...",
    )
    n_permutations: int = option(200, "Permutations of the labels for the p value; 0 for none.", metavar="N")
    baselines: tuple[str, ...] = option(
        ("pearson", "ledoit_wolf", "tangent", "parcel_moments", "motion", "site", "covariates", "random", "chance"),
        "Models to compare with, on the same splits; covariates are those of --covariate; none disables all.",
        metavar="NAME...",
    )
    replicates: tuple[str, ...] = option(
        (),
        "Encoders trained like --model with other seeds: scores are averaged over all of them within each split, and "
        "random weights are drawn as often.",
        metavar="NAME_OR_PATH...",
    )
    network_importance: bool = option(
        False, "Also mask all networks but one, and each network, and probe again on the same splits."
    )
    finetune: bool = option(
        False, "Also train the encoder's weights further on each training part, beside the frozen encoder."
    )
    finetune_epochs: int = option(50, "Passes of fine-tuning; the best by validation is kept.", metavar="N")
    task_blocks: str | None = option(
        None,
        "Column of events.tsv whose values to tell apart by blocks of up to 40 s, across and within participants.",
        metavar="COLUMN",
    )
    audit: bool = option(
        False,
        "Before sharing: measure how well embeddings identify people in another session or run, how many were in the "
        "encoder's pretraining, and whether sex, age and site can be predicted.",
    )
    scaling: tuple[float, ...] = option(
        (),
        "Pretrain on these shares of the data (OUT_DIR's, those of --pretrain-data, or those of another study's "
        "OUT_DIR given by -d) and probe each encoder; shares lie in 0..1.",
        metavar="SHARE...",
    )
    scaling_seeds: int = option(3, "Encoders pretrained for each share of --scaling.", metavar="N")

    def __post_init__(self) -> None:
        check(
            self.n_bins == 0 or self.n_bins >= 2, f"--n-bins must be 0 (no binning) or 2 or more, found {self.n_bins}."
        )
        check(self.n_repeats >= 1, f"--n-repeats must be 1 or more, found {self.n_repeats}.")
        check(self.n_permutations >= 0, f"--n-permutations must be 0 or more, found {self.n_permutations}.")
        check(
            not (self.n_bins and self.probe_kind == "classification"),
            f"--n-bins {self.n_bins} is for continuous phenotypes, and --probe-kind is classification.",
        )
        check(
            self.leave_out is None or (self.group_by is None and self.splits is None and self.protocol == "nested"),
            f"--leave-out {self.leave_out} makes its own splits.",
            "Leave away --group-by, --splits and --protocol.",
        )
        known: Any = {field.name: field.default for field in dataclasses.fields(self)}
        unknown = sorted(set(self.baselines) - {*known["baselines"], "none"})
        check(
            not unknown,
            f"--baselines has unknown names: {', '.join(unknown)}.",
            f"Known: {', '.join(known['baselines'])}, none.",
        )
        check(
            "none" not in self.baselines or len(self.baselines) == 1,
            f"--baselines has none beside {', '.join(sorted(set(self.baselines) - {'none'}))}.",
            "Give none alone.",
        )
        check(
            "covariates" not in self.baselines or bool(self.covariate) or set(self.baselines) == {*known["baselines"]},
            "--baselines covariates would do nothing without --covariate.",
            "Say which with --covariate COLUMN.",
        )
        check(
            self.protocol == "nested" or not self.covariate,
            f"--covariate {' '.join(self.covariate)} is removed by the nested protocol only.",
            "Leave --protocol away.",
        )
        check(
            self.probe_part is None
            or (0 <= self.probe_part <= len(self.probe) and not (self.task_blocks or self.audit)),
            f"--probe-part must be 0 to {len(self.probe)}, the number of phenotypes, found {self.probe_part}.",
            "Without --task-blocks and --audit, which come with the call that joins the parts.",
        )
        self._check_extras()
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        if self.audit:
            alone = ("audit", "n_repeats", "n_permutations", "group_by", "phenotype", "id_column")
            given = [name for name in given if name not in alone]
        if self.task_blocks is not None:
            # Blocks need no phenotype, and follow these; their p values come from participants, not permutations.
            own = ["task_blocks", "n_repeats", "baselines", *([] if self.n_permutations else ["n_permutations"])]
            # Families are kept together there, too, and may stand in a table of their own.
            own += ["group_by", "phenotype", "id_column"] if self.group_by is not None else []
            given = [name for name in given if name not in own]
        check(
            bool(self.probe) or not given,
            f"{', '.join('--' + name.replace('_', '-') for name in given)} would do nothing without --probe.",
            "Say what to predict with --probe COLUMN.",
        )
        check(len(set(self.probe)) == len(self.probe), f"--probe names a column twice: {', '.join(self.probe)}.")

    def _check_extras(self) -> None:
        check(self.finetune_epochs >= 1, f"--finetune-epochs must be 1 or more, found {self.finetune_epochs}.")
        check(
            self.finetune or self.finetune_epochs == 50,
            f"--finetune-epochs {self.finetune_epochs} would do nothing without --finetune.",
        )
        check(
            not (self.finetune and self.covariate),
            f"--finetune cannot remove the covariates {', '.join(self.covariate)}: signals are not features.",
            "Leave --finetune or --covariate away, or keep groups apart with --leave-out.",
        )
        twice = sorted({name for name in self.replicates if self.replicates.count(name) > 1})
        check(not twice, f"--replicates names an encoder twice: {', '.join(twice)}.")
        check(self.scaling_seeds >= 1, f"--scaling-seeds must be 1 or more, found {self.scaling_seeds}.")
        check(
            bool(self.scaling) or self.scaling_seeds == 3,
            f"--scaling-seeds {self.scaling_seeds} would do nothing without --scaling.",
        )
        outside = [share for share in self.scaling if not 0 < share <= 1]
        check(not outside, f"--scaling needs shares above 0 and up to 1, found {', '.join(map(str, outside))}.")
        doubled = sorted({share for share in self.scaling if self.scaling.count(share) > 1})
        check(not doubled, f"--scaling names a share twice: {', '.join(map(str, doubled))}.")
