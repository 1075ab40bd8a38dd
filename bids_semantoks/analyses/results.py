"""Results of models on phenotypes, and who was used for them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.design import COLOUR_NAMES, Design, ProbePlan
from bids_semantoks.analyses.rows import Rows, compute_motion
from bids_semantoks.bids_names import sorted_naturally
from bids_semantoks.files import read_rows
from bids_semantoks.inputs.people_tables import parse_number
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.records import Floats
from bids_semantoks.statistics.metrics import Score, name_main_metric
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.reliability import RetestScore
from bids_semantoks.statistics.significance import Comparison, PermutationTest, adjust_holm, judge

_MOST_LEVELS: Final = 6  # columns with more levels are counted, not listed
_OWN: Final = ("mean_fd", "kept_seconds")  # columns of the table that are there for every phenotype


class People:
    """Participants of one phenotype, as columns: those with features, then others in the tables."""

    def __init__(self, plan: ProbePlan, phenotype: Phenotype, design: Design, lost: Mapping[str, str]) -> None:
        rows = design.rows
        here = set(rows.participants.tolist())
        described = {label for label, _ in plan.columns[phenotype.name].values}
        absent = sorted_naturally(described - here)
        self.phenotype = phenotype.name
        self.keys = (*rows.keys, *((label, "") for label in absent))
        reasons = [lost.get(label, "no signals") for label in absent]
        self.reasons: NDArray[np.str_] = np.concatenate([design.reasons, np.array(reasons, dtype=np.str_)])
        self.columns = {
            name: plan.columns[name].find(self.keys)
            if rows.has_sessions or not plan.columns[name].has_sessions
            else (None,) * len(self.keys)
            for name in list_described(plan)
        }
        unknown = np.full(len(absent), np.nan)
        self.measures = {
            name: np.concatenate([values, unknown]) for name, values in zip(_OWN, compute_motion(rows), strict=True)
        }

    def iterate_rows(self) -> Iterator[tuple[object, ...]]:
        """Yield the rows of group_participants.tsv."""
        columns = [*(values.tolist() for values in self.measures.values()), *self.columns.values()]
        for (label, session), reason, *cells in zip(self.keys, self.reasons.tolist(), *columns, strict=True):
            named = f"sub-{label}", f"ses-{session}" if session else ""
            yield (self.phenotype, *named, "out" if reason else "in", reason, *cells)

    def summarise(self) -> dict[str, Any]:
        """Describe who is used, and who is excluded for each reason, as a table."""
        reasons = [reason for reason, _ in Counter(self.reasons[self.reasons != ""].tolist()).most_common()]
        groups = {"in": self.reasons == "", **{f"out: {reason}": self.reasons == reason for reason in reasons}}
        labels = np.array([label for label, _ in self.keys])
        columns = {name: cells for name, cells in self.columns.items() if set(cells) != {None}}
        lines = []
        for name, inside in groups.items():
            cells = [str(len(np.unique(labels[inside])))]
            cells += [describe_cells(np.array(column, dtype=object)[inside]) for column in columns.values()]
            lines.append([name, *cells, *(describe_numbers(values[inside]) for values in self.measures.values())])
        return {"Columns": ["", "participants", *columns, "mean FD (mm)", "kept data (s)"], "Lines": lines}

    def describe_motion(self) -> dict[str, float | int]:
        """Describe the mean framewise displacement (mm) of those who are in; empty if unknown."""
        values = self.measures["mean_fd"][self.reasons == ""]
        known = values[~np.isnan(values)]
        if not len(known):
            return {}
        deviation = float(known.std(ddof=1)) if len(known) > 1 else 0.0
        return {"N": len(known), "Mean": round(float(known.mean()), 4), "SD": round(deviation, 4)}


def list_described(plan: ProbePlan) -> tuple[str, ...]:
    """List the columns that describe participants, if present: site, sex, age and those of --strata."""
    names = dict.fromkeys((plan.site, *COLOUR_NAMES, *plan.config.probing.strata))
    return tuple(name for name in names if name in plan.columns and name not in _OWN)


def describe_cells(cells: Sequence[str | None] | NDArray[Any]) -> str:
    """Describe a column of cells: mean and SD of numbers that are many, else levels with counts."""
    known = [cell for cell in cells if cell is not None]
    missing = f"n/a {len(cells) - len(known)}" if len(known) < len(cells) else ""
    counts = Counter(known)
    numbers = [parse_number(cell) for cell in counts]
    if len(counts) > _MOST_LEVELS and None not in numbers:
        text = describe_numbers(np.array(known, dtype=np.float64))
    elif len(counts) > _MOST_LEVELS:
        text = f"{len(counts)} levels"
    else:
        text = ", ".join(f"{name} {counts[name]}" for name in sorted_naturally(counts))
    return ", ".join(filter(None, (text, missing)))


def describe_numbers(values: Floats) -> str:
    """Describe numbers by their mean and SD; empty if all are NaN."""
    known = values[~np.isnan(values)]
    if not len(known):
        return ""
    return f"{known.mean():.3g}" + (f" (SD {known.std(ddof=1):.2g})" if len(known) > 1 else "")


def find_lost(out_dir: Path) -> dict[str, str]:
    """Find why participants have no features, by label, from ``group_status.tsv``: the reasons of all their runs."""
    path = out_dir / "group_status.tsv"
    found: dict[str, set[str]] = {}
    for row in read_rows(path) if path.is_file() else ():
        label = row["run"].partition("_")[0].removeprefix("sub-")
        reason = row["reason"].replace("_", " ")
        found.setdefault(label, set()).add(f"no signals: {reason}" if row["status"] != "ok" else "not selected")
    return {label: " and ".join(sorted(reasons - {"not selected"} or reasons)) for label, reasons in found.items()}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelResult:
    """Results of one model for one phenotype."""

    role: str  # ``encoder``, ``finetuned``, ``baseline``, ``added``, ``importance`` or ``leakage``
    protocol: str  # ``nested``, ``paper`` or ``finetune``
    covariates: tuple[str, ...]  # columns removed from the features
    predictions: Predictions
    scores: tuple[Score, ...]
    permutation: PermutationTest | None  # None if not requested or not possible
    # of the encoder with this baseline, of all networks with this mask, or of what an encoder was added to with both
    comparison: Comparison | None = None
    p_holm: float = float("nan")  # p value of the comparison, adjusted over all comparisons of the call
    # score of each encoder by metric, where several were averaged
    seed_scores: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    parts: tuple[Predictions, ...] = ()  # of each seed, before they were stacked
    harmonised: str = ""  # column and method, as in group_probe.tsv; empty for none

    @property
    def compared_with(self) -> str:
        """Name of the model that the comparison is with; empty if there is none."""
        if self.comparison is None:
            return ""
        return self.comparison.second if self.role == "added" else self.comparison.first

    @property
    def main(self) -> Score:
        """Score by which models are ordered, compared and judged."""
        metric = name_main_metric(is_class=bool(self.predictions.classes))
        return next(score for score in self.scores if score.metric == metric)

    @property
    def verdict(self) -> str:
        """Joint verdict of interval and permutation test on the main score, see `judge`; empty for a masked encoder
        and for what an encoder was added to, which are only compared with others."""
        if self.role in ("added", "importance"):
            return ""
        return judge(self.main, self.permutation.p_value if self.permutation else float("nan"))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PhenotypeResult:
    """Results of all models for one phenotype."""

    phenotype: Phenotype
    design: Design
    models: dict[str, ModelResult]  # by name, the encoder first
    n_pretrained: int | None  # tested participants the encoder was pretrained on; None if unknown


def adjust_comparisons(results: Sequence[PhenotypeResult]) -> list[PhenotypeResult]:
    """Adjust the p values of all comparisons of a call (Holm): phenotypes, baselines and masks."""
    adjusted = [dict(one.models) for one in results]
    compared = [
        (models, name, result.comparison.p_value)
        for models in adjusted
        for name, result in models.items()
        if result.comparison is not None
    ]
    p_values = adjust_holm([p_value for _, _, p_value in compared])
    for (models, name, _), p_value in zip(compared, p_values.tolist(), strict=True):
        models[name] = dataclasses.replace(models[name], p_holm=p_value)
    return [dataclasses.replace(one, models=models) for one, models in zip(results, adjusted, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeResults:
    """Results of all probes of a call."""

    plan: ProbePlan
    model: str  # encoder label
    phenotypes: tuple[PhenotypeResult, ...]
    people: tuple[People, ...]  # of each phenotype, who is used and excluded
    # what leaks (``mean_fd``, the site's column), and how well embeddings predict it
    leakage: tuple[tuple[str, ModelResult], ...]
    rows: Rows  # participants
    strata: tuple[dict[str, object], ...]  # rows of group_strata.tsv: scores by site, repetition time and --strata
    retest: tuple[tuple[str, RetestScore], ...]  # of participants scanned twice, between ``sessions`` or ``runs``
    networks: tuple[str, ...]  # those that were masked
    n_pretrained: int | None  # participants that the encoders were pretrained on; None if unknown
    pretraining: str  # the same in words, of the first encoder
    warnings: tuple[str, ...]
