"""How a reaction is applied over time: one step, T steps, and every state on the way."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from csos_lib import _check
from csos_lib.simplex import normalise

Reaction = Callable[[Tensor], Tensor]
"""Anything that maps concentrations (B, N) to production (B, N)."""

Step = Callable[[Tensor, Reaction, float, float], Tensor]
"""One step of a dynamics, from (state, reaction, decay, alpha) to the next state."""


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


def mirror_step(log_x: Tensor, reaction: Reaction, decay: float, alpha: float) -> Tensor:
    """One step in log space: forget, then multiply each concentration by the exponential of its production.

    log x' = log_softmax((1 - decay) log x + alpha N R(x)).

    Nothing is cut off, so nothing dies; decay pulls all concentrations towards each other: after T steps only
    (1 - decay)^T of log x_0 is left, 3e-8 of it after 165 steps of decay 0.1. The factor N makes up for R(x),
    which shrinks like 1 / N when N molecules share the concentration.

    Args:
        log_x: logarithms of concentrations (B, N).
        reaction: maps concentrations (B, N) to the production R (B, N).
        decay: the share of log x that is forgotten, in [0, 1).
        alpha: the strength of the reaction, at least 0.

    Returns:
        Logarithms of concentrations (B, N) after the step; their exponentials sum to 1.

    Raises:
        ValueError: log_x is not (B, N) floating point, or decay or alpha is out of range.

    Source: Kivinen & Warmuth (1997), exponentiated gradient; Beck & Teboulle (2003), mirror descent.
    Chapter 4, :eq:`eq-mirror-step`.

    >>> log_x = torch.tensor([[0.5, 0.5]]).log()
    >>> mirror_step(log_x, lambda x: x, decay=0.1, alpha=1.0).exp().tolist()
    [[0.5, 0.5]]
    """
    _check_step(log_x, decay, alpha, "log_x")
    # A matrix product with a subnormal number takes a hundred times as long; log_x keeps what is cut here.
    x = F.threshold(log_x.exp(), torch.finfo(log_x.dtype).tiny, 0.0)
    return torch.log_softmax((1 - decay) * log_x + alpha * log_x.shape[1] * reaction(x), 1)


def laid_out(reaction: Reaction) -> Reaction:
    """A reaction (B, N) -> (B, N) ready for many calls: what its `lay_out` gives, or itself if it has none.

    Chapter 5.
    """
    lay_out = getattr(reaction, "lay_out", None)
    return reaction if lay_out is None else lay_out()


def iterate(
    state: Tensor, step: Step, reaction: Reaction, steps: int, decay: float, alpha: float
) -> Iterator[Tensor]:
    """The states of T steps, first to last, T + 1 in all.

    Args:
        state: what `step` takes: concentrations (B, N) for `euler_step`, their logarithms for `mirror_step`.
        step: the dynamics.
        reaction: maps concentrations to production; :func:`laid_out` once for all steps.
        steps: T, at least 0.
        decay: in [0, 1).
        alpha: at least 0.

    Yields:
        The state before the first step, and after each.

    Raises:
        ValueError: steps is not an integer of at least 0.

    Chapter 2, :eq:`eq-euler-step`.
    """
    _check.integer("steps", steps, 0)
    reaction = laid_out(reaction)
    yield state
    for _ in range(steps):
        state = step(state, reaction, decay, alpha)
        yield state


def run(x: Tensor, reaction: Reaction, steps: int, decay: float, alpha: float, kind: str = "euler") -> Tensor:
    """Concentrations after T steps, x_0 -> x_T.

    Args:
        x: concentrations x_0 (B, N). For "mirror" they should be above 0: what is below the smallest normal
            number counts as that.
        reaction: maps (B, N) to the production R (B, N).
        steps: T, at least 0.
        decay: in [0, 1).
        alpha: at least 0.
        kind: "euler" or "mirror".

    Returns:
        Concentrations x_T (B, N).

    Raises:
        ValueError: an argument is out of range.

    Chapter 2.
    """
    for state in _states(x, reaction, steps, decay, alpha, kind):
        last = state
    return last.exp() if kind == "mirror" else last


def trajectory(
    x: Tensor, reaction: Reaction, steps: int, decay: float, alpha: float, kind: str = "euler"
) -> Tensor:
    """Concentrations at every time, x_0, ..., x_T; the arguments are those of :func:`run`.

    Returns:
        (T + 1, B, N).

    Chapter 2.
    """
    states = torch.stack(list(_states(x, reaction, steps, decay, alpha, kind)))
    return states.exp() if kind == "mirror" else states


def _states(
    x: Tensor, reaction: Reaction, steps: int, decay: float, alpha: float, kind: str
) -> Iterator[Tensor]:
    _check.choice("kind", kind, tuple(STEPS))
    _check_step(x, decay, alpha)
    state = x.clamp_min(torch.finfo(x.dtype).tiny).log() if kind == "mirror" else x
    return iterate(state, STEPS[kind], reaction, steps, decay, alpha)


def _check_step(x: Tensor, decay: float, alpha: float, name: str = "x") -> None:
    _check.matrix(name, x)
    _check.number("decay", decay, 0, 1, below=True)
    _check.number("alpha", alpha, 0)


STEPS: dict[str, Step] = {"euler": euler_step, "mirror": mirror_step}
"""The named dynamics."""
