"""How fast pretraining is: one step alone and the whole loop, against a plain loop written from the specification.

The peer draws crops, augmentation and masks sample by sample in DataLoader workers that read a gzip-compressed HDF5
file, encodes the two views one after the other in student and teacher, moves the teacher parameter by parameter and
runs eagerly: in float32 on a CPU, under float16 autocast with a gradient scaler on a GPU. Its attention is torch's own.
Both start from the same weights; before anything is timed their losses on the same views and masks are compared.

CPU (`small` by default): the step in float32, and in bfloat16 where the processor multiplies it; targets are 1 and 2
times the peer's rate. Processor seconds decide, since clock seconds say little on a busy machine. GPU (`paper`, batch
512): bfloat16 and compiled, targets 2 times for the step and 5 times for the loop, and 39,139 scans of 180 volumes for
100 epochs in 20 minutes; prints the share of the device's peak (model FLOPs, not those of our folded convolutions).

Run: python benchmarks/bench_pretrain.py [--device cuda] [--encoder NAME] [--batch-size N] [--scans N] [--steps N]
     [--rounds N] [--workers N] [--threads N] [--only step|loop] [--data DIR]
It needs torch, numpy, h5py and this package's folders models/ and training/; exit code 1 tells that a target is missed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a machine that only has the files

from bids_semantoks.config import EncoderConfig, TrainingConfig
from bids_semantoks.models.encoder import Encoder, ProjectionHead, build_encoder, build_head, read_encoder_config
from bids_semantoks.models.parcels import default_layout
from bids_semantoks.training.batches import Schedules, StepSettings, build_schedules
from bids_semantoks.training.distill import TeacherStudent, ViewBatch, build_optimiser, train_step
from bids_semantoks.training.distributed import Ranks
from bids_semantoks.training.loop import Pretraining, StopRequest, TrainingPlan, find_compiler_obstacle
from bids_semantoks.training.packed import PackedRun, SignalStore, SignalView
from bids_semantoks.training.views import draw_masks, draw_views

N_VOLUMES = 180
ATLASES = (("schaefer400", 400), ("tian3", 50), ("buckner7", 7))
PAPER_SCANS, PAPER_EPOCHS = 39_139, 100
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
FLUSH = 20  # our loop reads what happened from a GPU once in so many steps


class PeerTokenizer(nn.Module):
    """Section 2 of the specification as it is written: a convolution, and depthwise filters under a linear layer."""

    def __init__(self, n_parcels: int, config: EncoderConfig) -> None:
        super().__init__()
        half = config.width // 2
        self.n_filters = math.ceil(half / n_parcels)
        self.dense = nn.Conv1d(n_parcels, half, 3, padding=1)
        self.kernels = nn.ParameterList(nn.Parameter(torch.randn(self.n_filters, n_parcels, 4)) for _ in range(3))
        self.skip = nn.Parameter(torch.randn(self.n_filters, n_parcels))
        self.register_buffer("kernel_norm", torch.ones(self.n_filters, n_parcels, 1))
        self.projection = nn.Linear(n_parcels * self.n_filters, half)
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.kernels
        kernel = torch.cat([first * 4, second * 2, F.interpolate(third, scale_factor=2.0)], dim=-1) / self.kernel_norm
        taps = kernel.flip(-1).transpose(0, 1).flatten(0, 1)[:, None]  # (P*H, 1, 16)
        filtered = F.conv1d(F.pad(x, (7, 8)), taps, groups=x.shape[1])
        skipped = (self.skip.T[None, :, :, None] * x[:, :, None]).flatten(1, 2)
        structured = self.projection((filtered + skipped).transpose(1, 2)).transpose(1, 2)
        features = F.gelu(torch.cat([self.dense(x), structured], dim=1))
        token: Tensor = self.norm(features.mean(dim=-1))
        return token


class PeerBlock(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.n_heads = config.n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale1, self.scale2 = (nn.Parameter(torch.full((width,), 0.1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        n_views, n_tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n_views, n_tokens, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0)).transpose(1, 2).reshape(n_views, n_tokens, width)
        x = x + self.scale1 * self.proj(mixed)
        refined: Tensor = x + self.scale2 * self.mlp(self.norm2(x))
        return refined


class PeerEncoder(nn.Module):
    """Sections 2 to 4: tokenizers, transformer and head."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.networks = default_layout().indices
        self.patch, self.n_patches = config.patch, config.n_patches
        self.tokenizers = nn.ModuleList(PeerTokenizer(len(parcels), config) for parcels in self.networks)
        self.cls, self.mask = nn.Parameter(torch.zeros(config.width)), nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.zeros(len(self.networks), config.width))
        self.register_buffer("times", torch.zeros(config.n_patches, config.width))
        self.blocks = nn.ModuleList(PeerBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Sequential(
            nn.Linear(config.width, config.head_hidden), nn.GELU(), nn.Linear(config.head_hidden, config.head_out)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        tokens = []
        for parcels, tokenizer in zip(self.networks, self.tokenizers, strict=True):
            patches = x[:, list(parcels)].unflatten(-1, (self.n_patches, self.patch)).transpose(1, 2)  # (B, K, P, V)
            tokens.append(tokenizer(patches.flatten(0, 1)).unflatten(0, (len(x), self.n_patches)))
        joined = torch.stack(tokens, dim=1)  # (B, N, K, D)
        if mask is not None:
            joined = torch.where(mask[..., None], self.mask.to(joined.dtype), joined)
        joined = joined + self.positions[:, None] + self.times
        joined = torch.cat([self.cls.expand(len(x), 1, -1), joined.flatten(1, 2)], dim=1)
        for block in self.blocks:
            joined = block(joined)
        normed: Tensor = self.norm(joined)
        return normed

    def project(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.head(tokens).float(), dim=-1)

    def copy_weights(self, encoder: Encoder, head: ProjectionHead) -> None:
        """Take the weights of our encoder, so that both do the same work."""
        ours, state = encoder.state_dict(), {}
        for n in range(len(self.networks)):
            theirs, mine = f"tokenizer.networks.{n}.", f"tokenizers.{n}."
            for kind in ("weight", "bias"):
                state[f"{mine}dense.{kind}"] = ours[f"{theirs}branches.dense.convolution.{kind}"]
                state[f"{mine}projection.{kind}"] = ours[f"{theirs}branches.structured.projection.{kind}"]
                state[f"{mine}norm.{kind}"] = ours[f"{theirs}norm.{kind}"]
            for name in ("skip", "kernel_norm"):
                state[mine + name] = ours[f"{theirs}branches.structured.{name}"]
            for scale, kernel in enumerate(ours[f"{theirs}branches.structured.kernels"]):
                state[f"{mine}kernels.{scale}"] = kernel
        names = {"attention_norm": "norm1", "mlp_norm": "norm2", "attention.qkv": "qkv", "attention.projection": "proj"}
        names |= {"attention_scale": "scale1", "mlp_scale": "scale2", "mlp.0": "mlp.0", "mlp.2": "mlp.2"}
        for key, value in ours.items():
            if key.startswith("blocks."):
                _, number, name = key.split(".", 2)
                stem, dot, kind = name.rpartition(".") if name not in names else (name, "", "")
                state[f"blocks.{number}.{names[stem]}{dot}{kind}"] = value
        state |= {"norm.weight": ours["norm.weight"], "norm.bias": ours["norm.bias"], "cls": ours["class_token"]}
        state |= {"mask": ours["mask_token"], "positions": ours["network_positions"]}
        state["times"] = encoder.temporal_positions
        for layer, number in zip(head.layers, (0, 2), strict=True):
            state |= {f"head.{number}.{kind}": value for kind, value in layer.state_dict().items()}
        self.load_state_dict(state)


def compute_peer_rate_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Section 6: MCR over two views of projections (m, p)."""
    n_rows, n_columns = student[0].shape
    alignment = ((teacher[0] * student[1]).sum(-1).mean() + (teacher[1] * student[0]).sum(-1).mean()) / 2
    rates = []
    for one, other in zip(student, teacher, strict=True):
        mean = (one + other) / 2
        matrix = torch.eye(n_columns, device=mean.device) + n_columns / (n_rows * 0.05) * mean.T @ mean
        rates.append(torch.linalg.cholesky(matrix).diagonal().log().sum())
    gamma = (n_columns + n_rows) / (n_columns * n_rows)
    return -alignment - gamma * (rates[0] + rates[1]) / 2


class Peer:
    """The plain training step."""

    def __init__(self, ours: TeacherStudent, device: torch.device, *, is_half: bool) -> None:
        self.device, self.is_half = device, is_half
        self.student = PeerEncoder(ours.student.config)
        self.student.copy_weights(ours.student, ours.student_head)
        self.student.to(device)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.student.parameters(), lr=0.0, betas=(0.9, 0.999), eps=1e-8)
        self.scaler = torch.amp.GradScaler(device.type, enabled=is_half)

    def compute_loss(self, views: Sequence[Tensor], masks: Sequence[Tensor | None], ttr_weight: float) -> Tensor:
        students, teachers = [], []
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.is_half):
            for view, mask in zip(views, masks, strict=True):
                students.append(self.student(view, mask))
            with torch.no_grad():
                for view in views:
                    teachers.append(self.teacher(view, None))
            student = [self.student.project(tokens[:, 0]) for tokens in students]
            with torch.no_grad():
                teacher = [self.teacher.project(tokens[:, 0]) for tokens in teachers]
        with torch.autocast(self.device.type, enabled=False):
            loss = compute_peer_rate_loss(student, teacher)
        if ttr_weight > 0:
            shape = (len(self.student.networks), self.student.n_patches)
            with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.is_half):
                rows = [self.student.project(t[:, 1:].unflatten(1, shape).mean(dim=2)).flatten(0, 1) for t in students]
                with torch.no_grad():
                    aims = [
                        self.teacher.project(t[:, 1:].unflatten(1, shape).mean(dim=2)).flatten(0, 1) for t in teachers
                    ]
            with torch.autocast(self.device.type, enabled=False):
                loss = loss + ttr_weight * compute_peer_rate_loss(rows, aims)
        for tokens, aim, mask in zip(students, teachers, masks, strict=True):
            if mask is None:
                continue
            with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.is_half):
                found = self.student.project(tokens[:, 1:])
                with torch.no_grad():
                    wanted = self.teacher.project(aim[:, 1:])
            weights = mask.flatten(1).float()
            cosine = ((found * wanted).sum(-1) * weights).sum(1) / weights.sum(1)
            loss = loss - 0.25 * cosine.mean()
        return loss

    def step(self, views: Sequence[Tensor], masks: Sequence[Tensor | None], settings: StepSettings) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"], group["weight_decay"] = settings.learning_rate, settings.weight_decay
        self.optimiser.zero_grad()
        loss = self.compute_loss(views, masks, settings.ttr_weight)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.mul_(settings.momentum).add_(new, alpha=1 - settings.momentum)
        return loss.detach()


class PeerData(Dataset[tuple[Tensor, ...]]):
    """Section 8, sample by sample; scans come again and again, so that no epoch ends while the clock runs."""

    def __init__(self, path: Path, n_scans: int, n_items: int, config: EncoderConfig) -> None:
        self.path, self.n_scans, self.n_items = path, n_scans, n_items
        self.window, self.n_patches = config.window, config.n_patches
        self.file: h5py.File | None = None

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, item: int) -> tuple[Tensor, ...]:
        scan = item % self.n_scans
        if self.file is None:
            self.file = h5py.File(self.path, "r")
        signals = np.concatenate([self.file[f"timeseries/{name}"][scan] for name, _ in ATLASES])  # (P, T)
        signals = signals[:, : int((~np.isnan(signals[0])).sum())]
        signals = (signals - signals.mean(1, keepdims=True)) / (signals.std(1, keepdims=True) + 1e-8)
        rng = np.random.default_rng(int(torch.randint(2**62, ()).item()))
        views = [torch.from_numpy(self.draw_view(signals, rng)) for _ in range(2)]
        masks = [torch.from_numpy(self.draw_mask(rng)) for _ in range(2)]
        return *views, *masks

    def draw_view(self, signals: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        start = int(rng.integers(signals.shape[1] - self.window + 1))
        view = signals[:, start : start + self.window].copy()
        n_parcels, n_volumes = view.shape
        view[rng.choice(n_parcels, max(1, int(n_parcels * rng.uniform(0, 0.1))), replace=False)] = 0
        length = max(1, int(n_volumes * rng.uniform(0, 0.3)))
        first = int(rng.integers(n_volumes - length + 1))
        view[:, first : first + length] = 0
        view *= np.float32(rng.uniform(0.8, 1.2))
        view += np.float32(0.1) * rng.standard_normal(view.shape, dtype=np.float32)
        return view

    def draw_mask(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        n_networks, n_patches = 9, self.n_patches
        mask = np.zeros((n_networks, n_patches), dtype=np.bool_)
        if rng.random() < 0.5:
            mask[rng.choice(n_networks, int(rng.integers(5, 7)), replace=False)] = True
        else:
            length = min(max(1, math.ceil(rng.uniform(0.65, 0.85) * n_patches)), n_patches) - 1
            first = int(rng.integers(n_patches - length + 1))
            mask[:, first : first + length] = True
        return mask


def count_flops(config: EncoderConfig) -> float:
    """Floating-point operations a scan: two views, each once through the teacher and thrice through the student."""
    half, width = config.width // 2, config.width
    tokenizers = 0
    for n_parcels in default_layout().counts:
        n_filters = n_parcels * math.ceil(half / n_parcels)
        tokenizers += config.window * 2 * (3 * n_parcels * half + n_filters * (config.kernel_length + half))
    n_tokens = 1 + len(default_layout().counts) * config.n_patches
    block = n_tokens * (24 * width**2 + 4 * n_tokens * width)
    return 8.0 * (tokenizers + config.depth * block)


def write_data(directory: Path, n_scans: int) -> tuple[Path, SignalView]:
    """The same random scans as compressed HDF5 and as our store."""
    path, store = directory / "scans.h5", SignalStore(directory / "store", 457)
    began = time.perf_counter()
    if not path.exists():
        with h5py.File(path.with_suffix(".tmp"), "w") as file:
            tables = [
                file.create_dataset(
                    f"timeseries/{name}", (n_scans, n, N_VOLUMES), "f4", chunks=(1, n, N_VOLUMES), compression="gzip"
                )
                for name, n in ATLASES
            ]

            def draw() -> Iterator[PackedRun]:
                for scan in range(n_scans):
                    values = np.random.default_rng(scan).standard_normal((N_VOLUMES, 457), dtype=np.float32)
                    first = 0
                    for table, (_, n) in zip(tables, ATLASES, strict=True):
                        table[scan] = values[:, first : first + n].T
                        first += n
                    values = (values - values.mean(0)) / (values.std(0) + 1e-8)
                    yield PackedRun(
                        key=str(scan),
                        participant=str(scan),
                        repetition_time=2.0,
                        values=values,
                        present=np.ones(457, bool),
                    )

            store.add(draw())
        path.with_suffix(".tmp").rename(path)
    print(f"{n_scans} scans of {N_VOLUMES} volumes made in {time.perf_counter() - began:.0f} s", flush=True)
    return path, store.select([str(scan) for scan in range(n_scans)])


class Clock(NamedTuple):
    """Seconds of the clock and of the processor."""

    wall: float
    processor: float

    def since(self, earlier: Clock) -> Clock:
        return Clock(self.wall - earlier.wall, self.processor - earlier.processor)


def read_clock(device: torch.device) -> Clock:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Clock(time.perf_counter(), time.process_time())


def build_ours(config: EncoderConfig) -> TeacherStudent:
    return TeacherStudent(build_encoder(config, default_layout(), 0), build_head(config, 0), TrainingConfig())


def build_settings(*, is_masked: bool) -> StepSettings:
    return StepSettings(1e-4, 0.1, 0.995, 0.25, is_masked)


def draw_batch(view: SignalView, config: EncoderConfig, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two views of each of the first scans, and masks: (2B, P, W) and (2B, N, K)."""
    generator = torch.Generator(device).manual_seed(0)
    signals = torch.from_numpy(view.read_batch(np.arange(size))).to(device).transpose(1, 2)
    lengths, present = (torch.from_numpy(part[:size]).to(device) for part in (view.lengths, view.present))
    pair = [
        draw_views(signals, lengths, present, window=config.window, levels=(1,) * 4, generator=generator)[0]
        for _ in range(2)
    ]
    masks = draw_masks(
        2 * size, n_networks=9, n_patches=config.n_patches, kind="slice", ratio=(0.65, 0.85), generator=generator
    )
    return torch.cat(pair), masks


def check_agreement(config: EncoderConfig, views: Tensor, masks: Tensor, device: torch.device) -> None:
    """Both do the same work: the first step's losses are the same."""
    ours = build_ours(config).to(device)
    peer = Peer(ours, device, is_half=False)
    small = views[::8] if len(views) > 64 else views
    hidden = masks[::8] if len(views) > 64 else masks
    with torch.no_grad():
        mine = float(ours(small, hidden, ttr_weight=0.25).total)
        theirs = float(peer.compute_loss(small.chunk(2), hidden.chunk(2), 0.25))
    print(f"loss on the same views, masks and weights: ours {mine:.6f}, peer {theirs:.6f}")
    if abs(mine - theirs) > 1e-3 * abs(mine):
        raise SystemExit("peer and ours do not compute the same loss")


def bench_step(config: EncoderConfig, view: SignalView, device: torch.device, args: argparse.Namespace) -> bool:
    """Time single steps on one batch; half of them masked. Returns whether the targets are met."""
    views, masks = draw_batch(view, config, args.batch_size, device)
    check_agreement(config, views, masks, device)
    contenders: dict[str, Callable[[bool], None]] = {}
    is_cuda = device.type == "cuda"
    peer = Peer(build_ours(config), device, is_half=is_cuda)

    def run_peer(is_masked: bool) -> None:
        pair = masks.chunk(2) if is_masked else (None, None)
        peer.step(views.chunk(2), pair, build_settings(is_masked=is_masked))

    contenders["peer, " + ("fp16" if is_cuda else "fp32")] = run_peer
    for name, dtype in (("bf16", torch.bfloat16),) if is_cuda else (("fp32", None), ("bf16", torch.bfloat16)):
        if dtype is not None and not is_cuda and not args.bf16:
            continue
        contenders[f"ours, {name}"] = build_our_step(config, views, masks, device, dtype)
    return time_steps(contenders, config, device, args)


def build_our_step(
    config: EncoderConfig, views: Tensor, masks: Tensor, device: torch.device, dtype: torch.dtype | None
) -> Callable[[bool], None]:
    module = build_ours(config).to(device)
    optimiser = build_optimiser(module, module.config, fused=device.type == "cuda")
    if device.type == "cuda":
        obstacle = find_compiler_obstacle()
        print(f"ours runs as it is: {obstacle}" if obstacle else "ours is compiled", flush=True)
        if not obstacle:
            module.compile_encoders()

    def run(is_masked: bool) -> None:
        batch = ViewBatch(views, masks if is_masked else None)
        train_step(module, optimiser, [batch], build_settings(is_masked=is_masked), dtype=dtype)

    return run


def time_steps(
    contenders: Mapping[str, Callable[[bool], None]],
    config: EncoderConfig,
    device: torch.device,
    args: argparse.Namespace,
) -> bool:
    is_cuda = device.type == "cuda"
    n_pairs = max(1, args.steps // 2) if is_cuda else 1
    times: dict[str, list[Clock]] = {name: [] for name in contenders}
    for name, run in contenders.items():
        for _ in range(3 if is_cuda else 1):
            run(True)
            run(False)
        if is_cuda:
            print(f"{name}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most so far", flush=True)
    for _ in range(args.rounds):
        for name, run in contenders.items():
            before = read_clock(device)
            for _ in range(n_pairs):
                run(True)
                run(False)
            times[name].append(read_clock(device).since(before))
    print(f"\nstep alone, {args.encoder}, batch {args.batch_size}, {args.rounds} rounds of {2 * n_pairs} steps in turn")
    kind, unit = (0, "scans/s") if is_cuda else (1, "scans/s of the processor")
    base = [one[kind] for one in next(iter(times.values()))]
    ratios = {}
    for name, measured in times.items():
        per_step = [statistics.median(column) / (2 * n_pairs) for column in zip(*measured, strict=True)]
        pairs = [other / one[kind] for other, one in zip(base, measured, strict=True)]
        ratios[name] = statistics.median(pairs)
        print(
            f"  {name}: {1e3 * per_step[0]:.1f} ms by the clock, {1e3 * per_step[1]:.1f} ms of the processor, "
            f"{args.batch_size / per_step[kind]:.1f} {unit}, {ratios[name]:.2f} times the peer "
            f"({min(pairs):.2f} to {max(pairs):.2f} over rounds){describe_flops(config, args, per_step[kind])}"
        )
    if is_cuda:
        return report("step on the GPU, bf16", ratios["ours, bf16"], 2.0)
    is_met = report("step on the CPU, fp32", ratios["ours, fp32"], 1.0)
    if has_bf16():
        is_met &= report("step on the CPU, bf16", ratios["ours, bf16"], 2.0)
    else:
        print("  this processor has no bfloat16 multiplication: no target")
    return is_met


def describe_flops(config: EncoderConfig, args: argparse.Namespace, seconds_per_step: float) -> str:
    rate = count_flops(config) * args.batch_size / seconds_per_step
    share = f", MFU {rate / args.peak:.1%} of {args.peak / 1e12:.0f} TFLOP/s" if args.peak else ""
    return f", {rate / 1e12:.3g} TFLOP/s{share}"


def report(what: str, found: float, wanted: float) -> bool:
    print(f"  {what}: {found:.2f} times the peer, target {wanted:.1f}: {'met' if found >= wanted else 'MISSED'}")
    return found >= wanted


def has_bf16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices in hardware."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


class StampLog:
    """Notes when rows arrive, which on a GPU is after a wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stamps: list[tuple[int, Clock]] = []

    def append(self, rows: Sequence[Mapping[str, float]]) -> None:
        if rows:
            self.stamps.append((int(rows[-1]["step"]), read_clock(self.device)))

    def compute_seconds(self) -> Clock:
        """Seconds a step, the first entry left out: it holds starting and compiling."""
        (first, before), (last, after) = self.stamps[0], self.stamps[-1]
        total = after.since(before)
        return Clock(total.wall / (last - first), total.processor / (last - first))


def run_our_loop(
    config: EncoderConfig, view: SignalView, device: torch.device, args: argparse.Namespace, precision: str
) -> Clock:
    recipe = dataclasses.replace(TrainingConfig(), batch_size=args.batch_size, epochs=count_epochs(view, args))
    log = StampLog(device)
    with tempfile.TemporaryDirectory() as folder:
        plan = TrainingPlan(recipe=recipe, settings={}, checkpoints=Path(folder), precision=precision)
        training = Pretraining(build_ours(config), view, plan, device=device, ranks=Ranks())
        training.run(log.append, StopRequest())
    return log.compute_seconds()


def count_epochs(view: SignalView, args: argparse.Namespace) -> int:
    return math.ceil(args.steps / (len(view) // args.batch_size))


def run_peer_loop(
    config: EncoderConfig, path: Path, view: SignalView, device: torch.device, args: argparse.Namespace
) -> Clock:
    """Seconds a step of the plain loop, those of its workers included, without those that workers had ready at once."""
    n_warm = 1 + args.workers if device.type == "cuda" else 1
    n_steps = n_warm + (2 * FLUSH if device.type == "cuda" else args.steps - 1)
    peer = Peer(build_ours(config), device, is_half=device.type == "cuda")
    epochs = max(2, math.ceil(n_steps / (len(view) // args.batch_size)))
    schedules = build_schedules(
        dataclasses.replace(TrainingConfig(), epochs=epochs),
        steps_per_epoch=len(view) // args.batch_size,
        batch_size=args.batch_size,
        seed=0,
    )
    loader = DataLoader(
        PeerData(path, len(view), n_steps * args.batch_size, config),
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        pin_memory=device.type == "cuda",
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = run_peer_steps(peer, loader, schedules, n_warm, device)
    del loader  # its workers end, and their seconds can be counted
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    workers = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    n_timed = n_steps - n_warm
    return Clock(total.wall / n_timed, total.processor / n_timed + workers / n_steps)


def run_peer_steps(
    peer: Peer, loader: DataLoader[tuple[Tensor, ...]], schedules: Schedules, n_warm: int, device: torch.device
) -> Clock:
    before = read_clock(device)
    for step, batch in enumerate(loader):
        first, second, *masks = (part.to(device, non_blocking=True) for part in batch)
        settings = schedules.at(step)
        peer.step((first, second), masks if settings.is_masked else (None, None), settings)
        if step == n_warm - 1:
            before = read_clock(device)
    return read_clock(device).since(before)


def bench_loop(
    config: EncoderConfig, path: Path, view: SignalView, device: torch.device, args: argparse.Namespace
) -> bool:
    is_cuda = device.type == "cuda"
    kind = 0 if is_cuda else 1
    print(
        f"\nwhole loop, {args.encoder}, batch {args.batch_size}, {args.steps} steps, {args.workers} workers of the peer"
    )
    pairs = []
    for _ in range(1 if is_cuda else args.loop_rounds):
        theirs = run_peer_loop(config, path, view, device, args)
        ours = run_our_loop(config, view, device, args, "bf16" if is_cuda else "fp32")
        pairs.append((theirs, ours))
        for name, one in (("peer", theirs), ("ours", ours)):
            print(
                f"  {name}: {1e3 * one.wall:.1f} ms a step by the clock, {1e3 * one.processor:.1f} ms of processors, "
                f"{args.batch_size / one.wall:.1f} scans/s by the clock{describe_flops(config, args, one[kind])}",
                flush=True,
            )
    ratio = statistics.median(theirs[kind] / ours[kind] for theirs, ours in pairs)
    print(f"  by the clock {statistics.median(a.wall / b.wall for a, b in pairs):.2f} times the peer")
    is_met = report("whole loop", ratio, 5.0 if is_cuda else 1.0)
    seconds = pairs[-1][1].wall * PAPER_EPOCHS * (PAPER_SCANS // args.batch_size)
    full = f"{PAPER_SCANS} scans x {PAPER_EPOCHS} epochs of {args.encoder} at this rate: "
    print(f"  {full}{seconds / 60:.1f} minutes" if seconds < 36000 else f"  {full}{seconds / 3600:.0f} hours")
    if is_cuda and args.encoder == "paper":
        print(f"  target 20 minutes, goal 10: {'met' if seconds < 1200 else 'MISSED'}")
        is_met &= seconds < 1200
    return is_met


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder", help="paper, small, tiny or a file  [default: small on a CPU, paper on a GPU]")
    parser.add_argument("--batch-size", type=int, help="[default: 32 on a CPU, 512 on a GPU]")
    parser.add_argument("--scans", type=int, help="[default: 128 on a CPU, 4096 on a GPU]")
    parser.add_argument("--steps", type=int, help="of the loop  [default: 5 on a CPU, 140 on a GPU]")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of the step")
    parser.add_argument("--loop-rounds", type=int, default=2, help="repetitions of the loop on a CPU")
    parser.add_argument(
        "--workers", type=int, help="of the peer's DataLoader  [default: 1 on a CPU, else CPUs, 16 at most]"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU")
    parser.add_argument("--peak", type=float, help="FLOP/s of the device in half precision  [default: by its name]")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=has_bf16(), help="also on a CPU")
    parser.add_argument("--only", choices=("step", "loop"))
    parser.add_argument(
        "--data", type=Path, help="where scans are kept for the next call  [default: a temporary folder]"
    )
    args = parser.parse_args()
    is_cuda = args.device.startswith("cuda")
    args.encoder = args.encoder or ("paper" if is_cuda else "small")
    args.batch_size = args.batch_size or (512 if is_cuda else 32)
    args.scans = args.scans or (4096 if is_cuda else 128)
    args.steps = args.steps or (7 * FLUSH if is_cuda else 5)
    if args.workers is None:
        args.workers = min(16, os.cpu_count() or 1) if is_cuda else 1
    if is_cuda and args.peak is None:
        name = torch.cuda.get_device_name()
        args.peak = next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)
        print(f"{name}, torch {torch.__version__}")
    if args.scans < args.batch_size or (is_cuda and args.steps < 2 * FLUSH):
        parser.error(f"a batch of {args.batch_size} needs as many scans, and a GPU at least {2 * FLUSH} steps")
    return args


def main() -> None:
    args = parse_arguments()
    device = torch.device(args.device)
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    config = read_encoder_config(args.encoder)
    print(f"{args.encoder}: {count_flops(config) / 1e9:.1f} GFLOP a scan; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        directory = args.data or Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        path, view = write_data(directory, args.scans)
        are_met = []
        if args.only != "loop":
            are_met.append(bench_step(config, view, device, args))
        if args.only != "step":
            are_met.append(bench_loop(config, path, view, device, args))
    sys.exit(not all(are_met))


if __name__ == "__main__":
    main()
