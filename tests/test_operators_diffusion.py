"""Family 3 against SciPy's and torchvision's filters; heat flows but is not lost."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.functional import gaussian_blur as torchvision_blur

from csos_lib.operators import derivative, diffuse, edges, gaussian_blur, laplacian

GRIDS = [None, (9, 13)]


def image(grid: tuple[int, int] | None) -> tuple[torch.Tensor, np.ndarray]:
    x = torch.randn(2, 117, dtype=torch.float64)
    return x, x.numpy().reshape(2, *(grid or (117,)))


@pytest.mark.parametrize("grid", GRIDS)
def test_filters_are_scipys(grid: tuple[int, int] | None) -> None:
    x, pixels = image(grid)
    for row, picture in zip(range(2), pixels, strict=True):
        np.testing.assert_allclose(
            laplacian(x, grid=grid)[row].numpy(), ndi.laplace(picture).ravel(), atol=1e-12
        )
        for axis in range(-picture.ndim, 0):
            ours = derivative(x, axis=axis + 2, grid=grid)[row].numpy()
            np.testing.assert_allclose(ours, ndi.sobel(picture, axis=axis).ravel(), atol=1e-12)
        for sigma in (0.5, 1.0, 4.0):
            theirs = ndi.gaussian_filter(picture, sigma, radius=16)
            np.testing.assert_allclose(
                gaussian_blur(x, sigma, grid=grid)[row].numpy(), theirs.ravel(), atol=1e-12
            )


def test_blur_is_torchvisions_away_from_the_border() -> None:
    x = torch.rand(1, 28 * 28)
    theirs = torchvision_blur(x.view(1, 1, 28, 28), [9, 9], [1.2, 1.2])[0, 0, 4:-4, 4:-4]
    ours = gaussian_blur(x, 1.2, grid=(28, 28), radius=4).view(28, 28)[4:-4, 4:-4]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("grid", GRIDS)
@given(sigma=st.floats(0.05, 6), alpha=st.floats(1e-3, 0.25))
def test_the_mean_stays_and_the_variance_shrinks(
    grid: tuple[int, int] | None, sigma: float, alpha: float
) -> None:
    x = torch.randn(2, 117, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for y in (diffuse(x, alpha, grid), gaussian_blur(x, sigma, grid=grid)):
        torch.testing.assert_close(y.mean(-1), x.mean(-1), atol=1e-12, rtol=0)
        assert (y.var(-1) <= x.var(-1) + 1e-12).all()
        assert (y.amax(-1) <= x.amax(-1) + 1e-12).all()  # the maximum principle


def test_diffusion_is_stable_up_to_its_limit_and_not_beyond() -> None:
    for grid, limit in ((None, 0.5), ((9, 13), 0.25)):
        x, _ = image(grid)
        calm, wild = x, x
        for _ in range(400):
            calm, wild = diffuse(calm, limit, grid), diffuse(wild, 1.1 * limit, grid)
        assert calm.var() < x.var()
        assert wild.var() > 100 * x.var()


def test_limits() -> None:
    x, _ = image(None)
    torch.testing.assert_close(gaussian_blur(x, 0.01), x)
    torch.testing.assert_close(diffuse(x, 1e-12), x)
    flat = gaussian_blur(x, 1e4, radius=117 * 20)
    torch.testing.assert_close(flat, x.mean(-1, keepdim=True).expand_as(x), atol=1e-3, rtol=0)


def test_constants_have_no_edges() -> None:
    x = torch.full((2, 117), 3.0, dtype=torch.float64)
    for grid in GRIDS:
        assert derivative(x, grid=grid).abs().max() == 0
        torch.testing.assert_close(edges(x, grid=grid, eps=1e-4), torch.full_like(x, 1e-2))


@given(first=st.floats(1, 3), second=st.floats(1, 3))
def test_two_blurs_are_one(first: float, second: float) -> None:
    x = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twice = gaussian_blur(gaussian_blur(x, first, radius=40), second, radius=40)
    once = gaussian_blur(x, (first**2 + second**2) ** 0.5, radius=40)
    torch.testing.assert_close(twice, once, atol=2e-3, rtol=0)  # sampled Gaussians: a semigroup only nearly
