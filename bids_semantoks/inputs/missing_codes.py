"""Codes and words that may mean missing in a phenotype column, and their description in the sidecar."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

# 9, 99, -999, ..., codes of refused and unknown answers, and those of UK Biobank.
_CODE: Final = re.compile(r"-[13]|[-+]?(7+|8+|9+)")
_WORDS: Final = frozenset(
    {
        *("unknown", "unk", "missing", "none", "no data", "nodata", "no answer", "no response", "undefined"),
        *("not available", "not applicable", "not reported", "not recorded", "not collected", "not known", "not done"),
        *("not assessed", "not administered", "not answered", "not tested", "not specified", "unspecified", "invalid"),
        *("refused", "declined", "refuse to answer", "refused to answer", "declined to answer", "prefer not to answer"),
        *("prefer not to say", "don't know", "dont know", "do not know", "no information", "?", "-", "--"),
        *("missing data", "missing value", "missing values", "missing response", "na", "n/a", "nan", "null", "n.a."),
    }
)


def parse_number(text: str) -> float | None:
    """Parse a finite number; None for anything else, including 1_000, which float() accepts."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def spell(text: object) -> str:
    """Normalise the spelling of a number, so that -9999 and -9999.0 are equal; other text is unchanged."""
    number = parse_number(str(text))
    return str(text).strip() if number is None else repr(number)


def read_levels(entry: object) -> tuple[frozenset[str], frozenset[str]]:
    """Read a column's sidecar entry: its levels, and the values that mean missing, both normalised.

    Missing are ``MissingValues`` (also within ``Annotations``, as written by Neurobagel and nipoppy) and ``Levels``
    described as such.
    """
    if not isinstance(entry, Mapping):
        return frozenset(), frozenset()
    notes = entry.get("Annotations")
    missing = [
        *_list(entry.get("MissingValues")),
        *_list(notes.get("MissingValues") if isinstance(notes, Mapping) else []),
    ]
    levels = entry.get("Levels")
    described = levels if isinstance(levels, Mapping) else dict.fromkeys(_list(levels), "")
    missing += [code for code, text in described.items() if _says_missing(text)]
    codes = frozenset(map(spell, missing))
    return frozenset(map(spell, described)) - codes, codes


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _says_missing(description: object) -> bool:
    """Return whether the description of a level, or its first part, is a word for missing."""
    if isinstance(description, Mapping):
        description = description.get("Description", description.get("Label", ""))
    first = re.split(r"[,;:(/]|\bor\b", str(description).replace("n/a", "na").casefold())[0].strip(" .")
    return first in _WORDS - {"none"}


def find_suspects(labels: Iterable[str], levels: Collection[str]) -> dict[str, int]:
    """Find labels that often mean missing, with their counts: words beside other values, and codes that are the only
    negative numbers, or farther from all others than these are from each other. `levels` (normalised) are values."""
    counts = Counter(labels)
    numbers = {label: number for label in counts if (number := parse_number(label)) is not None}
    codes = {label for label in numbers if _CODE.fullmatch(re.sub(r"\.0+$", "", label)) and spell(label) not in levels}
    words = {label for label in counts if label.casefold() in _WORDS and spell(label) not in levels}
    others = sorted(number for label, number in numbers.items() if label not in codes)
    if len(counts) == len(codes | words):
        return {}
    return {
        label: counts[label]
        for label in counts
        if label in words or (label in codes and _is_apart(numbers[label], others))
    }


def _is_apart(code: float, others: list[float]) -> bool:
    if not others:
        return True
    first, last = others[0], others[-1]
    gap = max(first - code, code - last)
    # -1 and -3 are answer codes in UK Biobank lists, and ordinary numbers elsewhere.
    is_list = len(others) > 2 and all(number.is_integer() for number in others)
    is_only_negative = code < 0 <= first and (code <= -7 or is_list)
    return is_only_negative or (gap > max(last - first, 4) and abs(code) >= 7 and (len(others) > 1 or abs(code) >= 99))
