"""Archives that hold what a layout looks for, as downloads come, and that were not unpacked."""

from __future__ import annotations

from bids_semantoks.inputs.layouts import fill_pattern, find_files
from bids_semantoks.inputs.pipelines import Derivative, Layout


def describe_archives(derivative: Derivative, layout: Layout) -> str:
    """Say which archives are named like a participant's folder of the layout that is not there; empty if none."""
    root, packed = derivative.path, set()
    for first in {path.split("/")[0] for pattern in layout.runs for path in pattern.bold if "/" in path}:
        for _, values in find_files(root, f"{first}.zip"):
            name = fill_pattern(first, values)
            # Some unpack into a folder of the participant's name.
            if not (root / name).exists() and not (root / values["sub"]).exists():
                packed.add(name)
    if not packed:
        return ""
    some = min(packed)
    return f"{len(packed)} archives are packed: unpack each, such as with `unzip {some}.zip -d {some}`."
