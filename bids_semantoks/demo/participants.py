"""Who takes part in the synthetic study, what was planted in each, and which runs each has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

SITES: Final = ("EU", "AS", "NA")
SITE_REPETITION_TIMES: Final = {"EU": 2.0, "AS": 0.8, "NA": 2.0}
SITE_NOISE: Final = {"EU": 1.0, "AS": 1.2, "NA": 0.9}
RUN_SECONDS: Final = 360.0
SHORT_RUN_SECONDS: Final = 136.0
TOO_SHORT_SECONDS: Final = 60.0
N_DUMMY: Final = 3

# The peculiar runs come back every 24 participants, so that a large study keeps their share.
_PERIOD: Final = 24
_AGE_MEAN, _AGE_SD = 49.0, 18.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """One run to be simulated.

    Parameters
    ----------
    entities : tuple of (str, str)
        Session, task, acquisition and run, as far as the run has them, in BIDS order.
    n_volumes : int
        Volumes (T).
    repetition_time : float
        Seconds.
    n_dummy : int
        Leading volumes before the steady state.
    motion : float
        Motion over that of a quiet participant.
    number : int
        Position among the participant's runs; seeds the run.
    """

    entities: tuple[tuple[str, str], ...]
    n_volumes: int
    repetition_time: float
    n_dummy: int
    motion: float
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """One participant with everything that shapes the signal.

    Parameters
    ----------
    number : int
        Counted from 1.
    seed : int
        Seed of the study.
    age : int
        Years.
    sex : str
        ``F`` or ``M``.
    site, group : str
        Scanner site and diagnostic group; a group plants nothing.
    """

    number: int
    seed: int
    age: int
    sex: str
    site: str
    group: str

    @property
    def label(self) -> str:
        """Participant label without ``sub-``."""
        return f"{self.number:03d}"

    @property
    def age_z(self) -> float:
        """Age in standard deviations of the study's population."""
        return (self.age - _AGE_MEAN) / _AGE_SD

    @property
    def sex_sign(self) -> float:
        """Plus one half for M, minus one half for F."""
        return 0.5 if self.sex == "M" else -0.5

    def rng(self, *stream: int) -> np.random.Generator:
        """Give a generator that depends on study, participant and stream alone.

        Parameters
        ----------
        *stream : int
            What the numbers are for.

        Returns
        -------
        numpy.random.Generator
            The generator.
        """
        return np.random.default_rng([self.seed, self.number, *stream])


def draw_participant(number: int, seed: int) -> Participant:
    """Draw one participant; the same whatever the size of the study.

    Parameters
    ----------
    number : int
        Counted from 1.
    seed : int
        Seed of the study.

    Returns
    -------
    Participant
        The participant.
    """
    rng = np.random.default_rng([seed, number, 0])
    age = int(rng.integers(18, 81))
    return Participant(
        number=number,
        seed=seed,
        age=age,
        sex="FM"[int(rng.integers(2))],
        site=SITES[(number - 1) % len(SITES)],
        group=("control", "patient")[int(rng.integers(2))],
    )


def plan_runs(participant: Participant, *, short: bool = False) -> tuple[RunPlan, ...]:
    """Say which runs a participant has.

    Parameters
    ----------
    participant : Participant
        The participant. The first has dummy scans, the second two sessions, the third a pair that differs in
        phase encoding alone, the fourth a second run that was broken off, the fifth heavy motion.
    short : bool
        Whether to plan runs just long enough for one high-pass regressor, for tests.

    Returns
    -------
    tuple of RunPlan
        One or two runs.
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
    """Give a participant's row of participants.tsv, with values missing here and there.

    Parameters
    ----------
    participant : Participant
        The participant.

    Returns
    -------
    tuple
        participant_id, age, sex, site, group; None where the value is missing.
    """
    turn = (participant.number - 1) % _PERIOD
    return (
        f"sub-{participant.label}",
        None if turn == 9 else participant.age,
        None if turn == 14 else participant.sex,
        participant.site,
        None if turn in (7, 18) else participant.group,
    )
