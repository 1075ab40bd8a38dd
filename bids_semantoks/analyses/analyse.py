"""The analyses that one call requests (phenotypes, task blocks, scaling): all checked first, then run, or joined from
the results of calls with --probe-part."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.audit import audit, plan_audit
from bids_semantoks.analyses.choose import build_twin, embed_others, embed_stored, load_replicates, name_twin
from bids_semantoks.analyses.design import Design, ProbePlan, plan_probes, revise_plan
from bids_semantoks.analyses.estimate import check_resources, choose_fold_threads, list_widths
from bids_semantoks.analyses.frames import describe_results, write_results
from bids_semantoks.analyses.harmonising import list_sites, measure_confounders
from bids_semantoks.analyses.leakage import measure_leakage, measure_retest, score_strata
from bids_semantoks.analyses.preparations import (
    describe_preparations,
    find_unshared,
    keep_shared,
    load_encoders,
    open_preparations,
)
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import (
    ModelResult,
    People,
    PhenotypeResult,
    ProbeResults,
    adjust_comparisons,
    find_lost,
)
from bids_semantoks.analyses.rows import build_rows, count_pretrained, describe_pretraining
from bids_semantoks.analyses.saving import save_predictors
from bids_semantoks.analyses.scaling import ScalingPlan, measure_scaling, plan_scaling
from bids_semantoks.analyses.task_blocks import BlockPlan, plan_blocks, probe_blocks
from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.embedding import AtlasNames, RunEncoder
from bids_semantoks.files import hash_values, open_atomic
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.outputs.group_tables import ProbeTables
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.reports.group_page import draw_group_page
from bids_semantoks.reports.reporting import write_stored_methods
from bids_semantoks.statistics.metrics import Score
from bids_semantoks.statistics.predictions import DecisionValues, Predictions
from bids_semantoks.statistics.significance import Comparison, PermutationTest
from bids_semantoks.statistics.splits import use_threads
from bids_semantoks.version import __version__

#: Records in a file, by name.
_KINDS: Final = (Comparison, DecisionValues, ModelResult, PermutationTest, Predictions, Score)
_RECORDS: Final = {kind.__name__: kind for kind in _KINDS}

#: Options that name phenotypes, where what they lead to counts, or ask for something else.
_CHOICES: Final = ("probe", "probe_part", "strata", "audit")


def find_part(prober: Prober, phenotype: Phenotype, design: Design) -> Path:
    """Return the path of the results of a phenotype, ``OUT_DIR/logs/probes/parts/<hash>.npz``."""
    config, site = prober.plan.config, prober.plan.site
    asked = {key: value for key, value in (to_json(config)["probing"] or {}).items() if key not in _CHOICES}
    runs = [_list_signals(own) for own in design.rows.runs]
    arrays = [design.target.values, design.covariates, design.groups, design.blocks, design.unit_groups]
    arrays += [part for split in design.splits for part in (split.train, split.test, split.validation)]
    decides = {
        "version": __version__,
        "probing": asked,
        "seed": config.running.random_seed,
        "encoders": _list_readouts((*prober.encoders, *prober.others)),
        "preparations": [
            (one.name, _list_readouts((*one.encoders, *one.others)), _list_signals(one.stored))
            for one in prober.plan.preparations
        ],
        "phenotype": [phenotype.name, phenotype.table, phenotype.kind],
        "target": [design.target.classes, design.target.n_bins, design.covariate_names],
        "splits": [(split.repetition, split.fold) for split in design.splits],
        "rows": [design.rows.keys, runs, design.rows.min_kept],
        "site": prober.plan.columns[site].find(design.rows.keys) if site else None,
        "harmonised": list_sites(prober.plan, design.rows),
        "arrays": [None if one is None else _hash_array(one) for one in arrays],
    }
    return config.out_dir / "logs" / "probes" / "parts" / f"{hash_values(decides)[:32]}.npz"


def _list_signals(runs: Iterable[StoredRun]) -> list[tuple[object, ...]]:
    return [(run.paths.stem, run.sidecar["TableSHA256"], run.sidecar["MeanFramewiseDisplacement"]) for run in runs]


def _list_readouts(encoders: Iterable[RunEncoder]) -> list[tuple[object, ...]]:
    return [(one.loaded.name, one.settings) for encoder in encoders for one in encoder.readouts]


def _hash_array(values: NDArray[Any]) -> str:
    content = "\n".join(map(str, values.tolist())).encode() if values.dtype.kind in "OU" else values.tobytes()
    return f"{values.shape} {hashlib.sha256(content).hexdigest()}"


def write_part(path: Path, result: PhenotypeResult) -> None:
    """Write the results of all models for a phenotype."""
    arrays: list[NDArray[Any]] = []
    values = _pack({"models": result.models, "n_pretrained": result.n_pretrained}, arrays)
    named = {f"array{number}": values for number, values in enumerate(arrays)}
    with open_atomic(path) as file:
        np.savez_compressed(file, allow_pickle=False, values=np.array(json.dumps(values)), **named)


def read_part(path: Path, phenotype: Phenotype, design: Design) -> PhenotypeResult | None:
    """Read the results of all models for a phenotype; None if there are none, or the file is damaged."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = _unpack(json.loads(str(arrays["values"])), arrays)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        LOGGER.warning("%s is damaged; probing %s again: %s", path, phenotype.name, error)
        return None
    return PhenotypeResult(phenotype=phenotype, design=design, **found)


