"""From stored signals to an encoder: pack the signals, train, and write what the participant level loads."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch

from bids_semantoks.config import AppConfig, to_json
from bids_semantoks.disk import name_temporary, read_space, read_start
from bids_semantoks.errors import ConfigurationError, ResourceError, TrainingStopped
from bids_semantoks.files import hash_values, read_json, read_object, write_json
from bids_semantoks.models.checkpoints import write_checkpoint
from bids_semantoks.models.encoder import build_encoder, build_head
from bids_semantoks.models.frozen import resolve_device
from bids_semantoks.models.hub import CONFIG_FILE
from bids_semantoks.models.parcels import match_parcels
from bids_semantoks.models.weight_files import WEIGHTS_FILE
from bids_semantoks.outputs.store import StoredRun
from bids_semantoks.pretraining.card import (
    CARD_FILE,
    LOG_FILE,
    append_log,
    read_training_log,
    start_log,
    write_model_card,
)
from bids_semantoks.pretraining.packing import pack_signals, select_packed
from bids_semantoks.pretraining.plan import Blueprint, build_details, describe_data, draw_blueprint, find_kernels
from bids_semantoks.reports.figures import write_figures
from bids_semantoks.runtime.resources import choose_n_procs, record_end
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.distributed import Ranks, choose_device, join_ranks, sum_over_ranks
from bids_semantoks.training.loop import (
    Pretraining,
    StopRequest,
    choose_precision,
    describe_full_disk,
    find_differences,
    find_states,
    read_last_state,
    watch_signals,
)
from bids_semantoks.training.packed import SignalStore, SignalView

LOGGER = logging.getLogger("bids_semantoks")
CLAIM_FILE: Final = ".training.json"
_BEAT: Final = 10.0  # seconds between heartbeats
_PATIENCE: Final = 60.0  # seconds without a heartbeat after which a training on another machine counts as dead
_POLL: Final = 0.5


@contextlib.contextmanager
def claim(directory: Path, ranks: Ranks, request: StopRequest) -> Iterator[None]:
    """Hold the folder of an encoder while its training writes to it; collective. Raises ConfigurationError in all ranks
    if another call trains there. A crashed call on this machine is detected at once, one on another machine within a
    minute. A call whose claim was taken over meanwhile is asked to stop."""
    other = _take(directory / CLAIM_FILE, request) if ranks.is_first else ""
    if ranks.any(bool(other)):
        raise ConfigurationError(
            f"The encoder {directory} is being trained by {other or 'another call'}.",
            hint=f"Wait for it or choose another --encoder-name. If that call has died, delete {CLAIM_FILE} there.",
        )
    if not ranks.is_first:
        yield
        return
    path, has_ended = directory / CLAIM_FILE, threading.Event()
    beating = threading.Thread(target=_beat, args=(path, request, has_ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        has_ended.set()
        beating.join()
        with contextlib.suppress(OSError):
            if read_object(path) == _identify_call(request):
                path.unlink()
            directory.rmdir()  # only if nothing was written


def _take(path: Path, request: StopRequest) -> str:
    """Create the claim; return its holder if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while not request.reason:
        try:
            # Only one caller can create it, also on network disks; its content is for the others.
            with path.open("x", encoding="utf-8") as file:
                json.dump(_identify_call(request), file)
            return ""
        except FileExistsError:
            holder = read_object(path)
            if _is_alive(path, holder):
                holder = read_object(path)
                return f"process {holder.get('process', '?')} on {holder.get('host', 'another machine')}"
            if _remove(path, holder):
                LOGGER.info("The last call that trained %s was killed; resuming its training.", path.parent.name)
        except OSError:
            path.unlink(missing_ok=True)  # it may have been created before the disk was full
            raise
    return ""


def _remove(path: Path, dead: dict[str, Any]) -> bool:
    """Remove the claim of a dead call, but not that of another call which found it dead as well and was quicker."""
    aside = path.with_name(name_temporary())
    with contextlib.suppress(FileNotFoundError):
        path.rename(aside)
        is_dead = read_object(aside) == dead
        if not is_dead:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()
        return is_dead
    return False


def _identify_call(request: StopRequest) -> dict[str, Any]:
    process = os.getpid()
    known = {"host": socket.gethostname(), "process": process, "call": str(request.started)}
    return known | {"space": read_space(), "since": read_start(process)}


def _is_alive(path: Path, found: dict[str, Any]) -> bool:
    """Return whether the holder of a claim is still alive: check the process on this machine, else wait for a
    heartbeat."""
    if found.get("host") == socket.gethostname() and found.get("space") == read_space() != "":
        return read_start(found["process"]) == str(found["since"])
    # The clock of another machine may be wrong: only check whether the modification time changes.
    before, until = _read_time(path), time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        time.sleep(_POLL)
        now = _read_time(path)
        if now != before:
            return now is not None
    return False


