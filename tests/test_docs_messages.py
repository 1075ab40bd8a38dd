"""Messages that the page on troubleshooting quotes are those of the program."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _list_texts():
    """List all texts of the package; values in them are left open."""
    for path in (ROOT / "bids_semantoks").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(one.value if isinstance(one, ast.Constant) else "\0" for one in node.values)


def test_quoted_messages_exist():
    page = (ROOT / "docs" / "help" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    quoted = [one for cell in cells for one in re.findall("`([^`]+)`", cell)]
    assert len(quoted) > 40
    texts = list(_list_texts())
    # Of a message with names and numbers in it, each piece counts, since pieces may be put together.
    pieces = {piece.strip(" .,;:") for one in quoted for piece in one.split("…")}
    assert [piece for piece in sorted(pieces) if not any(piece in text for text in texts)] == []
