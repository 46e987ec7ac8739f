"""The quadratic form sum_ij W[k, i, j] x_i x_j as one matrix product over unordered pairs, each counted once.

The N (N + 1) / 2 pairs are ordered by circular diagonals: pair d * N + i is {i, (i + d) mod N}. So all pairs
of one d are a product of two contiguous blocks (x and x shifted by d), and nothing is gathered by index.

All this is for eager speed. A compiler fuses what is written plainly: while it traces, `quadratic` and `pack`
are the plain formulas.
"""

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def count_pairs(num_basis: int) -> int:
    """N (N + 1) / 2, the number of unordered pairs."""
    return num_basis * (num_basis + 1) // 2


def pair_members(num_basis: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The two molecules (i, j) of every pair, two index tensors (P,)."""
    position = torch.arange(count_pairs(num_basis), device=device)
    i, shift = position % num_basis, position // num_basis
    return i, (i + shift) % num_basis


def pair_positions(num_basis: int, device: torch.device | None = None) -> Tensor:
    """The number of the pair {i, j} for every (i, j), an index tensor (N, N)."""
    j = torch.arange(num_basis, device=device)
    i = j[:, None]
    there, back = (j - i) % num_basis, (i - j) % num_basis
    first = torch.where(there < back, i, torch.where(there > back, j, torch.minimum(i, j)))
    return torch.minimum(there, back) * num_basis + first


def pack(weight: Tensor) -> Tensor:
    """The coefficient of every pair, (N, P) from W (N, N, N): W[k, i, j] + W[k, j, i], or W[k, i, i]."""
    return _pack(weight) if torch.compiler.is_compiling() else _Pack.apply(weight)


def unpack(packed: Tensor) -> Tensor:
    """The symmetric W (N, N, N) of coefficients (N, P): the inverse of `pack` on symmetric tensors."""
    i, j = pair_members(len(packed), packed.device)
    halved = packed * torch.where(i == j, 1.0, 0.5).to(packed)
    return halved[:, pair_positions(len(packed), packed.device)]


def quadratic(x: Tensor, packed: Tensor) -> Tensor:
    """R (B, N) from x (B, N) and the coefficients (N, P) of `pack`."""
    if torch.compiler.is_compiling():
        return multiply_pairs(x.T).T @ packed.T
    return PackedQuadratic.apply(x, packed)


def _pack(weight: Tensor) -> Tensor:
    size = len(weight)
    i, j = pair_members(size, weight.device)
    flat = weight.flatten(1)
    return flat.index_select(1, i * size + j) + (i != j) * flat.index_select(1, j * size + i)


class _Pack(torch.autograd.Function):
    """`pack`, which autograd would undo by scattering: every (i, j) can fetch its gradient instead."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return _pack(weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        size = len(grad)
        positions = pair_positions(size, grad.device)
        return grad.index_select(1, positions.flatten()).view(size, size, size)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return _Pack.apply(tangent)


def _shifts(wrapped: Tensor, size: int) -> tuple[Tensor, ...]:
    """Views of `size` numbers of a matrix, starting at its rows 0, 1, 2, ... while there are so many."""
    return wrapped.flatten().unfold(0, size, wrapped.shape[1]).unbind(0)


def multiply_pairs(x: Tensor, y: Tensor | None = None) -> Tensor:
    """x_i x_j of every pair, (P, B) from x (N, B), or x_i y_j where j is i shifted.

    Molecules come first, so that all blocks are contiguous.
    """
    num_basis, batch = x.shape
    y = x if y is None else y
    wrapped = torch.cat([y, y[: num_basis // 2]])
    if torch.compiler.is_compiling():  # windows of molecules, whatever the batch
        pairs = x.T[:, None] * wrapped.T.unfold(1, num_basis, 1)  # (B, shifts, N)
        return pairs.flatten(1)[:, : count_pairs(num_basis)].T
    wrapped = wrapped.flatten()
    # One row per shift d, flat, so that torch sees the inner axis and makes the product contiguous.
    pairs = wrapped.unfold(0, num_basis * batch, max(batch, 1)) * x.flatten()
    if x.device.type == "cpu":  # a product with a subnormal number takes a hundred times as long
        pairs = F.hardshrink(pairs, torch.finfo(x.dtype).tiny)
    return pairs.reshape((num_basis // 2 + 1) * num_basis, batch)[: count_pairs(num_basis)]


def _multiply_both(x: Tensor, y: Tensor) -> Tensor:
    """x_i y_j + y_i x_j of every pair, the change of x_i x_j as x changes by y; (P, B) from two (N, B)."""
    return multiply_pairs(x, y) + multiply_pairs(y, x)


class PackedQuadratic(torch.autograd.Function):
    """`quadratic`, as it is run.

    Autograd would keep the pairs of every step, (N + 1) / 2 times the size of x. Here they are made again on
    the way back: the memory stays small, at a few hundredths of the time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, packed: Tensor) -> Tensor:
        return (packed @ multiply_pairs(x.T.contiguous())).T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, packed = ctx.saved_tensors
        x, grad = x.T.contiguous(), grad.T.contiguous()
        grad_x = _Spread.apply(x, packed.T @ grad).T if ctx.needs_input_grad[0] else None
        grad_packed = grad @ multiply_pairs(x).T if ctx.needs_input_grad[1] else None
        return grad_x, grad_packed

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dpacked: Tensor | None) -> Tensor:
        x, packed = ctx.saved_tensors
        changes = []
        if dx is not None:
            changes.append((packed @ _multiply_both(x.T.contiguous(), dx.T.contiguous())).T)
        if dpacked is not None:
            changes.append(PackedQuadratic.apply(x, dpacked))
        return sum(changes[1:], changes[0])


class _Spread(torch.autograd.Function):
    """The gradient of `multiply_pairs`: that of x (N, B) from that of the pairs (P, B).

    The pair {i, i + d} gives its gradient times x of i + d to i, and times x of i to i + d. Columns are
    independent, so that under vmap all models are one wide batch.
    """

    @staticmethod
    def forward(x: Tensor, grad_pairs: Tensor) -> Tensor:
        if not x.numel():
            return torch.zeros_like(x)
        num_basis, half, size = len(x), len(x) // 2, x.numel()
        flat, partners = x.flatten(), _shifts(torch.cat([x, x[:half]]), size)
        spread = F.pad(2 * grad_pairs[:num_basis] * x, (0, 0, 0, half))  # d = 0, and room for i + d >= N
        targets = _shifts(spread, size)
        own = targets[0]
        shifts = zip(grad_pairs.flatten().split(size), partners, targets, strict=True)
        for block, partner, target in itertools.islice(shifts, 1, None):
            if len(block) < size:  # the last shift of an even N has only half of its pairs
                own, flat, partner, target = (t[: len(block)] for t in (own, flat, partner, target))
            own.addcmul_(block, partner)
            target.addcmul_(block, flat)
        spread[:half] += spread[num_basis:]
        return spread[:num_basis].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, grad_pairs = ctx.saved_tensors
        return _Spread.apply(grad, grad_pairs), _multiply_both(x, grad)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dgrad: Tensor | None) -> Tensor:
        x, grad_pairs = ctx.saved_tensors
        changes = []
        if dx is not None:
            changes.append(_Spread.apply(dx, grad_pairs))
        if dgrad is not None:
            changes.append(_Spread.apply(x, dgrad))
        return sum(changes[1:], changes[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], *inputs: Tensor) -> tuple[Tensor, int]:
        models = info.batch_size
        wide = [
            (t[:, None].expand(-1, models, -1) if dim is None else t.movedim(dim, 1)).flatten(1)
            for t, dim in zip(inputs, in_dims, strict=True)
        ]
        return _Spread.apply(*wide).unflatten(1, (models, -1)), 1
