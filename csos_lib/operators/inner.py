"""The primitives of no family: arithmetic, matrix products, squashing functions, norms, fixed numbers."""

import math
import zlib

import torch
from torch import Tensor
from torch.nn import functional as F

from csos_lib._modules import exporting, without_autocast
from csos_lib.operators.expressions import primitive, source


@primitive(template="{0:sum} + {1:product}", binding="sum")
def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y."""
    return x + y


@primitive(template="{0:sum} - {1:product}", binding="sum")
def subtract(x: Tensor, y: Tensor) -> Tensor:
    """x - y."""
    return x - y


@primitive(template="{0:sum} + {scale} * {1:power}", binding="sum")
def add_scaled(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    """x + scale y, in one pass."""
    if isinstance(scale, Tensor):
        return torch.addcmul(x, y, scale)
    return torch.add(x, y, alpha=scale)


@primitive(template="{scale} * {0:power}", binding="product")
def multiple(x: Tensor, scale: float | Tensor) -> Tensor:
    """scale x."""
    return x * scale


@primitive(template="{0:power} * {1:power}", binding="product")
def multiply(x: Tensor, y: Tensor) -> Tensor:
    """x y, entry by entry."""
    return x * y


@primitive(template="-{0:power}", binding="product")
def negate(x: Tensor) -> Tensor:
    """-x."""
    return -x


@primitive(template="{0:power} @ {1:power}", binding="product")
def matmul(x: Tensor, y: Tensor) -> Tensor:
    """The matrix product: each row of x (B, n) times the matrix y (n, d)."""
    return x @ y


@primitive(template="{0:power} · {1:power}", binding="product")
def weigh(weights: Tensor, values: Tensor) -> Tensor:
    """Each row's own matrix (B, m, n) times its own values (B, n): (B, m). Chapter 18."""
    return (weights @ values.unsqueeze(-1)).squeeze(-1)


@primitive()
def closeness(distance: Tensor, tau: float | Tensor) -> Tensor:
    """softmax(-distance / tau), (B, J) to (B, J): large where the distance is small, and each row sums to 1.

    Chapter 17, :eq:`eq-soft-neighbours`.
    """
    return torch.softmax(distance / -tau, -1)


@primitive()
def exp(x: Tensor) -> Tensor:
    """exp x, entry by entry: (B, d) to (B, d). Chapter 17."""
    return torch.exp(x)


@primitive()
def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution function, entry by entry: (B, d) to (B, d).

    Source: Hendrycks & Gimpel (2016), eq. 1. Chapter 14.
    """
    return F.gelu(x)


@primitive()
def tanh(x: Tensor) -> Tensor:
    """tanh x, entry by entry: (B, d) to (B, d). Chapter 20."""
    return torch.tanh(x)


@primitive()
def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), entry by entry: (B, d) to (B, d). Chapter 15, :eq:`eq-gate`."""
    return torch.sigmoid(x)


@primitive()
def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    """RMSNorm without gains: each row divided by the root of its mean square.

    Args:
        x: rows (B, d), of length |x| up to 1e23 in float32 and bf16 and 1e190 in float64.
        eps: above 0, added to the mean square; a row of zeros stays zero.

    Returns:
        (B, d), each row of mean square s / (s + eps), s its mean square before.

    Source: Zhang & Sennrich (2019), eq. 4. Chapter 13, :eq:`eq-rms`.

    >>> rms(torch.tensor([[3.0, 4.0, 0.0, 0.0]])).square().mean()
    tensor(1.0000)
    """
    return x * rms_scale(x, eps)


def rms_scale(x: Tensor, eps: float = 1e-6) -> Tensor:
    """What `rms` multiplies each row by, (B, 1): a mixture joins it to its weights and saves a pass.

    Chapter 21, :eq:`eq-fused`.
    """

    def scale(x: Tensor) -> Tensor:
        if exporting():  # exporters take a number as small as eps * unit^2 for 0
            return (x.square().mean(-1, keepdim=True) + eps).rsqrt()
        unit = _unit(x)
        u = x * unit
        means = torch.linalg.vecdot(u, u).unsqueeze(-1) / x.shape[-1] + eps * unit**2
        return means.sqrt().reciprocal() * unit  # the slope of rsqrt, a third power, would leave the range

    return without_autocast(scale, x, x.dtype)  # which would take the dot product in float16, where it is 0


def _unit(x: Tensor) -> float:
    """A power of two, so that rounding hardly changes: squares of rows times it are far from overflowing.

    2^-16 in float32 and bf16, 2^-128 in float64. A smaller one would let slopes of rows near zero overflow,
    and the largest entry of each row would have to be looked for, which costs as much as the norm itself.
    """
    return 2.0 ** round(math.log2(torch.finfo(x.dtype).tiny) / 8)


@primitive()
def layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm without gains: each row shifted to mean 0, then scaled to variance 1.

    Args:
        x: rows (B, d), of the lengths that `rms` takes.
        eps: above 0, added to the variance.

    Returns:
        (B, d).

    Source: Ba, Kiros & Hinton (2016). Chapter 13.
    """
    unit = _unit(x)
    return F.layer_norm(x * unit, x.shape[-1:], eps=eps * unit**2)


NORMS = ("rms", "layer_norm")


@source("W{seed}")
def weight(dim: int, seed: int = 0, rows: int | None = None) -> Tensor:
    """A fixed random matrix (rows, dim), rows = dim unless given; its entries have variance 1 / rows.

    Chapter 14, :eq:`eq-fourier`.
    """
    rows = dim if rows is None else rows
    return _normal("weight", seed, rows, dim) / math.sqrt(rows)


@source("c{seed}")
def points(dim: int, count: int, seed: int = 0) -> Tensor:
    """Fixed reference rows (count, dim), standard normal: prototypes, or a memory of neighbours.

    Chapter 17, :eq:`eq-squared-distance`.
    """
    return _normal("points", seed, count, dim)


@source("b{seed}")
def phases(dim: int, seed: int = 0) -> Tensor:
    """Fixed angles (dim,), uniform in [0, 2 pi). Chapter 14, :eq:`eq-fourier`."""
    return torch.rand(dim, dtype=torch.float64, device="cpu", generator=_generator("phases", seed)) * math.tau


@source("y")
def anchors(dim: int) -> Tensor:
    """Evenly spaced values (dim,) of mean 0 and variance 1, the largest first.

    Chapter 18, :eq:`eq-sinkhorn-sort`.
    """
    y = torch.arange(dim - 1, -dim, -2, dtype=torch.float64, device="cpu")
    return y / math.sqrt(max(dim * dim - 1, 1) / 3)


def _normal(kind: str, seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, device="cpu", generator=_generator(kind, seed))


def _generator(kind: str, seed: int) -> torch.Generator:
    """Drawn on the CPU in float64, so that every machine and dtype sees the same numbers."""
    return torch.Generator("cpu").manual_seed(zlib.crc32(f"{kind} {seed}".encode()))
