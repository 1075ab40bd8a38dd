"""A synthetic study on disk: a raw BIDS root with derivatives laid out and named as by fMRIPrep 24."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bids_semantoks.demo.atlas import ATLAS_NAME, SPACE, build_anatomy, build_table, write_image, write_parcel_table
from bids_semantoks.demo.neural import (
    AGE_COUPLING,
    AGE_LAG,
    AGE_TEMPO,
    SEX_COUPLING,
    SEX_TEMPO,
    SITE_COUPLING,
    SITE_NOISE,
    SITE_PATIENTS,
    Participant,
    RunPlan,
    compute_activity,
    compute_coupling,
    compute_dynamics,
    describe_phenotypes,
    draw_blocks,
    draw_participant,
    plan_runs,
    simulate_signals,
)
from bids_semantoks.demo.scan import Scan, compute_confounds, fill_image, simulate_scan
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import write_json, write_records, write_text
from bids_semantoks.outputs.store import build_directory
from bids_semantoks.records import CANONICAL_NETWORKS, Floats, Reals
from bids_semantoks.runtime.logs import Progress

RESIDUAL_NOISE: Final = 1.2  # standard deviation of what denoising left behind in each parcel, over the neural signal's
#: Recipe over the published one that fits a tiny encoder to 120 people in about a minute: in so few steps the teacher
#: must follow the student sooner.
PRETRAINING: Final = {"epochs": 40, "batch_size": 15, "learning_rate": 0.03, "momentum": [0.95, 1.0]}
STUDY_NAME: Final = "bids_semantoks demo: a synthetic resting-state study"
PHENOTYPES: Final = ("participant_id", "age", "sex", "site", "group")
_TRUTH: Final = Path("code") / "truth"
FMRIPREP_VERSION: Final = "24.1.1"
_README: Final = """A synthetic resting-state study

