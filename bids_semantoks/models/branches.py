"""Convolutions over the parcels of a network: the branches of a tokenizer.

Legend: P_n parcels of a network, V volumes in a patch, O outputs of a branch, H filters of a parcel, L taps, S scales,
M = B*K patches.

Every branch is one cross-correlation over all its parcels. The depthwise branches are folded with the linear layer
that follows them, which is exact since nothing lies between: it saves the (M, H*P_n, V) activations and turns two
slow steps, a grouped convolution and a thin product, into one large matrix product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_semantoks.config import EncoderConfig


def correlate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Cross-correlate patches with taps over all parcels, zero-padded to the same length.

    Parameters
    ----------
    x : Tensor, shape (M, P_n, V)
        Patches.
    weight : Tensor, shape (O, P_n, L)
        Taps; tap ``(L - 1) // 2`` meets the volume itself.
    bias : Tensor, shape (O,)
        Added to every output.

    Returns
    -------
    Tensor, shape (M, V, O)
        Outputs, volumes before channels.
    """
    n_taps = weight.shape[-1]
    left = (n_taps - 1) // 2
    windows = F.pad(x, (left, n_taps - 1 - left)).unfold(-1, n_taps, 1)  # (M, P_n, V, L)
    return F.linear(windows.transpose(1, 2).flatten(2), weight.flatten(1), bias)  # (M, V, O)


class DenseBranch(nn.Module):
    """A convolution over all parcels of a network.

    Parameters
    ----------
    n_parcels : int
        Parcels of the network (P_n).
    n_outputs : int
        Output channels (O).
    config : EncoderConfig
        Number of taps, and whether the convolution is separable (depthwise, then pointwise).
    """

    def __init__(self, n_parcels: int, n_outputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.depthwise: nn.Conv1d | None = None
        n_taps = config.dense_kernel
        if config.dense == "separable":
            self.depthwise = nn.Conv1d(n_parcels, n_parcels, n_taps, groups=n_parcels)
            n_taps = 1
        self.convolution = nn.Conv1d(n_parcels, n_outputs, n_taps)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve patches.

        Parameters
        ----------
        x : Tensor, shape (M, P_n, V)
            Patches.

        Returns
        -------
        Tensor, shape (M, V, O)
            Outputs, volumes before channels.
        """
        weight, bias = self.convolution.weight, self.convolution.bias
        assert bias is not None
        if self.depthwise is not None:
            assert self.depthwise.bias is not None
            bias = bias + weight[..., 0] @ self.depthwise.bias
            weight = weight * self.depthwise.weight[:, 0]  # (O, P_n, 1) * (P_n, L)
        return correlate(x, weight, bias)


class StructuredBranch(nn.Module):
    """A long multi-scale filter bank for each parcel, then a linear layer over all filters.

    The kernel joins a few taps a scale, each scale twice as long and half as heavy as the one before.
    Its norm at initialisation is kept for ever in `kernel_norm`.

    Parameters
    ----------
    n_parcels : int
        Parcels of the network (P_n).
    n_outputs : int
        Output channels (O).
    config : EncoderConfig
        Taps, scales and decay of the kernel.

    References
    ----------
    Li et al. (2023), What makes convolutional models great on long sequence modeling? ICLR.
    """

    kernel_norm: Tensor
    centre: Tensor

    def __init__(self, n_parcels: int, n_outputs: int, config: EncoderConfig) -> None:
        super().__init__()
        n_filters = math.ceil(n_outputs / n_parcels)
        self.decay = config.structured_decay
        self.kernels = nn.Parameter(torch.ones(config.structured_scales, n_filters, n_parcels, config.structured_taps))
        self.skip = nn.Parameter(torch.zeros(n_filters, n_parcels))
        self.register_buffer("kernel_norm", torch.ones(n_filters, n_parcels, 1))
        self.projection = nn.Linear(n_parcels * n_filters, n_outputs)
        left = (config.kernel_length - 1) // 2
        centre = torch.zeros(config.kernel_length, device="cpu")
        centre[left] = 1.0
        self.register_buffer("centre", centre, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter patches.

        Parameters
        ----------
        x : Tensor, shape (M, P_n, V)
            Patches.

        Returns
        -------
        Tensor, shape (M, V, O)
            Outputs, volumes before channels.
        """
        kernel = join_scales(self.kernels, self.decay) / self.kernel_norm  # (H, P_n, L)
        taps = kernel.flip(-1) + self.skip[..., None] * self.centre
        return correlate(x, fold(self.projection, taps), self.projection.bias)


class FreeBranch(nn.Module):
    """Plain depthwise filters as long as the structured ones, then a linear layer over all filters.

    Parameters
    ----------
    n_parcels : int
        Parcels of the network (P_n).
    n_outputs : int
        Output channels (O).
    config : EncoderConfig
        Length of the kernel.
    """

    def __init__(self, n_parcels: int, n_outputs: int, config: EncoderConfig) -> None:
        super().__init__()
        n_filters = math.ceil(n_outputs / n_parcels)
        self.taps = nn.Parameter(torch.zeros(n_filters, n_parcels, config.kernel_length))
        self.projection = nn.Linear(n_parcels * n_filters, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Filter patches.

        Parameters
        ----------
        x : Tensor, shape (M, P_n, V)
            Patches.

        Returns
        -------
        Tensor, shape (M, V, O)
            Outputs, volumes before channels.
        """
        return correlate(x, fold(self.projection, self.taps), self.projection.bias)


def join_scales(kernels: Tensor, decay: float) -> Tensor:
    """Weight, upsample and concatenate the scales of a structured kernel.

    Parameters
    ----------
    kernels : Tensor, shape (S, H, P_n, taps)
        Parameters of each scale; scale i is repeated ``2^max(0, i-1)`` times and weighted ``decay^(S-1-i)``.
    decay : float
        Weight of a scale over the next longer one.

    Returns
    -------
    Tensor, shape (H, P_n, L)
        The kernel before normalisation, L = taps * 2^(S-1).
    """
    last = kernels.shape[0] - 1
    return torch.cat(
        [
            kernel.repeat_interleave(2 ** max(0, i - 1), dim=-1) * decay ** (last - i)
            for i, kernel in enumerate(kernels)
        ],
        dim=-1,
    )


def fold(projection: nn.Linear, taps: Tensor) -> Tensor:
    """Fold depthwise filters and the linear layer over their outputs into one convolution.

    Parameters
    ----------
    projection : nn.Linear
        From filters, parcel by parcel (channel ``p * H + h``), to O outputs.
    taps : Tensor, shape (H, P_n, L)
        Filters of each parcel.

    Returns
    -------
    Tensor, shape (O, P_n, L)
        Weight of the folded convolution.
    """
    n_filters, n_parcels, _ = taps.shape
    mixing = projection.weight.view(-1, n_parcels, n_filters)  # (O, P_n, H)
    return torch.einsum("oph,hpl->opl", mixing, taps)
