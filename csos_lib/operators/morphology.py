"""Family 6, soft maxima: log-sum-exp instead of max, over a row or over the window around each place."""

import functools
import math

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
    top = x.detach().amax(dim, keepdim=True) if x.shape[dim] else x.new_zeros(())
    top = top.where(top.isfinite(), 0)  # relative to the largest entry no rounding can go below it
    return (top + tau * torch.logsumexp((x - top) / tau, dim, keepdim=True)).squeeze(dim)


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
    padded = pad(x, window // 2)

    def shifted(rows: Tensor) -> list[Tensor]:
        return [rows[..., k : k + x.shape[-1]] for k in range(window)]

    # whole rows at a time: three times as fast as logsumexp over short windows
    top = functools.reduce(torch.maximum, shifted(padded.detach()))
    scaled = top / tau
    total = functools.reduce(torch.add, [(y - scaled).exp() for y in shifted(padded / tau)])
    return top + total.log() * tau  # total is at least 1


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

    The row goes on as its mirror image, so a spot that touches the border is twice as wide: there spots of at
    most half the window go, those of window // 2 places, and wider ones stay. A soft opening is increasing
    and commutes with constants; only as tau goes to 0 does it never add, and change nothing when repeated.

    Source: Serra (1982). Chapter 19, :eq:`eq-opening`.
    """
    return dilate(erode(h, tau, window, grid), tau, window=window, grid=grid)


def closing(h: T, tau: float, window: int = 3, grid: Grid = None) -> T:
    """Dilate, then erode: dark gaps narrower than the window go. The arguments are those of :func:`erode`.

    At the border only gaps of at most window // 2 places go, as for :func:`opening`.

    Source: Serra (1982). Chapter 19, :eq:`eq-opening`.
    """
    return erode(dilate(h, tau, window=window, grid=grid), tau, window, grid)


@primitive("morphology")
def soft_quantile(
    h: Tensor, tau: float | Tensor, level: float = 0.5, window: int = 3, grid: Grid = None
) -> Tensor:
    """A soft quantile of the window around each place: its values, weighted by their distance to it.

    Where the level falls between two values, each of the two is blurred so, and what comes is interpolated.

    Args:
        h: rows (B, d).
        tau: the temperature, above 0; as it grows the answer becomes the mean of the window.
        level: 0 is the minimum, 1/2 the median, 1 the maximum; between values it interpolates, so that of n
            sorted values it reads place level (n - 1).
        window: its length, odd; on a grid the window is a square.
        grid: (height, width), or None.

    Returns:
        (B, d), inside the range of each window.

    Source: Prillo & Eisenschlos (2020), rows of SoftSort. Chapter 19, :eq:`eq-soft-quantile`.

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
    below, above = math.floor(place), math.ceil(place)

    def blurred(rank: int) -> Tensor:
        offsets = values - values[..., rank, None]
        return values[..., rank] + (torch.softmax(offsets.abs() / -tau, -1) * offsets).sum(-1)

    return blurred(below) if below == above else torch.lerp(blurred(below), blurred(above), place - below)
