"""Encoders for the tests of training: a small one of 13 parcels in three networks, and those of the parity vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bids_semantoks.config import EncoderConfig, TrainingConfig
from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.checkpoints import assign_tensors
from bids_semantoks.models.encoder import Encoder, ProjectionHead, build_encoder, build_head
from bids_semantoks.models.parcels import NetworkLayout
from bids_semantoks.training.distill import TeacherStudent, ViewBatch

PARITY = Path(__file__).resolve().parents[1] / "data" / "parity"


SMALL_LAYOUT = NetworkLayout(network_names=("Vis", "Limbic", "Other"), networks=(0, 0, 1, 0, 1, 2, 2, 0, 1, 2, 2, 2, 2))


SMALL_SIZES = {"window": 60, "patch": 20, "width": 32, "head_width": 16, "depth": 2, "head_hidden": 48, "head_out": 24}


def build_small(*, recipe=None, seed=0, all_reduce=None, **changes):
    """TeacherStudent of 13 parcels, N=3, W=60, K=3, D=32; the teacher differs from the student."""
    config = EncoderConfig(**{**SMALL_SIZES, **changes})
    student, head = build_encoder(config, SMALL_LAYOUT, seed), build_head(config, seed)
    module = TeacherStudent(student, head, recipe or TrainingConfig(), all_reduce=all_reduce)
    module.teacher.load_state_dict(build_encoder(config, SMALL_LAYOUT, seed + 1).state_dict())
    module.teacher_head.load_state_dict(build_head(config, seed + 1).state_dict())
    return module


def load_parity(recipe=None):
    """TeacherStudent of the authors' checkpoint."""
    parts = []
    for which in ("student", "teacher"):
        content = load_authors_checkpoint(PARITY / "checkpoint.pth", which=which)
        encoder, head = Encoder(content.config, content.layout), ProjectionHead(content.config)
        assign_tensors(encoder, content.encoder, PARITY, content.names)
        assign_tensors(head, content.head, PARITY, content.names)
        parts.append((encoder, head))
    (student, student_head), (teacher, teacher_head) = parts
    module = TeacherStudent(student, student_head, recipe or TrainingConfig())
    module.teacher.load_state_dict(teacher.state_dict())
    module.teacher_head.load_state_dict(teacher_head.state_dict())
    return module


def read_golden():
    """The parity vectors, and both views and masks as the module takes them."""
    with np.load(PARITY / "golden.npz") as arrays:
        golden = {key: arrays[key] for key in arrays.files}
    views = torch.from_numpy(np.concatenate([golden["view1"], golden["view2"]]))
    masks = torch.from_numpy(np.concatenate([golden["mask1"], golden["mask2"]]))
    return golden, views, masks


def make_batch(n=5, *, is_masked=True, seed=0):
    """Two views of each of n runs for the small encoder."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.randn(2 * n, 13, 60, generator=generator)
    masks = torch.rand(2 * n, 3, 3, generator=generator) < 0.6
    masks[:, 0, 0] = True
    return ViewBatch(views, masks if is_masked else None)


def copy_parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def compute_gradients(module, batch, **rest):
    module.zero_grad(set_to_none=True)
    losses = module(*batch, ttr_weight=0.3, **rest)
    losses.total.backward()
    gradients = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    return losses._replace(total=losses.total.detach()), gradients
