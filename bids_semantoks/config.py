"""Frozen configuration of every stage; the command line is generated from these fields."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bids_semantoks.errors import ConfigurationError

ConfigT = TypeVar("ConfigT")


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    off: str | None = None,
    is_result: bool = True,
) -> Any:
    """Describe a configuration field that is also a command-line option.

    Parameters
    ----------
    default : Any
        Default value.
    help : str
        One sentence for ``--help``.
    metavar : str, optional
        Placeholder of the value in ``--help``.
    aliases : tuple of str
        Other spellings, and short ones (``-w``).
    choices : tuple of str
        The only accepted values.
    off : str, optional
        A flag that sets the field to None, such as ``--no-band-pass``.
    is_result : bool
        Whether the value can change a result; paths, selection, processes, device and verbosity cannot.

    Returns
    -------
    Any
        A `dataclasses.field` with this metadata.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "aliases": aliases,
        "choices": choices,
        "off": off,
        "is_result": is_result,
    }
    return dataclasses.field(default=default, metadata=metadata)


def _check(condition: bool, message: str, hint: str = "") -> None:
    if not condition:
        raise ConfigurationError(message, hint=hint)


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionConfig:
    """Which runs to process."""

    participant_label: tuple[str, ...] = option(
        (),
        "Participants to process, with or without sub-; @FILE reads labels from a file.",
        metavar="LABEL...",
        aliases=("--participant_label",),
        is_result=False,
    )
    exclude_participant_label: tuple[str, ...] = option(
        (), "Participants to leave out.", metavar="LABEL...", is_result=False
    )
    session_id: tuple[str, ...] = option(
        (), "Sessions to process.", metavar="LABEL...", aliases=("--session-label",), is_result=False
    )
    task_id: tuple[str, ...] = option(
        (), "Tasks to process.", metavar="LABEL...", aliases=("-t", "--task-label"), is_result=False
    )
    run_id: tuple[str, ...] = option((), "Runs to process.", metavar="LABEL...", is_result=False)
    echo_id: tuple[str, ...] = option(
        (),
        "Echoes to process, where each was written apart.",
        metavar="LABEL...",
        aliases=("--echo-idx",),
        is_result=False,
    )
    direction_id: tuple[str, ...] = option(
        (),
        "Phase-encoding directions (dir-) to process.",
        metavar="LABEL...",
        aliases=("--direction-label",),
        is_result=False,
    )
    acquisition_id: tuple[str, ...] = option(
        (),
        "Acquisitions (acq-) to process.",
        metavar="LABEL...",
        aliases=("--acquisition-label",),
        is_result=False,
    )
    space: str | None = option(
        None,
        "Template space of the BOLD images, one a call, and its resolution if wanted (NAME:res-2); by default the "
        "atlas' own if present, else MNI152NLin6Asym, MNI152NLin2009cAsym, fsLR, finest first.",
        metavar="NAME",
        is_result=False,
    )
    bids_filter_file: Path | None = option(
        None, "JSON filter in fMRIPrep's format (the bold entry is used).", metavar="FILE", is_result=False
    )
    derivatives: tuple[str, ...] = option(
        (),
        "Derivative dataset to read, as PATH or NAME=PATH, when BIDS_DIR is a raw dataset.",
        metavar="PATH...",
        aliases=("-d",),
        is_result=False,
    )
    input_type: str = option(
        "auto",
        "What to read where a dataset has BOLD images and parcellated series; auto takes the images of preprocessing "
        "pipelines and the series of those that denoise.",
        choices=("auto", "images", "series"),
        is_result=False,
    )
    layout: str | None = option(
        None,
        "Read data that are no BIDS: hcp, ukb, or a JSON file that says which file is which.",
        metavar="NAME_OR_FILE",
        is_result=False,
    )
    bids_database_dir: Path | None = option(
        None,
        "Directory of a pybids database to use, or to make, for the derivative dataset.",
        metavar="DIR",
        is_result=False,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalsConfig:
    """From BOLD images to parcel signals."""

    atlas: str = option(
        "Schaefer400Tian3Buckner7", "Atlas by name, or a label image or atlas dataset by path.", metavar="NAME_OR_PATH"
    )
    atlas_dir: Path | None = option(
        None, "Where atlas files are looked for first (or BIDS_SEMANTOKS_ATLAS_DIR).", metavar="DIR", is_result=False
    )
    denoise: str = option(
        "simple",
        "Denoising preset (none, simple, simple+gsr, 24p, 36p, compcor, ica_aroma) or a JSON file.",
        metavar="NAME_OR_FILE",
    )
    band_pass: tuple[float, float] | None = option(
        (0.01, 0.1), "Pass band in Hz; 0 leaves that side open.", metavar="LOW HIGH", off="--no-band-pass"
    )
    fd_threshold: float | None = option(
        None, "Scrub volumes whose framewise displacement is above this many millimetres.", metavar="MM"
    )
    dummy_scans: str = option(
        "auto", "Volumes to drop at the start; auto takes the confounds' non-steady-state columns.", metavar="auto|N"
    )
    min_time: float = option(
        100.0, "Skip a run with less kept data than this many seconds; 0 for no limit.", metavar="SECONDS"
    )
    min_coverage: float = option(
        0.5, "A parcel with a smaller share of its voxels in the brain mask is absent.", metavar="SHARE"
    )
    signals_only: bool = option(False, "Write signals and stop before the encoder.", is_result=False)
    save_raw_signals: bool = option(False, "Also write the signals before denoising.", is_result=False)

    def __post_init__(self) -> None:
        _check(
            all(math.isfinite(x) for x in (*(self.band_pass or ()), self.fd_threshold or 0, self.min_time)),
            "--band-pass, --fd-threshold and --min-time must be finite, "
            f"found {self.band_pass}, {self.fd_threshold} and {self.min_time}.",
            "Use --no-band-pass, or leave --fd-threshold away.",
        )
        if self.band_pass is not None:
            low, high = self.band_pass
            _check(
                low >= 0 and (high == 0 or high > low) and (low, high) != (0, 0),
                f"--band-pass needs 0 <= LOW < HIGH in Hz, found {low:g} {high:g}.",
                "Use 0 to leave one side open, or --no-band-pass.",
            )
        _check(
            self.fd_threshold is None or self.fd_threshold > 0,
            f"--fd-threshold must be above 0 mm, found {self.fd_threshold}.",
            "Leave it away to scrub nothing.",
        )
        _check(
            self.dummy_scans == "auto" or self.dummy_scans.isdecimal(),
            f"--dummy-scans must be auto or a whole number, found {self.dummy_scans!r}.",
        )
        _check(self.min_time >= 0, f"--min-time must be 0 or more seconds, found {self.min_time:g}.")
        _check(0 <= self.min_coverage <= 1, f"--min-coverage must lie in 0..1, found {self.min_coverage:g}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """From parcel signals to embeddings."""

    model: str = option(
        "SamGijsen/Brain-Semantoks",
        "Encoder: a directory or file of ours, the authors' checkpoint, a Hugging Face ORG/NAME, "
        "or random:paper|small|tiny[:SEED].",
        metavar="NAME_OR_PATH",
    )
    device: str = option("auto", "Where the encoder runs.", metavar="auto|cpu|cuda|cuda:N", is_result=False)
    precision: str = option(
        "auto", "Arithmetic of the encoder; auto is float32.", choices=("auto", "fp32", "bf16", "fp16")
    )
    batch_size: int = option(32, "Windows encoded at a time.", metavar="N", is_result=False)
    n_windows: int = option(8, "Equally spaced windows of a run.", metavar="N")
    pooling: str = option(
        "cls_avg", "Embedding: mean of tokens and class token, or one of them.", choices=("cls_avg", "cls", "avg")
    )
    save_tokens: bool = option(False, "Also write all output tokens of each window.", is_result=False)

    def __post_init__(self) -> None:
        _check(self.batch_size >= 1, f"--batch-size must be 1 or more, found {self.batch_size}.")
        _check(self.n_windows >= 1, f"--n-windows must be 1 or more, found {self.n_windows}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainingConfig:
    """Learning an encoder from the signals (group level)."""

    pretrain: bool = option(False, "Pretrain an encoder on the stored signals, then embed with it.", is_result=False)
    encoder_config: str = option(
        "paper", "Architecture: paper, small, tiny, or a JSON file.", metavar="NAME_OR_FILE", is_result=False
    )
    encoder_name: str | None = option(
        None,
        "Name below OUT_DIR/encoders; by default that of the architecture.",
        metavar="NAME",
        is_result=False,
    )
    training_config: Path | None = option(
        None, "JSON file over the recipe: masks, ratios, loss weights, augmentation.", metavar="FILE", is_result=False
    )
    epochs: int | None = option(
        None, "Passes over the participants.  [default: the recipe's, 100]", metavar="N", is_result=False
    )
    train_batch_size: int | None = option(
        None,
        "Participants in one step, over all GPUs together.  [default: 512; with fewer data the largest power of "
        "two that leaves 8 steps an epoch]",
        metavar="N",
        is_result=False,
    )
    accumulate: int = option(
        1, "Parts that a batch is cut into where it does not fit into memory at once.", metavar="N", is_result=False
    )
    learning_rate: float | None = option(
        None,
        "Peak learning rate at batch 256; it scales with the batch.  [default: the recipe's, 0.0007]",
        metavar="RATE",
        is_result=False,
    )
    max_hours: float | None = option(
        None, "Save and stop after this many hours; the same call goes on.", metavar="HOURS", is_result=False
    )
    checkpoint_every: int | None = option(
        None,
        "Epochs between checkpoints.  [default: at the end of an epoch, when two minutes have passed]",
        metavar="EPOCHS",
        is_result=False,
    )
    pretrain_data: Path | None = option(
        None, "Pretrain on the participants of this HDF5 file instead of OUT_DIR's.", metavar="FILE.h5", is_result=False
    )

    def __post_init__(self) -> None:
        for name in ("epochs", "train_batch_size", "accumulate", "checkpoint_every"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"--{name.replace('_', '-')} must be 1 or more, found {value}.")
        for name in ("learning_rate", "max_hours"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"--{name.replace('_', '-')} must be above 0, found {value}.")
        _check(
            self.encoder_name is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.encoder_name) is not None,
            f"--encoder-name must hold letters, digits, dots and hyphens only, found {self.encoder_name!r}.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbingConfig:
    """Asking embeddings what they know of phenotypes (group level)."""

    probe: tuple[str, ...] = option(
        (), "Phenotypes to predict: columns of participants.tsv, sessions.tsv or phenotype/*.tsv.", metavar="COLUMN..."
    )
    phenotype: Path | None = option(
        None,
        "Table of phenotypes to look in first: a path, or one below BIDS_DIR or the raw dataset above it.",
        metavar="FILE",
        is_result=False,
    )
    protocol: str = option(
        "nested",
        "Nested cross-validation, or the published evaluation (BatchNorm and a linear layer, trained by SGD).",
        choices=("nested", "paper"),
    )
    probe_kind: str = option(
        "auto",
        "What phenotypes are; auto takes text and few whole numbers for classes.",
        choices=("auto", "classification", "regression"),
    )
    n_bins: int = option(0, "Cut continuous phenotypes into this many classes of equal size; 0 for none.", metavar="N")
    n_repeats: int = option(
        10, "Repetitions, of 5 folds each in the nested protocol; --splits and --leave-out have their own.", metavar="N"
    )
    splits: Path | None = option(
        None, "Use the splits of this table (group_splits.tsv of an earlier call).", metavar="FILE", is_result=False
    )
    group_by: str | None = option(
        None, "Keep participants of one family, site, ... on one side of every split.", metavar="COLUMN"
    )
    leave_out: str | None = option(None, "Leave each site, ... out once instead of repeated folds.", metavar="COLUMN")
    covariate: tuple[str, ...] = option(
        (), "Remove these from the features, by regression fitted to training folds.", metavar="COLUMN..."
    )
    n_permutations: int = option(200, "Permutations of the labels for the p value; 0 for none.", metavar="N")
    baselines: tuple[str, ...] = option(
        ("pearson", "ledoit_wolf", "tangent", "parcel_moments", "motion", "site", "covariates", "random", "chance"),
        "Models to compare with, on the same splits; covariates are those of --covariate; none for none.",
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
    scaling: tuple[float, ...] = option(
        (),
        "Pretrain on these shares of the data (OUT_DIR's, those of --pretrain-data, or those of another study's "
        "OUT_DIR given by -d) and probe each encoder; shares lie in 0..1.",
        metavar="SHARE...",
    )
    scaling_seeds: int = option(3, "Encoders pretrained for each share of --scaling.", metavar="N")

    def __post_init__(self) -> None:
        _check(
            self.n_bins == 0 or self.n_bins >= 2,
            f"--n-bins must be 0 (no binning) or 2 or more, found {self.n_bins}.",
        )
        _check(self.n_repeats >= 1, f"--n-repeats must be 1 or more, found {self.n_repeats}.")
        _check(self.n_permutations >= 0, f"--n-permutations must be 0 or more, found {self.n_permutations}.")
        _check(
            not (self.n_bins and self.probe_kind == "classification"),
            f"--n-bins {self.n_bins} is for continuous phenotypes, and --probe-kind is classification.",
        )
        _check(
            self.leave_out is None or (self.group_by is None and self.splits is None and self.protocol == "nested"),
            f"--leave-out {self.leave_out} makes its own splits.",
            "Leave away --group-by, --splits and --protocol paper.",
        )
        known: Any = {field.name: field.default for field in dataclasses.fields(self)}["baselines"]
        unknown = sorted(set(self.baselines) - {*known, "none"})
        _check(
            not unknown, f"--baselines has unknown names: {', '.join(unknown)}.", f"Known: {', '.join(known)}, none."
        )
        _check(
            "none" not in self.baselines or len(self.baselines) == 1,
            f"--baselines has none beside {', '.join(sorted(set(self.baselines) - {'none'}))}.",
            "Give none alone.",
        )
        _check(
            self.protocol == "nested" or not self.covariate,
            f"--covariate {' '.join(self.covariate)} is removed by the nested protocol only.",
            "Leave --protocol paper away.",
        )
        self._check_extras()
        given = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]
        if self.task_blocks is not None:
            # Blocks need no phenotype, and follow these.
            alone = ("task_blocks", "n_repeats", "n_permutations", "baselines")
            given = [name for name in given if name not in alone]
        _check(
            bool(self.probe) or not given,
            f"{', '.join('--' + name.replace('_', '-') for name in given)} would do nothing without --probe.",
            "Say what to predict with --probe COLUMN.",
        )
        _check(
            len(set(self.probe)) == len(self.probe),
            f"--probe names a column twice: {', '.join(self.probe)}.",
        )

    def _check_extras(self) -> None:
        _check(self.finetune_epochs >= 1, f"--finetune-epochs must be 1 or more, found {self.finetune_epochs}.")
        _check(
            self.finetune or self.finetune_epochs == 50,
            f"--finetune-epochs {self.finetune_epochs} would do nothing without --finetune.",
        )
        _check(
            not (self.finetune and self.covariate),
            f"--finetune cannot remove the covariates {', '.join(self.covariate)}: signals are not features.",
            "Leave --finetune or --covariate away, or keep groups apart with --leave-out.",
        )
        twice = sorted({name for name in self.replicates if self.replicates.count(name) > 1})
        _check(not twice, f"--replicates names an encoder twice: {', '.join(twice)}.")
        _check(self.scaling_seeds >= 1, f"--scaling-seeds must be 1 or more, found {self.scaling_seeds}.")
        _check(
            bool(self.scaling) or self.scaling_seeds == 3,
            f"--scaling-seeds {self.scaling_seeds} would do nothing without --scaling.",
        )
        outside = [share for share in self.scaling if not 0 < share <= 1]
        _check(not outside, f"--scaling needs shares above 0 and up to 1, found {', '.join(map(str, outside))}.")
        doubled = sorted({share for share in self.scaling if self.scaling.count(share) > 1})
        _check(not doubled, f"--scaling names a share twice: {', '.join(map(str, doubled))}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningConfig:
    """How the work is done; nothing here changes a result."""

    n_procs: int | None = option(
        None,
        "Processes; by default as many as the cgroup or SLURM_CPUS_PER_TASK allows, but no more than runs.",
        metavar="N",
        aliases=("--nprocs", "--n-cpus"),
        is_result=False,
    )
    omp_nthreads: int | None = option(
        None,
        "Threads of each process; by default the CPUs shared out, or fewer as OMP_NUM_THREADS says.",
        metavar="N",
        is_result=False,
    )
    mem: str | None = option(
        None,
        "Memory that all processes may take together (K, M, G or T; MB by default).",
        metavar="SIZE",
        is_result=False,
    )
    work_dir: Path | None = option(
        None, "Where caches and temporary files go.", metavar="DIR", aliases=("-w",), is_result=False
    )
    random_seed: int = option(0, "Seed of everything random.", metavar="N")
    dry_run: bool = option(False, "Print what would happen to each run, and why; write nothing.", is_result=False)
    reports_only: bool = option(
        False,
        "Draw the reports again from the files in OUT_DIR; figures that need the images stay as they are.",
        is_result=False,
    )
    boilerplate_only: bool = option(
        False, "Write the methods text with its references to OUT_DIR/logs, and nothing else.", is_result=False
    )
    overwrite: bool = option(False, "Replace outputs that were made with other settings.", is_result=False)
    stop_on_first_crash: bool = option(False, "Stop at the first run that fails.", is_result=False)
    ignore_failed_runs: bool = option(False, "Exit with 0 when runs failed but at least one is ok.", is_result=False)
    notrack: bool = option(False, "Accepted for compatibility: nothing is ever sent anywhere.", is_result=False)
    verbose: int = option(0, "Say more; repeat for still more.", aliases=("-v",), is_result=False)
    quiet: bool = option(False, "Say nothing but errors and the last line.", aliases=("-q",), is_result=False)

    def __post_init__(self) -> None:
        _check(
            self.reports_only + self.boilerplate_only + self.dry_run <= 1,
            "--dry-run, --reports-only and --boilerplate-only exclude each other.",
            "Give one of them.",
        )
        _check(self.n_procs is None or self.n_procs >= 1, f"--n-procs must be 1 or more, found {self.n_procs}.")
        _check(
            self.omp_nthreads is None or self.omp_nthreads >= 1,
            f"--omp-nthreads must be 1 or more, found {self.omp_nthreads}.",
        )
        if self.mem is not None:
            parse_memory(self.mem)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig:
    """Everything one call was asked to do."""

    bids_dir: Path
    out_dir: Path
    level: str
    selection: SelectionConfig = SelectionConfig()
    signals: SignalsConfig = SignalsConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    probing: ProbingConfig = ProbingConfig()
    running: RunningConfig = RunningConfig()

    def __post_init__(self) -> None:
        _check(
            self.level in ("participant", "group"),
            f"analysis level must be participant or group, found {self.level!r}.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Architecture of an encoder, stored in its checkpoint. Defaults are the published model.

    Parameters
    ----------
    repetition_time : float
        Seconds between volumes of a window.
    window : int
        Volumes in a window (W), a multiple of `patch`.
    patch : int
        Volumes in a patch.
    width : int
        Token width D, even and a multiple of `head_width`.
    depth : int
        Transformer blocks.
    head_width : int
        Width of one attention head.
    mlp_ratio : int
        Hidden width of a block's MLP over D.
    layer_scale : float
        Initial LayerScale.
    spatial : str
        ``network`` (one tokenizer a network), ``whole`` (one network holding all parcels) or
        ``parcel`` (every parcel its own network, one shared linear patch projection).
    dense : str
        Dense branch: ``full``, ``separable`` (depthwise then pointwise) or ``none``.
    dense_kernel : int
        Taps of the dense branch.
    structured : str
        Depthwise branch: ``structured`` (multi-scale), ``free`` (plain taps of the same length) or ``none``.
    structured_taps : int
        Taps per scale of the structured kernel.
    structured_scales : int
        Scales of the structured kernel; its length is taps * 2^(scales-1).
    structured_decay : float
        Weight of a scale over the next longer one.
    pooling : str
        Over a patch's volumes: ``mean``, ``max`` or ``attention``.
    head_hidden, head_out, head_layers : int
        Projection head: hidden width, output width, number of linear layers.
    """

    repetition_time: float = 2.0
    window: int = 100
    patch: int = 20
    width: int = 768
    depth: int = 8
    head_width: int = 64
    mlp_ratio: int = 4
    layer_scale: float = 0.1
    spatial: str = "network"
    dense: str = "full"
    dense_kernel: int = 3
    structured: str = "structured"
    structured_taps: int = 4
    structured_scales: int = 3
    structured_decay: float = 2.0
    pooling: str = "mean"
    head_hidden: int = 1024
    head_out: int = 128
    head_layers: int = 2

    def __post_init__(self) -> None:
        _check(
            self.patch >= 1 and self.window >= self.patch and self.window % self.patch == 0,
            f"window must be a multiple of patch, found window {self.window} and patch {self.patch}.",
        )
        _check(self.repetition_time > 0, f"repetition_time must be positive, found {self.repetition_time}.")
        _check(
            self.width % 2 == 0 and self.width % self.head_width == 0,
            f"width must be even and a multiple of head_width, found {self.width} and {self.head_width}.",
        )
        for name, value, allowed in (
            ("spatial", self.spatial, ("network", "whole", "parcel")),
            ("dense", self.dense, ("full", "separable", "none")),
            ("structured", self.structured, ("structured", "free", "none")),
            ("pooling", self.pooling, ("mean", "max", "attention")),
        ):
            _check(value in allowed, f"{name} must be one of {', '.join(allowed)}, found {value!r}.")
        _check(
            self.dense != "none" or self.structured != "none" or self.spatial == "parcel",
            "a tokenizer needs a dense or a structured branch, found neither.",
        )
        _check(
            self.structured == "none" or self.spatial == "parcel" or self.patch >= self.kernel_length,
            f"patch must be at least the structured kernel's length {self.kernel_length}, found {self.patch}.",
        )
        _check(
            self.depth >= 1 and self.head_layers >= 1,
            f"depth {self.depth} and head_layers {self.head_layers} must be 1 or more.",
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
    """Recipe of pretraining by self-distillation. Defaults are the published recipe.

    Parameters
    ----------
    epochs : int
        Passes over the participants.
    batch_size : int or None
        Participants in one optimiser step, over all ranks and accumulated parts; None takes 512, or less with
        little data.
    augmentation : int
        Strength of the augmentation of views, 0 (none) to 3.
    augmentation_levels : tuple of int or None
        Levels of parcels, time, noise and scale one by one, instead of `augmentation` for all.
    mask : str
        Shape of the student's masks: ``slice`` (network or temporal, a fair coin for each view), ``network``,
        ``temporal``, ``random`` or ``block``.
    mask_ratio : tuple of float
        Lowest and highest nominal share of masked tokens.
    masked_batches : float
        Probability that a batch is masked.
    cls_weight, token_weight : float
        Weights of the losses on class tokens and on masked tokens; 0 switches a loss off.
    ttr_weight : float
        Weight of the regulariser on time-averaged network tokens at the first step; 0 switches it off.
    ttr_share : float
        Share of the epochs after which that weight has fallen to 0.
    coding_rate_weight, coding_rate_eps : float
        Weight of the coding rate that keeps projections from collapsing (0 switches it off), and its distortion.
    learning_rate : float
        Peak learning rate at an effective batch of 256; it scales in proportion.
    warmup_epochs : float
        Epochs over which the learning rate rises from 0, at most half of all.
    weight_decay : tuple of float
        At the first and at the last step.
    betas : tuple of float
        Of AdamW.
    adam_eps : float
        Of AdamW.
    momentum : tuple of float
        Of the teacher's moving average, at the first and at the last step.
    clip : float
        Largest gradient norm.
    """

    epochs: int = 100
    batch_size: int | None = None
    augmentation: int = 1
    augmentation_levels: tuple[int, int, int, int] | None = None
    mask: str = "slice"
    mask_ratio: tuple[float, float] = (0.65, 0.85)
    masked_batches: float = 0.5
    cls_weight: float = 1.0
    token_weight: float = 0.5
    ttr_weight: float = 0.5
    ttr_share: float = 0.05
    coding_rate_weight: float = 1.0
    coding_rate_eps: float = 0.05
    learning_rate: float = 7e-4
    warmup_epochs: float = 3.0
    weight_decay: tuple[float, float] = (0.05, 0.3)
    betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = 1e-8
    momentum: tuple[float, float] = (0.99, 1.0)
    clip: float = 1.0

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"epochs must be 1 or more, found {self.epochs}.")
        _check(
            self.batch_size is None or self.batch_size >= 1, f"batch_size must be 1 or more, found {self.batch_size}."
        )
        _check(
            all(0 <= level <= 3 for level in self.levels),
            f"augmentation levels must lie in 0..3, found {', '.join(map(str, self.levels))}.",
        )
        masks = ("slice", "network", "temporal", "random", "block")
        _check(self.mask in masks, f"mask must be one of {', '.join(masks)}, found {self.mask!r}.")
        low, high = self.mask_ratio
        _check(0 < low <= high <= 1, f"mask_ratio needs 0 < LOW <= HIGH <= 1, found {low:g} {high:g}.")
        self._check_weights()
        self._check_optimiser()

    def _check_weights(self) -> None:
        for name in ("masked_batches", "ttr_share"):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"{name} must lie in 0..1, found {value:g}.")
        for name in ("cls_weight", "token_weight", "ttr_weight", "coding_rate_weight"):
            value = getattr(self, name)
            _check(value >= 0, f"{name} must be 0 or more, found {value:g}.")
        _check(
            self.cls_weight > 0 or (self.ttr_weight > 0 and self.ttr_share > 0) or self.token_weight > 0,
            "nothing would be learnt: cls_weight, ttr_weight and token_weight are all 0.",
        )
        _check(
            self.cls_weight > 0 or self.token_weight == 0 or self.masked_batches > 0,
            "the token loss needs masked batches, found masked_batches 0.",
        )
        _check(self.coding_rate_eps > 0, f"coding_rate_eps must be above 0, found {self.coding_rate_eps:g}.")

    def _check_optimiser(self) -> None:
        for name in ("learning_rate", "adam_eps", "clip"):
            value = getattr(self, name)
            _check(value > 0, f"{name} must be above 0, found {value:g}.")
        _check(self.warmup_epochs >= 0, f"warmup_epochs must be 0 or more, found {self.warmup_epochs:g}.")
        for name in ("weight_decay", "betas", "momentum"):
            pair = getattr(self, name)
            _check(
                all(0 <= value <= 1 for value in pair),
                f"{name} must hold two numbers in 0..1, found {pair[0]:g} {pair[1]:g}.",
            )
        _check(max(self.betas) < 1, f"betas must lie below 1, found {self.betas[0]:g} {self.betas[1]:g}.")

    @property
    def levels(self) -> tuple[int, int, int, int]:
        """Augmentation levels of parcels, time, noise and scale."""
        return self.augmentation_levels or (self.augmentation,) * 4


def parse_memory(text: str) -> int:
    """Read a memory size as batch systems write it.

    Parameters
    ----------
    text : str
        A number with an optional K, M, G or T (and an optional B or iB); megabytes without.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ConfigurationError
        When `text` is no such size.
    """
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    bare = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = units.get(bare[-1:])
    number = bare[:-1] if unit else bare
    try:
        size = int(float(number) * (unit or 2**20))
    except ValueError:
        size = 0
    _check(size > 0, f"--mem must be a size such as 8G or 16000 (MB), found {text!r}.")
    return size


def to_json(config: Any) -> dict[str, Any]:
    """Turn a configuration into plain JSON values.

    Parameters
    ----------
    config : Any
        Any dataclass of this module.

    Returns
    -------
    dict
        Nested dictionary; paths become strings, tuples lists.
    """
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def from_json(kind: type[ConfigT], values: dict[str, Any], *, where: str = "configuration") -> ConfigT:
    """Build a configuration from plain JSON values, refusing what no field reads.

    Parameters
    ----------
    kind : type
        A dataclass of this module.
    values : dict
        Values by field name; missing fields keep their defaults.
    where : str
        What to call the source in messages.

    Returns
    -------
    ConfigT
        An instance of `kind`.

    Raises
    ------
    ConfigurationError
        When a key is unknown or a value has another type than its field.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    _check(
        not unknown,
        f"{where} has unknown keys: {', '.join(unknown)}.",
        f"Known keys: {', '.join(sorted(hints))}.",
    )
    arguments = {key: _from_plain(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    return kind(**arguments)


def _from_plain(hint: Any, value: Any, where: str) -> Any:
    """Turn one JSON value into what the field's type asks for."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _from_plain(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        _check(isinstance(value, dict), f"{where} must be a JSON object, found {value!r}.")
        return from_json(typing.cast(type[Any], hint), value, where=where)
    if origin is tuple:
        _check(isinstance(value, list | tuple), f"{where} must be a list, found {value!r}.")
        if arguments[-1] is not Ellipsis:
            _check(len(value) == len(arguments), f"{where} must have {len(arguments)} values, found {value!r}.")
        return tuple(_from_plain(arguments[0], item, where) for item in value)
    if hint is Path:
        _check(isinstance(value, str), f"{where} must be a path, found {value!r}.")
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _check(type(value) is hint, f"{where} must be {hint.__name__}, found {value!r}.")
    return value
