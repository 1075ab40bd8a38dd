"""The one way from the stored signals of a run to its embedding, for both levels."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_semantoks.config import EmbeddingConfig, RunningConfig
from bids_semantoks.errors import ConfigurationError, ResourceError, RunFailed
from bids_semantoks.files import hash_values
from bids_semantoks.models.parcels import match_parcels
from bids_semantoks.outcomes import Outcome, Tally, isolate, record_status, report_outcome, run_batch
from bids_semantoks.outputs.features import (
    RunMean,
    build_mean_reader,
    read_mean_embedding,
    remove_embedding,
    write_embedding,
)
from bids_semantoks.outputs.sidecars import (
    build_embedding_sidecar,
    build_uri,
    check_table,
    describe_differences,
    has_files,
    is_older,
    note_damage,
)
from bids_semantoks.outputs.store import OutputPaths, StoredRun, read_sidecar
from bids_semantoks.quality.run_qc import write_run_qc
from bids_semantoks.records import Embedding, Windows
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.runtime.processes import WorkerDied, run_jobs
from bids_semantoks.runtime.resources import choose_n_procs, share_cpus
from bids_semantoks.signals.filters import GAPS
from bids_semantoks.signals.windows import build_windows
from bids_semantoks.statistics.series import compare_tokens, weigh_windows
from bids_semantoks.training.packed import PackedRun, SignalStore

if TYPE_CHECKING:
    from bids_semantoks.models.checkpoints import LoadedEncoder
    from bids_semantoks.models.frozen import FrozenEncoder

LOGGER = logging.getLogger("bids_semantoks")
AtlasNames = tuple[tuple[str, ...], tuple[str, ...]]  # parcels and networks, (P,) each
#: Keys that the sidecar of an embedding copies from that of its signals.
_INHERITED = (
    *("Atlas", "AbsentParcels", "RepetitionTime", "Denoising"),
    *("VolumesTotal", "VolumesKept", "VolumesDropped", "MeanFramewiseDisplacement"),
)
#: Rows of tokens whose similarities a sidecar holds.
_MOST_COMPARED: Final = 64
_RUNS_PER_READER: Final = 300  # fewer are read faster than a process starts


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RunEncoder:
    """A frozen encoder matched to an atlas, with the settings that determine its embeddings."""

    loaded: LoadedEncoder
    frozen: FrozenEncoder  # the same encoder on its device
    config: EmbeddingConfig
    seed: int  # of random weights whose name gives none
    others: tuple[RunEncoder, ...] = ()  # further readouts of the same weights, made in the same pass

    @property
    def readouts(self) -> tuple[RunEncoder, ...]:
        """This readout and the others."""
        return (self, *self.others)

    @property
    def description(self) -> dict[str, str]:
        """Meaning of the labels of the encoder's readouts, for `write_descriptions`."""
        loaded = [one.loaded for one in self.readouts]
        return {one.name: f"Embedding by the encoder {one.name}: {one.description}" for one in loaded}

    @property
    def is_array(self) -> bool:
        """Whether embeddings are too wide for tables."""
        return self.frozen.pooling == "networks" and self.config.networks_format == "npy"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine, together with the signals, whether an embedding is up to date."""
        return {
            "model": self.loaded.name,
            "model_sha256": self.loaded.sha256,
            "n_windows": self.config.n_windows,
            "pooling": self.frozen.pooling,
            "precision": self.precision,
            "gaps": GAPS,
        }

    @property
    def precision(self) -> str:
        """Arithmetic actually used: ``auto`` means fp32."""
        return "fp32" if self.config.precision == "auto" else self.config.precision

    @property
    def token_rows(self) -> tuple[str, ...]:
        """Labels of the N rows of tokens: networks, parcels or the whole brain."""
        layout, spatial = self.loaded.layout, self.loaded.config.spatial
        if spatial == "whole":
            return ("whole brain",)
        if spatial == "parcel":
            return layout.parcels or tuple(str(i + 1) for i in range(layout.n_parcels))
        return layout.network_names

    @property
    def n_bytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(weight.numel() * weight.element_size() for weight in self.loaded.encoder.parameters())

    def clear(self, paths: OutputPaths, signals: Mapping[str, Any]) -> None:
        """Remove embeddings with other settings or from other signals than those with sidecar `signals`."""
        for one in self.readouts:
            remove_embedding(one.place(paths), settings=one.settings, signals_sha256=signals["TableSHA256"])

    def place(self, paths: OutputPaths) -> OutputPaths:
        """Set the encoder label in a run's paths to this readout."""
        return dataclasses.replace(paths, model=self.loaded.name)

    def name_outputs(self, stored: Sequence[StoredRun]) -> list[StoredRun]:
        """Set the encoder label in the runs' paths to this encoder."""
        settings_hash = hash_values(self.settings)
        return [dataclasses.replace(run, paths=self.place(run.paths), settings_hash=settings_hash) for run in stored]


