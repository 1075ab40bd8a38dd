"""Rules that leave out runs by a column of their table of quality, as written on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bids_semantoks.config.options import check

#: The longer operators first, so that >= is not read as > before a value that starts with =.
_OPERATORS: Final = (">=", "<=", "!=", "==", ">", "<", "=")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A comparison that leaves out the runs that meet it."""

    column: str
    operator: str  # >, >=, <, <=, = or !=
    value: str
    text: str  # as written

    @property
    def number(self) -> float | None:
        """The value as a number; None for text."""
        try:
            return float(self.value)
        except ValueError:
            return None


def parse_rule(text: str) -> Rule:
    """Parse ``COLUMN OP VALUE``, with or without spaces. Raises ConfigurationError for anything else."""
    column, operator, value = "", "", ""
    if found := re.search("|".join(map(re.escape, _OPERATORS)), text):
        column, operator, value = text[: found.start()].strip(), found[0], text[found.end() :].strip()
    check(
        bool(column and value),
        f"--exclude-by needs COLUMN OP VALUE with one of {', '.join(op for op in _OPERATORS if op != '==')}, "
        f"found {text!r:.80}.",
        "For example 'mean_fd>0.3', in quotes, since the shell would write to a file otherwise.",
    )
    rule = Rule(column=column, operator="=" if operator == "==" else operator, value=value, text=text)
    check(
        rule.operator in ("=", "!=") or (rule.number is not None and rule.number == rule.number),
        f"--exclude-by {text!r:.80} compares with {value!r:.40}, which is not a number.",
        "Compare text with = or !=.",
    )
    return rule
