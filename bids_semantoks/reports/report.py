"""The report of a participant, one HTML file (or one per session if there are many): verdict, figures, limits and
files of each run, and the methods."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from bids_semantoks.bids_names import natural_key, parse_entities
from bids_semantoks.errors import replace_hidden
from bids_semantoks.files import read_object, read_table, write_text
from bids_semantoks.outputs.connectivity import read_coverage
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.outputs.sidecars import check_table
from bids_semantoks.outputs.store import OutputPaths, build_directory, find_encoders, read_sidecar, read_statuses
from bids_semantoks.quality.fit import FitItem, judge_fit
from bids_semantoks.quality.run_qc import Verdict, judge, judge_run, measure_run
from bids_semantoks.records import Floats
from bids_semantoks.reports.pages import CHART_ASSETS, fill_template, write_page
from bids_semantoks.reports.pictures import (
    PALETTES,
    Bars,
    Heatmap,
    describe_slices,
    draw_carpets,
    draw_connectivity,
    draw_coverage,
    draw_histogram,
    draw_similarity,
)
from bids_semantoks.reports.run_data import read_run_data
from bids_semantoks.version import __version__

LOGGER = logging.getLogger("bids_semantoks")
_MANY_SESSIONS: Final = 4  # with more sessions, each has its own page to limit the file size

#: Location of the methods text in a page.
_METHODS: Final = re.compile(r'(<section id="methods">\n<div class="methods">\n).*?(\n</div>)', re.DOTALL)
_ASSETS: Final = (*CHART_ASSETS, "participant.css", "participant.js")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPart:
    """Page content of one run; what is drawn is None without signals."""

    stem: str  # entities of its output names
    title: str  # entities in words, without participant and session
    session: str  # label; empty for none
    # status files of the run, one per model, with ``model``, ``word`` and ``level`` added
    statuses: list[dict[str, Any]]
    verdict: Verdict
    links: list[tuple[str, str]]  # name and path relative to the output dataset
    facts: Sequence[tuple[str, str]] = ()  # (name, value) pairs
    warnings: Sequence[str] = ()
    limits: Sequence[FitItem] = ()  # that hold for any encoder
    encoders: Sequence[Mapping[str, Any]] = ()  # one per embedding, as `_show_encoder`
    words: str = ""  # description of the timeline
    carpets: Sequence[Heatmap] = ()
    connectivity: Sequence[Heatmap] = ()
    histogram: Bars | None = None
    coverage: Bars | None = None
    slices: Mapping[str, Any] | None = None
    script: Mapping[str, Any] | None = None  # data for scripts


def write_report(out_dir: Path, participant: str) -> bool:
    """Write ``OUT_DIR/sub-<label>.html``, with many sessions also ``sub-<label>_ses-<label>.html``, from the files on
    disk; on any error, log a warning and return False."""
    pages: dict[str, str] = {}

    def build() -> str:
        """Build all pages; those of sessions are written afterwards."""
        pages.update(build_pages(out_dir, participant))
        return pages.pop("")

    is_written = write_page(out_dir / f"sub-{participant}.html", build)
    for session, text in pages.items():
        is_written &= write_page(out_dir / _name_page(participant, session), lambda text=text: text)  # type: ignore[misc]
    if is_written:
        for path in out_dir.glob(f"sub-{glob.escape(participant)}_ses-*.html"):
            if path.name not in {_name_page(participant, session) for session in pages}:
                path.unlink(missing_ok=True)
    return is_written


def update_methods(out_dir: Path, participant: str) -> None:
    """Update the methods text in a participant's page."""
    path = out_dir / _name_page(participant)
    # A report must never make a run fail.
    with contextlib.suppress(OSError, ValueError):
        page = path.read_text(encoding="utf-8")
        text = replace_hidden(str(read_methods(out_dir)))
        write_text(path, _METHODS.sub(lambda match: f"{match[1]}{text}{match[2]}", page, 1), only_if_changed=True)


def _name_page(participant: str, session: str = "") -> str:
    return f"sub-{participant}_ses-{session}.html" if session else f"sub-{participant}.html"


