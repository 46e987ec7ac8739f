"""Family 6, soft maxima: log-sum-exp instead of max, over a row or over the window around each place."""

import functools

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.operators.axes import Grid, along, image, pad
from csos_lib.operators.expressions import T, primitive


def lse(x: Tensor, tau: float | Tensor, dim: int = -1) -> Tensor:
    """A soft maximum: tau log sum exp(x / tau); -lse(-x, tau) is the soft minimum.

    Args:
        x: any shape.
        tau: the temperature, above 0.
        dim: the axis of n entries that is reduced.

    Returns:
        x without that axis, between max and max + tau log n; the gradient is softmax(x / tau).

    Raises:
        ValueError: x is not floating point, or tau is not above 0.

    Source: memo 2, section 1, family 6. Chapter 19, :eq:`eq-lse`, :eq:`eq-lse-bounds`.

    >>> lse(torch.tensor([0.0, 1.0]), tau=0.1)
    tensor(1.0000)
    """
    _check.floating("x", x)
    _check.number("tau", tau, 0, above=True)
    return tau * torch.logsumexp(x / tau, dim)


@primitive("morphology")
def dilate(h: Tensor, tau: float | Tensor, window: int = 3, grid: Grid = None) -> Tensor:
    """The soft maximum of the window around each place.

    Args:
        h: rows (B, d).
        tau: the temperature, above 0.
        window: its length, odd; on a grid the window is a square, done across and then down.
        grid: (height, width), or None.

    Returns:
        (B, d), between the maximum of the window and that plus tau log |window|, and never below h.

    Source: memo 2, section 1, family 6. Chapter 19, :eq:`eq-dilation`.

    >>> dilate(torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), tau=0.01).round(decimals=1)
    tensor([[0., 1., 1., 1., 0.]])
    """
    return along(h, grid, lambda x: _window_lse(x, tau, window))


def _window_lse(x: Tensor, tau: float | Tensor, window: int) -> Tensor:
    if window == 1:
        return x
    padded = pad(x, window // 2) / tau
    shifted = [padded[..., k : k + x.shape[-1]] for k in range(window)]
    # whole rows at a time: three times as fast as logsumexp over short windows
    top = functools.reduce(torch.maximum, [y.detach() for y in shifted])
    total = functools.reduce(torch.add, [(y - top).exp() for y in shifted])
    return (top + total.log()) * tau


def erode(h: T, tau: float, window: int = 3, grid: Grid = None) -> T:
    """The soft minimum of the window around each place: -dilate(-h), and never above h.

    Args:
        h: rows (B, d).
        tau: the temperature, above 0.
        window: its length, odd.
        grid: (height, width), or None.

    Returns:
        (B, d).

    Source: memo 2, section 1, family 6. Chapter 19, :eq:`eq-dilation`.
    """
    return -dilate(-h, tau, window=window, grid=grid)


def opening(h: T, tau: float, window: int = 3, grid: Grid = None) -> T:
    """Erode, then dilate: bright spots narrower than the window go. The arguments are those of :func:`erode`.

    Source: Serra (1982). Chapter 19, :eq:`eq-opening`.
    """
    return dilate(erode(h, tau, window, grid), tau, window=window, grid=grid)


def closing(h: T, tau: float, window: int = 3, grid: Grid = None) -> T:
    """Dilate, then erode: dark gaps narrower than the window go. The arguments are those of :func:`erode`.

    Source: Serra (1982). Chapter 19, :eq:`eq-opening`.
    """
    return erode(dilate(h, tau, window=window, grid=grid), tau, window, grid)


@primitive("morphology")
def soft_quantile(
    h: Tensor, tau: float | Tensor, level: float = 0.5, window: int = 3, grid: Grid = None
) -> Tensor:
    """A soft quantile of the window around each place: its values, weighted by their distance to it.

    Args:
        h: rows (B, d).
        tau: the temperature, above 0; as it grows the answer becomes the mean of the window.
        level: 0 is the minimum, 1/2 the median, 1 the maximum; between values it interpolates.
        window: its length, odd; on a grid the window is a square.
        grid: (height, width), or None.

    Returns:
        (B, d), inside the range of each window.

    Source: Prillo & Eisenschlos (2020), one row of SoftSort. Chapter 19, :eq:`eq-soft-quantile`.

    >>> soft_quantile(torch.tensor([[1.0, 9.0, 2.0, 3.0]]), tau=0.01)
    tensor([[1., 2., 3., 3.]])
    """
    radius, x = window // 2, image(h, grid)
    if radius == 0:
        return h
    if grid is None:
        values = pad(x, radius).unfold(-1, window, 1)
    else:
        padded = pad(pad(x, radius).mT, radius).mT
        values = padded.unfold(-2, window, 1).unfold(-2, window, 1).flatten(-2).flatten(-3, -2)
    values = values.sort(dim=-1).values
    place = level * (values.shape[-1] - 1)
    below = min(int(place), values.shape[-1] - 2)
    quantile = torch.lerp(values[..., below], values[..., below + 1], place - below).unsqueeze(-1)
    return (torch.softmax((values - quantile).abs() / -tau, -1) * values).sum(-1)
