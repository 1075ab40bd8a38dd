"""Apply a saved predictor to the participants of an output directory, and judge it where true values are known."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t

from bids_semantoks.analyses.choose import build_twin, embed_stored
from bids_semantoks.analyses.design import SITE_NAMES
from bids_semantoks.analyses.portable import Predictor, find_predictor, list_flags, measure_input, read_carried
from bids_semantoks.analyses.rows import MEASURES, Rows, build_rows, compute_measure, read_embeddings
from bids_semantoks.analyses.saving import list_parcels
from bids_semantoks.config import AppConfig
from bids_semantoks.config.options import check
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import AtlasError, InputError
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.inputs.phenotypes import Column, find_columns
from bids_semantoks.inputs.selection import describe_labels
from bids_semantoks.outputs.features import keep_first_sessions
from bids_semantoks.outputs.group_tables import build_group_table, write_group_table
from bids_semantoks.outputs.group_words import show_model
from bids_semantoks.outputs.predictor_files import CARRIED, PREDICTED, RESEARCH_ONLY, write_predicted
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.records import Floats
from bids_semantoks.reports.group_page import draw_group_page
from bids_semantoks.statistics.class_metrics import compute_calibration
from bids_semantoks.statistics.metrics import Score, compute_scores
from bids_semantoks.statistics.portable import LEVEL, choose_sets, find_shifts, recalibrate
from bids_semantoks.statistics.predictions import Predictions, compute_probabilities

LOGGER = logging.getLogger("bids_semantoks")

#: Fewest people with true values to score, and to correct intercept and slope in folds within folds.
_MIN_SCORED, _MIN_LABELLED = 5, 10


class ApplicationPlan:
    """A predictor to be applied in a call, checked before anything is embedded."""

    encoder: str  # label of the readout; empty for baselines
    twin: RunEncoder | None = None  # random weights, to be embedded with

    def __init__(self, config: AppConfig, chosen: Sequence[StoredRun]) -> None:
        self.config, asked = config, config.probing
        self.predictor = Predictor(find_predictor(asked.apply_predictor or "", config.out_dir))
        facts, name = self.predictor.facts, self.predictor.path.name
        check(
            not asked.recalibrate or len(facts.classes) <= 2,
            f"--recalibrate corrects values and two classes; {name} predicts {len(facts.classes)}.",
            "Remove the option.",
        )
        check(
            config.selection.sessions != "each",
            "--apply-predictor predicts participants, not sessions.",
            "Use --sessions first or mean.",
        )
        check(
            config.min_kept == facts.min_kept,
            f"--min-kept is {config.min_kept}, but was {facts.min_kept} for the predictor {name}.",
            "Use the same.",
        )
        for run in {str(run.sidecar["Settings"]): run for run in chosen}.values():
            self._check_atlas(run)
            self.predictor.check_settings("signals", run.sidecar["Settings"])
        self.columns = self._find_columns(chosen)
        self.truth = self._find_truth(sorted({run.entities["sub"] for run in chosen}))

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
        optional += [one.name for one in facts.covariates]
        keys = sorted({(run.entities["sub"], "") for run in chosen})
        try:
            found = find_columns(
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
        for name, column in [(name, column) for name, column in found.items() if column.has_sessions]:
            message = f"Column {name} of {column.table} has one value per session; expected one per participant."
            if name in needed:
                raise InputError(message, hint="Give such a table with --phenotype.")
            LOGGER.warning("%s It is not used.", message)
            del found[name]
        return found

    def check_encoders(self, encoders: Sequence[RunEncoder]) -> None:
        """Find the readout of the predictor, if it has one; ModelError or ConfigurationError if the call has another
        one."""
        facts, self.encoder = self.predictor.facts, ""
        if facts.model in CARRIED:
            return
        readouts, own = [one for encoder in encoders for one in encoder.readouts], facts.embedding_settings
        if facts.model == "random":
            readouts = [build_twin(encoders[0])]
            self.twin = readouts[0]
        alike = [one for one in readouts if one.settings.get("model_sha256") == own.get("model_sha256")]
        best = next((one for one in alike if one.settings == own), (alike or readouts)[0])
        self.predictor.check_embeddings(best.settings)
        self.encoder = best.loaded.name

    def run(self, stored: Sequence[StoredRun]) -> None:
        """Predict, write tables and page, and log what was found."""
        if self.twin is not None:
            embed_stored(stored, self.twin, why="with random weights", running=self.config.running)
        is_first = self.config.selection.sessions == "first"
        kept, how = keep_first_sessions(stored) if is_first else stored, self.config.running
        rows = build_rows(kept, by_session=False, min_kept=self.config.min_kept, running=how)
        frame, values = self._build_frame(rows), self._read_values(rows)
        scores, flags, p_values = self.predictor.apply(values, frame)
        truth = np.array([self.truth[sub] for sub, _ in rows.keys])
        table: dict[str, Any] = self.predictor.show(scores)
        judged = Judgement(self.predictor, scores, truth, seed=self.config.running.random_seed)
        facts, nested = self._describe(rows, judged), None
        counts = [[name, int(own.sum())] for name, own in flags.items() if own.any()]
        facts["Flags"] = sorted(counts, key=lambda one: -one[1])
        facts["Shifts"] = find_shifts(p_values) if p_values else []
        if self.config.probing.recalibrate:
            scores, nested, facts["Recalibration"] = judged.recalibrate()
            shown = self.predictor.show(scores, home=(judged.truth, nested))
            table |= {f"recalibrated_{name}": values for name, values in shown.items()}
        table |= {"flags": list_flags(flags), "n_absent_parcels": frame["n_absent_parcels"].astype(int).tolist()}
        table["truth"] = [
            None if math.isnan(one) else self.predictor.classes[int(one)] if self.predictor.classes else one
            for one in truth.tolist()
        ]
        name = self.predictor.path.resolve().name
        path = write_predicted(self.config.out_dir, name, rows.participants.tolist(), table, self.predictor.facts)
        facts["Table"] = path.relative_to(self.config.out_dir).as_posix()
        scored = build_group_table(PREDICTED, judged.tabulate(nested))
        write_group_table(self.config.out_dir, PREDICTED, scored, facts)
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

    def _read_values(self, rows: Rows) -> NDArray[np.floating[Any]] | None:
        """Read the features (n, d), None where they are covariates."""
        model = self.predictor.facts.model
        if self.encoder:
            return read_embeddings(rows, self.encoder)
        return None if model == "covariates" else read_carried(rows, model)

    def _build_frame(self, rows: Rows) -> pd.DataFrame:
        """Build the table that `Predictor.apply` reads: measures, covariates, site."""
        covariates = {one.name for one in self.predictor.facts.covariates}
        columns: dict[str, Any] = dict(measure_input(rows, self.encoder))
        columns |= {name: compute_measure(rows, name) for name in covariates - self.columns.keys()}
        wanted = (covariates | {self.predictor.facts.site_column}) & self.columns.keys()
        return pd.DataFrame(columns | {name: self.columns[name].find(rows.keys) for name in wanted})

    def _find_truth(self, people: Sequence[str]) -> dict[str, float]:
        """Find true values or indices of classes by participant, NaN where unknown."""
        asked, classes = self.config.probing, self.predictor.classes
        column = self.columns.get(asked.recalibrate or self.predictor.phenotype)
        if column is None:
            return dict.fromkeys(people, math.nan)
        cells = zip(people, column.find([(label, "") for label in people]), strict=True)
        known = {label: cell for label, cell in cells if cell is not None}
        values: dict[str, Any] = {label: parse_number(cell) for label, cell in known.items()}
        if classes:
            values = {label: classes.index(cell) for label, cell in known.items() if cell in classes}
        if None in values.values():
            raise InputError(
                f"Column {column.name} of {column.table} has non-numeric values.", hint="Write n/a for missing values."
            )
        if classes and (others := sorted(set(known.values()) - set(classes))):
            LOGGER.warning(
                "Column %s has classes that the predictor does not know, which are not scored: %s.",
                *(column.name, ", ".join(others[:5])),
            )
        if asked.recalibrate:
            _check_labelled(list(values.values()))
        return dict.fromkeys(people, math.nan) | values

    def _describe(self, rows: Rows, judged: Judgement) -> dict[str, Any]:
        facts = self.predictor.facts
        site = next((one for one in (facts.site_column, *SITE_NAMES) if one in self.columns), None)
        places = self.columns[site].find(rows.keys) if site else ()
        return {
            "Predictor": self.predictor.path.resolve().name,
            "Phenotype": facts.phenotype,
            "Classes": list(facts.classes),
            "Encoder": {
                "Name": show_model(facts.model),
                "Description": facts.encoder or "none: features are from signals and tables",
                "SHA256": facts.encoder_sha256,
            },
            "ParticipantsAtHome": facts.n_participants,
            "Participants": len(rows.keys),
            "Predicted": int((~np.isnan(judged.all_scores).any(axis=1)).sum()),
            "Coverage": judged.measure_coverage(),
            "Bias": judged.measure_bias(places),
            "Calibration": judged.describe_calibration(),
            "Recalibration": None,
        }


def _check_labelled(values: Sequence[float]) -> None:
    if len(values) < _MIN_LABELLED or len(set(values)) == 1:
        raise InputError(
            f"--recalibrate needs true values of at least {_MIN_LABELLED} participants that are not all the same, "
            f"found {len(values)}.",
            hint="Remove the option to predict without a correction.",
        )


class Judgement:
    """Predictions of people whose true values are known, as far as they are: scores (n, 1 or K) and truth (n,)."""

    def __init__(self, predictor: Predictor, scores: Floats, truth: Floats, *, seed: int) -> None:
        self.predictor, self.all_scores, self.seed = predictor, scores, seed
        known = ~np.isnan(truth) & ~np.isnan(scores).any(axis=1)
        self.known, self.truth, self.scores = known, truth[known], scores[known]
        self.is_enough = len(self.truth) >= _MIN_SCORED

    def tabulate(self, nested: Floats | None) -> list[dict[str, object]]:
        """Tabulate scores at home, here where they are known, and of nested corrected ones (k, 1 or 2): rows of
        group_predictor.tsv."""
        sources: dict[str, Any] = {"": self._score(self.scores) if self.is_enough else {}}
        sources["home_"] = {one.metric: one for one in self.predictor.facts.scores}
        sources["recalibrated_"] = {} if nested is None else self._score(nested)
        first = {"phenotype": self.predictor.phenotype, "n_participants": len(self.truth)}
        return [
            first
            | {"metric": metric}
            | {
                f"{prefix}{name}": getattr(found.get(metric), name, None)
                for prefix, found in sources.items()
                for name in ("value", "ci_low", "ci_high")
            }
            for metric in sources["home_"]
        ]

    def _score(self, scores: Floats) -> dict[str, Score]:
        return {one.metric: one for one in compute_scores(self._build(scores), seed=self.seed)}

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

    def recalibrate(self) -> tuple[Floats, Floats, dict[str, Any]]:
        """Correct intercept and slope by the people with true values: scores (n, 1 or 2) of everybody, nested ones
        (k, 1 or 2), and facts for the page; InputError if they are too few."""
        k, is_class = len(self.truth), bool(self.predictor.classes)
        _check_labelled(self.truth.tolist())
        line = self._to_line(self.scores)
        (intercept, slope), nested = recalibrate(self.truth, line, is_class=is_class, seed=self.seed)
        before, after = self._measure_losses(self.scores), self._measure_losses(self._from_line(nested))
        gain = before - after
        half = t.ppf(0.975, k - 1) * gain.std(ddof=1) / math.sqrt(k)
        numbers = {
            **{"Intercept": intercept, "Slope": slope, "Before": before.mean(), "After": after.mean()},
            **{"Gain": gain.mean(), "GainLow": gain.mean() - half, "GainHigh": gain.mean() + half},
        }
        facts: dict[str, Any] = {"Participants": k, "Loss": "log loss" if is_class else "mean absolute error"}
        facts |= {name: round(float(value), 6) for name, value in numbers.items()}
        return self._from_line(intercept + slope * self._to_line(self.all_scores)), self._from_line(nested), facts

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
