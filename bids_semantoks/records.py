"""Plain records passed between packages. Shapes: B windows, P parcels, N networks, K patches and W volumes per window,
D width, T volumes per run, C confounds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_semantoks.errors import list_twice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Indices = NDArray[np.int64]
    Bools = NDArray[np.bool_]
    Reals = NDArray[np.floating[Any]]  # of any precision
    Labels = NDArray[Any]  # of groups, participants or sites
else:
    # Runs are searched and wrong folders refused before NumPy is imported.
    Floats = Indices = Bools = Reals = Labels = Any

#: Endings of the files of series that came parcellated.
SERIES_ENDS = (".ptseries.nii", ".tsv", ".csv", ".txt", ".1D", ".npy")
CANONICAL_NETWORKS = (
    *("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"),
    *("Subcortex", "Cerebellum"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One BOLD acquisition in one space, with its files. For a run parcellated by another pipeline, `bold` is the table
    of its series, `mask` the coverage of its parcels and `confounds` the censored volumes."""

    entities: tuple[tuple[str, str], ...]  # all of the BOLD file in BIDS order, short keys (sub, ses, task ...)
    bold: Path
    mask: Path | None  # shares every entity with `bold`, as does `confounds`
    confounds: Path | None
    repetition_time: float | None  # seconds, as a sidecar or layout states it; None if none does
    pipeline: str  # name and version
    dataset: Path  # root of the derivative dataset that holds `bold`
    recognised: str = ""  # pipeline in our terms, such as XCP-D; empty if unknown
    is_denoised: bool = False  # `bold` came denoised; `confounds` is then the table of censored volumes, if any
    tables: tuple[Path, ...] = ()  # components of ICA-AROMA, or motion of a run that came denoised
    columns: tuple[str, ...] = ()  # of `confounds` if it is a file of movement regressors without a header
    problem: str = ""  # why this image cannot be used in this call; empty if it can
    reason: str = "space_mismatch"  # code of the problem
    missing: tuple[tuple[str, str], ...] = ()  # (mask or confounds, what was looked for and the nearest file)
    partner: Path | None = None  # right hemisphere if `bold` is the left
    time_source: str = ""  # what states `repetition_time`, in words
    time_problems: tuple[str, ...] = ()  # a sentence for each sidecar that could not be used for it
    is_default_time: bool = False  # `repetition_time` is that of a shipped layout, which headers overrule
    volumes: str = "rows"  # of a table of series: rows or columns; empty if nothing says so
    warp: Path | None = None  # FSL's field to the space of the run if `bold` is in native space; may not exist

    def __post_init__(self) -> None:
        if not self.entities or self.entities[0][0] != "sub":
            raise ValueError(f"a run's first entity must be sub, found {self.entities!r}")
        if self.repetition_time is not None and not self.repetition_time > 0:
            raise ValueError(f"repetition_time must be positive, found {self.repetition_time!r}")

    def entity(self, key: str) -> str | None:
        """Return the value of an entity by its short key, such as ``ses``; None if the run lacks it."""
        return dict(self.entities).get(key)

    def describe_missing(self, what: str) -> str:
        """Describe which mask or confounds were looked for, to complete a message; empty if unknown."""
        return dict(self.missing).get(what, "")

    @property
    def space(self) -> str:
        """Template space of the BOLD image; empty if its name gives none."""
        return self.entity("space") or ""

    @property
    def averaged_over(self) -> str:
        """Units that a parcel's signal averages, in words for sidecars; empty for series that came parcellated."""
        if self.bold.name.endswith(SERIES_ENDS):
            return ""
        if self.bold.name.endswith(".dtseries.nii"):
            return "grayordinates with data"
        if self.bold.name.endswith(".func.gii"):
            return "vertices with data"
        if self.warp is not None:
            return "voxels inside the native brain mask"
        is_without_mask = self.is_denoised and self.mask is None
        return "voxels with data" if is_without_mask else "voxels inside the brain mask"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AtlasVolume:
    """One label image of an atlas; an atlas may be composed of several."""

    path: Path
    sha256: str  # of the file
    values: NDArray[np.int64]  # (n,) image values that are used
    parcels: NDArray[np.int64]  # (n,) index into `Atlas.parcels` of each value
    licence: str = ""  # one line on licence and source
    space: str = ""  # template space of the image, if not the atlas'
    transform: Path | None = None  # maps points of the atlas' space to `space`; None if they are the same
    transform_sha256: str = ""
    map_index: int = 0  # of the map to read, in a surface file of several
    # other files of the same labels, in outputs that identify an atlas by its files
    other_sha256: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Atlas:
    """Parcels, their networks, and the label images that hold them in one space."""

    name: str  # label in output names, letters and digits only
    space: str  # template space; empty if parcellated series name none
    parcels: tuple[str, ...]  # (P,) in output order
    networks: tuple[str, ...]  # (P,) label; empty for a parcel without network
    volumes: tuple[AtlasVolume, ...]  # the first wins where they overlap; empty for parcellated series
    sha256: str  # over names, networks, space, and what the images hold in each voxel
    former_sha256: tuple[str, ...] = ()  # as recorded by versions before 0.2: over files, not voxels

    def __post_init__(self) -> None:
        if len(self.parcels) != len(self.networks):
            raise ValueError(f"{len(self.parcels)} parcels but {len(self.networks)} network labels")
        if twice := list_twice(self.parcels):
            raise ValueError(f"parcel names must be unique, found twice: {', '.join(twice[:5])}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FilteredMotion:
    """Framewise displacement of one run from movement parameters that were filtered against breathing."""

    values: NDArray[np.float64]  # (T,) mm; NaN where unknown
    source: str  # which filter and parameters, or which column of which table


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ParcelSignals:
    """Parcel signals of one run, before and after denoising."""

    values: NDArray[np.float32]  # (T, P) cleaned, in input units; NaN in dropped volumes and absent parcels
    raw: NDArray[np.float32]  # (T, P) before denoising; NaN in absent parcels
    kept: NDArray[np.bool_]  # (T,) False for dummy and scrubbed volumes
    n_dummy: int  # leading dummy volumes, among the dropped
    coverage: NDArray[np.float64]  # (P,) share of the parcel's voxels that are in the brain mask and vary
    n_voxels: NDArray[np.int64]  # (P,) voxels on the run's grid, inside the mask or not; -1 if unknown
    repetition_time: float  # seconds
    regressors: tuple[str, ...]  # confounds that were removed
    framewise_displacement: NDArray[np.float64]  # (T,) mm; NaN where the table has none
    warnings: tuple[str, ...] = ()
    temporal_snr: NDArray[np.float64] | None = None  # (P,) before denoising; NaN or None where unknown
    n_padding: int = 0  # volumes at the end without data, among the dropped
    resampling: str = ""  # how native volumes were interpolated; empty if they were not
    filtered_motion: FilteredMotion | None = None

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
        """Parcels that have a signal, (P,)."""
        import numpy as np

        present: NDArray[np.bool_] = np.asarray(~np.isnan(self.raw).all(axis=0))
        return present


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Windows:
    """Encoder input: z-scored windows of one run at the encoder's repetition time."""

    values: NDArray[np.float32]  # (B, W, P) in the atlas' order; zero in absent parcels and padding
    n_real: NDArray[np.int64]  # (B,) volumes that are not padding, which is always at the end
    present: NDArray[np.bool_]  # (P,) parcels that have a signal
    onset: NDArray[np.float64]  # (B,) seconds from the run's first volume
    duration: float  # seconds
    kept: NDArray[np.float64]  # (B,) share of the window's time that is real and not scrubbed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Embedding:
    """Embedding of one run."""

    vectors: NDArray[np.float32]  # (B, dims)
    tokens: NDArray[np.float32] | None  # (B, 1 + N*K, D) all output tokens, if requested
    masked_networks: tuple[str, ...]  # replaced by the mask token because the run lacks them
    n_masked_patches: NDArray[np.int64]  # (B,) empty patches replaced by the mask token

    @property
    def warnings(self) -> tuple[str, ...]:
        """Shortcomings of the run, for its status."""
        absent = ", ".join(self.masked_networks)
        return (f"no signal in network {absent}; its tokens were masked",) if absent else ()

    @property
    def pooled(self) -> NDArray[np.float32]:
        """Mean over windows, (dims,)."""
        pooled: NDArray[np.float32] = self.vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        return pooled
