"""Predictors that leave their study, used on tables and stored runs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bids_semantoks.analyses.output_frames import LEVELS, ORIGIN, find_rows
from bids_semantoks.analyses.rows import Rows, build_baselines, compute_measure, iterate_signals
from bids_semantoks.config.options import check
from bids_semantoks.errors import ConfigurationError, InputError, ModelError, name_count, name_some
from bids_semantoks.files import is_missing
from bids_semantoks.inputs.selection import describe_labels
from bids_semantoks.outputs.predictor_files import CARRIED, PREDICTORS, PredictorFacts, read_predictor
from bids_semantoks.outputs.sidecars import describe_differences
from bids_semantoks.quality.fit import AMBER, GREEN, RED
from bids_semantoks.quality.run_qc import read_run_qc
from bids_semantoks.records import Floats
from bids_semantoks.statistics.baselines import CONNECTIVITY, compute_connectivity_rows
from bids_semantoks.statistics.portable import LEVEL, choose_sets, compare_positions, compute_excess, find_quantile
from bids_semantoks.statistics.spans import TableFeatures

#: Measures of the input whose range is kept, and whether values below or above it count as outside.
RANGES: Final[Mapping[str, tuple[bool, bool]]] = {
    "input_fit": (False, True),
    "mean_fd": (False, True),
    "repetition_time": (True, True),
    "kept_seconds": (True, False),
    "coverage": (True, False),
    "n_absent_parcels": (False, True),
}
_LEVELS: Final = (GREEN, AMBER, RED)

Flags = dict[str, NDArray[np.bool_]]  # by what is flagged

#: Between the classes of a set.
OR: Final = " | "


def read_carried(rows: Rows, model: str) -> NDArray[np.floating[Any]]:
    """Read the features (n, d) of a baseline of `CARRIED` but ``covariates`` from the stored signals of rows."""
    if model in CONNECTIVITY:
        return compute_connectivity_rows(iterate_signals(rows), model, rows.weights)
    (features,) = build_baselines(rows, (), [model])[model]
    assert isinstance(features, TableFeatures)
    return features.values


def measure_input(rows: Rows, model: str) -> dict[str, Floats]:
    """Measure the input (n,) of each row by the records of its runs: the worst run, the mean of motion and the sum of
    kept seconds; NaN where unknown, as the fit without a `model`, the label of an encoder."""
    found: dict[str, list[float]] = {name: [] for name in ("input_fit", "repetition_time", "coverage")}
    found["n_absent_parcels"] = []
    for runs in rows.runs:
        records = [read_run_qc(dataclasses.replace(run.paths, model=model)) for run in runs]
        levels = [_LEVELS.index(one["input_fit"]) for one in records if one.get("input_fit") in _LEVELS]
        found["input_fit"].append(max(levels, default=math.nan))
        found["repetition_time"].append(max(run.repetition_time for run in runs))
        found["coverage"].append(min((one["coverage"] for one in records if one.get("coverage")), default=math.nan))
        found["n_absent_parcels"].append(max(len(run.sidecar.get("AbsentParcels", [])) for run in runs))
    measured = {name: np.array(values, dtype=np.float64) for name, values in found.items()}
    return measured | {name: compute_measure(rows, name) for name in ("mean_fd", "kept_seconds")}


class Predictor:
    """A saved predictor, from `load_predictor`. For research use only."""

    def __init__(self, path: Path) -> None:
        self.path, self.saved = path, read_predictor(path)

    def __repr__(self) -> str:
        return f"<Predictor of {self.phenotype} by {self.facts.model}: {self.facts.n_participants} participants>"

    @property
    def facts(self) -> PredictorFacts:
        """What ``predictor.json`` says: encoder, atlas, denoising, covariates, scores at home, ranges."""
        return self.saved.facts

    @property
    def phenotype(self) -> str:
        """Name of what is predicted."""
        return self.facts.phenotype

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; empty for values."""
        return self.facts.classes

    def predict(self, df: pd.DataFrame, *, level: float = LEVEL) -> pd.DataFrame:
        """Predict the phenotype of the rows of a table.

        Parameters
        ----------
        df : pandas.DataFrame
            ``dim0001`` etc. of the encoder of the predictor, its covariates by name, and where known the site and
            measures of the input (``mean_fd``, ``kept_seconds``, ``repetition_time``, ``coverage``), which are then
            compared with those at home; from `load_outputs`, or any other embeddings. Predictors from connectivity,
            parcel moments and motion read the stored signals of a table of `load_outputs`.
        level : float, optional
            Share of people whose true value the intervals or sets are to hold, if they are like those at home.

        Returns
        -------
        pandas.DataFrame
            Labels, ``prediction``, ``low`` and ``high`` or ``set`` and the probability of each class, and ``flags``:
            what is outside the training range.

        Raises
        ------
        InputError
            A covariate or an embedding is missing, or the signals of a row.
        ModelError
            The embeddings are by another encoder.
        ConfigurationError
            They were made with other settings.
        """
        if not 0 < level < 1:
            raise ConfigurationError(f"level must be between 0 and 1, found {level:g}.")
        labels = [name for name in ("participant_id", "session_id") if name in df.columns]
        origin = df.attrs.get(ORIGIN, {})
        if self.facts.model not in CARRIED:
            for settings in origin.get("embedding_settings", ()):
                self.check_embeddings(settings)
            check(
                origin.get("min_kept", self.facts.min_kept) == self.facts.min_kept,
                f"The embeddings are means with min_kept {origin.get('min_kept')}, but the predictor was fitted with "
                f"{self.facts.min_kept}.",
                f"Use load_outputs(min_kept={self.facts.min_kept}).",
            )
        for settings in origin.get("signals_settings", ()):
            self.check_settings("signals", settings)
        scores, flags, _ = self.apply(self._find_values(df), df)
        table = self.show(scores, level=level) | {"flags": list_flags(flags)}
        return pd.concat([df[labels], pd.DataFrame(table, index=df.index)], axis=1)

    def show(
        self, scores: Floats, *, home: tuple[Floats, Floats] | None = None, level: float = LEVEL
    ) -> dict[str, Any]:
        """Show scores (n, 1) or (n, K) as columns: predictions with intervals or sets, from true values (N,) and scores
        at `home`, by default those of the saved people."""
        truth, own = (self.saved.truth, self.saved.scores) if home is None else home
        known: NDArray[np.bool_] = ~np.isnan(scores.sum(axis=1))
        if not self.classes:
            margin = find_quantile(np.abs(truth - own[:, 0]), level)
            return {"prediction": scores[:, 0], "low": scores[:, 0] - margin, "high": scores[:, 0] + margin}
        filled = np.where(known[:, None], scores, 1.0)
        sets = choose_sets(filled, own, truth.astype(np.int64), level)
        decided = self.saved.linear.decide(filled)
        names = [OR.join(name for name, is_in in zip(self.classes, row, strict=True) if is_in) for row in sets]
        return {
            "prediction": [self.classes[k] if is_known else None for k, is_known in zip(decided, known, strict=True)],
            "set": [one if is_known else None for one, is_known in zip(names, known, strict=True)],
            **{f"probability_{name}": scores[:, k] for k, name in enumerate(self.classes)},
        }

    def _find_values(self, frame: pd.DataFrame) -> NDArray[np.floating[Any]] | None:
        """Find the features (n, d) of the rows of a table, None where they are its covariates."""
        facts, origin = self.facts, frame.attrs.get(ORIGIN, {})
        if facts.model == "covariates":
            return None
        if facts.model in CARRIED:
            if frame.empty:
                raise InputError(f"The table has no rows to compute {facts.features} of.")
            rows = find_rows(frame, facts.min_kept) if origin.get("level") in LEVELS[:2] else None
            if rows is None or not all(rows.runs):
                raise InputError(
                    f"The predictor needs the signals of each row for {facts.features}, but their location is unknown.",
                    hint="Use a table of load_outputs of participants or sessions, with its attrs.",
                )
            return read_carried(rows, facts.model)
        # By number: columns may stand in any order, beside others such as dimension_1.
        names = {name for name in frame.columns if isinstance(name, str) and re.fullmatch(r"dim\d+", name)}
        dims = sorted(names, key=lambda name: int(name[3:]))
        n_dims = len(self.saved.linear.scaling.scale)
        if len(dims) != n_dims:
            raise ModelError(
                f"The table has {len(dims)} dimensions (dim0001 etc.); the predictor was fitted to {n_dims} of "
                f"{facts.model}.",
                hint="Use embeddings by the same encoder and readout.",
            )
        values: Floats = frame[dims].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
        if not np.isfinite(values).all():
            rows_ = np.flatnonzero(~np.isfinite(values).all(axis=1))
            which = name_count(len(rows_), "row")
            raise InputError(f"The embeddings of {which} have other than finite numbers, first row {rows_[0] + 1}.")
        return values

    def apply(
        self, values: NDArray[np.floating[Any]] | None, frame: pd.DataFrame
    ) -> tuple[Floats, Flags, dict[str, float]]:
        """Predict from features (n, d), None where they are the covariates, and compare the rows with the people at
        home; `frame` has covariates, site and measures. InputError for a missing covariate.

        Returns values (n, 1) or class probabilities (n, K), NaN where a covariate is unknown; who is outside the
        training range of what, (n,) each; and p values of what may differ between the places.
        """
        covariates, unknown = _convert_covariates(self.facts, frame)
        if values is None:
            assert covariates is not None
            values, covariates = covariates, None
        known = ~np.any([*unknown.values(), np.zeros(len(frame), dtype=bool)], axis=0)
        scores, positions = self.saved.linear.predict(values, covariates)
        scores[~known], positions[~known] = np.nan, np.nan
        flags = {f"no {name}": own for name, own in unknown.items()}
        outside, p_values = self._compare_ranges(frame)
        home, m = self.saved.positions, positions.shape[1] - 2
        with np.errstate(invalid="ignore"):
            flags |= outside | {"features": (positions[:, m:] > home[:, m:].max(axis=0)).any(axis=1)}
        if known.any():
            own = None if covariates is None else covariates[known]
            p_values |= compare_positions(home, positions[known])
            n_home = self.facts.n_participants
            p_values |= self.saved.linear.compare_means(values[known], own, n_home, self.classes)
        return scores, flags, p_values

    def check_embeddings(self, settings: Mapping[str, Any]) -> None:
        """Refuse embeddings by another encoder (ModelError) or with other settings (ConfigurationError)."""
        facts = self.facts
        if settings.get("model_sha256") != facts.encoder_sha256:
            raise ModelError(
                f"The predictor {self.path.name} was fitted to embeddings by {facts.embedding_settings.get('model')} "
                f"(SHA-256 {facts.encoder_sha256[:16]}), not by {settings.get('model')} "
                f"({str(settings.get('model_sha256'))[:16]}).",
                hint=f"There it was --model {facts.encoder_source}"
                + (f" --random-seed {facts.options.get('random_seed')}." if facts.model == "random" else "."),
            )
        self.check_settings("embeddings", settings)

    def check_settings(self, what: str, settings: Mapping[str, Any]) -> None:
        """Refuse ``signals`` or ``embeddings`` that were made with other settings: ConfigurationError names them."""
        own = self.facts.signals_settings if what == "signals" else self.facts.embedding_settings
        if differences := describe_differences(settings, own):
            listed = "; ".join(differences).replace("on disk", "here").replace("now", "there")
            raise ConfigurationError(
                f"The predictor {self.path.name} was fitted to {what} made with other settings: {listed}.",
                hint="Process this study with the settings of the predictor.",
            )

    def _compare_ranges(self, frame: pd.DataFrame) -> tuple[Flags, dict[str, float]]:
        """Find who is outside which range, and how likely that is for people who are exchangeable with those at home;
        an unknown site only flags."""
        flags, p_values = {}, {}
        for one in self.facts.ranges:
            if one.name not in frame.columns or one.name not in RANGES:
                continue
            values, slack = pd.to_numeric(frame[one.name], errors="coerce").to_numpy(dtype=np.float64), 1e-6
            sides = (values < one.low - slack * abs(one.low), values > one.high + slack * abs(one.high))
            checked = [own for own, counts in zip(sides, RANGES[one.name], strict=True) if counts]
            name, n = one.name.removeprefix("n_").replace("_", " "), int((~np.isnan(values)).sum())
            flags[name] = np.any(checked, axis=0)
            chances = [compute_excess(int(own.sum()), n, self.facts.n_participants) for own in checked]
            p_values[f"range of {name}"] = min(1.0, len(checked) * min(chances))
        site = self.facts.site_column
        if site in frame.columns:
            flags["site"] = np.array([_spell(cell) not in self.facts.sites for cell in frame[site]])
        return flags, p_values


