"""Growth of processor time and memory of the group level with cohort size, and the cost of one fold of 50,000 people.

Parts: `embedding` and `kernel` predict one phenotype by the nested protocol from a table of 1,536 numbers, and from
the inner products of connectivity, in one repetition of five folds with 20 permutations; `scores` draws the intervals
of site, 20 classes; `retest` identifies people in a second scan; `map` projects onto two axes. Each part and size runs
in a process of its own. The peer is scikit-learn: the same table, a pipeline of scaling and ridge regression, penalty
chosen by a grid search in five inner folds. `study` relabels the output of a few participants and calls the group
level as a user does: the bytes and files that it leaves, its estimate and what it used. `fold` is one training part of
50,000 x 1,536, from which the time of 55 follows.

Run: python benchmarks/bench_growth.py [--sizes 500 1000 2000 5000] [--parts NAME...] [--baselines NAME...] [--fold]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_scale import OPTIONS

FEATURES, CLASSES = 1536, 20


def make_table(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n, FEATURES), dtype=np.float32)
    return values, values[:, 0] + rng.standard_normal(n)


def predict(n: int, *, is_wide: bool) -> None:
    from bids_semantoks.statistics.folds import SharedSpans, use_threads  # noqa: PLC0415
    from bids_semantoks.statistics.linear import cross_validate  # noqa: PLC0415
    from bids_semantoks.statistics.metrics import compute_scores  # noqa: PLC0415
    from bids_semantoks.statistics.significance import permute_scored_ridge, permute_target  # noqa: PLC0415
    from bids_semantoks.statistics.spans import KernelFeatures, TableFeatures, compute_gram  # noqa: PLC0415
    from bids_semantoks.statistics.splits import build_splits  # noqa: PLC0415
    from bids_semantoks.statistics.targets import Target  # noqa: PLC0415

    values, truth = make_table(n)
    target = Target(name="age", values=truth)
    splits = build_splits(target.compute_strata(), n_repeats=1)
    features = TableFeatures(name="x", values=values)
    if is_wide:
        # More columns than rows, as connectivity has.
        more = np.random.default_rng(1).standard_normal((n, n), dtype=np.float32)
        features = KernelFeatures(name="k", kernel=compute_gram(values) + compute_gram(more))
    with use_threads(1):
        spans = SharedSpans(features)
        permute_scored_ridge(spans, permute_target(target, n_permutations=20, seed=0), splits)
        compute_scores(cross_validate(spans, target, splits))


def score(n: int) -> None:
    from bids_semantoks.statistics.metrics import compute_scores  # noqa: PLC0415
    from bids_semantoks.statistics.predictions import PredictionTable  # noqa: PLC0415
    from bids_semantoks.statistics.splits import build_splits  # noqa: PLC0415
    from bids_semantoks.statistics.targets import Target  # noqa: PLC0415

    rng = np.random.default_rng(0)
    target = Target(name="site", values=(np.arange(n) % CLASSES).astype(float), classes=tuple(map(str, range(CLASSES))))
    splits = build_splits(target.compute_strata(), n_repeats=1)
    table = PredictionTable(target, (1, 5))
    for split in splits:
        scores = rng.dirichlet(np.ones(CLASSES), size=len(split.test))
        table.add((split.repetition, split.fold), (split.train, split.test), scores, 1.0)
    compute_scores(table.build("model"))


def retest(n: int) -> None:
    from bids_semantoks.statistics.reliability import compute_retest  # noqa: PLC0415

    values, _ = make_table(n)
    compute_retest("x", values, values + np.float32(0.1))


def draw_map(n: int) -> None:
    from bids_semantoks.analyses.frames import compute_axes  # noqa: PLC0415

    compute_axes(make_table(n)[0].astype(np.float64))


def predict_as_peer(n: int) -> None:
    from sklearn.linear_model import Ridge  # noqa: PLC0415
    from sklearn.model_selection import GridSearchCV, cross_val_predict  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    values, truth = make_table(n)
    grid = {"ridge__alpha": np.logspace(-4, 4, 13) * FEATURES}
    model = GridSearchCV(make_pipeline(StandardScaler(), Ridge()), grid, cv=5, scoring="neg_mean_squared_error")
    cross_val_predict(model, values.astype(np.float64), truth, cv=5)


def profile_fold(n: int) -> dict[str, float]:
    """Time the steps of one training part."""
    from bids_semantoks.statistics.linear import compute_fold_errors  # noqa: PLC0415
    from bids_semantoks.statistics.spans import TableFeatures  # noqa: PLC0415

    values, truth = make_table(n)
    train, test = np.arange(n // 5, n), np.arange(n // 5)
    marks = [time.process_time()]
    span = TableFeatures(name="x", values=values).compute_span(train, test)
    marks.append(time.process_time())
    compute_fold_errors(span, truth[train], train % 5)
    marks.append(time.process_time())
    return dict(zip(("span", "errors"), np.diff(marks).tolist(), strict=True))


PARTS: dict[str, Callable[[int], object]] = {
    "embedding": lambda n: predict(n, is_wide=False),
    "kernel": lambda n: predict(n, is_wide=True),
    "scores": score,
    "retest": retest,
    "map": draw_map,
    "scikit-learn": predict_as_peer,
    "fold": profile_fold,
}


def write_study(folder: Path, n: int) -> tuple[Path, Path]:
    """Write a cohort by relabelling the output of a few participants; tables are links, sidecars are rewritten."""
    bids_dir, out_dir = folder / "series", folder / "out"
    app = [sys.executable, "-m"]
    demo = [*app, "bids_semantoks.demo", str(bids_dir), "--parcellated", "--participants", "20"]
    subprocess.run(demo, check=True, capture_output=True)
    level = [*app, "bids_semantoks", str(bids_dir), str(out_dir), "participant"]
    subprocess.run([*level, "--model", "random:tiny"], check=True, capture_output=True)
    originals = sorted(path.name for path in out_dir.glob("sub-*") if path.is_dir())
    for number in range(n - len(originals)):
        first, label = originals[number % len(originals)], f"sub-{number:05d}x"
        for path in [*(out_dir / first).rglob("*"), *(out_dir / "logs" / first).rglob("*")]:
            if path.is_dir():
                continue
            place = out_dir / str(path.relative_to(out_dir)).replace(first, label)
            place.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                place.write_text(path.read_text().replace(first, label))
            else:
                place.hardlink_to(path)
    labels = sorted(path.name for path in out_dir.glob("sub-*") if path.is_dir())
    ages = np.random.default_rng(0).normal(50, 10, len(labels)).round(2).tolist()
    lines = [f"{label}\t{age}" for label, age in zip(labels, ages, strict=True)]
    (bids_dir / "participants.tsv").write_text("\n".join(["participant_id\tage", *lines]) + "\n")
    return bids_dir, out_dir


def run_study(n: int, folder: str | None, baselines: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        bids_dir, out_dir = write_study(Path(name), n)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        options = [*OPTIONS[:2], "--model", "random:tiny", "--probe", "age", "--baselines", *baselines]
        done = subprocess.run(
            [sys.executable, "-m", "bids_semantoks", str(bids_dir), str(out_dir), "group", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = re.search(r"Probing \(.*", done.stdout + done.stderr)
        files = [path for path in out_dir.rglob("*") if path.is_file()]
        parts: dict[str, int] = {}
        for path in files:
            part = (
                "runs" if path.relative_to(out_dir).parts[0].startswith("sub-") else path.relative_to(out_dir).parts[0]
            )
            parts[part] = parts.get(part, 0) + path.stat().st_size
        return {
            "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "estimate": said.group(0) if said else "",
            "files": len(files),
            "bytes": parts,
        }


def fit_exponent(sizes: list[int], values: list[float]) -> float:
    """Fit the power of n from the largest sizes, where what every call costs counts least."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


