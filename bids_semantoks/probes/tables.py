"""Tables of the group from the results of probes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bids_semantoks.config import to_json
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.group_tables import (
    ScoreRow,
    keep_earlier_tables,
    write_points,
    write_probe_tables,
    write_retest,
    write_strata,
)
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.probes.findings import ModelResult, PhenotypeResult, ProbeResults
from bids_semantoks.probes.overview import describe_call, describe_phenotype
from bids_semantoks.probes.pretrained import count_pretrained
from bids_semantoks.probes.rows import Rows
from bids_semantoks.statistics.splits import build_split_table

LOGGER = logging.getLogger("bids_semantoks")


def write_results(results: ProbeResults, encoder: RunEncoder, replicates: Sequence[RunEncoder] = ()) -> Path:
    """Write all tables and return ``OUT_DIR/group_probe.tsv``; those of a different earlier call are kept as copies."""
    config = results.plan.config
    scores: list[ScoreRow] = []
    for one in results.phenotypes:
        for model in one.models.values():
            scores += _build_score_rows(one.phenotype.name, model, one.design.rows, one.n_pretrained)
    known = count_pretrained(set(map(str, results.rows.participants)), encoder, *replicates)
    for name, model in results.leakage:
        scores += _build_score_rows(name, model, results.rows, known)
    facts = {
        "Encoder": {
            "Name": results.model,
            "SHA256": encoder.loaded.sha256,
            "Description": encoder.loaded.description,
            "Source": config.embedding.model,
        },
        "Pretraining": results.pretraining,
        "Overview": describe_call(results, encoder),
        "Phenotypes": {one.phenotype.name: describe_phenotype(one) for one in results.phenotypes},
        "Networks": list(results.networks),
        "Seeds": {one.phenotype.name: _list_seeds(one) for one in results.phenotypes},
        "Settings": to_json(config)["probing"],
        "RandomSeed": config.running.random_seed,
        "Warnings": list(results.warnings),
        "SoftwareVersions": find_versions(),
    }
    kept = keep_earlier_tables(config.out_dir, facts)
    if kept is not None:
        LOGGER.warning("Probes of an earlier call that asked something else are replaced; copies are in %s.", kept)
    write_probe_tables(
        config.out_dir,
        scores=scores,
        predictions=_list_predictions(results.phenotypes),
        splits=_list_splits(results.phenotypes),
        facts=facts,
    )
    write_strata(config.out_dir, results.strata)
    write_retest(config.out_dir, results.retest)
    write_points(config.out_dir, results.points)
    return config.out_dir / "group_probe.tsv"


def _list_seeds(one: PhenotypeResult) -> dict[str, dict[str, list[float]]]:
    """List the score of each encoder where several were averaged, by model and metric."""
    return {
        name: {metric: list(values) for metric, values in model.seed_scores.items() if not np.isnan(values).any()}
        for name, model in one.models.items()
        if model.seed_scores
    }


def _build_score_rows(name: str, result: ModelResult, rows: Rows, n_pretrained: int | None) -> list[ScoreRow]:
    predictions, compared = result.predictions, result.comparison
    n_participants = len(set(rows.participants[predictions.tested]))
    lines = []
    for score in result.scores:
        extra: dict[str, float] = {}
        seeds = result.seed_scores.get(score.metric, ())
        if compared is not None and compared.metric == score.metric:
            extra = {
                "difference": compared.difference,
                "difference_low": compared.ci_low,
                "difference_high": compared.ci_high,
                "difference_p": compared.p_value,
                "difference_p_holm": result.p_holm,
            }
        lines.append(
            ScoreRow(
                phenotype=name,
                kind="classification" if predictions.classes else "regression",
                protocol=result.protocol,
                model=score.model,
                metric=score.metric,
                value=score.value,
                ci_low=score.ci_low,
                ci_high=score.ci_high,
                p_value=result.p_value,
                chance=score.chance,
                n_participants=n_participants,
                n_rows=score.n_rows,
                role=result.role,
                covariates=", ".join(result.covariates),
                n_repeats=predictions.n_repeats,
                n_folds=predictions.n_train.shape[1],
                n_pretrained=n_pretrained,
                n_seeds=predictions.n_seeds,
                seed_sd=float(np.std(seeds, ddof=1)) if len(seeds) > 1 else float("nan"),
                **extra,
            )
        )
    return lines


def _list_predictions(results: Sequence[PhenotypeResult]) -> Iterator[tuple[object, ...]]:
    for one in results:
        for model, result in one.models.items():
            predictions = result.predictions
            if result.role == "importance":
                continue
            truth, scores, n_tests = predictions.average()
            classes = predictions.classes
            shown = [(1, classes[1])] if len(classes) == 2 else list(enumerate(classes or [""]))
            for row in np.flatnonzero(predictions.tested):
                label, session = one.design.rows.keys[row]
                names = (f"sub-{label}", f"ses-{session}" if session else "")
                for index, name in shown:
                    what: tuple[object, object] = (float(truth[row]), float(scores[row, 0]))
                    if classes:
                        what = classes[int(truth[row])], classes[int(scores[row].argmax())]
                    score = float(scores[row, index])
                    yield (
                        one.phenotype.name,
                        model,
                        *names,
                        *what,
                        name,
                        score,
                        int(n_tests[row]) // predictions.n_seeds,
                    )


def _list_splits(results: Sequence[PhenotypeResult]) -> Iterator[tuple[object, ...]]:
    for one in results:
        for row in build_split_table(one.design.splits, one.design.rows.participants.tolist()):
            yield (one.phenotype.name, row.repetition, row.fold, f"sub-{row.participant}", row.role)
