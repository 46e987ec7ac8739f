"""Continuous time: the flows that the two named steps follow when steps become short and many."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib.dynamics import Reaction, laid_out
from csos_lib.simplex import normalise

_ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
_FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams")


def flow_field(x: Tensor, reaction: Reaction) -> Tensor:
    """The velocity of the concentrations, dx/dt = R(x) - x sum_k R(x)_k: production minus dilution.

    The sum of x stays 1. No concentration falls below 0 as long as no R(x)_k is negative where x_k = 0: so
    for W >= 0, and for every reaction of the form x * R(x).

    Args:
        x: concentrations (B, N).
        reaction: maps (B, N) to the production R (B, N).

    Returns:
        Velocities (B, N); each row sums to 0 where the sum of x is 1.

    Raises:
        ValueError: x is not (B, N) floating point.

    Source: Stadler, Fontana & Miller (1993). Chapter 9, :eq:`eq-flow`.

    >>> flow_field(torch.tensor([[0.5, 0.5]]), lambda x: x * x[:, :1]).tolist()
    [[0.0, 0.0]]
    """
    _check.matrix("x", x)
    made = reaction(x)
    return made - x * made.sum(1, keepdim=True)


class Flow(nn.Module):
    """Concentrations after a time t of the flow: a dynamics for `CSOS(dynamics=Flow())`.

    The gradient goes back through the steps of the solver. The solver chooses its steps for the batch as a
    whole: an answer depends on the other rows by as much as the tolerances allow, or not at all if step_size
    is given.

    Args:
        time: t, above 0; T steps of strength alpha without decay take about the time alpha T.
        kind: the step whose flow it is: "euler", for reactions that make no R(x)_k negative where x_k = 0,
            or "mirror", for all.
        method: a solver of torchdiffeq: "dopri5", "dopri8", "bosh3", "fehlberg2" and "adaptive_heun" choose
            their own steps; "euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams" and
            "implicit_adams" take steps of a fixed size.
        rtol: relative tolerance of a step, above 0.
        atol: absolute tolerance of a step, above 0.
        step_size: the size of a step, above 0; needed by the fixed methods, None for the others.

    Raises:
        ValueError: an argument is out of range, or x_0 is not (B, N) floating point.
        ImportError: torchdiffeq is not installed.

    Source: Chen et al. (2018); Taylor & Jonker (1978) for the mirror kind, with N R(x) for payoffs. Chapter
    9, :eq:`eq-flow`, :eq:`eq-mirror-flow`.

    >>> x = torch.tensor([[0.5, 0.5]])  # the first molecule makes itself: logistic growth
    >>> x_t = Flow(time=2.0)(x, lambda x: x * torch.tensor([1.0, 0.0]))
    >>> [round(v, 4) for v in x_t[0].tolist()]
    [0.8808, 0.1192]
    """

    def __init__(
        self,
        time: float = 1.0,
        kind: str = "euler",
        method: str = "dopri5",
        rtol: float = 1e-4,
        atol: float = 1e-6,
        step_size: float | None = None,
    ) -> None:
        super().__init__()
        _check.choice("kind", kind, ("euler", "mirror"))
        for name, value in (("time", time), ("rtol", rtol), ("atol", atol)):
            _check.number(name, value, 0, above=True)
        _check.choice("method", method, (*_ADAPTIVE, *_FIXED))
        if (step_size is None) != (method in _ADAPTIVE):
            raise ValueError(f"step_size must be given for {_FIXED} alone, got {step_size} for {method!r}")
        if step_size is not None:
            _check.number("step_size", step_size, 0, time, above=True)
        self.time, self.rtol, self.atol, self.step_size = time, rtol, atol, step_size
        self.kind, self.method = kind, method
        _import_torchdiffeq()

    def forward(self, x: Tensor, reaction: Reaction) -> Tensor:
        _check.matrix("x", x)
        reaction = laid_out(reaction)
        if self.kind == "euler":
            # The flow stays on the simplex; its solver may miss it by a tolerance.
            return normalise(torch.relu(self._solve(lambda t, x: flow_field(x, reaction), x)))
        # In logarithms, where no solver can step over zero.
        log_x = x.clamp_min(torch.finfo(x.dtype).tiny).log()
        return self._solve(lambda t, log_x: x.shape[1] * reaction(log_x.softmax(1)), log_x).softmax(1)

    def _solve(self, field: Callable[[Tensor, Tensor], Tensor], state: Tensor) -> Tensor:
        times = torch.tensor([0.0, self.time], dtype=state.dtype, device=state.device)
        options = None if self.step_size is None else {"step_size": self.step_size}
        path = _import_torchdiffeq().odeint(
            field, state, times, rtol=self.rtol, atol=self.atol, method=self.method, options=options
        )
        return path[-1]


def _import_torchdiffeq() -> Any:
    try:
        return importlib.import_module("torchdiffeq")
    except ImportError as error:
        raise ImportError('Flow needs torchdiffeq: pip install "csos_lib[relatives]"') from error
