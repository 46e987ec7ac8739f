"""Family 1 against scikit-learn's kernel and a closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.special import exp1
from sklearn.metrics.pairwise import rbf_kernel

from csos_lib.operators import Bank, cos, h, phase, random_fourier_features, sample_frequencies, sin, weight


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_inner_products_approach_the_gaussian_kernel(scale: float) -> None:
    x = torch.randn(20, 4)
    expected = torch.from_numpy(rbf_kernel(x.numpy(), gamma=scale**2 / 2)).float()
    errors = []
    for count in (200, 20000):
        per_seed = []
        for seed in range(5):
            phi = random_fourier_features(x, sample_frequencies(4, count, scale, seed))
            torch.testing.assert_close(phi.norm(dim=1), torch.ones(20), rtol=1e-5, atol=1e-5)
            per_seed.append((phi @ phi.T - expected).square().mean().sqrt().item())
        errors.append(float(np.mean(per_seed)))
    assert errors[1] < 0.006
    assert math.log10(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)  # 1 / sqrt D


def test_variance_of_the_features() -> None:
    x = torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    k = math.exp(-0.5 * 1.25)
    draws = []
    for seed in range(2000):
        phi = random_fourier_features(x, sample_frequencies(2, 10, 1.0, seed))
        draws.append((phi[0] @ phi[1]).item())
    assert np.mean(draws) == pytest.approx(k, abs=0.01)
    assert np.var(draws) == pytest.approx((1 - k**2) ** 2 / 20, rel=0.1)


def test_log_uniform_scales_have_their_own_kernel() -> None:
    low, high = 0.1, 10.0
    x = torch.randn(10, 3)
    phi = random_fourier_features(x, sample_frequencies(3, 200_000, (low, high)))
    t = torch.cdist(x, x).square().numpy() / 2 + 1e-12
    expected = (exp1(low**2 * t) - exp1(high**2 * t)) / (2 * math.log(high / low))
    off = ~np.eye(10, dtype=bool)
    np.testing.assert_allclose((phi @ phi.T).numpy()[off], expected[off], atol=0.008)


def test_a_wave_is_the_sine_of_a_random_map() -> None:
    x = torch.randn(5, 200)
    bank = Bank([h @ weight(200), sin(phase(h, 200, 3.0)), cos(phase(h, 200, 3.0))], normalised=False)
    z, s, c = bank(x)
    assert z.var().item() == pytest.approx(1.0, abs=0.15)  # entries of variance 1 / d
    torch.testing.assert_close(s.square() + c.square(), torch.ones(5, 200))
    b = torch.atan2(
        *Bank([sin(phase(h, 200, 3.0)), cos(phase(h, 200, 3.0))], normalised=False)(torch.zeros(1, 200))
    )
    torch.testing.assert_close(s, torch.sin(3 * z + b), rtol=1e-4, atol=1e-4)


def test_the_same_seed_gives_the_same_numbers() -> None:
    state = torch.random.get_rng_state()
    a, b, c = (Bank([h @ weight(6, seed)]).get_buffer("node_1") for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert a[0, :3].tolist() == pytest.approx([0.126265, -0.238805, -0.124181], abs=1e-6)
