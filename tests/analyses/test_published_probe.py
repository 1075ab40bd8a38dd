"""Heads that are trained together must be the heads that would have been trained alone."""

import numpy as np
import pytest
import torch

from bids_semantoks.analyses.published_probe import (
    RATES,
    PublishedProbe,
    WindowTable,
    cross_validate_published,
    draw_batches,
)
from bids_semantoks.models.encoder import draw_head
from bids_semantoks.statistics.metrics import compute_fold_scores
from bids_semantoks.statistics.predictions import Target, average_models, compute_probabilities
from bids_semantoks.statistics.splits import build_published_splits

N, M, D = 45, 3, 17


def make_probe(n_classes, *, dtype=torch.float64):
    rng = np.random.default_rng(0)
    row_of = rng.permutation(np.repeat(np.arange(N), M))
    hidden = rng.standard_normal(N)
    values = 5 + 3 * rng.standard_normal((N * M, D)) + np.outer(hidden[row_of], rng.standard_normal(D))
    if n_classes:
        labels = np.searchsorted(np.quantile(hidden, np.arange(1, n_classes) / n_classes), hidden).astype(float)
        target = Target(name="group", values=labels, classes=tuple("abc"[:n_classes]))
    else:
        target = Target(name="age", values=40 + 12 * hidden)
    table = WindowTable(name="windows", values=values, row_of=row_of)
    splits = build_published_splits(target.compute_strata(), n_repeats=2)
    return PublishedProbe(table, target, dtype=dtype), splits


