"""Methods text for papers, generated from what was actually done, with its references, as Markdown, HTML and LaTeX."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from bids_semantoks.errors import escape_latex, escape_markdown
from bids_semantoks.files import write_text
from bids_semantoks.outputs.credits import (
    Reference,
    find_atlas_keys,
    find_cleaning,
    find_denoising_keys,
    find_pipeline_keys,
    read_bibliography,
    read_boilerplate,
)

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def load_template(
    name: str, read: Callable[[str], str], prepare: Callable[[Environment], None], **options: Any
) -> Template:
    """Load the template `name` that `read` gives the source of; `prepare` adds filters and globals, `options` are those
    of the environment. An unknown name in a template is an error."""
    # Imported late: it takes 50 ms, which --help should not need.
    from jinja2 import Environment, FileSystemBytecodeCache, FunctionLoader, StrictUndefined  # noqa: PLC0415
    from jinja2.bccache import Bucket  # noqa: PLC0415

    class CacheBesideCode(FileSystemBytecodeCache):
        """Stores compiled templates where Python stores the compiled code of the package, if it can and does."""

        def load_bytecode(self, bucket: Bucket) -> None:
            """Load code; Jinja compares the checksum of its source, and Python's version."""
            try:
                super().load_bytecode(bucket)
            except Exception:  # noqa: BLE001 - whatever a damaged file leads to
                bucket.reset()

        def dump_bytecode(self, bucket: Bucket) -> None:
            """Store code, unless Python stores none or the folder is read-only."""
            if not sys.dont_write_bytecode:
                with contextlib.suppress(OSError):
                    super().dump_bytecode(bucket)

    # One file for each version of Python and Jinja, in a folder that Python makes for the code of the package.
    version = "".join(filter(str.isalnum, metadata.version("jinja2")))
    source = Path(str(files("bids_semantoks"))) / name
    place = Path(importlib.util.cache_from_source(source, optimization=f"jinja{version}"))
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(read),
        bytecode_cache=CacheBesideCode(str(place.parent), f"{place.stem}-%s{place.suffix}"),
        **options,
    )
    prepare(environment)
    return environment.get_template(name)


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>Methods boilerplate (bids_semantoks)</title>
<style>body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 sans-serif; }}</style></head>
<body>
{body}</body>
</html>
"""

_CITATION = re.compile(r"\[(@[\w-]+(?:; @[\w-]+)*)\]")
# Values in the template are escaped by `escape_markdown`, in code as well.
_TOKEN = re.compile(
    r"`(?P<code>[^`]+)`|\*(?P<em>(?![\s*])(?:\\.|[^*\\])+)\*|"
    rf"(?P<cite>{_CITATION.pattern})|(?P<url>https?://[A-Za-z0-9./_%-]+)|(?P<text>\\?.[^\\`*\[h]*)"
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])|&lt;")
_HTML: Final = {
    "text": Markup("{}"),
    "code": Markup("<code>{}</code>"),
    "em": Markup("<em>{}</em>"),
    "url": Markup('<a href="{0}">{0}</a>'),
}

_LATEX: Final = {"text": "{}", "code": r"\texttt{{{}}}", "em": r"\emph{{{}}}", "url": r"\url{{{}}}"}


_BASELINES: Final = {
    "pearson": "correlations between parcels",
    "ledoit_wolf": "shrunk covariances [@ledoit2004]",
    "tangent": "their tangent space [@dadi2019]",
    "parcel_moments": "means and variances of parcels",
    "motion": "motion and scan length",
    "site": "site",
    "covariates": "the covariates",
    "random": "the same encoder with random weights",
    "chance": "chance",
}

#: Settings of a recipe in the methods text; the model card has the rest.
_RECIPE: Final = {
    "epochs": "epochs",
    "batch_size": "participants per batch",
    "learning_rate": "peak learning rate at a batch of 256",
    "mask_ratio": "masked shares",
}


def describe_methods(facts: Mapping[str, Any]) -> str:
    """Write the methods text as Markdown with citations by key. `facts` holds ``versions`` (by package) and what was
    done: ``cohort`` (`count_cohort`), ``signals`` (their settings, ``pipelines``, ``n_parcels``, ``min_time``),
    ``embedding`` (its settings, ``repetition_time``, ``window_seconds``, ``device``, ``description``, ``is_random``,
    ``random_seed``, and as ``compared`` some of these of each encoder that is compared with it), ``pretraining``
    (``data``, ``recipe``) and ``probing`` (options by name, ``preparations`` where there are several, by name, and
    ``results``, each with ``phenotype``, ``used``, ``what`` is counted, ``out``, ``motion``, ``score``, ``verdict`` and
    ``test``)."""
    signals, probing = facts.get("signals") or {}, facts.get("probing") or {}
    pretraining = facts.get("pretraining") or {}
    denoising = signals.get("denoising") or {}
    band = _describe_band(signals.get("band_pass"))
    baselines = [_BASELINES[name] for name in probing.get("baselines", ()) if name in _BASELINES]
    same = "the same" if denoising.get("strategy") or denoising.get("columns") else "a"
    text = _load_methods().render(
        versions=facts["versions"],
        cohort=facts.get("cohort") or {},
        signals=signals,
        embedding=facts.get("embedding") or {},
        pretraining=pretraining,
        recipe=_describe_recipe(pretraining.get("recipe") or {}),
        probing=probing,
        baselines=Markup(" and ".join(filter(None, (", ".join(baselines[:-1]), *baselines[-1:])))),
        preparations=[_cite_preparation(*one) for one in (probing.get("preparations") or {}).items()],
        atlas_keys=find_atlas_keys(str(signals.get("atlas", ""))),
        pipeline_keys=find_pipeline_keys(signals.get("pipelines", ())),
        denoising_keys=find_denoising_keys(denoising),
        has_regressors=bool(denoising.get("strategy") or denoising.get("columns")),
        removes_tissue=_removes(denoising, "wm_csf", "csf", "white_matter"),
        removes_global=_removes(denoising, "global_signal", "global_signal"),
        # ICA-FIX and ICA-AROMA clean images without censoring volumes.
        censored_by="" if find_cleaning(signals.get("pipelines", ())) else signals.get("denoised_by", ""),
        band=band,
        filtered_by=f" with {same} Butterworth filter of order 5, applied forwards and backwards with mirrored ends"
        if band
        else "",
    )
    paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    return "\n\n".join(block for block in paragraphs if block) + "\n"


@functools.cache
def _load_methods() -> Template:
    def prepare(environment: Environment) -> None:
        environment.filters |= {"sentence": lambda text: f"{text.rstrip('.')}." if text else ""}
        environment.globals["cite"] = lambda keys: Markup(f" [{'; '.join(f'@{key}' for key in keys)}]" if keys else "")

    # Only the template and its citations are Markdown; values come from user files.
    return load_template(
        *("methods.md.jinja", read_boilerplate, prepare),
        finalize=lambda value: value if isinstance(value, Markup) else escape_markdown(str(value)),
    )


def _removes(denoising: Mapping[str, Any], component: str, *columns: str) -> bool:
    """Return whether a denoising, in JSON, has a component in its strategy or one of these columns."""
    patterns = denoising.get("columns", ())
    return component in denoising.get("strategy", ()) or any(
        fnmatch.fnmatchcase(name, pattern) for name in columns for pattern in patterns
    )


def _cite_preparation(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what the text says of a preparation (`describe_preparation`), with the keys of what made it."""
    settings = found["Settings"]
    keys = [*find_pipeline_keys(found["Pipelines"]), *find_atlas_keys(str(settings.get("atlas", "")))]
    keys += find_denoising_keys(settings.get("denoising") or {})
    return {"name": name, "text": found["Text"], "cited": list(dict.fromkeys(keys))}


