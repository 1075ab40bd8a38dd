"""Processes, threads and memory that a call may use, where its temporary files go, and the record of its launch."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import resource
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bids_semantoks.config.call import RunningConfig, parse_memory
from bids_semantoks.disk import check_writable
from bids_semantoks.errors import SemantoksError, TrainingStopped
from bids_semantoks.files import write_json

LOGGER = logging.getLogger("bids_semantoks")

#: Memory of one process besides the encoder's weights, measured on 2 mm runs.
_PROCESS_BYTES = 900 * 2**20

#: Processes that share a GPU unless more are requested: each keeps its own context and weights in GPU memory.
_GPU_PROCS = 8

#: Cache folders of libraries, by the variable that moves them.
_CACHES = (("MPLCONFIGDIR", "matplotlib"), ("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton"))

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def open_work_dir(work_dir: Path | None, out_dir: Path) -> None:
    """Direct temporary files and caches of this process and its children to a writable directory, created if needed.

    Without `work_dir` the system's choice stays, or ``OUT_DIR/.work`` if it has none: a container may
    have a read-only root and a user without home. Raises ConfigurationError if the directory is not
    writable, ResourceError if the disk is full.
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
    caches = work_dir or _find_own_folder()
    for variable, name in _CACHES:
        os.environ.setdefault(variable, str(caches / name))


def _find_own_folder() -> Path:
    """Find or make the folder of this user among the temporary files. If that path belongs to or is writable by
    others (e.g. a link), create a fresh one that is removed at exit: libraries run code from caches."""
    path = Path(tempfile.gettempdir()) / f"bids_semantoks-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        path.chmod(0o700)
        return path
    LOGGER.warning("%s belongs to another user or is writable by others; caches are kept for this call only.", path)
    fresh = tempfile.TemporaryDirectory(prefix=f"{path.name}-", ignore_cleanup_errors=True)
    atexit.register(fresh.cleanup)
    return Path(fresh.name)


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
                "Using %d instead of %d processes: each needs about %.1f GB and --mem is %s.",
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


def count_cpus() -> int:
    """Count the usable CPUs: the minimum of affinity mask, cgroup quota and SLURM_CPUS_PER_TASK."""
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdecimal():
        counts.append(int(slurm))
    counts += _read_cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(counts))


def count_threads() -> int:
    """Count the threads that one process may use: the usable CPUs, or OMP_NUM_THREADS if smaller."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    # OpenMP allows a list, one number for each level of nesting.
    first = asked.partition(",")[0].strip()
    return max(1, min(count_cpus(), int(first))) if first.isdecimal() else count_cpus()


def read_peak_memory() -> int:
    """Return the peak memory of this program in bytes, from /proc if possible:
    getrusage starts at the size of the parent."""
    with contextlib.suppress(OSError, LookupError, ValueError):
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _read_cgroup_quota(root: Path) -> list[int]:
    """Read the CPU quota of cgroup v2 or v1, rounded up; empty if there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return []
    return [-(-int(quota) // int(period))] if quota.isdecimal() and int(quota) > 0 else []


def find_memory_limit(running: RunningConfig, root: Path = Path("/sys/fs/cgroup")) -> tuple[int, str]:
    """Find the memory in bytes that a call may use, and what sets it: --mem, the cgroup or the machine."""
    found = [(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # ``max`` where there is no limit
            found.append((int((root / name).read_text()), "the limit of its container or job"))
    if running.mem is not None:
        found.append((parse_memory(running.mem), f"--mem {running.mem}"))
    return min(found)


def limit_threads(n_threads: int) -> None:
    """Limit the threads of numerical libraries that this process or its children load from now on."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(n_threads)
    # On a busy machine, threads that spin while waiting take the CPUs from the threads they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def read_rank() -> int:
    """Return the rank of this process under torchrun; 0 without it."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and "WORLD_SIZE" in os.environ else 0


@contextlib.contextmanager
def record_end(out_dir: Path) -> Iterator[None]:
    """Record how the enclosed block ended: status, exit code and message.

    The record of an earlier launch of the same name is removed; a process that is killed or interrupted leaves none.
    """
    path = find_record(out_dir)
    if path is None:
        yield
        return
    with contextlib.suppress(OSError):
        path.unlink()
    status, code, message = "ok", 0, ""
    try:
        yield
    except SemantoksError as error:
        status = "stopped" if isinstance(error, TrainingStopped) else "failed"
        code, message = error.exit_code, str(error)
        raise
    except Exception as error:
        status, code, message = "failed", 1, f"{type(error).__name__}: {error}"
        raise
    except BaseException:
        # Interrupted: the outcome of the launch is unknown, so nothing is recorded.
        path = None
        raise
    finally:
        if path is not None:
            # A full disk must not mask the error that is being raised.
            with contextlib.suppress(OSError):
                write_json(path, {"status": status, "exit_code": code, "message": message})


def find_record(out_dir: Path) -> Path | None:
    """Return the path of the launch record, ``logs/launch-<rdzv id>.json``; None without
    torchrun and in all ranks but the first."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not launch or read_rank() > 0:
        return None
    return out_dir / "logs" / f"launch-{re.sub(r'[^A-Za-z0-9_.-]', '_', launch)}.json"
