"""``group_scaling.tsv``: gain over random weights of encoders pretrained on shares of the data."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

NAME: Final = "group_scaling"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScalingRow:
    """One encoder on one phenotype by one metric; the columns are explained in `MEANINGS`."""

    phenotype: str
    metric: str
    source: str
    share: float  # of the participants of `source`
    n_pretraining: int
    seed: int
    value: float
    value_random: float
    gain: float
    gain_low: float
    gain_high: float
    n_tested: int
    # tested participants the encoder was pretrained on; None if labels of two studies cannot be compared
    n_pretrained: int | None
    encoder: str  # folder below encoders


MEANINGS: Final[dict[str, Any]] = {
    "phenotype": {"Description": "What was predicted."},
    "metric": {"Description": "How predictions are scored, out of fold, as in group_probe.tsv."},
    "source": {"Description": "Whose signals the encoder was pretrained on; own: those of this dataset."},
    "share": {"Description": "Share of the participants there."},
    "n_pretraining": {"Description": "Participants that the encoder was pretrained on."},
    "seed": {"Description": "Seed of the first weights, of the training, and of who belongs to the share."},
    "value": {"Description": "Score of the encoder, nested protocol, on the splits of group_probe.tsv."},
    "value_random": {
        "Description": "Score of the random weights of the same seed, from which the training of this encoder started."
    },
    "gain": {"Description": "value - value_random."},
    "gain_low": {
        "Description": "Lower end of its 95 % interval: bootstrap over participants, drawn alike for both encoders, "
        "widened because folds share their training rows."
    },
    "gain_high": {"Description": "Upper end of the 95 % interval."},
    "n_tested": {"Description": "Participants tested."},
    "n_pretrained": {
        "Description": "Participants tested who were among those that the encoder was pretrained on; n/a where the "
        "signals are another study's, whose labels mean other people."
    },
    "encoder": {"Description": "Folder of the encoder below encoders."},
}
