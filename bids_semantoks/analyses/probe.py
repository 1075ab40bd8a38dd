"""Predictions of phenotypes by all models, on the same people and splits."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.design import Design, ProbePlan, build_design
from bids_semantoks.analyses.network_importance import NetworkMasker
from bids_semantoks.analyses.results import ModelResult, PhenotypeResult, find_main_metric, find_score
from bids_semantoks.analyses.rows import Rows, build_models, build_site_features, count_pretrained, read_windows
from bids_semantoks.embedding import RunEncoder, name_twin
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.reports.group_phenotype import name_whole
from bids_semantoks.statistics.linear import cross_validate
from bids_semantoks.statistics.metrics import compute_scores, compute_seed_scores
from bids_semantoks.statistics.predictions import Predictions, stack_seeds
from bids_semantoks.statistics.significance import (
    PermutationTest,
    average_tests,
    compare_models,
    compute_permutation_test,
)
from bids_semantoks.statistics.spans import Features, TableFeatures

LOGGER = logging.getLogger("bids_semantoks")


_MIN_GROUPS: Final = 5


class Prober:
    """Runner of models over phenotypes; features are built once for participants and once for sessions.
    Scores are averaged over `replicates`, encoders of other seeds with complete embeddings."""

    def __init__(
        self,
        plan: ProbePlan,
        encoder: RunEncoder,
        stored: Sequence[StoredRun],
        *,
        replicates: Sequence[RunEncoder] = (),
    ) -> None:
        self.plan, self.encoder, self.stored = plan, encoder, stored
        self.model, self.encoders = encoder.loaded.name, (encoder, *replicates)
        self.labels = {
            self.model: tuple(one.loaded.name for one in self.encoders),
            "random": tuple(name_twin(self.model, number) for number in range(len(self.encoders))),
        }
        self.asked, self.seed = plan.config.probing, plan.config.running.random_seed
        self.baselines = () if "none" in self.asked.baselines else self.asked.baselines
        self.masker = NetworkMasker(self.encoders, plan.config.running.work_dir)
        self._models: dict[tuple[tuple[str, str], ...], dict[str, tuple[Features, ...]]] = {}

    def find_models(self, rows: Rows) -> dict[str, tuple[Features, ...]]:
        """Find the features of all models except those that depend on the phenotype, building them only once."""
        if rows.keys not in self._models:
            LOGGER.info("Reading %d rows for %s.", len(rows.keys), ", ".join([self.model, *self.baselines]))
            twins = self.labels["random"]
            self._models[rows.keys] = build_models(rows, self.labels[self.model], twins, self.baselines)
        return self._models[rows.keys]

    def probe(self, name: str) -> PhenotypeResult:
        """Predict one phenotype by all models, the encoder first."""
        rows = self.plan.build_rows(self.stored, name)
        phenotype = self.plan.build_phenotype(rows, name)
        design = build_design(self.plan, rows, phenotype)
        models = self.find_models(rows) | self._build_own_models(design)
        results: dict[str, ModelResult] = {}
        for model, features in models.items():
            role = "encoder" if model == self.model else "baseline"
            results[model] = self.run(features[0], design, role=role, others=features[1:])
            self._compare(results, model)
            LOGGER.info("%s by %s: %s", name, model, _describe(results[model]))
        if self.asked.network_importance:
            self._mask_networks(design, results)
        if self.asked.finetune:
            self._finetune(design, results)
        tested = {str(p) for p in rows.participants[results[self.model].predictions.tested]}
        return PhenotypeResult(
            phenotype=phenotype,
            design=design,
            models=results,
            n_pretrained=count_pretrained(tested, *self.encoders),
        )

    def _build_own_models(self, design: Design) -> dict[str, tuple[Features, ...]]:
        """Build the models that depend on the phenotype: covariates alone, site alone."""
        models: dict[str, tuple[Features, ...]] = {}
        site, name = self.plan.site, design.target.name
        # A site that is left out is new to every model.
        is_known = bool(site) and site not in (name, self.asked.leave_out)
        if is_known and "site" in self.baselines:
            column = self.plan.columns[site]
            if design.rows.has_sessions or not column.has_sessions:
                models["site"] = (build_site_features(column.find(design.rows.keys)),)
        if "covariates" in self.baselines and design.covariates is not None:
            models["covariates"] = (TableFeatures(name="covariates", values=design.covariates),)
        return models

    def run(self, features: Features, design: Design, *, role: str, others: Sequence[Features] = ()) -> ModelResult:
        """Predict by one model in a `role` of `ModelResult`, averaging scores over the features of other seeds."""
        is_published = self.asked.protocol == "paper" and role in ("encoder", "baseline")
        is_published = is_published and features.name in self.labels
        # Covariates alone, with covariates removed, would be nothing at all.
        removed = None if features.name in ("covariates", "site") else design.covariates
        every = (features, *others)
        if is_published:
            parts = [self._probe_as_published(features.name, label, design) for label in self.labels[features.name]]
        else:
            known: Any = {"covariates": removed, "groups": design.groups, "seed": self.seed}
            parts = [cross_validate(one, design.target, design.splits, **known) for one in every]
        predictions = stack_seeds(parts)
        people = design.rows.participants if design.rows.has_sessions else None
        tests = [self._permute(one, design, removed) for one in every] if role != "importance" else []
        made = [test for test in tests if test is not None]
        scores = compute_scores(predictions, participants=people, seed=self.seed)
        return ModelResult(
            role=role,
            protocol="paper" if is_published else "nested",
            covariates=() if removed is None else design.covariate_names,
            predictions=predictions,
            scores=scores,
            permutation=average_tests(made) if made else None,
            seed_scores={
                score.metric: tuple(compute_seed_scores(predictions, score.metric).tolist())
                for score in scores
                if others
            },
        )

    def _probe_as_published(self, name: str, label: str, design: Design) -> Predictions:
        from bids_semantoks.analyses.published_probe import PublishedProbe, WindowTable, cross_validate_published  # noqa: PLC0415

        values, row_of = read_windows(design.rows, label)
        probe = PublishedProbe(
            WindowTable(name=name, values=values, row_of=row_of),
            design.target,
            device=str(self.encoder.frozen.device),
        )
        return cross_validate_published(probe, design.splits, seed=self.seed)

    def _mask_networks(self, design: Design, results: dict[str, ModelResult]) -> None:
        """Probe again with networks masked, by the default method, and compare with all networks."""
        whole = results[self.model]
        if whole.protocol != "nested":
            first, *others = self.find_models(design.rows)[self.model]
            whole = self.run(first, design, role="importance", others=others)
            results[name_whole(self.model)] = whole
        for name, features in self.masker.build_features(design.rows, self.model).items():
            result = self.run(features[0], design, role="importance", others=features[1:])
            comparison = compare_models(whole.predictions, result.predictions, find_main_metric(whole.predictions))
            results[name] = dataclasses.replace(result, comparison=comparison)
            LOGGER.info("%s by %s: %s", design.target.name, name, _describe(results[name]))

    def _finetune(self, design: Design, results: dict[str, ModelResult]) -> None:
        from bids_semantoks.analyses import finetuning  # noqa: PLC0415 - most calls do not train

        epochs, name = self.asked.finetune_epochs, finetuning.NAME
        results[name] = finetuning.finetune(self.encoder, design, epochs=epochs, seed=self.seed)
        self._compare(results, name)
        LOGGER.info("%s by %s: %s", design.target.name, name, _describe(results[name]))

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