def build_pages(out_dir: Path, participant: str) -> dict[str, str]:
    """Build the pages of a participant by session label: the first, without one, has all sessions, or with many
    links to theirs. Each run has its name as an anchor in the first page."""
    runs = [_build_run(out_dir, stem, found) for stem, found in _read_statuses(out_dir, participant).items()]
    runs.sort(key=lambda run: (natural_key(run.session), natural_key(run.stem)))
    sessions = list(dict.fromkeys(run.session for run in runs))
    own = sessions if len(sessions) > _MANY_SESSIONS else []
    shared = {
        "participant": participant,
        "version": __version__,
        "names": _ASSETS,
        "overview": _describe_all(out_dir, runs),
        "methods": read_methods(out_dir),
        "palettes": {name: [palette.colours, palette.low, palette.high] for name, palette in PALETTES.items()},
    }
    pages = {
        session: fill_template(
            "report", session=session, runs=[run for run in runs if run.session == session], **shared
        )
        for session in own
        if session
    }
    shown = [run for run in runs if run.session not in pages]
    places = {session: urllib.parse.quote(os.fsencode(_name_page(participant, session))) for session in pages}
    addresses = {run.stem: f"{places.get(run.session, '')}#{run.stem}" for run in runs}
    first = fill_template("report", session="", runs=shown, listed=runs, addresses=addresses, **shared)
    return {"": first, **pages}


