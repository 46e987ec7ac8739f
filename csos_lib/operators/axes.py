"""Rows as signals or images: apply a function along each axis, continue past the border."""

from collections.abc import Callable

import torch
from torch import Tensor

Grid = tuple[int, int] | None
"""(height, width) of the image that a row is, or None for a signal."""


def along(h: Tensor, grid: Grid, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of the last axis to rows (B, d), or across and down the image that each row is."""
    if grid is None:
        return function(h)
    return function(function(h.unflatten(-1, grid)).mT).mT.flatten(-2)


def pad(x: Tensor, radius: int) -> Tensor:
    """Continue the last axis by its mirror image: b a | a b c | c b. Filters then keep the mean."""
    if not 0 < radius <= x.shape[-1]:
        raise ValueError(f"h must be at least {radius} long on each axis for this window, got {x.shape[-1]}")
    return torch.cat([x[..., :radius].flip(-1), x, x[..., -radius:].flip(-1)], -1)
