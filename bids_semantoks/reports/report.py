"""The participant report, a single HTML file: status, figures, methods and links of all runs, and how stable the
participant's embeddings are compared with those of others."""

from __future__ import annotations

import functools
import glob
import logging
import os
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import parse_entities
from bids_semantoks.errors import RunFailed
from bids_semantoks.files import read_object, read_rows
from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.outputs.sidecars import read_status
from bids_semantoks.outputs.store import OutputPaths, read_embedding, read_sidecar
from bids_semantoks.quality.fit import FitItem, find_worst, judge_fit
from bids_semantoks.reports.figures import (
    EMBEDDING_FIGURES,
    SIGNAL_FIGURES,
    Picture,
    build_figure_path,
    fill_template,
    load_picture,
    write_figure,
    write_page,
)
from bids_semantoks.reports.figures_embedding import compute_stability, draw_stability
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")
_MAX_OTHERS: Final = 20

#: Space, atlas and encoder of an embedding, as pairs of entity and label.
_Kind = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderPart:
    """Report content of one embedding of a run."""

    model: str
    fit: list[FitItem]  # checks of how well the run fits the encoder
    worst: str  # worst level among `fit`
    pictures: list[Picture]
    facts: list[tuple[str, str]]  # (name, value) pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPart:
    """Report content of one run."""

    stem: str  # entities of its output names
    title: str  # entities in words, without participant and session
    session: str  # label; empty for none
    # status files of the run, one per model, with ``model``, ``word`` and ``level`` added
    statuses: list[dict[str, Any]]
    facts: list[tuple[str, str]]  # (name, value) pairs
    warnings: list[str]
    pictures: list[Picture]  # of the signals
    encoders: list[EncoderPart]  # one per embedding
    links: list[tuple[str, str]]  # name and path relative to the output dataset


def write_report(out_dir: Path, participant: str) -> bool:
    """Write ``OUT_DIR/sub-<label>.html`` from the files on disk; on any error, log a warning and return False."""
    return write_page(out_dir / f"sub-{participant}.html", lambda: build_page(out_dir, participant))


def build_page(out_dir: Path, participant: str) -> str:
    """Build the participant report as self-contained HTML, drawing the stability figures on the way."""
    runs = [_build_run(out_dir, stem, found) for stem, found in _read_statuses(out_dir, participant).items()]
    sessions: dict[str, list[RunPart]] = {}
    for run in sorted(runs, key=lambda run: (run.session, run.stem)):
        sessions.setdefault(run.session, []).append(run)
    statuses = [status for run in runs for status in run.statuses]
    return fill_template(
        "report",
        participant=participant,
        version=__version__,
        sessions=sessions,
        counts={word: sum(status["level"] == word for status in statuses) for word in ("ok", "skipped", "failed")},
        overview=_describe_all(out_dir, runs),
        stability=draw_stabilities(out_dir, participant),
        methods=read_methods(out_dir),
    )


