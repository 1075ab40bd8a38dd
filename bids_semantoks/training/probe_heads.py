"""Heads of BatchNorm and a linear layer, trained for many learning rates and repetitions at once.

Legend: R repetitions, L learning rates, C outputs, D features, B windows in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SGD_MOMENTUM = 0.9


NORM_MOMENTUM = 0.1


NORM_EPS = 1e-5


def draw_batches(n_windows: int, *, epochs: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draw the batches of a repetition: positions (B,), an eighth of the windows each, between 2 and 256.

    The last batch of a pass is smaller; a single window is dropped, since it has no variance.
    """
    size = max(2, min(256, n_windows // 8))
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(n_windows)
        for start in range(0, n_windows, size):
            if n_windows - start > 1:
                yield order[start : start + size]


class Heads:
    """Heads of several repetitions and learning rates, each trained as if alone, from first weights (R, C, D).

    Heads that see the same batches share their normalisation, since BatchNorm has no parameters before its affine part.
    The loss is cross-entropy over C classes, or the absolute error of one output.
    """

    def __init__(self, weights: Tensor, rates: Sequence[float], *, is_class: bool) -> None:
        n_repeats, n_outputs, n_features = weights.shape
        options: dict[str, Any] = {"dtype": weights.dtype, "device": weights.device}
        self.is_class, self.n_outputs = is_class, n_outputs
        self.rates = -torch.tensor(list(rates), **options)[:, None, None]
        # Rows of weights, then gamma, then beta: one tensor, so that one call updates them all.
        self.parameters = torch.zeros(n_repeats, len(rates), n_outputs + 2, n_features, **options)
        self.parameters[:, :, :n_outputs] = weights[:, None]
        self.parameters[:, :, n_outputs] = 1
        self.biases = torch.zeros(n_repeats, len(rates), n_outputs, **options)
        self.velocity, self.bias_velocity = torch.zeros_like(self.parameters), torch.zeros_like(self.biases)
        self.gradient = torch.zeros_like(self.parameters)
        self.mean = torch.zeros(n_repeats, 1, n_features, **options)
        self.variance = torch.ones(n_repeats, 1, n_features, **options)

    def compute_outputs(self, normed: Tensor) -> Tensor:
        """Apply all heads to normalised windows: (R, B, D) -> (R, B, L, C) logits or values."""
        weight, gamma, beta = self._split(self.parameters)
        folded = weight * gamma  # (R, L, C, D)
        shift = (weight @ beta.transpose(2, 3)).squeeze(3) + self.biases  # (R, L, C)
        flat = torch.baddbmm(shift.flatten(1)[:, None], normed, folded.flatten(1, 2).transpose(1, 2))
        return flat.reshape(*normed.shape[:2], *shift.shape[1:])

    def _split(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c = self.n_outputs
        return table[:, :, :c], table[:, :, c : c + 1], table[:, :, c + 1 : c + 2]

    def step(self, windows: Tensor, targets: Tensor) -> None:
        """Take one SGD step with momentum: windows (R, B, D), targets (R, B, C) as class indicators or values."""
        size = windows.shape[1]
        # Means as matrix products: reductions over rows take ten times as long on a CPU.
        average = torch.full((len(windows), 1, size), 1 / size, dtype=windows.dtype, device=windows.device)
        mean = average @ windows
        centred = windows - mean
        variance = average @ centred.square()
        normed = centred.mul_(torch.rsqrt(variance + NORM_EPS))
        self.mean.lerp_(mean, NORM_MOMENTUM)
        self.variance.lerp_(variance * (size / (size - 1)), NORM_MOMENTUM)
        outputs = self.compute_outputs(normed)
        error = (
            outputs.softmax(dim=3) - targets[:, :, None] if self.is_class else (outputs - targets[:, :, None]).sign()
        )
        error = error / size  # (R, B, L, C)
        self._descend(normed, error)

    def _descend(self, normed: Tensor, error: Tensor) -> None:
        """Update all heads: outputs x V' + W beta + b, V = W * gamma, with gradient G give dV = G' x and, exactly,
        W: dV * gamma + sum(G) beta', gamma: sum over outputs of dV * W, beta: W' sum(G), b: sum(G)."""
        weight, gamma, beta = self._split(self.parameters)
        weight_gradient, gamma_gradient, beta_gradient = self._split(self.gradient)
        folded = (error.flatten(2).transpose(1, 2) @ normed).reshape_as(weight)  # (R, L, C, D)
        total = error.sum(dim=1)  # (R, L, C)
        torch.sum(folded * weight, dim=2, keepdim=True, out=gamma_gradient)
        torch.matmul(total[:, :, None], weight, out=beta_gradient)
        torch.addcmul(folded * gamma, total[:, :, :, None], beta, out=weight_gradient)
        self.velocity.mul_(SGD_MOMENTUM).add_(self.gradient)
        self.bias_velocity.mul_(SGD_MOMENTUM).add_(total)
        self.parameters.addcmul_(self.velocity, self.rates)
        self.biases.addcmul_(self.bias_velocity, self.rates[:, :, 0])

    def predict(self, windows: Tensor, repetition: int) -> Tensor:
        """Apply the heads of one repetition, with running mean and variance: (B, D) -> (B, L, C) logits or values."""
        part = slice(repetition, repetition + 1)
        one = Heads.__new__(Heads)
        one.n_outputs, one.parameters, one.biases = self.n_outputs, self.parameters[part], self.biases[part]
        normed = (windows[None] - self.mean[part]) * torch.rsqrt(self.variance[part] + NORM_EPS)
        return one.compute_outputs(normed)[0]
