"""Jobs are done in one or several processes, and a process that dies costs one job."""

import contextlib
import hashlib
import logging
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from bids_semantoks.runtime import processes, resources


def build_worker(offset):
    def work(job):
        if job == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return job + offset, os.getpid()

    return work


@pytest.mark.parametrize("n_procs", [1, 2])
def test_results_belong_to_their_jobs(n_procs):
    jobs = list(range(7))
    results = dict(processes.run_jobs(partial(build_worker, 100), jobs, n_procs=n_procs))
    assert {i: value for i, (value, _) in results.items()} == {i: i + 100 for i in jobs}
    used = {process for _, process in results.values()}
    assert (used == {os.getpid()}) == (n_procs == 1)


def test_a_killed_process_costs_one_job():
    jobs = [1, "die", 2, 3, "die"]
    results = dict(processes.run_jobs(partial(build_worker, 0), jobs, n_procs=2))
    assert sorted(results) == [0, 1, 2, 3, 4]
    for i, job in enumerate(jobs):
        if job == "die":
            assert isinstance(results[i], processes.WorkerDied)
            assert results[i].was_killed
        else:
            assert results[i][0] == job


class Fatal:
    """Kills the process that pickles it, as the kernel may when an answer takes the last memory."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def build_speaking_worker():
    def work(job):
        logging.getLogger("bids_semantoks").info("did %s", job)
        return Fatal() if job == "answer" else job

    return work


def test_a_process_killed_as_it_answers_costs_one_job_and_none_of_its_log(caplog):
    jobs = [1, "answer", 2, "answer", 3]
    results = {}
    with caplog.at_level(logging.INFO):
        for i, result in processes.run_jobs(build_speaking_worker, jobs, n_procs=2):
            results[i] = result
            assert f"did {jobs[i]}" in caplog.messages
    assert [isinstance(results[i], processes.WorkerDied) for i in range(5)] == [job == "answer" for job in jobs]
    assert sorted(caplog.messages) == sorted(f"did {job}" for job in jobs)


def build_half_answering_worker():
    def work(job):
        if job == "half":
            # The length of a message, then less than it: what is in the pipe when the kernel kills the writer.
            for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                        os.write(descriptor, struct.pack("!i", 1000) + b"x" * 10)
            os.kill(os.getpid(), signal.SIGKILL)
        return job

    return work


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_process_killed_in_the_middle_of_its_answer_costs_one_job():
    results = dict(processes.run_jobs(build_half_answering_worker, [1, "half", 2], n_procs=2))
    assert isinstance(results[1], processes.WorkerDied)
    assert (results[0], results[2]) == (1, 2)


@pytest.mark.parametrize("n_procs", [1, 2])
def test_an_error_in_a_worker_is_raised_here(n_procs):
    with pytest.raises(TypeError, match="unsupported operand"):
        list(processes.run_jobs(partial(build_worker, "text"), [1, 2, 3], n_procs=n_procs))


@pytest.mark.parametrize("n_procs", [1, 2])
def test_no_job_is_begun_once_no_more_are_wanted(n_procs):
    """What is in progress is finished: with two processes one other job, at most, was given out before the answer."""
    done = []
    for i, _ in processes.run_jobs(
        partial(build_worker, 0), list(range(9)), n_procs=n_procs, is_wanted=lambda: len(done) < 3
    ):
        done.append(i)
    assert 3 <= len(done) < 3 + n_procs
    assert len(set(done)) == len(done)


def build_holding_worker(folder):
    def work(job):
        if job == "hold":
            try:
                (folder / "half").touch()
                while True:
                    time.sleep(0.01)
            finally:
                (folder / "half").unlink()
        while not (folder / "half").exists():
            time.sleep(0.01)
        return job

    return work


def test_processes_that_are_ended_take_away_what_is_half_done(tmp_path):
    results = processes.run_jobs(partial(build_holding_worker, tmp_path), ["hold", "follow", "follow"], n_procs=2)
    assert next(results) == (1, "follow")
    assert (tmp_path / "half").exists()
    results.close()
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("64", 3), ("2,1", 2), ("", 3), ("many", 3), ("0", 1)])
def test_threads_are_bounded_by_what_openmp_is_told(monkeypatch, asked, expected):
    monkeypatch.setattr(resources, "count_cpus", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert resources.count_threads() == expected


@pytest.mark.parametrize(("asked", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cpus_to_others(monkeypatch, asked, expected):
    for name in resources._THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", asked or "")
    if asked is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    resources.limit_threads(3)
    assert os.environ["OMP_WAIT_POLICY"] == expected
    assert all(os.environ[name] == "3" for name in resources._THREAD_VARIABLES)


def test_the_largest_memory_is_this_process_own():
    """A process started by a large one begins small; and what was used and given back counts."""
    ballast = b"x" * (200 * 2**20)
    assert resources.read_peak_memory() > len(ballast)
    code = "from bids_semantoks.runtime.resources import read_peak_memory as peak\n"
    code += "a = peak(); b'x' * (90 * 2**20); print(a, peak())"
    environment = {**os.environ, "PYTHONPATH": str(Path(processes.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 100 * 2**20
    assert 85 * 2**20 < after - before < 110 * 2**20


def test_cpus_are_bounded_by_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    available = resources.count_cpus()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert resources.count_cpus() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1000")
    assert resources.count_cpus() == available


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000"}, [2]),
        ({"cpu.max": "max 100000"}, []),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, [3]),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ({}, []),
    ],
)
def test_cgroup_quota(tmp_path, files, expected):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert resources._read_cgroup_quota(tmp_path) == expected


def build_deaf_worker(folder):
    def work(job):
        (folder / str(os.getpid())).touch()
        return hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a long call of a library, which sees no signal

    return work


def is_running(process):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_until(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


def test_processes_in_long_computations_are_ended_within_five_seconds(tmp_path):
    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGUSR2, stop)
    watch = threading.Thread(
        target=lambda: wait_until(lambda: len(list(tmp_path.iterdir())) == 2) and os.kill(os.getpid(), signal.SIGUSR2)
    )
    watch.start()
    try:
        with pytest.raises(TimeoutError):
            list(processes.run_jobs(partial(build_deaf_worker, tmp_path), range(2), n_procs=2))
    finally:
        signal.signal(signal.SIGUSR2, before)
        watch.join()
    assert not any(is_running(path.name) for path in tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")
def test_processes_do_not_outlive_a_parent_that_was_killed(tmp_path):
    code = "import sys; from functools import partial; from pathlib import Path\n"
    code += "from runtime.test_processes import build_deaf_worker as build\n"
    code += "from bids_semantoks.runtime.processes import run_jobs\n"
    code += "if __name__ == '__main__': list(run_jobs(partial(build, Path(sys.argv[1])), [1, 2], n_procs=2))"
    script = tmp_path / "script.py"
    script.write_text(code)
    (folder := tmp_path / "workers").mkdir()
    paths = [str(Path(processes.__file__).parents[2]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    parent = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)
    assert wait_until(lambda: len(list(folder.iterdir())) == 2)
    parent.kill()
    parent.wait()
    started = time.monotonic()
    assert wait_until(lambda: not any(is_running(path.name) for path in folder.iterdir()))
    assert time.monotonic() - started < 5


def build_exhausted_worker():
    return lambda _: os.kill(os.getpid(), signal.SIGXCPU)


def test_a_process_that_used_up_its_cpu_time_ends_the_call():
    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGXCPU, stop)
    try:
        with pytest.raises(TimeoutError):
            list(processes.run_jobs(build_exhausted_worker, [1, 2], n_procs=2))
    finally:
        signal.signal(signal.SIGXCPU, before)


def test_a_script_without_a_guard_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import functools, operator\n"
        "from bids_semantoks.runtime.processes import run_jobs\n"
        "print('once', sorted(run_jobs(functools.partial(operator.itemgetter, 0), ['ab', 'cd'], n_procs=2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("once [(0, 'a'), (1, 'c')]\n", "")
