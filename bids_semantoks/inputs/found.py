"""Folded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bids_semantoks.bids_names import BidsFile, natural_key
from bids_semantoks.inputs.pipelines import OTHER, Layout, Pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Preprocessed BOLD image or parcel series table in any space, with its files."""

    image: BidsFile  # the BOLD image or the table
    mask: str | None  # for a table, the coverage of its parcels
    confounds: str | None  # for a table or a denoised image, the censored volumes
    sidecars: tuple[BidsFile, ...]  # the participant's *_bold.json; for a table also its *_timeseries.json
    derivative: Derivative
    tables: tuple[str, ...] = ()  # of the run: ICA-AROMA components, or motion
    partner: str | None = None  # right hemisphere if image is the left
    columns: tuple[str, ...] = ()  # of motion regressors without a header
    repetition_time: float | None = None  # s, overrides the sidecars

    def entity(self, key: str) -> str | None:
        """Get the image's value of an entity by short key, such as ``ses``; None if absent."""
        return dict(self.image.entities).get(key)

    @property
    def order(self) -> tuple[tuple[tuple[int, int, str], ...], ...]:
        """Sorting key: entities in BIDS order, numbers by value."""
        return tuple(natural_key(f"{key}-{value}") for key, value in self.image.entities)


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivative:
    """Derivative dataset to read."""

    name: str  # given by the user, else the folder name
    path: Path
    pipeline: str  # name and version, such as fMRIPrep 24.1.1
    # fmriprep (BOLD images), parcellated (*_timeseries.tsv), or aroma (components for another dataset's images)
    kind: str
    source: Pipeline = OTHER
    layout: Layout | None = None  # for data outside BIDS

    @property
    def is_denoised(self) -> bool:
        """Whether BOLD images are read that this pipeline already denoised."""
        return self.kind == "fmriprep" and self.source.is_denoised
