"""Does pretraining help: a linear probe on a pretrained encoder against the same encoder with its random weights.

The encoder is pretrained on the signals of all participants, without their phenotypes; then age and sex are predicted
from the mean embedding of eight windows, by the nested protocol (ridge and logistic regression, five folds). Each seed
draws new weights, views, masks, order and folds. Both encoders of a seed start from the same weights and are tested on
the same folds. Pearson connectivity with the same models stands beside them. Numbers are printed as found.

Data: the synthetic study as `python -m bids_semantoks.demo --parcellated` writes it, or real series in an .npz with
values [participants, parcels, volumes], lengths, repetition_time, participant_id, parcel_name, parcel_network and
phenotype_age, phenotype_sex.

Run: OMP_NUM_THREADS=1 python benchmarks/compare_pretraining.py [--participants N | --data FILE.npz] [--encoder NAME]
     [--epochs N] [--batch-size N] [--learning-rate RATE] [--recipe JSON] [--seeds N] [--stages N] [--student]
     [--device cuda]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student

from bids_semantoks.config import TrainingConfig, from_json
from bids_semantoks.demo.atlas import build_table
from bids_semantoks.demo.neural import draw_participant, plan_runs
from bids_semantoks.demo.study import simulate_series
from bids_semantoks.models.checkpoints import LoadedEncoder
from bids_semantoks.models.encoder import Encoder, build_encoder, build_head, read_encoder_config
from bids_semantoks.models.frozen import FrozenEncoder
from bids_semantoks.models.parcels import NetworkLayout, build_layout, match_parcels
from bids_semantoks.pretraining.packing import standardise
from bids_semantoks.signals.windows import build_windows
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Predictions, Target, build_class_target
from bids_semantoks.statistics.significance import compare_models
from bids_semantoks.statistics.spans import Features, KernelFeatures, TableFeatures, compute_gram
from bids_semantoks.statistics.splits import build_splits
from bids_semantoks.training.batches import choose_batch_size, compute_half_cosine
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.loop import Pretraining, StopRequest, TrainingPlan
from bids_semantoks.training.packed import PackedRun, SignalStore, SignalView

METRICS = {"age": "r", "sex": "auroc"}
#: What embeddings can be, and tokens averaged for each network alone, before the mean over networks hides what differs.
POOLINGS = ("cls_avg", "cls", "avg", "networks")


class Study(NamedTuple):
    """Series (T, P) of each participant in the order of the encoder's parcels, and what is predicted."""

    labels: tuple[str, ...]
    tables: list[NDArray[np.float32]]
    repetition_times: list[float]
    parcels: tuple[str, ...]
    networks: tuple[str, ...]
    targets: tuple[Target, ...]


def build_targets(age: Sequence[float], sex: Sequence[str]) -> tuple[Target, ...]:
    return Target(name="age", values=np.array(age, dtype=np.float64)), build_class_target("sex", list(sex))


def simulate_study(n_participants: int, seed: int) -> Study:
    people = [draw_participant(number, seed) for number in range(1, n_participants + 1)]
    plans = [plan_runs(person)[0] for person in people]
    parcels, networks = build_table()
    return Study(
        labels=tuple(person.label for person in people),
        tables=[
            simulate_series(person, plan).round(4).astype(np.float32)
            for person, plan in zip(people, plans, strict=True)
        ],
        repetition_times=[plan.repetition_time for plan in plans],
        parcels=parcels,
        networks=networks,
        targets=build_targets([person.age for person in people], [person.sex for person in people]),
    )


def load_study(path: Path, n_participants: int | None) -> Study:
    data = np.load(path, allow_pickle=False)
    n = len(data["participant_id"]) if n_participants is None else n_participants
    named = np.flatnonzero(data["parcel_network"] != "n/a")
    values = data["values"][:n, named]
    return Study(
        labels=tuple(map(str, data["participant_id"][:n])),
        tables=[row[:, :length].T.astype(np.float32) for row, length in zip(values, data["lengths"], strict=False)],
        repetition_times=data["repetition_time"][:n].tolist(),
        parcels=tuple(map(str, data["parcel_name"][named])),
        networks=tuple(map(str, data["parcel_network"][named])),
        targets=build_targets(data["phenotype_age"][:n], data["phenotype_sex"][:n].tolist()),
    )


def pack_study(study: Study, directory: Path, order: NDArray[np.int64], target: float) -> SignalView:
    store = SignalStore(directory, len(order))
    for label, table, repetition_time in zip(study.labels, study.tables, study.repetition_times, strict=True):
        values, present = standardise(table[:, order], repetition_time=repetition_time, n_dummy=0, target=target)
        run = PackedRun(key=label, participant=label, repetition_time=repetition_time, values=values, present=present)
        store.add([run])
    return store.select(study.labels)


