"""Family 3, procedures of space: heat, edges and blur, on a signal or a grid. All borders keep the mean."""

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.operators.axes import Grid, along, image, pad
from csos_lib.operators.expressions import T, primitive


@primitive("diffusion")
def laplacian(h: Tensor, grid: Grid = None) -> Tensor:
    """The difference to the neighbours: h_{i-1} - 2 h_i + h_{i+1}, summed over both axes on a grid.

    Args:
        h: rows (B, d).
        grid: (height, width) with height * width = d, or None for a signal of length d.

    Returns:
        (B, d), each row of sum 0: what leaves one place arrives at the next, and nothing leaves the border.

    Source: memo 2, section 1, family 3. Chapter 16, :eq:`eq-laplacian`.

    >>> laplacian(torch.tensor([[0.0, 0.0, 1.0, 0.0]]))
    tensor([[ 0.,  1., -2.,  1.]])
    """
    x = image(h, grid)
    if grid is None:
        return _second_difference(x)
    return (_second_difference(x) + _second_difference(x.mT).mT).flatten(-2)


def _second_difference(x: Tensor) -> Tensor:
    flow = torch.diff(x, dim=-1, prepend=x[..., :1], append=x[..., -1:])
    return torch.diff(flow, dim=-1)


def diffuse(h: T, alpha: float, grid: Grid = None) -> T:
    """One step of the heat equation: h + alpha laplacian(h).

    Args:
        h: rows (B, d).
        alpha: how much flows, above 0; up to 1/2 on a signal and 1/4 on a grid the variance cannot grow.
        grid: (height, width), or None.

    Returns:
        (B, d), with the mean of each row unchanged.

    Raises:
        ValueError: alpha is not above 0.

    Source: memo 2, section 1, family 3. Chapter 16, :eq:`eq-diffusion`.

    >>> diffuse(torch.tensor([[0.0, 1.0, 0.0]]), alpha=0.25)
    tensor([[0.2500, 0.5000, 0.2500]])
    """
    _check.number("alpha", alpha, 0, above=True)
    return h + alpha * laplacian(h, grid=grid)


@primitive("diffusion")
def derivative(h: Tensor, axis: int = 1, grid: Grid = None) -> Tensor:
    """Sobel's filter: h_{i+1} - h_{i-1} along one axis, weighted 1, 2, 1 along the other.

    Args:
        h: rows (B, d).
        axis: 1 across the image or along the signal, 0 down the image.
        grid: (height, width), or None for a signal.

    Returns:
        (B, d); zero where h is constant.

    Raises:
        ValueError: axis is not 0 or 1, or is 0 and there is no grid.

    Source: Sobel & Feldman (1968). Chapter 16.
    """
    x = image(h, grid)
    if grid is None:
        if axis == 0:
            raise ValueError("axis must be 1 without a grid, got 0")
        return _central(x)
    x = _smooth(_central(x).mT).mT if axis == 1 else _smooth(_central(x.mT).mT)
    return x.flatten(-2)


def _central(x: Tensor) -> Tensor:
    padded = pad(x, 1)
    return padded[..., 2:] - padded[..., :-2]


def _smooth(x: Tensor) -> Tensor:
    padded = pad(x, 1)
    return padded[..., 2:] + 2 * x + padded[..., :-2]


@primitive("diffusion")
def edges(h: Tensor, grid: Grid = None, eps: float = 1e-3) -> Tensor:
    """How steep the image is, in any direction: sqrt(across^2 + down^2 + eps), smooth where it is flat.

    Args:
        h: rows (B, d).
        grid: (height, width), or None for a signal, which has one direction.
        eps: above 0; sqrt eps is the answer where h is constant.

    Returns:
        (B, d), at least sqrt eps.

    Chapter 16, :eq:`eq-edges`.
    """
    across = derivative(h, axis=1, grid=grid).square()
    down = 0.0 if grid is None else derivative(h, axis=0, grid=grid).square()
    return torch.sqrt(across + down + eps)


@primitive("diffusion")
def gaussian_blur(h: Tensor, sigma: float | Tensor, grid: Grid = None, radius: int = 16) -> Tensor:
    """A mean over neighbours with weights exp(-k^2 / 2 sigma^2), k = -radius ... radius.

    The whole blur of an axis is one matrix, made from sigma and multiplied with every row.

    Args:
        h: rows (B, d).
        sigma: the width in places, above 0.
        grid: (height, width), or None.
        radius: where the weights are cut off, at least 1; 16 is four sigma for the widest blur of memo 2.

    Returns:
        (B, d), with the mean of each row unchanged.

    Source: memo 2, section 1, family 3. Chapter 16, :eq:`eq-gaussian-blur`.

    >>> gaussian_blur(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), sigma=0.5).mean()
    tensor(0.2000)
    """
    return along(h, grid, lambda x: x @ _blur_matrix(x, sigma, radius))


def _blur_matrix(x: Tensor, sigma: float | Tensor, radius: int) -> Tensor:
    n = x.shape[-1]
    k = torch.arange(-radius, radius + 1, device=x.device)
    weights = torch.softmax((k * k).to(x.dtype) / (-2 * sigma * sigma), 0)
    # Products with numbers below the normal ones take ten times as long, and add nothing.
    weights = torch.where(weights > torch.finfo(x.dtype).tiny, weights, 0)
    place = (torch.arange(n, device=x.device)[:, None] + k) % (2 * n)
    place = torch.minimum(place, 2 * n - 1 - place)  # past the border the row comes back
    return x.new_zeros(n, n).scatter_add(1, place, weights.expand(n, -1))
