"""Family 4, comparisons: prototypes, and soft neighbours in a memory. One matrix of distances serves all."""

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.operators.expressions import T, primitive
from csos_lib.operators.inner import closeness


@primitive("kernel")
def squared_distance(h: Tensor, points: Tensor) -> Tensor:
    """|h - c|^2 / d for every row and every point, squared because a root has no slope at zero.

    It is |h|^2 - 2 h c + |c|^2, one matrix product, around the mean of the points: what rounding leaves out
    is small beside the squared distances to that mean, however far from zero all of them lie.

    Args:
        h: rows (B, d).
        points: reference rows (J, d); `h` itself compares the rows of the batch with each other.

    Returns:
        (B, J), at least 0.

    Raises:
        ValueError: points is not (J, d), or h is not of the same width.

    Source: memo 2, section 3. Chapter 17, :eq:`eq-squared-distance`.

    >>> squared_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[ 0.0000, 12.5000]])
    """
    _check.matrix("points", points)
    _check.rows("h", h, points.shape[1])
    # The distance is the same around any point, and so are its slopes: the mean may be held fixed.
    centre = points.detach().mean(0)
    h, points = h - centre, points - centre
    squares = h.square().sum(-1, keepdim=True) + points.square().sum(-1)
    # Rounding can leave a small negative number; exp(-D / sigma^2) must not see it magnified.
    return (squares - 2 * (h @ points.T)).clamp(min=0) / h.shape[-1]


@primitive("kernel")
def rbf(distance: Tensor, sigma: float | Tensor) -> Tensor:
    """exp(-distance / sigma^2), the radial basis functions of squared distances.

    Args:
        distance: squared distances (B, J).
        sigma: the reach, above 0, in the unit of the root of the distance.

    Returns:
        (B, J) in [0, 1].

    Source: Broomhead & Lowe (1988). Chapter 17, :eq:`eq-rbf`.
    """
    return torch.exp(distance / -(sigma * sigma))


def prototypes(h: T, points: T, readout: T, sigma: float) -> T:
    """How close each row is to each of J prototypes, mapped back to d by a fixed matrix.

    Args:
        h: rows (B, d).
        points: prototypes (J, d), fixed: `points(dim, count)` in a formula.
        readout: (J, d), fixed: `weight(dim, rows=count)` in a formula.
        sigma: the reach, above 0.

    Returns:
        (B, d).

    Raises:
        ValueError: sigma is not above 0.

    Source: memo 2, section 1, family 4. Chapter 17, :eq:`eq-rbf`.
    """
    _check.number("sigma", sigma, 0, above=True)
    return rbf(squared_distance(h, points), sigma) @ readout


def soft_neighbours(h: T, memory: T, tau: float) -> T:
    """A mean of remembered rows, weighted by softmax(-|h - c|^2 / (d tau)).

    As tau falls to 0 the answer is the nearest row, as it grows the mean of the memory. A fixed memory keeps
    the rows of a batch apart; `soft_neighbours(h, h, tau)` makes them neighbours of each other, each its own
    nearest.

    Args:
        h: rows (B, d).
        memory: reference rows (J, d), fixed: `points(dim, count)` in a formula; or `h`.
        tau: the temperature, above 0.

    Returns:
        (B, d), inside the convex hull of the memory.

    Source: memo 2, section 1, family 4; Plötz & Roth (2018). Chapter 17, :eq:`eq-soft-neighbours`.

    >>> memory = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    >>> soft_neighbours(torch.tensor([[0.1, 0.2]]), memory, tau=0.01).round(decimals=3).abs()
    tensor([[0., 0.]])
    """
    return closeness(squared_distance(h, memory), tau) @ memory
