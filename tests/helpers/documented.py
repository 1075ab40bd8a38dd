"""Compare the reference pages with what calls write: which files, columns and keys no page describes."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"

#: Sidecars of runs, which share keys.
_SHARING = ("*_timeseries.json", "*_bold.json", "*_relmat.json", "*_embedding.json")

#: What describes a column in a sidecar.
_COLUMN = {"Description", "Units", "Levels"}


@functools.cache
def read_page(name: str) -> str:
    """Read a page of the documentation, with the parts that the code writes."""
    spec = importlib.util.spec_from_file_location("generated", DOCS / "generated.py")
    assert spec is not None
    assert spec.loader is not None
    generated = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generated)
    page: str = generated.expand((DOCS / f"{name}.md").read_text(encoding="utf-8"))
    return page


@functools.cache
def read_sections(page: str) -> dict[str, set[str]]:
    """Read the names in the first column of all tables of a page, by the heading above them."""
    sections: dict[str, set[str]] = {}
    for part in re.split(r"^#+ ", read_page(page), flags=re.MULTILINE)[1:]:
        heading, _, text = part.partition("\n")
        # Of tables in Markdown, and of those that are lists.
        cells = re.findall(r"^\| *(`.*?`) *\|", text, re.MULTILINE) + re.findall(r"^\* - (`.*`)$", text, re.MULTILINE)
        sections.setdefault(heading, set()).update(name for cell in cells for name in re.findall(r"`([^`]+)`", cell))
    return sections


def _find_names(page: str, path: str) -> set[str]:
    """Find the names that a page describes for a file: those of the sections whose headings name it."""
    found = set()
    for heading, names in read_sections(page).items():
        for pattern in re.findall(r"`([^`]+)`", heading):
            if matches(path, pattern):
                found |= names
    return found


def matches(path: str, pattern: str) -> bool:
    """Tell whether a path, or its last part, is of a pattern as pages write them: ``phenotype/<Atlas><Model>.tsv``."""
    plain = re.sub(r"(<\w+>)+", "*", pattern)
    return fnmatchcase(path if "/" in plain else path.rpartition("/")[2], plain)


def _is_described(keys: tuple[str, ...], names: set[str]) -> bool:
    for name in names:
        parts = name.removesuffix("...").split(".")
        is_long_enough = len(keys) > len(parts) if name.endswith("...") else len(keys) == len(parts)
        if is_long_enough and all(map(fnmatchcase, keys, parts)):
            return True
    return False


def _walk(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield (*above, key), one
            yield from _walk(one, (*above, key))
    elif isinstance(value, list):
        for one in value:
            yield from _walk(one, above)


def find_undocumented(out_dir: Path) -> set[str]:
    """Find files that no pattern of the page on outputs names, and keys of sidecars that no page describes, as
    ``file: key``; columns are described on the page of columns."""
    files = [path for path in out_dir.rglob("*") if path.is_file()]
    patterns = set().union(*read_sections("reference/outputs").values())
    found = set()
    for path in files:
        name = path.relative_to(out_dir).as_posix()
        if not any(matches(name, pattern) for pattern in patterns):
            found.add(f"{name}: the file")
        if path.suffix == ".json" and ".signals" not in path.parts:
            found |= {f"{name}: {'.'.join(keys)}" for keys in _find_keys(name, json.loads(path.read_text()))}
    return found


def _find_keys(name: str, sidecar: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Find the keys of a sidecar that no page describes."""
    names = _find_names("reference/sidecars", name)
    if any(matches(name, pattern) for pattern in _SHARING):
        names |= read_sections("reference/sidecars")["Keys that several sidecars share"]
    columns = _find_names("reference/columns", f"{name.removesuffix('.json')}.tsv")
    if matches(name, "*_qc.json"):
        names |= _find_names("reference/columns", "group_qc.tsv")
    # Columns of the dataset that tables show beside their own, as they are there.
    columns |= {key for key, one in sidecar.items() if isinstance(one, dict) and "tables of the dataset" in str(one)}
    for keys, value in _walk(sidecar):
        is_column = isinstance(value, dict) and "Description" in value and value.keys() <= _COLUMN and len(keys) == 1
        if is_column and not keys[0].startswith("dim"):
            if keys[0] not in columns and not _is_described(keys, names):
                yield keys
        elif not set(keys[1:]) & _COLUMN and not keys[0].startswith("dim") and not _is_described(keys, names):
            yield keys
