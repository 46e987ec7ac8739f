"""Family 5, order: sorting, ranking and assigning with a temperature instead of a decision."""

import math
from typing import Any

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib._modules import exporting
from csos_lib.operators.expressions import T, primitive
from csos_lib.operators.inner import closeness, exp


@primitive("sorting")
def sort(s: Tensor) -> Tensor:
    """Each row of (B, n) in descending order, equal values in the order they came.

    Raises:
        ValueError: s has no axis.

    Chapter 18.
    """
    _check.rows("s", s)
    if exporting():  # ONNX has no stable sort; it can differ in the slopes of equal values alone
        return s.sort(dim=-1, descending=True).values
    return s.sort(dim=-1, descending=True, stable=True).values


@primitive("sorting")
def absolute_difference(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|, (B, m) and (B, n) or (n,) to (B, m, n). Chapter 18, :eq:`eq-softsort`."""
    return (x.unsqueeze(-1) - y.unsqueeze(-2)).abs()


@primitive("sorting")
def squared_difference(x: Tensor, y: Tensor) -> Tensor:
    """(x_i - y_j)^2, (B, m) and (B, n) or (n,) to (B, m, n). Chapter 18, :eq:`eq-sinkhorn-sort`."""
    return (x.unsqueeze(-1) - y.unsqueeze(-2)).square()


def softsort(s: T, tau: float) -> T:
    """SoftSort: softmax(-|sorted s_i - s_j| / tau), a permutation matrix whose rows are blurred.

    Args:
        s: rows (B, n).
        tau: the temperature, above 0.

    Returns:
        P (B, n, n): rows sum to 1, P s is s in descending order as tau goes to 0 and its mean as tau grows.

    Source: Prillo & Eisenschlos (2020), eq. 3. Chapter 18, :eq:`eq-softsort`.

    >>> softsort(torch.tensor([[1.0, 3.0, 2.0]]), tau=0.01).round().int().tolist()
    [[[0, 1, 0], [0, 0, 1], [1, 0, 0]]]
    """
    return closeness(absolute_difference(sort(s), s), tau)


class RunningSum(torch.autograd.Function):
    """y_i = x_i + f_i y_(i-1) along the first axis, y_(-1) = 0, in about 2 sqrt n steps instead of n.

    First all blocks of sqrt n places go their steps side by side, then each block gets what the one before
    it ends in. The gradient is another such sum, from the end to the beginning; so is the tangent, from the
    beginning on. (torch itself drops forward mode inside forward mode of such a function: its outer tangent
    is 0. Second derivatives come from `torch.func.hessian`, or from reverse mode twice.)

    Source: Blelloch (1990), first-order recurrences.
    """

    @staticmethod
    def forward(x: Tensor, factors: Tensor) -> Tensor:
        n, size = len(x), max(1, math.isqrt(len(x)))
        blocks = -(-n // size)
        whole = [torch.cat([z, z.new_zeros(blocks * size - n, *z.shape[1:])]) for z in (x, factors)]
        sums, decay = (z.unflatten(0, (blocks, size)) for z in whole)
        y, f = sums.unbind(1), decay.unbind(1)
        for i in range(1, size):
            y[i].addcmul_(f[i], y[i - 1])
            f[i].mul_(f[i - 1])
        y, f = sums.unbind(0), decay.unbind(0)
        for i in range(1, blocks):
            y[i].addcmul_(f[i], y[i - 1][-1])
        return sums.flatten(0, 1)[:n]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)
        ctx.save_for_forward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        factors, y = ctx.saved_tensors
        back = RunningSum.apply(gradients[0].flip(0), factors.flip(0).roll(1, 0)).flip(0)
        return back, (back * _before(y)).sum_to_size(factors.shape)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        factors, y = ctx.saved_tensors
        return RunningSum.apply(tangents[0] + tangents[1] * _before(y), factors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *given: Tensor) -> tuple[Tensor, int]:
        places = zip(given, in_dims, strict=True)
        moved = [x.unsqueeze(-1) if k is None else x.movedim(k, -1) for x, k in places]
        shape = torch.broadcast_shapes(*(x.shape for x in moved))
        return RunningSum.apply(moved[0].expand(shape), moved[1]), -1


def _before(y: Tensor) -> Tensor:
    """What stands one place before, 0 before the first."""
    return torch.cat([torch.zeros_like(y[:1]), y[:-1]])


def running_sum(x: Tensor, factors: Tensor) -> Tensor:
    """y_i = x_i + f_i y_(i-1) along the first axis, (n, ...) each; the factors may be 1 long on other axes.

    Compilers cannot follow writes into windows of one tensor. They get sums over 1, 2, 4, 8, ... places
    instead: more work, but in few steps that they can fuse.

    Source: Hillis & Steele (1986).
    """
    if not torch.compiler.is_compiling():
        return RunningSum.apply(x, factors)
    reach = 1
    while reach < len(x):
        x = torch.cat([x[:reach], x[reach:] + factors[reach:] * x[:-reach]])
        factors = torch.cat([factors[:reach], factors[reach:] * factors[:-reach]])
        reach *= 2
    return x


@primitive("sorting", "{0}")
def both_ways(ordered: Tensor) -> Tensor:
    """A descending row read from either end, all that :func:`softsorted` needs before it knows tau.

    Args:
        ordered: rows (B, n) in descending order.

    Returns:
        (n, 3, 2, B): minus the distance from the place before, 0 at first; ones; the values. Each from the
        left and from the right.

    Chapter 18, :eq:`eq-softsorted`.
    """
    a = ordered.movedim(-1, 0).contiguous()  # so that each step of the sums reads whole rows
    values, falling = torch.stack([a, a.flip(0)], 1), torch.stack([a, -a.flip(0)], 1)
    steps = falling.diff(dim=0, prepend=falling[:1])
    return torch.stack([steps, torch.ones_like(values), values], 1)


@primitive("sorting", "softsorted({0}, tau={tau})")
def blur_sorted(ways: Tensor, tau: float | Tensor) -> Tensor:
    """:func:`softsorted` of rows that :func:`both_ways` has read, (n, 3, 2, B) to (B, n).

    Chapter 18, :eq:`eq-softsorted`.
    """
    sums = running_sum(ways[:, 1:], (ways[:, :1] / tau).exp())
    weights, values = (sums[:, :, 0] + sums[:, :, 1].flip(0)).unbind(1)
    return ((values - ways[:, 2, 0]) / (weights - 1)).movedim(0, -1).contiguous()


def softsorted(ordered: T, tau: float) -> T:
    """What SoftSort's matrix makes of the values themselves, without the matrix: n numbers, not n^2.

    Over a sorted list the weight exp(-|a_i - a_j| / tau) is the product of the weights of the steps between,
    so the sum to the left of i is the one to the left of i - 1 times one weight. No factor is above 1, so
    nothing overflows.

    Args:
        ordered: rows (B, n) in descending order, from :func:`sort`.
        tau: the temperature, above 0.

    Returns:
        (B, n), equal to softsort(s, tau) @ s.

    Source: Prillo & Eisenschlos (2020), eq. 3. Chapter 18, :eq:`eq-softsorted`.

    >>> softsorted(torch.tensor([[3.0, 2.0, 1.0]]), tau=0.01).round(decimals=3)
    tensor([[3., 2., 1.]])
    """
    return blur_sorted(both_ways(ordered), tau)


@primitive("sorting")
def absolute_row_sums(s: Tensor, ordered: Tensor) -> Tensor:
    """sum_j |s_i - s_j| for every i, in n log n steps: the place of s_i in the sorted row tells the signs.

    Args:
        s: rows (B, n).
        ordered: the same rows in descending order, from :func:`sort`.

    Returns:
        (B, n).

    Chapter 18, :eq:`eq-row-sums`.

    >>> absolute_row_sums(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[3.0, 2.0, 1.0]]))
    tensor([[3., 3., 2.]])
    """
    n = s.shape[-1]
    middle = ordered[..., n // 2 : n // 2 + 1].detach()  # sums around it lose less than sums around 0
    s, ordered = s - middle, ordered - middle
    keys, wanted = -ordered.detach(), -s.detach()
    larger, not_less = (torch.searchsorted(keys, wanted, right=right) for right in (False, True))
    sums = torch.cat([ordered.new_zeros(*ordered.shape[:-1], 1), ordered.cumsum(-1)], -1)
    # The mean of counting equal values in and of leaving them out: then they pull each other neither way.
    return sums.gather(-1, larger) + sums.gather(-1, not_less) - sums[..., -1:] + (n - larger - not_less) * s


@primitive("sorting")
def order_weights(s: Tensor, row_sums: Tensor, tau: float | Tensor) -> Tensor:
    """softmax over j of ((n + 1 - 2 i) s_j - row_sums_j) / tau, for i = 1 ... n: (B, n, n).

    Chapter 18, :eq:`eq-neuralsort`.
    """
    n = s.shape[-1]
    s = s - s.detach().mean(-1, keepdim=True)  # what all share says nothing about their order, and n times it
    slope = n - 1 - 2 * torch.arange(n, device=s.device, dtype=s.dtype)
    return torch.softmax((slope.unsqueeze(-1) * s.unsqueeze(-2) - row_sums.unsqueeze(-2)) / tau, -1)


def neuralsort(s: T, tau: float) -> T:
    """NeuralSort: softmax(((n + 1 - 2 i) s_j - sum_k |s_j - s_k|) / tau) for i = 1 ... n.

    Its logarithms grow with n, SoftSort's do not: to blur over a fixed share of a row tau must grow with n,
    over a fixed number of neighbours it must fall.

    Args:
        s: rows (B, n).
        tau: the temperature, above 0.

    Returns:
        P (B, n, n): rows sum to 1, P s is s in descending order as tau goes to 0 and its mean as tau grows.

    Source: Grover et al. (2019), eq. 5. Chapter 18, :eq:`eq-neuralsort`.

    >>> neuralsort(torch.tensor([[1.0, 3.0, 2.0]]), tau=0.01).round().int().tolist()
    [[[0, 1, 0], [0, 0, 1], [1, 0, 0]]]
    """
    return order_weights(s, absolute_row_sums(s, sort(s)), tau)


@primitive("sorting")
def soft_rank(s: Tensor, tau: float | Tensor) -> Tensor:
    """1/2 + sum_j sigmoid((s_j - s_i) / tau): how many are larger, each counted softly.

    Args:
        s: rows (B, n).
        tau: the temperature, above 0.

    Returns:
        (B, n): the ranks 1 (largest) to n as tau goes to 0, (n + 1) / 2 for all as tau grows.

    Raises:
        ValueError: s has no axis, or tau is not above 0.

    Source: Qin, Liu & Li (2010), ranks as sums of sigmoids. Chapter 18, :eq:`eq-soft-rank`.

    >>> soft_rank(torch.tensor([[1.0, 3.0, 2.0]]), tau=0.01)
    tensor([[3., 1., 2.]])
    """
    _check.rows("s", s)
    return torch.sigmoid((s.unsqueeze(-2) - s.unsqueeze(-1)) / tau).sum(-1) + 0.5


@primitive("sorting")
def score(distance: Tensor, tau: float | Tensor) -> Tensor:
    """-distance / tau, the logarithm of a plan (B, m, n) that has not been balanced yet.

    Chapter 18, :eq:`eq-sinkhorn-sort`.
    """
    return distance / -tau


@primitive("sorting")
def log_sinkhorn(log_alpha: Tensor, iterations: int) -> Tensor:
    """:func:`sinkhorn` in logarithms, (B, n, n); applied again it goes on: 3 rounds and 2 are 5.

    Raises:
        ValueError: log_alpha is not square, or iterations is below 1.

    Chapter 18, :eq:`eq-sinkhorn`.
    """
    if log_alpha.ndim < 2 or log_alpha.shape[-1] != log_alpha.shape[-2]:
        raise ValueError(f"log_alpha must have shape (..., n, n), got {tuple(log_alpha.shape)}")
    for _ in range(iterations):
        log_alpha = log_alpha.log_softmax(-1)
        log_alpha = log_alpha.log_softmax(-2)
    return log_alpha


def sinkhorn(log_alpha: T, iterations: int) -> T:
    """Balance exp(log_alpha): divide rows, then columns, by their sums, again and again, in logarithms.

    Args:
        log_alpha: scores (B, n, n).
        iterations: T, at least 1.

    Returns:
        P (B, n, n): columns sum to 1; rows do in the limit of many rounds.

    Raises:
        ValueError: log_alpha is not square, or iterations is below 1.

    Source: Sinkhorn & Knopp (1967); Mena et al. (2018), eq. 3. Chapter 18, :eq:`eq-sinkhorn`.

    >>> sinkhorn(torch.zeros(1, 2, 2), iterations=1)
    tensor([[[0.5000, 0.5000],
             [0.5000, 0.5000]]])
    """
    return exp(log_sinkhorn(log_alpha, iterations))


@primitive(template="{0:power} · {1:power}", binding="product")
def collect(values: Tensor, weights: Tensor) -> Tensor:
    """sum_i values_i weights_ij: each column's share of the values, (B, n) and (B, n, m) to (B, m).

    Chapter 18, :eq:`eq-sinkhorn-sort`.
    """
    return (values.unsqueeze(-2) @ weights).squeeze(-2)


def sinkhorn_sort(s: T, places: T, tau: float, iterations: int) -> T:
    """Sort by transport: Sinkhorn on the scores -(s_i - y_j)^2 / tau carries each value to a place y_j.

    Args:
        s: rows (B, n), standardised.
        places: y (n,), descending: `anchors(dim)` in a formula.
        tau: the temperature, above 0.
        iterations: T, at least 1.

    Returns:
        (B, n), descending as the places are, inside the range of each row.

    Source: Cuturi, Teboul & Vert (2019). Chapter 18, :eq:`eq-sinkhorn-sort`.
    """
    return collect(s, sinkhorn(score(squared_difference(s, places), tau), iterations))
