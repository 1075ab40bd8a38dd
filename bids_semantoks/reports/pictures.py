"""Figures of the participant report: title, caption and data, or why the figure is missing."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bids_semantoks.reports.figure_files import build_figure_path

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


_SAFE: Final = " !$()*+,-./:;=?@[]^_`{|}~'\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One figure of the report."""

    title: str
    caption: str
    data: str  # data URI; empty when the figure is missing
    missing: str  # why it is missing


def load_picture(out_dir: Path, stem: str, word: str, kind: str) -> Picture:
    """Load a figure for the report, or the reason why it is missing.

    `kind` selects title and caption; `word`, in the file name, is `kind`, prefixed by the encoder label for embeddings.
    """
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
