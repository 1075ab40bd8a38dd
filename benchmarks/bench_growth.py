"""Growth of processor time and memory of the group level with cohort size, and the cost of one fold of 50,000 people.

Parts: `embedding` and `kernel` predict one phenotype by the nested protocol from a table of 1,536 numbers, and from
the inner products of connectivity, in one repetition of five folds with 20 permutations; `connectivity` goes from
signals to predictions by correlations and by tangent space; `scores` draws the intervals of site, 20 classes; `retest`
identifies people in a second scan; `map` projects onto two axes. Each part and size runs in a process of its own. The
peers are `scikit-learn` (the table of `embedding`, scaling and ridge regression, penalty chosen by a grid search in
five inner folds) and `nilearn` (the same folds with its connectivity, for `connectivity`; try 50 to 200 people).
`study` relabels the output of a few participants and calls the group
level as a user does: the bytes and files that it leaves, its estimate and what it used. `fold` is one training part of
50,000 x 1,536, from which the time of 55 follows.

Run: python benchmarks/bench_growth.py [--sizes 500 1000 2000 5000] [--parts NAME...] [--baselines NAME...] [--fold]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bench_scale import OPTIONS

FEATURES, CLASSES, N_PHENOTYPES, N_SITES = 1536, 20, 20, 10
N_VOLUMES, N_PARCELS = 180, 457
APP = [sys.executable]


def make_table(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n, FEATURES), dtype=np.float32)
    return values, values[:, 0] + rng.standard_normal(n)


def predict(n: int, *, is_wide: bool) -> None:
    from bids_semantoks.statistics.linear import cross_validate
    from bids_semantoks.statistics.metrics import compute_scores
    from bids_semantoks.statistics.predictions import Target
    from bids_semantoks.statistics.significance import permute_scored_ridges, permute_target
    from bids_semantoks.statistics.spans import KernelFeatures, SharedSpans, TableFeatures, compute_gram
    from bids_semantoks.statistics.splits import build_splits, use_threads

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
        permute_scored_ridges(spans, [permute_target(target, n_permutations=20, seed=0)], splits)
        compute_scores(cross_validate(spans, target, splits))


def make_series(n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Make signals (180, 457) of n people, in whom the truth scales what parcels share."""
    rng = np.random.default_rng(2)
    truth, shared = rng.standard_normal(n), rng.standard_normal((20, N_PARCELS))
    latent = rng.standard_normal((n, N_VOLUMES, 20)) * np.exp(0.1 * truth)[:, None, None]
    noise = rng.standard_normal((n, N_VOLUMES, N_PARCELS), dtype=np.float32)
    return [(one @ shared + 2 * more).astype(np.float32) for one, more in zip(latent, noise, strict=True)], truth


def predict_from_series(n: int) -> dict[str, float]:
    from bids_semantoks.statistics.baselines import build_connectivity_features
    from bids_semantoks.statistics.linear import cross_validate
    from bids_semantoks.statistics.metrics import compute_scores
    from bids_semantoks.statistics.predictions import Target
    from bids_semantoks.statistics.spans import SharedSpans
    from bids_semantoks.statistics.splits import build_splits, use_threads

    series, truth = make_series(n)
    target = Target(name="age", values=truth)
    splits = build_splits(target.compute_strata(), n_repeats=1)
    with use_threads(1):
        features = build_connectivity_features([[one] for one in series], ("pearson", "tangent"))
        found = [cross_validate(SharedSpans(one), target, splits) for one in features]
        return {f"r_{one.model}": compute_scores(one)[0].value for one in found}


def predict_from_series_as_peer(n: int) -> dict[str, float]:
    from nilearn.connectome import ConnectivityMeasure
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, cross_val_predict
    from sklearn.pipeline import make_pipeline

    series, truth = make_series(n)
    grid, found = {"alpha": np.logspace(-4, 4, 13) * N_PARCELS}, {}
    for kind in ("correlation", "tangent"):
        ridge = GridSearchCV(Ridge(), grid, cv=5, scoring="neg_mean_squared_error")
        measure = ConnectivityMeasure(kind=kind, vectorize=True, standardize="zscore_sample")
        found[f"r_{kind}"] = float(
            np.corrcoef(cross_val_predict(make_pipeline(measure, ridge), series, truth), truth)[0, 1]
        )
    return found


