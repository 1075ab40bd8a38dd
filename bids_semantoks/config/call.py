"""The configuration of a call, one dataclass per stage in the order of --help; group-level stages are in group.py."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.config.group import PretrainingConfig, ProbingConfig
from bids_semantoks.config.options import check, check_effect, check_least, list_changed, option, parse_rule, spell_flag
from bids_semantoks.version import __version__, parse_version


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionConfig:
    """Which runs to process."""

    participant_label: tuple[str, ...] = option((), metavar="LABEL...", aliases=("--participant_label",))
    exclude_participant_label: tuple[str, ...] = option((), metavar="LABEL...")
    exclude_by: tuple[str, ...] = option((), metavar="RULE...")
    exclude_runs: tuple[str, ...] = option((), metavar="RUN...")
    ignore_missing_participants: bool = option(False)
    session_id: tuple[str, ...] = option((), metavar="LABEL...", aliases=("--session-label",))
    sessions: str = option("mean", choices=("first", "mean", "each"))
    task_id: tuple[str, ...] = option((), metavar="LABEL...", aliases=("-t", "--task-label"))
    run_id: tuple[str, ...] = option((), metavar="LABEL...")
    echo_id: tuple[str, ...] = option((), metavar="LABEL...", aliases=("--echo-idx",))
    direction_id: tuple[str, ...] = option((), metavar="LABEL...", aliases=("--direction-label",))
    acquisition_id: tuple[str, ...] = option((), metavar="LABEL...", aliases=("--acquisition-label",))
    space: str | None = option(None, metavar="NAME")
    bids_filter_file: Path | None = option(None, metavar="FILE")
    derivatives: tuple[str, ...] = option((), metavar="PATH...", aliases=("-d",))
    input_type: str = option("auto", choices=("auto", "images", "series"))
    combined_runs: str = option("parts", choices=("parts", "whole"))
    layout: str | None = option(None, metavar="NAME_OR_FILE")
    bids_database_dir: Path | None = option(None, metavar="DIR")

    def __post_init__(self) -> None:
        for text in self.exclude_by:
            parse_rule(text)


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalsConfig:
    """Extraction of parcel signals."""

    atlas: str = option("Schaefer400Tian3Buckner7", metavar="NAME_OR_PATH")
    atlas_dir: Path | None = option(None, metavar="DIR")
    denoise: str = option("simple", metavar="NAME_OR_FILE")
    band_pass: tuple[float, float] | None = option((0.01, 0.1), metavar="LOW HIGH", off="--no-band-pass")
    fd_threshold: float | None = option(None, metavar="MM")
    motion_filter: str | None = option(None, metavar="lp:HZ|notch:LOW-HIGH")
    dummy_scans: str = option("auto", metavar="auto|N")
    min_time: float = option(100.0, metavar="SECONDS")
    min_coverage: float = option(0.5, metavar="SHARE")
    signals_only: bool = option(False)
    save_raw_signals: bool = option(False)
    connectivity: str = option("tsv", choices=("tsv", "npy", "none"))

    def __post_init__(self) -> None:
        check(
            all(math.isfinite(x) for x in (*(self.band_pass or ()), self.fd_threshold or 0, self.min_time)),
            "--band-pass, --fd-threshold and --min-time must be finite, "
            f"found {self.band_pass}, {self.fd_threshold} and {self.min_time}.",
            "Use --no-band-pass, or remove --fd-threshold.",
        )
        if self.band_pass is not None:
            low, high = self.band_pass
            check(
                low >= 0 and (high == 0 or high > low) and (low, high) != (0, 0),
                f"--band-pass must have 0 <= LOW < HIGH (Hz), found {low:g} {high:g}.",
                "Use 0 to disable one edge, or --no-band-pass.",
            )
        check(
            self.fd_threshold is None or self.fd_threshold > 0,
            f"--fd-threshold must be above 0 mm, found {self.fd_threshold}.",
            "Remove the option to disable scrubbing.",
        )
        if self.motion_filter is not None:
            parse_motion_filter(self.motion_filter)
        check(
            self.dummy_scans == "auto" or self.dummy_scans.isdecimal(),
            f"--dummy-scans must be auto or a non-negative integer, found {self.dummy_scans!r}.",
        )
        check(self.min_time >= 0, f"--min-time must be 0 or more seconds, found {self.min_time:g}.")
        check(0 <= self.min_coverage <= 1, f"--min-coverage must be between 0 and 1, found {self.min_coverage:g}.")


#: Readouts: ways to pool the tokens of a window into an embedding.
_READOUTS: Final = ("cls_avg", "cls", "avg", "networks")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """Encoding of parcel signals into embeddings."""

    model: str = option("SamGijsen/Brain-Semantoks", metavar="NAME_OR_PATH...", rest="more_models")
    more_models: tuple[str, ...] = ()  # group level
    device: str = option("auto", metavar="auto|cpu|cuda|cuda:N|mps")
    precision: str = option("auto", choices=("auto", "fp32", "bf16", "fp16"))
    batch_size: int = option(32, metavar="N")
    n_windows: int = option(8, metavar="N")
    min_kept: float = option(0.5, metavar="SHARE")
    pooling: tuple[str, ...] = option(("cls_avg",), metavar="cls_avg|cls|avg|networks...", choices=_READOUTS)
    networks_format: str = option("npy", choices=("npy", "tsv"))
    save_tokens: bool = option(False)

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size", "n_windows")
        check(bool(self.pooling), "--pooling needs at least one readout.", f"Expected {', '.join(_READOUTS)}.")
        check(len(set(self.pooling)) == len(self.pooling), f"--pooling has duplicates: {' '.join(self.pooling)}.")
        is_used = self.networks_format == "npy" or "networks" in self.pooling
        check_effect(is_used, f"--networks-format {self.networks_format}", "--pooling networks")
        check(0 <= self.min_kept <= 1, f"--min-kept must be between 0 and 1, found {self.min_kept:g}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningConfig:
    """Execution options. Only the seed affects results."""

    n_procs: int | None = option(None, metavar="N", aliases=("--nprocs", "--n-cpus"))
    omp_nthreads: int | None = option(None, metavar="N")
    mem: str | None = option(None, metavar="SIZE")
    work_dir: Path | None = option(None, metavar="DIR", aliases=("-w",))
    random_seed: int = option(0, metavar="N")
    dry_run: bool = option(False)
    check: bool = option(False)
    format: str = option("text", choices=("text", "tsv"))
    reports_only: bool = option(False)
    figures: str | None = option(None, choices=("svg", "png"))
    boilerplate_only: bool = option(False)
    overwrite: bool = option(False)
    redo_older_than: str | None = option(None, metavar="VERSION")
    stop_on_first_crash: bool = option(False)
    ignore_failed_runs: bool = option(False)
    notrack: bool = option(False)
    verbose: int = option(0, aliases=("-v",))
    quiet: bool = option(False, aliases=("-q",))

    def __post_init__(self) -> None:
        check(
            self.reports_only + self.boilerplate_only + self.dry_run <= 1,
            "--dry-run, --reports-only and --boilerplate-only are mutually exclusive.",
            "Use one of them.",
        )
        check_effect(self.dry_run or self.format == "text", f"--format {self.format}", "--dry-run")
        hint = "Add --dry-run; without it, each run is checked anyway."
        check_effect(self.dry_run or not self.check, "--check", "--dry-run", hint)
        if self.redo_older_than is not None:
            check_version(self.redo_older_than)
        check_least(self, 1, "n_procs", "omp_nthreads")
        if self.mem is not None:
            parse_memory(self.mem)


@dataclass(frozen=True, kw_only=True, slots=True)
class AppConfig:
    """Complete configuration of one call."""

    bids_dir: Path
    out_dir: Path
    level: str  # participant or group
    selection: SelectionConfig = SelectionConfig()
    signals: SignalsConfig = SignalsConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    probing: ProbingConfig = ProbingConfig()
    running: RunningConfig = RunningConfig()
    # fields set on the command line
    given: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    @property
    def min_kept(self) -> float | None:
        """Smallest kept share of a window that is used; None if all windows and runs are weighted equally."""
        return None if self.probing.protocol == "paper" else self.embedding.min_kept

    def is_given(self, stage: SignalsConfig, name: str) -> bool:
        """Return whether an option of a stage is on the command line, or differs from its default."""
        return name in self.given or getattr(stage, name) != getattr(type(stage)(), name)

    def __post_init__(self) -> None:
        check(self.level in ("participant", "group"), f"The level must be participant or group, found {self.level!r}.")
        more = self.embedding.more_models
        check(
            not more or (self.level == "group" and not self.pretraining.pretrain),
            f"--model has {1 + len(more)} encoders: {self.embedding.model}, {', '.join(more)}.",
            "Several encoders are allowed only at the group level without --pretrain.",
        )
        asked = list(map(spell_flag, list_changed(self.pretraining)))
        hint = "Use --pretrain at the group level to train an encoder, --model to use an existing one."
        is_used = self.pretraining.pretrain or bool(self.probing.scaling)
        check_effect(is_used or not asked, ", ".join(asked), "--pretrain", hint)
        check(
            not self.probing.finetune or self.embedding.pooling[0] != "networks",
            "--finetune trains a head on cls_avg, cls or avg, but the first readout of --pooling is networks.",
            "List another readout first.",
        )


def parse_motion_filter(text: str) -> tuple[str, tuple[float, ...]]:
    """Parse --motion-filter: ``lp`` and its edge in Hz, or ``notch`` and its edges in breaths per minute. Raises
    ConfigurationError for anything else."""
    number = r"(\d+\.?\d*|\.\d+)"
    found = re.fullmatch(rf"(lp):{number}|(notch):{number}-{number}", text, re.ASCII)
    kind, *cells = [cell for cell in found.groups() if cell] if found else [""]
    edges = tuple(map(float, cells))
    check(
        bool(edges) and 0 < edges[0] <= edges[-1] < math.inf and (kind == "lp" or edges[0] < edges[1]),
        f"--motion-filter must be lp:HZ or notch:LOW-HIGH with 0 < LOW < HIGH breaths per minute, found {text!r:.60}.",
        "For example lp:0.1, or notch:12-18.",
    )
    return kind, edges


def check_version(text: str) -> None:
    """Refuse a --redo-older-than that is not a version or would recompute everything in every call."""
    check(
        bool(parse_version(text)[0]),
        f"--redo-older-than must be a version, found {text!r:.60}.",
        f"For example {__version__}.",
    )
    check(
        parse_version(text) <= parse_version(__version__),
        f"--redo-older-than {text} is newer than this version ({__version__}): every call would recompute everything.",
        "Use this version or an earlier one.",
    )


def parse_memory(text: str) -> int:
    """Parse a memory size as batch systems write it (K, M, G, T, optional B or iB; MB by default) into bytes.
    Raises ConfigurationError for anything else."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    bare = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = units.get(bare[-1:])
    try:
        size = int(float(bare[:-1] if unit else bare) * (unit or 2**20))
    except ValueError:
        size = 0
    check(size > 0, f"--mem must be a size such as 8G or 16000 (MB), found {text!r}.")
    return size