def _read_time(path: Path) -> int | None:
    # Opened, since a network disk may otherwise return cached attributes.
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _beat(path: Path, request: StopRequest, has_ended: threading.Event) -> None:
    while not has_ended.wait(_BEAT):
        found = read_object(path)
        if found and found != _identify_call(request):
            request.reason = request.reason or "another call, which trains the same encoder"
            return
        with contextlib.suppress(OSError):
            os.utime(path)


def pretrain_encoder(
    config: AppConfig,
    stored: Sequence[StoredRun] = (),
    parcels: tuple[str, ...] = (),
    networks: tuple[str, ...] = (),
    *,
    participants: frozenset[str] | None = None,
) -> Path:
    """Pretrain an encoder, resume a stopped training, or find it complete; return its directory, for --model.

    Trains on the `stored` runs with their atlas (P parcels and networks) unless --pretrain-data names a file,
    restricted to `participants` if given. Raises TrainingStopped (the same call resumes), TrainingDiverged, or another
    SemantoksError if data, options or resources do not allow a training.
    """
    with record_end(config.out_dir):
        device = choose_device(resolve_device(config.embedding.device))
        encoder, data = describe_data(config, stored, (parcels, networks))
        if participants is not None:
            sources = tuple(source for source in data.sources if source.participant in participants)
            data = dataclasses.replace(data, sources=sources)
        with watch_signals() as request, join_ranks(device) as ranks:
            plan = draw_blueprint(config, encoder, data, n_parts=config.pretraining.accumulate * ranks.size)
            is_done = not config.running.overwrite and _is_finished(plan)
            # No rank may write before all have finished checking.
            ranks.wait()
            if not is_done:
                try:
                    with claim(plan.directory, ranks, request):
                        _train_anew(config, plan, device, ranks, request)
                except OSError as error:
                    raise describe_full_disk(error, plan.directory) from error
            ranks.wait()
        return plan.directory


def preview_training(
    config: AppConfig, stored: Sequence[StoredRun], parcels: tuple[str, ...], networks: tuple[str, ...]
) -> None:
    """Check a training and log what it would be, without writing. Raises
    SemantoksError if data or options do not allow it."""
    encoder, data = describe_data(config, stored, (parcels, networks))
    plan = draw_blueprint(config, encoder, data, n_parts=config.pretraining.accumulate)
    if not config.running.overwrite:
        if _is_finished(plan):
            return
        read_last_state(plan.checkpoints, plan.settings)
    n_participants = plan.settings["data"]["participants"]
    LOGGER.info(
        "Would pretrain an encoder on %d runs of %d participants for %d epochs of %d steps, into %s.",
        len(data.sources),
        n_participants,
        plan.recipe.epochs,
        n_participants // (plan.recipe.batch_size or 1),
        plan.directory,
    )


def _train_anew(config: AppConfig, plan: Blueprint, device: torch.device, ranks: Ranks, request: StopRequest) -> None:
    """Train, unless another call has finished the same encoder while this one waited for it."""
    if config.running.overwrite and ranks.is_first:
        _clear(plan)
    ranks.wait()
    is_done = _is_finished(plan)
    ranks.wait()
    if not is_done:
        _train(config, plan, device, ranks, request)


def _clear(plan: Blueprint) -> None:
    """Make room for a new training, keeping checkpoints of the same settings, which are resumed."""
    if (plan.directory / CONFIG_FILE).exists():
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (plan.directory / name).unlink(missing_ok=True)
    marker = plan.checkpoints / "settings.json"
    if not marker.is_file() or read_json(marker) != plan.settings:
        shutil.rmtree(plan.checkpoints, ignore_errors=True)


def _is_finished(plan: Blueprint) -> bool:
    """Return whether the encoder is complete; ConfigurationError if it was trained with other settings."""
    path = plan.directory / CONFIG_FILE
    if not path.is_file():
        return False
    try:
        stored = read_json(path)["details"]["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is not the configuration of an encoder pretrained by bids_semantoks.",
            hint="Choose another --encoder-name, or --overwrite.",
        ) from error
    if differences := find_differences(stored | {"data": None}, plan.settings | {"data": None}):
        raise ConfigurationError(
            f"The encoder {plan.directory} was trained with different settings: {'; '.join(differences)}.",
            hint="Use the original settings, another --encoder-name, or --overwrite.",
        )
    if stored["data"] != plan.settings["data"]:
        LOGGER.warning(
            "Using the existing encoder %s, which was trained on %d runs instead of the current %d. "
            "Use another --encoder-name, or --overwrite, to train again.",
            plan.directory,
            stored["data"]["runs"],
            plan.settings["data"]["runs"],
        )
    if not (plan.directory / CARD_FILE).exists() and find_states(plan.checkpoints):
        return False  # killed before the final files: resuming from the last step writes them again
    LOGGER.info("The encoder %s is complete; skipping training.", plan.directory)
    return True