def _describe_recipe(recipe: Mapping[str, Any]) -> str:
    """Describe the main numbers of a recipe, to continue a sentence; empty if a checkpoint has none of them."""
    found = [f"{words} {_to_plain(recipe[key])}" for key, words in _RECIPE.items() if recipe.get(key) is not None]
    return f" ({'; '.join(found)})" if found else ""


def describe_preparation(sidecar: Mapping[str, Any]) -> str:
    """Describe in a line how the signals of a run were prepared, by their sidecar."""
    settings, atlas, pipeline = sidecar["Settings"], sidecar["Atlas"], sidecar["Pipeline"]
    where = f" in {atlas['Space']}" if atlas.get("Space") else ""
    parts = [f"atlas {atlas.get('Name')} ({atlas.get('Parcels')} parcels){where}"]
    if not settings.get("denoising"):
        return f"{parts[0]}; series as {pipeline} left them"
    cleaned = sidecar["Denoising"].get("DenoisedBy")
    parts.append(f"{pipeline}, denoised by {cleaned or settings['denoising'].get('name')}")
    parts.append(_describe_band(settings.get("band_pass")) or "not filtered")
    threshold = settings.get("fd_threshold")
    parts.append(f"volumes above {threshold:g} mm scrubbed" if threshold else "not scrubbed")
    return "; ".join(parts)


def _describe_band(band: Sequence[float] | None) -> str:
    if not band:
        return ""
    low, high = band
    if not low:
        return f"low-pass filtered at {high:g} Hz"
    return f"band-pass filtered at {low:g} to {high:g} Hz" if high else f"high-pass filtered at {low:g} Hz"