Every number here was made by `python -m bids_semantoks.demo`: there are no people behind it, and the brain it shows is
an ellipsoid. Age and sex change the coupling between networks and the tempo of their fluctuations; the group changes
nothing, but sites differ in their shares of patients and in their scanners. code/truth/effects.json lists the sizes of
these effects, code/truth/participants.tsv what was planted in each participant.
"""


_RAW: Final = {
    "Name": STUDY_NAME,
    "BIDSVersion": "1.11.0",
    "DatasetType": "raw",
    "License": "CC0",
    "Authors": ["The bids_semantoks developers"],
    "GeneratedBy": [{"Name": "bids_semantoks.demo", "Description": "Synthetic data with known structure"}],
}
_SERIES: Final = {
    "Name": STUDY_NAME,
    "BIDSVersion": "1.11.0",
    "DatasetType": "derivative",
    "License": "CC0",
    "GeneratedBy": [{"Name": "xcp_d-like", "Description": "Synthetic series by bids_semantoks.demo, not XCP-D"}],
}
_FMRIPREP: Final = {
    "Name": "fMRIPrep - fMRI PREProcessing workflow",
    "BIDSVersion": "1.4.0",
    "DatasetType": "derivative",
    "GeneratedBy": [
        {
            "Name": "fMRIPrep",
            "Version": FMRIPREP_VERSION,
            "CodeURL": f"https://github.com/nipreps/fmriprep/archive/{FMRIPREP_VERSION}.tar.gz",
            "Description": "Synthetic stand-in written by bids_semantoks.demo; fMRIPrep was not run.",
        }
    ],
    "HowToAcknowledge": "Synthetic data: nothing to cite.",
    "License": "CC0",
    "DatasetLinks": {"raw": "../..", "templateflow": "https://github.com/templateflow/templateflow"},
}


def write_study(
    out_dir: Path, *, n_participants: int = 24, seed: int = 0, short: bool = False, incomplete: bool = False
) -> None:
    """Write a raw BIDS root, ``derivatives/fmriprep`` and the truth in ``code/truth``, replacing an earlier demo. Each
    participant is the same for any `n_participants`; `short`: runs of 136 s, not 6 min, for tests; `incomplete`: no
    confounds tables for the last participant. Raises ConfigurationError for a folder with other content and for no
    participants."""
    participants = _start_study(out_dir, n_participants, seed, _RAW)
    fmriprep = out_dir / "derivatives" / "fmriprep"
    write_json(fmriprep / "dataset_description.json", _FMRIPREP)
    write_text(fmriprep / ".bidsignore", "*_boldref.*\n*_timeseries.*\n")
    # One thread: the matrices are too small for more to pay, and more could round the last digit otherwise.
    with threadpool_limits(1):
        for participant in Progress("Simulating").each("participant", participants):
            for plan in plan_runs(participant, short=short):
                scan = simulate_scan(participant, plan)
                _write_raw(out_dir, participant, plan)
                _write_run(fmriprep, participant, plan, scan)
                _write_truth(out_dir, participant, plan, scan)
    if incomplete:
        for table in (fmriprep / f"sub-{participants[-1].label}").rglob("*_desc-confounds_timeseries.tsv"):
            table.unlink()
    _write_truth_table(out_dir, participants)


def _start_study(out_dir: Path, n_participants: int, seed: int, description: dict[str, Any]) -> list[Participant]:
    """Replace an earlier demo by the description, README and phenotypes of the participants that are drawn."""
    if n_participants < 1:
        raise ConfigurationError(f"--participants must be 1 or more, found {n_participants}.")
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigurationError(f"OUT_DIR must be a folder, found a file: {out_dir}.")
    if out_dir.is_dir() and any(out_dir.iterdir()):
        if not (out_dir / _TRUTH / "participants.tsv").is_file():
            raise ConfigurationError(
                f"OUT_DIR is not empty and is no earlier demo: {out_dir}.",
                hint="Name a new folder; the demo replaces only what it wrote itself.",
            )
        shutil.rmtree(out_dir)
    participants = [draw_participant(number, seed) for number in range(1, n_participants + 1)]
    write_json(out_dir / "dataset_description.json", description)
    write_text(out_dir / "README", _README)
    write_records(out_dir / "participants.tsv", PHENOTYPES, [describe_phenotypes(one) for one in participants])
    write_json(
        out_dir / "participants.json",
        {
            "age": {"Description": "Age", "Units": "year"},
            "sex": {"Description": "Sex", "Levels": {"F": "female", "M": "male"}},
            "site": {"Description": "Scanner site", "Levels": {"EU": "Europe", "AS": "Asia", "NA": "North America"}},
            "group": {"Description": "Group", "Levels": {"control": "control", "patient": "patient"}},
        },
    )
    return participants


def _build_path(root: Path, participant: Participant, plan: RunPlan, ending: str) -> Path:
    """Return the path of a file of a run, such as ``ROOT/sub-002/ses-1/func/sub-002_ses-1_task-rest_<ending>``."""
    entities = {"sub": participant.label, **dict(plan.entities)}
    stem = "_".join(f"{key}-{value}" for key, value in entities.items())
    return build_directory(root, entities) / f"{stem}_{ending}"


def _write_raw(out_dir: Path, participant: Participant, plan: RunPlan) -> None:
    """Write a tiny raw image, only to make the raw root a valid dataset."""
    image = _build_path(out_dir, participant, plan, "bold.nii.gz")
    empty = np.zeros((2, 2, 2, plan.n_volumes), np.int16, order="F")
    write_image(image, empty, repetition_time=plan.repetition_time)
    acquisition = dict(plan.entities).get("acq")
    encoding = {"PhaseEncodingDirection": "j" if acquisition == "PA" else "j-"} if acquisition else {}
    facts = {"RepetitionTime": plan.repetition_time, "TaskName": "rest", "Manufacturer": "none (synthetic)", **encoding}
    write_json(_build_path(out_dir, participant, plan, "bold.json"), facts)


def _write_run(fmriprep: Path, participant: Participant, plan: RunPlan, scan: Scan) -> None:
    """Write the files that fMRIPrep writes for one run."""
    slope = float(np.float32(scan.voxels.max() / 8000))
    stored = np.rint(scan.voxels / np.float32(slope)).astype(np.int16)
    reference = np.rint(stored.mean(axis=1, keepdims=True)).astype(np.int16)
    raw = _build_path(Path(), participant, plan, "bold.nii.gz")
    shared = {"Sources": [f"bids:raw:{raw.as_posix()}", f"bids:templateflow:tpl-{SPACE}/tpl-{SPACE}_res-01_T1w.nii.gz"]}
    timing = {
        "RepetitionTime": plan.repetition_time,
        "SkullStripped": False,
        "SliceTimingCorrected": True,
        **shared,
        "StartTime": round(plan.repetition_time / 2 - 0.01, 3),
        "TaskName": "rest",
    }

    def write(name: str, image: NDArray[np.int16] | NDArray[np.uint8], facts: dict[str, Any], **options: float) -> None:
        path = _build_path(fmriprep, participant, plan, f"space-{SPACE}_{name}")
        write_image(path.with_name(f"{path.name}.nii.gz"), image, **options)
        write_json(path.with_name(f"{path.name}.json"), facts)

    write("desc-preproc_bold", fill_image(stored), timing, slope=slope, repetition_time=plan.repetition_time)
    write("desc-brain_mask", build_anatomy().brain.astype(np.uint8), {"Type": "Brain", **shared})
    write("boldref", fill_image(reference)[..., 0], {"SkullStripped": False, **shared}, slope=slope)
    columns, sidecar = compute_confounds(scan, plan)
    table: Floats = np.stack(list(columns.values()), axis=1)
    path = _build_path(fmriprep, participant, plan, "desc-confounds_timeseries.tsv")
    _write_numbers(path, tuple(columns), table)
    write_json(path.with_suffix(".json"), sidecar)


def write_parcellated(
    out_dir: Path, *, n_participants: int = 400, seed: int = 0, short: bool = False, task: bool = False
) -> None:
    """Write a derivative dataset of parcellated series, one rest run per participant, and the truth in ``code/truth``.
    ``code/pretraining.json`` is a recipe for a tiny encoder. Participants and planted effects are those of
    `write_study` with the same seed; the truth is their table alone. `short`: runs of 136 s, not 6 min; `task`: also a
    run with task blocks. ConfigurationError as in `write_study`."""
    participants = _start_study(out_dir, n_participants, seed, _SERIES)
    atlases = out_dir / "sourcedata" / "atlases"
    write_json(atlases / "dataset_description.json", {**_SERIES, "Name": f"{ATLAS_NAME} atlas (not anatomical)"})
    write_parcel_table(atlases / f"tpl-{SPACE}" / f"tpl-{SPACE}_atlas-{ATLAS_NAME}_dseg.tsv")
    with threadpool_limits(1):
        for participant in Progress("Simulating").each("participant", participants):
            plan = plan_runs(participant, short=short)[0]
            _write_series(out_dir, participant, plan)
            if task:
                _write_task(out_dir, participant, dataclasses.replace(plan, number=7))
    _write_truth_table(out_dir, participants)
    write_json(out_dir / "code" / "pretraining.json", PRETRAINING)


def simulate_series(participant: Participant, plan: RunPlan) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Simulate the denoised series (T, P) of one run: signals in standard deviations, plus white noise."""
    rng = participant.rng(4, plan.number)
    signals = simulate_signals(participant, plan.n_volumes, plan.repetition_time, rng).signals
    noise = RESIDUAL_NOISE * SITE_NOISE[participant.site]
    return np.asarray(signals + noise * rng.standard_normal(signals.shape))


