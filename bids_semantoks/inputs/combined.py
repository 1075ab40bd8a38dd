"""Concatenated runs that a pipeline wrote in addition to the runs themselves, e.g. XCP-D ``--combine-runs``."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bids_semantoks.inputs.companions import drop
from bids_semantoks.inputs.names import GIFTI
from bids_semantoks.inputs.pairing import Candidate
from bids_semantoks.inputs.pipelines import XCPD
from bids_semantoks.inputs.selection import describe_labels

LOG = logging.getLogger(__name__)

# Entities that XCP-D omits from the name of a concatenation; the direction, if it combines several.
_COMBINED: Final = ("run", "dir")


def attach_parts(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Attach to each candidate without ``run-`` the runs it may be a concatenation of, judging by names alone."""
    by_key: dict[Any, list[Candidate]] = defaultdict(list)
    for one in candidates:
        for left_out in (_COMBINED, _COMBINED[:1]):
            if any(one.image.entity(key) is not None for key in left_out):
                by_key[_key(one, left_out)].append(one)
    found = []
    for one in candidates:
        parts: list[Candidate] = []
        if one.image.entity("run") is None:
            left_out = _COMBINED if one.image.entity("dir") is None else _COMBINED[:1]
            parts = [part for part in by_key[_key(one, left_out)] if part.image.source != one.image.source]
        # XCP-D also "concatenates" a single run if it has run-.
        n_least = 1 if one.derivative.source == XCPD else 2
        found.append(replace(one, parts=tuple(parts)) if len(parts) >= n_least else one)
    return found


def _key(candidate: Candidate, left_out: Sequence[str]) -> tuple[object, ...]:
    image = candidate.image
    return candidate.derivative.path, tuple(left_out), image.extension, drop(image, left_out)


def choose_parts_or_whole(chosen: Sequence[Candidate], asked: str) -> list[Candidate]:
    """Drop the concatenations among the chosen runs, or with ``whole`` their parts, and log it.

    A concatenation is as long as its parts together; if that cannot be determined, files by XCP-D are assumed to be
    one.
    """
    wholes = [one for one in chosen if one.parts and (_is_copy(one) if len(one.parts) == 1 else _is_sum(one))]
    if not wholes:
        return list(chosen)
    if asked == "whole":
        left_out = {part.image.path for one in wholes for part in one.parts}
        what, instead = "runs that are part of a concatenation", "use `parts` to read the separate runs"
    else:
        left_out = {one.image.path for one in wholes}
        what, instead = "concatenated runs", "use `whole` to read them instead of their parts"
    names = [Path(one.image.path).name for one in chosen if one.image.path in left_out]
    LOG.warning("Skipping %s (--combined-runs: %s): %s", what, instead, describe_labels(names))
    return [one for one in chosen if one.image.path not in left_out]


def _is_copy(whole: Candidate) -> bool:
    """Return whether a run repeats the values of its only part: all of a table, the first volume of an image."""
    import nibabel as nib
    import numpy as np

    from bids_semantoks.images.sizes import check_size

    first, second = whole.image.path, whole.parts[0].image.path
    try:
        if first.endswith(".tsv"):
            return Path(first).read_bytes() == Path(second).read_bytes()
        images: list[Any] = [nib.load(path) for path in (first, second)]
        if images[0].shape != images[1].shape or first.endswith(GIFTI):
            return False
        for path, image in zip((first, second), images, strict=True):
            check_size(Path(path), image.shape, image.get_data_dtype())
        volume = 0 if isinstance(images[0], nib.Cifti2Image) else (..., 0)
        values = [np.asarray(image.dataobj[volume]) for image in images]
        return np.array_equal(values[0], values[1], equal_nan=True)
    except Exception as error:  # noqa: BLE001 - a damaged file is reported with its run
        LOG.debug("Cannot compare %s and %s: %s", first, second, error)
        return False


def _is_sum(whole: Candidate) -> bool:
    """Return whether a run is as long as its parts: in rows or, if volumes were censored, in total volumes."""
    counted = False
    for count in (_count_full, _count_own):
        length, parts = count(whole), [count(part) for part in whole.parts]
        if length and all(parts):
            counted = True
            if length == sum(parts):
                return True
    if not counted:
        return whole.derivative.source == XCPD
    LOG.warning(
        "%s has no run- entity but its length does not match %s together; treating it as a separate run.",
        Path(whole.image.path).name,
        describe_labels(Path(part.image.path).name for part in whole.parts),
    )
    return False


def _count_full(candidate: Candidate) -> int:
    """Count the volumes in the censoring table; 0 if there is none that can be read."""
    is_listed = candidate.confounds is not None and candidate.derivative.source.is_denoised
    return _count_volumes(candidate.confounds) if is_listed and candidate.confounds else 0


def _count_own(candidate: Candidate) -> int:
    return _count_volumes(candidate.image.path)


def _count_volumes(path: str) -> int:
    """Count the volumes of a table or image without reading its values; 0 if that is impossible."""
    import nibabel as nib

    try:
        if path.endswith(".tsv"):
            with Path(path).open("rb") as file:
                return max(0, sum(bool(line.strip()) for line in file) - 1)
        image: Any = nib.load(path)
        if path.endswith(GIFTI):
            return len(image.darrays)
        return int(image.shape[0] if isinstance(image, nib.Cifti2Image) else image.shape[3])
    except Exception as error:  # noqa: BLE001 - a damaged file is reported with its run
        LOG.debug("Cannot count the volumes of %s: %s", path, error)
        return 0
