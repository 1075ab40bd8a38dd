"""Time of a large dataset before and after voxel processing: planning, and the group level.

Planning is all that a participant call does before its first run: it finds participants, spaces and runs, loads atlas
and encoder, and looks for what is there already. It is measured on empty files named as fMRIPrep names them, 61 of each
participant, for all participants and for one. The group level reads the embeddings of all participants; its input is
one participant's output under many names, sidecars rewritten, tables linked. Each part runs in a process of its own.
Seconds of the clock depend on what else the machine does; those of the CPU, of all threads together, hardly.

Run: python benchmarks/bench_scale.py [--participants N] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_index import call_again, write_tree

# As wide as published embeddings, whose reading and writing grows with their width.
OPTIONS = ("--atlas", "Demo457", "--model", "random:paper", "--device", "cpu")
TARGETS = {"plan_all": 90.0, "plan_one": 0.5, "group": 30.0}
MAX_MEGABYTES = 500.0


def plan(root: Path, out_dir: Path, labels: list[str]) -> dict[str, float]:
    """Plan a participant call; seconds leave out imports, and the atlas and encoder that any call loads."""
    from bids_semantoks import participant
    from bids_semantoks.config import AppConfig, EmbeddingConfig, SelectionConfig, SignalsConfig

    config = AppConfig(
        bids_dir=root,
        out_dir=out_dir,
        level="participant",
        selection=SelectionConfig(participant_label=tuple(labels)),
        signals=SignalsConfig(atlas="Demo457"),
        embedding=EmbeddingConfig(model="random:tiny", device="cpu"),
    )
    loading = _time_loading(participant)
    began, cpu = time.perf_counter(), time.process_time()
    _, _, jobs = participant.build_plan(config)
    wall, spent = time.perf_counter() - began, time.process_time() - cpu
    assert all(job.needs_signals for job in jobs)
    return {"seconds": wall - sum(loading), "cpu": spent, "loading": sum(loading), "runs": len(jobs)}


def _time_loading(participant: object) -> list[float]:
    """Have the loading of atlas and encoder timed apart."""
    spent: list[float] = []
    for name in ("load_atlas", "build_run_encoder"):
        function = getattr(participant, name)

        def timed(*arguments: object, _function: object = function, **named: object) -> object:
            began = time.perf_counter()
            try:
                return _function(*arguments, **named)  # type: ignore[operator]
            finally:
                spent.append(time.perf_counter() - began)

        setattr(participant, name, timed)
    return spent


def write_outputs(folder: Path, n_participants: int) -> tuple[Path, Path]:
    """Write what a participant level leaves behind, from one participant's output under many names."""
    bids_dir, out_dir = folder / "series", folder / "out"
    demo = [sys.executable, "-m", "bids_semantoks.demo", str(bids_dir), "--parcellated", "--participants", "1"]
    subprocess.run(demo, check=True, capture_output=True)
    app = [sys.executable, "-m", "bids_semantoks", str(bids_dir), str(out_dir), "participant", *OPTIONS[2:]]
    subprocess.run(app, check=True, capture_output=True)
    (first,) = [path.name for path in out_dir.glob("sub-*") if path.is_dir()]
    files = [path for path in (out_dir / first / "func").iterdir() if "figures" not in path.parts]
    files += list((out_dir / "logs" / first).iterdir())
    for number in range(1, n_participants):
        label = f"sub-{number:05d}x"
        (out_dir / label / "func").mkdir(parents=True)
        (out_dir / "logs" / label).mkdir()
        for path in files:
            place = out_dir / str(path.relative_to(out_dir)).replace(first, label)
            if path.suffix == ".json":
                place.write_text(path.read_text().replace(first, label))
            else:
                place.hardlink_to(path)
    return bids_dir, out_dir


def run_group(bids_dir: Path, out_dir: Path) -> dict[str, float]:
    """Call the group level as a user does, imports included."""
    command = [sys.executable, "-m", "bids_semantoks", str(bids_dir), str(out_dir), "group", *OPTIONS]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise SystemExit(done.stderr[-2000:])
    (table,) = (out_dir / "phenotype").glob("*.tsv")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "runs": len(table.read_text().splitlines()) - 1}


def main() -> None:
    """Print seconds of clock and CPU, and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--participants", type=int, default=5000)
    parser.add_argument("--folder", help="where files are written and deleted again")
    parser.add_argument("--part", choices=("both", "plan", "group"), default="both")
    parser.add_argument("--way", choices=("plan", "group"), help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        places = [Path(text) for text in options.rest[:2]]
        result = plan(*places, options.rest[2:]) if options.way == "plan" else run_group(*places)
        who = resource.RUSAGE_SELF if options.way == "plan" else resource.RUSAGE_CHILDREN
        print(json.dumps(result | {"peak_mb": resource.getrusage(who).ru_maxrss / 1024}))
        return
    count = options.participants
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        results, way = {}, (__file__, "--way")
        print(f"{count} participants; load of this machine {os.getloadavg()[0]:.1f}")
        if options.part != "group":
            root, out = folder / "fmriprep", folder / "none"
            print(f"{write_tree(root, count)} files each")
            results["plan_all"] = call_again(*way, "plan", root, out)
            results["plan_one"] = call_again(*way, "plan", root, out, f"{count // 2:04d}")
        if options.part != "plan":
            results["group"] = call_again(*way, "group", *write_outputs(folder / "outputs", count))
    for part, found in results.items():
        is_met = found["seconds"] < TARGETS[part] and found["peak_mb"] < MAX_MEGABYTES + 1e9 * (part == "group")
        loading = f", atlas and encoder {found['loading']:.1f} s more" if "loading" in found else ""
        print(
            f"{part:>8}: {found['seconds']:.2f} s ({found['cpu']:.2f} s of CPU{loading}), {found['runs']} runs, "
            f"peak {found['peak_mb']:.0f} MB; target {TARGETS[part]:g} s: {'met' if is_met else 'MISSED'}"
        )


if __name__ == "__main__":
    main()
