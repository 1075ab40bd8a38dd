"""Repetition time of parcel series whose sidecars give none, from the header of an image of the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Final

from bids_semantoks.errors import RunFailed, RunSkipped
from bids_semantoks.images.volumes import load_volumes
from bids_semantoks.records import Run
from bids_semantoks.signals.parcellated_cifti import PTSERIES, load_parcel_series
from bids_semantoks.signals.surfaces import is_surface, load_surface_header

# What follows the entities of a run in the names of its derivatives.
_DERIVED: Final = r"_(?:space|cohort|atlas|seg|scale|res|den|stat|desc)-.*"
# Cheapest first: a series of parcels, then images, of which only headers are read.
_ENDS: Final = (PTSERIES, "_bold.dtseries.nii", "_bold.nii.gz", "_bold.nii")


def find_header_time(run: Run) -> tuple[float, Path] | None:
    """Find the repetition time (s) of a run of parcel series in a header of its CIFTI or NIfTI files, and that file;
    None where there is none."""
    source = re.sub(f"{_DERIVED}$", "", run.bold.name)
    of_run = re.compile(re.escape(source) + _DERIVED)
    siblings = sorted(path for path in run.bold.parent.iterdir() if of_run.fullmatch(path.name) and path != run.bold)
    for end in _ENDS:
        for path in (run.bold, *siblings):
            if path.name.endswith(end) and (time := _read_time(run, path)):
                return time, path
    return None


def _read_time(run: Run, path: Path) -> float | None:
    # A file that is damaged or was never fetched says nothing; the series are read without it.
    with contextlib.suppress(RunFailed, RunSkipped):
        if path.name.endswith(PTSERIES):
            return load_parcel_series(path)[2]
        if is_surface(path):
            return load_surface_header(dataclasses.replace(run, bold=path)).repetition_time
        return load_volumes(path).repetition_time
    return None
