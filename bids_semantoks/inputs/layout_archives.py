"""Downloaded archives of a layout's files that have not been unpacked."""

from __future__ import annotations

from bids_semantoks.inputs.layouts import fill_pattern, find_files
from bids_semantoks.inputs.pipelines import Derivative, Layout


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
