"""Filter files in the format of fMRIPrep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bids_semantoks.bids_names import BidsFile
from bids_semantoks.errors import InputError
from bids_semantoks.inputs.selection import is_same_value

# pybids' names of entities, which filter files use, and the keys of file names.
_LONG_NAMES: Final = {
    "subject": "sub",
    "session": "ses",
    "sample": "sample",
    "task": "task",
    "acquisition": "acq",
    "ceagent": "ce",
    "tracer": "trc",
    "reconstruction": "rec",
    "direction": "dir",
    "run": "run",
    "modality": "mod",
    "echo": "echo",
    "part": "part",
    "proc": "proc",
    "hemi": "hemi",
    "hemisphere": "hemi",
    "space": "space",
    "cohort": "cohort",
    "chunk": "chunk",
    "recording": "recording",
    "resolution": "res",
    "density": "den",
    "description": "desc",
    "suffix": "suffix",
    "extension": "extension",
    "datatype": "datatype",
}
_FILTER_KEYS: Final = {**_LONG_NAMES, **{key: key for key in _LONG_NAMES.values()}}
# Entries that other apps read from the same file; they are no mistake, and none of our business.
_OTHER_QUERIES: Final = frozenset({"fmap", "sbref", "flair", "t1w", "t2w", "roi", "asl", "m0scan", "dwi", "pet"})
_ABSENT: Final = (None, "Query.NONE")
_ANY: Final = ("*", "Query.ANY", "Query.REQUIRED")
_OPTIONAL: Final = ("Query.OPTIONAL",)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoldFilter:
    """The ``bold`` entry of a filter file."""

    path: Path
    # (entity key, accepted values); None if the entity must be absent, * for any value
    accepted: tuple[tuple[str, tuple[str | None, ...]], ...]
    warnings: tuple[str, ...]  # one message per ignored entry

    def accepts(self, image: BidsFile) -> bool:
        """Tell whether every entity in the filter accepts the image's value."""
        values: dict[str, str | None] = {
            **dict(image.entities),
            "suffix": image.suffix,
            "extension": image.extension,
            "datatype": "func",
        }
        return all(_accepts_value(key, values.get(key), accepted) for key, accepted in self.accepted)


def read_filter(path: Path) -> BoldFilter:
    """Read a JSON filter, such as ``{"bold": {"task": "rest", "session": ["1", null]}}``, where null means absent and
    ``*`` any value. InputError if the file is unreadable or malformed."""
    hint = 'Expected a JSON object such as {"bold": {"task": "rest", "session": ["1", "2"]}}.'
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"Filter file {path} cannot be read: {error}.", hint=hint) from error
    bold = content.get("bold", {}) if isinstance(content, dict) else None
    if not isinstance(bold, dict):
        raise InputError(f"Filter file {path} must hold a JSON object with an object 'bold' in it.", hint=hint)
    others = sorted(set(content) - {"bold"} - _OTHER_QUERIES)
    warnings = [f"Filter file {path} has the key {key!r}, which is not known and was ignored." for key in others]
    if "bold" not in content:
        warnings.append(f"Filter file {path} has no 'bold' entry: it filters nothing.")
    accepted = []
    for name, value in bold.items():
        if name in _FILTER_KEYS:
            accepted.append((_FILTER_KEYS[name], _read_values(path, name, value)))
        else:
            warnings.append(f"Filter file {path} has the entity {name!r}, which is not known and was ignored.")
    return BoldFilter(path=path, accepted=tuple(accepted), warnings=tuple(warnings))


def _read_values(path: Path, name: str, value: Any) -> tuple[str | None, ...]:
    values: list[str | None] = []
    for item in value if isinstance(value, list) else [value]:
        if item in _ABSENT:
            values.append(None)
        elif item in _OPTIONAL:
            values.extend((None, "*"))
        elif isinstance(item, str | int) and not isinstance(item, bool):
            values.append("*" if item in _ANY else str(item))
        else:
            raise InputError(
                f"Filter file {path}: {name!r} must be text, a whole number, null or a list of these, found {item!r}."
            )
    return tuple(values)


def _accepts_value(key: str, value: str | None, accepted: tuple[str | None, ...]) -> bool:
    if value is None:
        return None in accepted
    prefix = f"{key}-"
    return any(
        asked == "*" or (asked is not None and is_same_value(key, value, asked.removeprefix(prefix)))
        for asked in accepted
    )
