"""Known pipelines, recognised by GeneratedBy, and the naming of their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bids_semantoks.inputs.descriptions import Description


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """Properties of a pipeline's outputs."""

    label: str  # in messages and sidecars; empty for unknown pipelines
    names: tuple[str, ...] = ()  # prefixes of its GeneratedBy name, lower case without separators
    descs: tuple[str, ...] = ("preproc",)  # desc- of the BOLD images to read, best first
    note: str = ""  # how its images are treated, for the log
    is_denoised: bool = False  # confounds already removed
    is_filtered: bool = False  # already band-pass filtered

    @property
    def image_ends(self) -> tuple[str, ...]:
        """Endings of its image names, best first."""
        return tuple(f"_desc-{desc}_bold{end}" for desc in self.descs for end in (".nii.gz", ".nii"))


FMRIPREP: Final = Pipeline(label="fMRIPrep", names=("fmriprep",))
NIBABIES: Final = Pipeline(label="NiBabies", names=("nibabies",))
XCPD: Final = Pipeline(
    label="XCP-D",
    names=("xcpd",),
    # Up to 0.2 it wrote residuals; its modes for large studies write interpolated images instead of censored ones.
    descs=("denoised", "interpolated", "residual"),
    note="its images are denoised and filtered: neither is done again",
    is_denoised=True,
    is_filtered=True,
)
AROMA: Final = Pipeline(
    label="fMRIPost-AROMA",
    names=("fmripostaroma",),
    descs=("nonaggrDenoised", "orthaggrDenoised", "aggrDenoised"),
    note="its images are denoised by ICA-AROMA: no regressor is removed again",
    is_denoised=True,
)
GIGA: Final = Pipeline(label="giga_connectome", names=("gigaconnectome",))
OURS: Final = Pipeline(label="bids_semantoks", names=("bidssemantoks",))
OTHER: Final = Pipeline(label="", descs=("preproc",))
_KNOWN: Final = (FMRIPREP, NIBABIES, XCPD, AROMA, GIGA, OURS)


def recognise_pipeline(description: Description | None) -> Pipeline:
    """Recognise a pipeline by its first GeneratedBy entry (the latest) or else the dataset name; OTHER if unknown."""
    if description is None:
        return OTHER
    first = description.generators[0][0] if description.generators else description.name
    name = first.lower().replace("_", "").replace("-", "").replace(" ", "")
    return next((one for one in _KNOWN if name.startswith(one.names)), OTHER)
