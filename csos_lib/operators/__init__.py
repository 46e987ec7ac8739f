"""Differentiable operators h (B, d) -> (B, d) without end: formulas on one shared graph.

>>> import torch
>>> from csos_lib.operators import Bank, h, rms, sin, weight
>>> bank = Bank([rms(sin(s * (h @ weight(dim=8))) + h) for s in (0.1, 1.0, 10.0)])
>>> bank(torch.rand(5, 8)).shape
torch.Size([3, 5, 8])
>>> print(bank[1])
rms(sin(1 * (h @ W0)) + h)
"""

from csos_lib.operators.algebraic import gate, power, ratio, rational
from csos_lib.operators.bank import Bank
from csos_lib.operators.expressions import Expression, h
from csos_lib.operators.inner import (
    anchors,
    closeness,
    exp,
    gelu,
    layer_norm,
    phases,
    points,
    rms,
    sigmoid,
    tanh,
    weigh,
    weight,
)
from csos_lib.operators.spectral import cos, phase, random_fourier_features, sample_frequencies, sin

__all__ = [
    "Bank",
    "Expression",
    "anchors",
    "closeness",
    "cos",
    "exp",
    "gate",
    "gelu",
    "h",
    "layer_norm",
    "phase",
    "phases",
    "points",
    "power",
    "random_fourier_features",
    "ratio",
    "rational",
    "rms",
    "sample_frequencies",
    "sigmoid",
    "sin",
    "tanh",
    "weigh",
    "weight",
]
