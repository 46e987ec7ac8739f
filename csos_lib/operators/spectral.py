"""Family 1, waves: sines and cosines of a random linear map, over four decades of frequency."""

import math

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.operators.expressions import Expression, primitive
from csos_lib.operators.inner import phases, weight


@primitive("spectral")
def sin(x: Tensor) -> Tensor:
    """sin x, entry by entry: (B, d) to (B, d). Chapter 14, :eq:`eq-fourier`."""
    return torch.sin(x)


@primitive("spectral")
def cos(x: Tensor) -> Tensor:
    """cos x, entry by entry: (B, d) to (B, d). Chapter 14, :eq:`eq-fourier`."""
    return torch.cos(x)


def phase(h: Expression, dim: int, scale: float, seed: int = 0) -> Expression:
    """The angle scale h W + b of a wave, with fixed random W and b; `h @ W` is shared by all scales.

    Args:
        h: an expression that gives (B, dim).
        dim: d, at least 1.
        scale: the frequency s, above 0; the memo's temperature is 1 / s.
        seed: fixes W (entries of variance 1 / d) and b (uniform in [0, 2 pi)).

    Returns:
        An expression that gives (B, d): wrap it in `sin` or `cos`.

    Source: Rahimi & Recht (2007), algorithm 1. Chapter 14, :eq:`eq-fourier`.

    >>> from csos_lib.operators import h
    >>> print(sin(phase(h, dim=8, scale=0.1)))
    sin(b0 + 0.1 * (h @ W0))
    """
    return phases(dim, seed) + scale * (h @ weight(dim, seed))


def sample_frequencies(
    dim: int, count: int, scale: float | tuple[float, float] = 1.0, seed: int = 0
) -> Tensor:
    """Random frequencies for :func:`random_fourier_features`.

    Args:
        dim: d, at least 1.
        count: D, how many, at least 1.
        scale: the standard deviation s of their entries, or a range (low, high): then each frequency draws an
            s of its own, log-uniform in the range.
        seed: at least 0.

    Returns:
        (dim, count) in the default dtype, on the default device.

    Raises:
        ValueError: an argument is out of range.

    Source: Rahimi & Recht (2007). Chapter 14, :eq:`eq-log-uniform-kernel`.
    """
    _check.integer("dim", dim, 1)
    _check.integer("count", count, 1)
    _check.integer("seed", seed, 0)
    low, high = scale if isinstance(scale, tuple) else (scale, scale)
    _check.number("scale", low, 0, above=True)
    _check.number("scale", high, low)
    generator = torch.Generator("cpu").manual_seed(seed)
    exponent = torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")
    normal = torch.randn(count, dim, generator=generator, dtype=torch.float64, device="cpu")
    frequencies = (normal * (low * (high / low) ** exponent)[:, None]).T
    return frequencies.to(torch.get_default_device(), torch.get_default_dtype())


def random_fourier_features(h: Tensor, frequencies: Tensor) -> Tensor:
    """Features whose inner products approach a kernel: [cos hW, sin hW] / sqrt D.

    With entries of variance s^2 the kernel is exp(-s^2 |x - y|^2 / 2), and the error falls like 1 / sqrt D.

    Args:
        h: rows (B, d).
        frequencies: W (d, D), e.g. from :func:`sample_frequencies`.

    Returns:
        (B, 2 D), each row of length 1.

    Raises:
        ValueError: h is not (B, d) floating point.

    Source: Rahimi & Recht (2007), algorithm 1. Chapter 14, :eq:`eq-fourier-features` and
    :eq:`eq-fourier-kernel`.

    >>> x = random_fourier_features(torch.rand(3, 4), sample_frequencies(4, 100))
    >>> x.shape, bool(torch.allclose(x.norm(dim=1), torch.ones(3)))
    (torch.Size([3, 200]), True)
    """
    _check.matrix("frequencies", frequencies)
    _check.matrix("h", h, frequencies.shape[0], frequencies.dtype)
    z = h @ frequencies
    return torch.cat([z.cos(), z.sin()], -1) / math.sqrt(frequencies.shape[1])