def score(n: int) -> None:
    from bids_semantoks.statistics.metrics import compute_scores
    from bids_semantoks.statistics.predictions import PredictionTable, Target
    from bids_semantoks.statistics.splits import build_splits

    rng = np.random.default_rng(0)
    target = Target(name="site", values=(np.arange(n) % CLASSES).astype(float), classes=tuple(map(str, range(CLASSES))))
    splits = build_splits(target.compute_strata(), n_repeats=1)
    table = PredictionTable(target, (1, 5))
    for split in splits:
        scores = rng.dirichlet(np.ones(CLASSES), size=len(split.test))
        table.add((split.repetition, split.fold), (split.train, split.test), scores, 1.0)
    compute_scores(table.build("model"))


def retest(n: int) -> None:
    from bids_semantoks.statistics.reliability import compute_retest

    values, _ = make_table(n)
    compute_retest("x", values, values + np.float32(0.1))


def draw_map(n: int) -> None:
    from bids_semantoks.analyses.frames import compute_axes

    compute_axes(make_table(n)[0].astype(np.float64))


def predict_as_peer(n: int) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, truth = make_table(n)
    grid = {"ridge__alpha": np.logspace(-4, 4, 13) * FEATURES}
    model = GridSearchCV(make_pipeline(StandardScaler(), Ridge()), grid, cv=5, scoring="neg_mean_squared_error")
    cross_val_predict(model, values.astype(np.float64), truth, cv=5)


def profile_fold(n: int) -> dict[str, float]:
    """Time the steps of one training part."""
    from bids_semantoks.statistics.linear import compute_fold_errors
    from bids_semantoks.statistics.spans import TableFeatures

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
    "connectivity": predict_from_series,
    "scores": score,
    "retest": retest,
    "map": draw_map,
    "scikit-learn": predict_as_peer,
    "nilearn": predict_from_series_as_peer,
    "fold": profile_fold,
}


class Pieces:
    """Tables drawn from the pieces of a few: other numbers for each person, at the cost of joining text.

    Signals are volumes drawn from all runs, so that each covariance is another; windows of embeddings are made of
    blocks of columns, each drawn from random numbers: as many independent directions as columns."""

    def __init__(self, tables: list[Path], *, n_pool: int = 2000, width: int = 32) -> None:
        lines = [path.read_bytes().splitlines(keepends=True) for path in tables]
        self.header, self.n_rows = lines[0][0], len(lines[0]) - 1
        self.rows, self.blocks = [line for table in lines for line in table[1:]], []
        names = self.header.decode().split("\t")
        if "dim0001" in names:
            self.first = [b"\t".join(line.split(b"\t")[:4]) for line in lines[0][1:]]
            rng = np.random.default_rng(0)
            for start in range(4, len(names), width):
                values = rng.standard_normal((n_pool, min(width, len(names) - start)))
                self.blocks.append([b"\t".join(b"%.9g" % x for x in row) for row in values.tolist()])

    def draw(self, rng: np.random.Generator) -> bytes:
        if not self.blocks:
            return self.header + b"".join(self.rows[i] for i in rng.integers(len(self.rows), size=self.n_rows).tolist())
        drawn = rng.integers(len(self.blocks[0]), size=(self.n_rows, len(self.blocks))).tolist()
        found = [self.header]
        for first, row in zip(self.first, drawn, strict=True):
            found.append(b"\t".join([first, *(block[i] for block, i in zip(self.blocks, row, strict=True))]) + b"\n")
        return b"".join(found)


