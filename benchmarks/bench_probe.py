"""How much faster the published probe's heads train together than alone, and what the default protocol takes.

Part one: participants x windows x features, repetitions x 6 learning rates; the peer is the same protocol with a
BatchNorm1d and a Linear of torch trained by autograd for each repetition and learning rate. Of the
peer only the training is timed, of some heads (all take the same), scaled up; processor seconds stand beside those of
the clock, which say little on a busy machine. Target: 3 times faster on a CPU, 10 times on a GPU.

Part two: the nested protocol for embeddings and three kinds of connectivity with 200 permutations; seconds and the
process' largest memory.

Run: python benchmarks/bench_probe.py [--participants N] [--device cuda] [--parcels P] [--skip-nested]
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from bids_semantoks.analyses.published_probe import (
    EPOCHS,
    RATES,
    PublishedProbe,
    WindowTable,
    cross_validate_published,
    draw_batches,
)
from bids_semantoks.models.encoder import draw_head
from bids_semantoks.runtime.resources import read_peak_memory
from bids_semantoks.statistics.baselines import build_connectivity_features
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.significance import compute_permutation_test
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_published_splits, build_splits

FEATURES, WINDOWS = 1536, 8


def train_alone(probe: PublishedProbe, found: np.ndarray, targets: torch.Tensor, rate: float, seed: int) -> None:
    """Train one head with the modules, loss and optimiser of torch."""
    device = probe.windows.device
    inputs, labels = probe.windows[torch.as_tensor(found, device=device)], targets.argmax(dim=1)
    head = torch.nn.Sequential(torch.nn.BatchNorm1d(FEATURES), torch.nn.Linear(FEATURES, targets.shape[1])).to(device)
    with torch.no_grad():
        head[1].weight.copy_(draw_head(targets.shape[1], FEATURES, seed=seed))
        head[1].bias.zero_()
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    for batch in draw_batches(len(found), epochs=EPOCHS, seed=seed):
        index = torch.as_tensor(batch, device=device)
        loss = torch.nn.functional.cross_entropy(head(inputs[index]), labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def wait(device: str) -> np.ndarray:
    """Clock and processor seconds, when all work is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def bench_published(n: int, device: str, n_heads: int) -> float:
    rng = np.random.default_rng(0)
    labels = (np.arange(n) % 2).astype(np.float64)
    row_of = np.repeat(np.arange(n), WINDOWS)
    values = rng.standard_normal((n * WINDOWS, FEATURES)).astype(np.float32)
    values[:, :20] += 0.2 * labels[row_of, None].astype(np.float32)
    target = Target(name="sex", values=labels, classes=("F", "M"))
    splits = build_published_splits(target.compute_strata())
    probe = PublishedProbe(WindowTable(name="embedding", values=values, row_of=row_of), target, device=device)
    probe.train(splits[:1], rates=RATES, epochs=1, seed=0)  # warm up
    started = wait(device)
    for head in range(n_heads):
        split = splits[head % len(splits)]
        found = probe.find_windows(split.train)
        targets = torch.as_tensor(probe.compute_targets(split)[0][found], device=device)
        train_alone(probe, found, targets, RATES[head % len(RATES)], split.repetition)
    alone = (wait(device) - started) * len(splits) * len(RATES) / n_heads
    started = wait(device)
    cross_validate_published(probe, splits)
    together = wait(device) - started
    print(
        f"{n} participants x {WINDOWS} windows x {FEATURES}, {len(splits)} repetitions x {len(RATES)} rates, {device}:"
    )
    for name, one, both in zip(("clock", "processor"), alone, together, strict=True):
        print(f"  {name}: one after another {one:.1f} s, together {both:.1f} s, {one / both:.1f} times faster")
    return float(alone[0] / together[0])


def bench_nested(n: int, n_parcels: int) -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(n) % 2).astype(np.float64)
    mix = rng.standard_normal((n_parcels, 40)) / 6
    signals = (
        [(rng.standard_normal((180, 40)) @ mix.T + rng.standard_normal((180, n_parcels))).astype(np.float32)]
        for _ in range(n)
    )
    started = time.perf_counter()
    embedding = TableFeatures(name="embedding", values=rng.standard_normal((n, FEATURES)).astype(np.float32))
    connectivity = build_connectivity_features(signals)
    print(f"nested: {n} participants, {n_parcels} parcels; connectivity made in {time.perf_counter() - started:.0f} s")
    for target in (
        Target(name="sex", values=labels, classes=("F", "M")),
        Target(name="age", values=rng.standard_normal(n)),
    ):
        splits = build_splits(target.compute_strata())
        for features in (embedding, *connectivity):
            started = time.perf_counter()
            compute_scores(cross_validate(features, target, splits))
            middle = time.perf_counter()
            compute_permutation_test(features, target, n_permutations=200)
            ended = time.perf_counter()
            print(
                f"  {target.name} from {features.name}: {middle - started:.0f} s, permutations {ended - middle:.0f} s"
            )
    print(f"  largest memory {read_peak_memory() / 2**30:.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--parcels", type=int, default=457)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peer-heads", type=int, default=12)
    parser.add_argument("--skip-nested", action="store_true")
    args = parser.parse_args()
    ratio = bench_published(args.participants, args.device, args.peer_heads)
    if not args.skip_nested:
        bench_nested(args.participants, args.parcels)
    sys.exit(ratio < (10 if args.device.startswith("cuda") else 3))


if __name__ == "__main__":
    main()
