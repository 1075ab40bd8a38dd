"""The files that belong to one BOLD image, by strict equality of the entities they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bids_semantoks.inputs.derivatives import Derivative
from bids_semantoks.inputs.names import BidsFile, natural_key, parse_name

# A name matters by its end: of some 60 files of a participant few do, and only these are taken apart.
_IMAGE_ENDS: Final = ("_desc-preproc_bold.nii.gz", "_desc-preproc_bold.nii")
_MASK_ENDS: Final = ("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii")
# fMRIPrep wrote regressors up to 20.1.
_CONFOUND_ENDS: Final = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv")
_SIDECAR_ENDS: Final = ("bold.json",)
USEFUL_ENDS: Final = (*_IMAGE_ENDS, *_MASK_ENDS, *_CONFOUND_ENDS, *_SIDECAR_ENDS)

_Key = frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A preprocessed BOLD image with its files, whatever its space.

    Parameters
    ----------
    image : BidsFile
        The BOLD image.
    mask, confounds : str or None
        Paths; None when there is no file of these entities.
    sidecars : tuple of BidsFile
        The participant's ``*_bold.json`` files.
    derivative : Derivative
        The dataset that holds them.
    """

    image: BidsFile
    mask: str | None
    confounds: str | None
    sidecars: tuple[BidsFile, ...]
    derivative: Derivative

    def entity(self, key: str) -> str | None:
        """Value of one entity of the image.

        Parameters
        ----------
        key : str
            Short key, such as ``ses``.

        Returns
        -------
        str or None
            None when the image has no such entity.
        """
        return dict(self.image.entities).get(key)

    @property
    def order(self) -> tuple[tuple[tuple[int, int, str], ...], ...]:
        """Sorting key: entities in BIDS order, numbers by value."""
        return tuple(natural_key(f"{key}-{value}") for key, value in self.image.entities)


def pair_files(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair the BOLD images of one participant with their masks and confounds.

    Parameters
    ----------
    paths : iterable of str
        Files of the participant, sorted; others than fMRIPrep's BOLD, masks, confounds and sidecars are passed over.
    label : str
        The participant; files named after another are passed over.
    derivative : Derivative
        The dataset.

    Returns
    -------
    list of Candidate
        One an image. A mask shares all entities but ``desc`` with its image; confounds share all that tell runs apart
        and have no others. Two images that differ in one of these never share a file.
    """
    parsed = [one for path in paths if path.endswith(USEFUL_ENDS) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    images = _first_of_each(own, _IMAGE_ENDS)
    masks = _first_of_each(own, _MASK_ENDS)
    confounds = _first_of_each(own, _CONFOUND_ENDS)
    sidecars = tuple(one for one in parsed if one.suffix == "bold" and one.extension == ".json")
    return [
        Candidate(
            image=image,
            mask=masks[key].path if key in masks else None,
            confounds=confounds[image.source].path if image.source in confounds else None,
            sidecars=sidecars,
            derivative=derivative,
        )
        for key, image in images.items()
    ]


def _first_of_each(files: list[BidsFile], ends: tuple[str, ...]) -> dict[_Key, BidsFile]:
    """Index files by their entities but desc; where two names say the same, the end listed first wins."""
    found: dict[_Key, BidsFile] = {}
    for end in ends:
        for one in files:
            if one.path.endswith(end):
                found.setdefault(frozenset(pair for pair in one.entities if pair[0] != "desc"), one)
    return found
