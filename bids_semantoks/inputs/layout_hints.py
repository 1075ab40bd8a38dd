"""Hints when a layout finds nothing: another layout or folder, an archive not unpacked, the names that exist."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.errors import name_some
from bids_semantoks.inputs.layouts import fill_pattern, find_files, has_files, list_layouts, load_layout
from bids_semantoks.inputs.names import find_folders
from bids_semantoks.inputs.pipelines import Derivative, Layout

_N_NAMES: Final = 3
_N_FOLDERS: Final = 20


def describe_nearest_files(root: Path, layout: Layout, participants: Sequence[str] = ()) -> tuple[str, str]:
    """Describe in one sentence what a layout expected in a folder and what was found; and suggest the layout or folder
    that was probably meant, or a custom layout file."""
    depth, path = max(
        ((_find_depth(root, path, participants), path) for one in layout.runs for path in one.bold),
        key=lambda found: found[0],
    )
    parts = path.split("/")
    folder = Path(next(find_files(root, "/".join(parts[:depth]), participants))[0]) if depth else root
    try:
        names = sorted(one.name for one in folder.iterdir())
    except OSError:
        names = []
    # Placeholders would count as differences.
    text = re.sub(r"\{[a-z]+\}|\*", "", parts[depth])
    near = difflib.get_close_matches(text, names, _N_NAMES, cutoff=0.3) or names[:_N_NAMES]
    there = f"found {name_some(near)}" if near else "it is empty"
    return f"expected {path}; {folder} has no {parts[depth]}, {there}", _suggest(root, layout)


def _find_depth(root: Path, pattern: str, participants: Sequence[str]) -> int:
    """Count the leading parts of a pattern that exist together."""
    parts = pattern.split("/")
    for depth in range(1, len(parts)):
        if next(find_files(root, "/".join(parts[:depth]), participants), None) is None:
            return depth - 1
    return len(parts) - 1


def _suggest(root: Path, layout: Layout) -> str:
    """Suggest a shipped layout that fits the folder, or a folder below that fits the layout."""
    for name in list_layouts():
        if has_files(root, load_layout(name)):
            return f"Did you mean --layout {name}?"
    for folder in find_folders(root)[:_N_FOLDERS]:
        if has_files(root / folder, layout):
            return f"Did you mean BIDS_DIR {root / folder}?"
    return "Copy the layout to a JSON file, adapt its paths and pass that file to --layout."


def describe_archives(derivative: Derivative, layout: Layout) -> str:
    """Describe archives named like a participant folder that the layout expects but lacks; empty if none."""
    root, packed = derivative.path, set()
    for first in {path.split("/")[0] for pattern in layout.runs for path in pattern.bold if "/" in path}:
        for _, values in find_files(root, f"{first}.zip"):
            name = fill_pattern(first, values)
            # Some unpack into a folder named after the participant.
            if not (root / name).exists() and not (root / values["sub"]).exists():
                packed.add(name)
    if not packed:
        return ""
    some = min(packed)
    return f"{len(packed)} archives have not been unpacked; for example, run `unzip {some}.zip -d {some}`."
