"""Errors shown to users, each with its exit code and a hint, and text escaped for where it is shown."""

from __future__ import annotations

import argparse
import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final


class SemantoksError(Exception):
    """Base of errors that end a call; the message has what was found where and what was expected, the hint a remedy."""

    exit_code = 1

    def __init_subclass__(cls, *, exit_code: int | None = None) -> None:
        cls.exit_code = cls.exit_code if exit_code is None else exit_code

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InputError(SemantoksError, exit_code=3):
    """A directory, participant, session, task, filter, space or phenotype was not found."""


class ConfigurationError(SemantoksError, exit_code=4):
    """The options are invalid or contradict each other or the outputs on disk."""


class ResourceError(SemantoksError, exit_code=5):
    """Memory, disk space or the requested device is not available."""


class AtlasError(SemantoksError, exit_code=6):
    """The atlas was not found, is damaged, or does not fit the data or the encoder."""


class ModelError(SemantoksError, exit_code=6):
    """The encoder was not found, is damaged, or does not fit the atlas."""


class TrainingStopped(SemantoksError, exit_code=8):
    """Pretraining saved its state and stopped early; the same call resumes it."""


class TrainingDiverged(SemantoksError, exit_code=9):
    """Pretraining diverged or collapsed; the last good checkpoint is kept."""


class RunError(SemantoksError):
    """Base of errors that end one run, for one of `reasons`; the other runs continue."""

    reasons: tuple[str, ...] = ()

    def __init__(self, reason: str, message: str, *, hint: str = "") -> None:
        assert reason in self.reasons
        super().__init__(message, hint=hint)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default pickling, which worker processes rely on.
        return functools.partial(type(self), hint=self.hint), (self.reason, self.message)


class RunFailed(RunError, exit_code=7):
    """One run cannot be processed."""

    reasons = (
        *("unreadable_name", "no_mask", "no_confounds", "no_repetition_time", "bad_confounds", "bad_image"),
        *("damaged_table", "space_mismatch", "low_coverage", "out_of_memory", "disk_full", "internal"),
    )


class RunSkipped(RunError, exit_code=0):
    """One run is skipped; not an error."""

    reasons = ("too_short", "too_few_kept", "no_content")


def name_some(items: Sequence[object]) -> str:
    """List at most five items, and how many more there are, for a message."""
    return ", ".join(str(item) for item in items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")


def list_twice(items: Iterable[Any]) -> list[Any]:
    """List the items that occur more than once, sorted."""
    return sorted(item for item, count in Counter(items).items() if count > 1)


def name_count(number: int, one: str, many: str = "") -> str:
    """Write a number of things, ``1 run``, ``2 runs``; `many` where the plural has more than an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


#: Non-printing characters: controls (escape sequences, line breaks), text directions, which can make a text appear
#: different from what it is, lone surrogates (bytes that are not UTF-8), and noncharacters.
_HIDDEN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
# A colon only if it would start a link, an underscore only before a word: names should remain legible.
_MARKDOWN: Final = re.compile(r"[\\*\[\]@$^~]|&(?=#?\w+;)|:(?=//)|(?<![^\W_])_")
_LATEX: Final = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}
# Characters besides ASCII that pdfTeX supports without packages: Latin letters, dashes, quotes, bullets, the euro.
_NOT_LATEX: Final = re.compile("[^\x20-\x7e\xa1-\u017f\u2013\u2014\u2018-\u201e\u2020-\u2022\u2026\u2030\u20ac]")


def show_hidden(text: str, *, keep: str = "\t") -> str:
    """Escape characters that control a terminal or forge log lines (``\\x1b``), except those to `keep`."""
    return _HIDDEN.sub(lambda m: m[0] if m[0] in keep else m[0].encode("unicode_escape").decode(), text)


def replace_hidden(text: str) -> str:
    """Replace characters not allowed in HTML or XML, and text directions, by U+FFFD; tabs and newlines are kept."""
    return _HIDDEN.sub(lambda m: m[0] if m[0] in "\t\n" else "\ufffd", text)


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown (including pandoc's) shows it verbatim, on one line. Backticks become quotes, since
    nothing escapes them inside code."""
    line = replace_hidden(re.sub(r"\s", " ", text)).replace("`", "'")
    return _MARKDOWN.sub(lambda m: f"\\{m[0]}", line).replace("<", "&lt;")


def escape_latex(text: str) -> str:
    """Escape text so that LaTeX shows it verbatim; characters that need packages become their code, ``U+1F9E0``."""
    line = _NOT_LATEX.sub(lambda m: " " if m[0].isspace() else f"U+{ord(m[0]):04X}", text)
    return "".join(_LATEX.get(c, c) for c in line)


class LegibleParser(argparse.ArgumentParser):
    """Parser whose messages show control characters in arguments as escapes."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(show_hidden(message, keep="\n\t"), file)
