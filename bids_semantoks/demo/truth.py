"""The truth about a synthetic study: hidden signals, confound weights and planted effects."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.demo.atlas import build_table
from bids_semantoks.demo.files import write_json, write_tsv
from bids_semantoks.demo.neural import (
    AGE_COUPLING,
    AGE_LAG,
    AGE_TEMPO,
    SEX_COUPLING,
    SEX_TEMPO,
    SITE_COUPLING,
    compute_coupling,
    compute_dynamics,
)
from bids_semantoks.demo.participants import Participant, RunPlan
from bids_semantoks.demo.voxels import Scan
from bids_semantoks.records import CANONICAL_NETWORKS

TRUTH: Final = Path("code") / "truth"


def write_truth(out_dir: Path, participant: Participant, plan: RunPlan, scan: Scan) -> None:
    """Write the truth about one run to ``<entities>_truth.npz``.

    signals (T, P), confounds (T, C), confound_names (C,), weights (C, P) in percent of the mean intensity,
    parcels (P,), networks, frequency and lag (N,), coupling (N, N), repetition_time (s), n_dummy.
    """
    entities = "_".join(f"{key}-{value}" for key, value in (("sub", participant.label), *plan.entities))
    write_arrays(
        out_dir / TRUTH / f"{entities}_truth.npz",
        {
            "signals": scan.neural.signals.astype(np.float32),
            "confounds": scan.sources.astype(np.float32),
            "confound_names": np.array(scan.source_names),
            "weights": scan.weights.astype(np.float32),
            "parcels": np.array(build_table()[0]),
            "coupling": scan.neural.coupling,
            "frequency": scan.neural.frequency,
            "lag": scan.neural.lag,
            "networks": np.array(CANONICAL_NETWORKS),
            "repetition_time": np.array(plan.repetition_time),
            "n_dummy": np.array(plan.n_dummy),
        },
    )


def write_truth_table(out_dir: Path, participants: list[Participant]) -> None:
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
    write_tsv(out_dir / TRUTH / "participants.tsv", header, rows)
    write_json(out_dir / TRUTH / "effects.json", _describe_effects())


def write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an .npz whose bytes depend on the arrays alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            # numpy.savez stamps the time of writing into the archive in some versions.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _describe_effects() -> dict[str, Any]:
    """Describe the sizes of the planted effects for people and programs."""

    def name_pairs(changes: dict[tuple[str, str], float]) -> dict[str, float]:
        return {f"{one}_{other}": change for (one, other), change in changes.items()}

    return {
        "Description": "Coupling is changed before networks are balanced against each other, which spreads the "
        "changes a little; what came out for each participant stands in participants.tsv.",
        "age_coupling": {"Description": "Correlation added per SD of age (18 years)", **name_pairs(AGE_COUPLING)},
        "sex_coupling": {"Description": "Correlation added for M over F", **name_pairs(SEX_COUPLING)},
        "site_coupling": {"Description": "Correlation added to every pair", **SITE_COUPLING},
        "age_tempo": {"Description": "Change of the log central frequency per SD of age", **AGE_TEMPO},
        "sex_tempo": {"Description": "Change of the log central frequency for M over F", **SEX_TEMPO},
        "age_lag": {"Description": "Seconds of delay added per SD of age", **AGE_LAG},
    }
