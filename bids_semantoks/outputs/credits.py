"""Who is cited for what, by keys of references.bib, and how pipelines are known to have cleaned their images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

ATLAS_KEYS: Final = {"schaefer": "schaefer2018", "tian": "tian2020", "buckner": "buckner2011"}

COMPONENT_KEYS: Final = {
    "motion": "friston1996",
    "global_signal": "satterthwaite2013",
    "compcor": "behzadi2007",
    "ica_aroma": "pruim2015",
}

_FIX_KEYS: Final = ("salimikhorshidi2014", "griffanti2014")

# Beginnings of names in GeneratedBy and of layouts, in lower case without separators, and what each is cited by.
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

#: Cleaning that leaves the global signal alone, named as the field does, and a key that stands for it.
FIX, AROMA = "ICA-FIX", "ICA-AROMA"
_CLEANING: Final = ((FIX, _FIX_KEYS[0]), (AROMA, COMPONENT_KEYS["ica_aroma"]))


def find_atlas_keys(atlas: str) -> list[str]:
    """Find the keys of an atlas by its name."""
    return [key for word, key in ATLAS_KEYS.items() if word in atlas.lower()]


def find_pipeline_keys(pipelines: Iterable[str]) -> list[str]:
    """Find the keys of pipelines by their names, as in GeneratedBy or of layouts."""
    names = [re.sub(r"[\s_-]", "", name).lower() for name in pipelines]
    keys = [
        key for start, own in PIPELINE_KEYS.items() if any(name.startswith(start) for name in names) for key in own
    ]
    if any("icafix" in name or "fslfix" in name or name.startswith("fix") for name in names):
        keys += _FIX_KEYS
    return list(dict.fromkeys(keys))


def find_denoising_keys(denoising: Mapping[str, Any]) -> list[str]:
    """Find the keys of the regressors of a denoising, in JSON."""
    return [COMPONENT_KEYS[part] for part in denoising.get("strategy", ()) if part in COMPONENT_KEYS]


def find_cleaning(pipelines: Iterable[str]) -> str:
    """Name how pipelines that wrote denoised images had cleaned them: `FIX` or `AROMA`; empty where it varies by call,
    as in XCP-D, or is not known."""
    keys = find_pipeline_keys(pipelines)
    return next((name for name, key in _CLEANING if key in keys), "")
