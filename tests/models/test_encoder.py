"""Agreement with the authors' implementation, on vectors computed with it."""

import numpy as np
import pytest
import torch

from bids_semantoks.models.authors import load_authors_checkpoint
from bids_semantoks.models.checkpoints import assign_tensors
from bids_semantoks.models.encoder import Encoder, ProjectionHead, compute_temporal_positions
from bids_semantoks.models.frozen import FrozenEncoder
from bids_semantoks.models.parcels import ParcelMatch, default_layout

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def student(parity_checkpoint):
    content = load_authors_checkpoint(parity_checkpoint, which="student")
    encoder, head = Encoder(content.config, content.layout), ProjectionHead(content.config)
    assign_tensors(encoder, content.encoder, parity_checkpoint, content.names)
    assign_tensors(head, content.head, parity_checkpoint, content.names)
    return encoder.eval(), head.eval()


@pytest.mark.parametrize("mask", ["none", "temporal", "networks"])
def test_teacher_tokens(parity_encoder, golden, mask):
    masked = None if mask == "none" else torch.from_numpy(golden[f"mask_{mask}"])
    with torch.inference_mode():
        output = parity_encoder.encoder(torch.from_numpy(golden["x"]), masked)
    np.testing.assert_allclose(output.tokens.numpy(), golden[f"tokens_{mask}"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(output.cls.numpy(), golden[f"cls_{mask}"], rtol=0, atol=TOLERANCE)


def test_student_tokens(student, golden):
    with torch.inference_mode():
        tokens = student[0](torch.from_numpy(golden["x"])).tokens
    np.testing.assert_allclose(tokens.numpy(), golden["student_tokens"], rtol=0, atol=TOLERANCE)


def test_heads(student, parity_encoder, golden):
    encoder, head = student
    x = torch.from_numpy(golden["x"])
    with torch.inference_mode():
        ours = head(encoder(x).cls), parity_encoder.head(parity_encoder.encoder(x).cls)
    np.testing.assert_allclose(ours[0].numpy(), golden["student_proj_cls"], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(ours[1].numpy(), golden["teacher_proj_cls"], rtol=0, atol=TOLERANCE)


def test_embedding_is_the_mean_first_then_the_class_token(parity_encoder, golden, make_windows):
    match = ParcelMatch(order=np.arange(457), n_atlas_parcels=457)
    windows = make_windows(np.ascontiguousarray(golden["x"].transpose(0, 2, 1)))
    embedding = FrozenEncoder(parity_encoder, match, device="cpu").encode(windows)
    np.testing.assert_allclose(embedding.vectors, golden["cls_avg"], rtol=0, atol=TOLERANCE)


def test_sizes_come_from_the_tensors(parity_encoder):
    config = parity_encoder.config
    assert (config.width, config.depth, config.head_hidden, config.head_out) == (64, 2, 128, 32)
    assert (config.window, config.patch, config.kernel_length, config.head_layers) == (100, 20, 16, 2)
    assert parity_encoder.layout == default_layout()
    assert parity_encoder.name == "checkpoint"
    assert "epoch 99" in parity_encoder.description


def test_temporal_positions_are_the_specified_table():
    table = compute_temporal_positions(5, 6)
    assert table.dtype == np.float32
    for k in range(5):
        for j in range(3):
            assert table[k, j] == pytest.approx(np.sin(k * 10000 ** (-j / 3)), abs=1e-7)
            assert table[k, 3 + j] == pytest.approx(np.cos(k * 10000 ** (-j / 3)), abs=1e-7)