def _pack(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """Turn records into plain values, which refer to `arrays` by number."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"record": type(value).__name__, "values": _pack(fields, arrays)["values"]}
    if isinstance(value, dict):
        return {"values": {key: _pack(one, arrays) for key, one in value.items()}}
    if isinstance(value, list | tuple):
        return [_pack(one, arrays) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, arrays: Any) -> Any:
    """Restore records from the result of `_pack`; their lists are tuples."""
    if isinstance(value, list):
        return tuple(_unpack(one, arrays) for one in value)
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[f"array{value['array']}"]
    values = {key: _unpack(one, arrays) for key, one in value["values"].items()}
    return _RECORDS[value["record"]](**values) if "record" in value else values


def probe_all(prober: Prober) -> list[PhenotypeResult]:
    """Probe all phenotypes but those that other calls probed, whose results are taken."""
    designs = prober.plan.designs
    found = [read_part(find_part(prober, *both), *both) for both in designs]
    prober.sharing.designs = [design for (_, design), one in zip(designs, found, strict=True) if one is None]
    results = [
        one or prober.probe(phenotype, design)
        for one, (phenotype, design) in prober.progress.each("phenotype", list(zip(found, designs, strict=True)))
    ]
    if n_found := sum(one is not None for one in found):
        LOGGER.info("%d of %d phenotypes were probed by other calls.", n_found, len(results))
    return results


def keep_parts(prober: Prober) -> None:
    """Probe the phenotypes of the plan and keep their results for `probe_all`."""
    for phenotype, design in prober.plan.designs:
        if not (path := find_part(prober, phenotype, design)).is_file():
            write_part(path, prober.probe(phenotype, design))
            LOGGER.info("%s: %s", phenotype.name, path)


def remove_parts(prober: Prober, results: Iterable[PhenotypeResult]) -> None:
    """Remove results that are now in the tables."""
    for one in results:
        with contextlib.suppress(OSError):
            find_part(prober, one.phenotype, one.design).unlink(missing_ok=True)


LOGGER = logging.getLogger("bids_semantoks")
_FEW: Final = 50  # below this number of participants the page warns of wide intervals


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CallPlan:
    """Plans of a call, None if not requested."""

    probes: ProbePlan | None
    blocks: BlockPlan | None
    scaling: ScalingPlan | None
    audit: ProbePlan | None

    @property
    def n_refused(self) -> int:
        """Phenotypes that cannot be probed."""
        return len(self.probes.refused) if self.probes is not None else 0

    def check_resources(self, atlas: AtlasNames, encoder: RunEncoder | None, others: Sequence[RunEncoder] = ()) -> None:
        """Log what the probes take, before hours of embedding or training: ResourceError for what cannot fit. An
        encoder that is still to be trained (None) is taken to be as wide as the published one."""
        if self.probes is not None:
            check_resources(self.probes, len(atlas[0]), list_widths(encoder, others))


def plan_call(
    config: AppConfig, chosen: Sequence[StoredRun], task_runs: Sequence[StoredRun], atlas: AtlasNames
) -> CallPlan:
    """Check everything in advance; features come from `chosen`, events from `task_runs`. Raises SemantoksError."""
    asked = config.probing
    preparations = open_preparations(config, chosen) if asked.probe or asked.task_blocks else ()
    probes = plan_probes(config, keep_shared(chosen, preparations)) if asked.probe else None
    if probes is not None:
        preparations = tuple(load_encoders(config, one) for one in preparations)
        probes = dataclasses.replace(probes, preparations=preparations)
    plan = CallPlan(
        probes=probes,
        blocks=plan_blocks(config, task_runs) if asked.task_blocks else None,
        scaling=plan_scaling(config, chosen, atlas) if asked.scaling else None,
        audit=plan_audit(config, chosen) if asked.audit else None,
    )
    if config.pretraining.pretrain:
        plan.check_resources(atlas, None)
    return plan


def run_call(
    plan: CallPlan,
    config: AppConfig,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: AtlasNames,
    *,
    left_out: Mapping[str, tuple[str, str]],
    others: Sequence[RunEncoder] = (),
) -> int:
    """Probe, write all tables and draw the group page; `config` names the encoder pretrained on the way, if any;
    `left_out` are runs that the limits of the call leave out, reason and message by stem.
    Returns how many phenotypes were refused."""
    further = plan.probes.preparations if plan.probes is not None else ()
    whole = stored
    left_out = {**left_out, **find_unshared(stored, further)}
    stored = keep_shared(stored, further)
    # Phenotypes first: their tables are kept if a long training is stopped.
    probes = revise_plan(plan.probes, config, stored) if plan.probes is not None else None
    tables = None
    if probes is not None:
        prober = prepare_probes(probes, encoder, stored, atlas, others=others)
        n_threads = choose_fold_threads(prober.plan, len(atlas[0]), list_widths(encoder, others))
        if config.probing.probe_part is not None:
            with use_threads(n_threads):
                keep_parts(prober)
            return 0
        tables = run_probes(prober, encoder, stored, n_threads=n_threads)
        write_stored_methods(
            *(config, (encoder, *others), stored, left_out),
            results=describe_results(tables),
            preparations=describe_preparations(stored, further),
        )
        LOGGER.info("Probes: %s", draw_group_page(config, tables))
    if plan.audit is not None:
        LOGGER.info("Audit: %s", audit(plan.audit, (encoder, *others), whole))
    if plan.blocks is not None:
        LOGGER.info("Blocks: %s", probe_blocks(config, plan.blocks, encoder))
    if plan.scaling is not None and probes is not None:
        LOGGER.info("Scaling: %s", measure_scaling(probes, plan.scaling, atlas))
    if tables is None or (plan.audit, plan.blocks, plan.scaling) != (None, None, None):
        draw_group_page(config, tables)
    return len(probes.refused) if probes is not None else 0


def prepare_probes(
    plan: ProbePlan,
    encoder: RunEncoder,
    stored: Sequence[StoredRun],
    atlas: AtlasNames,
    *,
    others: Sequence[RunEncoder] = (),
) -> Prober:
    """Embed `stored` runs by all other encoders that probes need, where they have complete embeddings by the encoder
    and by the `others` that are compared with it. With --probe-part, only one phenotype is left to probe."""
    config, plan = plan.config, plan.choose_part()
    replicates = load_replicates(config, encoder, atlas)
    embed_others(stored, replicates, config.running)
    prober = Prober(plan, encoder.loaded.name, (encoder, *replicates), others)
    if "random" in prober.baselines:
        for number in range(len(prober.encoders)):
            twin = build_twin(encoder, number)
            embed_stored(stored, twin, why="with random weights for comparison", running=config.running)
    return prober


def run_probes(prober: Prober, encoder: RunEncoder, stored: Sequence[StoredRun], *, n_threads: int) -> ProbeTables:
    """Predict all phenotypes by all models, `n_threads` folds at a time, and write the tables."""
    plan, config = prober.plan, prober.plan.config
    with use_threads(n_threads):
        phenotypes = adjust_comparisons(probe_all(prober))
    rows = next((one.design.rows for one in phenotypes if not one.design.rows.has_sessions), None)
    if rows is None:
        rows = build_rows(stored, by_session=False, min_kept=config.min_kept, running=config.running)
    with use_threads(n_threads):
        leakage = measure_leakage(prober, rows)
    n_people = len(set(rows.participants))
    known = count_pretrained(set(map(str, rows.participants)), *prober.encoders, *prober.others)
    seed, lost = config.running.random_seed, find_lost(config.out_dir)
    for one in plan.preparations:
        lost |= dict.fromkeys(one.absent, f"no signals in the preparation {one.name}")
    compared = {one.loaded.name: one.loaded.name for one in prober.others}
    compared |= {"random": name_twin(prober.model)} if "random" in prober.baselines else {}
    found = ProbeResults(
        plan=plan,
        model=prober.model,
        phenotypes=tuple(phenotypes),
        people=tuple(People(plan, phenotype, design, lost) for phenotype, design in plan.designs),
        leakage=leakage,
        rows=rows,
        strata=tuple(
            row
            for one in phenotypes
            for find in (score_strata, measure_confounders)
            for row in find(plan, prober.model, one, seed=seed)
        ),
        retest=tuple(measure_retest(stored, {prober.model: prober.model, **compared}, config, prober.baselines)),
        networks=prober.masker.networks if config.probing.network_importance else (),
        n_pretrained=known,
        pretraining=describe_pretraining(encoder, known, n_people),
        warnings=(
            *_list_warnings(phenotypes, n_people),
            *(f"{name} was not probed: {why}" for name, why in plan.refused.items()),
            *plan.warnings,
        ),
    )
    tables = write_results(found, stored, encoder)
    if config.probing.save_predictor is not None:
        save_predictors(prober, (encoder, *prober.others), phenotypes)
    remove_parts(prober, phenotypes)
    return tables


def _list_warnings(phenotypes: Sequence[PhenotypeResult], n_people: int) -> tuple[str, ...]:
    results = [result for one in phenotypes for result in one.models.values() if result.role != "importance"]
    warnings = [warning for result in results for warning in result.predictions.warnings]
    few = f"{n_people} participants are few: intervals are wide, and single participants can affect scores."
    return (few, *warnings) if n_people < _FEW else tuple(warnings)
