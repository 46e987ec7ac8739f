"""Steps as one rational map, by SymPy; its cousins against PyTorch, scikit-learn and loops."""

import math

import pytest
import sympy
import torch
from conftest import check_on_fake_cuda, concentrations, dense_reaction
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor, nn

import csos_lib
from csos_lib.dynamics import run
from csos_lib.reactions import CPReaction, DenseReaction, symmetrise
from csos_lib.relatives.higher_order import (
    QuadraticClassifier,
    factorisation_machine,
    factorisation_machine_rates,
    pi_net,
    polarise,
    rational_map,
    step_polynomial,
)

sizes = st.integers(2, 6)


@given(n=sizes, factor=st.floats(0.1, 10), beta=st.floats(0, 2))
def test_the_step_is_homogeneous_of_degree_two(n, factor, beta):
    x, reaction = concentrations(3, n), dense_reaction(n, positive=False)
    once = step_polynomial(x, reaction, beta)
    torch.testing.assert_close(step_polynomial(factor * x, reaction, beta), factor**2 * once)


@given(n=sizes, steps=st.integers(0, 5), decay=st.floats(0, 0.9), alpha=st.floats(0, 2))
def test_without_a_cut_the_steps_are_one_rational_map(n, steps, decay, alpha):
    x, reaction = concentrations(3, n), dense_reaction(n)
    expected = run(x, reaction, steps, decay, alpha)
    got = rational_map(x, reaction, steps, alpha * (1 - decay))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_with_a_cut_they_are_not():
    x, reaction = concentrations(50, 4), dense_reaction(4, positive=False)
    steps = run(x, reaction, 3, 0.0, 3.0)
    assert (steps == 0).any()
    assert not torch.allclose(rational_map(x, reaction, 3, 3.0), steps, atol=1e-2)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_degree_is_two_to_the_steps_by_sympy(steps):
    a, b = sympy.symbols("a b")
    rates = [[[1, 2], [0, 1]], [[0, 1], [3, 1]]]
    v = [a, b]
    for _ in range(steps):
        made = [sum(rates[k][i][j] * v[i] * v[j] for i in range(2) for j in range(2)) for k in range(2)]
        v = [sympy.expand(sum(v) * v[k] + made[k]) for k in range(2)]
    for entry in v:
        terms = sympy.Poly(entry, a, b).monoms()
        assert {sum(term) for term in terms} == {2**steps}
    weight = torch.tensor(rates, dtype=torch.float64)
    x = concentrations(4, 2)
    got = rational_map(x, lambda v: torch.einsum("kij,bi,bj->bk", weight, v, v), steps, 1.0)
    for row, result in zip(x.tolist(), got, strict=True):
        values = [float(entry.subs({a: row[0], b: row[1]})) for entry in v]
        torch.testing.assert_close(
            result, torch.tensor(values, dtype=torch.float64) / sum(values), rtol=1e-9, atol=1e-12
        )


