"""What finds the effects that are planted in the synthetic study: ``python benchmarks/demo_effects.py``.

For each seed, a study of parcellated series is simulated, and age and sex are predicted out of fold (the nested
protocol, as `make demo` does) from three kinds of features: Pearson connectivity of all parcels; the tokens, averaged
for each network, of a tiny encoder that was pretrained on the same people without their phenotypes, by the recipe of
the demo; and those of the same architecture with random weights.
Prints a line for each seed, then mean and standard deviation over seeds, and in how many of them connectivity and the
pretrained encoder both score higher than random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from compare_pretraining import (
    METRICS,
    StageLog,
    build_connectivity,
    compute_value,
    encode_study,
    pack_study,
    predict,
    pretrain,
    simulate_study,
)

from bids_semantoks.config import TrainingConfig, from_json
from bids_semantoks.demo.study import PRETRAINING
from bids_semantoks.models.encoder import build_encoder, build_head, read_encoder_config
from bids_semantoks.models.parcels import build_layout, match_parcels
from bids_semantoks.statistics.spans import Features, TableFeatures
from bids_semantoks.training.distill import TeacherStudent

MODELS = ("connectivity", "pretrained", "random weights")
#: Seed of random weights, far from those that pretraining starts from.
_FAR = 1_000_003


def main() -> None:
    """Print a line for each seed, and the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--participants", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{options.participants} participants; wanted of connectivity are age r 0.5-0.7 and sex AUROC 0.75-0.85")
    found = []
    for seed in options.seeds:
        began = time.monotonic()
        found.append(measure(options.participants, seed))
        told = (f"{name} age r {found[-1][name, 'age']:.2f}, sex AUROC {found[-1][name, 'sex']:.2f}" for name in MODELS)
        print(f"seed {seed}: {'; '.join(told)} ({time.monotonic() - began:.0f} s)", flush=True)
    for name in MODELS:
        told = []
        for target, metric in METRICS.items():
            values = np.array([one[name, target] for one in found])
            told.append(f"{target} {metric} {values.mean():.2f} (SD {values.std(ddof=1) if len(found) > 1 else 0:.2f})")
        print(f"{name}: {', '.join(told)}")
    for target in METRICS:
        held = sum(
            min(one["connectivity", target], one["pretrained", target]) > one["random weights", target] for one in found
        )
        print(f"{target}: random weights score lowest in {held} of {len(found)} seeds")


def measure(n_participants: int, seed: int) -> dict[tuple[str, str], float]:
    """Simulate a study, pretrain on it, and predict age and sex.

    Parameters
    ----------
    n_participants : int
        Participants of the study.
    seed : int
        Of the study, the weights, the training and the folds.

    Returns
    -------
    dict of (model, target) to float
        Pearson's r for age and area under the ROC curve for sex.
    """
    study = simulate_study(n_participants, seed)
    config, layout = read_encoder_config("tiny"), build_layout(study.parcels, study.networks)
    order = match_parcels(study.parcels, study.networks, layout).order
    recipe = from_json(TrainingConfig, PRETRAINING)
    module = TeacherStudent(build_encoder(config, layout, seed), build_head(config, seed), recipe)
    with tempfile.TemporaryDirectory() as folder:
        view = pack_study(study, Path(folder) / "signals", order, config.repetition_time)
        pretrain(module, view, recipe, seed, "cpu", StageLog([], None))
    encoders = {"pretrained": module.teacher, "random weights": build_encoder(config, layout, seed + _FAR)}
    features: dict[str, Features] = {"connectivity": build_connectivity(study)}
    for name, encoder in encoders.items():
        values = encode_study(study, encoder, "cpu")["networks"]
        features[name] = TableFeatures(name=name, values=values)
    return {
        (name, target): compute_value(predictions)[0]
        for name, one in features.items()
        for target, predictions in predict(one, study, seed, 2).items()
    }


if __name__ == "__main__":
    main()
