"""A predictor as a folder: weights in safetensors, facts in JSON, and a model card; and the table of what it predicts.
Nothing in these files is ever executed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bids_semantoks.config.options import from_json, to_json
from bids_semantoks.errors import ConfigurationError, ModelError, escape_markdown
from bids_semantoks.files import hash_file, hash_text, open_atomic, read_json, write_json, write_records, write_text
from bids_semantoks.outputs.credits import build_hub_header
from bids_semantoks.outputs.group_words import METRIC_NAMES, format_interval, show_model
from bids_semantoks.outputs.sidecars import read_column_descriptions
from bids_semantoks.records import Floats
from bids_semantoks.statistics.baselines import CONNECTIVITY
from bids_semantoks.statistics.portable import LinearPredictor
from bids_semantoks.statistics.spans import Scaling

PREDICTORS: Final = "predictors"

#: Stem of the table of scores, whose sidecar has what the page says.
PREDICTED: Final = "group_predictor"

#: Baselines whose features are computed without an encoder, at any place.
CARRIED: Final = (*CONNECTIVITY, "parcel_moments", "motion", "covariates")

FACTS_FILE: Final = "predictor.json"
TENSORS_FILE: Final = "predictor.safetensors"
_VERSION: Final = 1

#: Bytes of files that are read at all: facts list the parcels, tensors hold a few numbers per feature and person.
_MOST_FACTS, _MOST_TENSORS = 2**24, 2**30
_MODEL: Final = ("reference", "weights", "intercepts", "axes", "deviation", "shares")
_SCALING: Final = ("mean", "deviation", "coefficients", "scale")
_HOME: Final = ("truth", "scores", "positions")

RESEARCH_ONLY: Final = "For research use only: not for diagnosis or any decision about individuals."


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CovariateFacts:
    """A covariate that is removed from the features."""

    name: str
    levels: tuple[str, ...]  # with one indicator each; empty for a number


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RangeFacts:
    """Range of a measure of the input over people at home."""

    name: str
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFacts:
    """A cross-validated score at home, None where unknown."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PredictorFacts:
    """What must be known to use a predictor; the fields of ``predictor.json``."""

    format_version: int
    phenotype: str
    classes: tuple[str, ...]  # empty for values
    model: str  # in group_probe.tsv
    encoder: str  # description of the weights; empty with the next two, and no settings, for `CARRIED`
    encoder_sha256: str
    encoder_source: str  # value of --model, without the folders of a path
    embedding_settings: dict  # type: ignore[type-arg] # by name, as in sidecars
    min_kept: float | None
    window_seconds: float | None
    signals_settings: dict  # type: ignore[type-arg] # by name, as in sidecars; denoising among them
    atlas: str
    atlas_sha256: str
    parcels: tuple[str, ...]
    covariates: tuple[CovariateFacts, ...]
    n_participants: int
    penalty: float
    scores: tuple[ScoreFacts, ...]
    ranges: tuple[RangeFacts, ...]
    site_column: str  # empty for none
    sites: tuple[str, ...]
    options: dict  # type: ignore[type-arg] # of the call, those that decide the fit
    software: dict  # type: ignore[type-arg] # versions by name
    tensors_sha256: str = ""

    @property
    def features(self) -> str:
        """What the model is linear in, in words."""
        return show_model(self.model) if self.model in CARRIED else "embeddings"

    def count_covariates(self) -> int:
        """Count the columns that covariates take."""
        return sum(len(one.levels) or 1 for one in self.covariates)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SavedPredictor:
    """A predictor with what is known of the people at home: N of them, out of fold, in no order."""

    facts: PredictorFacts
    linear: LinearPredictor
    truth: Floats  # (N,) value or index of the class
    scores: Floats  # (N, 1) or (N, K)
    positions: Floats  # (N, m + 2) as of `LinearPredictor.predict`


def write_predictor(directory: Path, saved: SavedPredictor) -> None:
    """Write a predictor; ``predictor.json`` comes last and makes it complete."""
    tensors = {f"scaling.{name}": _to_finite(getattr(saved.linear.scaling, name)) for name in _SCALING}
    tensors |= {f"model.{name}": getattr(saved.linear, name) for name in _MODEL}
    tensors |= {f"home.{name}": getattr(saved, name) for name in _HOME}
    content = save({name: np.ascontiguousarray(values, dtype=np.float64) for name, values in tensors.items()})
    (directory / FACTS_FILE).unlink(missing_ok=True)
    with open_atomic(directory / TENSORS_FILE, is_durable=True) as file:
        file.write(content)
    facts = dataclasses.replace(saved.facts, tensors_sha256=hash_file(directory / TENSORS_FILE))
    write_text(directory / "README.md", _build_card(directory.name, facts))
    write_json(directory / FACTS_FILE, to_json(facts))