def _to_plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " to ".join(map(_to_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_citation(out_dir: Path, facts: Mapping[str, Any]) -> Markup:
    """Write the methods text as ``logs/CITATION.{md,html,tex,bib}`` and return it
    as HTML; `facts` as in `describe_methods`."""
    text = describe_methods(facts)
    references = read_bibliography()
    body = to_html(text, references)
    keys = find_keys(text)
    cited = "\n\n".join(references[key].source for key in sorted(keys))
    # Citations stay pandoc keys.
    listed = "\n".join(f"- @{key}: {references[key].full} {references[key].url}" for key in keys)
    for ending, content in (
        ("md", f"{text.strip()}\n\n## References\n\n{listed}\n"),
        ("html", _PAGE.format(body=body)),
        ("tex", to_latex(text)),
        ("bib", cited + "\n"),
    ):
        write_text(out_dir / "logs" / f"CITATION.{ending}", content, only_if_changed=True)
    return body


def read_methods(out_dir: Path) -> Markup:
    """Read the methods text back as an HTML fragment; empty if there is none. Converted again from Markdown: the HTML
    on disk may be from an earlier version or modified."""
    path = out_dir / "logs" / "CITATION.md"
    if not path.is_file():
        return Markup()
    text = path.read_text(encoding="utf-8", errors="replace").partition("\n## References\n")[0]
    return to_html(text, read_bibliography())


def find_keys(text: str) -> list[str]:
    """Find the keys that Markdown cites (``[@a; @b]``), in order of first use."""
    keys = [key.strip().lstrip("@") for match in _CITATION.finditer(text) for key in match[1].split(";")]
    return list(dict.fromkeys(keys))


def _split_blocks(text: str) -> list[tuple[int, str]]:
    """Split into headings (level above 0) and paragraphs (level 0)."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        one = " ".join(block.split())
        level = len(one) - len(one.lstrip("#"))
        blocks.append((level, one[level:].strip()))
    return [block for block in blocks if block[1]]


def to_html(text: str, references: Mapping[str, Reference]) -> Markup:
    """Convert Markdown (headings, paragraphs, emphasis, code, links, citations) to an HTML fragment with
    references; headings move down one level. Keys without a reference stay as written."""
    parts = []
    for level, block in _split_blocks(text):
        body = Markup().join(
            _link_keys(part, references) if kind == "cite" else _HTML[kind].format(part)
            for kind, part in _read_tokens(block)
        )
        parts.append(Markup("<{0}>{1}</{0}>").format(f"h{level + 1}" if level else "p", body))
    items = [
        Markup('<li id="ref-{0}">{1} <a href="{2}">{2}</a></li>').format(key, references[key].full, references[key].url)
        for key in sorted(references.keys() & set(find_keys(text)))
    ]
    return Markup("\n").join([*parts, Markup("<h3>References</h3>\n<ul>"), *items, Markup("</ul>\n")])


def _read_tokens(block: str) -> list[tuple[str, str]]:
    """Split a block of Markdown into kinds (text, code, em, url, cite) and their text without marks and escapes."""
    found = [(match.lastgroup or "", match[match.lastgroup or 0]) for match in _TOKEN.finditer(block)]
    return [(kind, part if kind == "cite" else _ESCAPED.sub(lambda m: m[1] or "<", part)) for kind, part in found]


def _link_keys(citation: str, references: Mapping[str, Reference]) -> Markup:
    keys = find_keys(citation)
    if not references.keys() >= set(keys):
        return Markup("{}").format(citation)
    links = [Markup('<a href="#ref-{}">{}</a>').format(key, references[key].short) for key in keys]
    return Markup("({})").format(Markup("; ").join(links))


def to_latex(text: str) -> str:
    """Convert Markdown, as for `to_html`, to a LaTeX document that cites from CITATION.bib."""
    lines = [
        "\\documentclass{article}",
        "\\usepackage[T1]{fontenc}",
        "\\usepackage[utf8]{inputenc}",
        "\\usepackage{natbib}",
        "\\usepackage{hyperref}",
        "\\begin{document}",
    ]
    for level, block in _split_blocks(text):
        body = "".join(
            f"\\citep{{{','.join(find_keys(part))}}}" if kind == "cite" else _LATEX[kind].format(escape_latex(part))
            for kind, part in _read_tokens(block)
        )
        lines += ["", f"\\{'sub' * (level - 1)}section*{{{body}}}" if level else body]
    lines += ["", "\\bibliographystyle{plainnat}", "\\bibliography{CITATION}", "\\end{document}"]
    return "\n".join(lines) + "\n"
