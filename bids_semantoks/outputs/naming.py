"""Names of output files: every source entity is kept, so two runs never share a name."""

from __future__ import annotations

import re
from pathlib import Path

from bids_semantoks.records import Run

#: Entities that our names place themselves, after those of the source.
_OWN = ("space", "cohort", "atlas", "seg", "scale", "res", "den", "stat", "label", "desc")


def format_label(text: str) -> str:
    """Reduce a name to the ASCII letters and digits that a BIDS label may hold. Raises ValueError if none are left."""
    label = re.sub(r"[^A-Za-z0-9]", "", text)
    if not label:
        raise ValueError(f"no letter or digit in {text!r}")
    return label


def build_stem(run: Run, atlas: str) -> str:
    """Build the stem of all outputs of a run and atlas: ``<source>_space-S[_cohort-C]_atlas-A[_res-R][_den-D]``."""
    entities = dict(run.entities)
    source = [f"{key}-{value}" for key, value in run.entities if key not in _OWN]
    own = {**entities, "atlas": format_label(atlas)}
    placed = [f"{key}-{own[key]}" for key in ("space", "cohort", "atlas", "res", "den") if key in own]
    return "_".join(source + placed)


def parse_entities(name: str) -> dict[str, str]:
    """Parse a BIDS file name into entities by short key, in order; suffix and extension may be missing."""
    parts = name.split(".", maxsplit=1)[0].split("_")
    return dict(part.split("-", 1) for part in parts if "-" in part)


def build_directory(out_dir: Path, run: Run) -> Path:
    """Return the directory of a run's outputs, ``OUT_DIR/sub-L/[ses-L/]func``."""
    session = run.entity("ses")
    parent = out_dir / f"sub-{run.entity('sub')}"
    return (parent / f"ses-{session}" if session else parent) / "func"