def _to_finite(values: Floats) -> Floats:
    """Write what is infinite, the unit of something constant, as 0, so that nothing in a file is infinite."""
    return np.where(np.isinf(values), 0.0, values)


def read_predictor(directory: Path) -> SavedPredictor:
    """Read a predictor; ModelError if it is missing, damaged, or does not fit together."""
    path = directory / FACTS_FILE
    try:
        _check_size(path, _MOST_FACTS)
        values = read_json(path)
        if isinstance(values, dict) and values.get("format_version") != _VERSION:
            found = values.get("format_version")
            raise ValueError(f"it has format {found!r:.40}; this version of bids_semantoks reads {_VERSION}.")
        facts = from_json(PredictorFacts, values, where=str(path))
        _check_facts(facts)
    except FileNotFoundError as error:
        raise ModelError(
            f"{directory} is not a predictor: {FACTS_FILE} not found.",
            hint="Give the name or folder of a predictor that --save-predictor wrote.",
        ) from error
    except (OSError, ValueError, TypeError, ConfigurationError) as error:
        raise ModelError(f"{path} is damaged or not a predictor: {str(error)[:300]}") from error
    tensors = _read_tensors(directory / TENSORS_FILE, facts)
    scaling = {name: tensors[f"scaling.{name}"] for name in _SCALING}
    scaling |= {name: np.where(scaling[name] == 0, np.inf, scaling[name]) for name in ("deviation", "scale")}
    return SavedPredictor(
        facts=facts,
        linear=LinearPredictor(
            scaling=Scaling(**scaling), penalty=facts.penalty, **{name: tensors[f"model.{name}"] for name in _MODEL}
        ),
        **{name: tensors[f"home.{name}"] for name in _HOME},
    )


def _check_size(path: Path, most: int) -> None:
    # A pipe would never end.
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} not found")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"it has {size:,} bytes; expected at most {most:,}")


def _read_tensors(path: Path, facts: PredictorFacts) -> dict[str, NDArray[np.float64]]:
    try:
        _check_size(path, _MOST_TENSORS)
        if hash_file(path) != facts.tensors_sha256:
            raise ValueError(f"its SHA-256 differs from that in {FACTS_FILE}")
        with safe_open(path, framework="numpy") as content:
            tensors = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        _check_tensors(tensors, facts)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {str(error)[:300]}.", hint="Copy or save the predictor again.") from error
    return tensors


def _check_facts(facts: PredictorFacts) -> None:
    """Check what types do not; ValueError for the first that is wrong."""
    n_classes = len(facts.classes)
    if n_classes == 1 or len(set(facts.classes)) < n_classes:
        raise ValueError(f"{n_classes} classes are not two or more distinct ones")
    if unknown := [one.metric for one in facts.scores if one.metric not in METRIC_NAMES]:
        raise ValueError(f"the metric {unknown[0]!r:.60} is unknown")
    if not 0 < facts.n_participants < 10**9:
        raise ValueError(f"{facts.n_participants!r:.60} is not a number of participants")


