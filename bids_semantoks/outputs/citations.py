"""Citations without pandoc: render a small Markdown text and its references as Markdown, HTML and LaTeX."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+) = \{(.*)\},?$", re.MULTILINE)
_CITATION = re.compile(r"\[(@[\w-]+(?:; @[\w-]+)*)\]")
_TOKEN = re.compile(r"(`[^`]+`|\*[^*\s][^*]*\*|\[@[^\]]+\]|https?://[^\s)]+)")
_ACCENTS = {'\\"e': "ë", "\\'e": "é", "\\'a": "á", '\\"o': "ö", '\\"u': "ü", '\\"a': "ä"}
_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


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


def to_html(text: str, references: Mapping[str, Reference]) -> str:
    """Convert Markdown (headings, paragraphs, emphasis, code, links, citations) to an HTML fragment with references;
    headings
    move down one level."""
    parts = []
    for level, block in _split_blocks(text):
        tag = f"h{level + 1}" if level else "p"
        parts.append(
            f"<{tag}>{_TOKEN.sub(lambda m: _to_html(m[0], references), html.escape(block, quote=False))}</{tag}>"
        )
    items = [
        f'<li id="ref-{key}">{html.escape(references[key].full)} <a href="{html.escape(references[key].url)}">'
        f"{html.escape(references[key].url)}</a></li>"
        for key in sorted(find_keys(text))
    ]
    return "\n".join([*parts, "<h3>References</h3>", "<ul>", *items, "</ul>"]) + "\n"


def _to_html(token: str, references: Mapping[str, Reference]) -> str:
    if token.startswith("`"):
        return f"<code>{token[1:-1]}</code>"
    if token.startswith("*"):
        return f"<em>{token[1:-1]}</em>"
    if token.startswith("["):
        links = [f'<a href="#ref-{key}">{html.escape(references[key].short)}</a>' for key in find_keys(token)]
        return f"({'; '.join(links)})"
    return f'<a href="{token}">{token}</a>'


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
        body = "".join(_to_latex(part) for part in _TOKEN.split(block))
        lines += ["", f"\\{'sub' * (level - 1)}section*{{{body}}}" if level else body]
    lines += ["", "\\bibliographystyle{plainnat}", "\\bibliography{CITATION}", "\\end{document}"]
    return "\n".join(lines) + "\n"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)


def _to_latex(part: str) -> str:
    if part.startswith("`"):
        return f"\\texttt{{{_escape_latex(part[1:-1])}}}"
    if part.startswith("*") and part.endswith("*") and len(part) > 2:
        return f"\\emph{{{_escape_latex(part[1:-1])}}}"
    if part.startswith("[@"):
        return f"\\citep{{{','.join(find_keys(part))}}}"
    if part.startswith("http"):
        return f"\\url{{{part}}}"
    return _escape_latex(part)
