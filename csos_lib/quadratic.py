"""The quadratic form sum_ij W[k, i, j] x_i x_j as one matrix product over unordered pairs, each counted once.

The N (N + 1) / 2 pairs are ordered by circular diagonals: pair d * N + i is {i, (i + d) mod N}. So all pairs
of one d are a product of two contiguous blocks (x and x shifted by d), and nothing is gathered by index.
"""

import itertools

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
    i, j = pair_members(num_basis, device)
    positions = torch.empty(num_basis, num_basis, dtype=torch.int64, device=device)
    positions[i, j] = positions[j, i] = torch.arange(len(i), device=device)
    return positions


def pack(weight: Tensor) -> Tensor:
    """The coefficient of every pair, (N, P) from W (N, N, N): W[k, i, j] + W[k, j, i], or W[k, i, i]."""
    return _Pack.apply(weight)


def unpack(packed: Tensor) -> Tensor:
    """The symmetric W (N, N, N) of coefficients (N, P): the inverse of `pack` on symmetric tensors."""
    i, j = pair_members(len(packed), packed.device)
    halved = packed * torch.where(i == j, 1.0, 0.5).to(packed)
    return halved[:, pair_positions(len(packed), packed.device)]


class _Pack(torch.autograd.Function):
    """`pack`, which autograd would undo by scattering: every (i, j) can fetch its gradient instead."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        size = len(weight)
        i, j = pair_members(size, weight.device)
        flat = weight.flatten(1)
        return flat.index_select(1, i * size + j) + (i != j) * flat.index_select(1, j * size + i)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        size = len(grad)
        positions = pair_positions(size, grad.device)
        return grad.index_select(1, positions.flatten()).view(size, size, size)


def _shifts(wrapped: Tensor, size: int) -> tuple[Tensor, ...]:
    """Views of `size` numbers of a matrix, starting at its rows 0, 1, 2, ... while there are so many."""
    return wrapped.flatten().unfold(0, size, wrapped.shape[1]).unbind(0)


def multiply_pairs(x: Tensor) -> Tensor:
    """x_i x_j of every pair, (P, B) from x (N, B): molecules first, so that all blocks are contiguous."""
    num_basis, batch = x.shape
    wrapped = torch.cat([x, x[: num_basis // 2]]).flatten()
    # One row per shift d, flat, so that torch sees the inner axis and makes the product contiguous.
    pairs = wrapped.unfold(0, num_basis * batch, max(batch, 1)) * x.flatten()
    return pairs.reshape((num_basis // 2 + 1) * num_basis, batch)[: count_pairs(num_basis)]


def _molecules_first(x: Tensor) -> Tensor:
    # Products of numbers below this would be subnormal, a hundred times as slow. Beside concentrations that
    # sum to 1 they are far less than what rounding leaves out of R(x).
    return F.hardshrink(x.T.contiguous(), torch.finfo(x.dtype).tiny ** 0.5)


class PackedQuadratic(torch.autograd.Function):
    """R (B, N) from x (B, N) and the coefficients (N, P) of `pack`.

    Autograd would keep the pairs of every step, (N + 1) / 2 times the size of x. Here they are made again on
    the way back: the memory stays small, at a few hundredths of the time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, packed: Tensor) -> Tensor:
        return (packed @ multiply_pairs(_molecules_first(x))).T

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        x, packed = ctx.saved_tensors
        x, grad = _molecules_first(x), grad.T.contiguous()
        grad_x = _Spread.apply(x, packed.T @ grad).T if ctx.needs_input_grad[0] else None
        grad_packed = grad @ multiply_pairs(x).T if ctx.needs_input_grad[1] else None
        return grad_x, grad_packed


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
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        x, grad_pairs = ctx.saved_tensors
        # Bilinear in x and the gradient of the pairs; x_i v_j + v_i x_j comes from the products of x + v.
        mixed = multiply_pairs(x + grad) - multiply_pairs(x) - multiply_pairs(grad)
        return _Spread.apply(grad, grad_pairs), mixed

    @staticmethod
    def vmap(info, in_dims: tuple[int | None, int | None], *inputs: Tensor) -> tuple[Tensor, int]:  # type: ignore[no-untyped-def]
        models = info.batch_size
        wide = [
            (t[:, None].expand(-1, models, -1) if dim is None else t.movedim(dim, 1)).flatten(1)
            for t, dim in zip(inputs, in_dims, strict=True)
        ]
        return _Spread.apply(*wide).unflatten(1, (models, -1)), 1
