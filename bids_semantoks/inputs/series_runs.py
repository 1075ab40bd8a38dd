"""Datasets of parcellated series: choose the tables to read and locate the table of their atlas."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.bids_names import SCHAEFER, BidsFile, group_by, name_schaefer, parse_name, sorted_naturally
from bids_semantoks.config import SelectionConfig
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.datasets import Dataset
from bids_semantoks.inputs.found import choose_parts_or_whole, find_candidates
from bids_semantoks.inputs.pairing import Candidate, run_key
from bids_semantoks.inputs.repetition_time import find_root_sidecars
from bids_semantoks.inputs.runs import (
    DEFAULT_SPACES,
    build_run,
    build_unread,
    choose_space,
    rank_coarseness,
    refuse_datasets,
    refuse_twins,
)
from bids_semantoks.inputs.selection import describe_labels, describe_nearest
from bids_semantoks.records import Run

LOG = logging.getLogger(__name__)

# Default choice among several tables of one run and atlas, best first.
_PREFERRED_DESC: Final = (None, "denoised")
_ATLAS_FOLDERS: Final = (("sourcedata", "atlases"), ("atlases",))


def find_series(
    dataset: Dataset, selection: SelectionConfig, participants: Sequence[str], *, atlas: str = ""
) -> tuple[str, tuple[Run, ...]]:
    """Choose the parcel series of one atlas and space: the atlas label and one run per table, in natural order. `atlas`
    is a label or the path of a table named after it; it may be empty or unmatched if the dataset has only one atlas.
    The label is empty for series of a layout without an atlas. In the runs, `bold` is the table. Raises InputError if
    nothing is selected or the atlas, space or cleaning is ambiguous."""
    candidates, unread = find_candidates(dataset, selection, participants, kind="parcellated")
    if not candidates:
        first = unread[0]
        raise InputError(
            f"None of the {len(unread)} series tables has a valid name, e.g. {first.path}: {first.why}.",
            hint="Rename them.",
        )
    label = _choose_atlas(candidates, atlas)
    of_atlas = [one for one in candidates if label_of(one.image) == label]
    space, modifiers = _choose_space(of_atlas, selection.space, label)
    wanted = [("space", space), *modifiers]
    chosen = _choose_tables(
        [one for one in of_atlas if all((one.image.entity(key) or "") == value for key, value in wanted)]
    )
    there = {run_key(one.image) for one in chosen}
    if missing := {run_key(one.image): one.image for one in candidates if run_key(one.image) not in there}:
        listed = describe_labels(Path(one.path).name for one in missing.values())
        LOG.warning("Skipping runs without series of atlas %s in %s: %s", label, space or "no space", listed)
    chosen = choose_parts_or_whole(sorted(chosen, key=lambda one: one.order), selection.combined_runs)
    roots = {one.derivative.path for one in chosen}
    inherited = {path: (*find_root_sidecars(path, "timeseries"), *find_root_sidecars(path)) for path in roots}
    runs = [build_run(one, inherited[one.derivative.path], dataset.raw_root) for one in chosen]
    return label, (*runs, *build_unread(unread, space))


def label_of(table: BidsFile, *, with_desc: bool = False) -> str:
    """Join atlas, segmentation and scale into a label; `with_desc` appends the description, as TemplateFlow does."""
    values = dict(table.entities)
    label = "".join(values.get(key, "") for key in ("atlas", "seg", "scale"))
    described = label + values.get("desc", "")
    # Up to 0.5, giga_connectome wrote the number of parcels as desc, before the cleaning.
    sized = SCHAEFER.match(described) if not SCHAEFER.fullmatch(label) else None
    return described if with_desc else sized[0] if sized else label


def find_atlas_tables(dataset: Dataset, label: str, space: str) -> tuple[Path, ...]:
    """List the ``*_dseg.tsv`` of an atlas below ``sourcedata/atlases`` and ``atlases``, those in this space first."""
    if not label:
        return ()
    found: list[tuple[bool, str]] = []
    for derivative in dataset.derivatives:
        for parts in _ATLAS_FOLDERS:
            for path in derivative.path.joinpath(*parts).rglob("*_dseg.tsv"):
                name = parse_name(str(path))
                if name is not None and label in (label_of(name), label_of(name, with_desc=True)):
                    keys = dict(name.entities)
                    found.append((keys.get("tpl", keys.get("space")) != space, str(path)))
    return tuple(Path(path) for _, path in sorted(found))


def _choose_atlas(candidates: Sequence[Candidate], asked: str) -> str:
    labels = sorted_naturally(label_of(one.image) for one in candidates)
    wanted = {asked, asked.removeprefix("atlas-").removeprefix("seg-")}
    if (name := parse_name(asked)) is not None:
        wanted |= {label_of(name), label_of(name, with_desc=True)}
    names = {name_schaefer(one) for one in wanted}
    chosen = [label for label in labels if label in wanted] or [one for one in labels if name_schaefer(one) in names]
    if len(chosen) == 1:
        return chosen[0]
    if len(labels) == 1:
        return labels[0]
    where = candidates[0].derivative.path
    # The encoder's parcellation is a better example than the first in the list.
    example = next((one for one in labels if name_schaefer(one) == "Schaefer400"), labels[0])
    raise InputError(
        f"{where} contains series of {len(labels)} atlases ({', '.join(labels)}); expected one"
        f"{f', and --atlas {asked} matches none of them' if asked else ''}.",
        hint=f"Choose one with --atlas, e.g. --atlas {example}. {describe_nearest([asked], labels) if asked else ''}",
    )


def _choose_space(candidates: Sequence[Candidate], asked: str | None, label: str) -> tuple[str, list[tuple[str, str]]]:
    """Choose the requested, the only or a default space; series may have none."""
    spaces = sorted_naturally(one.image.entity("space") or "" for one in candidates)
    if asked is not None:
        return choose_space(candidates, asked, ())
    usual = [space for space in DEFAULT_SPACES if space in spaces]
    if len(spaces) > 1 and not usual:
        listed = ", ".join(space or "none named" for space in spaces)
        raise InputError(f"Series of atlas {label} exist in several spaces: {listed}.", hint="Choose one with --space.")
    return (usual[0] if len(spaces) > 1 else spaces[0]), []


def _choose_tables(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Choose the finest table of each run; InputError if two cleanings or two datasets compete."""
    by_run = group_by(candidates, lambda one: run_key(one.image))
    chosen = []
    for tables in by_run.values():
        if len({one.derivative.path for one in tables}) > 1:
            refuse_datasets(tables[0].image.path, tables[-1].image.path)
        finest = min(map(rank_coarseness, tables))
        left = [one for one in tables if rank_coarseness(one) == finest]
        desc = next((desc for desc in _PREFERRED_DESC if any(one.image.entity("desc") == desc for one in left)), "")
        preferred = [one for one in left if one.image.entity("desc") == desc] or left
        if len(preferred) > 1:
            if len({one.image.entities for one in preferred}) < len(preferred):
                refuse_twins(preferred[0].image.path, preferred[1].image.path)
            names = describe_labels([Path(one.image.path).name for one in preferred])
            raise InputError(
                f"Several tables have series of the same run and atlas: {names}.",
                hint='Choose one with --bids-filter-file, e.g. {"bold": {"desc": '
                f'"{preferred[0].image.entity("desc") or "denoised"}"}}}}.',
            )
        chosen += preferred
    return chosen
