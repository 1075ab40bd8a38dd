"""Transforms of images between template spaces: how TemplateFlow names them, which it has, and where they are
stored."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.registry import Places, find_archived
from bids_semantoks.errors import AtlasError
from bids_semantoks.files import read_json
from bids_semantoks.runtime.downloads import TEMPLATEFLOW, TEMPLATEFLOW_SERVER, Pin, download, find_obstacle

# Returns the download directory, laid out like our cache; called only if something is downloaded.
Target = Callable[[], Path]

# Ways of writing a cohort in names and --space: MNIInfant+1, MNIInfant:cohort-1, MNIInfant_cohort-1.
_COHORT: Final = re.compile(r"([A-Za-z0-9]+)(?:\+|[:_]cohort-)([A-Za-z0-9]+)")


def split_cohort(space: str) -> tuple[str, str]:
    """Split a space into template and cohort, which is empty if the space has none."""
    found = _COHORT.fullmatch(space)
    return (found[1], found[2]) if found else (space, "")


def join_cohort(template: str, cohort: str | None) -> str:
    """Join template and cohort as TemplateFlow does: ``MNIInfant+1``; the space alone without a cohort."""
    own, named = split_cohort(template)
    return f"{own}+{cohort or named}" if cohort or named else template


def name_transform(source: str, target: str) -> str:
    """Return the path of an image transform in TemplateFlow's archive; it maps points from `target` to `source`."""
    template, cohort = split_cohort(target)
    folder, stem = f"tpl-{template}", f"tpl-{template}"
    if cohort:
        folder, stem = f"{folder}/cohort-{cohort}", f"{stem}_cohort-{cohort}"
    return f"{folder}/{stem}_from-{join_cohort(source, None)}_mode-image_xfm.h5"


@functools.cache
def load_published() -> dict[str, Pin]:
    """Load the list of transforms in TemplateFlow's archive with their checksums, by path."""
    content = read_json(Path(str(files("bids_semantoks"))) / "data" / "templateflow.json")
    return {path: Pin(md5=md5, size=size) for path, (md5, size) in content["transforms"].items()}


def describe_absence(source: str, space: str) -> str:
    """Describe that TemplateFlow has no transform from `source` to `space`; empty if it has one."""
    if name_transform(source, space) in load_published():
        return ""
    template, cohort = split_cohort(space)
    pattern = re.compile(re.escape(name_transform(source, f"{template}+0")).replace(r"cohort\-0", r"cohort\-(\d+)"))
    cohorts = sorted(int(found[1]) for path in load_published() if (found := pattern.fullmatch(path)))
    if cohorts and not cohort:
        return f"TemplateFlow's transforms are to cohorts of {space}; choose one (--space {space}:cohort-{cohorts[0]})"
    listed = f", only to the cohorts {cohorts[0]} to {cohorts[-1]}" if cohorts else ""
    return f"TemplateFlow has no transform from {source} to {join_cohort(space, None)}{listed}"


def find_transform(source: str, space: str, places: Places, target: Target | None = None) -> Path | None:
    """Find the transform of images from template space `source` to `space`, downloading it if there is a target. Raises
    AtlasError if TemplateFlow has none or the download fails."""
    name = name_transform(source, space)
    found = find_archived(name, places)
    if found is None and target is not None:
        if obstacle := describe_absence(source, space):
            raise AtlasError(f"{obstacle}.")
        if obstacle := find_obstacle(TEMPLATEFLOW_SERVER):
            raise AtlasError(f"{Path(name).name} is not available locally, and {obstacle}.")
        found = target() / TEMPLATEFLOW / name
        download(f"{TEMPLATEFLOW_SERVER}/{name}", found, pin=load_published()[name])
    return found
