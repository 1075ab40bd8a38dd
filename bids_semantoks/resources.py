"""Numbers of processes and threads, and the location of temporary files."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from bids_semantoks.config import RunningConfig, parse_memory
from bids_semantoks.outputs.files import check_writable
from bids_semantoks.pool import count_cpus, count_threads

LOGGER = logging.getLogger("bids_semantoks")

#: What one process needs besides the encoder's weights, as measured on 2 mm runs.
_PROCESS_BYTES = 900 * 2**20
#: Processes that share a GPU unless more are asked for: each has a context and weights of its own in its memory.
_GPU_PROCS = 8
#: Where libraries keep what they make, by the variable that moves it.
_CACHES = (("MPLCONFIGDIR", "matplotlib"), ("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton"))


def open_work_dir(work_dir: Path | None, out_dir: Path) -> None:
    """Direct temporary files and caches of this process and its children to a writable directory, created if needed.

    Without `work_dir` the system's choice stays, or ``OUT_DIR/.work`` if it has none: a container may have a read-only
    root
    and a user without home. Raises ConfigurationError if the directory is not writable, ResourceError if the disk is
    full.
    """
    if work_dir is None and not _has_temporary_place():
        work_dir = out_dir / ".work"
    if work_dir is not None:
        work_dir = work_dir.resolve()
        check_writable(work_dir)
        tempfile.tempdir = str(work_dir)
        os.environ["TMPDIR"] = str(work_dir)
    elif os.access(os.environ.get("HOME", ""), os.W_OK):
        return
    caches = work_dir or Path(tempfile.gettempdir()) / f"bids_semantoks-{os.getuid()}"
    for variable, name in _CACHES:
        os.environ.setdefault(variable, str(caches / name))


def _has_temporary_place() -> bool:
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        return False
    return True


def choose_n_procs(running: RunningConfig, *, n_jobs: int, model_bytes: int, device: str = "cpu") -> int:
    """Choose the number of processes, at least 1, with a warning if --mem allows fewer than requested.

    By default each process gets two runs or more, since starting one costs seconds, and a GPU at most `_GPU_PROCS`
    processes. Each loads the weights (`model_bytes`).
    """
    most = count_cpus() if device == "cpu" else min(count_cpus(), _GPU_PROCS)
    n_procs = running.n_procs or min(most, n_jobs // 2)
    n_procs = max(1, min(n_procs, n_jobs))
    if running.mem is not None:
        each = _PROCESS_BYTES + 2 * model_bytes
        fitting = max(1, parse_memory(running.mem) // each)
        if fitting < n_procs:
            LOGGER.warning(
                "%d instead of %d processes: each needs about %.1f GB and --mem is %s.",
                fitting,
                n_procs,
                each / 2**30,
                running.mem,
            )
            n_procs = fitting
    return n_procs


def choose_n_threads(running: RunningConfig, *, n_procs: int) -> int:
    """Choose the threads of each process, at least 1, if `n_procs` processes share the CPUs."""
    return running.omp_nthreads or max(1, min(count_threads(), count_cpus() // n_procs))
