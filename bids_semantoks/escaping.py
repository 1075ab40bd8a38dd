"""Escape text from files for the format in which it is written; in HTML pages Jinja does this."""

from __future__ import annotations

import argparse
import re
from typing import Any, Final

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
    """Escape text so that Markdown (including pandoc's) shows it verbatim, on one line.

    Backticks become quotes, since nothing escapes them inside code.
    """
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
