"""Equilibrium: what a fed reaction settles to, found by a solver, with a gradient that needs no steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import Recorded, without_autocast
from csos_lib.dynamics import Reaction, laid_out
from csos_lib.quadratic import pack, quadratic
from csos_lib.reactions import _Reaction
from csos_lib.simplex import normalise


class StochasticReaction(_Reaction):
    """A reaction that only turns molecules into others: W >= 0, and every pair makes one unit, sum_k W = 1.

    So R maps the simplex into itself, with no cut and no normalising, and
    ||R(x) - R(y)||_1 <= 2 ||x - y||_1.

    Args:
        num_basis: N, the number of molecules, at least 1.
        scale: the standard deviation of the logits at the start, at least 0; 0 makes all equally.

    Attributes:
        logits: (N, N, N); W = softmax of it over k, the first axis.

    Raises:
        ValueError: an argument is out of range; x is not (B, N) of the dtype of the logits.

    Source: Gleich, Lim & Yu (2015). Chapter 9, :eq:`eq-stochastic`.

    >>> reaction = StochasticReaction(4)
    >>> round(reaction(torch.full((1, 4), 0.25)).sum().item(), 5)
    1.0
    """

    def __init__(self, num_basis: int, scale: float = 1.0) -> None:
        super().__init__(num_basis)
        _check.number("scale", scale, 0)
        self.logits = nn.Parameter(scale * torch.randn(num_basis, num_basis, num_basis))

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        return self.logits.softmax(0)

    def _lay_out(self) -> Reaction:
        weight = pack(self.to_tensor())
        return lambda x: quadratic(x, weight)


def fed(reaction: Reaction, feed: Tensor, alpha: float) -> Callable[[Tensor], Tensor]:
    """The map x -> (1 - alpha) feed + alpha R(x): a reactor into which the soup `feed` flows.

    R(x) is cut at 0 and divided by its sum. For a stochastic W on the simplex that changes nothing, and yet
    it is needed: past alpha = 1/2 an error in the sum would grow by the factor 2 alpha at each step.

    Args:
        reaction: maps (B, N) to the production R (B, N).
        feed: concentrations (B, N).
        alpha: the share that reacts, in [0, 1].

    Returns:
        A function (B, N) -> (B, N).

    Raises:
        ValueError: feed is not (B, N) floating point, or alpha is out of range.

    Source: Gleich, Lim & Yu (2015). Chapter 9, :eq:`eq-fed`.

    >>> fed(lambda x: x * x, torch.tensor([[0.5, 0.5]]), 0.5)(torch.tensor([[1.0, 0.0]])).tolist()
    [[0.75, 0.25]]
    """
    _check.matrix("feed", feed)
    _check.number("alpha", alpha, 0, 1)
    reaction = laid_out(reaction)
    return lambda x: (1 - alpha) * feed + alpha * normalise(torch.relu(reaction(x)))


class Solution(NamedTuple):
    """A fixed point (B, N), and how many evaluations of the map each row took (B,), int64.

    Chapter 9, :eq:`eq-equilibrium`.
    """

    x: Tensor
    evaluations: Tensor


def anderson(
    step: Callable[[Tensor], Tensor],
    x: Tensor,
    tol: float = 1e-6,
    max_steps: int = 50,
    memory: int = 5,
) -> Solution:
    """A fixed point x = step(x), row by row, by Anderson's acceleration of x, step(x), step(step(x)), ...

    A step is corrected by the combination of the last few steps that would cancel the residual step(x) - x as
    far as possible if the map were linear. A row stops, and stays as it is, once no entry of its residual is
    above tol: it does not depend on the other rows, up to rounding.

    Args:
        step: maps (B, N) to (B, N), row by row.
        x: where to start (B, N).
        tol: at least 0. With 0 all steps are taken, and no value decides how many; a row whose residual is
            exactly 0 stays as it is all the same.
        max_steps: at most so many evaluations of the map, at least 1.
        memory: how many earlier steps are used, at least 0; 0 is plain iteration.

    Returns:
        Solution(x, evaluations). A row that did not converge has taken max_steps.

    Raises:
        ValueError: an argument is out of range.

    Source: Anderson (1965); Walker & Ni (2011), section 2. Chapter 9, :eq:`eq-anderson`.

    >>> x, evaluations = anderson(torch.cos, torch.zeros(1, 1))
    >>> round(x.item(), 4), evaluations.item() < 10
    (0.7391, True)
    """
    _check.matrix("x", x)
    _check.number("tol", tol, 0)
    _check.integer("max_steps", max_steps, 1)
    _check.integer("memory", memory, 0)
    ridge = 10 * torch.finfo(x.dtype).eps
    wide = torch.promote_types(x.dtype, torch.float32)  # nothing is solved in bfloat16
    active = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
    evaluations = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    images: list[Tensor] = []
    residuals: list[Tensor] = []
    for _ in range(max_steps):
        image = step(x)
        evaluations = evaluations + active
        images, residuals = [*images, image][-memory - 1 :], [*residuals, image - x][-memory - 1 :]
        active = active & ~(residuals[-1].abs().amax(1) <= tol)  # what is not finite has not settled
        if tol > 0 and not active.any():
            break
        if len(images) > 1:
            d_image, d_residual = (torch.stack(s, 1).diff(dim=1) for s in (images, residuals))  # (B, m, N)
            # Each change at length 1, so that one small ridge fits early long steps and late short ones.
            length = d_residual.norm(dim=2, keepdim=True) + torch.finfo(x.dtype).tiny
            d_image, d_residual = d_image / length, d_residual / length
            gram = d_residual @ d_residual.mT + ridge * torch.eye(
                d_residual.shape[1], dtype=x.dtype, device=x.device
            )
            share = torch.linalg.solve(gram.to(wide), (d_residual @ residuals[-1][:, :, None]).to(wide))
            image = image - (share.to(image) * d_image).sum(1)  # a share is (B, m, 1)
        x = torch.where(active[:, None], image, x)
    return Solution(x, evaluations)


def attach_gradient(
    step: Callable[[Tensor], Tensor], x: Tensor, tol: float = 1e-6, max_steps: int = 50, memory: int = 5
) -> Tensor:
    """A fixed point with its gradient, from the implicit function theorem: no step that led there is kept.

    With J = d step / dx at the fixed point, the gradient g of a loss reaches the map's parameters as
    u = (I - J^T)^-1 g, which is itself the fixed point of u -> J^T u + g.

    Args:
        step: maps (B, N) to (B, N), row by row; its parameters get the gradient.
        x: a fixed point of it (B, N), without gradient.
        tol: of the solver for u, relative to the largest entry of a row of g.
        max_steps: as in :func:`anderson`.
        memory: as in :func:`anderson`.

    Returns:
        step(x) (B, N), differentiable once.

    Raises:
        RuntimeError: a backward pass with create_graph=True asks for second derivatives.

    Source: Bai, Kolter & Koltun (2019), theorem 1. Chapter 9, :eq:`eq-implicit-gradient`.
    """
    image = step(x)
    if image.requires_grad:
        start = x.detach().requires_grad_()
        again = step(start)

        def solve(grad: Tensor | None) -> Tensor | None:
            if grad is None:
                return None  # the loss does not depend on it
            if torch.is_grad_enabled():  # create_graph: u would be taken for a constant
                raise RuntimeError("the equilibrium is differentiable once, got create_graph=True")
            size = grad.abs().amax(1, keepdim=True) + torch.finfo(grad.dtype).tiny
            scaled = grad / size

            def pull_back(u: Tensor) -> Tensor:
                return torch.autograd.grad(again, start, u, retain_graph=True)[0] + scaled

            return size * anderson(pull_back, scaled, tol, max_steps, memory).x

        image.register_hook(solve)
    return image


class Equilibrium(Recorded):
    """What a fed reaction settles to: a dynamics for `CSOS(reaction=StochasticReaction(N), dynamics=...)`.

    x* = (1 - alpha) x_0 + alpha R(x*): the image flows in all the time, so that it is not forgotten.

    For a :class:`StochasticReaction` there is always a solution on the simplex, and for alpha < 1/2 only one,
    which plain iteration reaches at the rate 2 alpha. Past 1/2 there may be several, and the start x_0
    decides; for other reactions nothing is guaranteed. It is differentiable once: a backward pass with
    create_graph=True raises RuntimeError.

    Args:
        alpha: the share that reacts, in [0, 1].
        tol: the largest residual of a concentration, at least 0; 0 takes all steps and looks at no value.
        max_steps: at most so many evaluations, forwards and backwards, at least 1.
        memory: of :func:`anderson`, at least 0; 0 is plain iteration.

    Raises:
        ValueError: an argument is out of range, or x_0 is not (B, N) floating point.

    Source: Gleich, Lim & Yu (2015), multilinear PageRank; Bai, Kolter & Koltun (2019), deep equilibrium.
    Chapter 9, :eq:`eq-equilibrium`.

    >>> reaction, settle = StochasticReaction(10), Equilibrium(alpha=0.4)
    >>> x0 = torch.rand(3, 10).softmax(1)
    >>> x = settle(x0, reaction)
    >>> torch.allclose(x, 0.6 * x0 + 0.4 * reaction(x), atol=1e-5)
    True
    """

    def __init__(self, alpha: float = 0.45, tol: float = 1e-6, max_steps: int = 50, memory: int = 5) -> None:
        super().__init__()
        self.alpha = _check.number("alpha", alpha, 0, 1)
        self.tol = _check.number("tol", tol, 0)
        self.max_steps = _check.integer("max_steps", max_steps, 1)
        self.memory = _check.integer("memory", memory, 0)

    def forward(self, x: Tensor, reaction: Reaction) -> Tensor:
        return without_autocast(lambda x: self._settle(x, reaction), x, x.dtype)

    def _settle(self, x: Tensor, reaction: Reaction) -> Tensor:
        _check.matrix("x", x)
        step = fed(reaction, x, self.alpha)
        with torch.no_grad():
            settled = anderson(step, x, self.tol, self.max_steps, self.memory).x
        settled = attach_gradient(step, settled, self.tol, self.max_steps, self.memory)
        return normalise(torch.relu(settled))  # the solver may miss the simplex by a tolerance

    def _recipe(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("alpha", "tol", "max_steps", "memory")}
