"""The Python interface: the code of the command line for arrays, images and outputs, with identical results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import AppConfig, EmbeddingConfig, EncoderConfig, SignalsConfig
from bids_semantoks.config.options import check, from_json
from bids_semantoks.embedding import RunEncoder, build_run_encoder, cut_windows
from bids_semantoks.errors import ModelError
from bids_semantoks.exchange.arrays import ParcelSeries, explain_misfit, names_most, take_array
from bids_semantoks.outputs.credits import read_bibliography
from bids_semantoks.outputs.sidecars import build_signals_sidecar
from bids_semantoks.quality.fit import FitItem, find_worst, judge_fit
from bids_semantoks.records import Atlas, ParcelSignals, Run
from bids_semantoks.run_plan import describe_settings
from bids_semantoks.signals.denoising import Denoising, load_denoising
from bids_semantoks.statistics.series import weigh_windows
from bids_semantoks.tables import load_outputs, load_predictor, probe

if TYPE_CHECKING:
    from bids_semantoks.models.checkpoints import LoadedEncoder

__all__ = [
    "Embedding",
    "Encoder",
    "Fit",
    "ParcelSeries",
    "extract",
    "load_encoder",
    "load_outputs",
    "load_predictor",
    "probe",
    "run",
]

#: Input of `Encoder.encode`: an array (T, P), a table with one column per parcel, a path, or the result of `extract`.
Series = Any

_USUAL = EmbeddingConfig()


class Fit(NamedTuple):
    """How well a run matches the training data of its encoder."""

    level: str  # green, amber or red: the worst of the reasons
    reasons: tuple[FitItem, ...]  # name, value, level and words of each property

    def __str__(self) -> str:
        return "\n".join([self.level, *(f"{one.level}: {one.name} {one.value}: {one.words}" for one in self.reasons)])


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)
class Embedding:
    """Embedding of one run: B windows, D the encoder's width, N networks, K patches of a window."""

    vectors: NDArray[np.float32]  # (B, dims)
    onset: NDArray[np.float64]  # (B,) seconds from the run's first volume
    duration: float  # of a window in seconds, padding included
    kept: NDArray[np.float64]  # (B,) share of the window's time that is real and not scrubbed
    pooled: NDArray[np.float64]  # (dims,) mean over windows, weighted by `kept`
    tokens: NDArray[np.float32] | None  # (B, 1 + N*K, D) class token, then the networks' patches
    masked_networks: tuple[str, ...]  # without signal; their tokens are predicted by the encoder
    fit: Fit  # how well the run fits what the encoder was trained on
    warnings: tuple[str, ...]  # shortcomings of the run, in words

    def __repr__(self) -> str:
        """Describe the embedding in one line, without its numbers."""
        return f"Embedding({len(self.vectors)} windows x {self.vectors.shape[1]} dimensions, fit {self.fit.level})"


def load_encoder(
    model: str | Path = _USUAL.model,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = _USUAL.batch_size,
    random_seed: int = 0,
) -> Encoder:
    """Load a frozen encoder.

    Parameters
    ----------
    model : str or Path, optional
        As ``--model``: a folder or file, ORG/NAME on the Hugging Face hub, or ``random:paper|small|tiny[:SEED]``.
    device : str, optional
        ``auto`` (CUDA or CPU), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    precision : str, optional
        ``auto`` and ``fp32`` are float32 without TF32; ``bf16`` or ``fp16``.
    batch_size : int, optional
        Windows per batch.
    random_seed : int, optional
        Seed of random weights without a seed in their name.

    Returns
    -------
    Encoder
        Ready to encode series of its parcels.

    Raises
    ------
    ModelError
        The encoder is not found or damaged.
    ResourceError
        The device is not available.
    """
    config = EmbeddingConfig(model=str(model), device=device, precision=precision, batch_size=batch_size)
    return Encoder(config, random_seed)