@given(n=sizes)
def test_polarisation_gives_the_bilinear_layer(n):
    reaction, x, y = dense_reaction(n, positive=False), torch.randn(3, n).double(), torch.randn(3, n).double()
    layer = nn.Bilinear(n, n, n, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(symmetrise(reaction.weight))
    torch.testing.assert_close(polarise(reaction, x, y), layer(x, y))
    torch.testing.assert_close(reaction(x), layer(x, x))


@given(n=sizes, rank=st.integers(1, 5))
def test_a_polynomial_net_of_degree_two_is_a_cp_reaction_on_the_simplex(n, rank):
    reaction, z = CPReaction(n, rank).double(), concentrations(3, n)
    net = pi_net(z, [reaction.left, reaction.right - 1], reaction.out)
    torch.testing.assert_close(net, reaction(z))


@given(n=sizes, degree=st.integers(1, 4))
def test_a_polynomial_net_is_a_product_of_linear_maps(n, degree):
    z = torch.randn(3, n, dtype=torch.float64)
    factors = [torch.randn(5, n, dtype=torch.float64) for _ in range(degree)]
    out = torch.randn(2, 5, dtype=torch.float64)
    product = z @ factors[0].T
    for factor in factors[1:]:
        product = product * (z @ factor.T + 1)
    torch.testing.assert_close(pi_net(z, factors, out), product @ out.T)


@given(n=sizes, rank=st.integers(1, 4))
def test_a_factorisation_machine_by_loops_and_as_a_slice_of_a_reaction(n, rank):
    x = concentrations(2, n)
    bias, linear, factors = torch.randn(()).double(), torch.randn(n).double(), torch.randn(n, rank).double()
    got = factorisation_machine(x, bias, linear, factors)
    for row, value in zip(x, got, strict=True):
        expected = bias + sum(linear[i] * row[i] for i in range(n))
        for i in range(n):
            for j in range(i + 1, n):
                expected = expected + factors[i].dot(factors[j]) * row[i] * row[j]
        torch.testing.assert_close(value, expected)
    rates = factorisation_machine_rates(bias, linear, factors)
    torch.testing.assert_close(torch.einsum("ij,bi,bj->b", rates, x, x), got)


def test_the_quadratic_classifier_against_scikit_learn():
    dataset = csos_lib.load_dataset("mnist5k")
    images, labels, test = dataset.train_images[:500], dataset.train_labels[:500], dataset.test_images[:100]
    model = QuadraticClassifier(images.double(), labels, components=8, ridge=1e-2)
    pca = PCA(8, svd_solver="full").fit(images.double().numpy())
    pairs = PolynomialFeatures(2, include_bias=True)
    features = pairs.fit_transform(pca.transform(images.double().numpy()))
    keep = [k for k, power in enumerate(pairs.powers_) if power.sum() != 1]
    features = features[:, keep]
    penalty = 1e-2 * (features**2).sum(0).mean()
    targets = nn.functional.one_hot(labels, 10).double().numpy()
    oracle = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(features, targets)
    expected = oracle.predict(pairs.transform(pca.transform(test.double().numpy()))[:, keep])
    torch.testing.assert_close(
        model(test.double()), torch.tensor(expected).log_softmax(1), rtol=1e-6, atol=1e-8
    )
    assert csos_lib.evaluate(model.float(), test, dataset.test_labels[:100]).accuracy > 0.6


def test_forty_components_have_821_features():
    images = torch.rand(60, 784)
    model = QuadraticClassifier(images, torch.arange(60) % 10)
    assert model.weight.shape == (821, 10)
    assert math.comb(40 + 1, 2) + 1 == 821


def test_on_a_fake_cuda_device():
    class Cousins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reaction = DenseReaction(4)

        def forward(self, x: Tensor) -> Tensor:
            met = polarise(self.reaction, x, x.flip(1))
            weight = self.reaction.weight
            machine = factorisation_machine(x, weight[0, 0, 0], weight[0, 0], weight[0])
            return (
                met
                + rational_map(x, self.reaction, 2, 0.5)
                + pi_net(x, [weight[0]] * 3, weight[1])
                + machine[:, None]
            )

    check_on_fake_cuda(Cousins, (3, 4), torch.float64)
    check_on_fake_cuda(
        lambda: QuadraticClassifier(torch.rand(50, 784), torch.arange(50) % 10, 5), (3, 784), torch.float32
    )


def test_bad_arguments_say_what_is_allowed():
    x = torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="beta"):
        step_polynomial(x, torch.square, -1.0)
    with pytest.raises(ValueError, match="steps"):
        rational_map(x, torch.square, -1, 1.0)
    with pytest.raises(ValueError, match="factors"):
        pi_net(x, [], torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"\(B, 4\)"):
        factorisation_machine(x, torch.zeros(()), torch.zeros(4), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="components"):
        QuadraticClassifier(torch.rand(9, 784), torch.arange(9), components=0)
    with pytest.raises(ValueError, match="images must"):
        QuadraticClassifier(torch.rand(9, 28, 28), torch.arange(9))
    for labels in (torch.arange(8), torch.arange(9) + 2, torch.arange(9) - 1, torch.arange(9.0)):
        with pytest.raises(ValueError, match="labels must"):
            QuadraticClassifier(torch.rand(9, 784), labels, components=2)
    model = QuadraticClassifier(torch.rand(9, 784), torch.arange(9), components=2)
    for images in (torch.rand(2, 783), torch.rand(784), torch.rand(2, 784).double()):
        with pytest.raises(ValueError, match="images must"):
            model(images)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-8, 1e-15])
def test_polarisation_of_the_small_with_the_large(size):
    x, y = torch.rand(3, 16), size * torch.rand(3, 16)
    for reaction in (DenseReaction(16), CPReaction(16, 4)):
        weight = reaction.to_tensor()
        expected = torch.einsum("kij,bi,bj->bk", symmetrise(weight).double(), x.double(), y.double())
        plain = lambda v, w=weight: torch.einsum("kij,bi,bj->bk", w, v, v)  # noqa: E731
        for met in (polarise(reaction, x, y), polarise(plain, x, y)):
            torch.testing.assert_close(met.double() / size, expected / size, rtol=1e-5, atol=1e-6)


def test_the_rational_map_of_nothing_and_of_many_steps():
    assert rational_map(torch.zeros(2, 3), torch.square, 3, 1.0).tolist() == [[0, 0, 0]] * 2
    reaction, x = dense_reaction(64).float(), concentrations(3, 64).float()
    far = rational_map(x, reaction, 40, 1.0)
    torch.testing.assert_close(far, run(x, reaction, 40, 0.0, 1.0), rtol=1e-5, atol=1e-6)
    x.requires_grad_()
    slopes = torch.autograd.grad(rational_map(x, reaction, 5, 1.0)[0, 0], x)[0]
    expected = torch.autograd.grad(run(x, reaction, 5, 0.0, 1.0)[0, 0], x)[0]
    torch.testing.assert_close(slopes - slopes.mean(), expected - expected.mean(), rtol=1e-2, atol=1e-5)
