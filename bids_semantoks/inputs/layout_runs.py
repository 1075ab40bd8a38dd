"""Runs of data outside BIDS, located by a JSON layout."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bids_semantoks.bids_names import ENTITY_ORDER, BidsFile, sorted_naturally
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.derivatives import Derivative
from bids_semantoks.inputs.layouts import Layout, RunPattern, fill_pattern, find_layout_files
from bids_semantoks.inputs.pairing import Candidate

# Folders that people keep beside those of participants.
_NO_PARTICIPANTS: Final = frozenset({"derivatives", "code", "sourcedata", "logs"})


def find_layout_participants(derivative: Derivative, layout: Layout) -> tuple[str, ...]:
    """List the labels whose folder (or first file) exists, in natural order."""
    labels: set[str] = set()
    for pattern in layout.runs:
        parts = pattern.bold.split("/")
        n_parts = 1 + next(i for i, part in enumerate(parts) if "{participant}" in part or "{sub}" in part)
        found = find_layout_files(derivative.path, "/".join(parts[:n_parts]))
        labels.update(values["sub"] for values in found)
    return sorted_naturally(labels - _NO_PARTICIPANTS)


def find_layout_candidates(derivative: Derivative, layout: Layout, participants: Sequence[str]) -> Iterator[Candidate]:
    """Yield the images with their masks and confounds; InputError if two images would be the same run."""
    seen: dict[tuple[tuple[str, str], ...], str] = {}
    for pattern in layout.runs:
        for values in find_layout_files(derivative.path, pattern.bold, participants):
            one = _build_candidate(derivative, layout, pattern, values)
            other = seen.setdefault(one.image.entities, one.image.path)
            if other != one.image.path:
                raise InputError(
                    f"The layout {layout.name} gives two images the same entities: {other} and {one.image.path}.",
                    hint="Name what tells them apart, in braces or under entities.",
                )
            yield one


def _build_candidate(
    derivative: Derivative, layout: Layout, pattern: RunPattern, values: Mapping[str, str]
) -> Candidate:
    root = str(derivative.path)
    named = {**values, **dict(pattern.entities), "space": layout.space}
    paths = {
        key: os.path.join(root, fill_pattern(text, values)) if text else None  # noqa: PTH118
        for key, text in (("bold", pattern.bold), ("mask", pattern.mask), ("confounds", pattern.confounds))
    }
    bold, confounds = paths["bold"], paths["confounds"]
    mask = paths["mask"] if paths["mask"] and os.path.lexists(paths["mask"]) else None
    confounds = confounds if confounds and os.path.lexists(confounds) else None
    assert bold is not None
    return Candidate(
        image=BidsFile(
            path=bold,
            entities=tuple((key, named[key]) for key in ENTITY_ORDER if key in named),
            suffix="bold",
            extension=".nii.gz" if bold.endswith(".gz") else ".nii",
        ),
        mask=mask,
        # Of denoised images confounds would be censored volumes; movement regressors tell how much a person moved.
        confounds=None if layout.is_denoised else confounds,
        sidecars=(),
        derivative=derivative,
        tables=(confounds,) if layout.is_denoised and confounds else (),
        columns=pattern.columns if confounds else (),
        repetition_time=pattern.repetition_time,
    )
