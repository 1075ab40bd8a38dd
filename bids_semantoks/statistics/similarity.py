"""Cosine similarity (B windows, N rows of tokens, K patches, D width)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compute_cosines(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Compute the cosine similarities between rows: (n, D) -> (n, n); 0 for rows of zeros."""
    rows = vectors.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norm > 0, norm, 1)
    return np.clip(unit @ unit.T, -1, 1)


def compare_tokens(tokens: NDArray[np.floating[Any]], n_rows: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compare the output tokens of a run between networks, as means over windows and patches (N, N), and between
    windows, as means over networks (B, B). `tokens` is (B, 1 + N*K, D), the class token first; `n_rows` is N."""
    n_windows, _, width = tokens.shape
    rows = tokens[:, 1:].reshape(n_windows, n_rows, -1, width).mean(axis=2, dtype=np.float64)  # (B, N, D)
    across = np.mean([compute_cosines(rows[:, n]) for n in range(n_rows)], axis=0)
    return compute_cosines(rows.mean(axis=0)), across
