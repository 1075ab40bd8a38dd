"""The pretraining loop: trains batch by batch, with a training log, until done, stopped or diverged.

Checkpoints are written whole or not at all; the last two are kept.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import shutil
import signal
import struct
import sysconfig
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bids_semantoks.config import TrainingConfig
from bids_semantoks.disk import is_full
from bids_semantoks.errors import ConfigurationError, ResourceError, TrainingStopped
from bids_semantoks.files import open_atomic
from bids_semantoks.models.frozen import PRECISIONS, is_out_of_memory
from bids_semantoks.runtime.resources import STOPPING, handle_signals
from bids_semantoks.training import batches
from bids_semantoks.training.batches import BatchFeed, BatchOrder, build_schedules, compute_seed
from bids_semantoks.training.distill import TeacherStudent, build_optimiser, train_step
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.packed import SignalView
from bids_semantoks.training.progress import CollapseWatch, Meter, WriteRows
from bids_semantoks.training.views import ViewCutter

LOGGER = logging.getLogger("bids_semantoks")
_CHECKPOINT_SECONDS: Final = 120.0
_CUDA_FLUSH: Final = 20

#: Compilers that Triton looks for if CC is not set.
_COMPILERS: Final = ("gcc", "clang")

FORMAT: Final = "bids_semantoks training 1"
_KEPT: Final = 2

#: Errors that readers raise for files that are truncated, overwritten or not checkpoints.
_DAMAGES: Final = (
    *(OSError, RuntimeError, LookupError, TypeError, ValueError, EOFError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingState:
    """Everything that determines how a training continues."""

    settings: Mapping[str, Any]  # encoder, recipe, data and seed as plain values; must be equal to resume
    step: int  # optimiser steps taken, which index the schedules
    n_batches: int  # batches drawn, which index data order and random numbers; exceeds `step` where steps were skipped
    tensors: Mapping[str, Any]  # state dictionaries of module (student and teacher), optimiser and scaler


_STATE: Final = tuple(TrainingState.__dataclass_fields__)


def write_state(directory: Path, state: TrainingState) -> Path:
    """Write a checkpoint atomically, then remove all but the last two; ResourceError if it cannot be written."""
    path = directory / f"step-{state.step:08d}.pt"
    content = {"format": FORMAT} | {name: getattr(state, name) for name in _STATE}
    try:
        with open_atomic(path, is_durable=True) as file:
            torch.save(content, file)
    except OSError as error:
        raise describe_full_disk(error, path) from error
    except RuntimeError as error:
        # torch's writer hides the error of the file.
        raise ResourceError(
            f"The checkpoint {path} cannot be written: {error}.", hint="Free disk space; repeat the call to resume."
        ) from error
    for old in find_states(directory)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def describe_full_disk(error: OSError, path: Path) -> ResourceError:
    """Build the ResourceError for a training file that cannot be written."""
    return ResourceError(
        f"{'No space left' if is_full(error) else 'Cannot write'}: {path}: {error.strerror or error}.",
        hint="Free disk space; repeat the call to resume from the last checkpoint.",
    )


def find_states(directory: Path) -> list[Path]:
    """List the checkpoints in a directory, oldest first."""
    return sorted(directory.glob("step-*.pt"))


def read_last_state(directory: Path, settings: Mapping[str, Any]) -> TrainingState | None:
    """Read the newest intact checkpoint, None without one; damaged and outdated files are skipped with a warning.
    Raises ConfigurationError, listing the differences, if it was trained with other settings."""
    for path in reversed(find_states(directory)):
        try:
            content = _load(path)
            state = TrainingState(**{name: content[name] for name in _STATE})
            is_ours = content["format"] == FORMAT
        except _DAMAGES as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            LOGGER.warning("Skipping the damaged checkpoint %s: %s.", path, reason.rstrip("."))
            continue
        if not is_ours:
            LOGGER.warning("Skipping the checkpoint %s, which has another format version.", path)
            continue
        if differences := find_differences(state.settings, settings):
            raise ConfigurationError(
                f"The checkpoint {path} has different settings: {'; '.join(differences)}.",
                hint="Use the original settings, another --encoder-name, or --overwrite to restart.",
            )
        return state
    return None


def _load(path: Path) -> dict[str, Any]:
    """Load a checkpoint after verifying its checksums, which torch itself ignores."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken:
        raise ValueError(f"the checksum of {broken} does not match")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise TypeError(f"it contains a {type(content).__name__}")
    return content


