"""A synthetic study without voxels: parcellated series in XCP-D's layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bids_semantoks.demo.atlas import ATLAS_NAME, SPACE, build_table
from bids_semantoks.demo.files import write_json, write_series, write_tsv
from bids_semantoks.demo.neural import simulate_signals
from bids_semantoks.demo.participants import SITE_NOISE, Participant, RunPlan, draw_participant, plan_runs
from bids_semantoks.demo.study import STUDY_NAME, start_study, write_phenotypes
from bids_semantoks.demo.task import compute_activity, draw_blocks, write_events
from bids_semantoks.demo.truth import write_truth_table

# Standard deviation of what denoising left behind, over the neural signal's.
RESIDUAL_NOISE: Final = 0.3


def write_parcellated(
    out_dir: Path, *, n_participants: int = 400, seed: int = 0, short: bool = False, task: bool = False
) -> None:
    """Write a derivative dataset of parcellated series, one rest run per participant, and the truth in ``code/truth``.

    Participants and planted effects are those of `write_study` with the same seed; the truth is their table alone.
    `short`: runs of 136 s, not 6 min; `task`: also a run with task blocks. ConfigurationError as in `start_study`.
    """
    start_study(out_dir, n_participants)
    participants = [draw_participant(number, seed) for number in range(1, n_participants + 1)]
    description = {
        "Name": STUDY_NAME,
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": "CC0",
        "GeneratedBy": [{"Name": "xcp_d-like", "Description": "Synthetic series by bids_semantoks.demo, not XCP-D"}],
    }
    write_json(out_dir / "dataset_description.json", description)
    write_phenotypes(out_dir, participants)
    parcels, networks = build_table()
    rows = [(i + 1, parcel, network) for i, (parcel, network) in enumerate(zip(parcels, networks, strict=True))]
    atlases = out_dir / "sourcedata" / "atlases"
    write_json(atlases / "dataset_description.json", {**description, "Name": f"{ATLAS_NAME} atlas (not anatomical)"})
    table = atlases / f"tpl-{SPACE}" / f"tpl-{SPACE}_atlas-{ATLAS_NAME}_dseg.tsv"
    write_tsv(table, ("index", "label", "network_label"), rows)
    with threadpool_limits(1):
        for participant in participants:
            plan = plan_runs(participant, short=short)[0]
            _write_series(out_dir, participant, plan, parcels)
            if task:
                _write_task(out_dir, participant, dataclasses.replace(plan, number=7), parcels)
    write_truth_table(out_dir, participants)


def simulate_series(participant: Participant, plan: RunPlan) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Simulate the denoised series (T, P) of one run: signals in standard deviations, plus a little noise."""
    rng = participant.rng(4, plan.number)
    signals = simulate_signals(participant, plan.n_volumes, plan.repetition_time, rng).signals
    noise = RESIDUAL_NOISE * SITE_NOISE[participant.site]
    return np.asarray(signals + noise * rng.standard_normal(signals.shape))


def _write_series(
    out_dir: Path,
    participant: Participant,
    plan: RunPlan,
    parcels: tuple[str, ...],
    *,
    task: str = "rest",
    activity: NDArray[np.float64] | float = 0.0,
) -> None:
    name = f"sub-{participant.label}_task-{task}_space-{SPACE}_atlas-{ATLAS_NAME}_stat-mean_timeseries"
    stem = out_dir / f"sub-{participant.label}" / "func" / name
    timing = {"RepetitionTime": plan.repetition_time, "SamplingFrequency": 1.0 / plan.repetition_time}
    write_json(stem.with_suffix(".json"), timing)
    write_series(stem.with_suffix(".tsv"), parcels, simulate_series(participant, plan) + activity, "%.4f")


def _write_task(out_dir: Path, participant: Participant, plan: RunPlan, parcels: tuple[str, ...]) -> None:
    blocks = draw_blocks(participant, plan)
    _write_series(out_dir, participant, plan, parcels, task="blocks", activity=compute_activity(blocks, plan))
    name = f"sub-{participant.label}_task-blocks_events.tsv"
    write_events(out_dir / f"sub-{participant.label}" / "func" / name, blocks)