def name_readout(model: str, pooling: str) -> str:
    """Name the label of a readout of an encoder: that of ``cls_avg`` is the encoder's own."""
    return model + {"cls_avg": ""}.get(pooling, pooling.capitalize())


def build_run_encoder(
    config: EmbeddingConfig,
    parcels: tuple[str, ...],
    networks: tuple[str, ...],
    *,
    seed: int,
    name: str = "",
    loaded: LoadedEncoder | None = None,
) -> RunEncoder:
    """Load an encoder, unless it is `loaded`, and match it to the P parcels and networks of an atlas, with a readout
    for each pooling; `seed` is for random weights whose name gives none, `name` replaces the label. Raises ModelError
    if the encoder is missing, damaged or does not match the atlas, ResourceError if the device is not available."""
    from bids_semantoks.models.checkpoints import load_encoder
    from bids_semantoks.models.frozen import FrozenEncoder, resolve_device

    device = resolve_device(config.device)
    loaded = loaded or load_encoder(config.model, atlas=(parcels, networks), seed=seed)
    match = match_parcels(parcels, networks, loaded.layout)
    whole = FrozenEncoder(loaded, match, device=device, precision=config.precision, batch_size=config.batch_size)
    label = name or loaded.name
    readouts = [whole.with_readout(pooling, name_readout(label, pooling)) for pooling in config.pooling]
    first, *others = (RunEncoder(loaded=one.loaded, frozen=one, config=config, seed=seed) for one in readouts)
    return dataclasses.replace(first, others=tuple(others))


