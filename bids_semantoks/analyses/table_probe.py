"""Probes of a table of embeddings, with the design, the models and the scores of the group level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from bids_semantoks.analyses.analyse import adjust_comparisons
from bids_semantoks.analyses.columns import check_columns
from bids_semantoks.analyses.design import SITE_NAMES, ProbePlan, build_design
from bids_semantoks.analyses.encoders import name_twin
from bids_semantoks.analyses.frames import build_score_rows
from bids_semantoks.analyses.harmonising import harmonise_models
from bids_semantoks.analyses.output_frames import ORIGIN, find_rows, list_keys
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.rows import MEASURES, EmbeddingFeatures, Rows, build_baselines
from bids_semantoks.config import AppConfig, ProbingConfig, RunningConfig
from bids_semantoks.errors import InputError
from bids_semantoks.files import is_missing
from bids_semantoks.inputs.people_tables import Table
from bids_semantoks.inputs.phenotypes import Column, build_columns, build_phenotype, is_category
from bids_semantoks.inputs.selection import describe_labels, describe_nearest
from bids_semantoks.outputs.group_tables import build_group_table
from bids_semantoks.statistics.spans import Features

#: Baselines that need no stored signals.
_FROM_TABLE: Final = frozenset({"none", "covariates", "site", "chance"})


def probe_frame(frame: pd.DataFrame, asked: ProbingConfig, *, seed: int, min_kept: float | None) -> pd.DataFrame:
    """Predict a column of a table of embeddings (n, dims) from the others: the rows of group_probe.tsv.

    Rows are sorted by label first, as at the group level. Raises InputError for columns that are missing or cannot be
    probed, for several rows a participant or session, and for baselines whose signals are unknown.
    """
    dims = [name for name in frame.columns if isinstance(name, str) and name.startswith("dim")]
    if not dims:
        raise InputError("The table has no columns dim0001 etc.", hint="Use a table of load_outputs or Embedder.")
    frame, rows = _sort(frame, min_kept)
    origin = frame.attrs.get(ORIGIN, {})
    if missing := sorted({*asked.baselines} - _FROM_TABLE) if not any(rows.runs) else []:
        raise InputError(
            f"The baselines {', '.join(missing)} need the signals of these participants, but their location is "
            "unknown.",
            hint="Use a table of load_outputs with its attrs: {'out_dir': ...} under bids_semantoks.",
        )
    plan = _plan(frame, rows, asked, seed)
    phenotype = build_phenotype(plan.columns[asked.probe[0]], rows.keys, kind=asked.probe_kind, n_bins=asked.n_bins)
    design = build_design(plan, rows, phenotype)
    prober = _TableProber(plan, str(origin.get("model", "embedding")), frame[dims].to_numpy(dtype=np.float64))
    (result,) = adjust_comparisons([prober.probe(phenotype, design)])
    scores = [row for one in result.models.values() for row in build_score_rows(phenotype.name, one, rows, None)]
    return build_group_table("group_probe", scores)


def _sort(frame: pd.DataFrame, min_kept: float | None) -> tuple[pd.DataFrame, Rows]:
    """Sort the table by label, and find the stored runs of its rows where it says where they are."""
    keys = list_keys(frame)
    if twice := sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []:
        sub, ses = twice[0]
        raise InputError(
            f"The table has {len(twice)} participants or sessions with several rows, such as sub-{sub}"
            f"{f' ses-{ses}' if ses else ''}.",
            hint="Use level='participant' or 'session', or average the rows of each.",
        )
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return frame.iloc[order], find_rows(frame.iloc[order], min_kept)


def _plan(frame: pd.DataFrame, rows: Rows, asked: ProbingConfig, seed: int) -> ProbePlan:
    """Read the requested columns as cells of a phenotype table, and check them as the group level does."""
    extra = asked.beside
    wanted = dict.fromkeys((*asked.probe, *extra))
    if unknown := [name for name in wanted if name not in frame.columns]:
        there = [str(name) for name in frame.columns if not str(name).startswith("dim")]
        raise InputError(
            f"Column {', '.join(unknown)} not found in the table: found {describe_labels(there)}.",
            hint=describe_nearest(unknown, there) or "Add it, e.g. with load_outputs(phenotypes=...).",
        )
    site = asked.leave_out or asked.harmonize or next((name for name in SITE_NAMES if name in frame.columns), "")
    names = [*wanted, *([site] if site and site not in wanted else [])]
    cells = {name: tuple(_spell(name, cell) for cell in frame[name]) for name in names}
    # In pandas tables missing values are NaN, so a site NA is a label.
    words = {name: {cell for cell in own if cell is not None and is_missing(cell)} for name, own in cells.items()}
    table = Table(
        path=Path("the table"),
        name="the table",
        has_sessions=rows.has_sessions,
        keys=rows.keys,
        columns=cells,
        described={name: {"Levels": dict.fromkeys(own - {"", "n/a"}, "")} for name, own in words.items()},
    )
    columns: Mapping[str, Column] = build_columns(table, names, list(wanted), rows.keys)
    numbers = (*asked.covariate, *asked.harmonize_keep)
    categories = [name for name in extra if name not in numbers or is_category(columns[name], rows.keys)]
    running = RunningConfig(random_seed=seed)
    return ProbePlan(
        config=AppConfig(bids_dir=Path(), out_dir=Path(), level="group", probing=asked, running=running),
        columns=dict(columns),
        site=site,
        given=(),
        designs=(),
        n_runs=0,
        categories=frozenset(categories),
        warnings=check_columns(columns, rows.keys, asked, site=site),
    )


def _spell(name: str, cell: Any) -> str | None:
    """Format a cell as in a phenotype table: integers without decimals, measures of runs with 9 digits."""
    if pd.isna(cell):
        return None
    if isinstance(cell, float | np.floating):
        return f"{cell:.9g}" if name in MEASURES or float(cell).is_integer() else repr(float(cell))
    return str(cell)


class _TableProber(Prober):
    """Prober of embeddings (n, dims) in memory, by the default protocol."""

    def __init__(self, plan: ProbePlan, model: str, values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self.prepare(plan, model)
        self._values = values

    def find_models(self, rows: Rows) -> dict[str, tuple[Features, ...]]:
        """Find the features of the embeddings and of baselines, as `Prober` does."""
        own = EmbeddingFeatures(name=self.model, values=self._values, label=self.model, rows=rows)
        baselines = build_baselines(
            rows, [name_twin(self.model)], self.baselines, keeps_tables=self.asked.harmonize is not None
        )
        return harmonise_models(self.plan, rows, {self.model: (own,)} | baselines)
