"""Paths of a run's signals, embedding and status; write them and read them back."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import DERIVED_ENTITIES, TABLE_ENTITIES, format_label, parse_entities
from bids_semantoks.files import read_object, read_table, write_json, write_table
from bids_semantoks.outputs.connectivity import find_forms, write_connectivity, write_coverage
from bids_semantoks.outputs.sidecars import (
    build_uri,
    check_table,
    describe_files,
    is_made_alike,
    is_sidecar,
    read_status,
)
from bids_semantoks.records import Atlas, ParcelSignals, Run

LOGGER = logging.getLogger("bids_semantoks")
_SIGNALS_ENDING = "_stat-mean_timeseries.json"
_FORMER_STATUSES = "runs"  # folder in ``logs`` where versions before 0.2 kept the statuses of all participants

#: Entities that `build_stem` places itself or drops, after those of the source; a hemisphere stays with the source.
_OWN = (DERIVED_ENTITIES | TABLE_ENTITIES) - {"hemi"}


class _Output:
    """An output of a run, by the ending of its name, in which the encoder's label may stand."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def __get__(self, paths: OutputPaths, _: type[OutputPaths] | None = None) -> Path:
        return paths.file(self.ending.format(model=paths.model))


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputPaths:
    """Output paths of one run, atlas and encoder; sidecars are written last."""

    out_dir: Path
    directory: Path  # OUT_DIR/sub-L/[ses-L/]func
    stem: str  # from `build_stem`
    model: str  # encoder label; empty if only signals are written

    signals = _Output("stat-mean_timeseries.tsv")  # table of cleaned signals
    signals_sidecar = _Output("stat-mean_timeseries.json")
    raw = _Output("stat-mean_desc-raw_timeseries.tsv")  # table of signals before denoising
    coverage = _Output("stat-coverage_bold.tsv")  # table of the share of each parcel that has data
    embedding = _Output("desc-{model}_embedding.tsv")  # table of window embeddings
    embedding_sidecar = _Output("desc-{model}_embedding.json")
    vectors = _Output("desc-{model}_embedding.npy")  # array of window embeddings that are too wide for the table
    tokens = _Output("desc-{model}_tokens.npy")  # array of output tokens

    def file(self, ending: str) -> Path:
        """Return the path of the output whose name ends in ``_<ending>``."""
        return self.directory / f"{self.stem}_{ending}"

    def connectivity(self, form: str) -> Path:
        """Correlations between parcels, as ``tsv`` or ``npy``."""
        return self.file(f"stat-pearsoncorrelation_relmat.{form}")

    @property
    def participant_folder(self) -> str:
        """Name of the participant's folder, ``sub-L``; labels may contain underscores."""
        return self.directory.relative_to(self.out_dir).parts[0]

    def log(self, ending: str) -> Path:
        """Return the path of the record about this run and encoder whose name ends in ``_<ending>``."""
        label = f"_desc-{self.model}" if self.model else ""
        return self.out_dir / "logs" / self.participant_folder / f"{self.stem}{label}_{ending}"

    @property
    def status(self) -> Path:
        """Status record of the run."""
        return self.log("status.json")

    @property
    def qc(self) -> Path:
        """Record of the run's quality."""
        return self.log("qc.json")

    @property
    def page_data(self) -> Path:
        """Data for the report of the run."""
        return self.out_dir / "logs" / self.participant_folder / f"{self.stem}_page.json.gz"


def build_paths(out_dir: Path, run: Run, atlas: str, model: str) -> OutputPaths:
    """Build the output paths of a run; `model` is empty if only signals are written."""
    directory = build_directory(out_dir, dict(run.entities))
    return OutputPaths(out_dir=out_dir, directory=directory, stem=build_stem(run, atlas), model=model)


def write_signals(
    paths: OutputPaths,
    atlas: Atlas,
    signals: ParcelSignals,
    sidecar: dict[str, Any],
    *,
    save_raw: bool,
    connectivity: str = "tsv",
    show: Callable[[], Sequence[Path]] = tuple,
) -> dict[str, Any]:
    """Write signals, coverage and connectivity of a run, and the report data written by `show`; the sidecar is written
    last and marks all of them as complete. Return its content. `sidecar` must have ``Settings`` and ``Inputs``;
    `save_raw` adds the signals before denoising; `connectivity` is ``tsv``, ``npy`` or ``none``."""
    remove_signals(paths, settings=sidecar["Settings"], inputs=sidecar["Inputs"])
    write_table(paths.signals, atlas.parcels, signals.values)
    files = [paths.signals]
    if save_raw:
        write_table(paths.raw, atlas.parcels, signals.raw)
        raw_sidecar = {**sidecar, "Description": "Mean signal of each parcel before denoising, in input units."}
        write_json(paths.raw.with_suffix(".json"), raw_sidecar | {"Denoising": None})
        files.append(paths.raw)
    else:
        paths.raw.unlink(missing_ok=True)
    write_coverage(paths.coverage, atlas, signals, sidecar)
    sidecar_of_forms, *forms = find_forms(matrix := paths.connectivity(connectivity))
    # Files that will be rewritten are kept until then: another process may have just written them.
    _remove(*(one for one in forms if one != matrix))
    if connectivity == "none":
        _remove(sidecar_of_forms)
    else:
        source = build_uri(paths.signals, paths.out_dir)
        write_connectivity(matrix, atlas.parcels, signals.values, sidecar, source=source)
    described = describe_files([*files, paths.coverage])
    shown = [path.relative_to(paths.out_dir).as_posix() for path in show()]
    written = {**sidecar, "TableSHA256": described["FilesSHA256"][paths.signals.name], **described, "PageFiles": shown}
    write_json(paths.signals_sidecar, written)
    return written


