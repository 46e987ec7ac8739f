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
        epsilon: at least 0; above 0 it keeps a row of zeros at zero, with 0 such a row is NaN. The result
            sums to s / (s + epsilon), s = sum v.

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
    total = v.sum(-1, keepdim=True)
    if torch.compiler.is_compiling() and epsilon:
        # Exporters take a number as small as 1e-8 for 0 and drop it; they keep the 1 of the same fraction.
        return v / epsilon / (total / epsilon + 1)
    return v / (total + epsilon)


def log_guarded(x: Tensor, epsilon: float = EPSILON) -> Tensor:
    """log(x + epsilon), finite where x is 0.

    Args:
        x: concentrations, any shape, at least 0.
        epsilon: above 0.

    Returns:
        The shape of x.

    Raises:
        ValueError: x is not a floating-point tensor, or epsilon is not above 0.

    Source: memo 1, section 2.2. Chapter 3, :eq:`eq-readout`.

    >>> log_guarded(torch.tensor([1.0, 0.0])).round().tolist()
    [0.0, -18.0]
    """
    _check.floating("x", x)
    _check.number("epsilon", epsilon, 0, above=True)
    if torch.compiler.is_compiling():  # as in `normalise`
        return torch.log1p(x / epsilon) + math.log(epsilon)
    return torch.log(x + epsilon)


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
