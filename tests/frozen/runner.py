"""Runs groups of the scenario with the code of one tree, and keeps what each call wrote as normalised text.

Third-party libraries are loaded once; each call then runs in a fork of its own, as if it were a new process.
"""

from __future__ import annotations

import argparse
import atexit
import importlib
import logging
import operator
import os
import pkgutil
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zlib
from pathlib import Path

if __name__ == "__main__":  # worker processes that a call spawns load this file, too
    import inputs
    from normalise import Normaliser
    from scenario import GROUPS, INPUTS, SHORT

STAMP = 1_700_000_000  # time of change of every input: sizes and times tell the program what changed
LIMIT = 300  # seconds of a call
LARGE = 50_000  # bytes of a result above which it is kept compressed


class Call:
    """One line of the scenario."""

    def __init__(self, line: str) -> None:
        text, _, options = line.partition("<-")
        self.name, _, self.arguments = text.strip().partition(" ")
        self.kind, self.ending, self.unordered, self.kill_at, self.before = "call", "", False, None, None
        for words in (option.split() for option in options.split(";") if option.strip()):
            match words:
                case ["module"]:
                    self.kind = "module"
                case ["script", *ending]:
                    self.kind, self.ending = "script", "".join(ending)
                case ["unordered"]:
                    self.unordered = True
                case ["kill", number, *pattern]:
                    self.kill_at = (number, " ".join(pattern))
                case [name, *arguments]:
                    self.before = (getattr(inputs, name), arguments)


