"""Family 6 between its limits: SciPy's hard filters, and means."""

import math

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from csos_lib.operators import closing, dilate, erode, lse, opening, soft_quantile

GRIDS = [None, (9, 13)]


def image(grid: tuple[int, int] | None) -> tuple[torch.Tensor, np.ndarray]:
    x = torch.randn(1, 117, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x.numpy().reshape(grid or (117,))


@given(tau=st.floats(0.01, 10), n=st.integers(1, 20), seed=st.integers(0, 1000))
def test_lse_bounds_and_oracle(tau: float, n: int, seed: int) -> None:
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    y = lse(x, tau)
    torch.testing.assert_close(y, torch.from_numpy(tau * logsumexp(x.numpy() / tau, axis=-1)))
    assert (y >= x.amax(-1) - 1e-12).all()
    assert (y <= x.amax(-1) + tau * math.log(n) + 1e-9).all()
    p = torch.softmax(x / tau, -1)  # LSE = Boltzmann mean + tau entropy
    entropy = -torch.special.xlogy(p, p).sum(-1)
    torch.testing.assert_close(y, (p * x).sum(-1) + tau * entropy)
    torch.testing.assert_close(torch.func.grad(lambda v: lse(v, tau).sum())(x), p)


@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_limits_are_scipys_filters(grid: tuple[int, int] | None, window: int) -> None:
    x, pixels = image(grid)
    for ours, theirs in ((dilate, ndi.grey_dilation), (erode, ndi.grey_erosion)):
        size = (window,) * pixels.ndim
        expected = torch.from_numpy(theirs(pixels, size=size).ravel().copy())
        torch.testing.assert_close(ours(x, 1e-5, window=window, grid=grid)[0], expected, atol=1e-4, rtol=0)
    for level, theirs in ((0.0, ndi.minimum_filter), (0.5, ndi.median_filter), (1.0, ndi.maximum_filter)):
        expected = torch.from_numpy(theirs(pixels, size=window).ravel().copy())
        ours = soft_quantile(x, 1e-6, level=level, window=window, grid=grid)[0]
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    mean = torch.from_numpy(ndi.uniform_filter(pixels, size=window).ravel().copy())
    torch.testing.assert_close(soft_quantile(x, 1e8, window=window, grid=grid)[0], mean, atol=1e-6, rtol=0)
    count = window**pixels.ndim
    soft = dilate(x, 1e5, window=window, grid=grid)[0] - 1e5 * math.log(count)
    torch.testing.assert_close(soft, mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
@given(tau=st.floats(0.05, 5), window=st.sampled_from([1, 3, 5, 9]), seed=st.integers(0, 1000))
def test_order(grid: tuple[int, int] | None, tau: float, window: int, seed: int) -> None:
    x = torch.randn(2, 117, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    up, down = dilate(x, tau, window=window, grid=grid), erode(x, tau, window=window, grid=grid)
    assert (up >= x - 1e-12).all()  # extensive
    assert (down <= x + 1e-12).all()
    torch.testing.assert_close(down, -dilate(-x, tau, window=window, grid=grid))
    torch.testing.assert_close(dilate(x + 2.5, tau, window=window, grid=grid), up + 2.5)
    hard = dilate(x, 1e-6, window=window, grid=grid)
    assert (up >= hard - 1e-4).all()
    bound = tau * math.log(window) * (1 if grid is None else 2)
    assert (up <= hard + bound + 1e-4).all()
    median = soft_quantile(x, tau, window=window, grid=grid)
    assert (median <= hard + 1e-4).all()


def test_opening_removes_spots_and_closing_fills_gaps() -> None:
    x = torch.zeros(1, 20, dtype=torch.float64)
    x[0, 5], x[0, 10:16] = 1.0, 1.0
    opened = opening(x, 1e-3)
    assert opened[0, 5].abs() < 1e-2
    torch.testing.assert_close(opened[0, 10:16], x[0, 10:16], atol=1e-2, rtol=0)
    torch.testing.assert_close(closing(1 - x, 1e-3), 1 - opened)


def test_float32_survives_a_sharp_temperature() -> None:
    x = (1e4 * torch.randn(2, 50)).requires_grad_()
    y = dilate(x, 0.05, window=5)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert x.grad.sum().item() == pytest.approx(100.0, rel=1e-3)


@pytest.mark.parametrize("window", [3, 5, 9])
def test_at_the_border_only_spots_of_half_a_window_go(window: int) -> None:
    for width in range(1, window + 1):
        inside, border = torch.zeros(2, 1, 40, dtype=torch.float64)
        inside[0, 15 : 15 + width] = border[0, :width] = 1.0
        for x, gone in (
            (inside, width < window),
            (border, width <= window // 2),
            (border.flip(1), width <= window // 2),
        ):
            opened = opening(x, 1e-3, window=window)
            torch.testing.assert_close(opened, 0 * x if gone else x, atol=2e-2, rtol=0)
            torch.testing.assert_close(closing(1 - x, 1e-3, window=window), 1 - opened)


def test_quantiles_interpolate_between_values() -> None:
    torch.testing.assert_close(
        soft_quantile(torch.tensor([[0.0, 10.0, 20.0]]), 1e-3, level=0.1), torch.tensor([[0.0, 2.0, 12.0]])
    )
    torch.testing.assert_close(
        soft_quantile(torch.tensor([[0.0, 1.0]]), 1e-3, level=0.25), torch.tensor([[0.0, 0.5]])
    )


@given(
    level=st.floats(0, 1), window=st.sampled_from([3, 5, 9]), seed=st.integers(0, 1000), ties=st.booleans()
)
def test_the_sharp_quantile_is_numpys(level: float, window: int, seed: int, ties: bool) -> None:
    x = torch.randn(2, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x.round() if ties else x
    r = window // 2
    rows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x.numpy(), ((0, 0), (r, r)), "symmetric"), window, -1
    )
    expected = torch.from_numpy(np.quantile(rows, level, axis=-1))
    torch.testing.assert_close(
        soft_quantile(x, 1e-7, level=level, window=window), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("tau", [0.05, 0.3, 1.7, 5.0])
def test_a_soft_maximum_is_never_below_the_maximum(dtype: torch.dtype, tau: float) -> None:
    x = (100 * torch.randn(50, 40)).to(dtype)
    assert (lse(x, tau) >= x.amax(-1)).all()
    assert (dilate(x, tau, window=5) >= x).all()
    assert (erode(x, tau, window=5) <= x).all()


def test_the_soft_maximum_of_what_is_not_finite() -> None:
    x = torch.tensor([[1.0, math.inf], [-math.inf, -math.inf], [-math.inf, 2.0]])
    assert lse(x, 0.1).tolist() == [math.inf, -math.inf, 2.0]
    assert lse(torch.ones(2, 0), 0.1).tolist() == [-math.inf] * 2
    assert lse(torch.tensor([1e38, 0.0]), 1e-3).item() == torch.tensor(1e38).item()
