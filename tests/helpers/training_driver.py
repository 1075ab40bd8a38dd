"""A small training, as a module of tests and as a program that can be killed: DIRECTORY [key=value ...]."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from bids_semantoks.config import EncoderConfig, TrainingConfig, to_json
from bids_semantoks.models.encoder import build_encoder, build_head
from bids_semantoks.models.parcels import NetworkLayout
from bids_semantoks.pretraining.card import append_log, start_log
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.distributed import Ranks, join_ranks, sum_over_ranks
from bids_semantoks.training.loop import Pretraining, TrainingPlan, watch_signals
from bids_semantoks.training.packed import PackedRun, SignalStore, SignalView

P, N_PARTICIPANTS = 13, 11


LAYOUT = NetworkLayout(network_names=("A", "B", "C"), networks=(0,) * 4 + (1,) * 6 + (2,) * 3)


ENCODER = EncoderConfig(window=40, patch=20, width=64, depth=1, head_hidden=24, head_out=12)


def write_store(directory: Path, *, n_participants: int = N_PARTICIPANTS, complete: bool = False) -> SignalView:
    """Pack one run, or two, of each participant; some are short and some lack a network unless `complete`."""
    store = SignalStore(directory, P)
    if not len(store):
        rng = np.random.default_rng(0)
        runs = []
        for i in range(n_participants + n_participants // 2):
            n_volumes = 60 if complete else int(rng.integers(15, 70))
            values = rng.standard_normal((n_volumes, P)).cumsum(axis=0)
            values = ((values - values.mean(axis=0)) / values.std(axis=0)).astype(np.float32)
            present = np.ones(P, dtype=bool)
            if i % 4 == 1 and not complete:
                present[10:] = False
            values[:, ~present] = 0
            label = f"{i % n_participants:03d}"
            runs.append(
                PackedRun(key=f"{i:03d}", participant=label, repetition_time=2.0, values=values, present=present)
            )
        store.add(runs)
    return store.select([f"{i:03d}" for i in range(len(store))])


def build_training(
    directory: Path, view: SignalView, *, ranks: Ranks | None = None, recipe: TrainingConfig, **plan: object
) -> Pretraining:
    """Build a training with its checkpoints below a directory."""
    ranks = ranks or Ranks()
    module = TeacherStudent(
        build_encoder(ENCODER, LAYOUT, 0),
        build_head(ENCODER, 0),
        recipe,
        all_reduce=sum_over_ranks if ranks.size > 1 else None,
    )
    settings = {"recipe": to_json(recipe)}
    return Pretraining(
        module,
        view,
        TrainingPlan(recipe=recipe, settings=settings, checkpoints=directory / "checkpoints", **plan),
        device=torch.device("cpu"),
        ranks=ranks,
    )


def main() -> None:
    """Train and write all weights; a word on each step lets the parent choose when to kill."""
    directory = Path(sys.argv[1])
    options = json.loads(sys.argv[2])
    torch.set_num_threads(1)
    view = write_store(directory / "signals") if os.environ.get("RANK", "0") == "0" else None
    with watch_signals() as request, join_ranks(torch.device("cpu")) as ranks:
        ranks.wait()
        view = view or write_store(directory / "signals")
        recipe = TrainingConfig(**options.pop("recipe"))
        # There it waits for a word from the parent, which else might be too slow to meet it in the middle.
        pause_at = options.pop("pause_at", None)
        training = build_training(directory, view, ranks=ranks, recipe=recipe, **options)

        path = directory / "training_log.tsv"

        def write(rows):
            append_log(path, rows)
            print(training.step, flush=True)
            if training.step == pause_at:
                sys.stdin.readline()

        if ranks.is_first:
            start_log(path, training.step)
        training.run(write, request)
        torch.save(training.module.state_dict(), directory / f"weights-{ranks.rank}.pt")


if __name__ == "__main__":
    main()
