"""Continuous time: the flows that the two named steps follow when steps become short and many."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib._modules import Recorded
from csos_lib.dynamics import Reaction, laid_out
from csos_lib.simplex import normalise

_ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
_FIXED: dict[str, tuple[tuple[float, ...], ...]] = {
    "euler": ((1.0,),),
    "midpoint": ((1 / 2,), (0.0, 1.0)),
    "heun2": ((1.0,), (1 / 2, 1 / 2)),
    "heun3": ((1 / 3,), (0.0, 2 / 3), (1 / 4, 0.0, 3 / 4)),
    "rk4": ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""Methods of Runge and Kutta: each row weighs the velocities so far, to find where the next one is looked at.

The last row is the step itself.
"""


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


class Flow(Recorded):
    """Concentrations after a time t of the flow: a dynamics for `CSOS(dynamics=Flow())`.

    The gradient goes back through the steps of the solver. A solver that chooses its steps does so for the
    batch as a whole: an answer depends on the other rows by as much as the tolerances allow. With a step_size
    rows are independent, and the flow can be compiled and exported. A row that is not finite gives NaN;
    so do fixed steps that are far too long.

    Args:
        time: t, above 0; T steps of strength alpha without decay take about the time alpha T.
        kind: the step whose flow it is: "euler", for reactions that make no R(x)_k negative where x_k = 0,
            or "mirror", for all.
        method: "dopri5", "dopri8", "bosh3", "fehlberg2" and "adaptive_heun" of torchdiffeq choose their own
            steps; "euler", "midpoint", "heun2", "heun3" and "rk4" take steps of a fixed size, the last of
            them a shorter one if need be.
        rtol: relative tolerance of a step, above 0.
        atol: absolute tolerance of a step, above 0.
        step_size: the size of a step, above 0; needed by the fixed methods, None for the others.

    Raises:
        ValueError: an argument is out of range, x_0 is not (B, N) floating point, or a method that chooses
            its steps finds none short enough.
        ImportError: such a method is asked for and torchdiffeq is not installed.

    Source: Chen et al. (2018); Butcher (2016), section 23, the fixed methods; Taylor & Jonker (1978) for the
    mirror kind, with N R(x) for payoffs. Chapter 9, :eq:`eq-flow`, :eq:`eq-mirror-flow`.

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
        self.time = _check.number("time", time, 0, above=True)
        self.rtol = _check.number("rtol", rtol, 0, above=True)
        self.atol = _check.number("atol", atol, 0, above=True)
        _check.choice("method", method, (*_ADAPTIVE, *_FIXED))
        if (step_size is None) != (method in _ADAPTIVE):
            allowed = ", ".join(_FIXED)
            raise ValueError(f"step_size must be given for {allowed} alone, got {step_size} for {method!r}")
        if step_size is not None:
            step_size = _check.number("step_size", step_size, 0, time, above=True)
        self.kind, self.method, self.step_size = kind, method, step_size
        if method in _ADAPTIVE:
            _import_torchdiffeq()

    def forward(self, x: Tensor, reaction: Reaction) -> Tensor:
        _check.matrix("x", x)
        reaction = laid_out(reaction)
        lost = ~x.isfinite().all(1, keepdim=True)
        x = torch.where(lost, 1 / x.shape[1], x)  # so that the steps of the other rows do not hang on it
        return torch.where(lost, torch.nan, self._flow(x, reaction))

    def _flow(self, x: Tensor, reaction: Reaction) -> Tensor:
        if self.kind == "euler":
            # The flow stays on the simplex; its solver may miss it by a tolerance.
            return normalise(torch.relu(self._solve(lambda x: flow_field(x, reaction), x)))
        # In logarithms, where no solver can step over zero.
        log_x = x.clamp_min(torch.finfo(x.dtype).tiny).log()
        return self._solve(lambda log_x: x.shape[1] * reaction(log_x.softmax(1)), log_x).softmax(1)

    def _solve(self, field: Callable[[Tensor], Tensor], state: Tensor) -> Tensor:
        if self.step_size is None:
            if state.shape[0] == 0:
                return state
            times = torch.tensor([0.0, self.time], dtype=state.dtype, device=state.device)
            tolerances = {"rtol": self.rtol, "atol": self.atol}
            try:
                odeint = _import_torchdiffeq().odeint
                return odeint(lambda t, x: field(x), state, times, method=self.method, **tolerances)[-1]
            except AssertionError as error:  # "underflow in dt", or a state that is no longer finite
                raise ValueError(
                    f"time must be shorter or the reaction weaker: {self.method} finds no step ({error})"
                ) from error
        steps = math.ceil(self.time / self.step_size - 1e-9)
        for k in range(steps):
            h = min(self.step_size, self.time - k * self.step_size)
            velocities = [field(state)]
            *inner, last = _FIXED[self.method]
            for weights in inner:
                velocities.append(field(state + h * _weighted(velocities, weights)))
            state = state + h * _weighted(velocities, last)
        return state

    def _recipe(self) -> dict[str, Any]:
        names = ("time", "kind", "method", "rtol", "atol", "step_size")
        return {name: getattr(self, name) for name in names}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._recipe().items())


def _weighted(velocities: list[Tensor], weights: tuple[float, ...]) -> Tensor:
    terms = [weight * v for weight, v in zip(weights, velocities, strict=True) if weight]
    return sum(terms[1:], terms[0])


def _import_torchdiffeq() -> Any:
    try:
        return importlib.import_module("torchdiffeq")
    except ImportError as error:
        raise ImportError('Flow needs torchdiffeq: pip install "csos_lib[relatives]"') from error
