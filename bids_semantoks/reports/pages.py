"""Pages: templates, what they inline (styles, scripts, data), the policy that allows only that, and writing them.

A page is one self-contained file: its Content-Security-Policy lists the hash of each style and script, so that text
from a dataset could not be executed even if it bypassed the escaping.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup, escape

from bids_semantoks.disk import is_full
from bids_semantoks.errors import replace_hidden
from bids_semantoks.files import write_text
from bids_semantoks.outputs.methods import load_template

if TYPE_CHECKING:
    from jinja2 import Environment, Template

LOGGER = logging.getLogger("bids_semantoks")

#: Files of ``reports/assets`` that a page with charts needs before its own.
CHART_ASSETS: Final = ("page.css", "uPlot.min.css", "uPlot.iife.min.js", "charts.js")


@dataclass(frozen=True, kw_only=True, slots=True)
class Assets:
    """Styles and scripts of a page."""

    policy: str  # content of the Content-Security-Policy
    styles: Markup  # elements for the head
    scripts: Markup  # elements for the end of the body, after the data


@functools.cache
def load_assets(*names: str) -> Assets:
    """Load ``.css`` and ``.js`` files of ``reports/assets``, inlined in order, with the policy that allows them."""
    elements: dict[str, list[str]] = {"style": [], "script": []}
    hashes: dict[str, str] = {"style": "", "script": ""}
    for name in names:
        kind = "style" if name.endswith(".css") else "script"
        text = files("bids_semantoks.reports").joinpath("assets", name).read_text(encoding="utf-8").strip()
        elements[kind].append(f"<{kind}>{text}</{kind}>")
        hashes[kind] += f" 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
    allowed = "".join(f"; {kind}-src{found}" for kind, found in hashes.items() if found)
    return Assets(
        policy=f"default-src 'none'; img-src data:{allowed}; base-uri 'none'; form-action 'none'",
        styles=Markup("\n".join(elements["style"])),
        scripts=Markup("\n".join(elements["script"])),
    )


def embed_json(name: str, value: Any) -> Markup:
    """Write a value as a JSON element with the id `name`, which scripts read and nothing in `value` can leave. Raises
    ValueError for NaN, which JSON lacks: write None."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    safe = replace_hidden(text).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(f'<script type="application/json" id="{escape(name)}">{safe}</script>')


def attempt(write: Callable[[], object], path: Path, verb: str) -> bool:
    """Write `path` by a function; on any error but a full disk, log a warning (could not `verb`) and return False:
    results are already on disk, and a report must never turn success into failure."""
    try:
        write()
    except Exception as error:
        if is_full(error):
            raise
        LOGGER.debug("Writing %s", path, exc_info=True)
        LOGGER.warning("Could not %s %s: %s: %s", verb, path.name, type(error).__name__, error)
        return False
    return True


def write_page(path: Path, build: Callable[[], str]) -> bool:
    """Build and write a page; return whether it could be."""
    return attempt(lambda: write_text(path, build(), only_if_changed=True), path, "write report")


def read_template(name: str) -> str:
    """Read a page template of the package."""
    return files("bids_semantoks").joinpath("data", name).read_text(encoding="utf-8")


def fill_template(template: str, **values: Any) -> str:
    """Fill a page template of the package; everything but `Markup` is escaped, and an unknown name is an error.
    Templates can call ``assets(*names)`` for `load_assets` and ``data(name, value)`` for `embed_json`."""
    return replace_hidden(_load_template(f"{template}.html.jinja").render(**values))


@functools.cache
def _load_template(name: str) -> Template:
    def prepare(environment: Environment) -> None:
        environment.globals |= {"assets": load_assets, "data": embed_json}

    return load_template(name, read_template, prepare, autoescape=True)
