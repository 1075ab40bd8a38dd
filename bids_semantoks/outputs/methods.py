"""Methods text for papers, generated from what was actually done, with its references, as Markdown, HTML and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from bids_semantoks.escaping import escape_latex, escape_markdown
from bids_semantoks.files import write_text
from bids_semantoks.outputs.group_words import MODEL_NAMES

_ATLAS_KEYS: Final = {"schaefer": "schaefer2018", "tian": "tian2020", "buckner": "buckner2011"}

_COMPONENT_KEYS: Final = {
    "motion": "friston1996",
    "global_signal": "satterthwaite2013",
    "compcor": "behzadi2007",
    "ica_aroma": "pruim2015",
}

_FIX_KEYS: Final = ("salimikhorshidi2014", "griffanti2014")

# Beginnings of names in GeneratedBy and of layouts, in lower case without separators, and what each is cited by.
_PIPELINE_KEYS: Final = {
    "fmriprep": ("esteban2019",),
    "xcpd": ("mehta2024",),
    "fmripostaroma": ("pruim2015",),
    "fmriposttedana": ("dupre2021",),
    "nibabies": ("nibabies", "esteban2019"),
    "gigaconnectome": ("wang2025",),
    "hcp": ("glasser2013",),
    "humanconnectome": ("glasser2013",),
    "hcplifespan": _FIX_KEYS,  # cleaned by FIX, as are the runs at 7 T and of UK Biobank
    "hcp7t": _FIX_KEYS,
    "ukb": ("alfaroalmagro2018", *_FIX_KEYS),
    "ukbiobank": ("alfaroalmagro2018", *_FIX_KEYS),
    "abcd": ("feczko2021", "glasser2013"),
    "abcc": ("feczko2021", "glasser2013"),
    "dcan": ("feczko2021", "glasser2013"),
    "cpac": ("craddock2013",),
    "halfpipe": ("waller2022",),
    "tedana": ("dupre2021",),
}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<title>Methods text of bids_semantoks</title>
<style>body {{ max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 sans-serif; }}</style></head>
<body>
{body}</body>
</html>
"""

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+) = \{(.*)\},?$", re.MULTILINE)
_CITATION = re.compile(r"\[(@[\w-]+(?:; @[\w-]+)*)\]")
# Values of the template arrive as `escape_markdown` writes them, in code, too.
_TOKEN = re.compile(
    r"`(?P<code>[^`]+)`|\*(?P<em>(?![\s*])(?:\\.|[^*\\])+)\*|"
    rf"(?P<cite>{_CITATION.pattern})|(?P<url>https?://[A-Za-z0-9./_%-]+)|(?P<text>\\?.[^\\`*\[h]*)"
)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])|&lt;")
_ACCENTS = {'\\"e': "ë", "\\'e": "é", "\\'a": "á", '\\"o': "ö", '\\"u': "ü", '\\"a': "ä"}

_HTML: Final = {
    "text": Markup("{}"),
    "code": Markup("<code>{}</code>"),
    "em": Markup("<em>{}</em>"),
    "url": Markup('<a href="{0}">{0}</a>'),
}

_LATEX: Final = {"text": "{}", "code": r"\texttt{{{}}}", "em": r"\emph{{{}}}", "url": r"\url{{{}}}"}


def describe_methods(facts: Mapping[str, Any]) -> str:
    """Write the methods text as Markdown with citations by key.

    `facts` holds ``versions`` (by package) and what was done: ``signals`` (their settings,
    ``pipelines``, ``n_parcels``, ``min_time``), ``embedding`` (its settings, ``repetition_time``,
    ``window_seconds``, ``device``, ``description``, ``is_random``, ``random_seed``), ``pretraining``
    (``data``, ``recipe``) and ``probing`` (options by name, and ``results``, each with ``phenotype``, ``used``,
    ``what`` is counted, ``out``, ``motion``, ``score``, ``verdict`` and ``test``).
    """
    # Loading it costs 50 ms that calls for help should not pay.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    # Only the template and its citations are Markdown: values come from files of others.
    environment = Environment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else escape_markdown(str(value)),
    )
    environment.filters |= {"plain": _to_plain, "sentence": lambda text: f"{text.rstrip('.')}." if text else ""}
    environment.globals["cite"] = lambda keys: Markup(f" [{'; '.join(f'@{key}' for key in keys)}]" if keys else "")
    signals = facts.get("signals") or {}
    denoising = signals.get("denoising") or {}
    probing = dict(facts.get("probing") or {})
    if probing:
        probing["baseline_names"] = [MODEL_NAMES.get(name, name) for name in _list_baselines(probing)]
    atlas = str(signals.get("atlas", "")).lower()
    text = environment.from_string(_read("methods.md.jinja")).render(
        versions=facts["versions"],
        signals=signals,
        embedding=facts.get("embedding") or {},
        pretraining=facts.get("pretraining") or {},
        probing=probing,
        atlas_keys=[key for word, key in _ATLAS_KEYS.items() if word in atlas],
        pipeline_keys=_find_pipeline_keys(signals),
        denoising_keys=_find_denoising_keys(signals),
        has_regressors=bool(denoising.get("strategy") or denoising.get("columns")),
        band=_describe_band(signals.get("band_pass")),
    )
    paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    return "\n\n".join(block for block in paragraphs if block) + "\n"


