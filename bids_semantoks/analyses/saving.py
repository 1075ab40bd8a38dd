"""Save the predictors of a call: fitted to everybody, after their model was evaluated out of fold."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.choose import build_twin
from bids_semantoks.analyses.design import Design
from bids_semantoks.analyses.portable import RANGES, measure_input, read_carried
from bids_semantoks.analyses.predictors import find_removed
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import PhenotypeResult
from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.config.options import check
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import ResourceError
from bids_semantoks.files import read_object
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.predictor_files import (
    CARRIED,
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
from bids_semantoks.runtime.resources import find_memory_limit
from bids_semantoks.statistics.baselines import CONNECTIVITY
from bids_semantoks.statistics.metrics import Score
from bids_semantoks.statistics.portable import CarriedFeatures, build_features, fit_predictor, predict_at_home

LOGGER = logging.getLogger("bids_semantoks")


#: Probing options that decide a fit; others, such as tables and names of files, stay at home.
_OPTIONS: Final = ("probe_kind", "covariate", "group_by", "leave_out", "n_repeats", "same_splits")


def check_saving(config: AppConfig, encoders: Sequence[RunEncoder], stored: Sequence[StoredRun]) -> None:
    """Refuse a --save-predictor that could not be saved, before hours of work: ConfigurationError for a model that
    cannot travel or is not in this call, signals with several settings, or a name that is taken."""
    asked, first = config.probing, stored[0]
    model = _choose_model(config, encoders)
    for run in stored:
        check(
            run.sidecar["Settings"] == first.sidecar["Settings"],
            f"--save-predictor needs signals made with the same settings, but those of {run.paths.stem} and "
            f"{first.paths.stem} differ.",
            "Exclude runs, or reprocess them with --overwrite.",
        )
    directories = [_name_directory(config, name) for name in asked.probe]
    check(
        len(set(directories)) == len(directories),
        f"--save-predictor would save several of the phenotypes {', '.join(asked.probe)} in one folder.",
        "Save them in separate calls.",
    )
    for directory, phenotype in zip(directories, asked.probe, strict=True):
        former, own = read_object(directory / FACTS_FILE), (phenotype, model, _list_options(config))
        is_alike = not former or (former.get("phenotype"), former.get("model"), former.get("options")) == own
        check(
            is_alike or config.running.overwrite,
            f"{directory} has a predictor that was saved by a call with other options.",
            "Choose another name, or use --overwrite.",
        )
    # The table of correlations, and three more while it is fitted.
    needed = 4 * 8 * len({run.entities["sub"] for run in stored}) * len(list_parcels(first)) ** 2 // 2
    limit, where = find_memory_limit(config.running)
    if model in CONNECTIVITY and needed > limit:
        raise ResourceError(
            f"--save-predictor {asked.save_predictor} {model} needs about {needed / 2**30:.1f} GB of memory, found "
            f"{limit / 2**30:.1f} GB ({where}).",
            hint="Save another model, or use a machine with more memory.",
        )


def _choose_model(config: AppConfig, encoders: Sequence[RunEncoder]) -> str:
    """Choose the row of group_probe.tsv that is to be saved, by default the first encoder."""
    asked, names = config.probing, list(_list_readouts(encoders))
    wanted = asked.save_predictor_model[0] if asked.save_predictor_model else names[0]
    # Alone, a phenotype among the covariates has none.
    has_covariates = all(set(asked.covariate) - {one} for one in asked.probe)
    names += [one for one in (*CARRIED, "random") if one in asked.baselines and (one != "covariates" or has_covariates)]
    check(
        wanted in names,
        f"--save-predictor cannot save {wanted}: it is not a linear model of this call whose features can be computed "
        "in another study.",
        f"Choose one of {', '.join(names)}, or add a baseline with --baselines.",
    )
    return wanted


def _list_readouts(encoders: Sequence[RunEncoder]) -> dict[str, RunEncoder]:
    return {one.loaded.name: one for encoder in encoders for one in encoder.readouts}


def _list_options(config: AppConfig) -> dict[str, Any]:
    options, probing = {"sessions": config.selection.sessions}, to_json(config.probing)
    return options | {"random_seed": config.running.random_seed} | {name: probing[name] for name in _OPTIONS}


def _name_directory(config: AppConfig, phenotype: str) -> Path:
    name, several = config.probing.save_predictor or "", len(config.probing.probe) > 1
    label = re.sub(r"[^A-Za-z0-9.-]+", "-", phenotype).strip("-") or "phenotype"
    return config.out_dir / PREDICTORS / (f"{name}_{label}" if several else name)


def save_predictors(prober: Prober, encoders: Sequence[RunEncoder], results: Sequence[PhenotypeResult]) -> None:
    """Fit the model of --save-predictor to everybody, for each phenotype, and write it."""
    config = prober.plan.config
    model = _choose_model(config, encoders)
    encoder = build_twin(encoders[0]) if model == "random" else _list_readouts(encoders).get(model)
    tables: dict[Any, CarriedFeatures] = {}
    for one in results:
        rows = one.design.rows
        if model in CONNECTIVITY and rows.keys not in tables:
            tables = {rows.keys: build_features(model, read_carried(rows, model))}
        features = tables.get(rows.keys) or _find_features(prober, model, one.design)
        directory = _name_directory(config, one.phenotype.name)
        write_predictor(directory, _build(prober, features, encoder, one))
        LOGGER.info("Saved the predictor of %s by %s to %s", one.phenotype.name, model, directory)


def _find_features(prober: Prober, model: str, design: Design) -> CarriedFeatures:
    if model == "covariates":
        assert design.covariates is not None
        return build_features(model, design.covariates)
    (features,) = prober.find_models(design.rows)[model]
    assert isinstance(features, CarriedFeatures)
    return features


def _build(
    prober: Prober, features: CarriedFeatures, encoder: RunEncoder | None, one: PhenotypeResult
) -> SavedPredictor:
    design, result = one.design, one.models[features.name]
    shared: dict[str, Any] = {"covariates": find_removed(features, design), "groups": design.groups}
    used = np.flatnonzero(result.predictions.tested)
    rows, scores, positions = predict_at_home(features, design.target, design.splits, seed=prober.seed, **shared)
    # A person counts once, whose sessions are alike; in order of value, rows say no more of who is who.
    _, first = np.unique(design.rows.participants[rows], return_index=True)
    order = first[np.argsort(positions[first, 0], kind="stable")]
    linear = fit_predictor(features, design.target, used, seed=prober.seed, **shared)
    facts = PredictorFacts(
        format_version=1,
        phenotype=design.target.name,
        classes=design.target.classes,
        model=features.name,
        **_describe_encoder(encoder),
        **_describe_input(prober, design, used, "" if encoder is None else encoder.loaded.name),
        covariates=tuple(_describe_covariate(prober, design, name) for name in design.covariate_names),
        n_participants=len(set(design.rows.participants[used])),
        penalty=linear.penalty,
        scores=tuple(map(_describe_score, result.scores)),
        options=_list_options(prober.plan.config),
        software=find_versions(),
    )
    truth = design.target.values[rows[order]]
    return SavedPredictor(facts=facts, linear=linear, truth=truth, scores=scores[order], positions=positions[order])


def _describe_encoder(encoder: RunEncoder | None) -> dict[str, Any]:
    if encoder is None:
        names = ("encoder", "encoder_sha256", "encoder_source")
        return dict.fromkeys(names, "") | {"embedding_settings": {}, "window_seconds": None}
    loaded, source = encoder.loaded, encoder.config.model
    return {
        "encoder": loaded.description,
        "encoder_sha256": loaded.sha256,
        "encoder_source": Path(source).name if Path(source).expanduser().exists() else source,
        "embedding_settings": encoder.settings,
        "window_seconds": loaded.config.window * loaded.config.repetition_time,
    }


def _describe_input(prober: Prober, design: Design, used: NDArray[np.int64], encoder: str) -> dict[str, Any]:
    """Describe signals and ranges of the rows used, with the label of their encoder."""
    plan, run = prober.plan, design.rows.runs[0][0]
    sites = plan.columns[plan.site].find(design.rows.keys) if plan.site else ()
    measured = {name: values[used] for name, values in measure_input(design.rows, encoder).items()}
    known = {name: measured[name] for name in RANGES if not np.isnan(measured[name]).all()}
    return {
        "min_kept": plan.config.min_kept,
        "signals_settings": run.sidecar["Settings"],
        "atlas": str(run.sidecar["Atlas"].get("Name", "")),
        "atlas_sha256": str(run.sidecar["Atlas"]["SHA256"]),
        "parcels": list_parcels(run),
        "ranges": tuple(
            RangeFacts(name=name, low=float(np.nanmin(values)), high=float(np.nanmax(values)))
            for name, values in known.items()
        ),
        "site_column": plan.site,
        "sites": tuple(sorted({str(sites[row]) for row in used if sites[row] is not None})) if sites else (),
    }


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