def load_everything() -> None:
    """Import the package, and with it all libraries, before anything forks."""
    import bids_semantoks  # noqa: PLC0415 - of the tree that PYTHONPATH names

    print(f"  bids_semantoks is loaded from {bids_semantoks.__path__[0]}", flush=True)
    for module in pkgutil.walk_packages(bids_semantoks.__path__, "bids_semantoks."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def read_scripts(tree: Path) -> dict[str, str]:
    """Read the console commands of a tree: name and ``module:function``."""
    return tomllib.loads((tree / "pyproject.toml").read_text())["project"]["scripts"]


def run_script(target: str, name: str, arguments: list[str]) -> int:
    """Run a console command in this process."""
    module, _, function = target.partition(":")
    sys.argv = [name, *arguments]
    try:
        return operator.attrgetter(function)(importlib.import_module(module))() or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


class Killer(logging.Filter):
    """Sends this process a signal in the middle of what it logs: always at the same place."""

    def __init__(self, number: str, pattern: str) -> None:
        super().__init__()
        self.number, self.pattern = signal.Signals[number], re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let everything pass."""
        if self.pattern.search(record.getMessage()):
            self.pattern = re.compile("(?!)")
            signal.raise_signal(self.number)
        return True


class Side:
    """The code of one tree at work in one folder."""

    def __init__(self, tree: Path, home: Path, results: Path) -> None:
        self.tree, self.home, self.results = tree, home, results
        self.inputs, self.work = home / "inputs", home / "work"
        self.scripts = read_scripts(tree)
        self.version = importlib.import_module("bids_semantoks").__version__

    def fill(self, text: str, work: Path) -> list[str]:
        """Put places and short forms into the arguments of a call."""
        places = {"in": str(self.inputs), "w": str(work), "out": str(work / "out")}
        return shlex.split(text.format(**places, **{name: value.format(**places) for name, value in SHORT.items()}))

    def run_group(self, name: str, lines: str, work: Path) -> None:
        """Run the calls of a group one after the other."""
        work.mkdir(parents=True, exist_ok=True)
        watched = Watched(work)
        for i, call in enumerate(map(Call, lines.strip().splitlines())):
            started = time.monotonic()
            if call.before:
                prepare, words = call.before
                prepare(self.inputs, work, *words)
                watched.collect_changes(STAMP + i)
            kept = self.results / name / f"{i:02d}-{call.name}"
            kept.mkdir(parents=True)
            code = self.run_call(call, work, kept)
            normaliser = Normaliser(self.tree, self.version, unordered=call.unordered)
            (kept / "exit-code").write_text(f"{code}\n")
            for stream in (kept / "stdout", kept / "stderr"):
                stream.write_text(normaliser.normalise_text(stream.read_text(errors="replace"), stream.name))
            for path in watched.collect_changes(STAMP + i):
                target = kept / "files" / normaliser.normalise_name(path.relative_to(work), path)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = normaliser.normalise_file(path).encode()
                if len(content) > LARGE:
                    target.with_name(f"{target.name}.large").write_bytes(zlib.compress(content, 1))
                else:
                    target.write_bytes(content)
            names = sorted(normaliser.normalise_name(path.relative_to(work), path) for path in watched.known)
            (kept / "files-that-are-there").write_text("".join(f"{one}\n" for one in names))
            print(f"  {name}: {call.name}, exit code {code}, {time.monotonic() - started:.1f} s", flush=True)

    def run_call(self, call: Call, work: Path, kept: Path) -> int:
        """Run one call in a fork, or in processes of its own, with its streams in files."""
        arguments = self.fill(call.arguments, work)
        with (kept / "stdout").open("wb") as out, (kept / "stderr").open("wb") as err:
            if call.kind == "module":
                command = [sys.executable, "-m", *arguments]
                pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
                return subprocess.run(command, cwd=work, check=False, timeout=LIMIT, **pipes).returncode
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                for source, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out.fileno(), 1), (err.fileno(), 2)):
                    os.dup2(source, number)
                os.chdir(work)
                leave(self.run_here(call, arguments))
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def run_here(self, call: Call, arguments: list[str]) -> int:
        """Run a call in this process."""
        signal.alarm(LIMIT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if call.kind == "script":
            chosen = [name for name in sorted(self.scripts) if name.endswith(call.ending)]
            return max(run_script(self.scripts[name], name, arguments) for name in chosen)
        if call.kill_at:
            logging.getLogger("bids_semantoks").addFilter(Killer(*call.kill_at))
            return run_script(self.scripts["bids_semantoks"], "bids_semantoks", arguments)
        from bids_semantoks.cli import call as run  # noqa: PLC0415 - of the tree that PYTHONPATH names

        return run(arguments)


def leave(code: int) -> None:
    """End a fork as a process ends, but for the interpreter."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Watched:
    """A folder, and what is known of its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[Path, tuple[int, int, int]] = {}

    def collect_changes(self, stamp: int) -> list[Path]:
        """Give the files that are new or changed, and set their times to the stamp."""
        found, changed = {}, []
        for path in sorted(self.folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                continue
            status = path.lstat()
            if self.known.get(path) != (status.st_mtime_ns, status.st_size, status.st_ino):
                changed.append(path)
                if status.st_mtime > STAMP + 1000:
                    os.utime(path, (stamp, stamp), follow_symlinks=False)
                status = path.lstat()
            found[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        self.known = found
        return changed


def run_all(side: Side, groups: list[str], n_jobs: int) -> None:
    """Run each group in a fork, several at a time."""
    running: dict[int, str] = {}
    failed = []
    for name in [*groups, *[""] * n_jobs]:
        if len(running) >= n_jobs or (running and not name):
            pid, status = os.wait()
            if status:
                failed.append(running[pid])
            del running[pid]
        if name:
            sys.stdout.flush()
            if (pid := os.fork()) == 0:
                try:
                    side.run_group(name, GROUPS[name], side.work / name)
                except BaseException:  # noqa: BLE001 - a fork must end here
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                sys.stdout.flush()
                os._exit(0)
            running[pid] = name
    if failed:
        sys.exit(f"The scenario itself failed in: {', '.join(failed)}.")


def main() -> None:
    """Make the inputs, or run groups."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tree", type=Path)
    parser.add_argument("home", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("groups", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    load_everything()
    side = Side(options.tree, options.home, options.results)
    shutil.rmtree(side.work, ignore_errors=True)
    ready = side.home / "inputs-are-ready"
    if not ready.exists():
        shutil.rmtree(side.inputs, ignore_errors=True)
        side.run_group("inputs", INPUTS, side.inputs)
        ready.touch()
    watched = Watched(side.inputs)
    watched.collect_changes(STAMP)
    run_all(side, options.groups, options.jobs)
    if changed := watched.collect_changes(STAMP):
        (side.results / "inputs-changed").write_text("\n".join(map(str, changed)) + "\n")


if __name__ == "__main__":
    main()
