"""Targets, covariates, groups and splits of phenotypes, determined and checked in advance. Shape letters: n rows
(participants or sessions), c covariates."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.columns import (
    build_target,
    check_classes,
    check_columns,
    check_harmonised,
    check_together,
    convert_covariates,
    describe_kinds,
    name_groups,
)
from bids_semantoks.analyses.preparations import Preparation
from bids_semantoks.analyses.rows import MEASURES, Rows, build_probe_rows, compute_measure
from bids_semantoks.config import AppConfig, ProbingConfig
from bids_semantoks.errors import ConfigurationError, InputError
from bids_semantoks.inputs.phenotypes import Column, Phenotype, build_phenotype, find_columns, is_category
from bids_semantoks.outputs.features import describe_sessions
from bids_semantoks.outputs.group_tables import read_split_lines
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.records import Bools, Floats, Labels
from bids_semantoks.statistics.benchmark import build_benchmark_splits
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.splits import (
    Split,
    SplitRow,
    build_left_out_splits,
    build_published_splits,
    build_splits,
    list_used,
    read_split_table,
)

LOGGER = logging.getLogger("bids_semantoks")
_FORMS: Final = (str, str.upper, str.title)

#: Names of site columns.
_SITES: Final = ("site", "site_id", "scanner", "scanner_id", "center")
SITE_NAMES: Final = tuple(form(name) for name in _SITES for form in _FORMS)

_SPLITTERS: Final[dict[str, Callable[..., tuple[Split, ...]]]] = {
    "nested": build_splits,
    "paper": build_published_splits,
    "brainmarks": build_benchmark_splits,
}

#: Columns that colour the map of the embedding, if present.
COLOUR_NAMES: Final = tuple(form(name) for name in ("sex", "gender", "age") for form in _FORMS)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Design:
    """How one phenotype is predicted, whatever the model."""

    target: Target  # missing where a covariate is
    rows: Rows
    splits: tuple[Split, ...]  # the same for all models
    covariates: Floats | None  # (n, c) to be removed from the features
    covariate_names: tuple[str, ...]
    groups: Labels | None  # (n,) rows kept together
    unit_groups: Labels | None  # (n,) rows that exchange their labels together in permutations
    blocks: Labels | None = None  # (n,) labels are permuted within a block
    notes: tuple[str, ...] = ()  # who is excluded, and why
    # of the phenotype, the covariates and the column of groups: ``number`` or ``category, 3 levels``
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    # (n,) why a row is excluded; empty for rows that are used
    reasons: NDArray[np.str_] = dataclasses.field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    harmonised: str = ""  # column and method in words, and small sites; empty for none

    @property
    def known(self) -> Bools:
        """Rows (n,) with a value to predict."""
        return ~np.isnan(self.target.values)

    @property
    def covariate_kinds(self) -> str:
        """Covariates with their kinds, in words."""
        return ", ".join(f"{name} ({self.kinds[name]})" for name in self.covariate_names) or "none"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbePlan:
    """Phenotypes to be probed, checked before any work."""

    config: AppConfig
    columns: dict[str, Column]  # phenotypes, covariates, groups and, where present, site and columns to colour by
    site: str = ""  # column of the site; empty for none
    # lines of given splits: phenotype (empty for all), repetition, fold, participant, role
    given: tuple[tuple[str, int, int, str, str], ...] = ()
    designs: tuple[tuple[Phenotype, Design], ...] = ()  # of all phenotypes, in the requested order
    n_runs: int = 0  # that the designs were built from
    categories: frozenset[str] = frozenset()  # columns other than phenotypes that are used as categories
    warnings: tuple[str, ...] = ()  # about the requested columns
    refused: dict[str, str] = dataclasses.field(default_factory=dict)  # why a phenotype cannot be probed
    preparations: tuple[Preparation, ...] = ()  # further ones, whose models are compared

    def choose_part(self) -> ProbePlan:
        """Leave only the phenotype of --probe-part, if given: others that are alike would be predicted with it."""
        asked, part = self.config.probing, self.config.probing.probe_part
        own = asked.probe if part is None else asked.probe[max(part - 1, 0) : part]
        return dataclasses.replace(self, designs=tuple(one for one in self.designs if one[0].name in own))

    def find_labels(self, rows: Rows, name: str, phenotype: str) -> tuple[str | None, ...]:
        """Look up a column that groups or corrects, or else a measure of runs, as text, None where missing. Raises
        InputError for one value per session where the predicted phenotype has one per participant."""
        if name not in self.columns:
            return tuple(None if np.isnan(value) else f"{value:.9g}" for value in compute_measure(rows, name).tolist())
        column = self.columns[name]
        if column.has_sessions and not rows.has_sessions:
            raise InputError(
                f"Column {name} of {column.table} has one value per session, but {phenotype} has one per participant.",
                hint="Provide one value per participant in a --phenotype table, or use --sessions each.",
            )
        return column.find(rows.keys)


def plan_probes(config: AppConfig, stored: Sequence[StoredRun]) -> ProbePlan:
    """Check all requested probes in advance, and build the designs shared by all tests of a phenotype.
    Raises InputError if a column cannot be found or predicted, ConfigurationError for an option without effect."""
    asked = config.probing
    for option, column in (("--leave-out", asked.leave_out), ("--group-by", asked.group_by)):
        if column in asked.probe:
            raise InputError(
                f"{option} {column} separates the classes that --probe {column} would predict.",
                hint="Choose another column, or probe it in a separate call.",
            )
    numbers, extra = (*asked.covariate, *asked.harmonize_keep), asked.beside
    keys = sorted({(run.entities["sub"], run.entities.get("ses", "")) for run in stored})
    own = [name for name in dict.fromkeys((*numbers, *asked.strata)) if name in MEASURES]
    own = [name for name in own if name not in asked.probe]
    columns = find_columns(
        config.bids_dir,
        [name for name in dict.fromkeys([*asked.probe, *extra]) if name not in own],
        phenotype=asked.phenotype,
        optional=[*own, *SITE_NAMES, *COLOUR_NAMES],
        id_column=asked.id_column,
        keys=keys,
    )
    here = {run.entities["sub"] for run in stored}
    given = read_split_lines(asked.splits, here) if asked.splits else ()
    site = next((name for name in (asked.leave_out, asked.harmonize, *SITE_NAMES) if name in columns), None)
    extra = _check_measures(own, columns, stored, extra)
    plan = ProbePlan(
        config=config,
        columns=columns,
        site=site or "",
        given=tuple(given),
        categories=frozenset(name for name in extra if name not in numbers or is_category(columns[name], keys)),
        warnings=check_columns(columns, keys, asked, site=site or ""),
    )
    plan = _build_designs(plan, stored)
    _check_used(plan)
    return plan


def _check_measures(
    own: Sequence[str], columns: Mapping[str, Column], stored: Sequence[StoredRun], extra: Sequence[str]
) -> list[str]:
    """Say where the measures of runs among covariates and strata come from; return the `extra` names that are columns.
    Raises InputError if no run has the measure."""
    for name in own:
        if name in columns:
            LOGGER.info("Using the column %s of %s, not the quality measure of runs.", name, columns[name].table)
        elif all(MEASURES[name][0](run) is None for run in stored):
            raise InputError(
                f"{name} not found: no table has this column, and none of the {len(stored)} runs has this measure.",
                hint="Runs without confounds, and series from other pipelines, may lack it.",
            )
        else:
            LOGGER.info("Using the quality measure %s of each run; no column is needed.", name)
    return [name for name in extra if name in columns]


def revise_plan(plan: ProbePlan, config: AppConfig, stored: Sequence[StoredRun]) -> ProbePlan:
    """Adopt the configuration that names an encoder pretrained on the way; rebuild designs if runs are lost."""
    plan = dataclasses.replace(plan, config=config)
    return plan if len(stored) == plan.n_runs else _build_designs(plan, stored)


def _build_designs(plan: ProbePlan, stored: Sequence[StoredRun]) -> ProbePlan:
    asked, how, designs = plan.config.probing, plan.config.selection.sessions, []
    errors: dict[str, InputError] = {}
    for name in asked.probe:
        column = plan.columns[name]
        rows = build_probe_rows(plan.config, stored, has_sessions=column.has_sessions)
        try:
            phenotype = build_phenotype(column, rows.keys, kind=asked.probe_kind, n_bins=asked.n_bins)
            designs.append((phenotype, build_design(plan, rows, phenotype)))
        except InputError as error:
            errors[name] = error
            continue
        design = designs[-1][1]
        sentence = describe_sessions(stored, how) if how == "first" or not column.has_sessions else ""
        if sentence:
            LOGGER.info("%s: %s.", name, sentence)
        LOGGER.info(
            "%s: %d of %d %s with features are used; excluded: %s.",
            *(name, design.known.sum(), len(rows.keys), rows.kind, "; ".join(design.notes) or "nobody"),
        )
        if plan.config.running.dry_run:
            LOGGER.info("%s", describe_design(plan, design))
    kinds = {name: kind for _, design in designs for name, kind in design.kinds.items()}
    if not designs:
        raise next(iter(errors.values()))
    LOGGER.info("Column types: %s.", "; ".join(f"{name} ({kind})" for name, kind in kinds.items()))
    refused = {name: str(why) for name, why in errors.items()}
    for name, message in refused.items():
        LOGGER.error("%s cannot be probed (the others will be): %s", name, message)
    return dataclasses.replace(plan, designs=tuple(designs), n_runs=len(stored), refused=refused)


def _check_used(plan: ProbePlan) -> None:
    """Refuse options without effect on any phenotype: ConfigurationError."""
    asked, targets = plan.config.probing, [design.target for _, design in plan.designs]
    names = ", ".join(target.name for target in targets)
    if asked.n_bins and not any(target.n_bins for target in targets):
        raise ConfigurationError(
            f"--n-bins {asked.n_bins} has no effect: {names} {'has' if len(targets) == 1 else 'have'} classes, not "
            "continuous values.",
            hint="Remove the option.",
        )
    idle_strata = [name for name in asked.strata if all(target.name == name for target in targets)]
    if idle_strata:
        raise ConfigurationError(
            f"--strata {idle_strata[0]} has no effect: {idle_strata[0]} is the predicted phenotype.",
            hint="Choose another column.",
        )
    if "site" in asked.baselines and set(asked.baselines) != set(ProbingConfig().baselines):
        idle = "there is no site column" if not plan.site else ""
        if plan.site and plan.site == asked.leave_out:
            idle = f"with --leave-out {plan.site}, every test site is unseen"
        elif plan.site and all(target.name == plan.site for target in targets):
            idle = f"{plan.site} is the predicted phenotype"
        if idle:
            raise ConfigurationError(f"--baselines site has no effect: {idle}.", hint="Remove it.")


def describe_design(plan: ProbePlan, design: Design) -> str:
    """Describe what would be probed in one sentence, for a dry run."""
    asked, target, known = plan.config.probing, design.target, design.known
    kind = design.kinds[target.name]
    if target.is_class:
        counts = np.bincount(target.compute_labels(known)[known].astype(int))
        listed = ", ".join(f"{name} {count}" for name, count in zip(target.class_names, counts.tolist(), strict=True))
        kind = f"{kind}: {listed}"
    n_repeats = len({split.repetition for split in design.splits})
    baselines = [
        name
        for name in asked.baselines
        if name != "none"
        and (name != "covariates" or design.covariates is not None)
        and (name != "site" or plan.site not in ("", target.name, asked.leave_out))
    ]
    parts = [
        f"Would probe {target.name} ({kind}) from {plan.columns[target.name].table}: {known.sum()} {design.rows.kind}",
        f"out: {'; '.join(design.notes) or 'nobody'}",
        f"{len(design.splits)} splits in {n_repeats} repetition{'s' if n_repeats > 1 else ''}",
        f"protocol {asked.protocol}",
        f"covariates removed: {design.covariate_kinds}",
        f"baselines: {', '.join(baselines) or 'none'}",
        f"{asked.n_permutations} permutations",
        *([f"{1 + len(asked.replicates)} encoders averaged"] if asked.replicates else []),
        *(["networks masked one by one"] if asked.network_importance else []),
    ]
    return f"{'; '.join(parts)}."


def build_design(plan: ProbePlan, rows: Rows, phenotype: Phenotype) -> Design:
    """Choose rows, covariates, groups and splits of a phenotype; InputError if they are incompatible."""
    asked = plan.config.probing
    out = np.array([label is None for label in phenotype.labels])
    notes = [f"{int(out.sum())} without a value"] if out.any() else []
    names = tuple(name for name in asked.covariate if name != phenotype.name)
    cells = {name: plan.find_labels(rows, name, phenotype.name) for name in names}
    others = {name: plan.find_labels(rows, name, phenotype.name) for name in (asked.group_by, asked.leave_out) if name}
    ours = tuple(filter(None, (asked.harmonize, *asked.harmonize_keep)))
    sites = {name: plan.find_labels(rows, name, phenotype.name) for name in ours}
    left_out = others.get(asked.leave_out or "")
    needed = [*cells.values(), *sites.values(), *filter(None, (left_out,))]
    lacks = np.array([any(texts[i] is None for texts in needed) for i in range(len(rows.keys))], dtype=bool)
    beside = dict.fromkeys(filter(None, (*names, asked.leave_out, *ours)))
    if n_lacking := int((lacks & ~out).sum()):
        notes.append(f"{n_lacking} without a value of {', '.join(beside)}")
    usable = ~(out | lacks)
    reasons = np.where(out, f"no value of {phenotype.name}", np.where(lacks, "no value of a covariate or group", ""))
    described = {label for (label, _), text in plan.columns[phenotype.name].values.items() if text is not None}
    if n_others := len(described - set(rows.participants.tolist())):
        notes.append(f"{n_others} more in {phenotype.table} without runs here")
    target = build_target(phenotype, ~usable, n_bins=asked.n_bins)
    groups = _find_groups(plan, rows, phenotype.name)
    if left_out is not None:
        places = np.array([label or "" for label in left_out])
        check_together(places, rows, asked.leave_out or "", usable)
        splits = build_left_out_splits(target.compute_strata(), places)
        check_classes(target, splits, column=asked.leave_out or "", places=places.tolist())
        # With two sites only one is used for training, so inner folds can only be grouped by units that belong
        # together.
        blocks, unit_groups = places, groups
        groups = places if len(splits) > 2 else groups
    else:
        splits = _build_phenotype_splits(plan, target, rows, groups)
        if plan.given:
            notes += _describe_given(plan, target, rows, splits)
            used = np.isin(np.arange(len(reasons)), list_used(splits))
            reasons = np.where(used | (reasons != ""), reasons, "not in the given splits")
        blocks, unit_groups = None, groups
    return Design(
        target=target,
        rows=rows,
        splits=splits,
        covariates=convert_covariates(cells, usable, plan.categories) if names else None,
        covariate_names=names,
        groups=groups,
        blocks=blocks,
        unit_groups=unit_groups,
        notes=tuple(notes),
        reasons=reasons,
        harmonised=check_harmonised(asked, phenotype, sites, splits),
        kinds=describe_kinds(phenotype, cells | others, usable, plan.categories, n_bins=asked.n_bins),
    )


def _find_groups(plan: ProbePlan, rows: Rows, phenotype: str) -> Labels | None:
    """Find the group (n,) of each row, None where rows are free; InputError for a participant in several groups."""
    name = plan.config.probing.group_by
    if name is None:
        return rows.units
    groups = name_groups(plan.find_labels(rows, name, phenotype), rows)
    check_together(groups, rows, name, np.ones(len(groups), dtype=bool))
    return groups


def _build_phenotype_splits(plan: ProbePlan, target: Target, rows: Rows, groups: Labels | None) -> tuple[Split, ...]:
    """Use the given splits or draw them; InputError if given ones do not match or there are too few rows."""
    asked, seed = plan.config.probing, plan.config.running.random_seed
    strata = np.minimum(target.compute_strata(), 0) if asked.same_splits else target.compute_strata()
    if asked.protocol == "brainmarks" and not target.is_class:
        raise InputError(
            f"{target.name} is continuous, but --protocol brainmarks only predicts classes.",
            hint="Bin values with --n-bins, or use --protocol nested.",
        )
    if plan.given:
        lines = [line for line in plan.given if line[0] in ("", target.name)]
        if not lines:
            raise InputError(
                f"The splits table {asked.splits} has no rows for {target.name}.",
                hint="Remove the column phenotype to use them for all phenotypes.",
            )
        table = [SplitRow(*line[1:]) for line in lines]
        splits = read_split_table(table, rows.participants.tolist(), strata=strata, groups=groups)
        check_classes(target, splits)
        if asked.protocol == "paper" and any(not len(split.validation) for split in splits):
            raise InputError(
                f"The splits table {asked.splits} has no validation participants, which --protocol paper needs.",
                hint="Use --protocol nested.",
            )
        return splits
    build = _SPLITTERS[asked.protocol]
    try:
        splits = build(strata, groups=groups, n_repeats=asked.n_repeats, seed=seed)
    except InputError as error:
        # Splits see only numbers; with several phenotypes the user needs the name.
        raise InputError(f"{target.name} cannot be split: {error.message}", hint=error.hint) from error
    check_classes(target, splits)
    return splits


def _describe_given(plan: ProbePlan, target: Target, rows: Rows, splits: Sequence[Split]) -> list[str]:
    """Count the participants of the given splits that do not exist, and those that are not in the splits."""
    named = {line[3] for line in plan.given if line[0] in ("", target.name)}
    used = list_used(splits)
    n_absent = len(named - set(rows.participants.tolist()))
    n_unused = int((~np.isnan(target.values)).sum()) - len(used)
    return [
        *([f"{n_absent} of the given splits do not exist here"] if n_absent else []),
        *([f"{n_unused} are not in the given splits"] if n_unused else []),
    ]
