"""Find surface BOLD series: CIFTI, and pairs of GIFTI files that form one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

from bids_semantoks.bids_names import BidsFile
from bids_semantoks.inputs.pipelines import Pipeline

SURFACE_ENDS: Final = ("_bold.dtseries.nii", "_bold.func.gii")
_CIFTI: Final = ".dtseries.nii"
_GIFTI: Final = ".func.gii"
# The usual densities of template surfaces come first: atlases are made for them.
_DENSITIES: Final = ("91k", "32k", "10k", "170k", "59k", "41k", "164k")


def is_surface_file(name: str) -> bool:
    """Tell surface series from images by the file ending."""
    return name.endswith((_CIFTI, _GIFTI))


def is_read(desc: str | None, pipeline: Pipeline) -> bool:
    """Tell whether surface series with this ``desc`` are read: one of the pipeline's, or none unless it denoises."""
    return desc in pipeline.descs or (desc is None and not pipeline.is_denoised)


def find_surface_files(files: Iterable[BidsFile], pipeline: Pipeline) -> list[tuple[BidsFile, str | None]]:
    """List a participant's surface series, each with the path of the right hemisphere if its file is the left one.

    The hemisphere is dropped from the entities; the path is None for CIFTI or a missing hemisphere.
    """
    found: dict[tuple[frozenset[tuple[str, str]], str], dict[str, BidsFile]] = {}
    for file in files:
        keys = dict(file.entities)
        hemisphere = keys.get("hemi", "")
        is_whole = file.extension == _CIFTI and not hemisphere
        is_half = file.extension == _GIFTI and hemisphere in ("L", "R")
        if file.suffix == "bold" and (is_whole or is_half) and is_read(keys.get("desc"), pipeline):
            run = frozenset(pair for pair in file.entities if pair[0] not in ("hemi", "desc"))
            pair = found.setdefault((run, file.extension), {})
            if hemisphere not in pair or _rank_desc(file, pipeline) < _rank_desc(pair[hemisphere], pipeline):
                pair[hemisphere] = file
    whole: list[tuple[BidsFile, str | None]] = []
    for pair in found.values():
        first = pair.get("") or pair.get("L") or pair["R"]
        right = pair.get("R") if "L" in pair else None
        whole.append((drop_hemisphere(first), right.path if right else None))
    return whole


def drop_hemisphere(file: BidsFile) -> BidsFile:
    """Drop the hemisphere from a file's entities, since it does not distinguish runs."""
    if not any(key == "hemi" for key, _ in file.entities):
        return file
    return dataclasses.replace(file, entities=tuple(pair for pair in file.entities if pair[0] != "hemi"))


def rank_density(file: BidsFile) -> tuple[int, int, str]:
    """Build a sorting key for the files of a run in one space: image, CIFTI, GIFTI; usual densities first."""
    if not is_surface_file(file.path):
        return 0, 0, ""
    density = dict(file.entities).get("den", "")
    rank = _DENSITIES.index(density) if density in _DENSITIES else len(_DENSITIES)
    return (_CIFTI, _GIFTI).index(file.extension) + 1, rank, density


def _rank_desc(file: BidsFile, pipeline: Pipeline) -> int:
    desc = dict(file.entities).get("desc")
    return pipeline.descs.index(desc) + 1 if desc in pipeline.descs else 0