class Encoder:
    """A frozen encoder, from `load_encoder`.

    Encoders with random weights are built for the parcels of each series, as on the command line; `parcels` are then
    those of the published encoder.
    """

    def __init__(self, config: EmbeddingConfig, random_seed: int = 0) -> None:
        from bids_semantoks.models.checkpoints import load_encoder as load
        from bids_semantoks.models.frozen import PRECISIONS, resolve_device

        check(config.precision in PRECISIONS, f"precision must be {', '.join(PRECISIONS)}, found {config.precision!r}.")
        resolve_device(config.device)
        self._config, self._seed = config, random_seed
        self._loaded = load(config.model, seed=random_seed)
        self._laid_out: dict[tuple[tuple[str, ...], tuple[str, ...]], LoadedEncoder] = {}

    def __repr__(self) -> str:
        return f"<Encoder {self.name}: {len(self.parcels)} parcels, width {self.config.width}>"

    @property
    def name(self) -> str:
        """Label in names of outputs."""
        return self._loaded.name

    @property
    def sha256(self) -> str:
        """Checksum of the weights."""
        return self._loaded.sha256

    @property
    def description(self) -> str:
        """One sentence on the origin of the weights."""
        return self._loaded.description

    @property
    def parcels(self) -> tuple[str, ...]:
        """Names (P,) of its parcels, in its order; numbers if the weights have no names."""
        layout = self._loaded.layout
        return layout.parcels or tuple(str(number + 1) for number in range(layout.n_parcels))

    @property
    def networks(self) -> dict[str, tuple[str, ...]]:
        """Parcels of each network, networks in the encoder's order."""
        layout, parcels = self._loaded.layout, self.parcels
        members = zip(layout.network_names, layout.indices, strict=True)
        return {name: tuple(parcels[index] for index in indices) for name, indices in members}

    @property
    def config(self) -> EncoderConfig:
        """Architecture: repetition time (s), window and patch (volumes), width and depth among others."""
        return self._loaded.config

    @property
    def citation(self) -> str:
        """Reference to cite, with a link."""
        paper = read_bibliography()["gijsen2026"]
        return f"{paper.full} {paper.url}"

    def encode(
        self,
        series: Series,
        *,
        repetition_time: float | None = None,
        parcels: str | Sequence[str] | None = None,
        pooling: str | Sequence[str] = _USUAL.pooling[0],
        n_windows: int = _USUAL.n_windows,
        min_kept: float | None = _USUAL.min_kept,
    ) -> Any:
        """Encode the parcel series of one run without further cleaning.

        Parameters
        ----------
        series : array of shape (T, P), DataFrame, path or ParcelSeries
            Volumes x parcels, NaN where scrubbed or absent; a table (CSV, TSV, NPY, 1D, CIFTI) by its path.
        repetition_time : float, optional
            In seconds; required unless a sidecar of the file has it.
        parcels : str or sequence of str, optional
            Name (P,) of each column, or an order shipped with this package, such as ``Schaefer400-7Networks``.
            Required if the columns have no names. Names of the 17-network order and of 2018 are recognised.
        pooling : str or sequence of str, optional
            ``cls_avg`` (mean token, then class token), ``cls``, ``avg`` or ``networks`` (mean token of each
            network, concatenated); several are computed in one pass.
        n_windows : int, optional
            Number of equally spaced windows; fewer in very short runs.
        min_kept : float or None, optional
            Windows with a smaller share of kept data are excluded from `pooled` if there are better ones; None weights
            all windows equally.

        Returns
        -------
        Embedding, or dict of Embedding
            The embedding as written by the command line, and the fit of the run to the encoder; by readout if
            `pooling` is a sequence.

        Raises
        ------
        InputError
            The array cannot be series of these parcels.
        AtlasError, ModelError
            The parcels do not match the encoder; the first mismatches are listed.
        RunFailed, RunSkipped
            The series cannot be encoded; reasons as on the command line.
        """
        taken = series if isinstance(series, ParcelSeries) else self._take(series, parcels, repetition_time)
        poolings = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        encoder = self._match(taken, pooling=poolings, n_windows=n_windows)
        signals = taken.series[: len(taken.series) - taken.n_padding]
        windows = cut_windows(signals, encoder, repetition_time=taken.repetition_time, n_dummy=taken.n_dummy)
        weights = weigh_windows(windows.kept, min_kept)
        embeddings = {}
        for name, found in encoder.frozen.encode_readouts(windows, poolings, with_tokens=True).items():
            embeddings[name] = Embedding(
                vectors=found.vectors,
                onset=windows.onset,
                duration=windows.duration,
                kept=windows.kept,
                pooled=weights @ found.vectors,
                tokens=found.tokens,
                masked_networks=found.masked_networks,
                fit=self._judge(taken, found.masked_networks),
                warnings=(*taken.warnings, *encoder.frozen.match.warnings, *found.warnings),
            )
        return embeddings[pooling] if isinstance(pooling, str) else embeddings

    def _take(self, series: Series, parcels: str | Sequence[str] | None, repetition_time: float | None) -> ParcelSeries:
        described, atlas, signals = take_array(
            series, parcels=parcels, repetition_time=repetition_time, expected=self.parcels
        )
        return _record(described, atlas, signals, SignalsConfig(min_time=0.0), None)

    def _match(self, taken: ParcelSeries, **asked: Any) -> RunEncoder:
        """Match the encoder to the parcels of series; ModelError lists the first mismatches."""
        from bids_semantoks.models.frozen import POOLINGS

        unknown = ", ".join(map(str, set(asked["pooling"]) - set(POOLINGS)))
        check(not unknown, f"pooling must be {', '.join(POOLINGS)}, found {unknown}.")
        config = dataclasses.replace(self._config, **asked)
        atlas = taken.parcels, taken.networks
        is_own = not self._loaded.is_random or names_most(taken.parcels, self.parcels)
        loaded = self._loaded if is_own else self._laid_out.get(atlas)
        try:
            encoder = build_run_encoder(config, *atlas, seed=self._seed, loaded=loaded)
        except ModelError as error:
            raise explain_misfit(error, taken.parcels, self.parcels) from error
        if not is_own:
            self._laid_out = {atlas: encoder.loaded}
        return encoder

    def _judge(self, taken: ParcelSeries, masked: Sequence[str]) -> Fit:
        model = {"Limits": self._loaded.details.get("limits")}
        items = judge_fit(taken.sidecar, {"Model": model, "MaskedNetworks": list(masked)}, taken.coverage)
        return Fit(find_worst(items), tuple(items))


