"""Features of each model that is compared: the encoder and its baselines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bids_semantoks.probes.rows import Rows, compute_motion, iterate_signals, read_embeddings
from bids_semantoks.statistics.baselines import (
    CONNECTIVITY,
    build_chance,
    build_column_features,
    build_connectivity_features,
    build_parcel_features,
)
from bids_semantoks.statistics.spans import Features, TableFeatures


def build_motion_features(rows: Rows) -> TableFeatures:
    """Build the motion baseline: mean framewise displacement (mm), whether it is unknown, seconds of kept data."""
    motion, seconds = compute_motion(rows)
    unknown = np.isnan(motion)
    columns = np.where(unknown, 0.0, motion), unknown.astype(float), seconds
    return build_column_features("motion", *(column.tolist() for column in columns))


def build_models(
    rows: Rows,
    encoders: Sequence[str],
    twins: Sequence[str],
    baselines: Sequence[str],
    *,
    n_components: int = 100,
) -> dict[str, tuple[Features, ...]]:
    """Build the features of all models except those that depend on the phenotype, by name, the encoder first.
    A name has several where scores are averaged over seeds; `encoders` and `twins` (random weights) are labels."""
    models = {encoders[0]: tuple(_read_features(rows, label, encoders[0]) for label in encoders)}
    kinds = [kind for kind in CONNECTIVITY if kind in baselines]
    for one in build_connectivity_features(iterate_signals(rows), kinds, n_components=n_components) if kinds else ():
        models[one.name] = (one,)
    if "parcel_moments" in baselines:
        models["parcel_moments"] = (build_parcel_features(iterate_signals(rows)),)
    if "motion" in baselines:
        models["motion"] = (build_motion_features(rows),)
    if "random" in baselines:
        models["random"] = tuple(_read_features(rows, label, "random") for label in twins)
    if "chance" in baselines:
        models["chance"] = (build_chance(len(rows.keys)),)
    return models


def _read_features(rows: Rows, label: str, name: str) -> Features:
    return TableFeatures(name=name, values=read_embeddings(rows, label))


def build_site_features(labels: Sequence[str | None]) -> TableFeatures:
    """Build the site baseline, one indicator per site; rows without a site form one more."""
    names = sorted({label or "" for label in labels})
    values = np.array([[float((label or "") == name) for name in names] for label in labels])
    return TableFeatures(name="site", values=values)