def _read_statuses(out_dir: Path, participant: str) -> dict[str, list[dict[str, Any]]]:
    """Read the run statuses of a participant, grouped by stem."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out_dir / "logs" / "runs").glob(f"sub-{glob.escape(participant)}_*_status.json")):
        status = read_status(path)
        name = path.name.removesuffix("_status.json")
        stem, _, model = name.partition("_desc-")
        is_done = status.get("reason") == "already_done"
        level = "ok" if is_done else status["status"]
        word = "complete" if level == "ok" else status["status"]
        found.setdefault(stem, []).append({**status, "model": model, "word": word, "level": level})
    return found


def _build_run(out_dir: Path, stem: str, statuses: list[dict[str, Any]]) -> RunPart:
    entities = parse_entities(stem)
    session = entities.get("ses", "")
    parent = out_dir / f"sub-{entities['sub']}"
    directory = (parent / f"ses-{session}" if session else parent) / "func"
    paths = OutputPaths(out_dir=out_dir, directory=directory, stem=stem, model="")
    sidecar = read_sidecar(paths.signals_sidecar)
    shown = {key: value for key, value in entities.items() if key not in ("sub", "ses")}
    own = glob.escape(stem)
    models = sorted(parse_entities(p.name)["desc"] for p in directory.glob(f"{own}_desc-*_embedding.json"))
    files_there = sorted(p for p in directory.glob(f"{own}_*") if p.suffix in (".tsv", ".npy"))
    return RunPart(
        stem=stem,
        title=", ".join(f"{key} {value}" for key, value in shown.items()),
        session=session,
        statuses=statuses,
        facts=_describe_signals(sidecar) if sidecar else [],
        warnings=sidecar["Warnings"] if sidecar else [],
        pictures=[load_picture(out_dir, stem, word, word) for word in SIGNAL_FIGURES] if sidecar else [],
        encoders=[_build_encoder(paths, model, sidecar) for model in models] if sidecar else [],
        links=[
            (p.name.removeprefix(f"{stem}_"), urllib.parse.quote(os.fsencode(p.relative_to(out_dir))))
            for p in files_there
        ],
    )


def _build_encoder(paths: OutputPaths, model: str, signals: dict[str, Any]) -> EncoderPart:
    own = OutputPaths(out_dir=paths.out_dir, directory=paths.directory, stem=paths.stem, model=model)
    sidecar = read_sidecar(own.embedding.with_suffix(".json")) or {}
    fit = judge_fit(signals, sidecar, read_coverage(own)[0])
    facts = [
        ("encoder", sidecar["Model"]["Description"]),
        ("SHA-256", sidecar["Model"]["SHA256"][:16]),
        ("windows", f"{len(sidecar['WindowOnsets'])} of {sidecar['WindowDuration']:g} s"),
        ("pooling", sidecar["Pooling"]),
        ("device and precision", f"{sidecar['Device']}, {sidecar['Precision']}"),
        *(("note", warning) for warning in sidecar.get("Warnings", [])),
    ]
    pictures = [load_picture(own.out_dir, own.stem, f"{model}{word}", word) for word in EMBEDDING_FIGURES]
    return EncoderPart(model=model, fit=fit, worst=find_worst(fit), pictures=pictures, facts=facts)


def _describe_signals(sidecar: dict[str, Any]) -> list[tuple[str, str]]:
    dropped, motion = sidecar["VolumesDropped"], sidecar["MeanFramewiseDisplacement"]
    largest = sidecar.get("MaximumFramewiseDisplacement")
    step = sidecar["RepetitionTime"]
    denoising, absent = sidecar["Denoising"], sidecar["AbsentParcels"]
    regressors = denoising.get("Regressors")
    limit = dropped["Scrubbed"]["FramewiseDisplacementAboveMillimetres"]
    measure = f"{dropped['Scrubbed'].get('FramewiseDisplacement', '')} FD".lstrip()
    return [
        ("source", f"{sidecar['Pipeline']}, repetition time {step:g} s"),
        (
            "volumes",
            f"{sidecar['VolumesKept']} of {sidecar['VolumesTotal']} kept ({sidecar['VolumesKept'] * step:.0f} s)",
        ),
        ("dummy volumes", str(dropped["Dummy"]["Count"])),
        ("scrubbed volumes", f"{dropped['Scrubbed']['Count']}" + (f" ({measure} above {limit:g} mm)" if limit else "")),
        ("mean FD", f"{motion:.3f} mm" if motion is not None else "not known"),
        ("largest FD", f"{largest:.3f} mm" if largest is not None else "not known"),
        *_describe_filtered_motion(sidecar),
        ("denoising", denoising["Preset"] + (f", {len(regressors)} regressors" if regressors is not None else "")),
        ("absent parcels", f"{len(absent)} of {sidecar['Atlas']['Parcels']}{_name_some(absent)}"),
        *(
            ("atlas warped", f"{one['Image']} from {one['WarpedFrom']}, with {one['Transform']} (nearest neighbour)")
            for one in sidecar["Atlas"].get("Warped", [])
        ),
    ]


def _describe_filtered_motion(sidecar: dict[str, Any]) -> list[tuple[str, str]]:
    mean = sidecar.get("MeanFilteredFramewiseDisplacement")
    if mean is None:
        return []
    return [("mean filtered FD", f"{mean:.3f} mm ({sidecar['FilteredFramewiseDisplacementFrom']})")]


def _name_some(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f": {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}"


def _describe_all(out_dir: Path, runs: Sequence[RunPart]) -> list[tuple[str, str]]:
    """Summarise the software, atlases, encoders and devices used for the runs of the report."""
    description = out_dir / "dataset_description.json"
    generators = read_object(description).get("GeneratedBy") or []
    upstream = [" ".join(filter(None, (one["Name"], one.get("Version", "")))) for one in generators[1:]]
    entities = [parse_entities(run.stem) for run in runs]
    atlases = sorted({f"{e['atlas']} in {e.get('space', 'no space named')}" for e in entities if "atlas" in e})
    encoders = sorted({part.model for run in runs for part in run.encoders})
    devices = sorted({str(status["device"]) for run in runs for status in run.statuses if status["device"]})
    return [
        ("software", ", ".join([f"bids_semantoks {__version__}", *upstream])),
        ("atlas", "; ".join(atlases) or "none"),
        ("encoder", ", ".join(encoders) or "none"),
        ("device", ", ".join(devices) or "not known"),
    ]


def draw_stabilities(out_dir: Path, participant: str) -> list[tuple[str, Picture]]:
    """Draw a participant's embedding stability; return (space, atlas and encoder in words; picture) per combination."""
    for old in (out_dir / f"sub-{participant}" / "figures").glob("*Stability_bold.svg"):
        old.unlink(missing_ok=True)
    own = _find_embeddings(out_dir, participant)
    kinds = sorted({kind for kind, _ in own})
    others = _find_others(out_dir, participant) if kinds else []
    pictures = []
    for kind in kinds:
        mine = [paths for found, paths in own if found == kind]
        theirs = [vectors for found, paths in others if found == kind if (vectors := _read_whole(paths)) is not None]
        whole = {paths: vectors for paths in mine if (vectors := _read_whole(paths)) is not None}
        if not whole:
            continue
        labels = _shorten([paths.stem for paths in whole])
        stem = "_".join([f"sub-{participant}", *(f"{key}-{value}" for key, value in kind[:-1] if value)])
        word = f"{kind[-1][1]}Stability"
        own_vectors = list(whole.values())
        same = [one for one in theirs if one.shape[1] == own_vectors[0].shape[1]]
        stability = compute_stability(own_vectors, labels, same)
        write_figure(build_figure_path(out_dir, stem, word), functools.partial(draw_stability, stability))
        name = ", ".join(value for _, value in kind if value)
        pictures.append((name, load_picture(out_dir, stem, word, "Stability")))
    return pictures