def _convert_covariates(facts: PredictorFacts, frame: pd.DataFrame) -> tuple[Floats | None, Flags]:
    """Convert covariates to (n, c) as at home, and find whose are missing or of an unknown level, by name."""
    names = [one.name for one in facts.covariates]
    if missing := [name for name in names if name not in frame.columns]:
        raise InputError(
            f"The predictor needs the covariates {name_some(missing)}, which were not found.", hint="Add these columns."
        )
    columns, unknown = [], {}
    for one in facts.covariates:
        if one.levels:
            cells = list(map(_spell, frame[one.name]))
            columns += [np.array([cell == level for cell in cells], dtype=np.float64) for level in one.levels]
            unknown[one.name] = np.array([cell not in one.levels or is_missing(cell) for cell in cells])
        else:
            values = pd.to_numeric(frame[one.name], errors="coerce").to_numpy(dtype=np.float64)
            unknown[one.name] = ~np.isfinite(values)
            columns.append(np.where(unknown[one.name], 0.0, values))
    return (np.stack(columns, axis=1) if columns else None), unknown


def _spell(cell: Any) -> str:
    """Spell a cell as at home: pandas makes 1.0 of 1; empty where missing."""
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))
    return "" if pd.isna(cell) else str(cell)


def find_predictor(name: str, out_dir: Path) -> Path:
    """Find a predictor by its folder, or by its name among those of OUT_DIR."""
    own, there = out_dir / PREDICTORS / name, Path(name)
    if there.is_dir() or own.is_dir():
        return there if there.is_dir() else own
    saved = sorted(path.name for path in (out_dir / PREDICTORS).glob("*") if path.is_dir())
    raise ModelError(
        f"No predictor {name}: neither a folder nor one of {out_dir / PREDICTORS}, which has "
        f"{describe_labels(saved) if saved else 'none'}.",
        hint="Give the name or folder of a predictor that --save-predictor wrote.",
    )


def list_flags(flags: Flags) -> list[str]:
    """List the flags of each person, joined; empty for none."""
    people = zip(*flags.values(), strict=True)
    return ["; ".join(name for name, is_so in zip(flags, own, strict=True) if is_so) for own in people]
