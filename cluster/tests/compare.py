"""Compare the tables of two output folders: the same files, the same text, the same numbers.

Usage: python cluster/tests/compare.py ONE OTHER [--level participant]

Embeddings may differ by rounding, since the kernels that a machine chooses depend on its threads; everything else must
be identical. Exits with 1 and lists the first files that differ.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-5
#: Timings are not results, and distances between embeddings differ by rounding as these do.
TIMES = ("seconds", "peak_rss_mb", "window_similarity", "cohort_distance")


def find_tables(root: Path, level: str) -> dict[str, Path]:
    """Find the tables and arrays below a folder, except logs, by relative path."""
    paths = {str(path.relative_to(root)): path for path in root.rglob("*") if path.suffix in (".tsv", ".npy")}
    logs = {name: path for name, path in paths.items() if not name.startswith("logs/")}
    return {name: path for name, path in logs.items() if level == "group" or name.startswith("sub-")}


def read_numbers(path: Path) -> np.ndarray:
    """Read the numbers of a table or array; text becomes NaN."""
    if path.suffix == ".npy":
        return np.load(path)
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return np.genfromtxt(rows, delimiter="\t", dtype=float) if rows else np.empty(0)


def read_results(path: Path) -> bytes:
    """Read a file without the timing columns."""
    if path.name not in ("group_status.tsv", "group_qc.tsv"):
        return path.read_bytes()
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [i for i, name in enumerate(rows[0]) if name not in TIMES]
    return "\n".join("\t".join(row[i] for i in kept) for row in rows).encode()


def find_difference(one: Path, other: Path) -> float:
    """Find the largest difference: 0 for the same bytes, infinity if rounding does not explain it."""
    if read_results(one) == read_results(other):
        return 0.0
    if "_embedding" not in one.name and "_tokens" not in one.name and "phenotype" not in one.parts:
        return np.inf
    a, b = read_numbers(one), read_numbers(other)
    return float(np.nanmax(np.abs(a - b))) if a.shape == b.shape else np.inf


def main() -> None:
    """Compare and report the agreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--level", choices=("participant", "group"), default="group")
    arguments = parser.parse_args()
    one, other = (find_tables(root, arguments.level) for root in (arguments.one, arguments.other))
    if one.keys() != other.keys() or not one:
        sys.exit(f"{len(one)} and {len(other)} tables; only in one: {sorted(one.keys() ^ other.keys())[:5]}")
    differences = {name: find_difference(one[name], other[name]) for name in one}
    wrong = {name: value for name, value in differences.items() if value > TOLERANCE}
    if wrong:
        sys.exit(f"{len(wrong)} of {len(one)} tables differ: {list(wrong.items())[:5]}")
    same = sum(value == 0 for value in differences.values())
    print(f"{len(one)} tables agree, {same} of them byte for byte; largest difference {max(differences.values()):.1e}")


if __name__ == "__main__":
    main()
