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


def test_an_empty_row_sorts_to_an_empty_row() -> None:
    s = torch.zeros(2, 0)
    for y in (softsorted(sort(s), 0.5), soft_rank(s, 0.5), absolute_row_sums(s, sort(s))):
        assert y.shape == (2, 0)
    for p in (softsort(s, 0.5), neuralsort(s, 0.5), sinkhorn(torch.zeros(2, 0, 0), 2)):
        assert p.shape == (2, 0, 0)


@pytest.mark.parametrize("mean", [1e3, 1e4])
def test_a_list_far_from_zero_is_sorted_as_well(mean: float) -> None:
    s = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) + mean
    exact = neuralsort(s.double(), 0.01)
    torch.testing.assert_close(neuralsort(s, 0.01).double(), exact, atol=2e-3, rtol=0)
    wrong = (apply(neuralsort(s, 1e-4), s) - sort(s)).abs() > 0.01
    assert wrong.sum() == 0
    torch.testing.assert_close(softsorted(sort(s), 0.01), apply(softsort(s, 0.01), s), rtol=1e-6, atol=0)


@pytest.mark.parametrize("ties", [2, 3, 4, 10])
def test_tied_values_have_the_slope_of_differences(ties: int) -> None:
    s = torch.cat([torch.ones(ties), torch.tensor([3.0, -0.5])]).double()[None]

    def formula(s: Tensor) -> Tensor:
        n = s.shape[-1]
        far = (s[:, :, None] - s[:, None, :]).abs().sum(-1)
        slope = torch.arange(n - 1, -n, -2).double()
        return torch.softmax((slope[:, None] * s[:, None, :] - far[:, None, :]) / 1.3, -1)

    both = torch.func.jacrev(lambda s: neuralsort(s, 1.3))(s)
    for j in range(s.shape[1]):
        h = torch.zeros_like(s)
        h[0, j] = 1e-6
        difference = (formula(s + h) - formula(s - h)) / 2e-6
        torch.testing.assert_close(both[..., 0, j], difference, atol=1e-5, rtol=1e-4)


def test_the_slope_of_two_tied_values() -> None:
    s = torch.tensor([[1.0, 1.0]], requires_grad=True)
    neuralsort(s, 1.0)[0, 0, 0].backward()
    assert s.grad is not None
    assert s.grad.tolist() == [[0.25, -0.25]]


def by_steps(x: Tensor, factors: Tensor) -> Tensor:
    y = [x[0]]
    for i in range(1, len(x)):
        y.append(x[i] + factors[i] * y[-1])
    return torch.stack(y)


@pytest.mark.parametrize("n", [1, 2, 5, 17])
def test_running_sums_in_forward_mode(n: int) -> None:
    x, factors = torch.randn(n, 2, 3, dtype=torch.float64), torch.rand(n, 1, 3, dtype=torch.float64)
    tangents = torch.randn_like(x), torch.randn_like(factors)
    fast, slow = RunningSum.apply, by_steps
    torch.testing.assert_close(
        torch.func.jvp(fast, (x, factors), tangents), torch.func.jvp(slow, (x, factors), tangents)
    )
    one = torch.func.jvp(lambda f: fast(x, f), (factors,), tangents[1:])
    torch.testing.assert_close(one, torch.func.jvp(lambda f: slow(x, f), (factors,), tangents[1:]))
    for second in (torch.func.hessian, lambda g: torch.func.jacrev(torch.func.jacrev(g))):
        torch.testing.assert_close(
            second(lambda f: fast(x, f).sin().sum())(factors),
            second(lambda f: slow(x, f).sin().sum())(factors),
        )
    assert torch.autograd.gradcheck(
        fast, (x.requires_grad_(), factors.requires_grad_()), check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(fast, (x, factors), check_fwd_over_rev=True)


class SoftSorted(torch.nn.Module):
    def forward(self, s: Tensor) -> Tensor:
        return softsorted(sort(s), 0.3)


@pytest.mark.parametrize("n", [1, 2, 9, 16])
def test_compiled_sums_are_the_eager_ones(n: int) -> None:
    torch.compiler.reset()
    module = SoftSorted()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    s, g = rows(n, n), rows(n + 1, n)
    results = []
    for run in (module, compiled):
        x = s.clone().requires_grad_()
        y = run(x)
        results.append((y.detach(), *torch.autograd.grad(y, x, g)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("learned", [False, True])
def test_export_takes_any_number_of_rows(learned: bool) -> None:
    s = rows(0, 9).requires_grad_(learned)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(SoftSorted(), (s,), dynamic_shapes=({0: batch},))
    more = torch.randn(7, 9, dtype=torch.float64)
    torch.testing.assert_close(program.module()(more), SoftSorted()(more))