def train_alone(probe, split, rate, epochs):
    """The specification, with plain modules and autograd."""
    found = probe.find_windows(split.train)
    inputs = torch.as_tensor(probe.table.values[found])
    targets = torch.as_tensor(probe.compute_targets(split)[0][found])
    head = torch.nn.Sequential(torch.nn.BatchNorm1d(D), torch.nn.Linear(D, targets.shape[1])).double()
    with torch.no_grad():
        head[1].weight.copy_(draw_head(targets.shape[1], D, seed=split.repetition))
        head[1].bias.zero_()
    optimiser = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
    for batch in draw_batches(len(found), epochs=epochs, seed=split.repetition):
        outputs, wanted = head(inputs[batch]), targets[batch]
        if probe.target.is_class:
            loss = torch.nn.functional.cross_entropy(outputs, wanted.argmax(dim=1))
        else:
            loss = torch.nn.functional.l1_loss(outputs, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return head.eval()


@pytest.mark.parametrize("n_classes", [0, 2, 3])
def test_heads_trained_together_equal_heads_trained_alone(n_classes):
    probe, splits = make_probe(n_classes)
    heads = probe.train(splits, rates=RATES, epochs=6, seed=0)
    shift = torch.as_tensor(probe.table.values.mean(axis=0))
    for index, split in enumerate(splits):
        for place, rate in enumerate(RATES):
            alone = train_alone(probe, split, rate, epochs=6)
            weight, gamma, beta = (x[index, place] for x in heads._split(heads.parameters))
            torch.testing.assert_close(weight, alone[1].weight.detach(), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(gamma[0], alone[0].weight.detach(), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(beta[0], alone[0].bias.detach(), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(heads.biases[index, place], alone[1].bias.detach(), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(heads.variance[index, 0], alone[0].running_var, atol=1e-9, rtol=1e-9)
            inputs = torch.as_tensor(probe.table.values)
            expected = alone(inputs).detach()
            torch.testing.assert_close(heads.predict(inputs - shift, index)[:, place], expected, atol=1e-8, rtol=1e-7)


@pytest.mark.parametrize("n_classes", [0, 3])
def test_the_whole_protocol_equals_the_plain_loop(n_classes):
    probe, splits = make_probe(n_classes)
    rates = (0.03, 0.003)
    found = cross_validate_published(probe, splits, rates=rates, epochs=5)
    for split in splits:
        losses, heads = [], [train_alone(probe, split, rate, epochs=5) for rate in rates]
        targets, (centre, deviation) = probe.compute_targets(split)
        rows = probe.find_windows(split.validation)
        for head in heads:
            outputs = head(torch.as_tensor(probe.table.values[rows])).detach().numpy()
            if n_classes:
                truth, guess = targets[rows].argmax(1), outputs.argmax(1)
                losses.append(-np.mean([(guess[truth == k] == k).mean() for k in np.unique(truth)]))
            else:
                losses.append(np.abs(outputs - targets[rows]).mean())
        best = int(np.argmin(losses))
        assert found.penalty[split.repetition, 0] == rates[best]
        for row in split.test:
            windows = torch.as_tensor(probe.table.values[probe.table.row_of == row])
            mean = heads[best](windows).detach().mean(dim=0)
            expected = mean.softmax(dim=0) if n_classes else mean * deviation + centre
            np.testing.assert_allclose(found.scores[split.repetition, row], expected.numpy(), atol=1e-8)
            if n_classes:
                assert found.decisions[split.repetition, row] == mean.argmax()


def test_an_effect_is_found_and_a_tie_takes_the_largest_rate():
    probe, splits = make_probe(2, dtype=torch.float32)
    found = cross_validate_published(probe, splits, epochs=10)
    assert (compute_fold_scores(found, "balanced_accuracy") > 0.7).all()
    flat = WindowTable(name="flat", values=np.zeros((N * M, D)), row_of=probe.table.row_of)
    nothing = cross_validate_published(PublishedProbe(flat, probe.target), splits, epochs=2)
    assert (nothing.penalty == 0.03).all()


def test_test_rows_do_not_reach_training():
    probe, splits = make_probe(2)
    heads = probe.train(splits[:1], rates=RATES, epochs=3, seed=0)
    # The common shift is taken over all windows; heads must not see it.
    changed = probe.table.values.copy()
    changed[probe.find_windows(splits[0].test)] += 100
    other = PublishedProbe(
        WindowTable(name="w", values=changed, row_of=probe.table.row_of), probe.target, dtype=torch.float64
    )
    again = other.train(splits[:1], rates=RATES, epochs=3, seed=0)
    torch.testing.assert_close(heads.parameters, again.parameters, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(heads.variance, again.variance, atol=1e-9, rtol=1e-7)


def test_batches_hold_an_eighth_and_leave_no_single_window():
    sizes = [len(batch) for batch in draw_batches(41, epochs=1, seed=0)]
    assert sizes == [5] * 8
    assert [len(batch) for batch in draw_batches(43, epochs=1, seed=0)] == [5] * 8 + [3]
    assert {len(batch) for batch in draw_batches(2560, epochs=1, seed=0)} == {256}
    together = np.concatenate(list(draw_batches(43, epochs=2, seed=0)))
    assert sorted(together) == sorted([*range(43), *range(43)])
    assert not np.array_equal(together[:43], together[43:])


def test_what_cannot_be_done_is_said():
    probe, splits = make_probe(2)
    lacking = WindowTable(
        name="w", values=probe.table.values, row_of=np.where(probe.table.row_of == 7, 8, probe.table.row_of)
    )
    with pytest.raises(ValueError, match="row 7 has no window"):
        cross_validate_published(PublishedProbe(lacking, probe.target), splits)
    with pytest.raises(ValueError, match=r"values \(135, 17\) and row_of \(3,\) do not fit"):
        WindowTable(name="w", values=probe.table.values, row_of=np.arange(3))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_decision_values_give_the_probabilities_and_can_be_averaged(n_classes):
    probe, splits = make_probe(n_classes)
    made = cross_validate_published(probe, splits, rates=RATES[:2], epochs=3)
    kept = made.decision_values
    np.testing.assert_allclose(compute_probabilities(kept.values, is_softmax=True), made.scores, rtol=1e-12)
    assert (kept.deviation > 0).all()
    both = average_models([made, made], "both")
    np.testing.assert_allclose(both.scores, made.scores, rtol=1e-9)
    np.testing.assert_array_equal(both.decisions, made.decisions)