def _check_tensors(tensors: Mapping[str, NDArray[Any]], facts: PredictorFacts) -> None:
    """Check names, types, shapes and values; ValueError for the first that is wrong."""
    n_classes, n_parcels = len(facts.classes), len(facts.parcels)
    m, width = (n_classes if n_classes > 2 else 1), n_classes or 1
    c = 0 if facts.model == "covariates" else facts.count_covariates()
    d, k, n, size = (
        tensors[name].shape[axis] if name in tensors and tensors[name].ndim > axis else 0
        for name, axis in (("scaling.scale", 0), ("model.deviation", 0), ("home.truth", 0), ("model.reference", 1))
    )
    tangent = (n_parcels, size) if facts.model == "tangent" else (0, 0)
    d = {
        **dict.fromkeys(("pearson", "ledoit_wolf"), n_parcels * (n_parcels - 1) // 2),
        **{"tangent": size * (size + 1) // 2, "parcel_moments": 2 * n_parcels, "motion": 3},
        "covariates": facts.count_covariates(),
    }.get(facts.model, d)
    shapes = {
        **{"scaling.mean": (c,), "scaling.deviation": (c,), "scaling.coefficients": (1 + c, d), "scaling.scale": (d,)},
        **{"model.reference": tangent, "model.weights": (d, m), "model.intercepts": (m,), "model.axes": (d, k)},
        **{"model.deviation": (k,), "model.shares": (n_classes,)},
        **{"home.truth": (n,), "home.scores": (n, width), "home.positions": (n, m + 2)},
    }
    if set(tensors) != set(shapes) or not (d and k and n):
        raise ValueError(f"it has the tensors {', '.join(sorted(tensors))[:200]}; expected {', '.join(shapes)}")
    for name, shape in shapes.items():
        values = tensors[name]
        if values.dtype != np.float64 or values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} is {values.dtype} {values.shape}; expected finite float64 {shape}")
    positive = ("scaling.scale", "scaling.deviation", "model.deviation", "model.shares")
    if any((tensors[name] < 0).any() for name in positive) or not (tensors["model.deviation"] > 0).all():
        raise ValueError("a scale is negative or 0")
    if n_classes and not (np.isin(tensors["home.truth"], np.arange(n_classes)).all() and tensors["model.shares"].all()):
        raise ValueError(f"a class is not one of the {n_classes}")


def _build_card(name: str, facts: PredictorFacts) -> str:
    """Build the model card with the metadata that the Hugging Face hub reads."""
    denoising = (facts.signals_settings.get("denoising") or {}).get("name") or "as another pipeline left the series"
    what = facts.phenotype + (f" ({', '.join(facts.classes)})" if facts.classes else "")
    shown = [f"phenotype: {what}", f"people: {facts.n_participants}", f"model: {show_model(facts.model)}"]
    if facts.encoder_sha256:
        shown += [f"encoder: {facts.encoder}", f"encoder SHA-256: {facts.encoder_sha256}"]
    shown += [f"atlas: {facts.atlas} ({len(facts.parcels)} parcels)", f"denoising: {denoising}"]
    covariates = ", ".join(one.name for one in facts.covariates) or "none"
    shown += [f"covariates {'used' if facts.model == 'covariates' else 'removed'}: {covariates}"]
    scores = []
    for one in facts.scores:
        numbers = [math.nan if x is None else x for x in (one.value, one.ci_low, one.ci_high)]
        scores.append(f"{METRIC_NAMES[one.metric]} {format_interval(*numbers)}")
    spelt = {one.name.removeprefix("n_").replace("_", " "): one for one in facts.ranges}
    ranges = [f"{name}: {one.low:.4g} to {one.high:.4g}" for name, one in spelt.items()]
    ranges += [f"sites: {', '.join(facts.sites)}"] if facts.sites else []
    shown, scores, ranges = ([f"- {escape_markdown(text)}" for text in part] for part in (shown, scores, ranges))
    return "\n".join(
        [
            build_hub_header("tabular-classification" if facts.classes else "tabular-regression"),
            f"# Predictor {escape_markdown(name)}\n",
            f"A linear model of {escape_markdown(facts.features)}, written by bids_semantoks. {RESEARCH_ONLY}\n",
            *shown,
            f"- Use: `bids_semantoks BIDS_DIR OUT_DIR group --apply-predictor {escape_markdown(name)}` (path of this "
            f"directory), with the same {'encoder, ' if facts.encoder_sha256 else ''}atlas and denoising",
            "\n## Out of fold at home\n",
            *scores,
            "\n## Limits\n",
            "Intervals and sets hold the truth for people who are exchangeable with those at home, on average over "
            "them; they are void where people, scanners or preprocessing differ. Predictions outside these ranges are "
            "flagged:\n",
            *ranges,
            f"\n`{TENSORS_FILE}` has out-of-fold predictions and true values of the people at home, one row each, "
            "without labels and sorted by value. Whether they may be shared depends on the terms of the data.\n",
        ]
    )


def write_predicted(
    out_dir: Path, name: str, participants: Sequence[str], table: Mapping[str, Sequence[Any]], facts: PredictorFacts
) -> Path:
    """Write the columns of a table, in the order of `participants` (labels without ``sub-``), as
    ``OUT_DIR/phenotype/<name>Predicted.tsv`` with a sidecar that describes them, and return its path."""
    label = re.sub(r"[^A-Za-z0-9_-]+", "", name)
    # a.b and ab are two predictors.
    label = label if label == name else f"{label}-{hash_text(name)[:8]}".lstrip("-")
    path = out_dir / "phenotype" / f"{label}Predicted.tsv"
    described = read_column_descriptions("predicted")
    columns = {column: _describe(column, described, facts) for column in table}
    labels = [f"sub-{one}" for one in participants]
    write_records(path, ("participant_id", *columns), list(zip(labels, *map(list, table.values()), strict=True)))
    text = f"{facts.phenotype} predicted by the saved linear model {name} of {facts.features}. {RESEARCH_ONLY}"
    sidecar: dict[str, Any] = {"Description": text, "participant_id": described["participant_id"]}
    sidecar |= {"MeasurementToolMetadata": {"Description": text}, **columns}
    write_json(path.with_suffix(".json"), sidecar, only_if_changed=True)
    return path


def _describe(column: str, described: Mapping[str, Any], facts: PredictorFacts) -> dict[str, Any]:
    if column in described:
        return dict(described[column])
    name = column.removeprefix("recalibrated_").removeprefix("probability_")
    after = " after the correction of intercept and slope" if column.startswith("recalibrated_") else ""
    return {"Description": f"Probability that {facts.phenotype} is {name}{after}."}
