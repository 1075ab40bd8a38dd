"""The files that belong to one BOLD image or table of series, by strict equality of the entities they share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from bids_semantoks.inputs.derivatives import Derivative
from bids_semantoks.inputs.names import BidsFile, natural_key, parse_name
from bids_semantoks.inputs.surfaces import SURFACE_ENDS, drop_hemisphere, find_surface_files

# A name matters by its end: of some 60 files of a participant few do, and only these are taken apart.
_IMAGE_ENDS: Final = ("_desc-preproc_bold.nii.gz", "_desc-preproc_bold.nii")
# Of a pipeline that denoises: its censored volumes, and how much the participant moved.
_OUTLIER_ENDS: Final = ("_outliers.tsv",)
_MOTION_ENDS: Final = ("_motion.tsv",)
_AROMA_ENDS: Final = ("_desc-aroma_timeseries.tsv",)
_MIXING_END: Final = "_desc-melodic_mixing.tsv"
_METRICS_END: Final = "_desc-aroma_metrics.tsv"
_MASK_ENDS: Final = ("_desc-brain_mask.nii.gz", "_desc-brain_mask.nii")
# fMRIPrep wrote regressors up to 20.1.
_CONFOUND_ENDS: Final = ("_desc-confounds_timeseries.tsv", "_desc-confounds_regressors.tsv")
_SIDECAR_ENDS: Final = ("bold.json",)
# Of a dataset of series: tables, what stands beside them, and sidecars of images, which may say more than the tables'.
_SERIES_ENDS: Final = ("timeseries.tsv", "timeseries.ptseries.nii", "timeseries.json", "_bold.tsv", "bold.json")
USEFUL_ENDS: Final = (*_IMAGE_ENDS, *SURFACE_ENDS, *_MASK_ENDS, *_CONFOUND_ENDS, *_SIDECAR_ENDS)

# What a table of series names besides its run: none of it is in the names of the run's other files.
_TABLE_ENTITIES: Final = frozenset({"atlas", "seg", "scale", "stat", "label"})

_Key = frozenset[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A preprocessed BOLD image, or a table of parcel series, with its files, whatever its space.

    Parameters
    ----------
    image : BidsFile
        The BOLD image or the table.
    mask, confounds : str or None
        Paths; None when there is no file of these entities. Of a table: coverage of its parcels, censored volumes. Of
        a denoised image: censored volumes instead of confounds.
    sidecars : tuple of BidsFile
        The participant's ``*_bold.json`` files; of a table also its ``*_timeseries.json`` files.
    derivative : Derivative
        The dataset that holds them.
    tables : tuple of str
        Further tables of the run.
    partner : str or None
        The right hemisphere's file where the image is the left one's.
    columns : tuple of str
        Columns of movement regressors without a header.
    repetition_time : float or None
        Seconds, where no sidecar is to be asked.
    """

    image: BidsFile
    mask: str | None
    confounds: str | None
    sidecars: tuple[BidsFile, ...]
    derivative: Derivative
    tables: tuple[str, ...] = ()
    partner: str | None = None
    columns: tuple[str, ...] = ()
    repetition_time: float | None = None

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
        One an image, CIFTI series or pair of GIFTI files. A mask shares all entities but ``desc`` with its image;
        confounds share all that tell runs apart and have no others. Two images that differ in one of these never share
        a file.
    """
    image_ends, is_denoised = derivative.source.image_ends, derivative.source.is_denoised
    useful = (*USEFUL_ENDS, *image_ends, *(_OUTLIER_ENDS + _MOTION_ENDS if is_denoised else ()))
    parsed = [one for path in paths if path.endswith(useful) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    images = _first_of_each(own, image_ends)
    masks = _first_of_each(own, _MASK_ENDS)
    confounds = _first_of_each(own, _OUTLIER_ENDS if is_denoised else _CONFOUND_ENDS)
    motion = _first_of_each(own, _MOTION_ENDS) if is_denoised else {}
    sidecars = tuple(one for one in parsed if one.suffix == "bold" and one.extension == ".json")
    # A pair of hemispheres is one run, so what stands beside one of them is that run's.
    sidecars = tuple(map(drop_hemisphere, sidecars))
    found: list[tuple[BidsFile, str | None, str | None]]
    found = [(image, masks[key].path if key in masks else None, None) for key, image in images.items()]
    found += [(image, None, partner) for image, partner in find_surface_files(own, derivative.source)]
    return [
        Candidate(
            image=image,
            mask=mask,
            confounds=confounds[image.source].path if image.source in confounds else None,
            sidecars=sidecars,
            derivative=derivative,
            tables=(motion[image.source].path,) if image.source in motion else (),
            partner=partner,
        )
        for image, mask, partner in found
    ]


def find_components(paths: Iterable[str], label: str) -> dict[_Key, tuple[str, ...]]:
    """Find what fMRIPost-AROMA says about the runs of one participant.

    Parameters
    ----------
    paths : iterable of str
        Files of the participant, sorted.
    label : str
        The participant.

    Returns
    -------
    dict
        Entities of a run to the table of its noise components; without one, to the mixing matrix and the table that
        classifies its components.
    """
    ends = (*_AROMA_ENDS, _MIXING_END, _METRICS_END)
    parsed = [one for path in paths if path.endswith(ends) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    metrics = {one.source: one.path for one in own if one.path.endswith(_METRICS_END)}
    found = {
        one.source: (one.path, metrics[one.source])
        for one in own
        if one.path.endswith(_MIXING_END) and one.source in metrics
    }
    return found | {one.source: (one.path,) for one in own if one.path.endswith(_AROMA_ENDS)}


def pair_series(paths: Iterable[str], label: str, derivative: Derivative) -> list[Candidate]:
    """Pair the tables of parcel series of one participant with their coverage, censored volumes and motion.

    Parameters
    ----------
    paths : iterable of str
        Files of the participant, sorted.
    label : str
        The participant; files named after another are passed over.
    derivative : Derivative
        The dataset.

    Returns
    -------
    list of Candidate
        One a table ``*_timeseries.tsv`` that names an atlas or a segmentation; means only, and no raw signals. A
        parcellated CIFTI series counts where there is no such table of it.
    """
    ends = (*_SERIES_ENDS, *_OUTLIER_ENDS, *_MOTION_ENDS)
    parsed = [one for path in paths if path.endswith(ends) and (one := parse_name(path)) is not None]
    own = [one for one in parsed if one.entities[:1] == (("sub", label),)]
    coverages = {_drop(one, ("stat", "desc")): one.path for one in own if dict(one.entities).get("stat") == "coverage"}
    outliers = {run_key(one): one.path for one in own if one.suffix == "outliers"}
    motion = {run_key(one): (one.path,) for one in own if one.suffix == "motion"}
    sidecars = tuple(one for one in parsed if one.suffix in ("timeseries", "bold") and one.extension == ".json")
    tables = {_drop(one, ("den",)) for one in own if one.extension == ".tsv"}
    return [
        Candidate(
            image=one,
            mask=coverages.get(_drop(one, ("stat", "desc"))),
            confounds=outliers.get(run_key(one)),
            sidecars=sidecars,
            derivative=derivative,
            tables=motion.get(run_key(one), ()),
        )
        for one in own
        if _is_series(one) and (one.extension == ".tsv" or _drop(one, ("den",)) not in tables)
    ]


def run_key(table: BidsFile) -> frozenset[tuple[str, str]]:
    """Tell the run of a table of series from every other run.

    Parameters
    ----------
    table : BidsFile
        A table, or another file of its run.

    Returns
    -------
    frozenset of (str, str)
        Entities of the run alone.
    """
    return frozenset(pair for pair in table.source if pair[0] not in _TABLE_ENTITIES)


def _is_series(table: BidsFile) -> bool:
    keys = dict(table.entities)
    return (
        table.suffix == "timeseries"
        and table.extension in (".tsv", ".ptseries.nii")
        and ("atlas" in keys or "seg" in keys)
        and keys.get("stat", "mean") == "mean"
        and not keys.get("desc", "").lower().startswith("raw")
    )


def _drop(file: BidsFile, keys: tuple[str, ...]) -> _Key:
    return frozenset(pair for pair in file.entities if pair[0] not in keys)


def _first_of_each(files: list[BidsFile], ends: tuple[str, ...]) -> dict[_Key, BidsFile]:
    """Index files by their entities but desc; where two names say the same, the end listed first wins."""
    found: dict[_Key, BidsFile] = {}
    for end in ends:
        for one in files:
            if one.path.endswith(end):
                found.setdefault(frozenset(pair for pair in one.entities if pair[0] != "desc"), one)
    return found
