"""What sharing embeddings gives away: who people are, sex, age and site; and whom their encoder was pretrained on."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.analyses.design import COLOUR_NAMES, SITE_NAMES, Design, ProbePlan, build_design
from bids_semantoks.analyses.leakage import MIN_PAIRS, find_pairs, measure_retest
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import ModelResult
from bids_semantoks.analyses.rows import build_probe_rows, count_pretrained, read_features
from bids_semantoks.config import AppConfig, PretrainingConfig, ProbingConfig
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.people_tables import Key, parse_number
from bids_semantoks.inputs.phenotypes import MIN_CLASS, Column, build_phenotype, check_cells, find_columns
from bids_semantoks.outputs.group_tables import build_group_table, write_group_table
from bids_semantoks.outputs.group_words import METRIC_NAMES, describe_p, format_interval, format_number, format_share
from bids_semantoks.outputs.sidecars import find_versions
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics.reliability import RetestScore
from bids_semantoks.statistics.spans import Features

LOGGER = logging.getLogger("bids_semantoks")

#: Attributes that are looked for, and the names of their columns; the first that a table has is used.
ATTRIBUTES: Final = {
    "sex": tuple(name for name in COLOUR_NAMES if name.casefold() in ("sex", "gender")),
    "age": tuple(name for name in COLOUR_NAMES if name.casefold() == "age"),
    "site": SITE_NAMES,
}

_MOST_REPEATS: Final = 10  # more repetitions would narrow an interval less than people do

#: What no row of the table can know, in words for the page.
LIMITS: Final = (
    "People were identified as the nearest neighbour, by correlation, among the participants of this study. Better "
    "matching may find more of them. Among more people the share falls, which makes nobody anonymous.",
    "Only mean embeddings were tested. Windows, tokens, signals and connectivity in the same folder hold more; "
    "connectivity is known to identify people.",
    "Attributes were predicted by linear models from these participants alone. Nonlinear models, or models trained on "
    "more people, may predict more.",
    "Attributes other than sex, age and site, such as diagnoses, genotype or kinship, were not tested here; those with "
    "a column can be probed with --probe.",
    "Overlap with pretraining is found by participant labels: people with another label there are missed, and another "
    "study's participant with the same label is counted. Whether weights reveal whom they were trained on was not "
    "tested.",
)

Row = dict[str, object]


def plan_audit(config: AppConfig, stored: Sequence[StoredRun]) -> ProbePlan:
    """Find the columns of attributes before any work; those without a column are told as such in the table. Raises
    InputError where --phenotype, --id-column or --group-by name something that is not there."""
    asked = config.probing
    keys = sorted({(run.entities["sub"], run.entities.get("ses", "")) for run in stored})
    columns = find_columns(
        config.bids_dir,
        [asked.group_by] if asked.group_by else [],
        phenotype=asked.phenotype,
        optional=[name for names in ATTRIBUTES.values() for name in names],
        id_column=asked.id_column,
        keys=keys,
    )
    own = ProbingConfig(
        audit=True,
        group_by=asked.group_by,
        n_repeats=min(asked.n_repeats, _MOST_REPEATS),
        n_permutations=asked.n_permutations,
    )
    # What --scaling trains is no matter of the audit.
    alone = dataclasses.replace(config, probing=own, pretraining=PretrainingConfig())
    plan = ProbePlan(config=alone, columns=columns)
    found = {question: _find_attribute(plan, question) for question in ATTRIBUTES}
    named = [f"{question} ({_name_column(one) if one else 'no column'})" for question, one in found.items()]
    LOGGER.info("Attributes that are audited: %s.", ", ".join(named))
    return plan


def _find_attribute(plan: ProbePlan, question: str) -> Column | None:
    return next((plan.columns[name] for name in ATTRIBUTES[question] if name in plan.columns), None)


def _name_column(column: Column) -> str:
    return f"column {column.name} of {column.table}"


def audit(plan: ProbePlan, encoders: Sequence[RunEncoder], stored: Sequence[StoredRun]) -> Path:
    """Audit the embeddings of all readouts of the encoders in `stored` runs, and write ``group_audit.tsv``."""
    config = plan.config
    readouts = [one for encoder in encoders for one in encoder.readouts]
    labels = [one.loaded.name for one in readouts]
    designs = {question: _design_attribute(plan, stored, question) for question in ATTRIBUTES}
    people = {run.entities["sub"] for run in stored}
    rows = [*_identify(config, labels, stored), *(check_pretraining(one, people) for one in encoders)]
    for one in readouts:
        rows += _predict_attributes(Prober(plan, one.loaded.name, [one]), designs)
    for verdict in dict.fromkeys(row["verdict"] for row in rows):
        LOGGER.info("Audit: %s", verdict)
    facts = {
        "Encoder": {
            "Name": labels[0],
            "SHA256": encoders[0].loaded.sha256,
            "Description": encoders[0].loaded.description,
        },
        "Limits": list(LIMITS),
        "RandomSeed": config.running.random_seed,
        "SoftwareVersions": find_versions(),
    }
    return write_group_table(config.out_dir, "group_audit", build_group_table("group_audit", rows), facts)


def _build_row(question: str, model: str, verdict: str, n_participants: int, **found: object) -> Row:
    return {"question": question, "model": model, "n_participants": n_participants, "verdict": verdict, **found}


def _identify(config: AppConfig, labels: Sequence[str], stored: Sequence[StoredRun]) -> list[Row]:
    """Measure for how many scans the embedding of another session, or run, tells whose they are."""
    models = {label: label for label in labels}
    found = {(between, score.features): score for between, score in measure_retest(stored, models, config)}
    n_people = len({run.entities["sub"] for run in stored})
    rows = []
    for between, (first, _) in find_pairs(stored, config).items():
        for label in labels:
            score = found.get((between, label))
            if score is not None:
                rows.append(_build_identification(between, score))
                continue
            why = (
                f"Identification across {between} was not measured: {len(first.keys)} of {n_people} participants have "
                f"two {between}, fewer than {MIN_PAIRS}. Assume that embeddings identify people."
            )
            rows.append(_build_row("identification", label, why, len(first.keys), between=between))
    return rows


def _build_identification(between: str, score: RetestScore) -> Row:
    share = format_share(score.identification, score.ci_low, score.ci_high)
    chance, n = format_share(score.chance), score.n_participants
    found = f"Embeddings of {score.features} identify {share} of the scans of {n} participants across {between}"
    verdict = f"{found} (chance {chance}): treat them as personal data."
    if score.ci_low <= score.chance:
        verdict = (
            f"{found}, which is not distinguishable from chance ({chance}) here: no proof that they are anonymous."
        )
    values = {"value": score.identification, "ci_low": score.ci_low, "ci_high": score.ci_high, "chance": score.chance}
    return _build_row("identification", score.features, verdict, n, between=between, metric="identification", **values)


def check_pretraining(encoder: RunEncoder, people: set[str]) -> Row:
    """Build the row of whether `people` (labels without ``sub-``) were in the pretraining of an encoder."""
    name, n, known = encoder.loaded.name, len(people), count_pretrained(people, encoder)
    if encoder.loaded.is_random:
        verdict = f"{name} has random weights: it was pretrained on nobody."
    elif known is None:
        verdict = (
            f"Whether these {n} participants were in the pretraining of {name} cannot be checked: its weights do not "
            "list whom they were trained on."
        )
    elif known:
        verdict = (
            f"{known} of {n} participants were in the pretraining of {name}: what its weights learned derives from "
            "their data, whose terms of use decide whether the encoder may be shared."
        )
    else:
        verdict = f"None of the {n} participants is on the list of the pretraining of {name}."
    value = math.nan if known is None else known / n
    return _build_row("pretraining", name, verdict, n, metric="share", value=value)


def _design_attribute(plan: ProbePlan, stored: Sequence[StoredRun], question: str) -> tuple[Column, Design] | str:
    """Design the probe of an attribute; where there can be none, return the reason."""
    column = _find_attribute(plan, question)
    if column is None:
        return f"no column is named {', '.join(dict.fromkeys(name.lower() for name in ATTRIBUTES[question]))}"
    rows = build_probe_rows(plan.config, stored, has_sessions=column.has_sessions)
    try:
        column, kind = _prepare(column, rows.keys, question)
        own = dataclasses.replace(plan, columns={**plan.columns, column.name: column})
        return column, build_design(own, rows, build_phenotype(column, rows.keys, kind=kind))
    except InputError as error:
        return error.message.rstrip(".")


def _prepare(column: Column, keys: Sequence[Key], question: str) -> tuple[Column, str]:
    """Decide whether an attribute is a number, as age mostly is, and else drop classes too small for five folds."""
    known = column.find_known(keys)
    if question == "age":
        check_cells(column, keys)
        if None not in map(parse_number, known.values()):
            return column, "regression"
    counts = Counter(known.values())
    values = {key: text if counts[text or ""] >= MIN_CLASS else None for key, text in column.values.items()}
    return dataclasses.replace(column, values=values), "classification"


def _predict_attributes(prober: Prober, designs: Mapping[str, tuple[Column, Design] | str]) -> list[Row]:
    """Predict each attribute from the embeddings of one readout, read once for all that share rows."""
    rows, read = [], dict[tuple[Key, ...], tuple[Features, ...]]()
    for question, found in designs.items():
        if isinstance(found, str):
            verdict = f"Whether embeddings of {prober.model} give away {question} was not measured: {found}."
            rows.append(_build_row(question, prober.model, verdict, 0))
            continue
        column, design = found
        own = design.rows
        if own.keys not in read:
            read[own.keys] = read_features(own, prober.model, [prober.model])
        result = prober.run(read[own.keys], design, role="leakage")
        rows.append(_build_attribute(question, column, design, result))
    return rows


def _build_attribute(question: str, column: Column, design: Design, result: ModelResult) -> Row:
    score, test = result.main, result.permutation
    n = len(set(design.rows.participants[result.predictions.tested]))
    interval = format_interval(score.value, score.ci_low, score.ci_high)
    measured = f"{METRIC_NAMES[score.metric]} {interval}, chance {format_number(score.chance)}"
    measured += f", {describe_p(test.p_value)}" if test else ""
    what = f"Embeddings of {score.model}"
    verdict = {
        "above chance": f"{what} give away {question} ({measured}, {n} participants).",
        "not detected": f"{what} were not found to give away {question} ({measured}, {n} participants): anything "
        "inside the interval remains possible.",
        "inconclusive": f"{what} may give away {question}: interval and test disagree, or there was no test "
        f"({measured}, {n} participants).",
    }.get(result.verdict, f"Whether embeddings of {score.model} give away {question} could not be scored.")
    values = {"value": score.value, "ci_low": score.ci_low, "ci_high": score.ci_high, "chance": score.chance}
    p_value = test.p_value if test else math.nan
    found = {"column": _name_column(column), "metric": score.metric, **values, "p_value": p_value}
    return _build_row(question, score.model, verdict, n, **found)
