"""Training data are described without reading them."""

from types import SimpleNamespace

import pytest

from bids_semantoks.pretraining.plan import describe_stored


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ([[0.01, 0.1], [0.01, 0.1]], [0.01, 0.1]),
        ([[0.01, 0.1], [0.0, 0.08]], "0 to 0.08 Hz or 0.01 to 0.1 Hz"),
        ([None, None], "no filter"),
        (["", ""], "not known"),
        (["", None, [0.01, 0.1]], "0.01 to 0.1 Hz or no filter or not known"),
    ],
)
def test_pass_bands_of_the_training_data(bands, expected):
    """An empty text stands for series that were cleaned elsewhere."""
    runs = [
        SimpleNamespace(
            entities={"sub": f"{i:02d}", "task": "rest", "atlas": "A"},
            sidecar={
                "TableSHA256": f"{i}",
                "RepetitionTime": 2.0,
                "VolumesKept": 90,
                "VolumesDropped": {"Dummy": {"Count": 0}, "Scrubbed": {"Count": 10 * i}},
                "Denoising": {"Regressors": ["csf", "trans_x", "global_signal"]},
                "Settings": {"denoising": None if band == "" else {"name": "simple"}, "band_pass": band or None},
            },
        )
        for i, band in enumerate(bands)
    ]
    found = describe_stored(runs, ("a", "b"), ("Vis", "Vis"), target=2.0)
    assert found.facts["band"] == expected
    is_known = {"motion, white matter and CSF": any(band != "" for band in bands), "not known": "" in bands}
    assert found.cleaning["noise_removed"] == [way for way, occurs in is_known.items() if occurs]
    assert found.cleaning["largest_share_of_scrubbed_volumes"] == [0.1, 0.1818][len(bands) - 2]
