"""Family 2: homogeneous powers, gates that are half open at zero, ratios without poles."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from csos_lib.operators import Bank, gate, h, power, ratio, rational, rms


@given(c=st.floats(0.1, 10), degree=st.integers(2, 5), seed=st.integers(0, 100))
def test_powers_are_homogeneous_and_norm_forgets_the_factor(c: float, degree: int, seed: int) -> None:
    x = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(power(c * x, degree), c**degree * power(x, degree))
    bank = Bank([rms(h) ** degree]).double()
    torch.testing.assert_close(bank(c * x), bank(x), rtol=1e-3, atol=1e-3)


def test_gate_is_a_gated_linear_unit() -> None:
    u, v = torch.randn(4, 6), torch.randn(4, 6)
    torch.testing.assert_close(gate(u, v), F.glu(torch.cat([u, v], -1)))
    torch.testing.assert_close(gate(u, torch.zeros_like(v)), u / 2)


@given(eps=st.floats(1e-3, 1))
def test_ratios_have_no_poles(eps: float) -> None:
    q = torch.linspace(-5, 5, 10_001, dtype=torch.float64)
    y = ratio(torch.ones_like(q), q, eps=eps)
    assert y.max().item() == pytest.approx(1 / eps)
    assert (y > 0).all()
    slope = torch.diff(y) / torch.diff(q)
    assert (
        slope.abs().max() <= 0.66 / eps**1.5
    )  # the steepest slope of 1 / (q^2 + eps) is 9 / (8 sqrt 3) eps^-1.5


def test_rational_against_numpy() -> None:
    x = torch.linspace(-3, 3, 101, dtype=torch.float64)
    p, q = np.polynomial.Polynomial([0, 1, 0, 1]), np.polynomial.Polynomial([1e-3, 0, 0, 0, 1])
    torch.testing.assert_close(rational(x), torch.from_numpy(p(x.numpy()) / q(x.numpy())))
