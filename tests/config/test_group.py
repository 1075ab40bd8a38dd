"""The recipe of pretraining: published defaults, JSON there and back, and what is refused."""

import json

import pytest

from bids_semantoks.config import EncoderConfig, TrainingConfig, from_json, to_json
from bids_semantoks.errors import ConfigurationError


def test_defaults_are_the_published_recipe():
    recipe = TrainingConfig()
    assert (recipe.epochs, recipe.learning_rate, recipe.warmup_epochs, recipe.clip) == (100, 7e-4, 3, 1.0)
    assert (recipe.weight_decay, recipe.betas, recipe.adam_eps) == ((0.05, 0.3), (0.9, 0.999), 1e-8)
    assert (recipe.mask, recipe.mask_ratio, recipe.masked_batches) == ("slice", (0.65, 0.85), 0.5)
    assert (recipe.cls_weight, recipe.ttr_weight, recipe.ttr_share, recipe.token_weight) == (1.0, 0.5, 0.05, 0.5)
    assert (recipe.coding_rate_eps, recipe.momentum, recipe.levels) == (0.05, (0.99, 1.0), (1, 1, 1, 1))


def test_json_there_and_back():
    recipe = TrainingConfig(mask="block", mask_ratio=(0.1, 0.9), augmentation_levels=(0, 1, 2, 3), batch_size=64)
    assert from_json(TrainingConfig, json.loads(json.dumps(to_json(recipe)))) == recipe


def test_levels_one_by_one():
    assert TrainingConfig(augmentation=2).levels == (2, 2, 2, 2)
    assert TrainingConfig(augmentation=2, augmentation_levels=(0, 1, 1, 3)).levels == (0, 1, 1, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_ration": [0.1, 0.9]}, "unknown keys: mask_ration"),
        ({"epochs": 0}, "epochs must be 1 or more, found 0"),
        ({"epochs": 1.5}, "epochs must be int, found 1.5"),
        ({"batch_size": 0}, "batch_size must be 1 or more, found 0"),
        ({"augmentation": 4}, "4, 4, 4, 4"),
        ({"augmentation_levels": [0, 1]}, r"must have 4 values, found \[0, 1\]"),
        ({"mask": "stripes"}, "mask must be one of .*, found 'stripes'"),
        ({"mask_ratio": [0.9, 0.5]}, "mask_ratio needs .*, found 0.9 0.5"),
        ({"mask_ratio": [0, 0.5]}, "mask_ratio needs .*, found 0 0.5"),
        ({"masked_batches": 1.2}, "masked_batches.*found 1.2"),
        ({"ttr_share": -0.1}, "ttr_share.*-0.1"),
        ({"token_weight": -1.0}, "token_weight must be 0 or more, found -1"),
        ({"cls_weight": 0, "ttr_weight": 0, "token_weight": 0}, "nothing would be learnt"),
        ({"cls_weight": 0, "masked_batches": 0}, "the token loss needs masked batches"),
        ({"coding_rate_eps": 0.0}, "coding_rate_eps must be above 0, found 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, found 0"),
        ({"clip": float("nan")}, "clip must be finite, found nan"),
        ({"learning_rate": float("inf")}, "learning_rate must be finite, found inf"),
        ({"mask_ratio": [0.5, float("-inf")]}, "mask_ratio must be finite, found -inf"),
        ({"warmup_epochs": 10**400}, "warmup_epochs must be finite, found 10000"),
        ({"betas": [0.9, 1.0]}, "1, found 0.9 1"),
        ({"momentum": [0.99, 1.5]}, "momentum must hold two numbers in 0..1, found 0.99 1.5"),
    ],
)
def test_what_is_refused(values, message):
    with pytest.raises(ConfigurationError, match=message):
        from_json(TrainingConfig, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"head_width": 0}, "head_width must be 1 or more, found 0"),
        ({"width": -64}, "width must be 1 or more, found -64"),
        ({"mlp_ratio": 0}, "mlp_ratio must be 1 or more, found 0"),
        ({"structured_taps": 0}, "structured_taps must be 1 or more, found 0"),
        ({"structured_scales": -1}, "structured_scales must be 1 or more, found -1"),
        ({"dense_kernel": 0}, "dense_kernel must be 1 or more, found 0"),
        ({"head_out": 0}, "head_out must be 1 or more, found 0"),
        ({"depth": 0}, "depth must be 1 or more, found 0"),
        ({"structured_decay": 0.0}, "structured_decay must be positive, found 0"),
        ({"repetition_time": float("inf")}, "repetition_time must be finite, found inf"),
        ({"spatial": "parcel", "pooling": "max"}, "'max'.*'parcel'"),
        ({"spatial": "parcel", "dense": "separable"}, "'separable'.*'parcel'"),
    ],
)
def test_encoders_that_cannot_be_are_refused(values, message):
    with pytest.raises(ConfigurationError, match=message):
        from_json(EncoderConfig, values)
