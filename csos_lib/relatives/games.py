"""Games: with strategies for molecules, the Euler step is natural selection and the mirror step learning."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import Recorded
from csos_lib.reactions import SCALE, _Reaction


def game_tensor(payoff: Tensor) -> Tensor:
    """The W of a game: W[k, i, j] = [k = i] A[k, j], so that R(x) = x * (A x), elementwise product.

    Args:
        payoff: A (N, N); A[k, j] is what strategy k gets when it meets j.

    Returns:
        W (N, N, N), indexed [k, i, j].

    Raises:
        ValueError: payoff is not a square floating-point matrix.

    Source: Maynard Smith (1982). Chapter 7, :eq:`eq-game-tensor`.

    >>> game_tensor(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))[1]
    tensor([[0., 0.],
            [3., 4.]])
    """
    _check_payoff(payoff)
    return torch.diag_embed(payoff.T).permute(1, 2, 0)


def mean_payoff(x: Tensor, payoff: Tensor) -> Tensor:
    """What a random member of the population gets when it meets another: sum_kj A[k, j] x_k x_j.

    Args:
        x: shares (..., N) that sum to 1.
        payoff: A (N, N).

    Returns:
        The mean payoff (...).

    Raises:
        ValueError: x or payoff has the wrong shape or dtype.

    Chapter 7, :eq:`eq-mean-payoff`.
    """
    _check_payoff(payoff, x)
    return (x * (x @ payoff.T)).sum(-1)


def replicator_map(x: Tensor, payoff: Tensor, rate: float) -> Tensor:
    """One generation: each share grows by 1 + rate times its payoff, then all are divided by their sum.

    This is the Euler step with the W of :func:`game_tensor` where no share would fall below zero, with
    rate = alpha (1 - decay).

    Args:
        x: shares (..., N) that sum to 1.
        payoff: A (N, N), with 1 + rate A[k, j] at least 0.
        rate: at least 0.

    Returns:
        Shares (..., N) of the next generation; zeros where nobody has offspring.

    Raises:
        ValueError: x or payoff has the wrong shape or dtype, or rate is negative.

    Source: Maynard Smith (1982). Chapter 7, :eq:`eq-replicator-map`.

    >>> replicator_map(torch.tensor([0.5, 0.5]), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), 1.0)
    tensor([0.6667, 0.3333])
    """
    _check_payoff(payoff, x)
    _check.number("rate", rate, 0)
    grown = x * (1 + rate * (x @ payoff.T))
    total = grown.sum(-1, keepdim=True)
    return grown / total.where(total != 0, 1)


def replicator_flow(x: Tensor, payoff: Tensor) -> Tensor:
    """The limit of small steps, dx/dt = x * (A x - mean payoff): who does better than the mean grows.

    Args:
        x: shares (..., N) that sum to 1.
        payoff: A (N, N).

    Returns:
        The velocity dx/dt (..., N); its entries sum to 0.

    Raises:
        ValueError: x or payoff has the wrong shape or dtype.

    Source: Taylor & Jonker (1978). Chapter 7, :eq:`eq-replicator-flow`.
    """
    mean = mean_payoff(x, payoff)
    return x * (x @ payoff.T - mean[..., None])


class GameReaction(Recorded, _Reaction):
    """A reaction that is a game of two: N^2 numbers instead of N^3.

    Args:
        num_basis: N, the number of strategies, at least 1.
        kind: the step that it is made for. "euler": R(x) = x * (A x), the W of :func:`game_tensor`. "mirror":
            R(x) = A x, as that step multiplies by x itself; on the simplex this is W[k, i, j] = A[k, j].

    Attributes:
        payoff: A (N, N). It starts normal, with deviation 0.05 sqrt N for "euler", so that R(x) has the total
            variance that a dense W gives it, and 0.05 for "mirror", where it has that in a pure soup.

    Raises:
        ValueError: num_basis is not a positive integer, or kind is unknown; x is not (B, N) in A's dtype.

    Chapter 7, :eq:`eq-game-tensor`, :eq:`eq-game-of-three`.

    >>> sum(p.numel() for p in GameReaction(64).parameters())
    4096
    """

    def __init__(self, num_basis: int, kind: str = "euler") -> None:
        super().__init__(num_basis)
        _check.choice("kind", kind, ("euler", "mirror"))
        self.kind = kind
        scale = SCALE * (math.sqrt(num_basis) if kind == "euler" else 1.0)
        self.payoff = nn.Parameter(scale * torch.randn(num_basis, num_basis))

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        payoff = self.payoff.T
        return (lambda x: x * (x @ payoff)) if self.kind == "euler" else (lambda x: x @ payoff)

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        if self.kind == "euler":
            return game_tensor(self.payoff)
        return self.payoff[:, None, :].expand(-1, self.num_basis, -1)

    def _recipe(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind!r}"


def _check_payoff(payoff: Tensor, x: Tensor | None = None) -> None:
    _check.matrix("payoff", payoff)
    if payoff.shape[0] != payoff.shape[1]:
        raise ValueError(f"payoff must have shape (N, N), got {tuple(payoff.shape)}")
    if x is not None:
        _check.floating("x", x)
        if x.ndim == 0 or x.shape[-1] != len(payoff) or x.dtype != payoff.dtype:
            raise ValueError(
                f"x must be (..., {len(payoff)}) in the dtype of payoff, {payoff.dtype}, "
                f"got {tuple(x.shape)}, {x.dtype}"
            )
