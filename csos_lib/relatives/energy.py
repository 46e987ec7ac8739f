"""Energy: functions that a dynamics can only push one way, and the memories that are built on them."""

import functools
import math
from collections.abc import Callable
from itertools import permutations

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import Derived
from csos_lib.dynamics import Reaction
from csos_lib.quadratic import pair_members, quadratic, unpack
from csos_lib.reactions import SCALE, _Reaction, symmetrise


def symmetrise_fully(weight: Tensor) -> Tensor:
    """The mean of W over the six orders of its axes: the nearest W with an energy.

    Args:
        weight: W (N, N, N).

    Returns:
        A tensor (N, N, N) that no order of its axes changes.

    Raises:
        ValueError: weight is not a floating-point tensor (N, N, N).

    Chapter 8, :eq:`eq-fully-symmetric`.
    """
    _check.cube("weight", weight)
    six = torch.stack([weight.permute(order) for order in permutations(range(3))])
    ordered = six.sort(0).values.unbind()  # added up in one order, they are rounded in one way
    return functools.reduce(torch.add, ordered) / 6


def potential_share(weight: Tensor) -> Tensor:
    """How much the best potential explains of what a mirror step feels of W, as a share of the squares.

    The step feels neither what is antisymmetric in i and j nor what all k have in common, the gauge u[i, j]:
    it cannot tell W from W + u. So the share is that of the nearest S + u, S fully symmetric, to W, after the
    mean over k has been taken from both. It is 1 if and only if the mirror step with W climbs a potential.

    Args:
        weight: W (N, N, N), indexed [k, i, j].

    Returns:
        A number in [0, 1], with no axes; NaN if the step feels nothing of W.

    Raises:
        ValueError: weight is not a floating-point tensor (N, N, N).

    Source: Monderer & Shapley (1996), potential games. Chapter 8, :eq:`eq-potential-share`.

    >>> game = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    >>> round(potential_share(game[:, None, :].expand(-1, 3, -1)).item(), 6)
    0.0
    """
    felt = symmetrise(weight)
    felt = felt - felt.mean(0)
    # Where the distance is least, Sym(S - mean over k of S) = Sym(felt) =: B. Averaged over one index it is
    # an equation for the means of S alone, which can be solved by hand.
    best = symmetrise_fully(felt)
    pairs = best.mean(0)
    ones = pairs.mean(0)
    means = 1.5 * (pairs + ones[:, None] + ones)
    best = best + symmetrise_fully(means.expand_as(best))
    return (best - best.mean(0)).square().sum() / felt.square().sum()


def free_energy(x: Tensor, reaction: Reaction, temperature: float = 0.0) -> Tensor:
    """The potential V(x) = x . R(x) / 3, plus temperature times the entropy of x.

    If W is symmetric in all three places, R is the gradient of V. The mirror step with such a W never lowers
    the free energy of temperature decay / (alpha N), as long as alpha N max |W| <= 1 - decay / 2.

    Args:
        x: concentrations (B, N).
        reaction: maps (B, N) to the production R (B, N).
        temperature: at least 0.

    Returns:
        The free energy (B,).

    Raises:
        ValueError: x is not (B, N) floating point, or temperature is negative.

    Chapter 8, :eq:`eq-potential`, :eq:`eq-free-energy`.
    """
    _check.matrix("x", x)
    _check.number("temperature", temperature, 0)
    return (x * reaction(x)).sum(1) / 3 + temperature * torch.special.entr(x).sum(1)


def rayleigh(x: Tensor, reaction: Reaction) -> Tensor:
    """The sum of W[k, i, j] u_k u_i u_j over all k, i, j, where u = x / |x|, with the length of Euclid.

    The Euler step with a fully symmetric W never lowers it, as long as alpha (1 - decay) is at most half the
    inverse of the largest singular value of W, unfolded to (N, N^2).

    Args:
        x: concentrations (B, N), not all zero.
        reaction: maps (B, N) to the production R (B, N).

    Returns:
        The quotient (B,).

    Raises:
        ValueError: x is not (B, N) floating point.

    Source: Kolda & Mayo (2011), shifted symmetric higher-order power method. Chapter 8, :eq:`eq-rayleigh`.
    """
    _check.matrix("x", x)
    u = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return (u * reaction(u)).sum(1)


