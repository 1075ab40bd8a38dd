"""Names of output files: every source entity is kept, so two runs never share a name."""

from __future__ import annotations

from pathlib import Path

from bids_semantoks.bids_names import format_label
from bids_semantoks.records import Run

#: Entities that our names place themselves, after those of the source.
_OWN = ("space", "cohort", "atlas", "seg", "scale", "res", "den", "stat", "label", "desc")


def build_stem(run: Run, atlas: str) -> str:
    """Build the stem of all outputs of a run and atlas: ``<source>_space-S[_cohort-C]_atlas-A[_res-R][_den-D]``."""
    entities = dict(run.entities)
    source = [f"{key}-{value}" for key, value in run.entities if key not in _OWN]
    own = {**entities, "atlas": format_label(atlas)}
    placed = [f"{key}-{own[key]}" for key in ("space", "cohort", "atlas", "res", "den") if key in own]
    return "_".join(source + placed)


def build_directory(out_dir: Path, run: Run) -> Path:
    """Return the directory of a run's outputs, ``OUT_DIR/sub-L/[ses-L/]func``."""
    session = run.entity("ses")
    parent = out_dir / f"sub-{run.entity('sub')}"
    return (parent / f"ses-{session}" if session else parent) / "func"