def _train(config: AppConfig, plan: Blueprint, device: torch.device, ranks: Ranks, request: StopRequest) -> None:
    view = _pack(config, plan, ranks, request)
    training = _build_training(plan, view, device, ranks)
    precision = choose_precision(plan.precision, device)
    LOGGER.info(
        "Pretraining %s on %d runs of %d participants for %d epochs of %d steps, %s on %s%s%s.",
        plan.directory.name,
        len(view),
        training.order.n_participants,
        plan.recipe.epochs,
        training.order.steps_per_epoch,
        precision,
        device,
        f", {ranks.size} processes" if ranks.size > 1 else "",
        ", signals in its memory" if training.feed.resident is not None else "",
    )
    if ranks.is_first:
        write_json(plan.checkpoints / "settings.json", plan.settings)
        start_log(plan.directory / LOG_FILE, training.step)
    training.run(partial(append_log, plan.directory / LOG_FILE), request)
    if ranks.is_first:
        details = build_details(plan.data, view, plan.settings, plan.encoder)
        details["recipe"] |= {"precision": precision, "parts_a_batch_is_cut_into": plan.n_slices}
        details["device"] = str(device)
        _write(plan, training.module, details)


def _build_training(plan: Blueprint, view: SignalView, device: torch.device, ranks: Ranks) -> Pretraining:
    module = TeacherStudent(
        build_encoder(plan.encoder, plan.layout, plan.seed),
        build_head(plan.encoder, plan.seed),
        plan.recipe,
        all_reduce=sum_over_ranks if ranks.size > 1 else None,
    )
    try:
        return Pretraining(module, view, plan, device=device, ranks=ranks)
    except torch.OutOfMemoryError as error:
        # The batch size does not matter yet, so the hint must not suggest a smaller one.
        raise ResourceError(
            f"The encoder {plan.directory.name} does not fit in the free memory of {device}.",
            hint="Wait until the device is free, or use another --device or a smaller --encoder-config.",
        ) from error


def _pack(config: AppConfig, plan: Blueprint, ranks: Ranks, request: StopRequest) -> SignalView:
    """Pack missing signals in the first rank, then open the store in all.
    TrainingStopped if a stop was requested meanwhile."""

    def is_wanted() -> bool:
        return not request.reason

    root, target = config.running.work_dir or config.out_dir / "encoders", plan.encoder.repetition_time
    directory = root / ".signals" / hash_values([to_json(plan.layout), target])[:16]
    if ranks.is_first:
        store, data = SignalStore(directory, plan.layout.n_parcels), plan.data
        store.remove_orphans()
        order = match_parcels(data.parcels, data.networks, plan.layout).order.tolist()
        n_procs = 1 if data.file else choose_n_procs(config.running, n_jobs=len(data.sources) // 16, model_bytes=0)
        pack_signals(store, data, order, target=target, n_procs=n_procs, is_wanted=is_wanted)
        plan.directory.mkdir(parents=True, exist_ok=True)
    if ranks.any(bool(request.reason)):
        raise TrainingStopped(
            f"Pretraining was stopped by {request.reason or 'another process'} while packing signals.",
            hint="Repeat the call to resume.",
        )
    # Stored signals were checked against --min-time when they were extracted.
    min_time = config.signals.min_time if plan.data.file is not None else 0.0
    store = SignalStore(directory, plan.layout.n_parcels)
    return select_packed(store, plan.data.sources, min_time=min_time, target=target)


def _write(plan: Blueprint, module: TeacherStudent, details: dict[str, Any]) -> None:
    """Write the teacher, its figures and model card; config.json is the last file
    of the weights and makes them an encoder."""
    encoder, head = module.teacher.cpu(), module.teacher_head.cpu()
    details["n_parameters"] = sum(parameter.numel() for parameter in encoder.parameters())
    names = plan.layout.network_names
    drawn = write_figures(
        plan.directory,
        log=read_training_log(plan.directory / LOG_FILE),
        kernels=find_kernels(encoder),
        embeddings=encoder.network_positions.detach().numpy(),
        names=names if len(names) == len(encoder.network_positions) else (),
        repetition_time=plan.encoder.repetition_time,
    )
    # An earlier card has the checksum of other weights.
    (plan.directory / CARD_FILE).unlink(missing_ok=True)
    sha256 = write_checkpoint(plan.directory, encoder, head=head, details=details)
    write_model_card(plan.directory, name=plan.directory.name, sha256=sha256, details=details, drawn=drawn)
    shutil.rmtree(plan.checkpoints, ignore_errors=True)
    LOGGER.info("Wrote the encoder to %s (SHA-256 %s).", plan.directory, sha256[:16])