def _write_series(
    out_dir: Path, participant: Participant, plan: RunPlan, *, task: str = "rest", activity: Floats | float = 0.0
) -> None:
    name = f"sub-{participant.label}_task-{task}_space-{SPACE}_atlas-{ATLAS_NAME}_stat-mean_timeseries"
    stem = out_dir / f"sub-{participant.label}" / "func" / name
    timing = {"RepetitionTime": plan.repetition_time, "SamplingFrequency": 1.0 / plan.repetition_time}
    write_json(stem.with_suffix(".json"), timing)
    series = simulate_series(participant, plan) + activity
    _write_numbers(stem.with_suffix(".tsv"), build_table()[0], series, "%.4f")


def _write_task(out_dir: Path, participant: Participant, plan: RunPlan) -> None:
    blocks = draw_blocks(participant, plan)
    _write_series(out_dir, participant, plan, task="blocks", activity=compute_activity(blocks, plan))
    name = f"sub-{participant.label}_task-blocks_events.tsv"
    rows = [(f"{onset:g}", f"{duration:g}", block) for onset, duration, block in blocks]
    write_records(out_dir / f"sub-{participant.label}" / "func" / name, ("onset", "duration", "trial_type"), rows)


def _write_numbers(path: Path, header: Sequence[str], values: Reals, number: str = "%.10g") -> None:
    """Write a table of numbers (T, C); NaN becomes n/a."""
    # One % over the whole table: 27 million numbers take seconds this way and minutes through a table library.
    row = "\t".join([number] * values.shape[1]) + "\n"
    text = (row * len(values)) % tuple(values.ravel().tolist())
    write_text(path, "\t".join(header) + "\n" + text.replace("nan", "n/a"))


