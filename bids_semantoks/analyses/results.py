"""Records of the results of models on phenotypes."""

from __future__ import annotations

import dataclasses

from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.analyses.people import People
from bids_semantoks.analyses.rows import Rows
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.statistics.metrics import Score, name_main_metric
from bids_semantoks.statistics.predictions import Predictions
from bids_semantoks.statistics.reliability import RetestScore
from bids_semantoks.statistics.significance import Comparison, PermutationTest, judge


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
    pretraining: str  # overlap with the pretraining participants, in words
    warnings: tuple[str, ...]
