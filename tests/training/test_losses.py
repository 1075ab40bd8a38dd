"""Losses against NumPy, in float64, written from the specification."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bids_semantoks.training.losses import (
    RateSums,
    SpreadSums,
    TokenSums,
    compute_coding_rate,
    compute_rate_loss,
    compute_spread,
    compute_token_loss,
    reduce_sums,
    sum_rates,
    sum_spread,
    sum_tokens,
)

EPS = 0.05


N_ROWS, N_COLUMNS = 11, 7


def unit(*shape, seed=0, requires_grad=False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(values, dim=-1).requires_grad_(requires_grad)


def rate_oracle(student, teacher, eps=EPS, n_ranks=1):
    """MCR as specified, of two views [m, p]; with several ranks, m is the rows of all of them."""
    (s1, s2), (t1, t2) = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    m, p = s1.shape
    align = ((t1 * s2).sum(1).mean() + (t2 * s1).sum(1).mean()) / 2
    rates = []
    for x in ((s1 + t1) / 2, (s2 + t2) / 2):
        rates.append(0.5 * np.linalg.slogdet(np.eye(p) + p / (m * n_ranks * eps) * x.T @ x)[1])
    gamma = (p + n_ranks * m) / (p * n_ranks * m)
    return -align - gamma * np.mean(rates)


@pytest.mark.parametrize(("m", "p"), [(11, 7), (5, 7), (7, 7)])
def test_rate_loss(m, p):
    student, teacher = unit(2, m, p), unit(2, m, p, seed=1)
    loss = compute_rate_loss(sum_rates(student, teacher), eps=EPS)
    assert float(loss) == pytest.approx(rate_oracle(student, teacher), abs=1e-12)


def test_the_views_are_crossed():
    student = unit(2, N_ROWS, N_COLUMNS)
    crossed = compute_rate_loss(sum_rates(student, student.flip(0)), eps=EPS, rate_weight=0)
    assert float(crossed) == pytest.approx(-1.0, abs=1e-12)


def test_coding_rate_alone():
    x = unit(2, N_ROWS, N_COLUMNS)
    rate = compute_coding_rate(x.mT @ x, torch.tensor(float(N_ROWS), dtype=x.dtype), eps=0.5)
    wanted = [0.5 * np.linalg.slogdet(np.eye(7) + 7 / (11 * 0.5) * v.T @ v)[1] for v in x.numpy()]
    assert float(rate) == pytest.approx(np.mean(wanted), abs=1e-12)


def test_gradient_goes_through_the_student_only():
    student, teacher = unit(2, N_ROWS, N_COLUMNS, requires_grad=True), unit(2, N_ROWS, N_COLUMNS, seed=1)
    teacher.requires_grad_(True)
    compute_rate_loss(sum_rates(student, teacher), eps=EPS).backward()
    assert teacher.grad is None
    step = torch.zeros_like(student)
    step[1, 3, 2] = 1e-6
    values = [rate_oracle(student.detach() + sign * step, teacher.detach()) for sign in (1, -1)]
    assert float(student.grad[1, 3, 2]) == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-8)


@pytest.mark.parametrize("shards", [[11], [6, 5], [3, 3, 3, 2], [1] * 11])
def test_the_loss_does_not_depend_on_how_a_batch_is_spread(shards):
    student, teacher = unit(2, N_ROWS, N_COLUMNS, requires_grad=True), unit(2, N_ROWS, N_COLUMNS, seed=1)
    parts = zip(student.split(shards, dim=1), teacher.split(shards, dim=1), strict=True)
    sums = RateSums(*(sum(values) for values in zip(*(sum_rates(s, t) for s, t in parts), strict=True)))
    loss = compute_rate_loss(sums, eps=EPS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(rate_oracle(student.detach(), teacher), abs=1e-12)
    whole = student.detach().clone().requires_grad_(True)
    compute_rate_loss(sum_rates(whole, teacher), eps=EPS).backward()
    torch.testing.assert_close(student.grad, whole.grad, rtol=0, atol=1e-12)


def test_a_covariance_kept_to_each_rank_would_make_the_rate_fall_with_ranks():
    """What the sums are for: the same rows in two halves, each rank with its own covariance but all rows counted."""
    student, teacher = unit(2, 10, N_COLUMNS), unit(2, 10, N_COLUMNS, seed=1)
    per_rank = np.mean(
        [rate_oracle(student[:, half], teacher[:, half], n_ranks=2) for half in (slice(5), slice(5, 10))]
    )
    assert per_rank > rate_oracle(student, teacher) + 0.1


def test_weights_leave_rows_out():
    student, teacher = unit(2, N_ROWS, N_COLUMNS), unit(2, N_ROWS, N_COLUMNS, seed=1)
    kept = np.array([1, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1], dtype=bool)
    loss = compute_rate_loss(sum_rates(student, teacher, torch.from_numpy(kept)), eps=EPS)
    assert float(loss) == pytest.approx(rate_oracle(student[:, kept], teacher[:, kept]), abs=1e-12)


def test_equal_weights_are_the_plain_formula():
    student, teacher = unit(2, N_ROWS, N_COLUMNS), unit(2, N_ROWS, N_COLUMNS, seed=1)
    for plain, weighted in zip(
        sum_rates(student, teacher), sum_rates(student, teacher, torch.ones(N_ROWS)), strict=True
    ):
        torch.testing.assert_close(plain, weighted, rtol=0, atol=1e-13)


def test_the_rate_can_be_switched_off():
    student, teacher = unit(2, N_ROWS, N_COLUMNS), unit(2, N_ROWS, N_COLUMNS, seed=1)
    sums = sum_rates(student, teacher)
    off, on = (float(compute_rate_loss(sums, eps=EPS, rate_weight=weight)) for weight in (0.0, 1.0))
    align = ((teacher[0] * student[1]).sum(1).mean() + (teacher[1] * student[0]).sum(1).mean()) / 2
    assert off == pytest.approx(-float(align), abs=1e-12)
    assert on < off


def test_autocast_does_not_reach_the_losses():
    student, teacher = unit(2, 64, 32).float(), unit(2, 64, 32, seed=1).float()
    masked = torch.rand(2, 64, generator=torch.Generator().manual_seed(0)) < 0.5

    def compute():
        rate = compute_rate_loss(sum_rates(student, teacher), eps=EPS)
        token = compute_token_loss(sum_tokens(student, teacher, masked))
        return rate, token, *compute_spread(sum_spread(teacher[0]))

    plain = compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = compute()
    assert all(a.dtype == torch.float64 and torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


def test_collapsed_projections_are_finite():
    same = torch.zeros(2, N_ROWS, N_COLUMNS)
    same[..., 0] = 1
    student = same.clone().requires_grad_(True)
    loss = compute_rate_loss(sum_rates(student, same), eps=EPS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(rate_oracle(same, same), abs=1e-7)
    assert student.grad.isfinite().all()


def test_what_is_not_a_number_stays_one_instead_of_raising():
    student = unit(2, N_ROWS, N_COLUMNS)
    student[0, 3, 1] = torch.nan
    assert torch.isnan(compute_rate_loss(sum_rates(student, unit(2, N_ROWS, N_COLUMNS)), eps=EPS))


def test_token_loss():
    n_views, n_tokens, p = 6, 10, 7
    student, teacher = unit(n_views, n_tokens, p), unit(n_views, n_tokens, p, seed=1)
    masked = np.random.default_rng(0).random((n_views, n_tokens)) < 0.4
    masked[2] = False  # a view without masked tokens counts for nothing
    masked[0] = [True] + [False] * 9
    assert masked.sum(1).tolist().count(0) == 1
    cosines = (student * teacher).sum(-1).numpy()
    wanted = -np.mean([cosines[view][masked[view]].mean() for view in (0, 1, 3, 4, 5)])
    loss = compute_token_loss(sum_tokens(student, teacher, torch.from_numpy(masked)))
    assert float(loss) == pytest.approx(wanted, abs=1e-6)


def test_token_loss_is_the_same_in_parts():
    student, teacher = unit(6, 10, 7), unit(6, 10, 7, seed=1)
    masked = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) < 0.4
    whole = compute_token_loss(sum_tokens(student, teacher, masked))
    parts = [sum_tokens(student[rows], teacher[rows], masked[rows]) for rows in (slice(0, 2), slice(2, 6))]
    joined = compute_token_loss(TokenSums(*(a + b for a, b in zip(*parts, strict=True))))
    assert float(whole) == pytest.approx(float(joined), abs=1e-12)


def test_token_loss_without_any_masked_token():
    student = unit(4, 5, 7, requires_grad=True)
    loss = compute_token_loss(sum_tokens(student, unit(4, 5, 7, seed=1), torch.zeros(4, 5, dtype=torch.bool)))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_token_gradient_goes_through_masked_student_tokens_only():
    student, teacher = unit(4, 5, 7, requires_grad=True), unit(4, 5, 7, seed=1, requires_grad=True)
    masked = torch.zeros(4, 5, dtype=torch.bool)
    masked[:, 2] = True
    compute_token_loss(sum_tokens(student, teacher, masked)).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad[:, 2], -teacher.detach()[:, 2] / 4, rtol=1e-6, atol=1e-7)
    assert not student.grad[:, [0, 1, 3, 4]].any()


def test_spread_over_the_whole_sphere():
    p = 16
    rank, spread = compute_spread(sum_spread(unit(20_000, p)))
    assert float(rank) == pytest.approx(p, rel=0.02)
    assert float(spread) == pytest.approx(p**-0.5, rel=0.01)


def test_spread_on_a_line_and_on_a_plane():
    x = torch.zeros(400, 9)
    x[::2, 3], x[1::2, 3] = 1, -1
    assert float(compute_spread(sum_spread(x))[0]) == pytest.approx(1.0, abs=1e-9)
    angle = torch.arange(400) * 2 * torch.pi / 400
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros(400)], dim=1)
    rank, spread = compute_spread(sum_spread(x))
    assert float(rank) == pytest.approx(2.0, abs=1e-6)
    assert float(spread) == pytest.approx(3**-0.5, abs=1e-6)


def test_spread_of_one_point():
    x = unit(1, 24).float().expand(50, -1)
    rank, spread = compute_spread(sum_spread(x))
    assert float(rank) < 1e-3
    assert float(spread) < 1e-6


def test_spread_against_numpy_in_parts():
    x = unit(30, 6)
    parts = [sum_spread(x[:11]), sum_spread(x[11:])]
    rank, spread = compute_spread(SpreadSums(*(a + b for a, b in zip(*parts, strict=True))))
    covariance = np.cov(x.numpy().T, bias=True)
    values = np.linalg.eigvalsh(covariance)
    assert float(rank) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)
    assert float(spread) == pytest.approx(np.sqrt(x.numpy().var(axis=0).mean()), rel=1e-9)


def test_sums_travel_in_one_message():
    messages = []

    def double(vector):
        messages.append(vector.shape)
        return 2 * vector

    parts = [torch.tensor(3.0), torch.arange(6.0).view(2, 3), torch.ones(4)]
    found = reduce_sums(parts, double)
    assert messages == [(11,)]
    for part, reduced in zip(parts, found, strict=True):
        assert torch.equal(reduced, 2 * part)
    assert reduce_sums(parts, None) == parts
