"""Family 4 against scikit-learn; neighbours from the nearest to the mean of all."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from csos_lib.operators import closeness, prototypes, rbf, soft_neighbours, squared_distance


def test_distances_and_kernels_are_scikit_learns() -> None:
    x, c = torch.randn(6, 10, dtype=torch.float64), torch.randn(4, 10, dtype=torch.float64)
    d = squared_distance(x, c)
    torch.testing.assert_close(d, torch.from_numpy(euclidean_distances(x, c, squared=True)) / 10)
    expected = torch.from_numpy(rbf_kernel(x, c, gamma=1 / (10 * 0.7**2)))
    torch.testing.assert_close(rbf(d, 0.7), expected)
    readout = torch.randn(4, 10, dtype=torch.float64)
    torch.testing.assert_close(prototypes(x, c, readout, 0.7), expected @ readout)


def test_distance_to_itself_is_zero_with_a_gradient_of_zero() -> None:
    x = (100 * torch.randn(5, 7)).requires_grad_()
    d = squared_distance(x, x.detach())
    assert d.min() >= 0
    assert d.diagonal().max() < 1e-2
    d.diagonal().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-3


@given(tau=st.floats(0.05, 5), seed=st.integers(0, 1000))
def test_neighbours_are_weighted_means(tau: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x, c = (
        torch.randn(5, 3, generator=g, dtype=torch.float64),
        torch.randn(8, 3, generator=g, dtype=torch.float64),
    )
    p = closeness(squared_distance(x, c), tau)
    torch.testing.assert_close(p.sum(-1), torch.ones(5, dtype=torch.float64))
    y = soft_neighbours(x, c, tau)
    assert (y <= c.amax(0) + 1e-12).all()
    assert (y >= c.amin(0) - 1e-12).all()
    shuffle = torch.randperm(8, generator=g)
    torch.testing.assert_close(soft_neighbours(x, c[shuffle], tau), y)
    torch.testing.assert_close(soft_neighbours(x.flip(0), c, tau), y.flip(0))


def test_limits() -> None:
    x, c = torch.randn(20, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    nearest = c[torch.cdist(x, c).argmin(1)]
    torch.testing.assert_close(soft_neighbours(x, c, 1e-6), nearest)
    torch.testing.assert_close(soft_neighbours(x, c, 1e8), c.mean(0).expand(20, 3))
    torch.testing.assert_close(rbf(squared_distance(x, c), 1e6), torch.ones(20, 8, dtype=torch.float64))


def test_shapes_must_fit() -> None:
    for rows, points in (((2, 3), (2, 4)), ((2, 3), (3,)), ((), (2, 4)), ((2, 3), (1, 2, 3))):
        with pytest.raises(ValueError, match="must have shape"):
            squared_distance(torch.rand(rows), torch.rand(points))


def test_far_from_zero_distances_keep_their_digits() -> None:
    assert squared_distance(torch.tensor([[512695.0]]), torch.tensor([[512804.0]])).item() == 11881
    x = torch.randn(200, 8) + 1e4
    assert torch.equal(squared_distance(x, x).argmin(1), torch.arange(200))
    exact = squared_distance(x.double(), x.double())
    torch.testing.assert_close(squared_distance(x, x).double(), exact, atol=1e-4, rtol=1e-4)


def test_distances_keep_their_slopes_under_transformations() -> None:
    x, c = torch.randn(4, 3, dtype=torch.float64) + 5, torch.randn(6, 3, dtype=torch.float64) + 5
    assert torch.autograd.gradcheck(squared_distance, (x.requires_grad_(), c.requires_grad_()))
    assert torch.autograd.gradgradcheck(squared_distance, (x, c))
    together = torch.func.vmap(squared_distance)(torch.stack([x, 2 * x]), torch.stack([c, 3 * c]))
    torch.testing.assert_close(together[1], squared_distance(2 * x, 3 * c))
    assert squared_distance(x, c[:0]).shape == (4, 0)
