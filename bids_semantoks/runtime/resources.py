"""Processes, threads and memory that a call may use, its temporary files, and how it was launched."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import resource
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from bids_semantoks.config.call import RunningConfig, parse_memory
from bids_semantoks.disk import check_writable
from bids_semantoks.errors import ConfigurationError, SemantoksError, TrainingStopped
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
    """Choose the number of processes, at least 1, with a warning if --mem allows fewer than requested. By default each
    process gets two runs or more, since starting one costs seconds, and a GPU at most `_GPU_PROCS` processes. Each
    loads the weights (`model_bytes`)."""
    most = count_cpus() if device == "cpu" else min(count_cpus(), _GPU_PROCS)
    n_procs = running.n_procs or min(most, n_jobs // 2)
    n_procs = max(1, min(n_procs, n_jobs))
    if running.mem is not None:
        each = _PROCESS_BYTES + 2 * model_bytes
        fitting = max(1, parse_memory(running.mem) // each)
        if fitting < n_procs:
            facts = fitting, n_procs, each / 2**30, running.mem
            LOGGER.warning("Using %d instead of %d processes: each needs about %.1f GB and --mem is %s.", *facts)
            n_procs = fitting
    return n_procs


def share_cpus(running: RunningConfig, *, n_jobs: int, model_bytes: int, device: str) -> int:
    """Choose the number of processes (`choose_n_procs`); with several, limit the threads of each."""
    n_procs = choose_n_procs(running, n_jobs=n_jobs, model_bytes=model_bytes, device=device)
    if n_procs > 1:
        limit_threads(choose_n_threads(running, n_procs=n_procs))
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
    """Record how the enclosed block ended: status, exit code and message. The record of an earlier launch of the same
    name is removed; a process that is killed or interrupted leaves none."""
    path = find_record(out_dir)
    if path is None:
        yield
        return

    def write(status: str, code: int, message: str) -> None:
        """Write the record, unless the disk is full, which must not mask the error that is being raised."""
        with contextlib.suppress(OSError):
            write_json(path, {"status": status, "exit_code": code, "message": message})

    with contextlib.suppress(OSError):
        path.unlink()
    try:
        yield
    except SemantoksError as error:
        write("stopped" if isinstance(error, TrainingStopped) else "failed", error.exit_code, str(error))
        raise
    except Exception as error:
        write("failed", 1, f"{type(error).__name__}: {error}")
        raise
    write("ok", 0, "")


def find_record(out_dir: Path) -> Path | None:
    """Return the path of the launch record, ``logs/launch-<rdzv id>.json``; None without
    torchrun and in all ranks but the first."""
    launch = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not launch or read_rank() > 0:
        return None
    return out_dir / "logs" / f"launch-{re.sub(r'[^A-Za-z0-9_.-]', '_', launch)}.json"


#: Schedulers send either of the first two; a terminal that goes away, the limit of CPU time and a user the others.
STOPPING: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU, signal.SIGQUIT)


def handle_signals(
    numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> dict[signal.Signals, Any]:
    """Install a handler and return the former ones; signals that are ignored, as by nohup, stay ignored."""
    return {
        number: signal.signal(number, handler) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN
    }


#: What each of several processes must know to find the others, as torchrun sets it.
_REQUIRED: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
#: Variables with the number of tasks that a launcher started (SLURM; Open MPI; MPICH, Intel; MVAPICH2; LSF).
_TASKS: Final = {
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
}
_HINT: Final = (
    "Start the processes with torchrun, on several nodes as cluster/slurm/pretrain.sbatch does; for a single process "
    "unset RANK, WORLD_SIZE and LOCAL_RANK."
)


class Launch(NamedTuple):
    """This process among those that were launched together."""

    rank: int = 0  # from 0
    size: int = 1  # number of processes
    local_rank: int = 0  # rank on this machine
    local_size: int = 1  # number of processes on this machine, as far as it is known


def read_launch() -> Launch:
    """Read the variables that torchrun sets. ConfigurationError if some are missing, are not numbers, or contradict
    each other."""
    numbers = {name: _read_number(name) for name in (*_REQUIRED[:3], "LOCAL_WORLD_SIZE")}
    rank, size, local_rank, local_size = numbers.values()
    if rank is None and size is None and local_rank is None:
        return Launch()
    if size != 1 and (missing := [name for name in _REQUIRED if not os.environ.get(name)]):
        found = [f"{name}={value}" for name, value in numbers.items() if value is not None]
        raise ConfigurationError(
            f"Launcher variables are incomplete: {', '.join(found)} without {', '.join(missing)}.", hint=_HINT
        )
    rank, size, local_rank = rank or 0, size or 0, local_rank or 0
    # The ranks of a machine ascend, so none is smaller than the rank on the machine.
    bounds = [("RANK", rank, "WORLD_SIZE", size), ("LOCAL_RANK", local_rank, "RANK + 1", rank + 1)]
    if local_size is not None:
        bounds.append(("LOCAL_RANK", local_rank, "LOCAL_WORLD_SIZE", local_size))
        bounds.append(("LOCAL_WORLD_SIZE - 1", local_size - 1, "WORLD_SIZE", size))
    for name, value, limit, bound in bounds:
        if value >= bound:
            raise ConfigurationError(
                f"Launcher variables are inconsistent: {name} is {value}, expected less than {limit} ({bound}).",
                hint=_HINT,
            )
    if size > 1:
        port = _read_number("MASTER_PORT")
        if port is None or not 0 < port < 2**16:
            raise ConfigurationError(f"MASTER_PORT is {port}, expected 1 to 65535.", hint=_HINT)
    return Launch(rank=rank, size=size, local_rank=local_rank, local_size=max(local_size or 1, local_rank + 1))


def _read_number(name: str) -> int | None:
    """Read a variable of the launcher; None if it is not set or empty."""
    text = os.environ.get(name, "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise ConfigurationError(f"{name} is {text[:40]!r}, expected an integer of 0 or more.", hint=_HINT)
    return int(text) if text else None


def check_launch() -> None:
    """Raise ConfigurationError if a launcher started several copies of this call that would each train alone."""
    size = read_launch().size
    name, n_tasks = _find_tasks()
    if n_tasks > size:
        alone = f"WORLD_SIZE is {size}" if os.environ.get("WORLD_SIZE") else "RANK is not set"
        raise ConfigurationError(
            f"{_TASKS.get(name, 'srun')} started {n_tasks} tasks ({name}={n_tasks}) and {alone}: each would train the "
            "whole encoder in the same folder.",
            hint="Start one task (--ntasks=1, -n 1), or one per node that starts torchrun, as "
            "cluster/slurm/pretrain.sbatch does.",
        )


def _find_tasks() -> tuple[str, int]:
    """Find the variable with the number of tasks that were launched together, and the number; 1 for none."""
    counts = {name: int(value) for name in _TASKS if (value := os.environ.get(name, "")).isdecimal()}
    # SLURM_NTASKS belongs to the allocation: salloc and sbatch set it as well, and the batch script has a SLURM_PROCID
    # too. It is believed in a task whose environment was cleaned of the variables of its step.
    is_task = os.environ.get("SLURM_PROCID", "").isdecimal() and os.environ.get("ENVIRONMENT") != "BATCH"
    allocated = os.environ.get("SLURM_NTASKS", "")
    if is_task and "SLURM_STEP_NUM_TASKS" not in counts and allocated.isdecimal():
        counts["SLURM_NTASKS"] = int(allocated)
    return max(counts.items(), key=lambda one: one[1], default=("", 1))
