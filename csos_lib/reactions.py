"""What W is: modules that hold the rates of a reaction and map concentrations to production.

All start alike: the rates are random with mean 0, and for every x the production R(x)_k has the variance
SCALE^2 (sum_i x_i^2)^2 that the memo's dense W gives it (chapter 5, :eq:`eq-scale-rule`). Factors that are
multiplied share that scale evenly.
"""

import math
from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import has_hooks, without_autocast
from csos_lib.quadratic import count_pairs, pack, pair_members, quadratic, unpack

SCALE = 0.05
"""The standard deviation of memo 1's W at the start."""


def symmetrise(weight: Tensor) -> Tensor:
    """The part of W that acts, (W[k, i, j] + W[k, j, i]) / 2: the rest cancels in R(x), as x_i x_j = x_j x_i.

    Args:
        weight: W (N, N, N), indexed [k, i, j].

    Returns:
        A tensor (N, N, N) with the same R(x) for every x.

    Raises:
        ValueError: weight is not a floating-point tensor (N, N, N).

    Chapter 2.

    >>> symmetrise(torch.ones(2, 2, 2)).sum().item()
    8.0
    """
    _check.cube("weight", weight)
    return (weight + weight.transpose(1, 2)) / 2


class _Reaction(nn.Module):
    """What all reactions share: x (B, N) -> R(x) (B, N), with what can be laid out once laid out once."""

    def __init__(self, num_basis: int) -> None:
        super().__init__()
        self.num_basis = _check.integer("num_basis", num_basis, 1)

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        raise NotImplementedError

    def lay_out(self) -> Callable[[Tensor], Tensor]:
        """This reaction as a function for many steps: whatever depends on W alone is done now, once.

        With hooks (pruning, say) or a forward of its own a call does more than that: then it is the reaction.
        """
        own = type(self).forward is not _Reaction.forward
        return self if own or has_hooks(self) else self._laid_out()

    def _laid_out(self) -> Callable[[Tensor], Tensor]:
        produce = self._lay_out()
        dtype = next(self.parameters()).dtype

        def checked(x: Tensor) -> Tensor:
            _check.matrix("x", x, self.num_basis, dtype)
            return produce(x)

        return lambda x: without_autocast(checked, x, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self._laid_out()(x)

    def extra_repr(self) -> str:
        return f"num_basis={self.num_basis}"


class DenseReaction(_Reaction):
    """Every pair makes every molecule: R(x)_k = sum_ij W[k, i, j] x_i x_j with W free.

    Args:
        num_basis: N, the number of molecules, at least 1.

    Attributes:
        weight: W (N, N, N), indexed [k, i, j]; starts as 0.05 times a standard normal.

    Raises:
        ValueError: num_basis is not a positive integer; x is not (B, N) of the dtype of W.

    Source: memo 1, section 2. Chapter 2, :eq:`eq-reaction`.

    >>> reaction = DenseReaction(3)
    >>> reaction(torch.full((1, 3), 1 / 3)).shape
    torch.Size([1, 3])
    """

    def __init__(self, num_basis: int) -> None:
        super().__init__(num_basis)
        self.weight = nn.Parameter(SCALE * torch.randn(num_basis, num_basis, num_basis))

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        weight = pack(self.weight)  # only the symmetric part acts: half the multiplications of every step
        return lambda x: quadratic(x, weight)

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        return self.weight


class SymmetricReaction(_Reaction):
    """Each unordered pair once: the same functions as a dense W from half the numbers and half the work.

    Args:
        num_basis: N, the number of molecules, at least 1.

    Attributes:
        weight: (N, N (N + 1) / 2), the coefficient of x_i x_j in R(x)_k, that is W[k, i, j] + W[k, j, i] or
            W[k, i, i]. Pairs go by circular diagonals: pair d * N + i is {i, (i + d) mod N}. It starts normal
            with deviation 0.05, times sqrt 2 for i != j.

    Raises:
        ValueError: num_basis is not a positive integer; x is not (B, N) of the dtype of the weight.

    Chapter 5, :eq:`eq-symmetric`.

    >>> reaction = SymmetricReaction(4)
    >>> reaction.weight.shape, reaction(torch.full((1, 4), 1 / 4)).shape
    (torch.Size([4, 10]), torch.Size([1, 4]))
    """

    def __init__(self, num_basis: int) -> None:
        super().__init__(num_basis)
        i, j = pair_members(num_basis)
        scale = SCALE * torch.where(i == j, 1.0, math.sqrt(2))
        self.weight = nn.Parameter(scale * torch.randn(num_basis, count_pairs(num_basis)))

    @classmethod
    def from_tensor(cls, weight: Tensor) -> Self:
        """The reaction with the same R(x) as a tensor W (N, N, N), on its device and in its dtype."""
        _check.cube("weight", weight)
        with torch.device("meta"):
            reaction = cls(len(weight))
        return _filled(reaction, weight, weight=pack(weight))

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        weight = self.weight
        return lambda x: quadratic(x, weight)

    def to_tensor(self) -> Tensor:
        """The symmetric W (N, N, N) as W[k, i, j]."""
        return unpack(self.weight)


class CPReaction(_Reaction):
    """W is a sum of R products of vectors: W[k, i, j] = sum_r C[k, r] A[r, i] B[r, j].

    So R(x) = C (A x * B x), elementwise product, and W is never made.

    Args:
        num_basis: N, the number of molecules, at least 1.
        rank: R, at least 1; None is N. Rank N^2 reaches every W.

    Attributes:
        left: A (R, N).
        right: B (R, N).
        out: C, (N, R). All three start normal with deviation (0.05 / sqrt R)^(1/3).

    Raises:
        ValueError: num_basis or rank is not a positive integer; x is not (B, N) of the dtype of the factors.

    Source: Carroll & Chang (1970); Harshman (1970); Kolda & Bader (2009), section 3. Chapter 5,
    :eq:`eq-cp`.

    >>> sum(p.numel() for p in CPReaction(64, rank=32).parameters())
    6144
    """

    def __init__(self, num_basis: int, rank: int | None = None) -> None:
        super().__init__(num_basis)
        self.rank = _check.integer("rank", num_basis if rank is None else rank, 1)
        self.deviation = scale = (SCALE / math.sqrt(self.rank)) ** (1 / 3)
        self.left = nn.Parameter(scale * torch.randn(self.rank, num_basis))
        self.right = nn.Parameter(scale * torch.randn(self.rank, num_basis))
        self.out = nn.Parameter(scale * torch.randn(num_basis, self.rank))

    @classmethod
    def from_tensor(cls, weight: Tensor, rank: int, iterations: int = 100, starts: int = 3) -> Self:
        """The best fit of rank R to what W does, of so many that L-BFGS finds from random starts.

        Only the symmetric part of W acts, so the two symmetric parts are compared: what is made small is the
        norm of symmetrise(made) - symmetrise(W), with made = `to_tensor()`. Fitting symmetrise(W) entry by
        entry would cost more rank, up to twice. A best fit need not exist: then factors grow for as long as
        the iterations last while the error still falls (degeneracy; de Silva & Lim, 2008).

        Args:
            weight: W (N, N, N), indexed [k, i, j], finite.
            rank: R, at least 1.
            iterations: at most so many of L-BFGS from each start, at least 1.
            starts: random starts, at least 1, the same at each call; the best is kept.

        Returns:
            The reaction, on the device and in the dtype of W.

        Raises:
            ValueError: an argument is out of range, or W is not finite.

        Source: Hitchcock (1927); fitting all factors at once: Acar, Dunlavy & Kolda (2011). Chapter 5,
        :eq:`eq-compression-error`.
        """
        _check.cube("weight", weight)
        return _best_fit(lambda: cls(len(weight), rank), weight, iterations, starts)

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        left, right, out = self.left.T, self.right.T, self.out.T
        return lambda x: ((x @ left) * (x @ right)) @ out

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        return torch.einsum("kr,ri,rj->kij", self.out, self.left, self.right)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


class TuckerReaction(_Reaction):
    """A small W between groups of molecules: W[k, i, j] = sum_pqs G[p, q, s] U[k, p] A[q, i] B[s, j].

    Args:
        num_basis: N, the number of molecules, at least 1.
        rank: r, the number of groups on every side, at least 1; None is N // 2, at least 1. Rank N reaches
            every W.

    Attributes:
        core: G (r, r, r).
        left: A (r, N).
        right: B (r, N).
        out: U (N, r). All four start normal with deviation (0.05 / r^(3/2))^(1/4).

    Raises:
        ValueError: num_basis or rank is not a positive integer; x is not (B, N) of the dtype of the factors.

    Source: Tucker (1966); Kolda & Bader (2009), section 4. Chapter 5, :eq:`eq-tucker`.

    >>> sum(p.numel() for p in TuckerReaction(64).parameters())
    38912
    """

    def __init__(self, num_basis: int, rank: int | None = None) -> None:
        super().__init__(num_basis)
        self.rank = _check.integer("rank", max(num_basis // 2, 1) if rank is None else rank, 1)
        self.deviation = scale = (SCALE / self.rank**1.5) ** (1 / 4)
        self.core = nn.Parameter(scale * torch.randn(self.rank, self.rank, self.rank))
        self.left = nn.Parameter(scale * torch.randn(self.rank, num_basis))
        self.right = nn.Parameter(scale * torch.randn(self.rank, num_basis))
        self.out = nn.Parameter(scale * torch.randn(num_basis, self.rank))

    @classmethod
    def from_tensor(cls, weight: Tensor, rank: int, iterations: int = 100, starts: int = 3) -> Self:
        """The best fit with r groups to what W does, of so many that L-BFGS finds from random starts.

        Only symmetric parts are compared: the norm of symmetrise(made) - symmetrise(W) is made small.

        Args:
            weight: W (N, N, N), indexed [k, i, j], finite.
            rank: r, from 1 to N.
            iterations: at most so many of L-BFGS from each start, at least 1.
            starts: random starts, at least 1, the same at each call; the best is kept.

        Returns:
            The reaction, on the device and in the dtype of W.

        Raises:
            ValueError: an argument is out of range, or W is not finite.

        Chapter 5, :eq:`eq-compression-error`.
        """
        _check.cube("weight", weight)
        if _check.integer("rank", rank, 1) > len(weight):
            raise ValueError(f"rank must be at most N = {len(weight)}, got {rank}")
        return _best_fit(lambda: cls(len(weight), rank), weight, iterations, starts)

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        left, right, out = self.left.T, self.right.T, self.out.T
        core = self.core.flatten(1).T

        def produce(x: Tensor) -> Tensor:
            pairs = ((x @ left)[:, :, None] * (x @ right)[:, None, :]).flatten(1)  # (B, r * r) of groups
            return pairs @ core @ out

        return produce

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        return torch.einsum("pqs,kp,qi,sj->kij", self.core, self.out, self.left, self.right)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}"


class PairwiseReaction(_Reaction):
    """Each molecule is made where two mixtures meet: W[k, i, j] = A[k, i] B[k, j], so R(x) = A x * B x.

    Args:
        num_basis: N, the number of molecules, at least 1.

    Attributes:
        left: A (N, N).
        right: B (N, N). Both start normal with deviation sqrt 0.05.

    Raises:
        ValueError: num_basis is not a positive integer; x is not (B, N) of the dtype of the factors.

    Chapter 5, :eq:`eq-pairwise`.

    >>> sum(p.numel() for p in PairwiseReaction(64).parameters())
    8192
    """

    def __init__(self, num_basis: int) -> None:
        super().__init__(num_basis)
        scale = math.sqrt(SCALE)
        self.left = nn.Parameter(scale * torch.randn(num_basis, num_basis))
        self.right = nn.Parameter(scale * torch.randn(num_basis, num_basis))

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        left, right = self.left.T, self.right.T
        return lambda x: (x @ left) * (x @ right)

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        return self.left[:, :, None] * self.right[:, None, :]


_R = TypeVar("_R", bound=_Reaction)
_F = TypeVar("_F", bound=CPReaction | TuckerReaction)


def _filled(reaction: _R, like: Tensor, **values: Tensor) -> _R:
    """A reaction made on the meta device, filled with values, on the device and in the dtype of `like`."""
    reaction.load_state_dict({name: value.detach().to(like) for name, value in values.items()}, assign=True)
    return reaction


def _best_fit(make: Callable[[], _F], weight: Tensor, iterations: int, starts: int) -> _F:
    """Of reactions fitted to the symmetric part of W from random starts the one that comes nearest."""
    _check.integer("iterations", iterations, 1)
    _check.integer("starts", starts, 1)
    if not weight.isfinite().all():
        raise ValueError("weight must be finite, got entries that are not")
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.device("cpu"),
    ):
        generator = torch.Generator("cpu").manual_seed(0)  # the global one is everybody's
        tried = [_started(make, generator) for _ in range(starts)]
        target = symmetrise(weight.detach().cpu().double())
        largest = target.abs().max()
        if largest:
            # As strong as a random table, so that a start is a fair guess.
            target = target / largest
            scale = target.norm() / (SCALE * len(weight) ** 1.5)
            best = min(tried, key=lambda reaction: _approach(reaction, target / scale, iterations))
            strength = (scale * largest) ** (1 / len(list(best.parameters())))
            values = {name: strength * value for name, value in best.named_parameters()}
        else:  # nothing is made, and what would make it can still learn
            values = dict(tried[0].named_parameters()) | {"out": torch.zeros_like(tried[0].out)}
    with torch.device("meta"):
        reaction = make()
    return _filled(reaction, weight, **values)


def _started(make: Callable[[], _F], generator: torch.Generator) -> _F:
    """A reaction that starts as they all do, from a generator of its own."""
    with torch.device("meta"):
        reaction = make()
    with torch.no_grad():
        reaction.to_empty(device="cpu").double()
        for factor in reaction.parameters():
            factor.copy_(reaction.deviation * torch.randn(factor.shape, generator=generator))
    return reaction


def _approach(reaction: _F, target: Tensor, iterations: int) -> float:
    """Fit the symmetric part of a table to `target`: the squared error that is left, of its size."""
    optimiser = torch.optim.LBFGS(
        reaction.parameters(),
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-10,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )
    size = target.square().sum()

    def error() -> Tensor:
        return (symmetrise(reaction.to_tensor()) - target).square().sum() / size

    def closure() -> float:
        optimiser.zero_grad()
        loss = error()
        loss.backward()
        return loss.item()

    optimiser.step(closure)
    return error().item()
