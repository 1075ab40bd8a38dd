"""One image outside BIDS, described as a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from bids_semantoks.atlases.load import find_all_spaces
from bids_semantoks.bids_names import parse_entities
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.repetition_time import find_given_time
from bids_semantoks.records import Run

LOGGER = logging.getLogger("bids_semantoks")


def describe_image(
    bold: str | Path,
    companions: Mapping[str, str | Path | None],
    *,
    atlas: str,
    repetition_time: float | None,
    space: str | None,
) -> tuple[Run, tuple[str, ...]]:
    """Describe a BOLD image and its `companions`, mask and confounds, as a run, with notes. Its space is the one given,
    that in its name, or the first of the atlas; InputError if a file is not there."""
    path = _find(bold, "image")
    entities = parse_entities(path.name)
    named, notes = space or entities.get("space"), []
    if named is None:
        named = find_all_spaces(atlas, directory=None)[0]
        notes.append(f"{path.name} has no template space in its name; assuming {named}, the first space of {atlas}.")
        LOGGER.warning("%s Set space= if this is wrong.", notes[0])
    entities = {"sub": "x", **entities, "space": named}
    time, source = find_given_time(repetition_time, path.with_name(f"{path.name.partition('.')[0]}.json"))
    mask, confounds = (_find(one, name) if one else None for name, one in companions.items())
    run = Run(
        entities=tuple(entities.items()),
        bold=path,
        mask=mask,
        confounds=confounds,
        repetition_time=time,
        time_source=source,
        pipeline="another program",
        dataset=Path(path.anchor),
        missing=(("mask", "Pass it as mask=."), ("confounds", 'Pass it as confounds=, or use denoise="none".')),
    )
    return run, tuple(notes)


def _find(path: str | Path, what: str) -> Path:
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise InputError(f"The {what} {found} does not exist.", hint="Give the path to a file.")
    return found