class SignalOptions(TypedDict, total=False):
    """Options of `extract`, which are those of the command line."""

    denoise: str  # preset or JSON file
    band_pass: tuple[float, float] | None  # Hz; None disables filtering
    fd_threshold: float | None  # mm
    motion_filter: str | None  # lp:HZ or notch:LOW-HIGH
    dummy_scans: str  # auto or a number
    min_time: float  # seconds of kept data
    min_coverage: float  # share of a parcel
    atlas_dir: str | None  # searched first for atlas files


def extract(
    bold: str | Path,
    *,
    mask: str | Path | None = None,
    confounds: str | Path | None = None,
    atlas: str = SignalsConfig().atlas,
    repetition_time: float | None = None,
    space: str | None = None,
    **options: Unpack[SignalOptions],
) -> ParcelSeries:
    """Average one BOLD image over parcels and clean the signals, as the command line does for a run.

    Parameters
    ----------
    bold : str or Path
        NIfTI image or CIFTI dense series in a template space.
    mask : str or Path, optional
        Brain mask on the same grid; an image needs one.
    confounds : str or Path, optional
        fMRIPrep confounds table; required unless `denoise` is ``none``.
    atlas : str, optional
        Name of a registered atlas, or the path of one.
    repetition_time : float, optional
        In seconds; required if neither a sidecar nor the header has it.
    space : str, optional
        Template space of the image, by default that in its name, else the first that the atlas has.
    **options
        ``denoise``, ``band_pass``, ``fd_threshold``, ``motion_filter``, ``dummy_scans``, ``min_time``,
        ``min_coverage`` and ``atlas_dir``, as on the command line.

    Returns
    -------
    ParcelSeries
        Series (T, P), coverage (P,), kept volumes (T,) and metadata; accepted by `Encoder.encode`.

    Raises
    ------
    InputError
        A file does not exist.
    AtlasError
        The atlas is not found, or not in this space.
    RunFailed, RunSkipped
        The image cannot be processed; reasons as on the command line.
    """
    from bids_semantoks.exchange.arrays import describe_image
    from bids_semantoks.participant import load_run_atlas
    from bids_semantoks.signals.extract import extract_signals

    asked = from_json(SignalsConfig, {"atlas": atlas, **options}, where="extract")
    described, notes = describe_image(
        bold, {"mask": mask, "confounds": confounds}, atlas=atlas, repetition_time=repetition_time, space=space
    )
    config = AppConfig(bids_dir=Path(), out_dir=Path(), level="participant", signals=asked)
    loaded, denoising = load_run_atlas(config, described), load_denoising(asked.denoise, asked.band_pass)
    signals = extract_signals(described, loaded, asked, denoising)
    signals = dataclasses.replace(signals, warnings=(*notes, *signals.warnings))
    return _record(described, loaded, signals, asked, denoising)


def _record(
    described: Run, atlas: Atlas, signals: ParcelSignals, asked: SignalsConfig, denoising: Denoising | None
) -> ParcelSeries:
    """Build the public record of a run, with the sidecar that the command line would write."""
    settings = describe_settings(asked, atlas, denoising)
    sidecar = build_signals_sidecar(
        described, atlas, signals, settings=settings, inputs={}, dataset="", min_time=asked.min_time
    )
    return ParcelSeries(
        series=signals.values,
        coverage=signals.coverage,
        kept=signals.kept,
        parcels=atlas.parcels,
        networks=atlas.networks,
        repetition_time=signals.repetition_time,
        n_dummy=signals.n_dummy,
        n_padding=signals.n_padding,
        sidecar=sidecar,
        warnings=signals.warnings,
    )


def run(arguments: Sequence[str | Path]) -> int:
    """Run a command-line call in this process.

    Parameters
    ----------
    arguments : sequence of str or Path
        Arguments after ``bids_semantoks``, such as ``["BIDS", "OUT", "participant"]``.

    Returns
    -------
    int
        Exit code: 0 for success; see the documentation of the command line.
    """
    from bids_semantoks.cli import call

    return call([str(one) for one in arguments])
