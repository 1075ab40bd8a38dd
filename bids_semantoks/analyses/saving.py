"""Save the predictors of a call: fitted to everybody, after their model was evaluated out of fold."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bids_semantoks.analyses.design import Design
from bids_semantoks.analyses.portable import RANGES, measure_input
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import PhenotypeResult
from bids_semantoks.analyses.rows import EmbeddingFeatures
from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import read_object
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.predictor_files import (
    FACTS_FILE,
    PREDICTORS,
    CovariateFacts,
    PredictorFacts,
    RangeFacts,
    SavedPredictor,
    ScoreFacts,
    write_predictor,
)
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics.metrics import Score
from bids_semantoks.statistics.portable import fit_predictor, predict_at_home

LOGGER = logging.getLogger("bids_semantoks")


def check_saving(config: AppConfig, encoders: Sequence[RunEncoder], stored: Sequence[StoredRun]) -> None:
    """Refuse a --save-predictor that could not be saved, before hours of work: ConfigurationError for a model that is
    not a linear probe of embeddings, signals with several settings, or a name that is taken."""
    asked = config.probing
    if asked.save_predictor is None:
        return
    _find_encoder(config, encoders)
    first = stored[0]
    for run in stored:
        if run.sidecar["Settings"] != first.sidecar["Settings"]:
            raise ConfigurationError(
                f"--save-predictor needs signals made with the same settings, but those of {run.paths.stem} and "
                f"{first.paths.stem} differ.",
                hint="Exclude runs, or reprocess them with --overwrite.",
            )
    directories = [_name_directory(config, name) for name in asked.probe]
    if len(set(directories)) < len(directories):
        raise ConfigurationError(
            f"--save-predictor would save several of the phenotypes {', '.join(asked.probe)} in one folder.",
            hint="Save them in separate calls.",
        )
    for directory in directories:
        former = read_object(directory / FACTS_FILE)
        if former and former.get("probing") != to_json(config)["probing"] and not config.running.overwrite:
            raise ConfigurationError(
                f"{directory} has a predictor that was saved by a call with other options.",
                hint="Choose another name, or use --overwrite.",
            )


def _find_encoder(config: AppConfig, encoders: Sequence[RunEncoder]) -> RunEncoder:
    """Find the readout whose linear probe is to be saved, by default that of the first encoder."""
    readouts = {one.loaded.name: one for encoder in encoders for one in encoder.readouts}
    wanted = config.probing.save_predictor_model
    name = wanted[0] if wanted else next(iter(readouts))
    if name not in readouts:
        raise ConfigurationError(
            f"--save-predictor cannot save {name}: only linear probes of embeddings can be saved.",
            hint=f"Choose one of {', '.join(readouts)}.",
        )
    return readouts[name]


def _name_directory(config: AppConfig, phenotype: str) -> Path:
    name, several = config.probing.save_predictor or "", len(config.probing.probe) > 1
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", phenotype).strip("-") or "phenotype"
    return config.out_dir / PREDICTORS / (f"{name}_{label}" if several else name)


def save_predictors(prober: Prober, encoders: Sequence[RunEncoder], results: Sequence[PhenotypeResult]) -> None:
    """Fit the model of --save-predictor to everybody, for each phenotype, and write it."""
    config = prober.plan.config
    encoder = _find_encoder(config, encoders)
    for one in results:
        directory = _name_directory(config, one.phenotype.name)
        write_predictor(directory, _build(prober, encoder, one))
        LOGGER.info("Saved the predictor of %s by %s to %s", one.phenotype.name, encoder.loaded.name, directory)


def _build(prober: Prober, encoder: RunEncoder, one: PhenotypeResult) -> SavedPredictor:
    design, model = one.design, encoder.loaded.name
    (features,) = prober.find_models(design.rows)[model]
    assert isinstance(features, EmbeddingFeatures)
    shared: dict[str, Any] = {"covariates": design.covariates, "groups": design.groups, "seed": prober.seed}
    everybody = np.flatnonzero(one.models[model].predictions.tested)
    rows, scores, positions = predict_at_home(features, design.target, design.splits, **shared)
    # A person counts once, whose sessions are alike; in order of value, rows say no more of who is who.
    _, first = np.unique(design.rows.participants[rows], return_index=True)
    order = first[np.argsort(positions[first, 0], kind="stable")]
    return SavedPredictor(
        facts=_describe(prober, encoder, one, everybody),
        linear=fit_predictor(features, design.target, everybody, **shared),
        truth=design.target.values[rows[order]],
        scores=scores[order],
        positions=positions[order],
    )


def _describe(prober: Prober, encoder: RunEncoder, one: PhenotypeResult, used: Any) -> PredictorFacts:
    plan, design, config = prober.plan, one.design, prober.plan.config
    result, run = one.models[encoder.loaded.name], design.rows.runs[0][0]
    sites = plan.columns[plan.site].find(design.rows.keys) if plan.site else ()
    return PredictorFacts(
        format_version=1,
        phenotype=design.target.name,
        classes=design.target.classes,
        model=encoder.loaded.name,
        encoder=encoder.loaded.description,
        encoder_sha256=encoder.loaded.sha256,
        encoder_source=encoder.config.model,
        embedding_settings=encoder.settings,
        min_kept=config.min_kept,
        window_seconds=encoder.loaded.config.window * encoder.loaded.config.repetition_time,
        signals_settings=run.sidecar["Settings"],
        atlas=str(run.sidecar["Atlas"].get("Name", "")),
        atlas_sha256=str(run.sidecar["Atlas"]["SHA256"]),
        parcels=list_parcels(run),
        covariates=tuple(_describe_covariate(prober, design, name) for name in design.covariate_names),
        n_participants=len(set(design.rows.participants[used])),
        penalty=float(np.nanmean(result.predictions.penalty)),
        scores=tuple(_describe_score(score) for score in result.scores),
        ranges=_describe_ranges(design, encoder.loaded.name, used),
        site_column=plan.site,
        sites=tuple(sorted({str(sites[row]) for row in used if sites[row] is not None})) if sites else (),
        probing=to_json(config)["probing"],
        software=find_versions(),
    )


def list_parcels(run: StoredRun) -> tuple[str, ...]:
    """List the parcels of the atlas of a stored run."""
    return read_atlas_table(run.paths.out_dir, name=run.entities["atlas"], space=run.entities.get("space", ""))[0]


def _describe_covariate(prober: Prober, design: Design, name: str) -> CovariateFacts:
    cells = prober.plan.find_labels(design.rows, name, design.target.name)
    # The design has an indicator for each level, also for those of people whom given splits leave out.
    known = [str(cells[row]) for row in np.flatnonzero(~np.isnan(design.target.values))]
    is_text = name in prober.plan.categories or None in map(parse_number, known)
    return CovariateFacts(name=name, levels=tuple(sorted(set(known))) if is_text else ())


def _describe_score(score: Score) -> ScoreFacts:
    numbers = {name: getattr(score, name) for name in ("value", "ci_low", "ci_high")}
    return ScoreFacts(metric=score.metric, **{name: None if np.isnan(v) else float(v) for name, v in numbers.items()})


def _describe_ranges(design: Design, model: str, used: Any) -> tuple[RangeFacts, ...]:
    measured = {name: values[used] for name, values in measure_input(design.rows, model).items()}
    return tuple(
        RangeFacts(name=name, low=float(np.nanmin(measured[name])), high=float(np.nanmax(measured[name])))
        for name in RANGES
        if not np.isnan(measured[name]).all()
    )
