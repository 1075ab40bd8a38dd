"""What the page of a run draws: built from signals, written once, read back."""

import base64
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from bids_semantoks.records import FilteredMotion, ParcelSignals
from bids_semantoks.reports.run_data import (
    ABSENT,
    COVERAGE,
    GREYS,
    RED_BLUE,
    average_blocks,
    build_run_data,
    from_base64,
    sort_by_network,
    to_base64,
)
from bids_semantoks.statistics.series import compute_connectivity, zscore_rows

P, T = 13, 41
NETWORKS = ("Cont", "Vis", "", "Other", "Vis", "Limbic", "Vis", "Cont", "", "Other", "Vis", "Limbic", "Default")
PARCELS = tuple(f"p{i}" for i in range(P))


def build_signals(*, n_volumes=T, n_parcels=P, same=False, motion=True, filtered=False):
    """Signals with two dummy and two scrubbed volumes, and parcel 3 absent."""
    rng = np.random.default_rng(2)
    raw = (1000 + rng.normal(size=(n_volumes, n_parcels))).astype(np.float32)
    raw[:, 3] = np.nan
    kept = np.ones(n_volumes, dtype=bool)
    kept[[0, 1, 7, 20]] = False
    cleaned = raw if same else (raw - raw.mean(axis=0)) * rng.uniform(0.5, 1, raw.shape).astype(np.float32)
    return ParcelSignals(
        values=np.where(kept[:, None], cleaned, np.nan).astype(np.float32),
        raw=raw,
        kept=kept,
        n_dummy=2,
        coverage=np.linspace(0.3, 1, n_parcels),
        n_voxels=np.full(n_parcels, 10),
        repetition_time=2.0,
        regressors=(),
        framewise_displacement=np.linspace(0, 0.4, n_volumes) if motion else np.full(n_volumes, np.nan),
        filtered_motion=FilteredMotion(values=np.full(n_volumes, 0.1), source="lp") if filtered else None,
    )


def test_parcels_are_sorted_by_network():
    order = sort_by_network(NETWORKS)
    assert order.names == ["Vis", "Limbic", "Cont", "Default", "Other", "no network"]
    assert order.edges.tolist() == [0, 4, 6, 8, 9, 11, 13]
    assert order.order.tolist() == [1, 4, 6, 10, 5, 11, 0, 7, 12, 3, 9, 2, 8]


def test_data_hold_what_the_run_is():
    signals = build_signals(filtered=True)
    data = build_run_data(signals, PARCELS, NETWORKS, None)
    order = sort_by_network(NETWORKS)
    assert data["parcels"] == [PARCELS[p] for p in order.order]
    assert data["networks"][0] == ["Vis", 0]
    assert data["networks"][1] == ["Limbic", 4]
    assert set(data["traces"]) == {
        *("fd", "fd_filtered", "dvars_before", "dvars_after", "global_before", "global_after")
    }
    assert data["traces"]["dvars_after"][:3] == [None] * 3
    assert data["traces"]["fd"][-1] == 0.4
    after = from_base64(data["carpets"]["after"])
    np.testing.assert_array_equal(after, GREYS.quantise(zscore_rows(signals.values)[order.order]))
    assert (after[:, 7] == 0).all()
    # Dummy volumes would hide the rest.
    before = from_base64(data["carpets"]["before"])
    assert (before[:, :2] == 0).all()
    assert (before[:3, 2:] > 0).all()
    matrix = compute_connectivity(signals.values)[np.ix_(order.order, order.order)]
    np.testing.assert_array_equal(from_base64(data["connectivity"]["image"]), RED_BLUE.quantise(matrix))
    pairs = matrix[np.triu_indices(P, 1)]
    assert sum(data["connectivity"]["counts"]) == (~np.isnan(pairs)).sum()
    assert data["connectivity"]["median"] == pytest.approx(np.nanmedian(pairs), abs=1e-3)


def test_series_that_were_not_changed_are_drawn_once():
    """Parcellated input showed the same carpet as "before" and as "after", and empty panels for unknown motion."""
    data = build_run_data(build_signals(same=True, motion=False), PARCELS, NETWORKS, None)
    assert set(data["traces"]) == {"dvars_after", "global_after"}
    assert "before" not in data["carpets"]
    assert set(data["carpets"]["common"]) == {"after"}


