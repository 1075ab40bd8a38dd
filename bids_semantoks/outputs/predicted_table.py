"""Predictions of a saved predictor, one row per participant."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bids_semantoks.files import write_json, write_records
from bids_semantoks.outputs.predictor_files import RESEARCH_ONLY, PredictorFacts
from bids_semantoks.outputs.sidecars import read_column_descriptions

#: Stem of the table of scores, whose sidecar has what the page says.
PREDICTED: Final = "group_predictor"


def write_predicted(
    out_dir: Path, name: str, participants: Sequence[str], table: Mapping[str, Sequence[Any]], facts: PredictorFacts
) -> Path:
    """Write the columns of a table, in the order of `participants` (labels without ``sub-``), as
    ``OUT_DIR/phenotype/<name>Predicted.tsv`` with a sidecar that describes them, and return its path."""
    path = out_dir / "phenotype" / f"{re.sub(r'[^A-Za-z0-9_-]+', '', name)}Predicted.tsv"
    described = read_column_descriptions("predicted")
    columns = {column: _describe(column, described, facts) for column in table}
    labels = [f"sub-{label}" for label in participants]
    write_records(path, ("participant_id", *columns), list(zip(labels, *map(list, table.values()), strict=True)))
    text = f"{facts.phenotype} predicted by the saved linear model {name} of embeddings. {RESEARCH_ONLY}"
    sidecar = {
        "Description": text,
        "participant_id": described["participant_id"],
        "MeasurementToolMetadata": {"Description": text},
        **columns,
    }
    write_json(path.with_suffix(".json"), sidecar, only_if_changed=True)
    return path


def _describe(column: str, described: Mapping[str, Any], facts: PredictorFacts) -> dict[str, Any]:
    if column in described:
        return dict(described[column])
    name = column.removeprefix("recalibrated_").removeprefix("probability_")
    after = " after the correction of intercept and slope" if column.startswith("recalibrated_") else ""
    return {"Description": f"Probability that {facts.phenotype} is {name}{after}."}
