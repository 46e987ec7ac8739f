"""The quadratic form sum_ij W[k, i, j] x_i x_j as one matrix product over unordered pairs, each counted once.

The N (N + 1) / 2 pairs are ordered by circular diagonals: pair d * N + i is {i, (i + d) mod N}. So all pairs
of one d are a product of two contiguous blocks (x and x shifted by d), and nothing is gathered by index.
"""

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


def pack(weight: Tensor) -> Tensor:
    """The coefficient of every pair, (N, P) from W (N, N, N): W[k, i, j] + W[k, j, i], or W[k, i, i]."""
    i, j = pair_members(weight.shape[0], weight.device)
    return weight[:, i, j] + (i != j) * weight[:, j, i]


def unpack(packed: Tensor) -> Tensor:
    """The symmetric W (N, N, N) of coefficients (N, P): the inverse of `pack` on symmetric tensors."""
    num_basis = packed.shape[0]
    i, j = pair_members(num_basis, packed.device)
    position = torch.empty(num_basis, num_basis, dtype=torch.int64, device=packed.device)
    position[i, j] = position[j, i] = torch.arange(len(i), device=packed.device)
    return (packed * torch.where(i == j, 1.0, 0.5).to(packed))[:, position]


def multiply_pairs(x: Tensor) -> Tensor:
    """x_i x_j of every pair, (P, B) from x (N, B): molecules first, so that all blocks are contiguous."""
    num_basis, batch = x.shape
    wrapped = torch.cat([x, x[: num_basis // 2]]).flatten()
    # One row per shift d, flat, so that torch sees the inner axis and makes the product contiguous.
    pairs = wrapped.unfold(0, num_basis * batch, max(batch, 1)) * x.flatten()
    return pairs.reshape((num_basis // 2 + 1) * num_basis, batch)[: count_pairs(num_basis)]


class PackedQuadratic(torch.autograd.Function):
    """R (B, N) from x (B, N) and the coefficients (N, P) of `pack`.

    Autograd would keep the pairs of every step, (N + 1) / 2 times the size of x. Here they are made again on
    the way back: the memory stays small, at a few hundredths of the time.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, packed: Tensor) -> Tensor:
        return (packed @ multiply_pairs(x.T.contiguous())).T

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        x, packed = ctx.saved_tensors
        x, grad = x.T.contiguous(), grad.T.contiguous()
        grad_x = _spread(x, packed.T @ grad).T if ctx.needs_input_grad[0] else None
        grad_packed = grad @ multiply_pairs(x).T if ctx.needs_input_grad[1] else None
        return grad_x, grad_packed


def _spread(x: Tensor, grad_pairs: Tensor) -> Tensor:
    """The gradient of `multiply_pairs`: that of x (N, B) from that of the pairs (P, B)."""
    num_basis, shifts = len(x), len(x) // 2
    wrapped = torch.cat([x, x[:shifts]])
    spread = F.pad(2 * grad_pairs[:num_basis] * x, (0, 0, 0, shifts))
    for shift in range(1, shifts + 1):
        block = grad_pairs[shift * num_basis : (shift + 1) * num_basis]
        rows = len(block)  # half of them for the last shift of an even N
        spread[:rows] += block * wrapped[shift : shift + rows]
        spread[shift : shift + rows] += block * x[:rows]
    return torch.cat([spread[:shifts] + spread[num_basis:], spread[shifts:num_basis]])
