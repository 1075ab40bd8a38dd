"""Similarity of tokens against loops."""

import numpy as np

from bids_semantoks.statistics.similarity import compare_tokens, compute_cosines


def test_cosines_of_rows():
    rows = np.array([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(compute_cosines(rows), [[1, 0.5**0.5, 0], [0.5**0.5, 1, 0], [0, 0, 0]])


def test_tokens_are_compared_between_networks_and_between_windows():
    n_windows, n_rows, n_patches, width = 3, 4, 5, 7
    tokens = np.random.default_rng(0).normal(size=(n_windows, 1 + n_rows * n_patches, width))
    networks, windows = compare_tokens(tokens, n_rows)
    means = tokens[:, 1:].reshape(n_windows, n_rows, n_patches, width).mean(axis=2)
    for i in range(n_rows):
        for j in range(n_rows):
            a, b = means[:, i].mean(axis=0), means[:, j].mean(axis=0)
            np.testing.assert_allclose(networks[i, j], a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    a, b = means[0], means[2]
    each = [a[n] @ b[n] / np.linalg.norm(a[n]) / np.linalg.norm(b[n]) for n in range(n_rows)]
    np.testing.assert_allclose(windows[0, 2], np.mean(each))
