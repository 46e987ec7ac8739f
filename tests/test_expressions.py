"""Formulas as data, where they are deep, shared, hostile, or of somebody else's primitives."""

import pickle
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from csos_lib.operators import Bank, Expression, gelu, h, primitive, sin, weight
from csos_lib.operators.expressions import PRIMITIVES


@pytest.fixture
def _own_primitives() -> Iterator[None]:
    before = dict(PRIMITIVES)
    yield
    PRIMITIVES.clear()
    PRIMITIVES.update(before)


def repeated(step: Callable[[Expression], Expression], times: int) -> Expression:
    f = h
    for _ in range(times):
        f = step(f)
    return f


def test_equality_does_not_write_formulas_out() -> None:
    """Written out, twenty squarings are a million factors, and forty a million times as many."""
    start = time.process_time()
    first, second = (repeated(lambda f: f * f, 40) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert first != repeated(lambda f: f * f, 39)
    assert pickle.loads(pickle.dumps(first)) == Expression.from_json(first.to_json()) == first
    assert len(Bank([first]).nodes) == 42
    assert time.process_time() - start < 1


def test_no_depth_is_too_deep() -> None:
    deep = repeated(lambda f: sin(f) + h, 1000)  # 2,000 nodes in one chain
    assert str(deep).count("sin") == 1000
    assert pickle.loads(pickle.dumps(deep)) == Expression.from_json(deep.to_json()) == deep
    x = torch.randn(2, 3)
    (answer,) = Bank([deep], normalised=False)(x)
    expected = x
    for _ in range(1000):
        expected = expected.sin() + x
    torch.testing.assert_close(answer, expected)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "null", "NaN", '"rows"', '[["rows", [], {}], ["sin", ["0"], {}]]',
     '[["rows", [], {}], ["sin", [0.5], {}]]', '[["rows", [], {}], ["sin", [-1], {}]]',
     '[["rows", [], {}], ["sin", [true, 0], {}]]', '[["rows", [], []]]', "[[[], [], {}]]", "[[{}, [], {}]]",
     '[["rows", [], {}], ["multiple", [0], {"scale": 1e999}]]',
     '[["rows", [], {}], ["multiple", [0], {"scale": NaN}]]',
     '[["rows", [], {}], ["multiple", [0], {"scale": "2"}]]',
     '[["rows", [], {}], ["power", [0], {"degree": 1e9}]]',
     '[["weight", [], {"dim": [4], "seed": 0, "rows": null}]]'],
    ids=range(16),
)  # fmt: skip
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="to_json wrote"):
        Expression.from_json(text)


@pytest.mark.usefixtures("_own_primitives")
def test_a_primitive_of_ones_own_learns_a_parameter_of_any_name() -> None:
    @primitive("mine")
    def squash(x: Tensor, beta: float | Tensor) -> Tensor:
        return x / (beta + x.abs())

    bank = Bank([squash(h, beta=3.0)], learnable=True, normalised=False)
    x = torch.linspace(-2, 2, 12).view(3, 4)
    optimiser = torch.optim.Adam(bank.parameters(), 0.05)
    for _ in range(300):
        loss = (bank(x)[0] - x / (0.5 + x.abs())).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    (beta,) = bank.parameter_values().values()
    assert beta.item() == pytest.approx(0.5, abs=0.01)
    assert str(bank[0]) == "squash(h, beta=0.5)"


@pytest.mark.usefixtures("_own_primitives")
def test_a_name_that_is_taken_is_refused() -> None:
    before = PRIMITIVES["tanh"]
    with pytest.raises(ValueError, match="'tanh' is there already"):

        @primitive("mine")
        def tanh(x: Tensor) -> Tensor:
            return x

    assert PRIMITIVES["tanh"] is before


def test_answers_of_a_stream_are_their_own() -> None:
    z = h @ weight(4)
    for normalised in (True, False):
        bank = Bank([h, h, sin(z), sin(z), sin(z) + h, z], normalised=normalised)
        x = torch.randn(3, 4)
        given, expected = x.clone(), bank(x)
        with torch.no_grad():
            for k, answer in bank.stream(x):
                torch.testing.assert_close(answer, expected[k])
                answer.fill_(torch.nan)
        assert torch.equal(x, given)
        torch.testing.assert_close(bank(x), expected)


def test_maps_to_longer_rows_and_back() -> None:
    bank = Bank([gelu(h @ weight(16, rows=4)) @ weight(4, rows=16)])
    assert bank.dim == 4
    assert bank(torch.rand(2, 4)).shape == (1, 2, 4)
    with pytest.raises(ValueError, match=r"h must have shape \(B, 4\), got \(2, 16\)"):
        bank(torch.rand(2, 16))