def write_seed(folder: Path, tree: str) -> None:
    """Write the output of 20 participants, with embeddings by an encoder of published size and its random twin."""
    bids_dir, out_dir = str(folder / "series"), str(folder / "out")
    call([*APP, ".demo", bids_dir, "--parcellated", "--participants", "20"], tree)
    call([*APP, "", bids_dir, out_dir, "participant", *OPTIONS, "--n-procs", "1"], tree)
    few = ["--probe", "sex", "--baselines", "random", "--n-repeats", "1", "--n-permutations", "0", "--n-procs", "1"]
    call([*APP, "", bids_dir, out_dir, "group", *OPTIONS, *few], tree)


def call(command: list[str], tree: str) -> str:
    """Call a module of the package (of another version in `tree`), and return all that it printed."""
    first, module, *others = command
    environment = os.environ | ({"PYTHONPATH": tree} if tree else {})
    whole = [first, "-m", f"bids_semantoks{module}", *others]
    done = subprocess.run(
        whole, capture_output=True, text=True, check=False, env=environment, cwd=tempfile.gettempdir()
    )
    if done.returncode:
        raise SystemExit((done.stdout + done.stderr)[-2000:])
    return done.stdout + done.stderr


def write_study(folder: Path, seed: Path, n: int, *, has_signals: bool) -> tuple[Path, Path]:
    """Write a cohort by relabelling the output of a few participants: embeddings, and where asked for signals, are
    drawn anew, other tables are links, sidecars are rewritten."""
    bids_dir, out_dir = folder / "series", folder / "out"
    shutil.copytree(seed / "series", bids_dir)
    originals = sorted(path.name for path in (seed / "out").glob("sub-*") if path.is_dir())
    # Without baselines nobody reads the embeddings by random weights.
    files = [path for path in (seed / "out").rglob("*") if path.is_file()]
    files = [path for path in files if has_signals or "Untrained_" not in path.name]
    own = {label: [path for path in files if re.search(rf"{label}[_./]", str(path))] for label in originals}
    for path in set(files) - {path for paths in own.values() for path in paths}:
        relative = path.relative_to(seed / "out")
        if not relative.parts[0].startswith("group") and relative.parts[0] != "phenotype":
            (out_dir / relative.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out_dir / relative)
    drawn = {
        name: Pieces([path for path in files if path.name.endswith(name)])
        for name in ("_embedding.tsv", *(["_timeseries.tsv"] if has_signals else []))
    }
    rng, lines = np.random.default_rng(0), []
    for number in range(n):
        first, label = originals[number % len(originals)], f"sub-{number:05d}x"
        write_person(own[first], (first, label), (seed / "out", out_dir), drawn, rng)
        values = rng.standard_normal(N_PHENOTYPES).round(4).tolist()
        lines.append("\t".join([label, "FM"[number % 2], f"place{number % N_SITES}", *map(str, values)]))
    # The leakage of the site, which a column of that name starts, is no matter of one phenotype without baselines.
    header = [
        "participant_id",
        "sex",
        "site" if has_signals else "place",
        *(f"p{k:02d}" for k in range(1, N_PHENOTYPES + 1)),
    ]
    (bids_dir / "participants.tsv").write_text("\n".join(["\t".join(header), *lines]) + "\n")
    (bids_dir / "participants.json").unlink()
    return bids_dir, out_dir


def write_person(
    files: list[Path], labels: tuple[str, str], roots: tuple[Path, Path], drawn: dict[str, Pieces], rng: Any
) -> None:
    """Write the files of one participant under the name of another."""
    changes: list[tuple[str, str]] = [(labels[0], labels[1])]
    for path in sorted(files, key=lambda one: one.suffix == ".json"):
        place = roots[1] / str(path.relative_to(roots[0])).replace(*labels)
        place.parent.mkdir(parents=True, exist_ok=True)
        kind = next((name for name in drawn if path.name.endswith(name)), None)
        if kind is not None:
            content = drawn[kind].draw(rng)
            place.write_bytes(content)
            changes.append((hashlib.sha256(path.read_bytes()).hexdigest(), hashlib.sha256(content).hexdigest()))
            changes.append((f'{place.name}": {path.stat().st_size}', f'{place.name}": {len(content)}'))
        elif path.suffix == ".json":
            text = path.read_text()
            for old, new in changes:
                text = text.replace(old, new)
            motion = f'"MeanFramewiseDisplacement": {rng.uniform(0.05, 0.5):.4f}'
            place.write_text(text.replace('"MeanFramewiseDisplacement": null', motion))
        else:
            os.link(path, place)