def test_large_runs_are_thinned():
    n_volumes, n_parcels = 1000, 1300
    signals = build_signals(n_volumes=n_volumes, n_parcels=n_parcels)
    data = build_run_data(signals, [f"p{i}" for i in range(n_parcels)], ["Vis"] * n_parcels, None)
    assert (data["carpets"]["step"], data["carpets"]["rows"]) == (3, 3)
    assert from_base64(data["carpets"]["after"]).shape == (434, 334)
    assert from_base64(data["connectivity"]["image"]).shape == (434, 434)


@pytest.mark.parametrize("n_parcels", [1, 2])
def test_runs_with_next_to_nothing_have_data(n_parcels):
    values = np.full((3, n_parcels), np.nan, dtype=np.float32)
    nothing = ParcelSignals(
        values=values,
        raw=values,
        kept=np.zeros(3, dtype=bool),
        n_dummy=3,
        coverage=np.full(n_parcels, np.nan),
        n_voxels=np.full(n_parcels, -1),
        repetition_time=2.0,
        regressors=(),
        framewise_displacement=np.full(3, np.nan),
    )
    data = build_run_data(nothing, PARCELS[:n_parcels], NETWORKS[:n_parcels], None)
    assert data["traces"] == {}
    assert data["connectivity"]["median"] is None
    assert data["carpets"]["common"] == {"after": None}


def test_blocks_are_means_without_the_diagonal():
    matrix = compute_connectivity(build_signals().values)
    order = sort_by_network(NETWORKS)
    sorted_ = matrix[np.ix_(order.order, order.order)]
    means = average_blocks(sorted_, order)
    vis, limbic = slice(0, 4), slice(4, 6)
    assert means[0][1] == pytest.approx(np.nanmean(sorted_[vis, limbic]), abs=1e-3)
    inside = sorted_[vis, vis][~np.eye(4, dtype=bool)]
    assert means[0][0] == pytest.approx(np.nanmean(inside), abs=1e-3)
    # Default has one parcel: no pair.
    assert means[order.names.index("Default")][order.names.index("Default")] is None


def test_slices_have_the_colours_of_coverage():
    grid = np.zeros((20, 24, 20), dtype=np.int32)
    grid[4:16, 4:20, 4:16] = 1
    grid[4:16, 4:20, 8:10] = 4  # absent
    data = build_run_data(build_signals(), PARCELS, NETWORKS, grid)
    image = from_base64(data["slices"]["image"])
    assert data["slices"]["size"] == [image.shape[1], image.shape[0]]
    assert set(np.unique(image)) == {0, ABSENT, 1 + int(0.3 * (ABSENT - 1))}


@pytest.mark.parametrize("palette", [GREYS, RED_BLUE, COVERAGE])
@pytest.mark.parametrize("shape", [(3, 4), (5, 7), (1, 1), (40, 33)])
def test_images_are_read_back_by_us_and_by_others(palette, shape):
    image = np.random.default_rng(1).integers(0, len(palette.colours) + 1, shape).astype(np.uint8)
    text = to_base64(image, palette.colours)
    np.testing.assert_array_equal(from_base64(text), image)
    seen = np.array(Pillow.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))
    colours = np.array([list(bytes.fromhex(one)) for one in palette.colours])
    there = image > 0
    np.testing.assert_array_equal(seen[..., 3], np.where(there, 255, 0))
    np.testing.assert_array_equal(seen[there][:, :3], colours[image[there] - 1])


def test_values_keep_half_a_step():
    values = np.append(np.linspace(-1, 1, 101), np.nan)
    image = RED_BLUE.quantise(values)
    assert image[-1] == 0
    restored = RED_BLUE.restore(image)
    assert np.isnan(restored[-1])
    assert np.abs(restored[:-1] - values[:-1]).max() <= 1 / len(RED_BLUE.colours) + 1e-9
    # Zero has the colour in the middle, which is nearly white.
    assert RED_BLUE.colours[int(RED_BLUE.quantise(np.zeros(1))[0]) - 1] == "f7f6f6"


def test_values_beyond_the_range_have_its_last_colour():
    assert GREYS.quantise(np.array([-9.0, 9.0])).tolist() == [1, len(GREYS.colours)]
