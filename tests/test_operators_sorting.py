"""Family 5 against torch.sort, POT, diffsort and SciPy's assignment."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from csos_lib.operators import (
    absolute_row_sums,
    anchors,
    log_sinkhorn,
    neuralsort,
    sinkhorn,
    sinkhorn_sort,
    soft_rank,
    softsort,
    softsorted,
    sort,
)
from csos_lib.operators.sorting import RunningSum

RELAXATIONS = [softsort, neuralsort]


def rows(seed: int, n: int = 7) -> Tensor:
    return torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def apply(p: Tensor, s: Tensor) -> Tensor:
    return (p @ s[..., None])[..., 0]


@pytest.mark.parametrize("relax", RELAXATIONS)
@given(tau=st.floats(0.05, 5), seed=st.integers(0, 1000), n=st.integers(1, 9))
def test_invariants(relax, tau: float, seed: int, n: int) -> None:
    s = rows(seed, n)
    p = relax(s, tau)
    torch.testing.assert_close(p.sum(-1), torch.ones(3, n, dtype=torch.float64))
    assert torch.equal(p.argmax(-1), s.argsort(dim=-1, descending=True))  # unimodal, and right at every tau
    torch.testing.assert_close(relax(s + 3.7, tau), p)
    torch.testing.assert_close(relax(2.5 * s, 2.5 * tau), p)
    shuffle = torch.randperm(n)
    torch.testing.assert_close(relax(s[:, shuffle], tau), p[:, :, shuffle])
    y = apply(p, s)
    assert (torch.diff(y) <= 1e-12).all()
    assert (y <= s.amax(-1, keepdim=True) + 1e-12).all()
    assert (y >= s.amin(-1, keepdim=True) - 1e-12).all()


@pytest.mark.parametrize("relax", RELAXATIONS)
def test_limits(relax) -> None:
    s = rows(0)
    torch.testing.assert_close(apply(relax(s, 1e-4), s), sort(s))
    torch.testing.assert_close(relax(s, 1e8), torch.full((3, 7, 7), 1 / 7, dtype=torch.float64))
    ties = torch.tensor([[1.0, 2.0, 2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(apply(relax(ties, 1e-4), ties), sort(ties))


def test_sort_is_torchs() -> None:
    torch.testing.assert_close(sort(rows(0)), rows(0).sort(dim=-1, descending=True).values, rtol=0, atol=0)


def test_the_limit_is_the_sorting_networks() -> None:
    diffsort = pytest.importorskip("diffsort", reason="the oracle diffsort is not installed")
    s = rows(1).float()
    ascending, permutation = diffsort.DiffSortNet("odd_even", 7, steepness=1e5)(s)
    torch.testing.assert_close(sort(s), ascending.flip(-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(softsort(s, 1e-3), permutation.mT.flip(-2), atol=1e-2, rtol=0)
    torch.testing.assert_close(neuralsort(s, 1e-3), permutation.mT.flip(-2), atol=1e-2, rtol=0)


@given(
    tau=st.floats(0.05, 5),
    seed=st.integers(0, 1000),
    n=st.integers(1, 12),
    c=st.sampled_from([1e-3, 1.0, 30.0]),
)
def test_softsorted_is_softsort_without_its_matrix(tau: float, seed: int, n: int, c: float) -> None:
    s = (c * rows(seed, n)).requires_grad_()
    slow, quick = apply(softsort(s, tau), s), softsorted(sort(s), tau)
    torch.testing.assert_close(quick, slow, rtol=1e-9, atol=1e-11)
    g = torch.randn_like(slow)
    torch.testing.assert_close(
        *(torch.autograd.grad(y, s, g, retain_graph=True)[0] for y in (quick, slow)), rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("n", [1, 2, 5, 16, 17])
def test_running_sums(n: int) -> None:
    x, factors = torch.randn(n, 2, 3, dtype=torch.float64), torch.rand(n, 1, 3, dtype=torch.float64)
    expected = [x[0]]
    for i in range(1, n):
        expected.append(x[i] + factors[i] * expected[-1])
    torch.testing.assert_close(RunningSum.apply(x, factors), torch.stack(expected))
    s = sort(rows(n, n)).requires_grad_()
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softsorted, (s, tau))
    assert torch.autograd.gradgradcheck(softsorted, (s, tau))


def test_softsorted_over_many_temperatures_at_once() -> None:
    s, taus = sort(rows(0)), torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    one = [softsorted(s, tau) for tau in taus]
    torch.testing.assert_close(torch.vmap(lambda tau: softsorted(s, tau))(taus), torch.stack(one))


@given(seed=st.integers(0, 1000), n=st.integers(1, 12), ties=st.booleans())
def test_row_sums_without_the_matrix(seed: int, n: int, ties: bool) -> None:
    s = rows(seed, n).round() if ties else rows(seed, n)
    slow = (s[:, :, None] - s[:, None, :]).abs().sum(-1)
    torch.testing.assert_close(absolute_row_sums(s, sort(s)), slow)


def test_neuralsort_is_the_papers_formula() -> None:
    s, tau, n = rows(2), 0.7, 7
    a = (s[:, :, None] - s[:, None, :]).abs()
    b = a @ torch.ones(n, n, dtype=torch.float64)
    scaling = n + 1 - 2 * torch.arange(1, n + 1)
    c = s[:, :, None] * scaling
    torch.testing.assert_close(neuralsort(s, tau), torch.softmax((c - b).mT / tau, -1))


def test_soft_rank_limits() -> None:
    s = rows(3)
    torch.testing.assert_close(
        soft_rank(s, 1e-5), 1.0 + s.argsort(dim=-1, descending=True).argsort(-1).double()
    )
    torch.testing.assert_close(soft_rank(s, 1e8), torch.full_like(s, 4.0))
    torch.testing.assert_close(soft_rank(s, 0.3).mean(-1), torch.full((3,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("iterations", [3, 5, 10])
def test_sinkhorn_is_pots_after_the_same_rounds(iterations: int) -> None:
    ot = pytest.importorskip("ot", reason="the oracle POT is not installed")
    scores = torch.randn(3, 6, 6, dtype=torch.float64)
    tau = 0.5
    plan = ot.batch.solve_batch(-scores, reg=tau, max_iter=iterations, tol=0.0, grad="detach").plan
    torch.testing.assert_close(sinkhorn(scores / tau, iterations), 6 * plan)


@given(iterations=st.integers(1, 10), seed=st.integers(0, 1000))
def test_sinkhorn_invariants(iterations: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 5, 5, generator=g, dtype=torch.float64)
    p = sinkhorn(scores, iterations)
    torch.testing.assert_close(p.sum(-2), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(scores + torch.randn(2, 5, 1, generator=g), iterations), p)
    on = log_sinkhorn(log_sinkhorn(scores, iterations), 2).exp()
    torch.testing.assert_close(on, sinkhorn(scores, iterations + 2))
    converged = sinkhorn(scores, 300)
    torch.testing.assert_close(converged.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn(scores + torch.randn(2, 1, 5, generator=g), 300), converged)


def test_sinkhorn_finds_the_assignment() -> None:
    scores = torch.randn(4, 6, 6, dtype=torch.float64)
    p = sinkhorn(scores / 0.02, 3000)
    for one, plan in zip(scores, p, strict=True):
        rows, columns = linear_sum_assignment(-one.numpy())
        assert np.array_equal(plan.argmax(-1).numpy()[rows], columns)


def test_sinkhorn_stays_finite_where_exp_overflows() -> None:
    p = sinkhorn(1e4 * torch.randn(2, 5, 5), 10)
    assert p.isfinite().all()


def test_sorting_by_transport() -> None:
    s = torch.nn.functional.layer_norm(rows(4), (7,))
    y = anchors.__wrapped__(7)
    assert y.mean().abs() < 1e-12
    assert y.var(unbiased=False).item() == pytest.approx(1.0)
    torch.testing.assert_close(sinkhorn_sort(s, y, 1e-3, 2000), sort(s), atol=1e-3, rtol=0)
    torch.testing.assert_close(sinkhorn_sort(s, y, 1e8, 3), torch.zeros_like(s), atol=1e-6, rtol=0)
