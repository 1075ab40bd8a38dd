"""Files in a user-given directory that an atlas does not use, and why."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bids_semantoks.atlases.registry import (
    Entry,
    LabelFile,
    Places,
    has_other_mesh,
    is_there,
    list_registered,
    load_entry,
)

_LABELS: Final = (".nii", ".nii.gz", ".annot", ".label.gii", ".gii.gz", ".mgz", ".h5")

#: Names that are closer than this to an expected one are treated as misspellings.
_CLOSE: Final = 0.9

_N_NAMED: Final = 20


def describe_unused(
    entry: Entry, space: str, places: Places, used: Iterable[Path] = (), *, is_strict: bool = False
) -> str:
    """Describe label files and transforms in the given directories that are not used; empty for none. `is_strict`
    lists only those that were probably intended: empty files, and those with a similar name."""
    taken = {path.resolve() for path in used}
    lines = []
    for folder in places.given:
        for name, paths in sorted(places.contents.get(folder, {}).items()):
            for path in paths if name.endswith(_LABELS) else ():
                reason, is_meant = _explain(path, entry, space)
                if path.resolve() not in taken and (is_meant or not is_strict):
                    lines.append(f"{path.relative_to(folder)} ({reason})")
    more = f" and {len(lines) - _N_NAMED} more" if len(lines) > _N_NAMED else ""
    return ", ".join(lines[:_N_NAMED]) + more


def _explain(path: Path, entry: Entry, space: str) -> tuple[str, bool]:
    """Explain why a file is not used, and whether it was probably intended."""
    own = {name: file for file in _list_files(entry.recipes.get(space, ())) for name in _names(file)}
    if path.name in own:
        if not is_there(path):
            return "empty or a link without content", True
        size = own[path.name].n_vertices
        return (
            ("for another mesh", True) if size and has_other_mesh(path, size) else ("another file was preferred", False)
        )
    for other, recipes in entry.recipes.items():
        if any(path.name in _names(file) for file in _list_files(recipes)):
            return f"for data in {other}", False
    if path.name.endswith("_xfm.h5"):
        return "a transform to another space", False
    for registered in (entry.path, *list_registered()):
        for on_surfaces in (False, True):
            some = load_entry(registered, on_surfaces=on_surfaces).recipes.values()
            if any(path.name in _names(file) for recipes in some for file in _list_files(recipes)):
                return f"for {'data on surfaces' if on_surfaces else 'images'} and {registered.stem}", False
    if near := difflib.get_close_matches(path.name, own, n=1, cutoff=_CLOSE):
        return f"unknown name; expected {near[0]}", True
    return f"not a file of {entry.name}", False


def _list_files(recipes: Sequence[Sequence[LabelFile]]) -> list[LabelFile]:
    return [file for recipe in recipes for file in recipe]


def _names(file: LabelFile) -> set[str]:
    return {name.rsplit("/", 1)[-1] for name in file.names}
