"""What W is: modules that hold the rates of a reaction and map concentrations to production."""

import torch
from torch import Tensor, nn

from csos_lib import _check


class DenseReaction(nn.Module):
    """Every pair makes every molecule: R(x)_k = sum_ij W[k, i, j] x_i x_j with W free.

    Args:
        num_basis: N, the number of molecules, at least 1.

    Attributes:
        weight: W (N, N, N), indexed [k, i, j]; starts as 0.05 times a standard normal.

    Raises:
        ValueError: num_basis is not a positive integer; x is not (B, N) of the dtype of W.

    Source: memo 1, section 2. Chapter 2, :eq:`eq-reaction`.

    >>> reaction = DenseReaction(3)
    >>> reaction(torch.full((1, 3), 1 / 3)).shape
    torch.Size([1, 3])
    """

    def __init__(self, num_basis: int) -> None:
        super().__init__()
        _check.integer("num_basis", num_basis, 1)
        self.num_basis = num_basis
        self.weight = nn.Parameter(0.05 * torch.randn(num_basis, num_basis, num_basis))

    def forward(self, x: Tensor) -> Tensor:
        _check.matrix("x", x, self.num_basis, self.weight.dtype)
        pairs = (x[:, :, None] * x[:, None, :]).flatten(1)  # (B, N * N): one matrix product does the rest
        return pairs @ self.weight.flatten(1).T

    def to_tensor(self) -> Tensor:
        """W (N, N, N) as W[k, i, j]."""
        return self.weight

    def extra_repr(self) -> str:
        return f"num_basis={self.num_basis}"