def encode_study(study: Study, encoder: Encoder, device: str) -> dict[str, NDArray[np.float32]]:
    """Mean embedding over eight windows of each participant, by pooling."""
    loaded = LoadedEncoder(
        encoder=encoder, config=encoder.config, layout=encoder.layout, name="", sha256="", description=""
    )
    match = match_parcels(study.parcels, study.networks, encoder.layout)
    frozen = FrozenEncoder(loaded, match, device=device, batch_size=64)
    rows, apart = [], []
    for table, repetition_time in zip(study.tables, study.repetition_times, strict=True):
        windows = build_windows(
            table,
            repetition_time=repetition_time,
            n_dummy=0,
            target_repetition_time=encoder.config.repetition_time,
            window=encoder.config.window,
            n_windows=8,
        )
        made = frozen.encode(windows, with_tokens=True)
        assert made.tokens is not None
        tokens = made.tokens[:, 1:].reshape(len(made.tokens), -1, encoder.config.n_patches, encoder.config.width)
        rows.append(made.vectors.mean(axis=0))
        apart.append(tokens.mean(axis=(0, 2)).ravel())
    encoder.train()
    both = np.stack(rows)
    width = encoder.config.width
    return {"cls_avg": both, "avg": both[:, :width], "cls": both[:, width:], "networks": np.stack(apart)}


def build_connectivity(study: Study) -> KernelFeatures:
    upper = np.triu_indices(len(study.parcels), 1)
    with np.errstate(invalid="ignore"):  # of parcels without signal, which then correlate with nothing
        edges = np.stack([np.corrcoef(table.T)[upper] for table in study.tables])
    edges = np.arctanh(np.clip(np.nan_to_num(edges), -0.999999, 0.999999))
    return KernelFeatures(name="connectivity", kernel=compute_gram(edges))


def predict(features: Features, study: Study, seed: int, n_repeats: int) -> dict[str, Predictions]:
    return {
        target.name: cross_validate(
            features, target, build_splits(target.compute_strata(), n_repeats=n_repeats, seed=1000 * seed), seed=seed
        )
        for target in study.targets
    }


def compute_value(predictions: Predictions) -> tuple[float, float, float]:
    found = {score.metric: score for score in compute_scores(predictions, n_bootstrap=500)}
    score = found[METRICS[predictions.target]]
    return score.value, score.ci_low, score.ci_high


class StageLog:
    """Takes the loop's rows, and stops now and then to look at the teacher."""

    def __init__(self, steps: Sequence[int], look: object) -> None:
        self.steps = list(steps)
        self.look = look
        self.rows: list[Mapping[str, float]] = []
        self.seconds = 0.0

    def append(self, rows: Sequence[Mapping[str, float]]) -> None:
        self.rows += rows
        if self.rows and self.steps and self.rows[-1]["step"] >= self.steps[0]:
            self.steps.pop(0)
            began = time.monotonic()
            assert callable(self.look)
            self.look(int(self.rows[-1]["step"]), self.rows[-1])
            self.seconds += time.monotonic() - began