def add_connectivity(paths: OutputPaths, sidecar: Mapping[str, Any], form: str) -> None:
    """Write the correlations of stored signals as ``tsv`` or ``npy``; RunFailed damaged_table."""
    source = build_uri(paths.signals, paths.out_dir)
    write_connectivity(paths.connectivity(form), *read_signals(paths, sidecar), sidecar, source=source)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read a sidecar; None if absent, damaged or not ours. It is written last, so its presence means that its outputs
    are complete."""
    values = read_object(path)
    return values if is_sidecar(values, of_signals=path.name.endswith(_SIGNALS_ENDING)) else None


def remove_signals(paths: OutputPaths, *, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Remove all outputs of a run whose signals have other settings or were extracted from other files. Signals with
    the same settings are kept, since another process may have just written them and be reading them. Without a signals
    sidecar it may still be writing: then only outputs with their own, older sidecar are removed."""
    sidecar = read_sidecar(paths.signals_sidecar)
    if is_made_alike(sidecar, settings, inputs):
        return
    if sidecar is not None:
        remove_outputs(paths)
        return
    for path in (paths.raw, paths.coverage, paths.connectivity("tsv")):
        own = read_sidecar(path.with_suffix(".json"))
        if own is not None and not is_made_alike({"Inputs": inputs, **own}, settings, inputs):
            _remove(path.with_suffix(".json"), path, path.with_suffix(".npy"))
    _remove(*_find_embedded(paths))


def remove_outputs(paths: OutputPaths) -> None:
    """Remove all outputs of a run and atlas: sidecar and tables of the signals, embeddings by any encoder, figures
    and statuses, so that nothing of an earlier call is mistaken for current."""
    tables = (paths.signals, paths.raw, paths.coverage)
    stem = glob.escape(paths.stem)
    logs = (paths.status.parent, paths.out_dir / "logs" / _FORMER_STATUSES)
    patterns = [f"{stem}{model}_{kind}.json" for model in ("", "_desc-*") for kind in ("status", "qc")]
    figures = paths.out_dir / paths.participant_folder / "figures"
    _remove(
        # The sidecar goes first: without it nothing counts as complete.
        *(path.with_suffix(".json") for path in tables),
        *tables,
        *find_forms(paths.connectivity("tsv")),
        *_find_embedded(paths),
        *figures.glob(f"{stem}_desc-*"),
        paths.page_data,
        paths.page_data.with_suffix(""),
        *(path for folder in logs for pattern in patterns for path in folder.glob(pattern)),
    )


def find_encoders(paths: OutputPaths) -> set[str]:
    """Find the labels of the encoders that embedded a run."""
    found = paths.directory.glob(f"{glob.escape(paths.stem)}_desc-*_embedding.json")
    return {parse_entities(path.name)["desc"] for path in found}


def _find_embedded(paths: OutputPaths) -> list[Path]:
    """Find the files of embeddings by any encoder, sidecars first."""
    endings = ("embedding.json", "embedding.tsv", "embedding.npy", "tokens.npy")
    stem = glob.escape(paths.stem)
    return [path for ending in endings for path in sorted(paths.directory.glob(f"{stem}_desc-*_{ending}"))]


def _remove(*found: Path) -> None:
    for path in found:
        path.unlink(missing_ok=True)


