"""Configuration of the run itself, and of a whole call."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from bids_semantoks.config.group import PretrainingConfig, ProbingConfig
from bids_semantoks.config.options import check, option
from bids_semantoks.config.participant import EmbeddingConfig, SelectionConfig, SignalsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningConfig:
    """How the work is done; but for the seed, nothing here changes a result."""

    n_procs: int | None = option(
        None,
        "Processes; by default as many as the cgroup or SLURM_CPUS_PER_TASK allows, but no more than runs.",
        metavar="N",
        aliases=("--nprocs", "--n-cpus"),
    )
    omp_nthreads: int | None = option(
        None, "Threads of each process; by default the CPUs shared out, or fewer as OMP_NUM_THREADS says.", metavar="N"
    )
    mem: str | None = option(
        None, "Memory that all processes may take together (K, M, G or T; MB by default).", metavar="SIZE"
    )
    work_dir: Path | None = option(None, "Where caches and temporary files go.", metavar="DIR", aliases=("-w",))
    random_seed: int = option(0, "Seed of everything random.", metavar="N")
    dry_run: bool = option(False, "Print what would happen to each run, and why; write nothing.")
    reports_only: bool = option(
        False, "Draw the reports again from the files in OUT_DIR; figures that need the images stay as they are."
    )
    boilerplate_only: bool = option(
        False, "Write the methods text with its references to OUT_DIR/logs, and nothing else."
    )
    overwrite: bool = option(False, "Replace outputs that were made with other settings.")
    stop_on_first_crash: bool = option(False, "Stop at the first run that fails.")
    ignore_failed_runs: bool = option(False, "Exit with 0 when runs failed but at least one is ok.")
    notrack: bool = option(False, "Accepted for compatibility: nothing is ever sent anywhere.")
    verbose: int = option(0, "Say more; repeat for still more.", aliases=("-v",))
    quiet: bool = option(False, "Say nothing but errors and the last line.", aliases=("-q",))

    def __post_init__(self) -> None:
        check(
            self.reports_only + self.boilerplate_only + self.dry_run <= 1,
            "--dry-run, --reports-only and --boilerplate-only exclude each other.",
            "Give one of them.",
        )
        check(self.n_procs is None or self.n_procs >= 1, f"--n-procs must be 1 or more, found {self.n_procs}.")
        check(
            self.omp_nthreads is None or self.omp_nthreads >= 1,
            f"--omp-nthreads must be 1 or more, found {self.omp_nthreads}.",
        )
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

    def __post_init__(self) -> None:
        check(
            self.level in ("participant", "group"),
            f"analysis level must be participant or group, found {self.level!r}.",
        )
        asked = [
            f"--{field.name.replace('_', '-')}"
            for field in dataclasses.fields(self.pretraining)
            if getattr(self.pretraining, field.name) != field.default
        ]
        check(
            self.pretraining.pretrain or bool(self.probing.scaling) or not asked,
            f"{', '.join(asked)} would do nothing without --pretrain.",
            "Give --pretrain at the group level to train an encoder, --model to use one.",
        )


def parse_memory(text: str) -> int:
    """Parse a memory size as batch systems write it (K, M, G, T, optional B or iB; MB by default) into bytes.
    Raises ConfigurationError for anything else."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    bare = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = units.get(bare[-1:])
    number = bare[:-1] if unit else bare
    try:
        size = int(float(number) * (unit or 2**20))
    except ValueError:
        size = 0
    check(size > 0, f"--mem must be a size such as 8G or 16000 (MB), found {text!r}.")
    return size