def _list_baselines(probing: Mapping[str, Any]) -> list[str]:
    """List the baselines that were asked for, without those that need what was not given."""
    idle = {"none"} if probing.get("covariate") else {"none", "covariates"}
    return [name for name in probing.get("baselines", ()) if name not in idle]


def _read(name: str) -> str:
    return files("bids_semantoks").joinpath("boilerplate", name).read_text(encoding="utf-8")


def _find_pipeline_keys(signals: Mapping[str, Any]) -> list[str]:
    names = [re.sub(r"[\s_-]", "", name).lower() for name in signals.get("pipelines", ())]
    keys = [
        key for start, own in _PIPELINE_KEYS.items() if any(name.startswith(start) for name in names) for key in own
    ]
    if any("icafix" in name or "fslfix" in name or name.startswith("fix") for name in names):
        keys += _FIX_KEYS
    return list(dict.fromkeys(keys))


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


def write_citation(out_dir: Path, facts: Mapping[str, Any]) -> Markup:
    """Write the methods text as ``logs/CITATION.{md,html,tex,bib}`` and return it
    as HTML; `facts` as in `describe_methods`."""
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


def read_methods(out_dir: Path) -> Markup:
    """Read the methods text back as an HTML fragment; empty if there is none.

    Converted anew from Markdown: the HTML on disk may be of an earlier version or of anybody.
    """
    path = out_dir / "logs" / "CITATION.md"
    if not path.is_file():
        return Markup()
    text = path.read_text(encoding="utf-8", errors="replace").partition("\n## References\n")[0]
    return to_html(text, read_bibliography(_read("references.bib")))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """One entry of a bibliography."""

    key: str
    fields: Mapping[str, str]  # as written, LaTeX included
    source: str  # the whole BibTeX entry

    @property
    def url(self) -> str:
        """Link to the work, by DOI if it has one."""
        doi = self.fields.get("doi")
        return f"https://doi.org/{doi}" if doi else self.fields.get("url", "")

    @property
    def short(self) -> str:
        """Authors and year, as cited in a text."""
        names = [name.split(",")[0] for name in _read_plain(self.fields["author"]).split(" and ")]
        who = names[0] if len(names) == 1 else " & ".join(names) if len(names) == 2 and "others" not in names else ""
        return f"{who or names[0] + ' et al.'}, {self.fields['year']}"

    @property
    def full(self) -> str:
        """Authors, year, title and venue, as in a list of references, without the link."""
        names = _read_plain(self.fields["author"]).replace(" and others", ", et al.").replace(" and ", "; ")
        fields = {key: _read_plain(value) for key, value in self.fields.items()}
        place = fields.get("journal") or fields.get("booktitle") or ""
        volume = f" {fields['volume']}" if "volume" in fields else ""
        pages = f", {fields['pages']}" if "pages" in fields else ""
        where = f" {place}{volume}{pages}." if place else ""
        return f"{names} ({fields['year']}). {fields['title']}.{where}"


def _read_plain(text: str) -> str:
    """Convert the LaTeX of the bibliography to plain text."""
    for code, letter in _ACCENTS.items():
        text = text.replace("{" + code + "}", letter)
    return text.replace("{", "").replace("}", "").replace("--", "\u2013")


def read_bibliography(text: str) -> dict[str, Reference]:
    """Parse a BibTeX file with one field per line: references by key, in file order."""
    return {
        match[2]: Reference(key=match[2], fields=dict(_FIELD.findall(match[3])), source=match[0])
        for match in _ENTRY.finditer(text)
    }


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


def to_markdown(text: str, references: Mapping[str, Reference]) -> str:
    """Append the list of references to a text, leaving its citations as pandoc keys."""
    lines = [f"- @{key}: {references[key].full} {references[key].url}" for key in find_keys(text)]
    return f"{text.strip()}\n\n## References\n\n" + "\n".join(lines) + "\n"


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
