"""Memo 2's library of 32 operators, and how it doubles."""

from csos_lib import _check
from csos_lib.operators.algebraic import gate
from csos_lib.operators.axes import Grid
from csos_lib.operators.bank import Bank
from csos_lib.operators.diffusion import diffuse
from csos_lib.operators.expressions import Expression, h
from csos_lib.operators.inner import layer_norm, points, rms, weight
from csos_lib.operators.kernel import soft_neighbours
from csos_lib.operators.morphology import dilate
from csos_lib.operators.sorting import softsorted, sort
from csos_lib.operators.spectral import cos, phase, sin

MEMORY = 64
"""How many reference rows soft neighbours choose from."""


class Library(Bank):
    """A bank that knows how to grow; made by :func:`mini_library`. Chapter 21."""

    def __init__(self, dim: int, seed: int, grid: Grid, doublings: int, learnable: bool = False) -> None:
        levels = [_operators(dim, 1000 * seed, grid, level) for level in range(doublings + 1)]
        super().__init__([rms(f) for level in levels for f in level], learnable)
        self.recipe = (dim, seed, grid, doublings)

    def doubled(self) -> "Library":
        """The library of twice as many operators whose first half is this one, as it was made.

        Every grid of scales gets a new point between its neighbours, there are new gates, and in place of the
        powers, which have no scale, a few of family 5. It is of the same dtype and on the same device.
        """
        dim, seed, grid, doublings = self.recipe
        return Library(dim, seed, grid, doublings + 1, self.learnable).to(next(self.buffers()))


def mini_library(dim: int, seed: int = 0, grid: Grid = None, learnable: bool = False) -> Library:
    """Memo 2's first library, K = 32: 16 waves, 2 powers, 2 gates, 4 diffusions, 4 soft maxima, 4 neighbours.

    Args:
        dim: d, the length of a row, at least 2.
        seed: fixes the random matrices, phases and memory, at least 0.
        grid: (height, width) with height * width = dim if the rows are images.
        learnable: learn the continuous parameters.

    Returns:
        A Bank of 32 operators; its `doubled()` has 64, and so on.

    Raises:
        ValueError: an argument is out of range, or the grid is not of dim places.

    Source: memo 2, section 5. Chapter 13.

    >>> bank = mini_library(dim=8)
    >>> len(bank), len(bank.doubled()), bank.doubled()[7] == bank[7]
    (32, 64, True)
    """
    _check.integer("dim", dim, 2)
    _check.integer("seed", seed, 0)
    return Library(dim, seed, grid, 0, learnable)


def spread(low: float, high: float, count: int, level: int = 0) -> list[float]:
    """`count` numbers from low up to, not including, high, evenly spaced in the logarithm.

    Level 1 is the numbers half way between them, level 2 those half way between all of these, and so on. So
    the top of a range, s = 100 for the waves of the mini library, is never reached.

    Chapter 14.

    >>> [round(x, 2) for x in spread(1, 100, 2)], [round(x, 2) for x in spread(1, 100, 2, level=1)]
    ([1.0, 10.0], [3.16, 31.62])
    """
    if level:
        count *= 2**level
    return [low * (high / low) ** (k / count) for k in range(1 if level else 0, count, 2 if level else 1)]


def _operators(dim: int, seed: int, grid: Grid, level: int) -> list[Expression]:
    waves = [wave(phase(h, dim, s, seed)) for s in spread(1e-2, 1e2, 8, level) for wave in (sin, cos)]
    powers = [] if level else [h**2, h**3]
    first = 2**level if level else 0  # 2, 2, 4, 8 gates: their maps are 0, 1; 2, 3; 4 to 7; 8 to 15
    count = max(2**level, 2)
    maps = [h @ weight(dim, seed + first + k) for k in range(count)]
    gates = [gate(maps[k], maps[k ^ 1]) for k in range(count)]
    heat = [diffuse(h, alpha, grid) for alpha in spread(1e-3, 1e-1, 4, level)]
    maxima = [dilate(h, tau, grid=grid) for tau in spread(0.05, 5, 4, level)]
    memory = points(dim, MEMORY, seed)
    neighbours = [soft_neighbours(h, memory, tau) for tau in spread(0.05, 5, 4, level)]
    return [*waves, *powers, *gates, *heat, *maxima, *neighbours, *_sorting(level)]


def _sorting(level: int) -> list[Expression]:
    """2^level of them, all SoftSort: the others hold a d x d matrix for every row and cost far more."""
    return [softsorted(sort(layer_norm(h)), tau) for tau in spread(0.05, 5, 2, level)] if level else []