def embed_mean(
    run: StoredRun, encoder: RunEncoder, *, min_kept: float | None, hidden: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Embed a run in memory and average its windows (`weigh_windows`): (D,), or (V, D) once for each set of `hidden`
    rows of tokens (V, N)."""
    windows = read_windows(run, encoder)
    frozen = encoder.frozen
    vectors = frozen.encode(windows).vectors if hidden is None else frozen.encode_variants(windows, hidden)
    return np.asarray(weigh_windows(windows.kept, min_kept) @ vectors)


def read_windows(run: StoredRun, encoder: RunEncoder) -> Windows:
    """Cut the encoder's windows from the signals of a run, as stored in their table; RunSkipped as `build_windows`."""
    return cut_windows(run.read_signals(), encoder, repetition_time=run.repetition_time, n_dummy=run.n_dummy)


def cut_windows(signals: NDArray[np.floating], encoder: RunEncoder, *, repetition_time: float, n_dummy: int) -> Windows:
    """Cut the encoder's windows from cleaned signals (T, P) without padding; RunSkipped as `build_windows`."""
    model = encoder.loaded.config
    return build_windows(
        signals,
        repetition_time=repetition_time,
        n_dummy=n_dummy,
        target_repetition_time=model.repetition_time,
        window=model.window,
        n_windows=encoder.config.n_windows,
    )


def embed_run(run: StoredRun, encoder: RunEncoder) -> tuple[str, ...]:
    """Embed a run and write what each readout gives where its paths say, all tokens only with --save-tokens; return
    warnings."""
    encoder.clear(run.paths, run.sidecar)
    windows = read_windows(run, encoder)
    poolings = [one.frozen.pooling for one in encoder.readouts]
    found = encoder.frozen.encode_readouts(windows, poolings, with_tokens=True)
    # The first is written last: if it exists, the others do too.
    for one in reversed(encoder.readouts):
        embedding = found[one.frozen.pooling]
        is_first = one is encoder
        similarity = _compare(embedding, len(encoder.token_rows)) if is_first else None
        facts = _describe_embedding(run, one) | {"TokenSimilarity": similarity}
        sidecar = build_embedding_sidecar(windows, embedding, settings=one.settings, facts=facts, as_array=one.is_array)
        written = embedding if is_first and one.config.save_tokens else dataclasses.replace(embedding, tokens=None)
        write_embedding(one.place(run.paths), windows, written, sidecar, as_array=one.is_array)
    return found[poolings[0]].warnings


def _describe_embedding(run: StoredRun, encoder: RunEncoder) -> dict[str, Any]:
    """Collect the sidecar entries of one readout of a run besides its settings and windows."""
    loaded, frozen, signals = encoder.loaded, encoder.frozen, run.sidecar
    return {
        "Sources": [build_uri(run.paths.signals, run.paths.out_dir)],
        "SignalsSHA256": signals["TableSHA256"],
        **{key: signals[key] for key in _INHERITED if key in signals},
        "ResampledRepetitionTime": loaded.config.repetition_time,
        "Model": {
            "Name": loaded.name,
            "SHA256": loaded.sha256,
            "Description": loaded.description,
            **({"Origin": loaded.origin} if loaded.origin else {}),
            "HasRandomWeights": loaded.is_random,
            "Limits": loaded.details.get("limits"),
        },
        "RandomSeed": encoder.seed,
        "TokenRows": list(encoder.token_rows),
        "TokenSimilarity": None,
        "Pooling": frozen.pooling,
        **({"PooledNetworks": list(frozen.readout_networks)} if frozen.pooling == "networks" else {}),
        "Device": str(frozen.device),
        "Precision": encoder.precision,
        "Warnings": list(frozen.match.warnings),
    }


def _compare(embedding: Embedding, n_rows: int) -> dict[str, list[list[float]]] | None:
    """Describe how alike the tokens of networks and of windows are, for the report: tokens are only available here.
    Networks are omitted if there are too many for a figure."""
    if embedding.tokens is None:
        return None
    networks, windows = (matrix.round(3).tolist() for matrix in compare_tokens(embedding.tokens, n_rows))
    return {"Networks": networks, "Windows": windows} if n_rows <= _MOST_COMPARED else {"Windows": windows}


def find_embedding_state(
    paths: OutputPaths, encoder: RunEncoder, signals_sha256: str, *, redo_older_than: str | None = None
) -> tuple[bool, list[str]]:
    """Return whether the embeddings on disk are complete and current, and list the settings in which they differ.
    `signals_sha256` is the checksum of the signals on disk; empty if they will change. One made before the version
    `redo_older_than` is not current."""
    is_complete, differences = True, []
    for one in encoder.readouts:
        own = one.place(paths)
        sidecar = read_sidecar(own.embedding_sidecar)
        if sidecar is None:
            is_complete = False
            continue
        found = describe_differences(sidecar["Settings"], one.settings)
        is_current = sidecar.get("SignalsSHA256") == signals_sha256 and not is_older(sidecar, redo_older_than)
        is_whole = has_files(own.directory, sidecar) and not (own.vectors.is_file() and not one.is_array)
        has_tokens = own.tokens.is_file() or not one.config.save_tokens or one is not encoder
        is_complete = is_complete and not found and is_current and is_whole and has_tokens
        differences += found
    return is_complete, differences


def find_missing(
    stored: Sequence[StoredRun], encoder: RunEncoder, *, overwrite: bool, hint: str, redo_older_than: str | None = None
) -> list[StoredRun]:
    """Find the runs whose embedding is missing, damaged, out of date, or made before the version `redo_older_than`, by
    paths from `RunEncoder.name_outputs`. Raises ConfigurationError with `hint` if an embedding was made with other
    settings, unless `overwrite`."""
    missing = []
    for run in stored:
        is_complete, differences = find_embedding_state(
            run.paths, encoder, run.sidecar["TableSHA256"], redo_older_than=redo_older_than
        )
        if differences and not overwrite:
            raise ConfigurationError(
                f"{run.paths.embedding} was computed with different settings: {'; '.join(differences)}.", hint=hint
            )
        if not is_complete or any(_is_damaged(one.place(run.paths)) for one in encoder.readouts):
            missing.append(run)
    return missing


def _is_damaged(paths: OutputPaths) -> bool:
    """Compare a complete embedding, which the caller goes on to read, with its checksum."""
    try:
        sidecar = read_sidecar(paths.embedding_sidecar) or {}
        check_table(paths.embedding, sidecar)
        if paths.vectors.name in sidecar.get("Files", {}):
            check_table(paths.vectors, sidecar)
    except RunFailed as error:
        LOGGER.warning("%s It will be recomputed.", error.message)
        return True
    return False


def leave_out_damaged(stored: Sequence[StoredRun], tally: Tally) -> list[StoredRun]:
    """Keep the runs whose signals match the checksum in their sidecars; the others, complete until now, fail."""
    whole = []
    for run in stored:
        try:
            check_table(run.paths.signals, run.sidecar)
        except RunFailed as error:
            outcome = Outcome("failed", error.reason, str(error))
            record_status(run, outcome, device="")
            note_damage(run.paths.signals)
            tally.n_ok -= 1
            tally.add(outcome)
            report_outcome(run, outcome, progress="[left out]")
        else:
            whole.append(run)
    return whole


def embed_missing(
    missing: list[StoredRun], encoder: RunEncoder, atlas: AtlasNames, running: RunningConfig, tally: Tally
) -> None:
    """Embed runs, each with a status, in this process or in several that load the encoder themselves."""
    device = str(encoder.frozen.device)
    n_procs = share_cpus(running, n_jobs=len(missing), model_bytes=encoder.n_bytes, device=device)
    load_worker = functools.partial(_load_worker, encoder.config, atlas, encoder.seed)
    run_batch(
        load_worker if n_procs > 1 else lambda: functools.partial(_embed_isolated, encoder),
        missing,
        n_procs=n_procs,
        stop_on_failure=running.stop_on_first_crash,
        tally=tally,
    )
    # A run that was not attempted, or whose worker was killed, has not removed its outdated outputs.
    for run in missing if tally.n_failed else ():
        encoder.clear(run.paths, run.sidecar)


def _load_worker(config: EmbeddingConfig, atlas: AtlasNames, seed: int) -> Callable[[StoredRun], Outcome]:
    return functools.partial(_embed_isolated, build_run_encoder(config, *atlas, seed=seed))


def _embed_isolated(encoder: RunEncoder, run: StoredRun) -> Outcome:
    def embed() -> tuple[str, ...]:
        run.paths.qc.unlink(missing_ok=True)  # it must not outlive its source
        return embed_run(run, encoder)

    outcome = isolate(embed, run, device=str(encoder.frozen.device))
    if outcome.reason == "damaged_table":
        note_damage(run.paths.signals)
    write_run_qc(run.paths, seconds=outcome.seconds)
    return outcome


def read_means(places: Sequence[OutputPaths], running: RunningConfig, *, min_kept: float | None) -> dict[Path, RunMean]:
    """Read the number of windows of runs and their mean embeddings (dims,) by path; `min_kept` as in `weigh_windows`.
    With a work directory tables are parsed once, for all that read them in this call and in later ones. Raises
    ResourceError if a reading process was killed."""
    work_dir = running.work_dir
    sidecars = [read_sidecar(paths.embedding_sidecar) or {} for paths in places] if work_dir is not None else []
    # Versions before 0.2 recorded no checksums, by which tables are known again.
    if work_dir is None or not sidecars or not all("FilesSHA256" in one for one in sidecars):
        return dict(_parse_means(places, running, min_kept))
    keys = [f"{hash_values(one['FilesSHA256'])} {min_kept}" for one in sidecars]
    known = dict(zip(keys, places, strict=True))
    width = 1 + read_mean_embedding(places[0], min_kept)[1].size
    store = SignalStore(work_dir / "embeddings" / f"{width}", width, "<f8")

    def pack(missing: list[str]) -> Iterator[PackedRun]:
        """Read what the store lacks: one volume of float64, the number of windows before the mean."""
        names = {known[key].embedding: key for key in missing}
        for path, (n_windows, mean) in _parse_means([known[key] for key in missing], running, min_kept):
            values = np.concatenate([[n_windows], mean])[None]
            present = np.ones(width, dtype=np.bool_)
            label = path.name.partition("_")[0].removeprefix("sub-")
            yield PackedRun(key=names[path], participant=label, repetition_time=0.0, values=values, present=present)

    view = store.fill(keys, pack)
    rows = (view.read(i)[0] for i in range(len(keys)))
    return {paths.embedding: (int(row[0]), row[1:]) for paths, row in zip(places, rows, strict=True)}


def _parse_means(
    places: Sequence[OutputPaths], running: RunningConfig, min_kept: float | None
) -> Iterator[tuple[Path, RunMean]]:
    n_procs = choose_n_procs(running, n_jobs=len(places) // _RUNS_PER_READER, model_bytes=0)
    results = run_jobs(functools.partial(build_mean_reader, min_kept), places, n_procs=n_procs)
    for i, result in Progress("Averaging").each("run", results, total=len(places)):
        if isinstance(result, WorkerDied):
            raise ResourceError(f"Failed to read {places[i].embedding}: {result}.", hint="Reduce --n-procs.")
        yield places[i].embedding, result
