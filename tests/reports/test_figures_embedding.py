"""What is drawn of embeddings."""

import numpy as np
from bids_semantoks.reports.figures_embedding import compute_stability


def test_stability_tells_runs_from_others():
    rng = np.random.default_rng(5)
    own = rng.normal(size=8)
    runs = [(own + 0.1 * rng.normal(size=(n, 8))).astype(np.float32) for n in (3, 2)]
    others = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(6)]
    found = compute_stability(runs, ("a", "b"), others)
    assert found.is_centred
    assert (found.within.size, found.between.size, found.others.size) == (4, 6, 30)
    assert np.median(found.within) > 0.9
    assert np.median(found.between) > 0.9
    assert np.median(found.others) < 0.5
    assert not compute_stability(runs, ("a", "b"), others[:3]).is_centred