def _read_whole(paths: OutputPaths) -> NDArray[np.float32] | None:
    """Read an embedding; None for a damaged one, which is left out with a warning."""
    try:
        return read_embedding(paths)
    except RunFailed as error:
        LOGGER.warning("Left out of the page: %s", error)
        return None


def _find_embeddings(out_dir: Path, participant: str) -> list[tuple[_Kind, OutputPaths]]:
    """Find the embeddings of a participant, with the space, atlas and encoder of each."""
    root = out_dir / f"sub-{participant}"
    found: list[tuple[_Kind, OutputPaths]] = []
    for path in sorted([*root.glob("func/*_embedding.json"), *root.glob("ses-*/func/*_embedding.json")]):
        stem, _, model = path.name.removesuffix("_embedding.json").partition("_desc-")
        entities = parse_entities(stem)
        kind = (("space", entities.get("space", "")), ("atlas", entities.get("atlas", "")), ("desc", model))
        paths = OutputPaths(out_dir=out_dir, directory=path.parent, stem=stem, model=model)
        if paths.embedding.is_file():
            found.append((kind, paths))
    return found


def _find_others(out_dir: Path, participant: str) -> list[tuple[_Kind, OutputPaths]]:
    """Find the embeddings of a sample of other participants, spread evenly over
    the dataset: reading all takes too long."""
    labels = sorted(path.name[4:] for path in out_dir.iterdir() if path.name.startswith("sub-") and path.is_dir())
    labels = [label for label in labels if label != participant]
    step = max(1, -(-len(labels) // _MAX_OTHERS))
    return [one for label in labels[::step] for one in _find_embeddings(out_dir, label)]


def _shorten(stems: Sequence[str]) -> list[str]:
    """Reduce each name to the entities that differ between names."""
    names = [parse_entities(stem) for stem in stems]
    keys = [key for key in names[0] if len({name.get(key) for name in names}) > 1] if names else []
    keys += [key for name in names for key in name if key not in names[0] and key not in keys]
    labels = [" ".join(f"{key}-{name[key]}" for key in dict.fromkeys(keys) if key in name) for name in names]
    return [label or name.get("task", "run") for label, name in zip(labels, names, strict=True)]


def read_coverage(paths: OutputPaths) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read coverage (P,), NaN where unknown, and which parcels have a signal (P,)."""
    rows = read_rows(paths.file("stat-coverage_bold.tsv"))
    coverage = [float("nan") if row["coverage"] == "n/a" else float(row["coverage"]) for row in rows]
    return np.array(coverage), np.array([row["present"] == "true" for row in rows], dtype=np.bool_)
