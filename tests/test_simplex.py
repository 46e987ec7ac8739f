"""Points on the simplex: what normalising keeps, where a point lies on the page, who is alive."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from csos_lib.simplex import EPSILON, barycentric, count_living, normalise

amounts = st.lists(st.floats(0, 1e6), min_size=1, max_size=12).map(
    lambda v: torch.tensor([v], dtype=torch.float64)
)


@given(amounts)
def test_normalised_amounts_lie_on_the_simplex_up_to_the_guard(v: Tensor) -> None:
    x, s = normalise(v), v.sum(1)
    assert (x >= 0).all()
    torch.testing.assert_close(x.sum(1), s / (s + EPSILON))


@given(amounts, st.floats(1e-3, 1e3))
def test_only_proportions_matter(v: Tensor, factor: float) -> None:
    torch.testing.assert_close(normalise(factor * v, 0.0), normalise(v, 0.0), equal_nan=True)


def test_nothing_stays_nothing() -> None:
    v = torch.zeros(2, 5, requires_grad=True)
    x = normalise(v)
    x.sum().backward()
    assert (x == 0).all()
    assert v.grad is not None
    assert v.grad.isfinite().all()


def test_gradient() -> None:
    assert gradcheck(normalise, torch.rand(3, 4, dtype=torch.float64, requires_grad=True))


@given(st.integers(0, 2**31))
def test_barycentric_coordinates_keep_distances_up_to_one_scale(seed: int) -> None:
    """The triangle is the simplex itself, laid flat: all distances shrink by sqrt 2."""
    generator = torch.Generator().manual_seed(seed)
    x = normalise(torch.rand(5, 3, generator=generator, dtype=torch.float64), 0.0)
    expected = torch.cdist(x, x) / 2**0.5
    torch.testing.assert_close(torch.cdist(barycentric(x), barycentric(x)), expected)


def test_the_living_are_those_above_the_threshold() -> None:
    x = torch.tensor([[0.5, 0.5, 0.0], [0.98, 0.01, 0.01]])
    assert count_living(x).tolist() == [2, 3]
    assert count_living(x, 0.1).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: normalise(torch.ones(2, dtype=torch.int64)), "v"),
        (lambda: normalise([1.0, 2.0]), "v"),  # type: ignore[arg-type]
        (lambda: normalise(torch.ones(2), -1.0), "epsilon"),
        (lambda: barycentric(torch.ones(2, 4)), "x"),
        (lambda: barycentric(torch.tensor(1.0)), "x"),
        (lambda: count_living(torch.ones(2), -0.1), "threshold"),
        (lambda: count_living(torch.ones(2, dtype=torch.bool)), "x"),
    ],
)
def test_bad_arguments_are_named(call: object, name: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=f"^{name} must"):
        call()