def run_study(n: int, options: argparse.Namespace) -> dict[str, object]:
    """Call the group level on a cohort as a user does, and measure what it takes and leaves behind."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        seed = Path(options.folder or name) / f"seed{'-' + Path(options.tree).name if options.tree else ''}"
        if not seed.is_dir():
            write_seed(seed, options.tree)
        folder = Path(name)
        bids_dir, out_dir = write_study(folder, seed, n, has_signals=options.baselines != ["none"])
        given = {path for path in out_dir.rglob("*") if path.is_file()}
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        asked = ["--probe", *options.probe, "--n-repeats", str(options.repeats), "--n-permutations"]
        asked += [str(options.permutations), "--n-procs", str(options.procs), "--mem", "8G", *options.more.split()]
        asked += ["--baselines", *options.baselines] if options.baselines else []
        said = call([*APP, "", str(bids_dir), str(out_dir), "group", *OPTIONS, *asked], options.tree)
        after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        parts: dict[str, list[int]] = {}
        for path in (one for one in out_dir.rglob("*") if one.is_file()):
            first = path.relative_to(out_dir).parts[0]
            part = "runs" if path in given and first.startswith(("sub-", "logs")) else first.partition("_")[0]
            count = parts.setdefault(part, [0, 0])
            count[0], count[1] = count[0] + path.stat().st_size, count[1] + 1
        (Path(options.folder or tempfile.gettempdir()) / "study.log").write_text(said)
        return {
            "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "wall": ended - began,
            "said": re.findall(r"Probing \(.*|With --same-splits.*", said),
            "parts": {part: f"{size / 1e6:.1f} MB, {count} files" for part, (size, count) in sorted(parts.items())},
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
    parser.add_argument("--baselines", nargs="*", default=["none"], help="of the study; without a value all")
    parser.add_argument("--probe", nargs="+", default=["p01"], help="of the study: p01 to p20, sex, site")
    parser.add_argument("--repeats", type=int, default=10, help="of the study")
    parser.add_argument("--permutations", type=int, default=200, help="of the study")
    parser.add_argument("--procs", type=int, default=1, help="of the study")
    parser.add_argument("--more", default="", help="options of the study")
    parser.add_argument("--tree", default="", help="source of the version that the study is run with")
    parser.add_argument("--folder", help="where files are written and deleted again")
    parser.add_argument("--fold", action="store_true", help="profile one fold of 50,000 x 1,536")
    parser.add_argument("--way", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        part, n = options.way[0], int(options.way[1])
        if part == "study":
            found = run_study(n, options)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        else:
            began = time.process_time()
            steps = PARTS[part](n)
            found = {"cpu": time.process_time() - began, **(steps if isinstance(steps, dict) else {})}
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(found | {"peak_mb": peak / 1024}))
        return
    if options.fold:
        print("one fold of 50,000 x 1,536:", measure("fold", 50_000))
    for part in options.parts:
        rows = []
        for n in options.sizes:
            rows.append(row := measure(part, n))
            more = {key: value for key, value in row.items() if key not in ("cpu", "peak_mb")}
            said = f"{part:>12} n {n:>6}: {row['cpu']:9.2f} s of CPU, peak {row['peak_mb']:7.0f} MB {more or ''}"
            print(said, flush=True)
        if len(rows) > 1:
            print(f"{part:>12} grows with n to the {fit_exponent(options.sizes, [row['cpu'] for row in rows]):.2f}")


def measure(part: str, n: int) -> dict[str, float]:
    """Call this script again for one part and size, so that imports and memory are its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--way", part, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