def _write_truth(out_dir: Path, participant: Participant, plan: RunPlan, scan: Scan) -> None:
    """Write the truth about one run to ``<entities>_truth.npz``, whose bytes depend on it alone. signals (T, P),
    confounds (T, C), confound_names (C,), weights (C, P) in percent of the mean intensity, parcels (P,), networks,
    frequency and lag (N,), coupling (N, N), repetition_time (s), n_dummy."""
    arrays = {
        "signals": scan.neural.signals.astype(np.float32),
        "confounds": scan.sources.astype(np.float32),
        "confound_names": scan.source_names,
        "weights": scan.weights.astype(np.float32),
        "parcels": build_table()[0],
        "coupling": scan.neural.coupling,
        "frequency": scan.neural.frequency,
        "lag": scan.neural.lag,
        "networks": CANONICAL_NETWORKS,
        "repetition_time": plan.repetition_time,
        "n_dummy": plan.n_dummy,
    }
    path = out_dir / _TRUTH / _build_path(out_dir, participant, plan, "truth.npz").name
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            # numpy.savez stamps the time of writing into the archive in some versions.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _write_truth_table(out_dir: Path, participants: list[Participant]) -> None:
    """Write all participants' complete phenotypes and planted values, and the effect sizes."""
    upper = np.triu_indices(len(CANONICAL_NETWORKS), 1)
    pairs = [f"{CANONICAL_NETWORKS[i]}_{CANONICAL_NETWORKS[j]}" for i, j in zip(*upper, strict=True)]
    header = ["participant_id", "age", "sex", "site", "group", "age_z"]
    header += [f"coupling_{pair}" for pair in pairs]
    header += [f"{kind}_{name}" for kind in ("frequency", "lag") for name in CANONICAL_NETWORKS]
    rows = []
    for person in participants:
        planted = np.concatenate([compute_coupling(person)[upper], *compute_dynamics(person)])
        known = (f"sub-{person.label}", person.age, person.sex, person.site, person.group, f"{person.age_z:.6g}")
        rows.append((*known, *(f"{value:.6g}" for value in planted)))
    write_records(out_dir / _TRUTH / "participants.tsv", header, rows)
    write_json(out_dir / _TRUTH / "effects.json", _describe_effects())


def _describe_effects() -> dict[str, Any]:
    """Describe the sizes of the planted effects for people and programs."""
    effects: dict[str, tuple[str, dict[Any, float]]] = {
        "age_coupling": ("Correlation added per SD of age (18 years)", AGE_COUPLING),
        "sex_coupling": ("Correlation added for M over F", SEX_COUPLING),
        "site_coupling": ("Correlation added to every pair", SITE_COUPLING),
        "age_tempo": ("Change of the log central frequency per SD of age", AGE_TEMPO),
        "sex_tempo": ("Change of the log central frequency for M over F", SEX_TEMPO),
        "age_lag": ("Seconds of delay added per SD of age", AGE_LAG),
        "site_noise": ("Noise of the scanner, relative to EU", SITE_NOISE),
        "site_patients": ("Share of patients; the group has no effect on the signals", SITE_PATIENTS),
    }
    return {
        "Description": "Coupling is changed before networks are balanced against each other, which spreads the "
        "changes a little; what came out for each participant stands in participants.tsv.",
        **{
            name: {"Description": text} | {_join(key): size for key, size in sizes.items()}
            for name, (text, sizes) in effects.items()
        },
    }


def _join(key: str | tuple[str, str]) -> str:
    """Name a site, a network or a pair of networks."""
    return key if isinstance(key, str) else "_".join(key)
