"""How a reaction is applied over time: one step, T steps, and every state on the way."""

from collections.abc import Callable

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.simplex import normalise

Reaction = Callable[[Tensor], Tensor]
"""Anything that maps concentrations (B, N) to production (B, N)."""

Step = Callable[[Tensor, Reaction, float, float], Tensor]
"""One step of a dynamics: (state, reaction, decay, alpha) -> the next state."""


def euler_step(x: Tensor, reaction: Reaction, decay: float, alpha: float) -> Tensor:
    """One step of memo 1: fade, react, cut off at zero, normalise.

    m = (1 - decay) x,  x' = normalise(relu(m + alpha R(m))).

    Args:
        x: concentrations (B, N).
        reaction: maps (B, N) to the production R (B, N).
        decay: the share that fades before the reaction, in [0, 1).
        alpha: the strength of the reaction, at least 0.

    Returns:
        Concentrations (B, N) after the step.

    Raises:
        ValueError: x is not (B, N) floating point, or decay or alpha is out of range.

    Source: memo 1, section 2.2, phase 2. Chapter 2, :eq:`eq-euler-step`.

    >>> x = torch.tensor([[0.5, 0.5]])
    >>> euler_step(x, lambda m: m * m, decay=0.0, alpha=1.0).tolist()
    [[0.5, 0.5]]
    """
    _check_step(x, decay, alpha)
    mixed = (1 - decay) * x
    return normalise(torch.relu(mixed + alpha * reaction(mixed)))


def run(x: Tensor, reaction: Reaction, steps: int, decay: float, alpha: float, kind: str = "euler") -> Tensor:
    """Concentrations after T steps, x_0 -> x_T.

    Args:
        x: concentrations x_0 (B, N).
        reaction: maps (B, N) to the production R (B, N).
        steps: T, at least 0.
        decay: in [0, 1).
        alpha: at least 0.
        kind: "euler".

    Returns:
        Concentrations x_T (B, N).

    Raises:
        ValueError: an argument is out of range.

    Chapter 2.
    """
    return trajectory(x, reaction, steps, decay, alpha, kind)[-1]


def trajectory(
    x: Tensor, reaction: Reaction, steps: int, decay: float, alpha: float, kind: str = "euler"
) -> Tensor:
    """Concentrations at every time, x_0, ..., x_T; the arguments are those of :func:`run`.

    Returns:
        (T + 1, B, N).

    Chapter 2.
    """
    _check.integer("steps", steps, 0)
    _check.choice("kind", kind, ("euler",))
    _check_step(x, decay, alpha)
    states = [x]
    for _ in range(steps):
        states.append(euler_step(states[-1], reaction, decay, alpha))
    return torch.stack(states)


def _check_step(x: Tensor, decay: float, alpha: float) -> None:
    _check.matrix("x", x)
    _check.number("decay", decay, 0, 1, below=True)
    _check.number("alpha", alpha, 0)
