"""Runs models over phenotypes, all on the same people and splits.

Shape letters: n rows (participants or sessions).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.embedding import RunEncoder
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probes.designs import Design, build_design
from bids_semantoks.probes.features import build_models
from bids_semantoks.probes.findings import ModelResult, PhenotypeResult, find_main_metric, find_score
from bids_semantoks.probes.plans import ProbePlan
from bids_semantoks.probes.pretrained import count_pretrained
from bids_semantoks.probes.rows import Rows, read_windows
from bids_semantoks.probes.twins import name_twin
from bids_semantoks.probing.comparison import compare_models
from bids_semantoks.probing.linear import cross_validate
from bids_semantoks.probing.metrics import compute_scores
from bids_semantoks.probing.permutation import PermutationTest, compute_permutation_test
from bids_semantoks.probing.spans import Features, TableFeatures
from bids_semantoks.probing.targets import Predictions

LOGGER = logging.getLogger("bids_semantoks")

_MIN_GROUPS: Final = 5


class Prober:
    """Runs models over phenotypes; features are built once for participants and once for sessions.

    Parameters
    ----------
    plan : ProbePlan
        What was asked.
    encoder : RunEncoder
        What embedded.
    stored : sequence of StoredRun
        Runs with complete embeddings.
    """

    def __init__(self, plan: ProbePlan, encoder: RunEncoder, stored: Sequence[StoredRun]) -> None:
        self.plan, self.encoder, self.stored = plan, encoder, stored
        self.model = encoder.loaded.name
        self.asked, self.seed = plan.config.probing, plan.config.running.random_seed
        self.baselines = () if "none" in self.asked.baselines else self.asked.baselines
        self._models: dict[tuple[tuple[str, str], ...], dict[str, Features]] = {}
        self._windows: dict[tuple[str, int], Any] = {}

    def find_models(self, rows: Rows) -> dict[str, Features]:
        """Build the features of all models but covariates.

        Parameters
        ----------
        rows : Rows
            Participants or sessions.

        Returns
        -------
        dict of str to Features
            By name, the encoder first.
        """
        if rows.keys not in self._models:
            LOGGER.info("Reading %d rows for %s.", len(rows.keys), ", ".join([self.model, *self.baselines]))
            self._models[rows.keys] = build_models(rows, self.model, self.baselines)
        return self._models[rows.keys]

    def probe(self, name: str) -> PhenotypeResult:
        """Predict one phenotype by all models.

        Parameters
        ----------
        name : str
            Its column.

        Returns
        -------
        PhenotypeResult
            The encoder first.
        """
        rows = self.plan.build_rows(self.stored, name)
        phenotype = self.plan.build_phenotype(rows, name)
        design = build_design(self.plan, rows, phenotype)
        models = dict(self.find_models(rows))
        if "covariates" in self.baselines and design.covariates is not None:
            models["covariates"] = TableFeatures(name="covariates", values=design.covariates)
        results: dict[str, ModelResult] = {}
        for model, features in models.items():
            results[model] = self.run(features, design, role="encoder" if model == self.model else "baseline")
            self._compare(results, model)
            LOGGER.info("%s by %s: %s", name, model, _describe(results[model]))
        tested = {str(p) for p in rows.participants[results[self.model].predictions.tested]}
        return PhenotypeResult(
            phenotype=phenotype,
            design=design,
            models=results,
            n_pretrained=count_pretrained(tested, self.encoder),
        )

    def run(self, features: Features, design: Design, *, role: str) -> ModelResult:
        """Predict by one model.

        Parameters
        ----------
        features : Features
            What the model knows.
        design : Design
            What is predicted, and on which splits.
        role : str
            ``encoder``, ``baseline`` or ``leakage``.

        Returns
        -------
        ModelResult
            Not compared with any other.
        """
        is_published = self.asked.protocol == "paper" and role != "leakage"
        is_published = is_published and features.name in (self.model, "random")
        # Covariates alone, with covariates removed, would be nothing at all.
        removed = None if features.name == "covariates" else design.covariates
        if is_published:
            predictions = self._probe_as_published(features.name, design)
        else:
            predictions = cross_validate(
                features, design.target, design.splits, covariates=removed, groups=design.groups, seed=self.seed
            )
        people = design.rows.participants if design.rows.has_sessions else None
        return ModelResult(
            role=role,
            protocol="paper" if is_published else "nested",
            covariates=() if removed is None else design.covariate_names,
            predictions=predictions,
            scores=compute_scores(predictions, participants=people, seed=self.seed),
            permutation=self._permute(features, design, removed),
        )

    def _probe_as_published(self, name: str, design: Design) -> Predictions:
        from bids_semantoks.training.probe import PublishedProbe, WindowTable, cross_validate_published  # noqa: PLC0415

        label = name_twin(self.model) if name == "random" else name
        values, row_of = read_windows(design.rows, label)
        probe = PublishedProbe(
            WindowTable(name=name, values=values, row_of=row_of),
            design.target,
            device=str(self.encoder.frozen.device),
        )
        return cross_validate_published(probe, design.splits, seed=self.seed)

    def _permute(
        self, features: Features, design: Design, removed: NDArray[np.float64] | None
    ) -> PermutationTest | None:
        n_permutations = self.asked.n_permutations
        known = ~np.isnan(design.target.values)
        groups = design.unit_groups
        has_groups = groups is None or len(np.unique(groups[known])) >= _MIN_GROUPS
        if not n_permutations or features.name == "chance" or not has_groups:
            return None
        test = compute_permutation_test(
            features,
            design.target,
            n_permutations=n_permutations,
            covariates=removed,
            groups=groups,
            blocks=design.blocks,
            seed=self.seed,
        )
        # Where no labels could be exchanged there is nothing to compare with.
        return test if np.ptp(np.append(test.null, test.value)) > 0 else None

    def _compare(self, results: dict[str, ModelResult], model: str) -> None:
        if model == self.model:
            return
        first, second = results[self.model], results[model]
        metric = find_main_metric(first.predictions)
        comparison = compare_models(first.predictions, second.predictions, metric)
        results[model] = dataclasses.replace(second, comparison=comparison)


def _describe(result: ModelResult) -> str:
    score = find_score(result, find_main_metric(result.predictions))
    p = f", p = {result.p_value:.3g}" if result.permutation else ""
    return f"{score.metric} {score.value:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}]{p}"
