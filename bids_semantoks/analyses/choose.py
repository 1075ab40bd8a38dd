"""What a call works on: stored runs of one atlas and space within its selection and limits, and encoders that probes
compare with or average over: random weights of the same architecture, and other seeds."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bids_semantoks.config import AppConfig, RunningConfig, SelectionConfig, to_json
from bids_semantoks.embedding import AtlasNames, RunEncoder, build_run_encoder, embed_run, find_missing, name_readout
from bids_semantoks.errors import ConfigurationError, InputError, ResourceError, name_count
from bids_semantoks.files import hash_text
from bids_semantoks.inputs.runs import warn_of_missing_outputs
from bids_semantoks.inputs.selection import check_known, keep_known, list_asked, normalise_value, read_labels
from bids_semantoks.outputs.dataset import read_atlas_checksum, read_atlas_table, write_descriptions
from bids_semantoks.outputs.store import StoredRun, find_stored_kinds, find_stored_runs
from bids_semantoks.quality.cohort import find_excluded
from bids_semantoks.quality.run_qc import check_settings, leave_out, warn_of_lost
from bids_semantoks.runtime.logs import Progress
from bids_semantoks.runtime.processes import WorkerDied, run_jobs
from bids_semantoks.runtime.resources import share_cpus
from bids_semantoks.signals.denoising import load_denoising

LOGGER = logging.getLogger("bids_semantoks")
_TWIN_SEED: Final = 1_000_003  # far from typical seeds of users, so that a random encoder is never compared with itself


def _label_atlas(name_or_path: str) -> list[str]:
    """List the labels that the participant level may have given an atlas: that of its name, file or table, that of a
    chosen atlas (``DIR:NAME``), and that of a file with the map chosen from it (``FILE.dlabel.nii:MAP``). The files
    need not exist."""
    path, _, choice = name_or_path.partition(":")
    stem = path.rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]
    texts = [stem, choice, choice.replace("atlas-", "").replace("scale-", "").replace("seg-", ""), stem + choice]
    return [re.sub(r"[^A-Za-z0-9]", "", text) for text in texts if text]


def choose_kind(config: AppConfig) -> tuple[str, str]:
    """Choose the atlas and space labels of the stored signals to work on. Raises InputError if there are no signals,
    none of the requested kind, or several kinds to choose from."""
    kinds = find_stored_kinds(config.out_dir)
    if not kinds:
        raise InputError(
            f"No signals found in {config.out_dir}: expected sub-*/[ses-*/]func/*_stat-mean_timeseries.tsv.",
            hint="Run the participant level first.",
        )
    listed = ", ".join(f"atlas {atlas} in {space or 'an unknown space'}" for atlas, space in kinds)
    wanted = _label_atlas(config.signals.atlas)
    fitting = [kind for kind in kinds if kind[0] in wanted or any(f"atlas{kind[0]}" in one for one in wanted)]
    # A table given by path may have any name; signals have the label of their series.
    is_open = config.signals.atlas == type(config.signals)().atlas or config.signals.atlas.endswith(".tsv")
    if not fitting and is_open and len({a for a, _ in kinds}) == 1:
        fitting = kinds
        LOGGER.info("Using atlas %s, the only one in %s.", kinds[0][0], config.out_dir)
    if config.selection.space is not None:
        # Output names have the space only; resolution and cohort are separate entities.
        asked = config.selection.space.removeprefix("space-").partition(":")[0]
        fitting = [kind for kind in fitting if kind[1] == asked]
    if not fitting:
        raise InputError(
            f"No signals of atlas {config.signals.atlas}"
            f"{f' in {config.selection.space}' if config.selection.space else ''} in {config.out_dir}: found {listed}.",
            hint="Choose with --atlas and --space.",
        )
    if len(fitting) > 1:
        raise InputError(f"{config.out_dir} has signals in several spaces: {listed}.", hint="Choose one with --space.")
    return fitting[0]


def select_stored(
    stored: Sequence[StoredRun], selection: SelectionConfig, *, where: str, prefers_rest: bool = True
) -> list[StoredRun]:
    """Keep the requested runs in the given order; with `prefers_rest` and no requested task, only resting runs if there
    are any. `where` names the dataset in messages. Raises InputError if a label is unknown or no run is left."""
    kept = list(stored)
    known, is_lenient = {run.entities["sub"] for run in stored}, selection.ignore_missing_participants
    labels = keep_known(read_labels(selection.participant_label, "sub-"), known, where, is_lenient=is_lenient)
    asked = ("participant", "sub", labels)
    for what, key, labels in (asked, *list_asked(selection)):
        check_known(what, labels, {run.entities.get(key, "") for run in kept} - {""}, where, key=key)
        if labels:
            same = {normalise_value(key, label) for label in labels}
            kept = [run for run in kept if normalise_value(key, run.entities.get(key, "")) in same]
    excluded = read_labels(selection.exclude_participant_label, "sub-")
    left_out = set(keep_known(excluded, known, where, is_lenient=is_lenient, is_excluded=True))
    kept = [run for run in kept if run.entities["sub"] not in left_out]
    if not kept:
        raise InputError(f"No run of {where} matches the selection.", hint="Relax the selection.")
    if prefers_rest and not selection.task_id and any(run.entities.get("task", "").startswith("rest") for run in kept):
        rest = [run for run in kept if run.entities.get("task", "").startswith("rest")]
        LOGGER.info("Computing features from %s of task rest; use --task-id for others.", name_count(len(rest), "run"))
        return rest
    tasks = sorted({run.entities.get("task", "n/a") for run in kept})
    if prefers_rest:
        LOGGER.info("Computing features from %s of task %s.", name_count(len(kept), "run"), ", ".join(tasks))
    return kept


def choose_stored(
    config: AppConfig, *, prefers_rest: bool = True, is_main: bool = True
) -> tuple[str, AtlasNames, list[StoredRun], dict[str, tuple[str, str]]]:
    """Choose stored runs made with one atlas in one space: atlas label, parcels and networks, runs sorted by name, and
    reason and message by stem of those excluded by the limits of this call.

    If not `is_main`, the output directory holds a further preparation: its settings and its only atlas may differ from
    those of the call, and missing participants are no error.

    Raises InputError if none is left, ConfigurationError if runs have another atlas of the same label or
    other settings than requested.
    """
    kinds, selection = find_stored_kinds(config.out_dir), config.selection
    atlas, space = choose_kind(config) if is_main or len(kinds) != 1 else kinds[0]
    names = read_atlas_table(config.out_dir, name=atlas, space=space)
    found = find_stored_runs(config.out_dir, atlas=atlas, model="")
    stored = [run for run in found if run.entities.get("space", "") == space]
    if not is_main:
        selection = dataclasses.replace(selection, ignore_missing_participants=True)
    elif not selection.participant_label:
        known = {run.entities["sub"] for run in stored}
        warn_of_lost(config.out_dir, known, atlas=atlas, space=space)
        warn_of_missing_outputs(config.bids_dir, config.out_dir, known)
    chosen = select_stored(stored, selection, where=str(config.out_dir), prefers_rest=prefers_rest)
    sha256 = read_atlas_checksum(config.out_dir, name=atlas, space=space)
    others = [run for run in chosen if run.sidecar["Atlas"]["SHA256"] != sha256]
    if others:
        raise ConfigurationError(
            f"{len(others)} of {len(chosen)} runs have signals of a different atlas with the label {atlas}; the first "
            f"is {others[0].paths.stem}.",
            hint="Rerun the participant level on them with --overwrite, or exclude them.",
        )
    if is_main:
        check_settings(config, chosen, to_json(load_denoising(config.signals.denoise)))
    kept, left_out = leave_out(config, chosen)
    left_out |= find_excluded(config.out_dir, selection, [run.paths.stem for run in kept])
    kept = [run for run in kept if run.paths.stem not in left_out]
    if not kept:
        raise InputError(
            f"The limits of this call exclude all {len(chosen)} runs, e.g. {chosen[0].paths.stem}: "
            f"{left_out[chosen[0].paths.stem][1]}",
            hint="Lower --min-time or --min-coverage, or exclude fewer.",
        )
    return atlas, names, kept, left_out


def embed_stored(
    stored: Sequence[StoredRun], encoder: RunEncoder, *, why: str, running: RunningConfig, overwrite: bool = True
) -> None:
    """Embed the runs that lack an embedding of an encoder to compare with, without statuses; `why` is for the log.
    Raises ConfigurationError as `find_missing`, ResourceError if a process was killed."""
    hint = "Rename the encoder, use the original settings or --overwrite."
    missing = find_missing(encoder.name_outputs(stored), encoder, overwrite=overwrite, hint=hint)
    if missing:
        LOGGER.info("Embedding %s %s.", name_count(len(missing), "run"), why)
        write_descriptions(stored[0].paths.out_dir, encoder.description)
    device = str(encoder.frozen.device)
    n_procs = share_cpus(running, n_jobs=len(missing), model_bytes=encoder.n_bytes, device=device)
    results = run_jobs(partial(_build_embedder, encoder), missing, n_procs=n_procs)
    for i, result in Progress(f"Embedding {why}").each("run", results, total=len(missing)):
        if isinstance(result, WorkerDied):
            raise ResourceError(f"Failed to embed {missing[i].paths.stem} {why}: {result}.", hint="Reduce --n-procs.")


def _build_embedder(encoder: RunEncoder) -> Callable[[StoredRun], tuple[str, ...]]:
    return partial(embed_run, encoder=encoder)


def embed_others(stored: Sequence[StoredRun], others: Sequence[RunEncoder], running: RunningConfig) -> None:
    """Embed the runs, if there are any, by the encoders that are compared with the first."""
    for one in others if stored else ():
        embed_stored(stored, one, why=f"by {one.loaded.name}", running=running, overwrite=running.overwrite)


def name_twin(model: str, number: int = 0) -> str:
    """Name the encoder of the same architecture with random weights, draw `number` (from 0)."""
    return f"{model}Untrained{number + 1 if number else ''}"


def build_untrained(encoder: RunEncoder, seed: int, name: str) -> RunEncoder:
    """Build an encoder like another one, but with the random weights that training with `seed` starts from."""
    from bids_semantoks.models.encoder import build_encoder  # noqa: PLC0415 - loads torch

    loaded, like = encoder.loaded, encoder.frozen
    untrained = dataclasses.replace(
        loaded,
        encoder=build_encoder(loaded.config, loaded.layout, seed).eval(),
        name=name,
        sha256=hash_text(f"untrained {seed} {loaded.sha256}"),
        description=f"Random weights (seed {seed}) with the architecture of {loaded.name}, untrained: a baseline.",
        is_random=True,
        head=None,
        details={},
    )
    frozen = type(like)(
        untrained,
        dataclasses.replace(like.match, warnings=()),
        device=like.device,
        precision=like.precision,
        batch_size=like.batch_size,
        pooling=like.pooling,
    )
    config = dataclasses.replace(encoder.config, save_tokens=False)
    return RunEncoder(loaded=untrained, frozen=frozen, config=config, seed=seed)


def build_twin(encoder: RunEncoder, number: int = 0) -> RunEncoder:
    """Build the encoder with random weights that probes compare with, draw `number` (from 0)."""
    return build_untrained(encoder, encoder.seed + _TWIN_SEED + number, name_twin(encoder.loaded.name, number))


def load_replicates(config: AppConfig, encoder: RunEncoder, atlas: AtlasNames) -> list[RunEncoder]:
    """Load the encoders whose scores are averaged with those of the first, none if not requested. Raises
    ConfigurationError as `load_others`, and for another architecture."""
    return _load_more(config, encoder, atlas, config.probing.replicates, option="--replicates")


def load_others(config: AppConfig, encoder: RunEncoder, atlas: AtlasNames) -> list[RunEncoder]:
    """Load the encoders of --model after the first, which are compared with it; one whose label is taken gets that of
    its folder as well. Raises ConfigurationError for the same weights twice."""
    return _load_more(config, encoder, atlas, config.embedding.more_models, option="--model")


def _load_more(
    config: AppConfig, encoder: RunEncoder, atlas: AtlasNames, models: Sequence[str], *, option: str
) -> list[RunEncoder]:
    """Load the `models` of an option in addition to an encoder."""
    found = {encoder.loaded.name: encoder}
    for model in models:
        asked = dataclasses.replace(config.embedding, model=model, more_models=(), save_tokens=False)
        load = partial(build_run_encoder, asked, *atlas, seed=config.running.random_seed)
        one = load()
        twice = next((other for other in found.values() if other.loaded.sha256 == one.loaded.sha256), None)
        if twice is not None:
            raise ConfigurationError(
                f"{option} {model} has the same weights as {twice.loaded.name} (SHA-256 {one.loaded.sha256[:12]}).",
                hint="List each encoder once.",
            )
        if one.loaded.name in found:
            name = _tell_apart(model, one, list(found))
            LOGGER.warning("The label %s is already used: %s %s is labelled %s.", one.loaded.name, option, model, name)
            one = load(name=name)
        if option == "--replicates" and one.loaded.config != encoder.loaded.config:
            raise ConfigurationError(
                f"{option} {model} has a different architecture than {encoder.loaded.name}.",
                hint="Scores can only be averaged over encoders that differ in their seed alone.",
            )
        found[one.loaded.name] = one
    return list(found.values())[1:]


def _tell_apart(model: str, encoder: RunEncoder, names: Sequence[str]) -> str:
    """Find another label for an encoder, by the requested revision or its folders, else by its checksum."""
    from bids_semantoks.models.hub import label_folder, parse_repository  # noqa: PLC0415 - loads torch

    asked = None if Path(model).exists() else parse_repository(model)
    pooling, label = encoder.frozen.pooling, encoder.loaded.name
    plain = label.removesuffix(name_readout("", pooling))
    folders = [label_folder(part) for part in Path(model).expanduser().absolute().parts[1:-1]]
    tried = [plain + label_folder(asked.revision)] if asked and asked.revision else []
    tried += [plain + "".join(folders[-number:]) for number in range(1, len(folders) + 1)]
    tried.append(f"{plain}{encoder.loaded.sha256[:8]}")
    return next(one for one in tried if name_readout(one, pooling) not in names)
