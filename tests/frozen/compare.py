"""Compare all that the program writes and says with what an earlier commit did: `compare.py COMMIT [--only GROUP...]`.

Both sides run `scenario.py` on the same inputs at the same paths, one after the other; what differs for no reason is
replaced by `normalise.py`. Results of the commit are kept below the cache, and made again when these files change.
"""

from __future__ import annotations

import argparse
import difflib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

from scenario import GROUPS

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
MAX_FILES, MAX_LINES, WIDTH = 40, 20, 180


def git(*arguments: str) -> str:
    """Ask git about this repository."""
    return subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def build_environment(tree: Path, home: Path) -> dict[str, str]:
    """Leave nothing of the user's environment that could reach an output."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(tree),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
        "COLUMNS": "80",
        "TERM": "dumb",
        "TZ": "UTC",
        "MPLCONFIGDIR": str(home.parent / "matplotlib"),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(home / "none"),
        "XDG_CACHE_HOME": str(home / "none"),
        "TEMPLATEFLOW_HOME": str(home / "none"),
        "BIDS_SEMANTOKS_CACHE_DIR": str(home / "none"),
    }


def run_side(tree: Path, home: Path, results: Path, groups: list[str], jobs: int) -> None:
    """Run groups with the code of a tree."""
    print(f"{len(groups)} groups with the code of {tree}", flush=True)
    started, used = time.monotonic(), os.times()
    shutil.rmtree(home / "none", ignore_errors=True)
    command = [sys.executable, str(HERE / "runner.py"), str(tree), str(home), str(results), *groups]
    environment = build_environment(tree, home)
    subprocess.run([*command, "--jobs", str(jobs)], env=environment, check=True)
    shutil.rmtree(home / "work")
    now = os.times()
    spent = now.children_user + now.children_system - used.children_user - used.children_system
    print(f"{time.monotonic() - started:.0f} s, {spent:.0f} s of processor time", flush=True)


def run_base(commit: str, home: Path, groups: list[str], jobs: int) -> None:
    """Run what the cache lacks with the code of the commit."""
    missing = [name for name in groups if not (home / "base" / name).is_dir()]
    if not missing:
        return
    fresh = home / "base-now"
    shutil.rmtree(fresh, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="frozen-") as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            run_side(tree, home, fresh, missing, jobs)
        finally:
            git("worktree", "remove", "--force", str(tree))
    (home / "base").mkdir(exist_ok=True)
    for path in fresh.iterdir():
        shutil.rmtree(home / "base" / path.name, ignore_errors=True)
        path.rename(home / "base" / path.name)
    fresh.rmdir()


def read_results(root: Path, groups: list[str]) -> dict[str, Path]:
    """Find the results of groups by their relative path."""
    found = {str(path.relative_to(root)): path for name in groups for path in (root / name).rglob("*")}
    found |= {path.name: path for path in root.glob("inputs-*")}
    return {name: path for name, path in sorted(found.items()) if path.is_file()}


def read_lines(path: Path) -> list[str]:
    """Read the lines of a result."""
    content = path.read_bytes()
    return (zlib.decompress(content) if path.suffix == ".large" else content).decode().splitlines()


def clip(one: str, other: str) -> tuple[str, str]:
    """Cut two long lines to where they begin to differ."""
    at = max(0, next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0) - 60)
    return one[at : at + WIDTH], other[at : at + WIDTH]


def print_difference(base: Path, now: Path) -> None:
    """Print a short difference of two texts."""
    one, two = read_lines(base), read_lines(now)
    if len(one) == len(two):
        pairs = [(i, *clip(a, b)) for i, (a, b) in enumerate(zip(one, two, strict=True), 1) if a != b]
        lines = [line for i, a, b in pairs for line in (f"-{i}: {a}", f"+{i}: {b}")]
    else:
        lines = [line[:WIDTH] for line in difflib.unified_diff(one, two, lineterm="", n=0)][2:]
    print("".join(f"    {line}\n" for line in lines[:MAX_LINES]), end="")
    if len(lines) > MAX_LINES:
        print(f"    ... {len(lines) - MAX_LINES} more lines")


def compare(base: Path, now: Path, groups: list[str]) -> int:
    """Print what differs between the sides; gives the number of files."""
    one, two = read_results(base, groups), read_results(now, groups)
    different = [
        name
        for name in sorted(one.keys() | two.keys())
        if name not in one or name not in two or one[name].read_bytes() != two[name].read_bytes()
    ]
    for name in different[:MAX_FILES]:
        print(f"{name}{': gone' if name not in two else ': new' if name not in one else ''}")
        if name in one and name in two:
            print_difference(one[name], two[name])
    if len(different) > MAX_FILES:
        print(f"... and {len(different) - MAX_FILES} more files:")
        print("".join(f"  {name}\n" for name in different[MAX_FILES:400]), end="")
    print(f"{len(different)} of {len(one.keys() | two.keys())} results differ.")
    return len(different)


def main() -> int:
    """Run both sides and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="COMMIT", help="commit to compare the working tree with")
    parser.add_argument(
        "--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP", help=" ".join(GROUPS)
    )
    parser.add_argument("--cache", type=Path, default=REPOSITORY / ".frozen", help="results of commits [.frozen]")
    parser.add_argument("--tree", type=Path, default=REPOSITORY, help="code to compare [the working tree]")
    parser.add_argument("--jobs", type=int, default=2, help="groups at a time [2]")
    options = parser.parse_args()
    commit = git("rev-parse", f"{options.base}^{{commit}}")
    names = ("scenario.py", "inputs.py", "runner.py", "normalise.py")
    version = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in names)).hexdigest()
    home = options.cache.resolve() / f"{commit[:10]}-{version[:6]}"
    for outdated in home.parent.glob(f"{commit[:10]}-*"):
        if outdated != home:
            shutil.rmtree(outdated)
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # both sides of every comparison work in the same folder
        run_base(commit, home, options.only, options.jobs)
        shutil.rmtree(home / "now", ignore_errors=True)
        run_side(options.tree.resolve(), home, home / "now", options.only, options.jobs)
        return int(compare(home / "base", home / "now", options.only) > 0)


if __name__ == "__main__":
    sys.exit(main())