class EnergyReaction(Derived, _Reaction):
    """A reaction with an energy: W[k, i, j] is the same in every order of k, i and j.

    Args:
        num_basis: N, the number of molecules, at least 1.

    Attributes:
        weight: (N (N + 1) (N + 2) / 6,), one number for each k <= i <= j, at place j (j + 1) (j + 2) / 6 +
            i (i + 1) / 2 + k. They start normal with deviation 0.05 / sqrt 2, and 0.05 for k = i = j.

    Raises:
        ValueError: num_basis is not a positive integer; x is not (B, N) of the dtype of the weight.

    Chapter 8, :eq:`eq-fully-symmetric`.

    >>> EnergyReaction(64).weight.shape
    torch.Size([45760])
    """

    places: Tensor
    counts: Tensor

    def __init__(self, num_basis: int) -> None:
        super().__init__(num_basis)
        self._register_derived()
        weight = SCALE / math.sqrt(2) * torch.randn(num_basis * (num_basis + 1) * (num_basis + 2) // 6)
        n = torch.arange(1, num_basis + 1, device=weight.device)
        weight[n * (n + 1) * (n + 2) // 6 - 1] *= math.sqrt(2)
        self.weight = nn.Parameter(weight)

    def _derive(self) -> dict[str, Tensor]:
        i, j = pair_members(self.num_basis, torch.device("cpu"))
        k = torch.arange(self.num_basis, device="cpu")[:, None].expand(-1, len(i))
        low, middle, high = torch.stack([k, i.expand_as(k), j.expand_as(k)]).sort(0).values
        places = high * (high + 1) * (high + 2) // 6 + middle * (middle + 1) // 2 + low
        return {"places": places, "counts": torch.where(i == j, 1.0, 2.0)}

    def _packed(self) -> Tensor:
        return self.weight.index_select(0, self.places.flatten()).view_as(self.places) * self.counts

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        packed = self._packed()
        return lambda x: quadratic(x, packed)

    def to_tensor(self) -> Tensor:
        """The fully symmetric W (N, N, N)."""
        return unpack(self._packed())


def recall_by_signs(state: Tensor, patterns: Tensor, power: int) -> Tensor:
    """One sweep of a dense associative memory: each sign in turn takes the value of lower energy.

    The energy is -sum_m (pattern_m . state)^power; where both signs have one energy, to the last digit, the
    sign stays. Power 2 is Hopfield's network of 1982 with Hebb's rule.

    Args:
        state: signs -1 or 1 (B, N).
        patterns: the memories, signs (M, N), in the dtype of state.
        power: n, at least 2.

    Returns:
        The signs (B, N) after all N have been looked at once, from the first to the last.

    Raises:
        ValueError: shapes or dtypes do not fit, or power is not an integer of at least 2.

    Source: Hopfield (1982); Krotov & Hopfield (2016). Chapter 8, :eq:`eq-dense-memory`.

    >>> memory = torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0]])
    >>> recall_by_signs(torch.tensor([[1.0, -1.0, 1.0, -1.0, -1.0]]), memory, 2).tolist() == memory.tolist()
    True
    """
    size = _check_memory(state, patterns)
    _check.integer("power", power, 2)
    state = state.clone()
    overlap = state @ patterns.T
    # Powers are taken of overlaps divided by the largest. Where halves have powers, a power of two takes its
    # place: dividing by it is exact, so that ties stay ties.
    halves = power < -math.log2(torch.finfo(state.dtype).tiny)
    for i in range(size if len(patterns) else 0):
        rest = overlap - state[:, i, None] * patterns[:, i]
        up, down = rest + patterns[:, i], rest - patterns[:, i]
        scale = rest.abs().amax(1, keepdim=True) + 1
        if halves:
            scale = scale / torch.frexp(scale.float()).mantissa.to(scale)
        gain = ((up / scale) ** power - (down / scale) ** power).sum(1)
        state[:, i] = torch.where(gain == 0, state[:, i], gain.sign())
        overlap = rest + state[:, i, None] * patterns[:, i]
    return state


def hopfield_energy(state: Tensor, patterns: Tensor, beta: float) -> Tensor:
    """The energy of a modern Hopfield network, |state|^2 / 2 - log sum_m exp(beta pattern_m . state) / beta.

    Args:
        state: (B, N).
        patterns: the memories (M, N), in the dtype of state.
        beta: inverse temperature, above 0.

    Returns:
        The energy (B,), without the constants that make it positive.

    Raises:
        ValueError: shapes or dtypes do not fit, or beta is not positive.

    Source: Ramsauer et al. (2021). Chapter 8, :eq:`eq-modern-energy`.
    """
    _check_memory(state, patterns)
    _check.number("beta", beta, 0, above=True)
    return state.square().sum(1) / 2 - torch.logsumexp(beta * state @ patterns.T, 1) / beta


def hopfield_update(state: Tensor, patterns: Tensor, beta: float) -> Tensor:
    """One step of a modern Hopfield network: the mean of the memories, weighted by a softmax of overlaps.

    It never raises :func:`hopfield_energy`. It is attention with the memories as keys and values.

    Args:
        state: (B, N).
        patterns: the memories (M, N), in the dtype of state.
        beta: inverse temperature, above 0.

    Returns:
        The state (B, N) after the step.

    Raises:
        ValueError: shapes or dtypes do not fit, or beta is not positive.

    Source: Ramsauer et al. (2021). Chapter 8, :eq:`eq-modern-update`.
    """
    _check_memory(state, patterns)
    _check.number("beta", beta, 0, above=True)
    return torch.softmax(beta * state @ patterns.T, 1) @ patterns


def _check_memory(state: Tensor, patterns: Tensor) -> int:
    _check.matrix("state", state)
    _check.matrix("patterns", patterns, state.shape[1], state.dtype)
    return state.shape[1]
