"""Codes and words that may mean missing in a column of people, and what the sidecar says of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

# 9, 99, -999, ... and those of refused and unknown answers, and what UK Biobank writes for these.
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
    """Spell a number in one way, so that -9999 and -9999.0 are the same; other text stays."""
    number = parse_number(str(text))
    return str(text).strip() if number is None else repr(number)


def read_levels(entry: object) -> tuple[frozenset[str], frozenset[str]]:
    """Read what the sidecar's entry of a column says: its levels, and the values that mean missing, both spelt.

    Missing are ``MissingValues`` (also those of ``Annotations``, as Neurobagel and nipoppy write them) and ``Levels``
    whose description says so.
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
    """Tell whether the description of a level, or its first part, is a word for missing."""
    if isinstance(description, Mapping):
        description = description.get("Description", description.get("Label", ""))
    first = re.split(r"[,;:(/]|\bor\b", str(description).replace("n/a", "na").casefold())[0].strip(" .")
    return first in _WORDS - {"none"}


def find_suspects(labels: Iterable[str], levels: Collection[str]) -> dict[str, int]:
    """Find labels that often mean missing, with their counts: words beside other values, and codes that are the only
    negative numbers, or farther from all others than these are from each other. `levels` (spelt) are values."""
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
    # Minus one and minus three are codes of answers in a list, and ordinary numbers elsewhere.
    is_list = len(others) > 2 and all(number.is_integer() for number in others)
    is_only_negative = code < 0 <= first and (code <= -7 or is_list)
    return is_only_negative or (gap > max(last - first, 4) and abs(code) >= 7 and (len(others) > 1 or abs(code) >= 99))
