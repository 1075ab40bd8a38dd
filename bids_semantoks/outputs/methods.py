"""Methods text for papers, generated from what was actually done."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from bids_semantoks.files import write_text
from bids_semantoks.outputs.citations import find_keys, read_bibliography, to_html, to_latex, to_markdown

_ATLAS_KEYS: Final = {"schaefer": "schaefer2018", "tian": "tian2020", "buckner": "buckner2011"}
_COMPONENT_KEYS: Final = {
    "motion": "friston1996",
    "global_signal": "satterthwaite2013",
    "compcor": "behzadi2007",
    "ica_aroma": "pruim2015",
}
# As the names in GeneratedBy begin, in lower case without separators.
_PIPELINE_KEYS: Final = {"fmriprep": "esteban2019", "xcpd": "mehta2024", "fmripostaroma": "pruim2015"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Methods text of bids_semantoks</title>
<style>body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 sans-serif; }}</style></head>
<body>
{body}</body>
</html>
"""


def describe_methods(facts: Mapping[str, Any]) -> str:
    """Write the methods text as Markdown with citations by key.

    `facts` holds ``versions`` (by package) and what was done: ``signals`` (their settings, ``pipelines``,
    ``n_parcels``,
    ``min_time``), ``embedding`` (its settings, ``repetition_time``, ``window_seconds``, ``device``, ``description``,
    ``is_random``, ``random_seed``), ``pretraining`` (``data``, ``recipe``) and ``probing`` (options by name).
    """
    # Loading it costs 50 ms that calls for help should not pay.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters |= {"plain": _to_plain, "sentence": lambda text: f"{text.rstrip('.')}." if text else ""}
    environment.globals["cite"] = lambda keys: f" [{'; '.join(f'@{key}' for key in keys)}]" if keys else ""
    signals = facts.get("signals") or {}
    denoising = signals.get("denoising") or {}
    atlas = str(signals.get("atlas", "")).lower()
    text = environment.from_string(_read("methods.md.jinja")).render(
        versions=facts["versions"],
        signals=signals,
        embedding=facts.get("embedding") or {},
        pretraining=facts.get("pretraining") or {},
        probing=facts.get("probing") or {},
        atlas_keys=[key for word, key in _ATLAS_KEYS.items() if word in atlas],
        pipeline_keys=_find_pipeline_keys(signals),
        denoising_keys=_find_denoising_keys(signals),
        has_regressors=bool(denoising.get("strategy") or denoising.get("columns")),
        band=_describe_band(signals.get("band_pass")),
    )
    paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    return "\n\n".join(block for block in paragraphs if block) + "\n"


def _read(name: str) -> str:
    return files("bids_semantoks").joinpath("boilerplate", name).read_text(encoding="utf-8")


def _find_pipeline_keys(signals: Mapping[str, Any]) -> list[str]:
    names = [re.sub(r"[\s_-]", "", name).lower() for name in signals.get("pipelines", ())]
    return [key for start, key in _PIPELINE_KEYS.items() if any(name.startswith(start) for name in names)]


def _find_denoising_keys(signals: Mapping[str, Any]) -> list[str]:
    denoising = signals.get("denoising") or {}
    return [_COMPONENT_KEYS[part] for part in denoising.get("strategy", ()) if part in _COMPONENT_KEYS]


def _describe_band(band: Sequence[float] | None) -> str:
    if not band:
        return ""
    low, high = band
    if not low:
        return f"low-pass filtered at {high:g} Hz"
    return f"band-pass filtered at {low:g} to {high:g} Hz" if high else f"high-pass filtered at {low:g} Hz"


def _to_plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_to_plain(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_to_plain(item)}" for key, item in value.items()) or "none"
    return "none" if value is None else str(value)


def write_citation(out_dir: Path, facts: Mapping[str, Any]) -> str:
    """Write the methods text as ``logs/CITATION.{md,html,tex,bib}`` and return it as HTML; `facts` as in
    `describe_methods`."""
    text = describe_methods(facts)
    references = read_bibliography(_read("references.bib"))
    body = to_html(text, references)
    cited = "\n\n".join(references[key].source for key in sorted(find_keys(text)))
    for ending, content in (
        ("md", to_markdown(text, references)),
        ("html", _PAGE.format(body=body)),
        ("tex", to_latex(text)),
        ("bib", cited + "\n"),
    ):
        write_text(out_dir / "logs" / f"CITATION.{ending}", content, only_if_changed=True)
    return body


def read_methods(out_dir: Path) -> str:
    """Read the methods text back as an HTML fragment; empty if there is none."""
    path = out_dir / "logs" / "CITATION.html"
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8").partition("<body>\n")[2].partition("</body>")[0]
