"""Soft mixing: every operator always speaks, with a weight that is learned."""

from typing import Any

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import Recorded, autocasts, has_hooks
from csos_lib.operators.axes import Grid
from csos_lib.operators.bank import Bank
from csos_lib.operators.inner import rms
from csos_lib.operators.library import mini_library


def mix(bank: Bank, h: Tensor, weights: Tensor) -> Tensor:
    """sum_k weights_k f_k(h), added up as the operators answer, so that (K, B, d) never exists.

    A bank with hooks is called instead, so that they see its answers.

    Args:
        bank: K operators.
        h: rows (B, d).
        weights: (K,), or (B, K) to weigh each row on its own.

    Returns:
        (B, d).

    Raises:
        ValueError: weights is not (K,) or (B, K).

    Source: memo 2, section 0. Chapter 13, :eq:`eq-mixture`; chapter 21, :eq:`eq-stream`; chapter 22.
    """
    _check.floating("weights", weights)
    # Only shapes of one length are compared: else a graph for any batch would have to exclude B = K.
    if weights.shape != ((h.shape[0], len(bank)) if weights.ndim == 2 else (len(bank),)):
        count = len(bank)
        raise ValueError(f"weights must have shape ({count},) or (B, {count}), got {tuple(weights.shape)}")
    if has_hooks(bank):
        return torch.einsum("kbd,bk->bd" if weights.ndim == 2 else "kbd,k->bd", bank(h), weights)
    columns = weights.unsqueeze(-2).unbind(-1)  # (1,) or (B, 1) each
    y: Tensor | None = None
    for operators, value, scale in bank.factors(h):
        weight = sum((columns[k] for k in operators[1:]), columns[operators[0]])
        factor = weight if scale is None else weight * scale
        y = factor * value if y is None else torch.addcmul(y, factor, value)
    assert y is not None
    return y


class Mixture(Recorded):
    """A soft choice among operators: y = sum_k pi_k Norm(f_k(h)), pi = softmax(logits / temperature).

    Args:
        bank: K operators.
        temperature: above 0; low lets few speak, high all. An attribute that may be changed at any time; not
            learned, because to rescale the logits does the same.
        residual: add h, y = h + sum_k ...

    Attributes:
        logits: (K,), zero at first: all weights 1 / K.

    Raises:
        ValueError: an argument is out of range, or h is not (B, d).

    Source: memo 2, section 0. Chapter 13, :eq:`eq-mixture` and :eq:`eq-choice-gradient`.

    >>> mixture = Mixture(mini_library(dim=8))
    >>> mixture(torch.rand(3, 8)).shape, mixture.weights.sum().item()
    (torch.Size([3, 8]), 1.0)
    """

    def __init__(self, bank: Bank, temperature: float = 1.0, residual: bool = False) -> None:
        super().__init__()
        if not isinstance(bank, Bank):
            raise ValueError(f"bank must be a Bank, got {type(bank).__name__}")
        self.temperature = _check.number("temperature", temperature, 0, above=True)
        self.bank, self.residual = bank, residual
        self.logits = nn.Parameter(torch.zeros(len(bank)))

    @property
    def weights(self) -> Tensor:
        """pi (K,), on the simplex."""
        return torch.softmax(self.logits / self.temperature, 0)

    def forward(self, h: Tensor) -> Tensor:
        y = mix(self.bank, h, self.weights)
        return h + y if self.residual else y

    def _recipe(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "residual": self.residual}

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, residual={self.residual}"


class OperatorNet(nn.Module):
    """A classifier made of operators: a stem, residual blocks, a head.

    Each block adds to its input x a learned matrix times a mixture of operators of rms(x).

    Args:
        dim: d, the length of a row between the layers, at least 2.
        blocks: how many mixtures, at least 0; each has a library of its own.
        seed: fixes the libraries' random numbers, at least 0; stem and head come from torch's generator.
        grid: (height, width) with height * width = dim, or None.
        doublings: how often each library is doubled, at least 0.
        learnable: learn the operators' continuous parameters too.
        temperature: of every mixture, above 0; low, because the weights move by steps of lr / temperature and
            are to be chosen while the matrices are learned.
        inputs: how many numbers a row has before the stem, at least 1.
        classes: how many classes there are, at least 1.

    Raises:
        ValueError: an argument is out of range, or images are not (B, inputs) of the dtype of the model.

    Source: memo 2; He et al. (2016), residual blocks. Chapter 13.

    >>> OperatorNet(dim=16)(torch.rand(2, 784)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        dim: int = 64,
        blocks: int = 2,
        seed: int = 0,
        grid: Grid = None,
        doublings: int = 0,
        learnable: bool = False,
        temperature: float = 0.02,
        *,
        inputs: int = 784,
        classes: int = 10,
    ) -> None:
        super().__init__()
        dim, blocks = _check.integer("dim", dim, 2), _check.integer("blocks", blocks, 0)
        seed, doublings = _check.integer("seed", seed, 0), _check.integer("doublings", doublings, 0)
        _check.number("temperature", temperature, 0, above=True)
        self.stem = nn.Linear(_check.integer("inputs", inputs, 1), dim)
        self.mixtures = nn.ModuleList()
        for block in range(blocks):
            bank = mini_library(dim, seed + block, grid, learnable)
            for _ in range(doublings):
                bank = bank.doubled()
            self.mixtures.append(Mixture(bank, temperature))
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in range(blocks))
        self.head = nn.Linear(dim, _check.integer("classes", classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, classes) of images (B, inputs)."""
        dtype = self.stem.weight.dtype
        images = images.to(dtype) if autocasts(images) else images
        _check.matrix("images", images, self.stem.in_features, dtype)
        x = self.stem(images).to(dtype)  # autocast is for the linear maps alone
        for mixture, linear in zip(self.mixtures, self.maps, strict=True):
            x = x + linear(mixture(rms(x)))
        return torch.log_softmax(self.head(rms(x)).to(dtype), -1)