def find_differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Describe each setting that differs between nested mappings of plain values; `prefix` is their path."""
    found = []
    for key in sorted(set(stored) | set(wanted)):
        there, now = stored.get(key), wanted.get(key)
        if isinstance(there, Mapping) and isinstance(now, Mapping):
            found += find_differences(there, now, f"{prefix}{key}.")
        elif there != now:
            found.append(f"{prefix}{key} (on disk {_brief(there)}, now {_brief(now)})")
    return found


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingPlan:
    """How to train."""

    recipe: TrainingConfig  # with the chosen batch size
    settings: dict[str, Any]  # plain values that must be identical to resume a training
    checkpoints: Path  # directory
    seed: int = 0
    precision: str = "auto"  # ``auto``, ``fp32``, ``bf16`` or ``fp16``, see `choose_precision`
    n_slices: int = 1  # parts of a batch that each process accumulates
    max_seconds: float = math.inf  # of the call, after which it saves and stops
    checkpoint_every: int | None = None  # epochs; None: at the end of an epoch, once two minutes have passed


class Pretraining:
    """One training, from its beginning or its last checkpoint to its end. `module` holds the initial weights on the
    CPU; `plan.recipe.batch_size` must be set. Raises ConfigurationError if the last checkpoint is from another training
    or the batch exceeds the data, InputError for fewer than two participants."""

    def __init__(
        self, module: TeacherStudent, view: SignalView, plan: TrainingPlan, *, device: torch.device, ranks: Ranks
    ) -> None:
        assert plan.recipe.batch_size is not None
        self.plan = plan
        self.ranks = ranks
        self.device = device
        self.order = BatchOrder(view.participants, plan.recipe.batch_size, plan.seed)
        self.schedules = build_schedules(
            plan.recipe,
            steps_per_epoch=self.order.steps_per_epoch,
            batch_size=plan.recipe.batch_size,
            seed=compute_seed(plan.seed, batches.COIN_STREAM),
        )
        state = read_last_state(plan.checkpoints, plan.settings)
        self.step = state.step if state else 0
        self.n_batches = state.n_batches if state else 0
        self._cutter = ViewCutter(module, view, plan.recipe, seed=plan.seed, device=device)
        self.module = module.to(device)
        self.optimiser = build_optimiser(module, plan.recipe, fused=device.type == "cuda")
        precision = choose_precision(plan.precision, device)
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        if state:
            self._load(state)
        self.feed = BatchFeed(view, self.order, device, part=ranks.rank, n_parts=ranks.size)
        self._wrapped: nn.Module = self.module
        self._last_saved = time.monotonic()

    def _load(self, state: TrainingState) -> None:
        self.module.load_state_dict(state.tensors["module"])
        self.optimiser.load_state_dict(state.tensors["optimiser"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state.tensors["scaler"])
        LOGGER.info("Resuming from step %d of %d.", self.step, self.schedules.n_steps)

    def run(self, write: WriteRows, request: StopRequest) -> None:
        """Train to the end, handing rows of the training log to `write`; a filled `request` or the time limit saves and
        stops. Raises TrainingStopped after saving, TrainingDiverged if values are not finite or projections have
        collapsed (the last good checkpoint is kept), and ResourceError if memory or disk space is insufficient."""
        self._wrap()
        meter = self._build_meter(write)
        with self._explain_errors():
            for slices in self.feed.stream(self.n_batches, self.plan.n_slices):
                if self.step == self.schedules.n_steps:
                    break
                self._advance(slices, meter)
                if time.monotonic() - request.started > self.plan.max_seconds:
                    request.reason = request.reason or "--max-hours"
                must_stop = self.ranks.any(bool(request.reason))
                if must_stop or self._is_due():
                    meter.flush()
                    self._save()
                if must_stop and self.step < self.schedules.n_steps:
                    raise TrainingStopped(
                        f"Pretraining was stopped by {request.reason or 'another process'} and saved at step "
                        f"{self.step} of {self.schedules.n_steps}.",
                        hint="Repeat the call to resume.",
                    )

    def _build_meter(self, write: WriteRows) -> Meter:
        return Meter(
            write=write,
            watch=CollapseWatch(self.module.student.config.head_out, self.order.steps_per_epoch, self.schedules),
            schedules=self.schedules,
            order=self.order,
            is_first=self.ranks.is_first,
            flush_every=_CUDA_FLUSH if self.device.type == "cuda" else 1,
            describe_last=self.describe_last,
        )

    @contextlib.contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn out-of-memory and full-disk errors into ResourceError with a remedy."""
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self._describe_memory() from error
        except OSError as error:
            raise describe_full_disk(error, self.plan.checkpoints.parent) from error

    def _wrap(self) -> None:
        if self.device.type == "cuda":
            obstacle = find_compiler_obstacle()
            if obstacle:
                LOGGER.warning("%s; training without compilation, which is slower.", obstacle)
            else:
                LOGGER.info("Compiling the encoder for %s; the first steps take a few minutes.", self.device)
                self.module.compile_encoders()
        if self.ranks.size > 1:
            device_ids = [self.device.index] if self.device.type == "cuda" else None
            # Buffers never change, so no step need send them.
            self._wrapped = DistributedDataParallel(self.module, device_ids=device_ids, broadcast_buffers=False)

    def _advance(self, slices: list[batches.Batch], meter: Meter) -> None:
        settings = self.schedules.at(self.step)
        first = self.ranks.rank * len(slices)
        parts = [
            self._cutter.cut(part, self.n_batches, first + number, is_masked=settings.is_masked)
            for number, part in enumerate(slices)
        ]
        report = train_step(self._wrapped, self.optimiser, parts, settings, dtype=self.dtype, scaler=self.scaler)
        self.n_batches += 1
        step = self.step
        self.step += report.is_done
        meter.add(report, step, settings)

    def _is_due(self) -> bool:
        if self.step == self.schedules.n_steps:
            return True
        epoch, position = divmod(self.step, self.order.steps_per_epoch)
        if position or not epoch:
            return False
        if self.plan.checkpoint_every is not None:
            return epoch % self.plan.checkpoint_every == 0
        return self.ranks.any(time.monotonic() - self._last_saved > _CHECKPOINT_SECONDS)

    def _save(self) -> None:
        if self.ranks.is_first:
            tensors: dict[str, Any] = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
            if self.scaler is not None:
                tensors["scaler"] = self.scaler.state_dict()
            state = TrainingState(
                settings=self.plan.settings, step=self.step, n_batches=self.n_batches, tensors=tensors
            )
            path = write_state(self.plan.checkpoints, state)
            LOGGER.debug("Saved %s.", path)
        self._last_saved = time.monotonic()

    def describe_last(self) -> str:
        """Describe where the last good checkpoint is, in one sentence."""
        states = find_states(self.plan.checkpoints)
        return f"The last good checkpoint is {states[-1]}." if states else "No checkpoint was written before."

    def _describe_memory(self) -> ResourceError:
        size, n_ranks = self.plan.recipe.batch_size or 0, self.ranks.size
        n_parts = self.plan.n_slices * n_ranks
        at_once = size // n_parts
        # Only suggest a size that the next call accepts: a batch must be split into equal parts.
        more = [n for n in range(2 * self.plan.n_slices, size // n_ranks + 1) if size % (n * n_ranks) == 0]
        hints = [f"--accumulate {more[0]}"] if more else []
        if at_once // 2 * n_parts > 1:
            hints.append(f"--train-batch-size {at_once // 2 * n_parts}")
        hint = f"Use {', or '.join(hints)}." if hints else "Use a smaller --encoder-config, or a larger device."
        return ResourceError(f"{at_once} participants at once do not fit in the memory of {self.device}.", hint=hint)


def choose_precision(precision: str, device: torch.device) -> str:
    """Resolve ``auto`` to bf16 on CUDA, else fp32; keep any other precision."""
    if precision != "auto":
        return precision
    return "bf16" if device.type == "cuda" else "fp32"


@dataclass(slots=True)
class StopRequest:
    """Whether this process was asked to save and stop."""

    reason: str = ""  # empty until someone asks
    # monotonic seconds at the start of the call, so that packing is included
    started: float = field(default_factory=time.monotonic)


@contextlib.contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Turn the signals that ask a process to end into a request to save and stop."""
    request = StopRequest()

    def ask(number: int, _: object) -> None:
        """Record which signal was received."""
        request.reason = signal.Signals(number).name

    before = handle_signals(STOPPING, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def find_compiler_obstacle() -> str:
    """Describe what prevents `torch.compile` from compiling for a GPU, as a clause; empty if nothing does. Triton
    launches kernels through a small C module, built against the headers of Python at run time."""
    asked = os.environ.get("CC", "").split()[:1]
    if not any(map(shutil.which, asked or _COMPILERS)):
        return "No C compiler found"
    scheme = sysconfig.get_default_scheme()
    # Debian's default scheme describes local installations; the headers are elsewhere, as Triton knows.
    folder = Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"])
    if not (folder / "Python.h").is_file():
        return f"Python headers (python3-dev) not found in {folder}"
    return ""
