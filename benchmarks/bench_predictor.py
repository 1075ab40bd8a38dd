"""How often the intervals of a saved predictor hold the truth at home and abroad, and when a study is flagged.

Each simulated study has 60 to 300 people with features of a few strong axes, an age that part of them follow, and
motion. A predictor is fitted and applied to as many other people: of the same place, with an offset of the features
(site), with features that follow age less and vary otherwise (repetition time), and with more motion that adds noise.
Coverage is that of 2,000 people of each place, so that it is no matter of chance; a study loses what it has less than
at home. Flags come from the people of the study alone, without the name of the site; once from embeddings only, once
with the ranges of motion and repetition time as well.

Targets: 88 to 92 % of 90 % intervals hold the truth at home; flags in at least 95 % of the studies that lose more than
5 points, and in at most 10 % of those without shift.

Run: python benchmarks/bench_predictor.py [--studies N] [--seed S]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.statistics.portable import (
    LinearPredictor,
    compare_positions,
    compute_excess,
    find_quantile,
    find_shifts,
    fit_predictor,
    predict_at_home,
)
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.spans import TableFeatures
from bids_semantoks.statistics.splits import build_splits

N_FEATURES, N_STRONG, N_POPULATION = 192, 12, 2000
SHIFTS = ("none", "site", "repetition time", "motion")


@dataclass
class Place:
    """How people of a place differ from those at home."""

    offset: NDArray[np.float64]  # (d,) of all features
    follows: float = 1.0  # how much features follow age, at home 1
    noise: float = 1.0  # standard deviation of what else varies
    motion: float = 0.15  # median framewise displacement in mm
    repetition_time: float = 2.0


class World:
    """What all people share: the axes along which features vary, and follow age and motion."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.axes = rng.normal(size=(N_STRONG, N_FEATURES)) * np.linspace(1.5, 0.3, N_STRONG)[:, None]
        self.of_age = rng.normal(size=N_FEATURES) * rng.uniform(0.15, 0.5)
        self.of_motion = rng.normal(size=(4, N_FEATURES))

    def draw(self, n: int, place: Place) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Draw features (n, d), age (n,) and motion (n,)."""
        rng, age = self.rng, self.rng.uniform(20, 80, n)
        motion = place.motion * np.exp(rng.normal(0, 0.4, n))
        moved = motion[:, None] * rng.normal(size=(n, 4)) @ self.of_motion
        strong = rng.normal(size=(n, N_STRONG)) @ self.axes
        values = place.follows * np.outer((age - 50) / 17, self.of_age) + place.noise * (
            strong + rng.normal(size=(n, N_FEATURES))
        )
        return values + 2 * moved + place.offset, age, motion


def draw_place(shift: str, rng: np.random.Generator) -> Place:
    """Draw a place with a shift of random size, from hardly any to a large one."""
    size, offset = rng.uniform(0, 1), np.zeros(N_FEATURES)
    if shift == "site":
        return Place(offset=rng.normal(size=N_FEATURES) * size)
    if shift == "repetition time":
        return Place(offset=offset, follows=1 - 0.8 * size, noise=1 + size, repetition_time=rng.choice([0.8, 3.0]))
    if shift == "motion":
        return Place(offset=offset, motion=0.15 * (1 + 5 * size))
    return Place(offset=offset)


def flag(
    model: LinearPredictor, home: dict, values: NDArray[np.float64], motion: NDArray[np.float64], place: Place
) -> tuple[bool, bool]:
    """Flag a study by embeddings alone, and with the ranges of motion and repetition time."""
    n, n_home = len(motion), len(home["positions"])
    p_values = compare_positions(home["positions"], model.predict(values)[1])
    p_values |= model.compare_means(values, None, n_home)
    n_outside = {
        "motion": int((motion > home["motion"].max()).sum()),
        "repetition time": n if place.repetition_time != 2.0 else 0,
    }
    ranges = {name: compute_excess(count, n, n_home) for name, count in n_outside.items()}
    return bool(find_shifts(p_values)), bool(find_shifts(p_values | ranges))


def simulate(rng: np.random.Generator) -> list[tuple[str, float, float, bool, bool]]:
    """Simulate one study and its places: shift, coverage there, loss against home, and both flags."""
    world, n = World(rng), int(rng.integers(60, 301))
    values, age, motion = world.draw(n, Place(offset=np.zeros(N_FEATURES)))
    features, target = TableFeatures(name="embedding", values=values), Target(name="age", values=age)
    splits = build_splits(target.compute_strata(), n_repeats=1, seed=0)
    rows, scores, positions = predict_at_home(features, target, splits)
    model = fit_predictor(features, target, np.arange(n))
    margin = find_quantile(np.abs(scores[:, 0] - age[rows]))
    home = {"positions": positions, "motion": motion}
    found, at_home = [], np.nan
    for shift in SHIFTS:
        place = draw_place(shift, rng)
        coverage = measure_coverage(world, model, margin, place)
        at_home = coverage if shift == "none" else at_home
        others, _, moved = world.draw(int(rng.integers(60, 301)), place)
        found.append((shift, coverage, at_home - coverage, *flag(model, home, others, moved, place)))
    return found


def measure_coverage(world: World, model: LinearPredictor, margin: float, place: Place) -> float:
    """Measure how often intervals hold the age of many people of a place."""
    values, age, _ = world.draw(N_POPULATION, place)
    return float((np.abs(model.predict(values)[0][:, 0] - age) <= margin).mean())


def main() -> None:
    """Simulate studies and print how often intervals held and flags were raised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked, start = parser.parse_args(), time.monotonic()
    seeds = np.random.SeedSequence(asked.seed).spawn(asked.studies)
    found = [row for seed in seeds for row in simulate(np.random.default_rng(seed))]
    print(
        f"{'shift':<16} coverage (lowest)  lose > 5 points  flagged of those  flagged of the others   (embedding only)"
    )
    for shift in SHIFTS:
        own = [row for row in found if row[0] == shift]
        coverage, lost = np.array([row[1] for row in own]), np.array([row[2] > 0.05 for row in own])
        words = []
        for column in (4, 3):
            flags = np.array([row[column] for row in own])
            words.append([f"{flags[part].mean():.3f}" if part.any() else "n/a" for part in (lost, ~lost)])
        (first, second), (third, fourth) = words
        lowest = f"{coverage.mean():.3f} ({coverage.min():.2f})"
        print(f"{shift:<16} {lowest:<18} {lost.sum():>15} {first:>17} {second:>22}   ({third}, {fourth})")
    lost = np.array([row[2] > 0.05 for row in found])
    for column, what in ((4, "with ranges"), (3, "embedding only")):
        flags = np.array([row[column] for row in found])
        print(f"flagged of the {lost.sum()} studies that lose more than 5 points, {what}: {flags[lost].mean():.3f}")
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
