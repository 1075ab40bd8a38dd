"""Signals that ask the program to end are answered with one sentence, unless they were ignored at the start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# A program that waits for what comes, in the place of a level.
WAIT = """
import signal, sys, time
from bids_semantoks import cli

class Swallow:
    def __del__(self):
        print("held", flush=True)
        time.sleep(60)

def wait(_):
    if "swallow" in sys.argv:
        swallow = Swallow()
        del swallow
        time.sleep(60)
    try:
        print("held", flush=True)
        sys.stdin.readline()
        cli._say("bids_semantoks: done")
        return 0
    finally:
        if "slow" in sys.argv:
            print("tidying", flush=True)
            time.sleep(0.5)
            print("tidied", flush=True)

cli._run, cli.parse = wait, list
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)  # tests may run under nohup, or in the background of a shell
if "ignore" in sys.argv:
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
cli.main()
"""


def start(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", WAIT, *arguments], **pipes, text=True, env=environment)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize(
    ("name", "code"),
    [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGHUP", 143), ("SIGXCPU", 143), ("SIGQUIT", 143), ("SIGINT", 130)],
)
def test_a_signal_is_answered_with_one_sentence(name, code):
    process = start()
    process.send_signal(getattr(signal, name))
    _, text = process.communicate(timeout=30)
    assert process.returncode == code
    assert len(text.splitlines()) == 1
    assert "rerun to resume" in text


def test_signals_ignored_at_the_start_stay_ignored():
    """A program started by nohup outlives its terminal."""
    process = start("ignore")
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    _, text = process.communicate("go on\n", timeout=30)
    assert (process.returncode, text) == (0, "bids_semantoks: done\n")


def test_signals_that_follow_do_not_disturb_the_tidying_up():
    """Schedulers send several, to each process of a group."""
    process = start("slow")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "tidying\n"
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        process.send_signal(number)
    printed, text = process.communicate(timeout=30)
    assert (process.returncode, printed) == (143, "tidied\n")
    assert len(text.splitlines()) == 1


def test_a_signal_whose_exception_is_lost_ends_the_call_all_the_same():
    process = start("swallow")
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate(timeout=4)
    assert process.returncode == 143
    assert len(text.splitlines()) == 1
    assert "rerun to resume" in text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_sentence():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "bids_semantoks", "--version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr
