"""Predict phenotypes by all models, on the same participants and splits."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_semantoks.analyses.choose import name_twin
from bids_semantoks.analyses.design import Design, ProbePlan
from bids_semantoks.analyses.estimate import SharedFolds
from bids_semantoks.analyses.harmonising import describe_harmonised, harmonise_models
from bids_semantoks.analyses.predictors import Predict, build_predictors, find_removed, predict_together
from bids_semantoks.analyses.results import ModelResult, PhenotypeResult
from bids_semantoks.analyses.rows import (
    EmbeddingFeatures,
    Models,
    Rows,
    build_baselines,
    count_pretrained,
    read_features,
    read_readouts,
)
from bids_semantoks.disk import read_array
from bids_semantoks.embedding import RunEncoder, embed_mean
from bids_semantoks.errors import ConfigurationError
from bids_semantoks.files import hash_values, write_array
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.outputs.group_words import describe_test, name_added, split_prepared
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.records import Bools, Floats
from bids_semantoks.reports.group_phenotype import name_masked, name_whole
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.statistics.baselines import CONNECTIVITY, OF_SIGNALS
from bids_semantoks.statistics.metrics import (
    CLASS_METRICS,
    Score,
    compute_scores,
    compute_seed_scores,
    name_main_metric,
)
from bids_semantoks.statistics.predictions import Predictions, average_models, stack_seeds
from bids_semantoks.statistics.significance import (
    PermutationTest,
    average_tests,
    compare_models,
    compute_permutation_test,
    permute_scored_ridges,
    permute_target,
)
from bids_semantoks.statistics.spans import Features, TableFeatures

LOGGER = logging.getLogger("bids_semantoks")
_MIN_GROUPS: Final = 5  # with fewer exchangeable groups there are too few permutations

#: Roles without a permutation test: masks are compared with each other, training would be repeated each time, and the
#: mean of the predictions of several models has no features of its own.
_UNTESTED: Final = ("importance", "finetuned", "ensemble", "added")


class Prober:
    """Runner of models over phenotypes; features are built once for participants and once for sessions. Scores are
    averaged over `encoders` of several seeds with complete embeddings, as have `others`, which are compared with the
    first. Without encoders, only the nested protocol predicts."""

    def __init__(
        self, plan: ProbePlan, model: str, encoders: Sequence[RunEncoder] = (), others: Sequence[RunEncoder] = ()
    ) -> None:
        self.plan, self.asked, self.seed = plan, plan.config.probing, plan.config.running.random_seed
        self.model, self.progress = model, Progress("Probing")
        self.encoders, self.others = tuple(encoders), tuple(others)
        self.masker = NetworkMasker(self.encoders, plan.config.running.work_dir)
        self.baselines = () if "none" in self.asked.baselines else self.asked.baselines
        together = partial(predict_together, seed=self.seed, each=partial(self.progress.each, "fold"))
        self.sharing = SharedFolds([one for _, one in plan.designs], stays=self._is_kept)
        self.predictors: dict[str, Predict] = {}
        if encoders:
            self.predictors = build_predictors(plan.config, encoders[0], self.progress)
        self.predictors["nested"] = partial(self.sharing.compute, "predictions", together)
        self.readouts: tuple[str, ...] = ()  # labels of models that read the same encoder otherwise
        self.models: dict[tuple[tuple[str, str], ...], Models] = {}  # by the keys of their rows

    def find_models(self, rows: Rows) -> Models:
        """Find the features of all models except those that depend on the phenotype, building them only once."""
        if rows.keys not in self.models:
            LOGGER.info("Reading %d rows for %s.", len(rows.keys), ", ".join([self.model, *self.baselines]))
            models, self.readouts = self._build_models(rows, self.encoders, self.others, self.baselines)
            for one in self.plan.preparations:
                baselines = [name for name in self.baselines if name in OF_SIGNALS]
                models |= one.label(self._build_models(one.find_rows(rows), one.encoders, one.others, baselines)[0])
            self.models[rows.keys] = harmonise_models(self.plan, rows, models)
        return self.models[rows.keys]

    def _is_kept(self, features: Features) -> bool:
        """Return whether features stay for all phenotypes."""
        kept = (parts for models in self.models.values() for parts in models.values())
        return any(features is one for parts in kept for one in parts)

    def _build_models(
        self, rows: Rows, encoders: Sequence[RunEncoder], others: Sequence[RunEncoder], baselines: Sequence[str]
    ) -> tuple[Models, tuple[str, ...]]:
        """Build the models of one preparation, and list those that are further readouts."""
        twins = [name_twin(self.model, number) for number in range(len(encoders))]
        keeps_tables = self.asked.harmonize is not None
        models: Models = {}
        readouts: Models = {}
        for alike in (encoders, *([one] for one in others)):
            (name, own), *further = read_readouts(rows, alike, seed=self.seed).items()
            models[name] = own
            readouts |= dict(further)
        return models | readouts | build_baselines(rows, twins, baselines, keeps_tables=keeps_tables), tuple(readouts)

    def find_features(self, rows: Rows) -> tuple[Features, ...]:
        """Find the features of the encoder alone, which takes no signals to be read."""
        if rows.keys in self.models:
            return self.models[rows.keys][self.model]
        own = read_features(rows, self.model, [encoder.loaded.name for encoder in self.encoders])
        return harmonise_models(self.plan, rows, {self.model: own})[self.model]

    def probe(self, phenotype: Phenotype, design: Design) -> PhenotypeResult:
        """Predict one phenotype by all models, the encoder first."""
        models = self.find_models(design.rows) | self._build_own_models(design)
        results: dict[str, ModelResult] = {}
        n_masked = 2 * len(self.masker.networks) if self.asked.network_importance else 0
        total = len(models) + n_masked + self.asked.finetune
        for model, features in self.progress.each("model", models.items(), total=total):
            base, preparation = split_prepared(model)
            role = "readout" if model in self.readouts else "preparation" if preparation else "baseline"
            role = "encoder" if model in (self.model, *(one.loaded.name for one in self.others)) else role
            protocol = self.asked.protocol if isinstance(features[0], EmbeddingFeatures) else "nested"
            parts = self.predict(features, design, protocol)
            result = self.judge(parts, features, design, role=role, protocol=protocol)
            _add(results, model, result, results.get(base if preparation else self.model))
            if model == self.model and len(parts) > 1:
                joined = [average_models(parts, f"{model}Ensemble")]
                ensemble = self.judge(joined, features[:1], design, role="ensemble", protocol=protocol)
                _add(results, f"{model}Ensemble", ensemble, result)
        if self.asked.network_importance:
            self._mask_networks(design, results, total=total)
        tuned_features = [models[self.model][:1]] if self.asked.finetune else []
        for features in self.progress.each("model", tuned_features, total=total, before=total - 1):
            tuned = self.run(features, design, role="finetuned", protocol="finetune")
            _add(results, tuned.predictions.model, tuned, results[self.model])
        self._add_encoders(models, design, results)
        # Only the additions need the predictions of each seed.
        results = {name: dataclasses.replace(one, parts=()) for name, one in results.items()}
        tested = {str(p) for p in design.rows.participants[results[self.model].predictions.tested]}
        known = count_pretrained(tested, *self.encoders, *self.others)
        return PhenotypeResult(phenotype=phenotype, design=design, models=results, n_pretrained=known)

    def _build_own_models(self, design: Design) -> Models:
        """Build the models that depend on the phenotype: covariates alone, site alone."""
        models: Models = {}
        site, name = self.plan.site, design.target.name
        # A held-out site is unseen by every model, so site alone predicts nothing.
        is_known = bool(site) and site not in (name, self.asked.leave_out)
        if is_known and "site" in self.baselines:
            column = self.plan.columns[site]
            if design.rows.has_sessions or not column.has_sessions:
                # One indicator per site; rows without a site form one more.
                labels = [label or "" for label in column.find(design.rows.keys)]
                sites = sorted(set(labels))
                values = np.array([[float(label == one) for one in sites] for label in labels])
                models["site"] = (TableFeatures(name="site", values=values),)
        if "covariates" in self.baselines and design.covariates is not None:
            models["covariates"] = (TableFeatures(name="covariates", values=design.covariates),)
        return models

    def run(self, features: Sequence[Features], design: Design, *, role: str, protocol: str = "nested") -> ModelResult:
        """Predict by one model in a `role` of `ModelResult`, averaging scores over the features of all seeds."""
        parts = self.predict(features, design, protocol)
        return self.judge(parts, features, design, role=role, protocol=protocol)

    def predict(self, features: Sequence[Features], design: Design, protocol: str) -> list[Predictions]:
        """Predict by one model from the features of each seed."""
        seeds = self.progress.each("encoder", features) if len(features) > 1 else features
        return [self.predictors[protocol](one, design) for one in seeds]

    def judge(
        self, parts: Sequence[Predictions], features: Sequence[Features], design: Design, *, role: str, protocol: str
    ) -> ModelResult:
        """Score and test the predictions from the features of each seed, as those of one model."""
        predictions = stack_seeds(parts)
        test = partial(self._permute, is_nested=protocol == "nested")
        tests = [] if role in _UNTESTED else [self.sharing.compute("test", test, one, design) for one in features]
        made = [test for test in tests if test is not None]
        scores = self.score(predictions, design)
        return ModelResult(
            role=role,
            protocol=protocol,
            covariates=() if find_removed(features[0], design) is None else design.covariate_names,
            harmonised=describe_harmonised(features[0], self.asked.harmonize),
            predictions=predictions,
            scores=scores,
            permutation=average_tests(made) if made else None,
            seed_scores={
                score.metric: tuple(compute_seed_scores(predictions, score.metric).tolist())
                for score in scores
                if len(features) > 1
            },
            parts=tuple(parts),
        )

    def score(self, predictions: Predictions, design: Design) -> tuple[Score, ...]:
        """Score predictions by all metrics of their kind, and by those that the protocol is known by."""
        more = ("accuracy",) if self.asked.protocol == "brainmarks" and predictions.classes else ()
        metrics = (*more, *CLASS_METRICS) if more else ()
        return compute_scores(predictions, participants=design.rows.units, seed=self.seed, metrics=metrics)

    def _mask_networks(self, design: Design, results: dict[str, ModelResult], *, total: int) -> None:
        """Probe again with networks masked, by the default method, and compare with all networks."""
        whole = results[self.model]
        if whole.protocol != "nested":
            whole = self.run(self.find_models(design.rows)[self.model], design, role="importance")
            results[name_whole(self.model)] = whole
        masked = harmonise_models(self.plan, design.rows, self.masker.build_features(design.rows, self.model))
        before = total - 2 * len(self.masker.networks)
        before -= self.asked.finetune
        for name, features in self.progress.each("model", masked.items(), total=total, before=before):
            _add(results, name, self.run(features, design, role="importance"), whole)

    def _add_encoders(
        self, models: Mapping[str, Sequence[Features]], design: Design, results: dict[str, ModelResult]
    ) -> None:
        """Measure the added value of each encoder: the mean of its predictions and those of a baseline, compared with
        the baseline alone. Baselines are the first available kind of connectivity, and covariates. Not the kind that
        scored best, since selection by test scores would favour the baseline."""
        kinds = [name for name in CONNECTIVITY if name in results][:1]
        encoders = [name for name, result in results.items() if result.role == "encoder"]
        for base in [results[name] for name in (*kinds, "covariates") if name in results]:
            for encoder in encoders:
                name = name_added(base.predictions.model, encoder)
                parts = [average_models([base.parts[0], one], name) for one in results[encoder].parts]
                protocol = results[encoder].protocol
                added = self.judge(parts, models[encoder], design, role="added", protocol=protocol)
                comparison = compare_models(added.predictions, base.predictions, added.main.metric)
                _add(results, name, dataclasses.replace(added, comparison=comparison))

    def _permute(
        self, features: Features, designs: Sequence[Design], *, is_nested: bool
    ) -> list[PermutationTest | None]:
        """Test one model on designs that share folds, by their own splits where the ridge regression of the nested
        protocol made its scores."""
        first = designs[0]
        shared: dict[str, Any] = {"covariates": find_removed(features, first), "seed": self.seed}
        testable = [one for one in designs if self.asked.n_permutations and features.name != "chance" and _is_free(one)]
        # Only these models are ridge regressions that can be permuted on their own splits.
        ridges = [one for one in testable if is_nested and not one.target.is_class]
        columns = (permute_target(one.target, **self._find_labels(one), units=one.unit_groups) for one in ridges)
        scored = permute_scored_ridges(features, columns, first.splits, groups=first.groups, **shared)
        tests = {id(one): test for one, test in zip(ridges, scored, strict=True)}
        for one in testable:
            if id(one) not in tests:
                labels = self._find_labels(one) | shared
                tests[id(one)] = compute_permutation_test(features, one.target, groups=one.unit_groups, **labels)
        # Without exchangeable labels there is no null distribution.
        return [
            test if (test := tests.get(id(one))) is not None and np.ptp(np.append(test.null, test.value)) > 0 else None
            for one in designs
        ]

    def _find_labels(self, design: Design) -> dict[str, Any]:
        """Find how labels are permuted."""
        return {"n_permutations": self.asked.n_permutations, "blocks": design.blocks, "seed": self.seed}


def _is_free(design: Design) -> bool:
    """Return whether there are enough groups whose labels can be exchanged."""
    groups = design.unit_groups
    return groups is None or len(np.unique(groups[~np.isnan(design.target.values)])) >= _MIN_GROUPS


def _add(results: dict[str, ModelResult], name: str, result: ModelResult, other: ModelResult | None = None) -> None:
    """Compare a model with another, if there is one, and add it to the results."""
    metric = name_main_metric(is_class=bool(result.predictions.classes))
    if other is not None:
        comparison = compare_models(other.predictions, result.predictions, metric)
        result = dataclasses.replace(result, comparison=comparison)
    results[name] = result
    score = next(one for one in result.scores if one.metric == metric)
    test = f"; {describe_test(result.permutation)}" if result.permutation else ""
    LOGGER.info(
        "%s by %s: %s %.3f [%.3f, %.3f]%s",
        *(result.predictions.target, name, score.metric, score.value, score.ci_low, score.ci_high, test),
    )


class NetworkMasker:
    """Embedder of runs with each network masked, and with all others masked; each run once. Embeddings are kept in
    `work_dir` for later calls, without one in memory only."""

    def __init__(self, encoders: Sequence[RunEncoder], work_dir: Path | None) -> None:
        self.encoders, self.work_dir = encoders, work_dir
        self._known: dict[tuple[str, str], Floats] = {}

    @property
    def networks(self) -> tuple[str, ...]:
        """Networks of the encoder that the atlas has."""
        return tuple(self.encoders[0].frozen.networks)

    def build_features(self, rows: Rows, model: str) -> Models:
        """Build features by variant, one per encoder: each network alone, then all without each. Raises
        ConfigurationError if the encoder does not separate networks."""
        names = [name_masked(model, network, is_alone=alone) for alone in (True, False) for network in self.networks]
        tables = [self._embed_rows(rows, encoder) for encoder in self.encoders]  # (n, V, D) each
        return {
            name: tuple(TableFeatures(name=name, values=table[:, number]) for table in tables)
            for number, name in enumerate(names)
        }

    def _embed_rows(self, rows: Rows, encoder: RunEncoder) -> Floats:
        networks = encoder.frozen.networks
        own = np.stack(list(networks.values()))  # (networks, N)
        if len(own) < 2 or own.all(axis=1).any():
            raise ConfigurationError(
                f"--network-importance needs an encoder with at least two networks; {encoder.loaded.name} has "
                f"{', '.join(networks)} in one row of tokens.",
                hint="Remove the option.",
            )
        hidden = np.concatenate([~own, own])  # (V, N)
        start, n_runs, known = time.monotonic(), sum(map(len, rows.runs)), len(self._known)
        LOGGER.info("Masking networks: %d variants of %d runs by %s.", len(hidden), n_runs, encoder.loaded.name)
        table = []
        every = zip(rows.runs, rows.weights, strict=True)
        for runs, weights in Progress("Masking networks").each("row", every, total=len(rows.runs)):
            variants = [self._embed_run(run, encoder, hidden, rows.min_kept) for run in runs]  # (V, D) each
            table.append(np.average(variants, axis=0, weights=weights))
        seconds = time.monotonic() - start
        LOGGER.info("Masking networks took %.1f s for %d runs.", seconds, len(self._known) - known)
        return np.asarray(table, dtype=np.float64)

    def _embed_run(self, run: StoredRun, encoder: RunEncoder, hidden: Bools, min_kept: float | None) -> Floats:
        """Embed all variants of a run, mean over windows (V, D), or load them from the cache."""
        key = run.paths.stem, encoder.loaded.name
        if key in self._known:
            return self._known[key]
        decides = [encoder.settings, run.sidecar["TableSHA256"], run.paths.stem, hidden.tolist(), min_kept]
        path = self.work_dir / "masked" / f"{hash_values(decides)}.npy" if self.work_dir is not None else None
        if path is not None and path.is_file():
            self._known[key] = read_array(path)
        else:
            self._known[key] = embed_mean(run, encoder, min_kept=min_kept, hidden=hidden)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_array(path, self._known[key])
        return self._known[key]
