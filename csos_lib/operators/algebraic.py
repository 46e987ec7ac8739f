"""Family 2, products: powers, gates and ratios."""

import torch
from torch import Tensor

from csos_lib.operators.expressions import T, primitive


@primitive("algebraic", "{0:atom}^{degree}", "power")
def power(x: Tensor, degree: int) -> Tensor:
    """x^degree, entry by entry; `x ** degree` on an expression.

    Args:
        x: any shape.
        degree: at least 2.

    Returns:
        The shape of x.

    Chapter 15, :eq:`eq-power`.
    """
    return x**degree


@primitive("algebraic")
def gate(u: Tensor, v: Tensor) -> Tensor:
    """u sigmoid(v): one signal lets the other through.

    Args:
        u: (B, d), the signal.
        v: (B, d), the gate.

    Returns:
        (B, d).

    Source: Dauphin et al. (2017), eq. 1. Chapter 15, :eq:`eq-gate`.

    >>> gate(torch.tensor([2.0]), torch.tensor([0.0]))
    tensor([1.])
    """
    return u * torch.sigmoid(v)


@primitive("algebraic", "{0:power} / ({1:atom}^2 + {eps})", "product")
def ratio(p: Tensor, q: Tensor, eps: float = 1e-3) -> Tensor:
    """p / (q^2 + eps): a ratio without poles, whose denominator is smooth and at least eps.

    Args:
        p: (B, d), the numerator.
        q: (B, d); squared rather than |q|, which has a kink at 0.
        eps: above 0; the ratio is at most |p| / eps and its slope grows like 1 / eps^1.5.

    Returns:
        (B, d).

    Memo 2 asks for p(h) / (q(h) + eps) and leaves p and q open; the square is ours.

    Source: memo 2, section 1, family 2; Molina et al. (2020). Chapter 15, :eq:`eq-ratio`.

    >>> ratio(torch.tensor([1.0]), torch.tensor([0.0]), eps=0.5)
    tensor([2.])
    """
    return p / (q * q + eps)


def rational(h: T, eps: float = 1e-3) -> T:
    """(h + h^3) / (h^4 + eps): a spike of each sign around zero, 1 / h far away.

    Args:
        h: (B, d).
        eps: above 0; the spikes get higher and closer as it falls.

    Returns:
        (B, d).

    Chapter 15, :eq:`eq-rational`.
    """
    return ratio(h + h**3, h**2, eps=eps)
