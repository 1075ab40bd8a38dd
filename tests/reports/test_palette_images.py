"""Heatmaps as PNG: what is written is what others read."""

import base64
import io

import numpy as np
import pytest
from PIL import Image as Pillow

from bids_semantoks.reports.palette_images import COVERAGE, GREYS, RED_BLUE, from_base64, to_base64


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
