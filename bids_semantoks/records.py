"""The plain records that cross the borders between packages.

Legend of shape letters, used in all docstrings:
B batch (windows), P parcels, N networks, K patches in a window, W volumes in a window,
D width of the encoder, T volumes of a run, C confound regressors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CANONICAL_NETWORKS = (
    "Vis",
    "SomMot",
    "DorsAttn",
    "SalVentAttn",
    "Limbic",
    "Cont",
    "Default",
    "Subcortex",
    "Cerebellum",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One BOLD acquisition in one space, with the files that belong to it.

    For a run that another pipeline has parcellated already, the table of its series stands in the image's place, and
    the tables that judge its parcels and its volumes in those of mask and confounds.

    Parameters
    ----------
    entities : tuple of (str, str)
        All BIDS entities of the BOLD file, short keys (``sub``, ``ses``, ``task`` ...), in BIDS order.
    bold : Path
        Preprocessed BOLD image, or table of parcel series.
    mask, confounds : Path or None
        Brain mask and confounds table that share every entity with `bold`; None when there is none. Of parcel series:
        coverage of each parcel, and censored volumes.
    repetition_time : float or None
        Seconds, from the sidecar; None when no sidecar gives it.
    pipeline : str
        Name and version of the pipeline that wrote `bold`, for the log and sidecars.
    dataset : Path
        Root of the derivative dataset that holds `bold`.
    recognised : str
        What the pipeline was recognised as, such as ``XCP-D``; empty for none of those that are known.
    is_denoised : bool
        Whether the pipeline removed confounds from `bold`; `confounds` is then the table of censored volumes, if any.
    tables : tuple of Path
        Further tables of the run: components of ICA-AROMA, or motion of a run that came denoised.
    columns : tuple of str
        Columns of `confounds` where it is a file of movement regressors without a header.
    problem : str
        Why this image cannot be used in this call; empty for no reason.
    partner : Path or None
        The right hemisphere's file where `bold` is the left one's.
    """

    entities: tuple[tuple[str, str], ...]
    bold: Path
    mask: Path | None
    confounds: Path | None
    repetition_time: float | None
    pipeline: str
    dataset: Path
    recognised: str = ""
    is_denoised: bool = False
    tables: tuple[Path, ...] = ()
    columns: tuple[str, ...] = ()
    problem: str = ""
    partner: Path | None = None

    def __post_init__(self) -> None:
        if not self.entities or self.entities[0][0] != "sub":
            raise ValueError(f"a run's first entity must be sub, found {self.entities!r}")
        if self.repetition_time is not None and not self.repetition_time > 0:
            raise ValueError(f"repetition_time must be positive, found {self.repetition_time!r}")

    def entity(self, key: str) -> str | None:
        """Value of one entity.

        Parameters
        ----------
        key : str
            Short key, such as ``ses``.

        Returns
        -------
        str or None
            The value, or None when the run has no such entity.
        """
        return dict(self.entities).get(key)

    @property
    def space(self) -> str:
        """Template space of the BOLD image, empty when its name gives none."""
        return self.entity("space") or ""

    @property
    def averaged_over(self) -> str:
        """What a parcel's signal is the mean of, in words for sidecars; empty for series that came parcellated."""
        if self.bold.name.endswith((".tsv", ".ptseries.nii")):
            return ""
        if self.bold.name.endswith(".dtseries.nii"):
            return "grayordinates holding data"
        if self.bold.name.endswith(".func.gii"):
            return "vertices holding data"
        is_without_mask = self.is_denoised and self.mask is None
        return "voxels holding data" if is_without_mask else "voxels inside the brain mask"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AtlasVolume:
    """One label image of an atlas; an atlas may be composed of several.

    Parameters
    ----------
    path : Path
        Label image (NIfTI), in the atlas' space unless `space` names another.
    sha256 : str
        Checksum of the file.
    values : NDArray, int, shape (n,)
        Image values that count.
    parcels : NDArray, int, shape (n,)
        The parcel (position in `Atlas.parcels`) of each value.
    licence : str
        One line on licence and source.
    space : str
        Template space of the image, where it is another than the atlas'.
    transform : Path or None
        File that takes points of the atlas' space to `space`; None where both are the same.
    transform_sha256 : str
        Checksum of that file.
    """

    path: Path
    sha256: str
    values: NDArray[np.int64]
    parcels: NDArray[np.int64]
    licence: str = ""
    space: str = ""
    transform: Path | None = None
    transform_sha256: str = ""

    def __post_init__(self) -> None:
        if self.values.shape != self.parcels.shape or self.values.ndim != 1:
            raise ValueError(
                f"values {self.values.shape} and parcels {self.parcels.shape} must be one axis of equal length"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Atlas:
    """Parcels, the network of each, and the images that hold them in one space.

    Parameters
    ----------
    name : str
        Label in output names, letters and digits only.
    space : str
        Template space of the images, such as ``MNI152NLin6Asym``; empty where series name none.
    parcels : tuple of str, length P
        Parcel names in output order.
    networks : tuple of str, length P
        Network label of each parcel; empty for a parcel that belongs to none.
    volumes : tuple of AtlasVolume
        Label images; where they overlap the first wins. None where series come parcellated.
    sha256 : str
        Checksum of names, networks and images together.
    """

    name: str
    space: str
    parcels: tuple[str, ...]
    networks: tuple[str, ...]
    volumes: tuple[AtlasVolume, ...]
    sha256: str

    def __post_init__(self) -> None:
        if len(self.parcels) != len(self.networks):
            raise ValueError(f"{len(self.parcels)} parcels but {len(self.networks)} network labels")
        if len(set(self.parcels)) != len(self.parcels):
            twice = sorted({p for p in self.parcels if self.parcels.count(p) > 1})
            raise ValueError(f"parcel names must be unique, found twice: {', '.join(twice[:5])}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParcelSignals:
    """Parcel signals of one run, before and after denoising.

    Parameters
    ----------
    values : NDArray, float32, shape (T, P)
        Cleaned signals in input units; rows of dropped volumes and columns of absent parcels are NaN.
    raw : NDArray, float32, shape (T, P)
        Signals before denoising; columns of absent parcels are NaN.
    kept : NDArray, bool, shape (T,)
        False for dummy and scrubbed volumes.
    n_dummy : int
        Leading dummy volumes among the dropped.
    coverage : NDArray, float64, shape (P,)
        Share of each parcel's voxels that lie in the brain mask and vary.
    n_voxels : NDArray, int64, shape (P,)
        Voxels of each parcel on the run's grid, inside the mask or not; -1 where unknown.
    repetition_time : float
        Seconds.
    regressors : tuple of str
        Names of the confound regressors that were removed.
    framewise_displacement : NDArray, float64, shape (T,)
        Millimetres; NaN where the table has none.
    warnings : tuple of str
        What the user should know about this run.
    """

    values: NDArray[np.float32]
    raw: NDArray[np.float32]
    kept: NDArray[np.bool_]
    n_dummy: int
    coverage: NDArray[np.float64]
    n_voxels: NDArray[np.int64]
    repetition_time: float
    regressors: tuple[str, ...]
    framewise_displacement: NDArray[np.float64]
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_volumes, n_parcels = self.values.shape
        if self.raw.shape != self.values.shape:
            raise ValueError(f"raw {self.raw.shape} and values {self.values.shape} differ")
        if self.kept.shape != (n_volumes,) or self.framewise_displacement.shape != (n_volumes,):
            raise ValueError(f"kept {self.kept.shape} does not fit values {self.values.shape}")
        if self.coverage.shape != (n_parcels,) or self.n_voxels.shape != (n_parcels,):
            raise ValueError(f"coverage {self.coverage.shape} does not fit values {self.values.shape}")
        if not self.repetition_time > 0:
            raise ValueError(f"repetition_time must be positive, found {self.repetition_time!r}")

    @property
    def present(self) -> NDArray[np.bool_]:
        """Parcels (P,) that have a signal."""
        present: NDArray[np.bool_] = np.asarray(~np.isnan(self.raw).all(axis=0))
        return present


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """What the encoder eats: z-scored windows of one run at the encoder's repetition time.

    Parameters
    ----------
    values : NDArray, float32, shape (B, W, P)
        Parcels in the atlas' order; absent parcels and padding are zero.
    n_real : NDArray, int64, shape (B,)
        Volumes of each window that are not padding; padding is always at the end.
    present : NDArray, bool, shape (P,)
        Parcels that have a signal.
    onset : NDArray, float64, shape (B,)
        Seconds from the run's first volume.
    duration : float
        Seconds.
    kept : NDArray, float64, shape (B,)
        Share of the window's time that is real and not scrubbed.
    """

    values: NDArray[np.float32]
    n_real: NDArray[np.int64]
    present: NDArray[np.bool_]
    onset: NDArray[np.float64]
    duration: float
    kept: NDArray[np.float64]

    def __post_init__(self) -> None:
        n_windows, _, n_parcels = self.values.shape
        if self.present.shape != (n_parcels,):
            raise ValueError(f"present {self.present.shape} does not fit values {self.values.shape}")
        for name, array in (("n_real", self.n_real), ("onset", self.onset), ("kept", self.kept)):
            if array.shape != (n_windows,):
                raise ValueError(f"{name} {array.shape} does not fit values {self.values.shape}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedding:
    """The embedding of one run.

    Parameters
    ----------
    vectors : NDArray, float32, shape (B, dims)
        One vector a window.
    tokens : NDArray, float32, shape (B, 1 + N*K, D) or None
        All output tokens, when they were asked for.
    masked_networks : tuple of str
        Networks replaced by the mask token because the run lacks them.
    n_masked_patches : NDArray, int64, shape (B,)
        Empty patches replaced by the mask token, per window.
    """

    vectors: NDArray[np.float32]
    tokens: NDArray[np.float32] | None
    masked_networks: tuple[str, ...]
    n_masked_patches: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.n_masked_patches.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"vectors {self.vectors.shape} and n_masked_patches {self.n_masked_patches.shape} do not fit"
            )

    @property
    def pooled(self) -> NDArray[np.float32]:
        """Mean over windows, shape (dims,)."""
        pooled: NDArray[np.float32] = self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return pooled
