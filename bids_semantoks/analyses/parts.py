"""Results of single phenotypes, each from a call of its own (--probe-part), for the call that joins them. A part is
identified by the hash of everything that determines its results, so that results for other participants, signals,
encoders or options are never used."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.analyses.design import Design
from bids_semantoks.analyses.harmonising import list_sites
from bids_semantoks.analyses.probe import Prober
from bids_semantoks.analyses.results import ModelResult, PhenotypeResult
from bids_semantoks.config import to_json
from bids_semantoks.embedding import RunEncoder
from bids_semantoks.files import hash_values, open_atomic
from bids_semantoks.inputs.phenotypes import Phenotype
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.statistics.metrics import Score
from bids_semantoks.statistics.predictions import DecisionValues, Predictions
from bids_semantoks.statistics.significance import Comparison, PermutationTest
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")

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