def _read_statuses(out_dir: Path, participant: str) -> dict[str, list[dict[str, Any]]]:
    """Read the run statuses of a participant, grouped by stem."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, status in read_statuses(out_dir, participant):
        (stem, _, model), level = name.partition("_desc-"), status["status"]
        word = "complete" if level == "ok" else level
        found.setdefault(stem, []).append({**status, "model": model, "word": word, "level": level})
    return found


def _build_run(out_dir: Path, stem: str, statuses: list[dict[str, Any]]) -> RunPart:
    entities = parse_entities(stem)
    paths = OutputPaths(out_dir=out_dir, directory=build_directory(out_dir, entities), stem=stem, model="")
    sidecar = read_sidecar(paths.signals_sidecar)
    files_there = sorted(p for p in paths.directory.glob(f"{glob.escape(stem)}_*") if p.suffix in (".tsv", ".npy"))
    bad = [status for status in statuses if status["level"] != "ok"]
    problem = bad[0]["message"] or bad[0]["reason"] if sidecar is None or len(bad) == len(statuses) else ""
    try:
        shown = _show_signals(paths, sidecar, problem) if sidecar else {"verdict": judge([], problem or "No signals.")}
    except Exception as error:
        # Damaged files of one run, or values of the wrong type, must not hide the other runs.
        LOGGER.debug("Showing %s", stem, exc_info=True)
        LOGGER.warning("Omitting %s from the report: %s", stem, error)
        shown = {"verdict": judge([], f"Its files cannot be shown: {error}")}
    return RunPart(
        stem=stem,
        title=", ".join(f"{key} {value}" for key, value in entities.items() if key not in ("sub", "ses")),
        session=entities.get("ses", ""),
        statuses=statuses,
        links=[
            (p.name.removeprefix(f"{stem}_"), urllib.parse.quote(os.fsencode(p.relative_to(out_dir))))
            for p in files_there
        ],
        **shown,
    )


def _show_signals(paths: OutputPaths, sidecar: dict[str, Any], problem: str) -> dict[str, Any]:
    """Build what is shown of a run with signals, by field of `RunPart`."""
    entities = parse_entities(paths.stem)
    atlas = read_atlas_table(paths.out_dir, name=entities["atlas"], space=entities.get("space", ""))
    data = read_run_data(paths, sidecar, atlas)
    coverage, present, temporal_snr = read_coverage(paths.coverage, data["parcels"])
    encoders = [_show_encoder(paths, model, sidecar, coverage) for model in sorted(find_encoders(paths))]
    limits = judge_run(measure_run(sidecar, coverage))
    masked = [item for part in encoders for item in part["fit"] if item.name == "networks"]
    why_alone = "After denoising. Signals before denoising are identical in the kept volumes, or were not stored."
    if not sidecar["Settings"].get("denoising"):
        why_alone = "Input series, not denoised further."
    end = sidecar["VolumesTotal"] * sidecar["RepetitionTime"]
    return {
        "verdict": judge([*limits, *masked], problem),
        "facts": _describe_signals(sidecar),
        "warnings": sidecar["Warnings"],
        "limits": limits,
        "encoders": encoders,
        "words": _describe_timeline(sidecar, data["traces"]),
        "carpets": draw_carpets(data, sidecar["VolumesTotal"], end, why_alone),
        "connectivity": draw_connectivity(data),
        "histogram": draw_histogram(data),
        "coverage": draw_coverage(data, coverage, present),
        "slices": describe_slices(data),
        "script": {
            "id": paths.stem,
            "step": sidecar["RepetitionTime"],
            "volumes": sidecar["VolumesTotal"],
            "dummy": sidecar["VolumesDropped"]["Dummy"]["Count"],
            "padding": sidecar["VolumesDropped"].get("Padding", {}).get("Count", 0),
            "scrubbed": sidecar["VolumesDropped"]["Scrubbed"]["Volumes"],
            "threshold": sidecar["VolumesDropped"]["Scrubbed"]["FramewiseDisplacementAboveMillimetres"],
            "traces": data["traces"],
            "carpets": {key: data["carpets"][key] for key in ("step", "rows")},
            "parcels": data["parcels"],
            "networks": data["networks"],
            "coverage": [None if np.isnan(x) else round(float(x), 3) for x in coverage],
            "tsnr": [None if np.isnan(x) else round(float(x), 1) for x in temporal_snr],
            "windows": {part["model"]: part["windows"] for part in encoders},
        },
    }


def _describe_timeline(sidecar: Mapping[str, Any], traces: Mapping[str, Sequence[float | None]]) -> str:
    """Describe the traces."""
    dropped = sidecar["VolumesDropped"]
    known = [(value, i) for i, value in enumerate(traces.get("fd", ())) if value is not None]
    motion = "Framewise displacement is unknown"
    if known:
        largest, at = max(known)
        mean = sum(value for value, _ in known) / len(known)
        seconds = (at + 0.5) * sidecar["RepetitionTime"]
        motion = f"Framewise displacement: mean {mean:.2f} mm, maximum {largest:.2f} mm at {seconds:.0f} s"
    counts = [(dropped["Dummy"]["Count"], "dummy"), (dropped["Scrubbed"]["Count"], "scrubbed")]
    shaded = " and ".join(f"{count} {word}" for count, word in counts if count)
    return f"{motion}; {shaded} volumes are shaded." if shaded else f"{motion}; every volume is kept."


def _show_encoder(paths: OutputPaths, model: str, signals: dict[str, Any], coverage: Floats) -> dict[str, Any]:
    """Build what is shown of one embedding of a run: model, checks of its fit, facts, windows (onset, duration (s) and
    kept share of each) with a description, and pictures."""
    own = replace(paths, model=model)
    sidecar = read_sidecar(own.embedding_sidecar) or {}
    check_table(own.embedding, sidecar)
    columns, rows = read_table(own.embedding)
    names = ("onset", "duration", "kept")
    at = [columns.index(name) for name in names]
    windows = [dict(zip(names, row, strict=True)) for row in rows[:, at].tolist()]
    end, least = max(one["onset"] + one["duration"] for one in windows), min(one["kept"] for one in windows)
    return {
        "model": model,
        "fit": judge_fit(signals, sidecar, coverage),
        "facts": [
            ("encoder", sidecar["Model"]["Description"]),
            ("SHA-256", sidecar["Model"]["SHA256"][:16]),
            ("windows", f"{len(sidecar['WindowOnsets'])} of {sidecar['WindowDuration']:g} s"),
            ("pooling", sidecar["Pooling"]),
            ("device and precision", f"{sidecar['Device']}, {sidecar['Precision']}"),
            *(("note", warning) for warning in sidecar.get("Warnings", [])),
        ],
        "windows": windows,
        "words": f"{len(windows)} windows of {windows[0]['duration']:g} s, from {windows[0]['onset']:.0f} to {end:.0f} "
        f"s; at least {least:.0%} of each is kept data.",
        "pictures": _draw_tokens(sidecar),
    }


def _draw_tokens(sidecar: Mapping[str, Any]) -> list[Heatmap]:
    """Draw the similarities of network tokens and of window tokens, if the sidecar has them."""
    found, masked = sidecar.get("TokenSimilarity") or {}, sidecar.get("MaskedNetworks", [])
    starred = " Networks with * were masked." if masked else ""
    named = {
        "Networks": [f"{name}{'*' if name in masked else ''}" for name in sidecar.get("TokenRows", [])],
        "Windows": [str(i + 1) for i in range(len(found.get("Windows", [])))],
    }
    captions = {
        "Networks": "Means over windows and patches. If all networks are similar, the input may differ from the "
        f"training data.{starred}",
        "Windows": "Means over networks. Windows of a run should be similar; one that differs may indicate motion or "
        "sleep.",
    }
    return [
        draw_similarity(found[what], named[what], f"{what[:-1]} tokens", captions[what])
        for what in captions
        if len(found.get(what, [])) > 1
    ]


def _describe_signals(sidecar: dict[str, Any]) -> list[tuple[str, str]]:
    dropped, denoising, absent = sidecar["VolumesDropped"], sidecar["Denoising"], sidecar["AbsentParcels"]
    motion, largest = sidecar["MeanFramewiseDisplacement"], sidecar.get("MaximumFramewiseDisplacement")
    filtered, step = sidecar.get("MeanFilteredFramewiseDisplacement"), sidecar["RepetitionTime"]
    kept, total = sidecar["VolumesKept"], sidecar["VolumesTotal"]
    regressors = denoising.get("Regressors")
    limit = dropped["Scrubbed"]["FramewiseDisplacementAboveMillimetres"]
    measure = f"{dropped['Scrubbed'].get('FramewiseDisplacement', '')} FD".lstrip()
    listed = f": {', '.join(absent[:8])}{' ...' if len(absent) > 8 else ''}" if absent else ""
    facts = [
        ("source", f"{sidecar['Pipeline']}, repetition time {step:g}\u00a0s"),
        ("volumes", f"{kept} of {total} kept ({kept * step:.0f} s)"),
        ("dummy volumes", str(dropped["Dummy"]["Count"])),
        ("scrubbed volumes", f"{dropped['Scrubbed']['Count']}" + (f" ({measure} above {limit:g} mm)" if limit else "")),
        ("mean FD", f"{motion:.3f} mm" if motion is not None else "unknown"),
        ("maximum FD", f"{largest:.3f} mm" if largest is not None else "unknown"),
    ]
    if filtered is not None:
        facts.append(("mean filtered FD", f"{filtered:.3f} mm ({sidecar['FilteredFramewiseDisplacementFrom']})"))
    return [
        *facts,
        ("denoising", denoising["Preset"] + (f", {len(regressors)} regressors" if regressors is not None else "")),
        ("absent parcels", f"{len(absent)} of {sidecar['Atlas']['Parcels']}{listed}"),
        *(
            ("atlas warped", f"{one['Image']} from {one['WarpedFrom']}, with {one['Transform']} (nearest neighbour)")
            for one in sidecar["Atlas"].get("Warped", [])
        ),
    ]


def _describe_all(out_dir: Path, runs: Sequence[RunPart]) -> list[tuple[str, str]]:
    """Summarise the software, atlases, encoders and devices used for the runs of the report."""
    description = out_dir / "dataset_description.json"
    generators = read_object(description).get("GeneratedBy") or []
    upstream = [" ".join(filter(None, (one["Name"], one.get("Version", "")))) for one in generators[1:]]
    entities = [parse_entities(run.stem) for run in runs]
    atlases = sorted({f"{e['atlas']} in {e.get('space', 'unknown space')}" for e in entities if "atlas" in e})
    encoders = sorted({part["model"] for run in runs for part in run.encoders})
    devices = sorted({str(status["device"]) for run in runs for status in run.statuses if status["device"]})
    return [
        ("software", ", ".join([f"bids_semantoks {__version__}", *upstream])),
        ("atlas", "; ".join(atlases) or "none"),
        ("encoder", ", ".join(encoders) or "none"),
        ("device", ", ".join(devices) or "unknown"),
    ]
