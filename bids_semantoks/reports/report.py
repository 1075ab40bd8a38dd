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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.bids_names import natural_key, parse_entities
from bids_semantoks.errors import replace_hidden
from bids_semantoks.files import read_object, read_rows, read_table, write_text
from bids_semantoks.outputs.dataset import read_atlas_table
from bids_semantoks.outputs.methods import read_methods
from bids_semantoks.outputs.sidecars import check_table
from bids_semantoks.outputs.store import OutputPaths, read_sidecar, read_statuses
from bids_semantoks.quality.fit import FitItem, find_worst, judge_fit
from bids_semantoks.quality.run_qc import Verdict, judge, judge_run, measure_run
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

#: With more sessions, each has its own page to limit the file size.
_MANY_SESSIONS: Final = 4

#: Location of the methods text in a page.
_METHODS: Final = re.compile(r'(<section id="methods">\n<div class="methods">\n).*?(\n</div>)', re.DOTALL)

_ASSETS: Final = (*CHART_ASSETS, "participant.css", "participant.js")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderPart:
    """Page content of one embedding of a run."""

    model: str
    fit: list[FitItem]  # checks of how well the run fits the encoder
    worst: str  # worst level among `fit`
    facts: list[tuple[str, str]]  # (name, value) pairs
    windows: list[dict[str, float]]  # onset, duration (s) and kept share of each
    words: str  # description of the windows
    pictures: list[Heatmap]  # similarity of tokens


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
    encoders: Sequence[EncoderPart] = ()  # one per embedding
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
    addresses = {run.stem: _address(participant, run, pages) for run in runs}
    listed = {"listed": runs, "addresses": addresses}
    return {"": fill_template("report", session="", runs=shown, **listed, **shared), **pages}


def _address(participant: str, run: RunPart, pages: Mapping[str, str]) -> str:
    page = urllib.parse.quote(os.fsencode(_name_page(participant, run.session))) if run.session in pages else ""
    return f"{page}#{run.stem}"


def _read_statuses(out_dir: Path, participant: str) -> dict[str, list[dict[str, Any]]]:
    """Read the run statuses of a participant, grouped by stem."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, status in read_statuses(out_dir, participant):
        stem, _, model = name.partition("_desc-")
        level = status["status"]
        word = "complete" if level == "ok" else level
        found.setdefault(stem, []).append({**status, "model": model, "word": word, "level": level})
    return found


def _build_run(out_dir: Path, stem: str, statuses: list[dict[str, Any]]) -> RunPart:
    entities = parse_entities(stem)
    session = entities.get("ses", "")
    parent = out_dir / f"sub-{entities['sub']}"
    directory = (parent / f"ses-{session}" if session else parent) / "func"
    paths = OutputPaths(out_dir=out_dir, directory=directory, stem=stem, model="")
    sidecar = read_sidecar(paths.signals_sidecar)
    files_there = sorted(p for p in directory.glob(f"{glob.escape(stem)}_*") if p.suffix in (".tsv", ".npy"))
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
        session=session,
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
    coverage, present, temporal_snr = _read_parcels(paths, data["parcels"])
    models = sorted(
        parse_entities(p.name)["desc"] for p in paths.directory.glob(f"{glob.escape(paths.stem)}_desc-*_embedding.json")
    )
    encoders = [_build_encoder(paths, model, sidecar, coverage) for model in models]
    limits = judge_run(measure_run(sidecar, coverage))
    masked = [item for part in encoders for item in part.fit if item.name == "networks"]
    end = sidecar["VolumesTotal"] * sidecar["RepetitionTime"]
    return {
        "verdict": judge([*limits, *masked], problem),
        "facts": _describe_signals(sidecar),
        "warnings": sidecar["Warnings"],
        "limits": limits,
        "encoders": encoders,
        "words": _describe_timeline(sidecar, data["traces"]),
        "carpets": draw_carpets(data, sidecar["VolumesTotal"], end, _explain_alone(sidecar)),
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
            "windows": {part.model: part.windows for part in encoders},
        },
    }


def _explain_alone(sidecar: Mapping[str, Any]) -> str:
    """Explain why there is only one carpet of the signals."""
    if not sidecar["Settings"].get("denoising"):
        return "Input series, not denoised further."
    return "After denoising. Signals before denoising are identical in the kept volumes, or were not stored."


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


def _read_parcels(
    paths: OutputPaths, order: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Read coverage, presence and temporal SNR of each parcel, (P,) in the order of `order`; NaN where unknown."""
    rows = {row["label"]: row for row in read_rows(paths.coverage)}
    cells = [[rows[name].get(column, "n/a") for column in ("coverage", "tsnr")] for name in order]
    values = np.array([[np.nan if cell == "n/a" else float(cell) for cell in pair] for pair in cells]).reshape(-1, 2)
    present = np.array([rows[name]["present"] == "true" for name in order], dtype=np.bool_)
    return values[:, 0], present, values[:, 1]


