"""What one optimiser step does."""

import math

import numpy as np
import pytest
import torch
from helpers.training_models import build_small, compute_gradients, copy_parameters, make_batch

from bids_semantoks.config import TrainingConfig
from bids_semantoks.training.distill import build_optimiser, train_step
from bids_semantoks.training.schedules import StepSettings

SETTINGS = StepSettings(learning_rate=1e-3, weight_decay=0.05, momentum=0.9, ttr_weight=0.3, is_masked=True)


class TestStep:
    def test_order_and_values(self):
        """Weight decay, rate, clipped gradient, AdamW, then the teacher follows the new student."""
        module, batch = build_small(), make_batch()
        before = copy_parameters(module)
        _, gradients = compute_gradients(module, batch)
        norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
        assert norm > 1
        report = train_step(module, build_optimiser(module, module.config), [batch], SETTINGS)
        assert float(report.gradient_norm) == pytest.approx(norm, rel=1e-5)
        assert not report.losses.total.requires_grad
        after = copy_parameters(module)
        for name, gradient in gradients.items():
            clipped = gradient / norm
            moved = before[name] * (1 - 1e-3 * 0.05) - 1e-3 * clipped / (clipped.abs() + 1e-8)
            sure = clipped.abs() > 1e-5  # elsewhere rounding decides the direction
            torch.testing.assert_close(after[name][sure], moved[sure], rtol=0, atol=2e-6)
            teacher = name.replace("student", "teacher", 1)
            followed = 0.9 * before[teacher] + 0.1 * after[name]
            torch.testing.assert_close(after[teacher], followed, rtol=1e-5, atol=1e-6)

    def test_weight_decay_reaches_every_trained_parameter(self):
        module = build_small()
        optimiser = build_optimiser(module, module.config)
        assert len(optimiser.param_groups) == 1
        assert len(optimiser.param_groups[0]["params"]) == len(list(module.student_parameters()))
        train_step(module, optimiser, [make_batch()], SETTINGS)
        assert (optimiser.param_groups[0]["weight_decay"], optimiser.param_groups[0]["lr"]) == (0.05, 1e-3)
        assert optimiser.defaults["betas"] == (0.9, 0.999)
        assert optimiser.defaults["eps"] == 1e-8

    def test_small_gradients_are_not_clipped(self):
        module = build_small(recipe=TrainingConfig(clip=1e6))
        _, gradients = compute_gradients(module, make_batch())
        optimiser = torch.optim.SGD(module.student_parameters(), lr=0.0)
        train_step(module, optimiser, [make_batch()], SETTINGS)
        found = dict(module.named_parameters())
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name].grad, gradient, rtol=1e-5, atol=1e-6)

    def test_at_rate_zero_the_student_stays_and_the_teacher_comes(self):
        module = build_small()
        before = copy_parameters(module)
        settings = SETTINGS._replace(learning_rate=0.0)
        train_step(module, build_optimiser(module, module.config), [make_batch()], settings)
        after = copy_parameters(module)
        assert torch.equal(after["student.class_token"], before["student.class_token"])
        assert not torch.equal(after["teacher.class_token"], before["teacher.class_token"])

    def test_momentum_one_keeps_the_teacher(self):
        module = build_small()
        before = copy_parameters(module)
        settings = SETTINGS._replace(momentum=1.0)
        train_step(module, build_optimiser(module, module.config), [make_batch()], settings)
        for name, value in copy_parameters(module).items():
            if name.startswith("teacher"):
                assert torch.equal(value, before[name])

    def test_kernel_norms_stay_what_they_were(self):
        module = build_small()
        before = {name: value.clone() for name, value in module.named_buffers()}
        assert any("kernel_norm" in name for name in before)
        train_step(module, build_optimiser(module, module.config), [make_batch()], SETTINGS)
        for name, value in module.named_buffers():
            assert torch.equal(value, before[name])

    def test_accumulated_parts_are_averaged_then_clipped_once(self):
        module, parts = build_small(recipe=TrainingConfig(clip=1e6)), [make_batch(seed=1), make_batch(seed=2)]
        found = [compute_gradients(module, part) for part in parts]
        report = train_step(module, torch.optim.SGD(module.student_parameters(), lr=0.0), parts, SETTINGS)
        assert float(report.losses.total) == pytest.approx(
            np.mean([float(losses.total) for losses, _ in found]), abs=1e-6
        )
        gradients = dict(module.named_parameters())
        for name in found[0][1]:
            wanted = (found[0][1][name] + found[1][1][name]) / 2
            torch.testing.assert_close(gradients[name].grad, wanted, rtol=1e-4, atol=1e-5)

    def test_gradients_of_the_step_before_are_forgotten(self):
        module, batch = build_small(recipe=TrainingConfig(clip=1e6)), make_batch()
        optimiser = torch.optim.SGD(module.student_parameters(), lr=0.0)
        settings = SETTINGS._replace(learning_rate=0.0, momentum=1.0)
        first = train_step(module, optimiser, [batch], settings)
        second = train_step(module, optimiser, [batch], settings)
        assert float(first.gradient_norm) == pytest.approx(float(second.gradient_norm), rel=1e-5)

    def test_an_overflow_moves_nothing(self):
        module = build_small()
        before = copy_parameters(module)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        optimiser = build_optimiser(module, module.config)
        report = train_step(module, optimiser, [make_batch()], SETTINGS, scaler=scaler)
        assert not report.is_done
        for name, value in copy_parameters(module).items():
            assert torch.equal(value, before[name])
        assert scaler.get_scale() < 2.0**127

    def test_the_scaler_does_not_change_the_step(self):
        steps = []
        for scaler in (None, torch.amp.GradScaler("cpu", init_scale=256.0)):
            module = build_small()
            optimiser = build_optimiser(module, module.config)
            report = train_step(module, optimiser, [make_batch()], SETTINGS, scaler=scaler)
            steps.append((report, copy_parameters(module)))
        assert steps[1][0].is_done
        assert float(steps[0][0].gradient_norm) == pytest.approx(float(steps[1][0].gradient_norm), rel=1e-5)
        torch.testing.assert_close(steps[0][1], steps[1][1], rtol=1e-4, atol=1e-4)

    def test_bf16_stays_near_float32(self):
        losses = []
        for dtype in (None, torch.bfloat16):
            module = build_small()
            optimiser = build_optimiser(module, module.config)
            report = train_step(module, optimiser, [make_batch()], SETTINGS, dtype=dtype)
            assert all(value.dtype == torch.float32 for value in module.parameters())
            assert report.gradient_norm.isfinite()
            losses.append(report.losses)
        for a, b in zip(*losses, strict=True):
            assert float(a) == pytest.approx(float(b), rel=0.05, abs=0.02)

    def test_masks_must_fit_the_step(self):
        module = build_small()
        with pytest.raises(ValueError, match="is_masked True"):
            train_step(module, build_optimiser(module, module.config), [make_batch(is_masked=False)], SETTINGS)

    def test_no_parts(self):
        module = build_small()
        with pytest.raises(ValueError, match="found 0 parts"):
            train_step(module, build_optimiser(module, module.config), [], SETTINGS)

    def test_learning(self):
        """Twelve steps on one batch bring the loss down."""
        module = build_small()
        optimiser = build_optimiser(module, module.config)
        settings = SETTINGS._replace(momentum=0.99)
        totals = [float(train_step(module, optimiser, [make_batch()], settings).losses.total) for _ in range(12)]
        assert totals[-1] < totals[0] - 0.05
