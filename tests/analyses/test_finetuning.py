"""Fine-tuning: each training is as if it were alone, and the best epoch is what is tested."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.training_models import SMALL_LAYOUT, SMALL_SIZES

from bids_semantoks.analyses.finetuning import (
    FinetuneRecipe,
    Finetuning,
    TuningRuns,
    _cut_batches,
    add_validation,
    cross_validate_finetuned,
    finish_outputs,
    read_tuning_runs,
)
from bids_semantoks.analyses.rows import Rows
from bids_semantoks.config import EncoderConfig
from bids_semantoks.models.encoder import TunedEncoder, build_encoder, build_parameter_groups
from bids_semantoks.signals.windows import build_windows
from bids_semantoks.statistics.predictions import Target
from bids_semantoks.statistics.series import weigh_windows
from bids_semantoks.statistics.splits import build_published_splits, build_splits
from bids_semantoks.training.batches import compute_seed

N, P, T = 30, 13, 71


CONFIG = EncoderConfig(**SMALL_SIZES)


def make_tuning(*, kind="class", recipe=None, strength=2.0, n_bins=0):
    """N rows; row 3 has two runs, run 5 is shorter than a window, run 7 lacks a parcel; classes differ in parcel 2."""
    rng = np.random.default_rng(4)
    hidden = rng.permutation(np.linspace(-1.5, 1.5, N))
    row_of = np.insert(np.arange(N), 4, 3)
    signals, present = [], np.ones((N + 1, P), dtype=bool)
    for run, row in enumerate(row_of):
        values = rng.standard_normal((49 if run == 5 else T, P)).astype(np.float32)
        values[:, 2] = values[:, 2] * 0.2 + strength * hidden[row]
        if run == 7:
            present[run, 11], values[:, 11] = False, 0
        signals.append(values)
    runs = TuningRuns(signals=tuple(signals), present=present, row_of=row_of)
    if kind == "class":
        target = Target(name="group", values=(hidden > 0).astype(float), classes=("a", "b"))
    else:
        target = Target(name="age", values=50 + 10 * hidden, n_bins=n_bins)
    encoder = build_encoder(CONFIG, SMALL_LAYOUT, 0)
    return Finetuning(encoder, runs, target, recipe or FinetuneRecipe(epochs=3, rates=(1e-2,)))


def read_state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def is_same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def test_layers_have_the_rates_and_decays_of_the_specification():
    model = TunedEncoder(build_encoder(CONFIG, SMALL_LAYOUT, 0), 2, pooling="cls_avg", seed=0)
    groups = build_parameter_groups(model, rate=0.5, layer_decay=0.9, weight_decay=0.05)
    found = {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert [len(group["names"]) == len(group["params"]) for group in groups] == [True] * len(groups)
    wanted = {
        "encoder.class_token": (0.3645, 0.05),
        "encoder.mask_token": (0.3645, 0.05),
        "encoder.network_positions": (0.3645, 0.05),
        "encoder.tokenizer.networks.1.branches.dense.convolution.weight": (0.405, 0.05),
        "encoder.tokenizer.networks.1.branches.dense.convolution.bias": (0.405, 0.0),
        "encoder.tokenizer.networks.2.branches.structured.kernels": (0.405, 0.05),
        "encoder.tokenizer.networks.2.norm.weight": (0.405, 0.0),
        "encoder.blocks.0.attention.qkv.weight": (0.45, 0.05),
        "encoder.blocks.0.attention_norm.weight": (0.45, 0.0),
        "encoder.blocks.0.attention_scale": (0.45, 0.0),
        "encoder.blocks.1.mlp.2.weight": (0.5, 0.05),
        "encoder.blocks.1.mlp.2.bias": (0.5, 0.0),
        "encoder.blocks.1.mlp_scale": (0.5, 0.0),
        "encoder.norm.weight": (0.5, 0.0),
        "head_norm.weight": (0.5, 0.0),
        "head_norm.bias": (0.5, 0.0),
        "head_weight": (0.5, 0.05),
        "head_bias": (0.5, 0.0),
    }
    for name, (rate, decay) in wanted.items():
        assert found[name] == (pytest.approx(rate, rel=1e-12), decay), name


def train_plainly(tuning, split, rate, seed):
    """The recipe as a plain loop: AdamW by hand for every parameter, halved cosine, norm clipped to 1."""
    model = TunedEncoder(tuning.encoder, 2, pooling="cls_avg", seed=seed).train()
    recipe = tuning.recipe
    peak = {}
    for name, _ in model.named_parameters():
        part = name.removeprefix("encoder.").split(".")
        layer = {"tokenizer": 1, "blocks": 2 + int(part[1]) if part[0] == "blocks" else 0}.get(part[0], 3)
        layer = 0 if part[0] in ("class_token", "mask_token", "network_positions") else layer
        peak[name] = rate * 16 / 256 * 0.9 ** (3 - layer)
    plan = [batch for e in range(recipe.epochs) for batch in _cut_batches(len(split.train), 16, seed, e)]
    draw = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(draw))
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    for step, batch in enumerate(plan):
        rows = split.train[batch]
        x, mask = tuning._draw(rows, generator)
        loss = torch.nn.functional.cross_entropy(model(x, mask), torch.as_tensor(tuning.target.values[rows]).long())
        found = torch.autograd.grad(loss, model.parameters(), allow_unused=True)
        gradients = dict(zip(moments, found, strict=True))
        norm = torch.sqrt(sum((g**2).sum() for g in gradients.values() if g is not None))
        cosine = 0.5 * (1 + np.cos(np.pi * step / len(plan)))
        with torch.no_grad():
            for name, p in model.named_parameters():
                if gradients[name] is None:
                    continue
                gradient = gradients[name] * min(1.0, 1.0 / float(norm + 1e-6))
                one, two = moments[name]
                one.mul_(0.9).add_(0.1 * gradient)
                two.mul_(0.999).add_(0.001 * gradient**2)
                free = "norm" in name or "bias" in name or name.endswith("_scale")
                p.mul_(1 - peak[name] * cosine * (0.0 if free else 0.05))
                first, second = one / (1 - 0.9 ** (step + 1)), two / (1 - 0.999 ** (step + 1))
                p.sub_(peak[name] * cosine * first / (second.sqrt() + 1e-8))
    return model


def test_training_is_the_recipe_written_plainly():
    tuning = make_tuning(recipe=FinetuneRecipe(epochs=1, rates=(1e-2,)))
    split = build_published_splits(tuning.target.compute_strata(), n_repeats=1)[0]
    tuned = tuning.train(split, rate=1e-2, seed=5)
    plain = train_plainly(tuning, split, 1e-2, 5)
    for name, value in plain.named_parameters():
        if name == "encoder.norm.bias":
            continue  # BatchNorm takes it away again: its gradient is rounding, which AdamW blows up
        torch.testing.assert_close(dict(tuned.model.named_parameters())[name], value, rtol=1e-4, atol=2e-6, msg=name)


def test_the_best_epoch_is_kept_and_not_the_last():
    tuning = make_tuning(kind="value", recipe=FinetuneRecipe(epochs=9, rates=(0.5,)))
    split = build_published_splits(tuning.target.compute_strata(), n_repeats=1)[0]
    # Which epoch is best hangs on rounding, and so on the processor: take a training that was better before its end.
    trainings = ((seed, tuning.train(split, rate=0.5, seed=seed)) for seed in range(20))
    seed, tuned = next((seed, one) for seed, one in trainings if 1 <= one.epoch < 9)
    targets, _ = tuning.compute_targets(split.train)
    error = np.abs(tuning.predict(tuned.model, split.validation)[:, 0] - targets[split.validation]).mean()
    assert error == pytest.approx(tuned.loss[0], rel=1e-6)
    # The cosine is that of all epochs, so that only the weights tell where training ended.
    tuning.recipe = FinetuneRecipe(epochs=9, rates=(0.5,))
    assert is_same(read_state(tuning.train(split, rate=0.5, seed=seed).model), read_state(tuned.model))


@pytest.mark.parametrize("kind", ["class", "value"])
def test_nothing_leaks_from_one_training_to_the_next(kind):
    recipe = FinetuneRecipe(epochs=2, rates=(0.1, 1e-3))
    tuning = make_tuning(kind=kind, recipe=recipe)
    before = copy.deepcopy(read_state(tuning.encoder))
    splits = build_published_splits(tuning.target.compute_strata(), n_repeats=3)
    torch.manual_seed(0)
    together = cross_validate_finetuned(tuning, splits)
    assert is_same(before, read_state(tuning.encoder))
    torch.manual_seed(1)  # torch's own generator has no say
    again = make_tuning(kind=kind, recipe=recipe)
    alone = cross_validate_finetuned(again, splits[2:])
    np.testing.assert_array_equal(alone.scores[2], together.scores[2])
    rate = float(together.penalty[2, 0])
    single = make_tuning(kind=kind, recipe=FinetuneRecipe(epochs=2, rates=(rate,)))
    np.testing.assert_array_equal(cross_validate_finetuned(single, splits[2:]).scores[2], together.scores[2])


def test_tested_rows_have_no_say():
    tuning = make_tuning(kind="value")
    splits = build_splits(tuning.target.compute_strata(), n_repeats=1)[:1]
    first = cross_validate_finetuned(tuning, splits)
    values = tuning.target.values.copy()
    values[splits[0].test] = 1e4
    tuning.target = Target(name="age", values=values)
    second = cross_validate_finetuned(tuning, splits)
    np.testing.assert_array_equal(first.scores[0, splits[0].test], second.scores[0, splits[0].test])
    assert np.ptp(first.scores[0, splits[0].test]) > 0


def test_outputs_are_averaged_over_eight_equally_spaced_windows():
    tuning = make_tuning()
    model = TunedEncoder(tuning.encoder, 2, pooling="cls_avg", seed=3).eval()
    found = tuning.predict(model, np.array([8, 3]))
    for row, outputs in ((8, found[0]), (3, found[1])):
        windows = []
        for run in np.flatnonzero(tuning.runs.row_of == row):
            values = tuning.runs.signals[run]
            for start in [int(x) for x in np.linspace(0, T - 60, 8)]:
                windows.append(values[start : start + 60].T)
        with torch.no_grad():
            wanted = model(torch.from_numpy(np.stack(windows))).double().mean(dim=0)
        np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-9)


def test_outputs_are_averaged_as_windows_and_runs_weigh():
    tuning = make_tuning()
    runs = tuning.runs
    n_windows = [1 if len(values) < 60 else 8 for values in runs.signals]
    window_weights = [np.full(n, 1 / n) for n in n_windows]
    window_weights[3] = np.array([0, 0.5, 0, 0.25, 0.25, 0, 0, 0])
    run_weights = np.ones(N + 1)
    run_weights[[3, 4]] = 0.2, 0.8  # of row 3
    tuning.runs = dataclasses.replace(runs, run_weights=run_weights, window_weights=tuple(window_weights))
    model = TunedEncoder(tuning.encoder, 2, pooling="cls_avg", seed=3).eval()
    starts = np.linspace(0, T - 60, 8).astype(int)
    with torch.no_grad():
        first, second = (
            model(torch.from_numpy(np.stack([runs.signals[run][s : s + 60].T for s in starts]))).double().numpy()
            for run in (3, 4)
        )
    wanted = 0.2 * (window_weights[3] @ first) + 0.8 * second.mean(axis=0)
    np.testing.assert_allclose(tuning.predict(model, np.array([3]))[0], wanted, rtol=1e-5, atol=1e-9)
    chosen = [tuning._choose_run(3, unit) for unit in np.linspace(0, 1, 500, endpoint=False)]
    assert (chosen.count(3), chosen.count(4)) == (100, 400)
    assert tuning._choose_run(8, 0.999) == 9


def test_weights_of_tuning_runs_are_those_of_embeddings():
    rng = np.random.default_rng(2)
    tables = [rng.standard_normal((n, P)).astype(np.float32) for n in (97, 150)]
    tables[0][5:80] = np.nan
    stored = tuple(
        SimpleNamespace(
            read_signals=lambda table=table: table,
            repetition_time=1.5,
            n_dummy=2,
            kept_seconds=1.5 * float((~np.isnan(table[:, 0])).sum()),
        )
        for table in tables
    )
    options = {"repetition_time": 2.0, "window": 40}
    encoder = SimpleNamespace(
        frozen=SimpleNamespace(match=SimpleNamespace(order=np.arange(P))),
        loaded=SimpleNamespace(config=SimpleNamespace(**options)),
        config=SimpleNamespace(n_windows=6),
    )
    rows = Rows(keys=(("01", ""),), runs=(stored,), min_kept=0.3)
    found = read_tuning_runs(rows, encoder)
    np.testing.assert_allclose(found.run_weights, np.array([22, 150]) / 172)
    for table, weights in zip(tables, found.window_weights, strict=True):
        windows = build_windows(
            table, repetition_time=1.5, n_dummy=2, target_repetition_time=2.0, window=40, n_windows=6
        )
        np.testing.assert_array_equal(weights, weigh_windows(windows.kept, 0.3))
    assert (found.window_weights[0] == 0).any()
    alike = read_tuning_runs(dataclasses.replace(rows, min_kept=None), encoder)  # the published protocol
    assert (alike.run_weights, alike.window_weights) == (None, None)


def test_short_runs_and_absent_networks_are_masked():
    tuning = make_tuning()
    x, mask = tuning._draw(np.array([4]), torch.Generator().manual_seed(0))  # run 5, 49 of 60 volumes
    assert mask is None
    assert torch.count_nonzero(x[..., 49:]) == 0
    tuning.runs.signals[5][:] = 0
    tuning.runs = TuningRuns(
        signals=tuple(s[:19] if i == 5 else s for i, s in enumerate(tuning.runs.signals)),
        present=tuning.runs.present,
        row_of=tuning.runs.row_of,
    )
    _, mask = tuning._draw(np.array([4]), torch.Generator().manual_seed(0))
    assert mask[0].tolist() == [[False, True, True]] * 3


def test_validation_rows_of_whole_groups_choose_the_rate():
    tuning = make_tuning(recipe=FinetuneRecipe(epochs=2, rates=(1e-6, 0.05)))
    groups = np.arange(N) // 2
    split = build_splits(tuning.target.compute_strata(), groups=groups, n_repeats=1)[0]
    found = cross_validate_finetuned(tuning, [split], groups=groups, seed=3)
    inner = add_validation(split, tuning.target, groups=groups, seed=3)
    seed = compute_seed(3, 0, 0)
    tuned = {rate: tuning.train(inner, rate=rate, seed=seed, reference=split.train) for rate in (0.05, 1e-6)}
    best = min(tuned, key=lambda rate: tuned[rate].loss)
    assert best == 0.05  # the first that is trained, not the last
    assert found.penalty[0, 0] == best
    np.testing.assert_array_equal(found.scores[0, split.test], finish_outputs(tuning, tuned[best], split))


def test_training_windows_are_augmented_but_for_parcels():
    rows = np.array([8, 9, 10])
    plain = make_tuning(recipe=FinetuneRecipe(levels=(0, 0, 0, 0)))
    x, _ = plain._draw(rows, torch.Generator().manual_seed(0))
    own = plain.runs.signals[9].T
    assert any(np.array_equal(x[0].numpy(), own[:, start : start + 60]) for start in range(T - 60 + 1))
    timed, _ = make_tuning(recipe=FinetuneRecipe(levels=(0, 1, 0, 0)))._draw(rows, torch.Generator().manual_seed(0))
    assert ((timed == 0).all(dim=1).sum(dim=1) >= 1).all()
    tuning = make_tuning()
    assert tuning.recipe.levels == (0, 1, 1, 1)
    y, _ = tuning._draw(rows, torch.Generator().manual_seed(0))
    assert not (y == 0).any()  # noise is everywhere
    starts = range(T - 60 + 1)
    assert not any(np.allclose(y[0].numpy(), own[:, start : start + 60], atol=0.02) for start in starts)


def test_parcels_are_missed_wherever_they_are():
    tuning = make_tuning()
    model = TunedEncoder(tuning.encoder, 2, pooling="cls_avg", seed=3).eval()
    rows = np.array([6])  # run 7
    assert tuning._draw(rows, torch.Generator().manual_seed(0))[1] is None  # it lacks one parcel of several
    gone = SMALL_LAYOUT.indices[1]
    assert 0 not in gone
    tuning.runs.present[7, list(gone)] = False
    tuning.runs.signals[7][:, list(gone)] = 0
    _, mask = tuning._draw(rows, torch.Generator().manual_seed(0))
    assert mask[0].tolist() == [[False] * 3, [True] * 3, [False] * 3]
    x = torch.from_numpy(
        np.stack([tuning.runs.signals[7][s : s + 60].T for s in np.linspace(0, T - 60, 8).astype(int)])
    )
    with torch.no_grad():
        wanted = model(x, mask.expand(8, -1, -1)).double().mean(dim=0)
    np.testing.assert_allclose(tuning.predict(model, rows)[0], wanted, rtol=1e-5, atol=1e-9)
    assert torch.isfinite(wanted).all()


def test_a_class_may_lack_in_validation_and_values_may_be_missing():
    tuning = make_tuning(recipe=FinetuneRecipe(epochs=1, rates=(1e-2,)))
    values = np.repeat([0.0, 1.0, 2.0], [18, 6, 6])
    values[[2, 19]] = np.nan
    tuning.target = Target(name="group", values=values, classes=("a", "b", "c"))
    first = build_splits(tuning.target.compute_strata(), n_repeats=1)[0]
    validating = np.intersect1d(first.train, np.flatnonzero(values == 0))[:4]
    split = dataclasses.replace(first, train=np.setdiff1d(first.train, validating), validation=validating)
    found = cross_validate_finetuned(tuning, [split])
    tested = np.flatnonzero(found.tested)
    assert tested.tolist() == first.test.tolist()
    assert not np.isnan(values[tested]).any()
    assert np.isfinite(found.scores[0, tested]).all()


def test_validation_rows_come_from_training_rows_and_keep_groups_together():
    target = make_tuning().target
    groups = np.arange(N) // 2
    for split in build_splits(target.compute_strata(), groups=groups, n_repeats=1):
        inner = add_validation(split, target, groups=groups, seed=0)
        assert sorted([*inner.train, *inner.validation]) == split.train.tolist()
        assert inner.test.tolist() == split.test.tolist()
        assert len(inner.validation) >= len(split.train) // 6
        assert not set(groups[inner.train]) & set(groups[inner.validation])


@pytest.mark.parametrize(("kind", "n_bins"), [("class", 0), ("value", 0), ("value", 3)])
def test_a_planted_effect_is_found(kind, n_bins):
    tuning = make_tuning(kind=kind, n_bins=n_bins, recipe=FinetuneRecipe(epochs=12, rates=(0.03,)))
    splits = build_splits(tuning.target.compute_strata(), n_repeats=1)
    found = cross_validate_finetuned(tuning, splits)
    assert found.tested.all()
    truth, scores, _ = found.average()
    if found.classes:
        assert (found.decisions[0] == truth).mean() > (0.6 if n_bins else 0.85)
        np.testing.assert_allclose(scores.sum(axis=1), 1)
    else:
        assert np.corrcoef(truth, scores[:, 0])[0, 1] > 0.8


def test_a_row_without_a_run_is_refused():
    tuning = make_tuning()
    tuning.runs_of[17] = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="row 17 has no run"):
        cross_validate_finetuned(tuning, build_splits(tuning.target.compute_strata(), n_repeats=1))
