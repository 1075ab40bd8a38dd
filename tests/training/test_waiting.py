"""Nothing in a step asks the device for a number: on a GPU each question would hold up the loop.

Fake tensors hold no numbers, so that whoever asks for one is found without a GPU.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from bids_semantoks.config import EncoderConfig, TrainingConfig
from bids_semantoks.models.initialise import build_encoder, build_head
from bids_semantoks.models.parcels import NetworkLayout
from bids_semantoks.training.distill import TeacherStudent
from bids_semantoks.training.masking import KINDS, compute_membership, draw_masks, find_absent, find_mask_groups
from bids_semantoks.training.views import draw_views

B, P, N, K, W, T = 3, 23, 11, 2, 40, 57


ENCODER = EncoderConfig(window=W, patch=20, width=64, depth=1, head_hidden=24, head_out=12)


LAYOUT = NetworkLayout(network_names=tuple("ABCDEFGHIJK"), networks=(*range(N), *range(N), 0))


@pytest.fixture
def without_numbers():
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def generate():
    return torch.Generator().manual_seed(0)


def test_who_asks_is_found(without_numbers):
    with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
        int(torch.ones(2).max())


@pytest.mark.parametrize("kind", KINDS)
def test_masks_on_groups_of_rows(kind, without_numbers):
    groups = find_mask_groups(ENCODER, LAYOUT)
    assert groups is not None
    masks = draw_masks(
        2 * B, n_networks=N, n_patches=K, kind=kind, ratio=(0.65, 0.85), generator=generate(), groups=groups
    )
    assert masks.shape == (2 * B, N, K)


def test_views_and_what_is_absent(without_numbers):
    signals = torch.empty(B, T, P, dtype=torch.float16).transpose(1, 2)
    present = torch.empty(B, P, dtype=torch.bool)
    lengths = torch.empty(B, dtype=torch.int64)
    views, n_real = draw_views(signals, lengths, present, window=W, levels=(1, 2, 3, 1), generator=generate())
    assert views.shape == (B, P, W)
    membership = compute_membership(ENCODER, LAYOUT)
    assert find_absent(n_real, present, rows=membership, patch=20, n_patches=K).shape == (B, N, K)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_losses_gradients_and_the_teacher(dtype):
    module = TeacherStudent(build_encoder(ENCODER, LAYOUT, 0), build_head(ENCODER, 0), TrainingConfig())
    with FakeTensorMode(allow_non_fake_inputs=True):
        views = torch.empty(2 * B, P, W)
        masks, absent = (torch.empty(2 * B, N, K, dtype=torch.bool) for _ in range(2))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            losses = module(views, masks, absent, ttr_weight=0.3)
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(module.student_parameters()), 1.0)
        module.update_teacher(0.99)
    assert norm.shape == losses.total.shape == ()
