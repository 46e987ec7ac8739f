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
from csos_lib.operators.diffusion import derivative, diffuse, edges, gaussian_blur, laplacian
from csos_lib.operators.drawing import draw
from csos_lib.operators.expressions import Expression, h, primitive
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
from csos_lib.operators.kernel import prototypes, rbf, soft_neighbours, squared_distance
from csos_lib.operators.library import Library, mini_library, spread
from csos_lib.operators.mixture import Mixture, OperatorNet, mix
from csos_lib.operators.morphology import closing, dilate, erode, lse, opening, soft_quantile
from csos_lib.operators.programs import draw_programs, sample_programs
from csos_lib.operators.reaction_mixture import ReactionMixture
from csos_lib.operators.reaction_net import ReactionNet, eyes
from csos_lib.operators.sorting import (
    absolute_difference,
    absolute_row_sums,
    collect,
    log_sinkhorn,
    neuralsort,
    order_weights,
    score,
    sinkhorn,
    sinkhorn_sort,
    soft_rank,
    softsort,
    softsorted,
    sort,
    squared_difference,
)
from csos_lib.operators.spectral import cos, phase, random_fourier_features, sample_frequencies, sin

__all__ = [
    "Bank",
    "Expression",
    "Library",
    "Mixture",
    "OperatorNet",
    "ReactionMixture",
    "ReactionNet",
    "absolute_difference",
    "absolute_row_sums",
    "anchors",
    "closeness",
    "closing",
    "collect",
    "cos",
    "derivative",
    "diffuse",
    "dilate",
    "draw",
    "draw_programs",
    "edges",
    "erode",
    "exp",
    "eyes",
    "gate",
    "gaussian_blur",
    "gelu",
    "h",
    "laplacian",
    "layer_norm",
    "log_sinkhorn",
    "lse",
    "mini_library",
    "mix",
    "neuralsort",
    "opening",
    "order_weights",
    "phase",
    "phases",
    "points",
    "power",
    "primitive",
    "prototypes",
    "random_fourier_features",
    "ratio",
    "rational",
    "rbf",
    "rms",
    "sample_frequencies",
    "sample_programs",
    "score",
    "sigmoid",
    "sin",
    "sinkhorn",
    "sinkhorn_sort",
    "soft_neighbours",
    "soft_quantile",
    "soft_rank",
    "softsort",
    "softsorted",
    "sort",
    "spread",
    "squared_difference",
    "squared_distance",
    "tanh",
    "weigh",
    "weight",
]