def find_signals(out_dir: Path) -> list[Path]:
    """Find the sidecars of all stored signals, sorted."""
    patterns = (f"sub-*/func/*{_SIGNALS_ENDING}", f"sub-*/ses-*/func/*{_SIGNALS_ENDING}")
    return sorted(path for pattern in patterns for path in out_dir.glob(pattern))


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """A run whose signals are on disk."""

    entities: dict[str, str]  # of the source and ours
    paths: OutputPaths
    sidecar: dict[str, Any]  # of the signals
    settings_hash: str = ""  # over the settings of the embedding that the paths name
    attempt_hash: str = ""  # the files that the signals came from are not looked at any more

    @property
    def repetition_time(self) -> float:
        """Seconds."""
        return float(self.sidecar["RepetitionTime"])

    @property
    def n_dummy(self) -> int:
        """Leading dummy volumes."""
        return int(self.sidecar["VolumesDropped"]["Dummy"]["Count"])

    @property
    def kept_seconds(self) -> float:
        """Seconds of kept data."""
        return float(self.sidecar["VolumesKept"]) * self.repetition_time

    @property
    def n_padding(self) -> int:
        """Volumes at the end that were no data."""
        return int(self.sidecar.get("VolumesDropped", {}).get("Padding", {}).get("Count", 0))

    def read_signals(self) -> NDArray[np.float32]:
        """Read the cleaned signals (T, P) without padding; NaN where dropped or absent; RunFailed damaged_table."""
        values = read_signals(self.paths, self.sidecar)[1]
        return values[: len(values) - self.n_padding]


def find_stored_runs(out_dir: Path, *, atlas: str, model: str) -> Iterator[StoredRun]:
    """Yield the runs with complete signals of an atlas, sorted by name; their paths carry the encoder label `model`."""
    for path in find_signals(out_dir):
        entities = parse_entities(path.name)
        if entities.get("atlas") != atlas:
            continue
        sidecar = read_sidecar(path)
        if sidecar is None:
            LOGGER.warning("Skipping the run of %s: the file is damaged or was not written by bids_semantoks.", path)
            continue
        stem = path.name.removesuffix(_SIGNALS_ENDING)
        paths = OutputPaths(out_dir=out_dir, directory=path.parent, stem=stem, model=model)
        yield StoredRun(entities=entities, paths=paths, sidecar=sidecar)


def find_stored_kinds(out_dir: Path) -> list[tuple[str, str]]:
    """List the (atlas, space) labels of the stored signals, sorted; the space is empty for series that name none."""
    names = [parse_entities(path.name) for path in find_signals(out_dir)]
    return sorted({(name["atlas"], name.get("space", "")) for name in names if "atlas" in name})


def read_signals(paths: OutputPaths, sidecar: Mapping[str, Any]) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Read parcel names (P,) and cleaned signals (T, P), exactly as written: 9 digits represent every float32. Raises
    RunFailed damaged_table if they do not match their sidecar."""
    check_table(paths.signals, sidecar)
    parcels, values = read_table(paths.signals)
    return parcels, values.astype(np.float32)


def find_statuses(out_dir: Path, participant: str = "") -> dict[str, Path]:
    """Find the status records of all runs, or of those of a participant, by their name stems in order. Records of
    versions before 0.2, all in one folder, are used if there is no newer one."""
    label = glob.escape(participant) if participant else "*"
    logs = out_dir / "logs"
    found = [*logs.glob(f"{_FORMER_STATUSES}/sub-{label}_*_status.json"), *logs.glob(f"sub-{label}/sub-*_status.json")]
    by_stem = {
        path.name.removesuffix("_status.json"): path
        for path in found
        # A label may be a prefix of another one with an underscore.
        if not participant or parse_entities(path.name).get("sub") == participant
    }
    return dict(sorted(by_stem.items()))


def read_statuses(out_dir: Path, participant: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Read the name stem and status record of every run, or of those of a participant, sorted by name."""
    return [(stem, read_status(path)) for stem, path in find_statuses(out_dir, participant).items()]


def read_former_status(paths: OutputPaths) -> dict[str, Any]:
    """Read the status of a run from an earlier call, including versions before 0.2; empty if there is none."""
    places = (paths.status, paths.out_dir / "logs" / _FORMER_STATUSES / paths.status.name)
    return next((read_status(path) for path in places if path.is_file()), {})


def build_stem(run: Run, atlas: str) -> str:
    """Build the stem of all outputs of a run and atlas: ``<source>_space-S[_cohort-C]_atlas-A[_res-R][_den-D]``."""
    own = {**dict(run.entities), "atlas": format_label(atlas)}
    pairs = [(key, value) for key, value in run.entities if key not in _OWN]
    pairs += [(key, own[key]) for key in ("space", "cohort", "atlas", "res", "den") if key in own]
    return "_".join(f"{key}-{value}" for key, value in pairs)


def build_directory(out_dir: Path, entities: Mapping[str, str]) -> Path:
    """Return the directory of a run's outputs, ``OUT_DIR/sub-L/[ses-L/]func``."""
    session = entities.get("ses")
    parent = out_dir / f"sub-{entities['sub']}"
    return (parent / f"ses-{session}" if session else parent) / "func"
