"""A predictor as a folder: weights in safetensors, facts in JSON, and a model card. Nothing in it is ever executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bids_semantoks.config.options import from_json, to_json
from bids_semantoks.errors import ConfigurationError, ModelError, escape_markdown
from bids_semantoks.files import hash_file, open_atomic, read_json, write_json, write_text
from bids_semantoks.outputs.credits import build_hub_header
from bids_semantoks.outputs.group_words import METRIC_NAMES, format_interval
from bids_semantoks.records import Floats
from bids_semantoks.statistics.portable import LinearPredictor
from bids_semantoks.statistics.spans import Scaling

PREDICTORS: Final = "predictors"
FACTS_FILE: Final = "predictor.json"
TENSORS_FILE: Final = "predictor.safetensors"
_VERSION: Final = 1

#: Bytes of files that are read at all: facts list the parcels, tensors hold a few numbers per feature and person.
_MOST_FACTS, _MOST_TENSORS = 2**24, 2**30
_MODEL: Final = ("weights", "intercepts", "axes", "deviation", "shares")
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
    encoder: str  # description of the weights
    encoder_sha256: str
    encoder_source: str  # value of --model
    embedding_settings: dict  # type: ignore[type-arg] # by name, as in sidecars
    min_kept: float | None
    window_seconds: float
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
    probing: dict  # type: ignore[type-arg] # options of the call
    software: dict  # type: ignore[type-arg] # versions by name
    tensors_sha256: str = ""


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
        facts = from_json(PredictorFacts, read_json(path), where=str(path))
    except FileNotFoundError as error:
        raise ModelError(
            f"{directory} is not a predictor: {FACTS_FILE} not found.",
            hint="Give the name or folder of a predictor that --save-predictor wrote.",
        ) from error
    except (OSError, ValueError, TypeError, ConfigurationError) as error:
        raise ModelError(f"{path} is damaged or not a predictor: {str(error)[:300]}") from error
    if facts.format_version != _VERSION:
        raise ModelError(
            f"{path} has format {facts.format_version}; this version reads {_VERSION}.", hint="Update bids_semantoks."
        )
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


def _check_tensors(tensors: Mapping[str, NDArray[Any]], facts: PredictorFacts) -> None:
    """Check names, types, shapes and values; ValueError for the first that is wrong."""
    n_classes = len(facts.classes)
    if n_classes == 1 or len(set(facts.classes)) < n_classes:
        raise ValueError(f"{n_classes} classes are not two or more distinct ones")
    m, width = (n_classes if n_classes > 2 else 1), n_classes or 1
    c = sum(len(one.levels) or 1 for one in facts.covariates)
    d, k, n = (
        tensors[name].shape[axis] if name in tensors and tensors[name].ndim > axis else 0
        for name, axis in (("scaling.scale", 0), ("model.deviation", 0), ("home.truth", 0))
    )
    shapes = {
        **{"scaling.mean": (c,), "scaling.deviation": (c,), "scaling.coefficients": (1 + c, d), "scaling.scale": (d,)},
        **{"model.weights": (d, m), "model.intercepts": (m,), "model.axes": (d, k), "model.deviation": (k,)},
        **{"model.shares": (n_classes,), "home.truth": (n,), "home.scores": (n, width), "home.positions": (n, m + 2)},
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
    header = build_hub_header("tabular-classification" if facts.classes else "tabular-regression")
    covariates = ", ".join(one.name for one in facts.covariates) or "none"
    denoising = (facts.signals_settings.get("denoising") or {}).get("name") or "as another pipeline left the series"
    shown = [
        ("phenotype", facts.phenotype + (f" ({', '.join(facts.classes)})" if facts.classes else "")),
        ("people", str(facts.n_participants)),
        ("model", f"{facts.model}; {facts.encoder}"),
        ("encoder SHA-256", facts.encoder_sha256),
        ("atlas", f"{facts.atlas} ({len(facts.parcels)} parcels)"),
        ("denoising", str(denoising)),
        ("covariates removed", covariates),
    ]
    scores = [
        f"{METRIC_NAMES.get(one.metric, one.metric)} {format_interval(*_list_numbers(one))}" for one in facts.scores
    ]
    ranges = [f"{one.name.replace('_', ' ')}: {one.low:.4g} to {one.high:.4g}" for one in facts.ranges]
    ranges += [f"sites: {', '.join(facts.sites)}"] if facts.sites else []
    lines = [
        f"# Predictor {escape_markdown(name)}",
        "",
        f"A linear model of embeddings, written by bids_semantoks. {RESEARCH_ONLY}",
        "",
        *(f"- {what}: {escape_markdown(text)}" for what, text in shown),
        f"- Use: `bids_semantoks BIDS_DIR OUT_DIR group --apply-predictor {escape_markdown(name)}` (path of this "
        "directory), with the same encoder, atlas and denoising",
        "",
        "## Out of fold at home",
        "",
        *(f"- {escape_markdown(text)}" for text in scores),
        "",
        "## Limits",
        "",
        "Intervals and sets hold the truth for people who are exchangeable with those at home, on average over them; "
        "they are void where people, scanners or preprocessing differ. Predictions outside these ranges are flagged:",
        "",
        *(f"- {escape_markdown(text)}" for text in ranges),
        "",
        f"`{TENSORS_FILE}` has out-of-fold predictions and true values of the people at home, one row each, without "
        "labels and sorted by value. Whether they may be shared depends on the terms of the data.",
    ]
    return "\n".join([header, *lines]) + "\n"


def _list_numbers(one: ScoreFacts) -> list[float]:
    return [np.nan if value is None else value for value in (one.value, one.ci_low, one.ci_high)]
