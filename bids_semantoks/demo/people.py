"""Participants of the synthetic study, what was planted in each, and their runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

SITES: Final = ("EU", "AS", "NA")
SITE_REPETITION_TIMES: Final = {"EU": 2.0, "AS": 0.8, "NA": 2.0}
SITE_NOISE: Final = {"EU": 1.0, "AS": 1.2, "NA": 0.9}
#: Share of patients: a confound, since scanners differ between sites and nothing else tells patients from controls.
SITE_PATIENTS: Final = {"EU": 0.3, "AS": 0.8, "NA": 0.25}
RUN_SECONDS: Final = 360.0
SHORT_RUN_SECONDS: Final = 136.0
TOO_SHORT_SECONDS: Final = 60.0
N_DUMMY: Final = 3

# Special runs recur every 24 participants, so that a large study keeps their share.
_PERIOD: Final = 24
_AGE_MEAN, _AGE_SD = 49.0, 18.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """One run to simulate."""

    entities: tuple[tuple[str, str], ...]  # session, task, acquisition and run, where present, in BIDS order
    n_volumes: int
    repetition_time: float  # s
    n_dummy: int  # leading volumes before the steady state
    motion: float  # relative to a quiet participant
    number: int  # position among the participant's runs; seeds the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """One participant with everything that shapes the signal."""

    number: int  # from 1
    seed: int  # of the study
    age: int  # years
    sex: str  # F or M
    site: str
    group: str  # diagnosis; depends on the site alone, and plants nothing

    @property
    def label(self) -> str:
        """Participant label without ``sub-``."""
        return f"{self.number:03d}"

    @property
    def age_z(self) -> float:
        """Age in standard deviations from the study population's mean."""
        return (self.age - _AGE_MEAN) / _AGE_SD

    @property
    def sex_sign(self) -> float:
        """Plus one half for M, minus one half for F."""
        return 0.5 if self.sex == "M" else -0.5

    def rng(self, *stream: int) -> np.random.Generator:
        """Make a generator that depends only on study seed, participant and stream."""
        return np.random.default_rng([self.seed, self.number, *stream])


def draw_participant(number: int, seed: int) -> Participant:
    """Draw one participant, numbered from 1; the same for any study size."""
    rng = np.random.default_rng([seed, number, 0])
    age = int(rng.integers(18, 81))
    turn, place = divmod(number - 1, len(SITES))
    site = SITES[place]
    return Participant(
        number=number,
        seed=seed,
        age=age,
        sex="FM"[int(rng.integers(2))],
        site=site,
        # Dealt, not drawn, so that small studies hold these shares, too.
        group="patient" if turn * 7 % 20 < 20 * SITE_PATIENTS[site] else "control",
    )


def plan_runs(participant: Participant, *, short: bool = False) -> tuple[RunPlan, ...]:
    """Plan a participant's runs; `short` runs of 136 s have just one high-pass regressor.

    In every 24: every third from the 1st has dummy scans, every sixth from the 2nd two sessions, the 3rd AP and PA
    runs, the 4th a second run cut off at 60 s, the 5th heavy motion.
    """
    turn = (participant.number - 1) % _PERIOD
    seconds = SHORT_RUN_SECONDS if short else RUN_SECONDS
    task = ("task", "rest")
    runs: list[tuple[tuple[tuple[str, str], ...], float]] = [((task,), seconds)]
    if turn % 6 == 1:
        runs = [((("ses", "1"), task), seconds), ((("ses", "2"), task), seconds)]
    elif turn == 2:
        runs = [((task, ("acq", "AP")), seconds), ((task, ("acq", "PA")), seconds)]
    elif turn == 3:
        runs = [((task, ("run", "1")), seconds), ((task, ("run", "2")), TOO_SHORT_SECONDS)]
    repetition_time = SITE_REPETITION_TIMES[participant.site]
    quiet = float(np.exp(np.clip(participant.rng(1).normal(0.0, 0.25), -0.5, 0.5)))
    return tuple(
        RunPlan(
            entities=entities,
            n_volumes=round(length / repetition_time),
            repetition_time=repetition_time,
            n_dummy=N_DUMMY if turn % 3 == 0 else 0,
            motion=8.0 * quiet if turn == 4 else quiet,
            number=number,
        )
        for number, (entities, length) in enumerate(runs)
    )


def describe_phenotypes(participant: Participant) -> tuple[str | int | None, ...]:
    """List a participant's row of participants.tsv, with a few values missing (None)."""
    turn = (participant.number - 1) % _PERIOD
    return (
        f"sub-{participant.label}",
        None if turn == 9 else participant.age,
        None if turn == 14 else participant.sex,
        participant.site,
        None if turn in (7, 18) else participant.group,
    )
