"""Find a run's repetition time by BIDS inheritance within its derivative dataset."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import DERIVED_ENTITIES, BidsFile, parse_name
from bids_semantoks.files import read_json

LOG = logging.getLogger(__name__)

# What sidecars of tables or images of the same run may name that the table of series does not.
_NOT_OF_RUN: Final = DERIVED_ENTITIES | {"echo", "part"}
# XCP-D writes this word for the frequency: one row a volume, however long that lasts.
_NO_FREQUENCY: Final = "TR"


def find_root_sidecars(root: Path, suffix: str = "bold") -> tuple[BidsFile, ...]:
    """List the ``*_<suffix>.json`` at the dataset root."""
    with os.scandir(root) as entries:
        paths = sorted(entry.path for entry in entries if entry.name.endswith(f"{suffix}.json"))
    parsed = (parse_name(path) for path in paths)
    return tuple(one for one in parsed if one is not None and one.suffix == suffix)


def find_repetition_time(image: BidsFile, sidecars: Iterable[BidsFile]) -> float | None:
    """Find the repetition time in s; None if no sidecar states it, or the deciding one is unreadable or not positive.

    The nearest sidecar whose entities the image all has, and that states RepetitionTime or SamplingFrequency, decides.
    For a series table, the ``*_bold.json`` of its run's images, wherever they are, follow its own sidecars.
    """
    pairs = set(image.entities)
    own: list[BidsFile] = []
    of_images: list[BidsFile] = []
    for one in sidecars:
        if one.suffix != image.suffix:
            if pairs.issuperset(pair for pair in one.entities if pair[0] not in _NOT_OF_RUN):
                of_images.append(one)
        elif pairs.issuperset(one.entities) and image.path.startswith(one.path.rpartition(os.sep)[0] + os.sep):
            own.append(one)
    for sidecar in (*_sort_nearest(own), *_sort_nearest(of_images)):
        try:
            content = read_json(Path(sidecar.path))
        except (OSError, ValueError) as error:
            is_link = Path(sidecar.path).is_symlink() and not Path(sidecar.path).exists()
            why = "its content is not here, fetch it with `datalad get`" if is_link else error
            LOG.warning("Sidecar %s cannot be read: %s", sidecar.path, why)
            return None
        if isinstance(content, dict) and "RepetitionTime" in content:
            return _check_positive(content["RepetitionTime"], "RepetitionTime", sidecar.path)
        if isinstance(content, dict) and content.get("SamplingFrequency", _NO_FREQUENCY) != _NO_FREQUENCY:
            frequency = _check_positive(content["SamplingFrequency"], "SamplingFrequency", sidecar.path)
            return None if frequency is None else 1.0 / frequency
    return None


def _sort_nearest(sidecars: list[BidsFile]) -> list[BidsFile]:
    """Sort by nearness of the folder, then by number of entities, most first."""
    return sorted(sidecars, key=lambda one: (-one.path.count(os.sep), -len(one.entities), one.path))


def _check_positive(value: object, key: str, path: str) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    unit = "seconds" if key == "RepetitionTime" else "Hz"
    LOG.warning("Sidecar %s: %s must be a positive number of %s, found %r", path, key, unit, value)
    return None
