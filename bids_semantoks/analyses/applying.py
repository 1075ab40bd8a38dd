"""Apply a saved predictor to the participants of an output directory, and judge it where true values are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from bids_semantoks.analyses.design import SITE_NAMES
from bids_semantoks.analyses.portable import Application, Predictor, find_predictor, list_outside, measure_input
from bids_semantoks.analyses.rows import MEASURES, Rows, build_rows, compute_measure, read_embeddings
from bids_semantoks.analyses.saving import list_parcels
from bids_semantoks.config import AppConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import AtlasError, ConfigurationError, InputError
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.inputs.phenotypes import Column, find_columns
from bids_semantoks.inputs.selection import describe_labels
from bids_semantoks.outputs.features import keep_first_sessions
from bids_semantoks.outputs.group_tables import build_group_table, write_group_table
from bids_semantoks.outputs.predicted_table import PREDICTED, write_predicted
from bids_semantoks.outputs.predictor_files import RESEARCH_ONLY
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.records import Floats
from bids_semantoks.reports.group_page import draw_group_page
from bids_semantoks.statistics.class_metrics import compute_calibration
from bids_semantoks.statistics.conformal import LEVEL, choose_sets, find_shifts, recalibrate
from bids_semantoks.statistics.metrics import compute_scores
from bids_semantoks.statistics.predictions import Predictions, compute_probabilities

LOGGER = logging.getLogger("bids_semantoks")

#: Fewest people with true values to score, and to correct intercept and slope in folds within folds.
_MIN_SCORED, _MIN_LABELLED = 5, 10


class ApplicationPlan:
    """A predictor to be applied in a call, checked before anything is embedded."""

    encoder: str  # label of the readout

    def __init__(self, config: AppConfig, chosen: Sequence[StoredRun]) -> None:
        self.config, asked = config, config.probing
        self.predictor = Predictor(find_predictor(asked.apply_predictor or "", config.out_dir))
        facts = self.predictor.facts
        if asked.recalibrate and len(facts.classes) > 2:
            raise ConfigurationError(
                f"--recalibrate corrects values and two classes; {self.predictor.path.name} predicts "
                f"{len(facts.classes)}.",
                hint="Remove the option.",
            )
        if config.selection.sessions == "each":
            raise ConfigurationError(
                "--apply-predictor predicts participants, not sessions.", hint="Use --sessions first or mean."
            )
        if config.min_kept != facts.min_kept:
            raise ConfigurationError(
                f"--min-kept is {config.min_kept}, but was {facts.min_kept} for the predictor "
                f"{self.predictor.path.name}.",
                hint="Use the same.",
            )
        for run in {str(run.sidecar["Settings"]): run for run in chosen}.values():
            self._check_atlas(run)
            self.predictor.check_signals(run.sidecar["Settings"])
        self.columns = self._find_columns(chosen)

    def _check_atlas(self, run: StoredRun) -> None:
        facts, settings = self.predictor.facts, run.sidecar["Settings"]
        parcels = list_parcels(run)
        if parcels != facts.parcels or run.sidecar["Atlas"]["SHA256"] != facts.atlas_sha256:
            differing = [name for name in facts.parcels if name not in parcels]
            raise AtlasError(
                f"The predictor {self.predictor.path.name} was fitted to signals of the atlas {facts.atlas} "
                f"({len(facts.parcels)} parcels, SHA-256 {facts.atlas_sha256[:16]}) in "
                f"{facts.signals_settings.get('space')}; here it is {settings.get('atlas')} ({len(parcels)} parcels, "
                f"{run.sidecar['Atlas']['SHA256'][:16]}) in {settings.get('space')}"
                + (f", without {describe_labels(differing)}." if differing else "."),
                hint="Process this study with the same atlas and space.",
            )

    def _find_columns(self, chosen: Sequence[StoredRun]) -> dict[str, Column]:
        """Find covariates, true values and site in the tables of the dataset; the last two may be missing."""
        facts, asked = self.predictor.facts, self.config.probing
        needed = [one.name for one in facts.covariates if one.name not in MEASURES]
        needed += [asked.recalibrate] if asked.recalibrate else []
        optional = [facts.phenotype, *filter(None, [facts.site_column]), *SITE_NAMES]
        keys = sorted({(run.entities["sub"], "") for run in chosen})
        try:
            return find_columns(
                self.config.bids_dir,
                list(dict.fromkeys(needed)),
                phenotype=asked.phenotype,
                optional=optional,
                id_column=asked.id_column,
                keys=keys,
            )
        except InputError as error:
            if needed or asked.phenotype:
                raise
            LOGGER.info("Predictions are not compared with true values. %s", error.message)
            return {}

    def check_encoders(self, encoders: Sequence[RunEncoder]) -> None:
        """Find the readout of the predictor; ModelError or ConfigurationError if the call has another one."""
        own = self.predictor.facts.embedding_settings
        readouts = [one for encoder in encoders for one in encoder.readouts]
        alike = [one for one in readouts if one.settings.get("model_sha256") == own.get("model_sha256")]
        best = next((one for one in alike if one.settings == own), (alike or readouts)[0])
        self.predictor.check_embeddings(best.settings)
        self.encoder = best.loaded.name

    def run(self, stored: Sequence[StoredRun]) -> None:
        """Predict, write tables and page, and log what was found."""
        is_first = self.config.selection.sessions == "first"
        rows = build_rows(
            keep_first_sessions(stored) if is_first else stored, by_session=False, min_kept=self.config.min_kept
        )
        frame = self._build_frame(rows)
        found, truth = self.predictor.apply(frame), self._find_truth(rows)
        table: dict[str, Any] = self.predictor.show(found.scores)
        judged = Judgement(self.predictor, found.scores, truth, seed=self.config.running.random_seed)
        facts = self._describe(rows, found, judged)
        corrected = None
        if self.config.probing.recalibrate:
            corrected = judged.recalibrate()
            shown = self.predictor.show(corrected.scores, home=(corrected.truth, corrected.nested))
            table |= {f"recalibrated_{name}": values for name, values in shown.items()}
            facts["Recalibration"] = corrected.facts
        table |= {"flags": found.list_flags(), "n_absent_parcels": frame["n_absent_parcels"].astype(int).tolist()}
        table["truth"] = [
            None if math.isnan(one) else self.predictor.classes[int(one)] if self.predictor.classes else one
            for one in truth.tolist()
        ]
        name = self.predictor.path.resolve().name
        path = write_predicted(self.config.out_dir, name, rows.participants.tolist(), table, self.predictor.facts)
        facts["Table"] = path.relative_to(self.config.out_dir).as_posix()
        scores = judged.tabulate(corrected)
        write_group_table(self.config.out_dir, PREDICTED, build_group_table(PREDICTED, scores), facts)
        draw_group_page(self.config)
        LOGGER.info(
            "Predicted %s of %d participants (%s): %s", self.predictor.phenotype, len(rows.keys), RESEARCH_ONLY, path
        )
        if facts["Shifts"]:
            LOGGER.warning(
                "These participants differ from those the predictor was fitted to (%s): intervals and sets cannot be "
                "relied on.",
                ", ".join(facts["Shifts"]),
            )

    def _build_frame(self, rows: Rows) -> pd.DataFrame:
        """Build the table that `Predictor.apply` reads: measures, covariates, site, dimensions."""
        values = read_embeddings(rows, self.encoder)
        columns: dict[str, Any] = dict(measure_input(rows, self.encoder))
        for one in self.predictor.facts.covariates:
            if one.name not in self.columns:
                columns[one.name] = compute_measure(rows, one.name)
        wanted = {one.name for one in self.predictor.facts.covariates} | {self.predictor.facts.site_column}
        columns |= {name: self._find_cells(rows, name) for name in wanted & self.columns.keys()}
        dims = {f"dim{d:04d}": values[:, d - 1] for d in range(1, values.shape[1] + 1)}
        return pd.DataFrame(columns | dims)

    def _find_cells(self, rows: Rows, name: str) -> tuple[str | None, ...]:
        column = self.columns[name]
        if column.has_sessions:
            raise InputError(
                f"Column {name} of {column.table} has one value per session; expected one per participant.",
                hint="Give such a table with --phenotype.",
            )
        return column.find(rows.keys)

    def _find_truth(self, rows: Rows) -> Floats:
        """Find true values or indices of classes (n,), NaN where unknown."""
        name, classes = self.config.probing.recalibrate or self.predictor.phenotype, self.predictor.classes
        if name not in self.columns:
            return np.full(len(rows.keys), np.nan)
        cells = self._find_cells(rows, name)
        if not classes:
            numbers = [math.nan if cell is None else parse_number(cell) for cell in cells]
            if None in numbers:
                raise InputError(
                    f"Column {name} of {self.columns[name].table} has non-numeric values.",
                    hint="Write n/a for missing values.",
                )
            return np.array(numbers, dtype=np.float64)
        if unknown := sorted({cell for cell in cells if cell is not None} - set(classes)):
            LOGGER.warning(
                "Column %s has classes that the predictor does not know, which are not scored: %s.",
                *(name, ", ".join(unknown[:5])),
            )
        return np.array([classes.index(cell) if cell in classes else math.nan for cell in cells])

    def _describe(self, rows: Rows, found: Application, judged: Judgement) -> dict[str, Any]:
        facts = self.predictor.facts
        site = next((one for one in (facts.site_column, *SITE_NAMES) if one in self.columns), None)
        places = self._find_cells(rows, site) if site and not self.columns[site].has_sessions else ()
        return {
            "Predictor": self.predictor.path.resolve().name,
            "Phenotype": facts.phenotype,
            "Classes": list(facts.classes),
            "Encoder": {"Name": facts.model, "Description": facts.encoder, "SHA256": facts.encoder_sha256},
            "ParticipantsAtHome": facts.n_participants,
            "Participants": len(rows.keys),
            "Predicted": int((~np.isnan(found.scores).any(axis=1)).sum()),
            "Flags": [[name, count] for name, count in list_outside(found.flags)],
            "Shifts": find_shifts(found.p_values) if found.p_values else [],
            "Coverage": judged.measure_coverage(),
            "Bias": judged.measure_bias(places),
            "Calibration": judged.describe_calibration(),
            "Recalibration": None,
        }


class Recalibration:
    """Scores after a correction of intercept and slope."""

    def __init__(self, scores: Floats, truth: Floats, nested: Floats, facts: Mapping[str, Any]) -> None:
        self.scores = scores  # (n, 1 or 2) of everybody
        self.truth, self.nested = truth, nested  # (k,) and (k, 1 or 2) of labelled people, who were left out
        self.facts = dict(facts)


class Judgement:
    """Predictions of people whose true values are known, as far as they are: scores (n, 1 or K) and truth (n,)."""

    def __init__(self, predictor: Predictor, scores: Floats, truth: Floats, *, seed: int) -> None:
        self.predictor, self.all_scores, self.seed = predictor, scores, seed
        known = ~np.isnan(truth) & ~np.isnan(scores).any(axis=1)
        self.known, self.truth, self.scores = known, truth[known], scores[known]
        self.is_enough = len(self.truth) >= _MIN_SCORED

    def tabulate(self, corrected: Recalibration | None) -> list[dict[str, object]]:
        """Tabulate scores at home, here where they are known, and after a correction: rows of group_predictor.tsv."""
        here = self._score(self.scores) if self.is_enough else {}
        nested = self._score(corrected.nested) if corrected is not None else {}
        return [
            {
                "phenotype": self.predictor.phenotype,
                "metric": one.metric,
                "n_participants": len(self.truth),
                **{name: here.get(one.metric, {}).get(name) for name in ("value", "ci_low", "ci_high")},
                **{f"home_{name}": getattr(one, name) for name in ("value", "ci_low", "ci_high")},
                **{
                    f"recalibrated_{name}": nested.get(one.metric, {}).get(name)
                    for name in ("value", "ci_low", "ci_high")
                },
            }
            for one in self.predictor.facts.scores
        ]

    def _score(self, scores: Floats) -> dict[str, dict[str, float]]:
        found = compute_scores(self._build(scores), seed=self.seed)
        return {one.metric: {name: getattr(one, name) for name in ("value", "ci_low", "ci_high")} for one in found}

    def _build(self, scores: Floats) -> Predictions:
        """Build predictions as of one fold by one model, which nothing else shares rows with."""
        classes, n = self.predictor.classes, len(self.truth)
        decided = self.predictor.saved.linear.decide(scores) if classes else scores[:, 0]
        mean = np.nan if classes else self.predictor.saved.truth.mean()
        return Predictions(
            model=self.predictor.facts.model,
            target=self.predictor.phenotype,
            classes=classes,
            fold=np.zeros((1, n), dtype=np.int64),
            truth=self.truth[None],
            scores=scores[None],
            decisions=np.asarray(decided, dtype=np.float64)[None],
            reference=np.full((1, n), mean),
            n_train=np.full((1, 1), np.inf),
            penalty=np.full((1, 1), self.predictor.facts.penalty),
        )

    def measure_coverage(self) -> dict[str, Any] | None:
        """Measure how often intervals or sets hold the truth here; None if it is not known."""
        if not self.is_enough:
            return None
        home, scores = self.predictor.saved, self.scores
        if self.predictor.classes:
            sets = choose_sets(scores, home.scores, home.truth.astype(np.int64))
            held = sets[np.arange(len(scores)), self.truth.astype(np.int64)]
        else:
            shown = self.predictor.show(scores)
            held = (shown["low"] <= self.truth) & (self.truth <= shown["high"])
        return {"Nominal": LEVEL, "Found": round(float(held.mean()), 6), "Participants": len(held)}

    def measure_bias(self, places: Sequence[str | None]) -> list[list[Any]]:
        """Measure the mean error of all and by site, with 95 % intervals: predicted minus true value, or probability
        minus share of the second of two classes (of several, of the most probable one)."""
        if not self.is_enough:
            return []
        if not self.predictor.classes:
            errors = self.scores[:, 0] - self.truth
        elif len(self.predictor.classes) == 2:
            errors = self.scores[:, 1] - self.truth
        else:
            errors = self.scores.max(axis=1) - (self.scores.argmax(axis=1) == self.truth)
        labels = [one or "no site" for one, known in zip(places, self.known, strict=False) if known]
        parts = {"all": np.ones(len(errors), dtype=bool)}
        parts |= {f"site {name}": np.array(labels) == name for name in sorted(set(labels))}
        found = []
        for name, part in parts.items():
            own = errors[part]
            if len(own) >= _MIN_SCORED:
                half = t.ppf(0.975, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own))
                mean = own.mean()
                found.append([name, len(own), *(round(float(x), 6) for x in (mean, mean - half, mean + half))])
        return found

    def describe_calibration(self) -> dict[str, Any] | None:
        """Describe how often classes occur by their probability; None for values or without truth."""
        if not self.is_enough or not self.predictor.classes:
            return None
        predicted, observed, counts = compute_calibration(self._build(self.scores))
        return {
            "Predicted": np.round(predicted, 6).tolist(),
            "Observed": np.round(observed, 6).tolist(),
            "Predictions": counts.tolist(),
        }

    def recalibrate(self) -> Recalibration:
        """Correct intercept and slope by the people with true values; InputError if they are too few."""
        k, is_class = len(self.truth), bool(self.predictor.classes)
        if k < _MIN_LABELLED or np.ptp(self.truth) == 0:
            raise InputError(
                f"--recalibrate needs true values of at least {_MIN_LABELLED} participants that are not all the same, "
                f"found {k}.",
                hint="Remove the option to predict without a correction.",
            )
        (intercept, slope), nested = recalibrate(
            self.truth, self._to_line(self.scores), is_class=is_class, seed=self.seed
        )
        before, after = self._measure_losses(self.scores), self._measure_losses(self._from_line(nested))
        gain = before - after
        half = t.ppf(0.975, k - 1) * gain.std(ddof=1) / math.sqrt(k)
        numbers = {
            **{"Intercept": intercept, "Slope": slope, "Before": before.mean(), "After": after.mean()},
            **{"Gain": gain.mean(), "GainLow": gain.mean() - half, "GainHigh": gain.mean() + half},
        }
        return Recalibration(
            self._from_line(intercept + slope * self._to_line(self.all_scores)),
            self.truth,
            self._from_line(nested),
            {"Participants": k, "Loss": "log loss" if is_class else "mean absolute error"}
            | {name: round(float(value), 6) for name, value in numbers.items()},
        )

    def _to_line(self, scores: Floats) -> Floats:
        """Convert scores (n, 1 or 2) to values or log odds of the second class (n,)."""
        if not self.predictor.classes:
            return scores[:, 0]
        odds = np.clip(scores[:, 1], 1e-12, 1 - 1e-12)
        return np.asarray(np.log(odds / (1 - odds)))

    def _from_line(self, line: Floats) -> Floats:
        return compute_probabilities(line[:, None]) if self.predictor.classes else line[:, None]

    def _measure_losses(self, scores: Floats) -> Floats:
        """Measure the absolute error or the log loss of each person (k,)."""
        if not self.predictor.classes:
            return np.abs(scores[:, 0] - self.truth)
        own = scores[np.arange(len(scores)), self.truth.astype(np.int64)]
        return np.asarray(-np.log(np.clip(own, 1e-12, None)))
