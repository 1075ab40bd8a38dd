"""Probes at group level: every model on the same people and splits, and what is found in tables and on a page.

Shape letters: n rows (participants or sessions).
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import to_json
from bids_semantoks.designs import Design, ProbePlan, build_design, convert_covariates
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.outputs.probes import ScoreRow, write_probe_tables
from bids_semantoks.outputs.provenance import find_versions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.probing.comparison import Comparison, adjust_holm, compare_models
from bids_semantoks.probing.linear import cross_validate
from bids_semantoks.probing.metrics import Score, compute_scores
from bids_semantoks.probing.permutation import PermutationTest, compute_permutation_test
from bids_semantoks.probing.spans import Features, TableFeatures
from bids_semantoks.probing.split_tables import build_split_table
from bids_semantoks.probing.splits import build_splits
from bids_semantoks.probing.targets import Predictions, Target, build_class_target
from bids_semantoks.rows import (
    Rows,
    build_models,
    build_rows,
    compute_motion,
    embed_by_twin,
    name_twin,
    read_windows,
)

LOGGER = logging.getLogger("bids_semantoks")

_MIN_GROUPS: Final = 5
_MIN_LEAKAGE: Final = 10
_FEW: Final = 50


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelResult:
    """What one model made of one phenotype.

    Parameters
    ----------
    role, protocol : str
        ``encoder``, ``baseline`` or ``leakage``; ``nested`` or ``paper``.
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
    """

    role: str
    protocol: str
    covariates: tuple[str, ...]
    predictions: Predictions
    scores: tuple[Score, ...]
    permutation: PermutationTest | None
    comparison: Comparison | None = None
    p_holm: float = float("nan")

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
    features : NDArray, float64, shape (n, D)
        Mean embedding of each participant.
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
    features: NDArray[np.float64]
    pretraining: str
    warnings: tuple[str, ...]


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
            results[model] = self._run(features, design, role="encoder" if model == self.model else "baseline")
            self._compare(results, model)
            LOGGER.info("%s by %s: %s", name, model, _describe(results[model]))
        tested = {str(p) for p in rows.participants[results[self.model].predictions.tested]}
        return PhenotypeResult(
            phenotype=phenotype,
            design=design,
            models=results,
            n_pretrained=count_pretrained(tested, self.encoder),
        )

    def _run(self, features: Features, design: Design, *, role: str) -> ModelResult:
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

    def measure_leakage(self, rows: Rows) -> tuple[tuple[str, ModelResult], ...]:
        """Predict motion and site from embeddings, as they are and with covariates removed.

        Parameters
        ----------
        rows : Rows
            Participants.

        Returns
        -------
        tuple of (str, ModelResult)
            What leaks, and how much.
        """
        targets = [("mean_fd", build_motion_target(rows)), (self.plan.site, build_site_target(self.plan, rows))]
        features = self.find_models(rows)[self.model]
        found = []
        for name, target in targets:
            if target is None:
                continue
            for names in dict.fromkeys(((), self.asked.covariate)):
                design = self._design_leakage(rows, target, names)
                if design is not None:
                    found.append((name, self._run(features, design, role="leakage")))
        return tuple(found)

    def _design_leakage(self, rows: Rows, target: Target, names: Sequence[str]) -> Design | None:
        columns = self.plan.columns
        if any(columns[name].has_sessions for name in names):
            return None
        cells = {name: columns[name].find(rows.keys) for name in names}
        usable = np.array([all(texts[i] is not None for texts in cells.values()) for i in range(len(rows.keys))])
        values = np.where(usable, target.values, np.nan)
        if not is_splittable(values, is_class=bool(target.classes)):
            return None
        target = dataclasses.replace(target, values=values)
        splits = build_splits(target.compute_strata(), n_repeats=self.asked.n_repeats, seed=self.seed)
        return Design(
            target=target,
            rows=rows,
            splits=splits,
            covariates=convert_covariates(cells, usable) if names else None,
            covariate_names=tuple(names),
            groups=None,
            blocks=None,
            unit_groups=None,
            notes=(),
        )


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


def _describe(result: ModelResult) -> str:
    score = find_score(result, find_main_metric(result.predictions))
    p = f", p = {result.p_value:.3g}" if result.permutation else ""
    return f"{score.metric} {score.value:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}]{p}"


def is_splittable(values: NDArray[np.float64], *, is_class: bool) -> bool:
    """Tell whether there is enough of a target to be predicted in five folds.

    Parameters
    ----------
    values : NDArray, float64, shape (n,)
        Class index or value; NaN where missing.
    is_class : bool
        Whether they are class indices.

    Returns
    -------
    bool
        Whether ten values vary, or two classes have five members each and no class has fewer.
    """
    known = values[~np.isnan(values)]
    if len(known) < _MIN_LEAKAGE:
        return False
    if not is_class:
        return bool(np.ptp(known) > 0)
    counts = np.unique(known, return_counts=True)[1]
    return len(counts) >= 2 and int(counts.min()) >= _MIN_GROUPS


def build_motion_target(rows: Rows) -> Target | None:
    """Take motion for what is predicted.

    Parameters
    ----------
    rows : Rows
        Participants.

    Returns
    -------
    Target or None
        Mean framewise displacement in mm; None where too little is known of it.
    """
    motion = compute_motion(rows)[0]
    return Target(name="mean_fd", values=motion) if is_splittable(motion, is_class=False) else None


def build_site_target(plan: ProbePlan, rows: Rows) -> Target | None:
    """Take the site for what is predicted.

    Parameters
    ----------
    plan : ProbePlan
        Knows its column.
    rows : Rows
        Participants.

    Returns
    -------
    Target or None
        Sites with fewer than five participants are left out; None for no column, or fewer than two sites.
    """
    if not plan.site or plan.columns[plan.site].has_sessions:
        return None
    labels = plan.columns[plan.site].find(rows.keys)
    large = {label for label in labels if label is not None and labels.count(label) >= _MIN_GROUPS}
    if len(large) < 2:
        return None
    return build_class_target(plan.site, [label if label in large else None for label in labels])


def count_pretrained(participants: set[str], encoder: RunEncoder) -> int | None:
    """Count the participants whom an encoder was pretrained on, by the hashes that it carries.

    Parameters
    ----------
    participants : set of str
        Labels without ``sub-``.
    encoder : RunEncoder
        What embedded.

    Returns
    -------
    int or None
        None where the weights say nothing about people.
    """
    if encoder.loaded.is_random:
        return 0
    known = encoder.loaded.details.get("participants")
    if not isinstance(known, Mapping) or not {"salt", "sha256"} <= set(known):
        return None
    hashes = set(known["sha256"])
    return sum(hashlib.sha256(f"{known['salt']}{label}".encode()).hexdigest() in hashes for label in participants)


def describe_pretraining(encoder: RunEncoder, n_pretrained: int | None, n_participants: int) -> str:
    """Say in words whether people were both pretrained and probed on.

    Parameters
    ----------
    encoder : RunEncoder
        What embedded.
    n_pretrained : int or None
        From `count_pretrained`.
    n_participants : int
        Participants tested.

    Returns
    -------
    str
        One or two sentences.
    """
    if encoder.loaded.is_random:
        return "The encoder has random weights: it was pretrained on nobody."
    if n_pretrained is None:
        return (
            f"{encoder.loaded.description} The weights do not say on whom they were pretrained: whether any "
            "participant here was among them is not known."
        )
    if n_pretrained:
        return (
            f"{n_pretrained} of {n_participants} participants here have labels that the encoder was pretrained on. It "
            "saw their signals, though never their phenotypes; scores may not hold for people it never saw."
        )
    return f"None of the {n_participants} participants here has a label that the encoder was pretrained on."


def run_probes(
    plan: ProbePlan,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: tuple[tuple[str, ...], tuple[str, ...]],
) -> ProbeResults:
    """Predict all phenotypes by all models, and write the tables.

    Parameters
    ----------
    plan : ProbePlan
        From `plan_probes`.
    encoder : RunEncoder
        What embedded.
    stored : sequence of StoredRun
        Runs with complete embeddings.
    atlas : tuple of (parcels, networks)
        Of the signals.

    Returns
    -------
    ProbeResults
        For the page.
    """
    prober = Prober(plan, encoder, stored)
    if "random" in prober.baselines:
        embed_by_twin(encoder, stored, *atlas)
    results = adjust_comparisons([prober.probe(name) for name in plan.config.probing.probe])
    rows = next((one.design.rows for one in results if not one.design.rows.has_sessions), None)
    if rows is None:
        rows = build_rows(stored, by_session=False)
    leakage = prober.measure_leakage(rows)
    features = prober.find_models(rows)[prober.model]
    assert isinstance(features, TableFeatures)
    warnings = [warning for one in results for model in one.models.values() for warning in model.predictions.warnings]
    n_people = len(set(rows.participants))
    if n_people < _FEW:
        warnings.insert(0, f"{n_people} participants are few: intervals are wide, and a single person can move scores.")
    known = count_pretrained(set(map(str, rows.participants)), encoder)
    found = ProbeResults(
        plan=plan,
        model=prober.model,
        phenotypes=tuple(results),
        leakage=leakage,
        rows=rows,
        features=np.asarray(features.values, dtype=np.float64),
        pretraining=describe_pretraining(encoder, known, n_people),
        warnings=tuple(warnings),
    )
    write_results(found, encoder)
    return found


def adjust_comparisons(results: Sequence[PhenotypeResult]) -> list[PhenotypeResult]:
    """Adjust the p values of comparisons with each baseline over phenotypes.

    Parameters
    ----------
    results : sequence of PhenotypeResult
        All of a call.

    Returns
    -------
    list of PhenotypeResult
        With ``p_holm``.
    """
    adjusted = [dict(one.models) for one in results]
    for name in dict.fromkeys(name for models in adjusted for name in models):
        having = [(models, models[name].comparison) for models in adjusted if name in models]
        compared = [(models, comparison) for models, comparison in having if comparison is not None]
        p_values = adjust_holm([comparison.p_value for _, comparison in compared])
        for (models, _), p_value in zip(compared, p_values, strict=True):
            models[name] = dataclasses.replace(models[name], p_holm=float(p_value))
    return [dataclasses.replace(one, models=models) for one, models in zip(results, adjusted, strict=True)]


def write_results(results: ProbeResults, encoder: RunEncoder) -> Path:
    """Write scores, predictions and splits.

    Parameters
    ----------
    results : ProbeResults
        All of a call.
    encoder : RunEncoder
        What embedded.

    Returns
    -------
    Path
        ``OUT_DIR/group_probe.tsv``.
    """
    config = results.plan.config
    scores: list[ScoreRow] = []
    for one in results.phenotypes:
        for model in one.models.values():
            scores += _build_score_rows(one.phenotype.name, model, one.design.rows, one.n_pretrained)
    known = count_pretrained(set(map(str, results.rows.participants)), encoder)
    for name, model in results.leakage:
        scores += _build_score_rows(name, model, results.rows, known)
    facts = {
        "Encoder": {"Name": results.model, "SHA256": encoder.loaded.sha256, "Description": encoder.loaded.description},
        "Pretraining": results.pretraining,
        "Settings": to_json(config)["probing"],
        "RandomSeed": config.running.random_seed,
        "Out": {one.phenotype.name: list(one.design.notes) for one in results.phenotypes},
        "Tables": {one.phenotype.name: one.phenotype.table for one in results.phenotypes},
        "Warnings": list(results.warnings),
        "SoftwareVersions": find_versions(),
    }
    write_probe_tables(
        config.out_dir,
        scores=scores,
        predictions=_list_predictions(results.phenotypes),
        splits=_list_splits(results.phenotypes),
        facts=facts,
    )
    return config.out_dir / "group_probe.tsv"


def _build_score_rows(name: str, result: ModelResult, rows: Rows, n_pretrained: int | None) -> list[ScoreRow]:
    predictions, compared = result.predictions, result.comparison
    n_participants = len(set(rows.participants[predictions.tested]))
    lines = []
    for score in result.scores:
        extra: dict[str, float] = {}
        if compared is not None and compared.metric == score.metric:
            extra = {
                "difference": compared.difference,
                "difference_low": compared.ci_low,
                "difference_high": compared.ci_high,
                "difference_p": compared.p_value,
                "difference_p_holm": result.p_holm,
            }
        lines.append(
            ScoreRow(
                phenotype=name,
                kind="classification" if predictions.classes else "regression",
                protocol=result.protocol,
                model=score.model,
                metric=score.metric,
                value=score.value,
                ci_low=score.ci_low,
                ci_high=score.ci_high,
                p_value=result.p_value,
                chance=score.chance,
                n_participants=n_participants,
                n_rows=score.n_rows,
                role=result.role,
                covariates=", ".join(result.covariates),
                n_repeats=predictions.n_train.shape[0],
                n_folds=predictions.n_train.shape[1],
                n_pretrained=n_pretrained,
                **extra,
            )
        )
    return lines


def _list_predictions(results: Sequence[PhenotypeResult]) -> Iterator[tuple[object, ...]]:
    for one in results:
        for model, result in one.models.items():
            predictions = result.predictions
            truth, scores, n_tests = predictions.average()
            classes = predictions.classes
            shown = [(1, classes[1])] if len(classes) == 2 else list(enumerate(classes or [""]))
            for row in np.flatnonzero(predictions.tested):
                label, session = one.design.rows.keys[row]
                names = (f"sub-{label}", f"ses-{session}" if session else "")
                for index, name in shown:
                    what: tuple[object, object] = (float(truth[row]), float(scores[row, 0]))
                    if classes:
                        what = classes[int(truth[row])], classes[int(scores[row].argmax())]
                    score = float(scores[row, index])
                    yield (one.phenotype.name, model, *names, *what, name, score, int(n_tests[row]))


def _list_splits(results: Sequence[PhenotypeResult]) -> Iterator[tuple[object, ...]]:
    for one in results:
        for row in build_split_table(one.design.splits, one.design.rows.participants.tolist()):
            yield (one.phenotype.name, row.repetition, row.fold, f"sub-{row.participant}", row.role)
