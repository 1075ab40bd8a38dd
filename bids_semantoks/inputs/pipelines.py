"""The pipelines that are recognised by who made a dataset (GeneratedBy), and what is known of their files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bids_semantoks.inputs.descriptions import Description


@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """What is known of the outputs of a pipeline.

    Parameters
    ----------
    label : str
        Its name in messages and sidecars; empty for any other pipeline.
    names : tuple of str
        How its name in GeneratedBy may begin, in lower case without separators.
    descs : tuple of str
        Descriptions (``desc-``) of the BOLD images that are read; of several of one run the first counts.
    note : str
        What is done with them, for the log; empty for nothing out of the ordinary.
    is_denoised : bool
        Whether confounds were removed from these images.
    is_filtered : bool
        Whether they were band-pass filtered.
    """

    label: str
    names: tuple[str, ...] = ()
    descs: tuple[str, ...] = ("preproc",)
    note: str = ""
    is_denoised: bool = False
    is_filtered: bool = False

    @property
    def image_ends(self) -> tuple[str, ...]:
        """Ends of the names of its images, best first."""
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
    """Recognise the pipeline that made a dataset.

    Parameters
    ----------
    description : Description or None
        The dataset's.

    Returns
    -------
    Pipeline
        By the first entry of GeneratedBy, which is the last pipeline to touch the dataset; by the dataset's name where
        there is no entry; `OTHER` for all that is not known.
    """
    if description is None:
        return OTHER
    first = description.generators[0][0] if description.generators else description.name
    name = first.lower().replace("_", "").replace("-", "").replace(" ", "")
    return next((one for one in _KNOWN if name.startswith(one.names)), OTHER)