def main() -> None:
    """Print processor seconds, peak memory and the exponents of growth."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 5000])
    parser.add_argument(
        "--parts", nargs="+", default=["embedding", "kernel", "scores", "retest", "map", "scikit-learn"]
    )
    parser.add_argument("--baselines", nargs="+", default=["none"], help="of the study")
    parser.add_argument("--folder", help="where files are written and deleted again")
    parser.add_argument("--fold", action="store_true", help="profile one fold of 50,000 x 1,536")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        part, n = options.way[0], int(options.way[1])
        if part == "study":
            found = run_study(n, options.folder, options.baselines)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        else:
            began = time.process_time()
            steps = PARTS[part](n)
            found = {"cpu": time.process_time() - began, **(steps if isinstance(steps, dict) else {})}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(found | {"peak_mb": peak / 1024}))
        return
    if options.fold:
        print("one fold of 50,000 x 1,536:", measure("fold", 50_000, options))
    for part in options.parts:
        rows = [measure(part, n, options) for n in options.sizes]
        for n, row in zip(options.sizes, rows, strict=True):
            more = {key: value for key, value in row.items() if key not in ("cpu", "peak_mb")}
            print(f"{part:>12} n {n:>6}: {row['cpu']:9.2f} s of CPU, peak {row['peak_mb']:7.0f} MB {more or ''}")
        if len(rows) > 1:
            print(f"{part:>12} grows with n to the {fit_exponent(options.sizes, [row['cpu'] for row in rows]):.2f}")


def measure(part: str, n: int, options: argparse.Namespace) -> dict[str, float]:
    """Call this script again for one part and size, so that imports and memory are its own."""
    command = [sys.executable, __file__, "--way", part, str(n), "--baselines", *options.baselines]
    command += ["--folder", options.folder] if options.folder else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
