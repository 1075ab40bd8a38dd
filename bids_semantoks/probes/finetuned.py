"""The fine-tuned encoder as one more model on the same people and splits."""

from __future__ import annotations

import logging
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.store import read_signals
from bids_semantoks.pretraining.packing import standardise
from bids_semantoks.probes.designs import Design
from bids_semantoks.probes.findings import ModelResult
from bids_semantoks.probes.rows import Rows
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.training.finetune import FinetuneRecipe, Finetuning, TuningRuns
from bids_semantoks.training.finetune_folds import cross_validate_finetuned
from bids_semantoks.training.loop import choose_precision

LOGGER = logging.getLogger("bids_semantoks")

NAME: Final = "finetuned"


def read_tuning_runs(rows: Rows, encoder: RunEncoder) -> TuningRuns:
    """Read the signals of all rows at the encoder's repetition time, parcels in its order."""
    order = encoder.frozen.match.order
    signals: list[NDArray[np.float32]] = []
    present, row_of = [], []
    for row, runs in enumerate(rows.runs):
        for run in runs:
            values, is_present = standardise(
                read_signals(run.paths)[1],
                repetition_time=run.sidecar["RepetitionTime"],
                n_dummy=run.sidecar["VolumesDropped"]["Dummy"]["Count"],
                target=encoder.loaded.config.repetition_time,
            )
            has_signal = (order >= 0) & is_present[order]
            signals.append(np.where(has_signal, values[:, order], np.float32(0)))
            present.append(has_signal)
            row_of.append(row)
    return TuningRuns(signals=tuple(signals), present=np.stack(present), row_of=np.array(row_of))


def finetune(encoder: RunEncoder, design: Design, *, epochs: int, seed: int) -> ModelResult:
    """Fine-tune an encoder for one phenotype, afresh for every fold; `encoder` itself keeps its weights. There is no
    permutation test, which would take one training per permutation and fold."""
    device = encoder.frozen.device
    LOGGER.info(
        "Fine-tuning for %s: %d folds of %d epochs on %s.", design.target.name, len(design.splits), epochs, device
    )
    tuning = Finetuning(
        encoder.loaded.encoder,
        read_tuning_runs(design.rows, encoder),
        design.target,
        FinetuneRecipe(epochs=epochs, n_windows=encoder.config.n_windows),
        pooling=encoder.config.pooling,
        device=device,
        precision=choose_precision(encoder.config.precision, device),
    )
    predictions = cross_validate_finetuned(tuning, design.splits, name=NAME, groups=design.groups, seed=seed)
    people = design.rows.participants if design.rows.has_sessions else None
    return ModelResult(
        role="finetuned",
        protocol="finetune",
        covariates=(),
        predictions=predictions,
        scores=compute_scores(predictions, participants=people, seed=seed),
        permutation=None,
    )