def _build_encoder(
    paths: OutputPaths, model: str, signals: dict[str, Any], coverage: NDArray[np.float64]
) -> EncoderPart:
    own = OutputPaths(out_dir=paths.out_dir, directory=paths.directory, stem=paths.stem, model=model)
    sidecar = read_sidecar(own.embedding_sidecar) or {}
    fit = judge_fit(signals, sidecar, coverage)
    facts = [
        ("encoder", sidecar["Model"]["Description"]),
        ("SHA-256", sidecar["Model"]["SHA256"][:16]),
        ("windows", f"{len(sidecar['WindowOnsets'])} of {sidecar['WindowDuration']:g} s"),
        ("pooling", sidecar["Pooling"]),
        ("device and precision", f"{sidecar['Device']}, {sidecar['Precision']}"),
        *(("note", warning) for warning in sidecar.get("Warnings", [])),
    ]
    check_table(own.embedding, sidecar)
    columns, rows = read_table(own.embedding)
    at = [columns.index(name) for name in ("onset", "duration", "kept")]
    windows = [dict(zip(("onset", "duration", "kept"), row, strict=True)) for row in rows[:, at].tolist()]
    return EncoderPart(
        model=model,
        fit=fit,
        worst=find_worst(fit),
        facts=facts,
        windows=windows,
        words=_describe_windows(windows),
        pictures=_draw_tokens(sidecar),
    )


def _describe_windows(windows: Sequence[Mapping[str, float]]) -> str:
    ends = [one["onset"] + one["duration"] for one in windows]
    least = min(one["kept"] for one in windows)
    return (
        f"{len(windows)} windows of {windows[0]['duration']:g} s, from {windows[0]['onset']:.0f} to {max(ends):.0f} s; "
        f"at least {least:.0%} of each is kept data."
    )


def _draw_tokens(sidecar: Mapping[str, Any]) -> list[Heatmap]:
    """Draw the similarities of network tokens and of window tokens, if the sidecar has them."""
    found = sidecar.get("TokenSimilarity") or {}
    masked = sidecar.get("MaskedNetworks", [])
    pictures = []
    if len(found.get("Networks", [])) > 1:
        names = [f"{name}{'*' if name in masked else ''}" for name in sidecar["TokenRows"]]
        caption = "Means over windows and patches. If all networks are similar, the input may differ from the training "
        caption += f"data.{' Networks with * were masked.' if masked else ''}"
        pictures.append(draw_similarity(found["Networks"], names, "Network tokens", caption))
    if len(found.get("Windows", [])) > 1:
        names = [str(i + 1) for i in range(len(found["Windows"]))]
        caption = (
            "Means over networks. Windows of a run should be similar; one that differs may indicate motion or sleep."
        )
        pictures.append(draw_similarity(found["Windows"], names, "Window tokens", caption))
    return pictures


def _describe_signals(sidecar: dict[str, Any]) -> list[tuple[str, str]]:
    dropped, motion = sidecar["VolumesDropped"], sidecar["MeanFramewiseDisplacement"]
    largest = sidecar.get("MaximumFramewiseDisplacement")
    step = sidecar["RepetitionTime"]
    denoising, absent = sidecar["Denoising"], sidecar["AbsentParcels"]
    regressors = denoising.get("Regressors")
    limit = dropped["Scrubbed"]["FramewiseDisplacementAboveMillimetres"]
    measure = f"{dropped['Scrubbed'].get('FramewiseDisplacement', '')} FD".lstrip()
    return [
        ("source", f"{sidecar['Pipeline']}, repetition time {step:g}\u00a0s"),
        (
            "volumes",
            f"{sidecar['VolumesKept']} of {sidecar['VolumesTotal']} kept ({sidecar['VolumesKept'] * step:.0f} s)",
        ),
        ("dummy volumes", str(dropped["Dummy"]["Count"])),
        ("scrubbed volumes", f"{dropped['Scrubbed']['Count']}" + (f" ({measure} above {limit:g} mm)" if limit else "")),
        ("mean FD", f"{motion:.3f} mm" if motion is not None else "unknown"),
        ("maximum FD", f"{largest:.3f} mm" if largest is not None else "unknown"),
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
    return f": {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"


def _describe_all(out_dir: Path, runs: Sequence[RunPart]) -> list[tuple[str, str]]:
    """Summarise the software, atlases, encoders and devices used for the runs of the report."""
    description = out_dir / "dataset_description.json"
    generators = read_object(description).get("GeneratedBy") or []
    upstream = [" ".join(filter(None, (one["Name"], one.get("Version", "")))) for one in generators[1:]]
    entities = [parse_entities(run.stem) for run in runs]
    atlases = sorted({f"{e['atlas']} in {e.get('space', 'unknown space')}" for e in entities if "atlas" in e})
    encoders = sorted({part.model for run in runs for part in run.encoders})
    devices = sorted({str(status["device"]) for run in runs for status in run.statuses if status["device"]})
    return [
        ("software", ", ".join([f"bids_semantoks {__version__}", *upstream])),
        ("atlas", "; ".join(atlases) or "none"),
        ("encoder", ", ".join(encoders) or "none"),
        ("device", ", ".join(devices) or "unknown"),
    ]
