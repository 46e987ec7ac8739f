"""The two memos joined: a reaction whose molecules are the operators of a bank."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import Recorded, autocasts
from csos_lib.dynamics import iterate, mirror_step
from csos_lib.operators.bank import Bank
from csos_lib.operators.mixture import mix
from csos_lib.reactions import CPReaction


class ReactionMixture(Recorded):
    """A soft choice among operators that each row makes by a reaction: molecule k is operator k.

    x_0 = softmax(h A^T + b), T mirror steps of a CP reaction give x_T, and y = sum_k (x_T)_k Norm(f_k(h)).
    With T = 0 it is the softmax gate of a mixture of experts in which every expert speaks.

    Args:
        bank: K operators, at least one of which fixes d.
        rank: R of the reaction, at least 1.
        steps: T, at least 0.
        decay: the share of log x that is forgotten in each step, in [0, 1).
        alpha: the strength of the reaction, at least 0.

    Attributes:
        encoder: nn.Linear(d, K).
        reaction: CPReaction(K, R).

    Raises:
        ValueError: an argument is out of range, or h is not (B, d).

    Source: memos 1 and 2; Jacobs et al. (1991), eq. 1, for the gate. Chapter 22, :eq:`eq-reaction-mixture`.

    >>> from csos_lib.operators import mini_library
    >>> mixture = ReactionMixture(mini_library(dim=8))
    >>> mixture(torch.rand(3, 8)).shape, mixture.weights(torch.rand(3, 8)).shape
    (torch.Size([3, 8]), torch.Size([3, 32]))
    """

    def __init__(
        self, bank: Bank, rank: int = 16, steps: int = 3, decay: float = 0.1, alpha: float = 0.3
    ) -> None:
        super().__init__()
        if not isinstance(bank, Bank) or bank.dim is None:
            raise ValueError(f"bank must be a Bank in which something fixes d, got {bank!r}")
        self.bank, self.steps = bank, _check.integer("steps", steps, 0)
        self.decay = _check.number("decay", decay, 0, 1, below=True)
        self.alpha = _check.number("alpha", alpha, 0)
        self.encoder = nn.Linear(bank.dim, len(bank))
        self.reaction = CPReaction(len(bank), rank)

    def weights(self, h: Tensor) -> Tensor:
        """x_T (B, K) of rows h (B, d): how much each row listens to each operator; every row sums to 1."""
        for log_x in self._log_states(h):
            last = log_x
        return last.exp()

    def trajectory(self, h: Tensor) -> Tensor:
        """x_0, ..., x_T (T + 1, B, K) of rows h (B, d)."""
        return torch.stack(list(self._log_states(h))).exp()

    def forward(self, h: Tensor) -> Tensor:
        return mix(self.bank, h, self.weights(h))

    def _log_states(self, h: Tensor) -> Iterator[Tensor]:
        dtype = self.encoder.weight.dtype
        h = h.to(dtype) if autocasts(h) else h
        _check.matrix("h", h, self.encoder.in_features, dtype)
        log_x = self.encoder(h).to(dtype).log_softmax(1)
        return iterate(log_x, mirror_step, self.reaction, self.steps, self.decay, self.alpha)

    def _recipe(self) -> dict[str, Any]:
        return {"steps": self.steps, "decay": self.decay, "alpha": self.alpha}

    def extra_repr(self) -> str:
        return f"steps={self.steps}, decay={self.decay}, alpha={self.alpha}"