def pretrain(
    module: TeacherStudent, view: SignalView, recipe: TrainingConfig, seed: int, device: str, log: StageLog
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(recipe=recipe, settings={}, checkpoints=Path(folder), seed=seed)
        training = Pretraining(module, view, plan, device=torch.device(device), ranks=Ranks())
        training.run(log.append, StopRequest())


def compare_seed(
    study: Study, view: SignalView, layout: NetworkLayout, recipe: TrainingConfig, args: argparse.Namespace, seed: int
) -> dict[tuple[str, str, str], float]:
    """Values of one seed by target, pooling and weights."""
    config = read_encoder_config(args.encoder)
    module = TeacherStudent(build_encoder(config, layout, seed), build_head(config, seed), recipe)
    random = {
        name: predict(TableFeatures(name="random weights", values=values), study, seed, args.repeats)
        for name, values in encode_study(study, module.teacher, args.device).items()
    }
    found = {(t, p, "random"): compute_value(random[p][t])[0] for p in POOLINGS for t in METRICS}
    began = time.monotonic()

    def look(step: int, row: Mapping[str, float]) -> None:
        encoder = module.student if args.student else module.teacher
        embeddings = encode_study(study, encoder, args.device)
        print(f"  seed {seed}, step {step}, {time.monotonic() - began:.0f} s: loss {row['loss']:.3f}", end="")
        print(f" (cls {row['cls']:.3f}), rank {row['rank']:.1f}, cosine {row['cosine']:.3f}", flush=True)
        for name, values in embeddings.items():
            made = predict(TableFeatures(name="pretrained", values=values), study, seed, args.repeats)
            for target, metric in METRICS.items():
                value, low, high = compute_value(made[target])
                test = compare_models(made[target], random[name][target], metric)
                found[target, name, "pretrained"] = value
                print(
                    f"    {target} {metric} from {name}: {value:.3f} [{low:.3f}, {high:.3f}], random "
                    f"{found[target, name, 'random']:.3f}, difference over folds {test.difference:+.3f} "
                    f"[{test.ci_low:+.3f}, {test.ci_high:+.3f}]",
                    flush=True,
                )

    n_steps = recipe.epochs * (len(set(view.participants)) // (recipe.batch_size or 1))
    stages = np.linspace(0, n_steps, args.stages + 1).astype(int)[1:].tolist()
    pretrain(module, view, recipe, seed, args.device, StageLog(stages, look))
    return found


def print_table(results: Sequence[Mapping[tuple[str, str, str], float]], reference: Mapping[str, str]) -> None:
    n = len(results)
    reach = float(student.ppf(0.975, n - 1)) / np.sqrt(n) if n > 1 else np.nan
    print(
        f"\n| predicted | pooling | random weights | pretrained | difference, {n} seeds [95 % interval] "
        "| connectivity |"
    )
    print("|---|---|---|---|---|---|")
    for target, metric in METRICS.items():
        for pooling in POOLINGS:
            random, trained = (
                np.array([found[target, pooling, kind] for found in results]) for kind in ("random", "pretrained")
            )
            change = trained - random
            half = reach * change.std(ddof=1) if n > 1 else np.nan
            interval = f"[{change.mean() - half:+.3f}, {change.mean() + half:+.3f}]" if n > 1 else "(no interval)"
            print(
                f"| {target}, {metric} | {pooling} | {random.mean():.3f} | {trained.mean():.3f} | "
                f"{change.mean():+.3f} {interval} | {reference[target]} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int)
    parser.add_argument("--study-seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig().learning_rate)
    parser.add_argument("--augmentation", type=int, default=TrainingConfig().augmentation)
    parser.add_argument(
        "--recipe", type=json.loads, default={}, help="JSON object over the recipe, for what else it has"
    )
    parser.add_argument("--student", action="store_true", help="probe the student instead of the teacher")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--stages", type=int, default=2, help="how often the encoder is probed on its way")
    parser.add_argument("--repeats", type=int, default=2, help="repetitions of five folds for each seed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    began = time.monotonic()
    study = (
        load_study(args.data, args.participants)
        if args.data
        else simulate_study(args.participants or 400, args.study_seed)
    )
    config = read_encoder_config(args.encoder)
    layout = build_layout(study.parcels, study.networks)
    order = match_parcels(study.parcels, study.networks, layout).order
    n = len(study.labels)
    recipe = dataclasses.replace(
        from_json(TrainingConfig, args.recipe),
        epochs=args.epochs,
        batch_size=choose_batch_size(n, args.batch_size, n_parts=1),
        learning_rate=args.learning_rate,
        augmentation=args.augmentation,
    )
    assert recipe.batch_size is not None
    momenta = compute_half_cosine(recipe.epochs * (n // recipe.batch_size), *recipe.momentum)
    share = float(momenta.prod())
    with tempfile.TemporaryDirectory() as folder:
        view = pack_study(study, Path(folder) / "signals", order, config.repetition_time)
        print(
            f"{n} participants, {len(study.parcels)} parcels, encoder {args.encoder}, {recipe.epochs} epochs of "
            f"{n // recipe.batch_size} steps, batch {recipe.batch_size}, learning rate "
            f"{recipe.learning_rate * recipe.batch_size / 256:.2g}; {share:.0%} of the teacher stays from the start; "
            f"made ready in {time.monotonic() - began:.0f} s",
            flush=True,
        )
        known = predict(build_connectivity(study), study, args.first_seed, args.repeats)
        reference = {name: "{:.3f} [{:.3f}, {:.3f}]".format(*compute_value(made)) for name, made in known.items()}
        print("  connectivity: " + ", ".join(f"{name} {text}" for name, text in reference.items()), flush=True)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        results = [compare_seed(study, view, layout, recipe, args, seed) for seed in seeds]
    print_table(results, reference)


if __name__ == "__main__":
    main()
