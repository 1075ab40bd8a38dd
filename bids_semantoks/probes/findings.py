"""What models made of phenotypes, as records.

Shape letters: n rows (participants or sessions), D dimensions of an embedding.
"""

from __future__ import annotations

import dataclasses

from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.outputs.group_tables import PointTable, RetestRow, StratumRow
from bids_semantoks.probes.designs import Design
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.rows import Rows
from bids_semantoks.probing.comparison import Comparison
from bids_semantoks.probing.metrics import Score
from bids_semantoks.probing.permutation import PermutationTest
from bids_semantoks.probing.predictions import Predictions


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelResult:
    """What one model made of one phenotype.

    Parameters
    ----------
    role, protocol : str
        ``encoder``, ``finetuned``, ``baseline``, ``importance`` or ``leakage``; ``nested``, ``paper`` or ``finetune``.
    covariates : tuple of str
        Columns removed from the features.
    predictions : Predictions
        Out of fold.
    scores : tuple of Score
        All metrics.
    permutation : PermutationTest or None
        None where none was asked for or possible.
    comparison : Comparison or None
        The encoder against this baseline.
    p_holm : float
        P value of the comparison, adjusted over phenotypes.
    seed_scores : dict of str to tuple of float
        Score of each encoder by metric, where several were averaged.
    """

    role: str
    protocol: str
    covariates: tuple[str, ...]
    predictions: Predictions
    scores: tuple[Score, ...]
    permutation: PermutationTest | None
    comparison: Comparison | None = None
    p_holm: float = float("nan")
    seed_scores: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    @property
    def p_value(self) -> float:
        """Of the permutation test; NaN for none."""
        return self.permutation.p_value if self.permutation else float("nan")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PhenotypeResult:
    """All models of one phenotype.

    Parameters
    ----------
    phenotype : Phenotype
        What was predicted.
    design : Design
        How.
    models : dict of str to ModelResult
        By name, the encoder first.
    n_pretrained : int or None
        Participants tested whom the encoder was pretrained on; None where unknown.
    """

    phenotype: Phenotype
    design: Design
    models: dict[str, ModelResult]
    n_pretrained: int | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeResults:
    """Everything that was found.

    Parameters
    ----------
    plan : ProbePlan
        What was asked.
    model : str
        Encoder label.
    phenotypes : tuple of PhenotypeResult
        In the order asked for.
    leakage : tuple of (str, ModelResult)
        What leaks (``mean_fd``, the site's column), and how well embeddings know it.
    rows : Rows
        Participants.
    points : PointTable
        The embedding in two dimensions.
    strata : tuple of StratumRow
        Scores by site and by repetition time.
    retest : tuple of RetestRow
        Whether people are recognised when scanned again.
    networks : tuple of str
        Those that were masked.
    pretraining : str
        What is known of the people whom the encoder was pretrained on, in words.
    warnings : tuple of str
        What the user should know.
    """

    plan: ProbePlan
    model: str
    phenotypes: tuple[PhenotypeResult, ...]
    leakage: tuple[tuple[str, ModelResult], ...]
    rows: Rows
    points: PointTable
    strata: tuple[StratumRow, ...]
    retest: tuple[RetestRow, ...]
    networks: tuple[str, ...]
    pretraining: str
    warnings: tuple[str, ...]


def find_main_metric(predictions: Predictions) -> str:
    """Name the metric that models are ordered and compared by.

    Parameters
    ----------
    predictions : Predictions
        Of any model.

    Returns
    -------
    str
        ``auroc`` or ``r``.
    """
    return "auroc" if predictions.classes else "r"


def find_score(result: ModelResult, metric: str) -> Score:
    """Find the score of a metric.

    Parameters
    ----------
    result : ModelResult
        Of one model.
    metric : str
        Name.

    Returns
    -------
    Score
        With its interval.
    """
    return next(score for score in result.scores if score.metric == metric)
