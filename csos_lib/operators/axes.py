"""Rows as signals or images: apply a function along each axis, continue past the border."""

from collections.abc import Callable

import torch
from torch import Tensor

from csos_lib import _check

Grid = tuple[int, int] | None
"""(height, width) of the image that a row is, or None for a signal."""


def image(h: Tensor, grid: Grid) -> Tensor:
    """Rows (..., d) as images (..., height, width), or as they are without a grid."""
    _check.rows("h", h, None if grid is None else grid[0] * grid[1])
    return h if grid is None else h.unflatten(-1, grid)


def along(h: Tensor, grid: Grid, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of the last axis to rows (B, d), or across and down the image that each row is."""
    x = image(h, grid)
    return function(x) if grid is None else function(function(x).mT).mT.flatten(-2)


def pad(x: Tensor, radius: int) -> Tensor:
    """Continue the last axis by its mirror image: b a | a b c | c b. Filters then keep the mean."""
    if not 0 < radius <= x.shape[-1]:
        raise ValueError(f"h must be at least {radius} long on each axis for this window, got {x.shape[-1]}")
    return torch.cat([x[..., :radius].flip(-1), x, x[..., -radius:].flip(-1)], -1)
