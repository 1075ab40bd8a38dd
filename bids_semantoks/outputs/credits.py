"""References for each method, by keys of references.bib, and how pipelines clean their images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

ATLAS_KEYS: Final = {"schaefer": "schaefer2018", "tian": "tian2020", "buckner": "buckner2011"}
_EXPANSION_KEY: Final = "satterthwaite2013"
COMPONENT_KEYS: Final = {"motion": "friston1996", "compcor": "behzadi2007", "ica_aroma": "pruim2015"}
_FIX_KEYS: Final = ("salimikhorshidi2014", "griffanti2014")

# Prefixes of names in GeneratedBy and of layouts, in lower case without separators, and their references.
PIPELINE_KEYS: Final = {
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

_ENTRY = re.compile(r"^@(\w+)\{([\w-]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s*(\w+) = \{(.*)\},?$", re.MULTILINE)
_ACCENTS = {'\\"e': "ë", "\\'e": "é", "\\'a": "á", '\\"o': "ö", '\\"u': "ü", '\\"a': "ä"}

#: Cleaning that does not remove the global signal, and its reference.
FIX, AROMA = "ICA-FIX", "ICA-AROMA"
_CLEANING: Final = ((FIX, _FIX_KEYS[0]), (AROMA, COMPONENT_KEYS["ica_aroma"]))


def find_atlas_keys(atlas: str) -> list[str]:
    """Find the keys of an atlas by its name."""
    return [key for word, key in ATLAS_KEYS.items() if word in atlas.lower()]


def find_pipeline_keys(pipelines: Iterable[str]) -> list[str]:
    """Find the keys of pipelines by their names, as in GeneratedBy or of layouts."""
    names = [re.sub(r"[\s_-]", "", name).lower() for name in pipelines]
    keys = [key for start, own in PIPELINE_KEYS.items() if any(name.startswith(start) for name in names) for key in own]
    if any("icafix" in name or "fslfix" in name or name.startswith("fix") for name in names):
        keys += _FIX_KEYS
    return list(dict.fromkeys(keys))


def find_denoising_keys(denoising: Mapping[str, Any]) -> list[str]:
    """Find the keys of the regressors of a denoising, in JSON."""
    keys = [COMPONENT_KEYS[part] for part in denoising.get("strategy", ()) if part in COMPONENT_KEYS]
    # Derivatives and squares of all these, instead of the delayed values of Friston et al.
    return [*keys, _EXPANSION_KEY] if "full" in dict(denoising.get("options", ())).values() else keys


def find_cleaning(pipelines: Iterable[str]) -> str:
    """Name how pipelines that wrote denoised images had cleaned them: `FIX` or `AROMA`; empty if it varies by call,
    as in XCP-D, or is unknown."""
    keys = find_pipeline_keys(pipelines)
    return next((name for name, key in _CLEANING if key in keys), "")


def read_boilerplate(name: str) -> str:
    """Read a file of the folder boilerplate."""
    return files("bids_semantoks").joinpath("boilerplate", name).read_text(encoding="utf-8")


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
    def authors(self) -> list[str]:
        """Names of the authors who are listed."""
        names = _read_plain(self.fields["author"]).split(" and ")
        return [name for name in names if name != "others"]

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


def read_bibliography(text: str = "") -> dict[str, Reference]:
    """Parse BibTeX with one field per line, by default that of our own texts: references by key, in file order."""
    return {
        match[2]: Reference(key=match[2], fields=dict(_FIELD.findall(match[3])), source=match[0])
        for match in _ENTRY.finditer(text or read_boilerplate("references.bib"))
    }


def build_hub_header(
    pipeline_tag: str, *, tags: Sequence[str] = (), license_id: str | None = None, datasets: Sequence[str] = ()
) -> str:
    """Build the metadata of a model card that the Hugging Face hub reads: YAML between two lines of dashes."""
    from huggingface_hub import ModelCardData  # noqa: PLC0415 - half a second, which most calls are spared

    data = ModelCardData(
        license=license_id,
        library_name="bids_semantoks",
        pipeline_tag=pipeline_tag,
        tags=sorted({"bids", "brain-semantoks", "fmri", "neuroimaging", *tags}),
        datasets=list(datasets) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n"
