"""Points on the probability simplex: concentrations that are never negative and sum to one."""

import math

import torch
from torch import Tensor

from csos_lib import _check

EPSILON = 1e-8
"""The guard of memo 1, added to a sum before dividing by it, and to a concentration before its logarithm."""


def normalise(v: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Divide each row by its sum: v / (sum v + epsilon).

    Args:
        v: amounts (..., N), each at least 0.
        epsilon: at least 0; keeps a row of zeros at zero. The result sums to s / (s + epsilon), s = sum v.

    Returns:
        Concentrations (..., N).

    Raises:
        ValueError: v is not a floating-point tensor, or epsilon is negative.

    Source: memo 1, section 2.2. Chapter 1, :eq:`eq-normalise`.

    >>> normalise(torch.tensor([1.0, 3.0])).tolist()
    [0.25, 0.75]
    """
    _check.floating("v", v)
    _check.number("epsilon", epsilon, 0)
    return v / (v.sum(-1, keepdim=True) + epsilon)


def barycentric(x: Tensor) -> Tensor:
    """Where three concentrations lie on the page: a triangle with corners (0, 0), (1, 0), (1/2, sqrt(3)/2).

    Args:
        x: concentrations (..., 3) that sum to 1.

    Returns:
        Points (..., 2), each corner weighted by the concentration of its molecule.

    Raises:
        ValueError: x is not floating point, or its last axis is not 3 long.

    Source: Möbius (1827), barycentric coordinates. Chapter 2, :eq:`eq-barycentric`.

    >>> barycentric(torch.tensor([0.0, 1.0, 0.0])).tolist()
    [1.0, 0.0]
    """
    _check.floating("x", x)
    if x.ndim == 0 or x.shape[-1] != 3:
        raise ValueError(f"x must have shape (..., 3), got {tuple(x.shape)}")
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=x.dtype, device=x.device)
    return x @ corners


def count_living(x: Tensor, threshold: float = 0.0) -> Tensor:
    """How many molecules of each row are above a threshold.

    Args:
        x: concentrations (..., N).
        threshold: a concentration, at least 0; 0 counts the molecules that are not exactly zero.

    Returns:
        Counts (...), int64.

    Raises:
        ValueError: x is not floating point, or threshold is negative.

    Chapter 2.

    >>> count_living(torch.tensor([[0.5, 0.5, 0.0]])).tolist()
    [2]
    """
    _check.floating("x", x)
    _check.number("threshold", threshold, 0)
    return (x > threshold).sum(-1)
