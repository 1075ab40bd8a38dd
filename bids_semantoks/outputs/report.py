"""The page of a participant: what was found, what became of it, pictures, words and links in one file."""

from __future__ import annotations

import json
import logging
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bids_semantoks import __version__
from bids_semantoks.outputs.figures import EMBEDDING_FIGURES, SIGNAL_FIGURES, build_figure_path, write_figure
from bids_semantoks.outputs.figures_embedding import compute_stability, draw_stability
from bids_semantoks.outputs.files import write_text
from bids_semantoks.outputs.fit import FitItem, find_worst, judge_fit
from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.outputs.naming import parse_entities
from bids_semantoks.outputs.provenance import read_sidecar
from bids_semantoks.outputs.run_figures import read_coverage
from bids_semantoks.outputs.store import OutputPaths
from bids_semantoks.outputs.stored_runs import read_embedding

LOGGER = logging.getLogger("bids_semantoks")

_MAX_OTHERS: Final = 20
_TITLES: Final = {
    "carpet": "Before and after denoising",
    "motion": "Motion and dropped volumes",
    "coverage": "Coverage",
    "connectivity": "Connectivity",
    "Windows": "Windows on the time line",
    "Tokens": "Similarity of tokens",
    "Stability": "Stability of the embedding",
}
_CAPTIONS: Final = {
    "carpet": "Framewise displacement (FD); DVARS and global signal of the parcels before (grey) and after (blue) "
    "denoising; then every parcel over time, z-scored, ordered by network. Dummy volumes are shaded grey, scrubbed "
    "ones orange. Bands across all parcels that remain after denoising are a bad sign.",
    "motion": "Framewise displacement over time, with dropped volumes shaded, and its distribution.",
    "coverage": "Share of each parcel's voxels or vertices that count and vary. Absent parcels are orange.",
    "connectivity": "Pearson correlations of the cleaned signals over kept volumes, ordered by network, and their "
    "distribution. Absent parcels are grey. A median far from 0 hints at global noise that is left.",
    "Windows": "Windows that the encoder was given. Each bar is one window; hatched parts are padding.",
    "Tokens": "Cosine similarity of the encoder's output tokens. Networks that look all alike, or windows that do not, "
    "hint at an input that the encoder does not know.",
    "Stability": "Cosine similarity of the embeddings of windows: within a run, between runs of this participant, and "
    "to the runs of others in this dataset that were known when this page was written. An embedding that tells people "
    "apart is more alike within and between runs than to others.",
}
_WHY_MISSING: Final = {
    "carpet": "It needs the signals before denoising, which only the participant level has at hand.",
    "motion": "It needs the confounds, which only the participant level has at hand.",
    "Tokens": "It needs the tokens of each window: run the participant level, or save them with --save-tokens.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure on the page.

    Parameters
    ----------
    title, caption : str
        What it is, and what to look for.
    data : str
        The figure as a data URI; empty when it is missing.
    missing : str
        Why it is missing.
    """

    title: str
    caption: str
    data: str
    missing: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderPart:
    """What the page says about one embedding of a run.

    Parameters
    ----------
    model : str
        Encoder label.
    fit : list of FitItem
        How well the run fits the encoder.
    worst : str
        Worst level among them.
    pictures : list of Picture
        Windows and tokens.
    facts : list of (str, str)
        Numbers by name.
    """

    model: str
    fit: list[FitItem]
    worst: str
    pictures: list[Picture]
    facts: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPart:
    """What the page says about one run.

    Parameters
    ----------
    stem : str
        Name of its outputs.
    title : str
        The same without participant and session.
    session : str
        Session label; empty for none.
    statuses : list of dict
        What became of it, one a model, with ``model``, ``word`` and ``level`` added.
    facts : list of (str, str)
        Numbers by name.
    warnings : list of str
        What the user should know.
    pictures : list of Picture
        Figures of the signals.
    encoders : list of EncoderPart
        One an embedding.
    links : list of (str, str)
        Name and relative path of each file.
    """

    stem: str
    title: str
    session: str
    statuses: list[dict[str, Any]]
    facts: list[tuple[str, str]]
    warnings: list[str]
    pictures: list[Picture]
    encoders: list[EncoderPart]
    links: list[tuple[str, str]]


def write_report(out_dir: Path, participant: str) -> bool:
    """Write the page of a participant from what is on disk; whatever goes wrong costs this page alone.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    participant : str
        Label without ``sub-``.

    Returns
    -------
    bool
        Whether it was written to ``OUT_DIR/sub-<label>.html``.
    """
    path = out_dir / f"sub-{participant}.html"
    try:
        write_text(path, build_page(out_dir, participant), only_if_changed=True)
    except Exception as error:
        # Results are on disk already; a page about them must never turn success into failure.
        LOGGER.debug("Writing %s", path, exc_info=True)
        LOGGER.warning("The report %s could not be written: %s: %s", path.name, type(error).__name__, error)
        return False
    return True


def build_page(out_dir: Path, participant: str) -> str:
    """Build the page of a participant.

    Parameters
    ----------
    out_dir : Path
        Output dataset.
    participant : str
        Label without ``sub-``.

    Returns
    -------
    str
        HTML that needs nothing else.
    """
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - loading it takes 50 ms

    runs = [_build_run(out_dir, stem, found) for stem, found in _read_statuses(out_dir, participant).items()]
    sessions: dict[str, list[RunPart]] = {}
    for run in sorted(runs, key=lambda run: (run.session, run.stem)):
        sessions.setdefault(run.session, []).append(run)
    statuses = [status for run in runs for status in run.statuses]
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True)
    text = files("bids_semantoks").joinpath("data", "report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        participant=participant,
        version=__version__,
        sessions=sessions,
        counts={word: sum(status["level"] == word for status in statuses) for word in ("ok", "skipped", "failed")},
        overview=_describe_all(out_dir, runs),
        stability=_draw_stability(out_dir, participant),
        methods=read_methods(out_dir),
    )


def _read_statuses(out_dir: Path, participant: str) -> dict[str, list[dict[str, Any]]]:
    """Read what became of the runs of a participant, by stem."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((out_dir / "logs" / "runs").glob(f"sub-{participant}_*_status.json")):
        status = json.loads(path.read_bytes())
        name = path.name.removesuffix("_status.json")
        stem, _, model = name.partition("_desc-")
        is_done = status["reason"] == "already_done"
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
    models = sorted(p.name.split("_desc-")[1].split("_")[0] for p in directory.glob(f"{stem}_desc-*_embedding.json"))
    files_there = sorted(p for p in directory.glob(f"{stem}_*") if p.suffix in (".tsv", ".npy"))
    return RunPart(
        stem=stem,
        title=", ".join(f"{key} {value}" for key, value in shown.items()),
        session=session,
        statuses=statuses,
        facts=_describe_signals(sidecar) if sidecar else [],
        warnings=sidecar["Warnings"] if sidecar else [],
        pictures=[_load_picture(out_dir, stem, word, word) for word in SIGNAL_FIGURES] if sidecar else [],
        encoders=[_build_encoder(paths, model, sidecar) for model in models] if sidecar else [],
        links=[(p.name.removeprefix(f"{stem}_"), p.relative_to(out_dir).as_posix()) for p in files_there],
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
    pictures = [_load_picture(own.out_dir, own.stem, f"{model}{word}", word) for word in EMBEDDING_FIGURES]
    return EncoderPart(model=model, fit=fit, worst=find_worst(fit), pictures=pictures, facts=facts)


def _describe_signals(sidecar: dict[str, Any]) -> list[tuple[str, str]]:
    dropped, motion = sidecar["VolumesDropped"], sidecar["MeanFramewiseDisplacement"]
    largest = sidecar.get("MaximumFramewiseDisplacement")
    step = sidecar["RepetitionTime"]
    denoising, absent = sidecar["Denoising"], sidecar["AbsentParcels"]
    regressors = denoising.get("Regressors")
    limit = dropped["Scrubbed"]["FramewiseDisplacementAboveMillimetres"]
    return [
        ("source", f"{sidecar['Pipeline']}, repetition time {step:g} s"),
        (
            "volumes",
            f"{sidecar['VolumesKept']} of {sidecar['VolumesTotal']} kept ({sidecar['VolumesKept'] * step:.0f} s)",
        ),
        ("dummy volumes", str(dropped["Dummy"]["Count"])),
        ("scrubbed volumes", f"{dropped['Scrubbed']['Count']}" + (f" (FD above {limit:g} mm)" if limit else "")),
        ("mean FD", f"{motion:.3f} mm" if motion is not None else "not known"),
        ("largest FD", f"{largest:.3f} mm" if largest is not None else "not known"),
        ("denoising", denoising["Preset"] + (f", {len(regressors)} regressors" if regressors is not None else "")),
        ("absent parcels", f"{len(absent)} of {sidecar['Atlas']['Parcels']}{_name_some(absent)}"),
        *(
            ("atlas warped", f"{one['Image']} from {one['WarpedFrom']}, with {one['Transform']} (nearest neighbour)")
            for one in sidecar["Atlas"].get("Warped", [])
        ),
    ]


def _name_some(names: Sequence[str]) -> str:
    if not names:
        return ""
    return f": {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}"


def _load_picture(out_dir: Path, stem: str, word: str, kind: str) -> Picture:
    path = build_figure_path(out_dir, stem, word)
    data = ""
    if path.is_file():
        # Quoted, an SVG is a third smaller than in base64, and it cannot clash with the ids of another.
        data = f"data:image/svg+xml;charset=utf-8,{urllib.parse.quote(path.read_text(encoding='utf-8'), safe=_SAFE)}"
    return Picture(
        title=_TITLES[kind],
        caption=_CAPTIONS[kind],
        data=data,
        missing=_WHY_MISSING.get(kind, "It could not be drawn; the log says why."),
    )


_SAFE: Final = " !$()*+,-./:;=?@[]^_`{|}~'\n"


def _describe_all(out_dir: Path, runs: Sequence[RunPart]) -> list[tuple[str, str]]:
    """Say in a few words what was used for the runs of this page."""
    description = out_dir / "dataset_description.json"
    generators = json.loads(description.read_bytes()).get("GeneratedBy", []) if description.is_file() else []
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


def _draw_stability(out_dir: Path, participant: str) -> list[tuple[str, Picture]]:
    """Draw for each atlas, space and encoder how stable the embeddings of a participant are."""
    own = _find_embeddings(out_dir, participant)
    kinds = sorted({kind for kind, _ in own})
    others = _find_others(out_dir, participant) if kinds else []
    pictures = []
    for kind in kinds:
        mine = [paths for found, paths in own if found == kind]
        theirs = [read_embedding(paths) for found, paths in others if found == kind]
        labels = _shorten([paths.stem for paths in mine])
        stem = "_".join([f"sub-{participant}", *(f"{key}-{value}" for key, value in kind[:-1] if value)])
        word = f"{kind[-1][1]}Stability"
        vectors = [read_embedding(paths) for paths in mine]
        same = [one for one in theirs if one.shape[1] == vectors[0].shape[1]]
        stability = compute_stability(vectors, labels, same)
        write_figure(build_figure_path(out_dir, stem, word), lambda found=stability: draw_stability(found))  # type: ignore[misc]
        name = ", ".join(value for _, value in kind if value)
        pictures.append((name, _load_picture(out_dir, stem, word, "Stability")))
    return pictures


_Kind = tuple[tuple[str, str], ...]


def _find_embeddings(out_dir: Path, participant: str) -> list[tuple[_Kind, OutputPaths]]:
    """Find the embeddings of a participant by space, atlas and encoder."""
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
    """Find embeddings of some other participants, spread evenly over the dataset: all would take too long to read."""
    labels = sorted(path.name[4:] for path in out_dir.iterdir() if path.name.startswith("sub-") and path.is_dir())
    labels = [label for label in labels if label != participant]
    step = max(1, -(-len(labels) // _MAX_OTHERS))
    return [one for label in labels[::step] for one in _find_embeddings(out_dir, label)]


def _shorten(stems: Sequence[str]) -> list[str]:
    """Keep of each name the entities that differ between them."""
    names = [parse_entities(stem) for stem in stems]
    keys = [key for key in names[0] if len({name.get(key) for name in names}) > 1] if names else []
    keys += [key for name in names for key in name if key not in names[0] and key not in keys]
    labels = [" ".join(f"{key}-{name[key]}" for key in dict.fromkeys(keys) if key in name) for name in names]
    return [label or name.get("task", "run") for label, name in zip(labels, names, strict=True)]
