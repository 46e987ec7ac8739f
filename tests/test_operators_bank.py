"""Expressions and banks: formulas as data, and one graph in which equal subexpressions are one node."""

import copy
import pickle
import weakref
from typing import Any

import pytest
import torch
from conftest import check_on_fake_cuda
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from csos_lib.operators import (
    Bank,
    Expression,
    cos,
    gate,
    h,
    phase,
    points,
    rational,
    rms,
    sin,
    squared_distance,
    weight,
)

OPERATORS = [
    *(wave(phase(h, 8, s)) for s in (0.1, 2.0) for wave in (sin, cos)),
    h**2,
    (h + h) ** 3 - 0.5 * sin(h),
    gate(h @ weight(8), h @ weight(8, 1)),
    rational(h),
    rms(h + 0.5 * sin(h)),
    -(2 * h),
]


def test_formulas_read_as_a_person_writes_them() -> None:
    assert str(rms(sin(2.3 * (h @ weight(8))) + h)) == "rms(sin(2.3 * (h @ W0)) + h)"
    assert str((h + h) ** 3 - h * h) == "(h + h)^3 - h * h"
    assert str(sin(h / 4)) == "sin(0.25 * h)"
    assert str(h - (h - h)) == "h - (h - h)"
    assert str(h + 0.5 * (h + h)) == "h + 0.5 * (h + h)"
    assert str((h**2) ** 3) == "(h^2)^3"
    assert str(rational(h)) == "(h + h^3) / ((h^2)^2 + 0.001)"
    assert str(-(h * h)) == "-(h * h)"


@pytest.mark.parametrize("f", OPERATORS, ids=str)
def test_a_formula_is_data(f: Expression) -> None:
    for other in (Expression.from_json(f.to_json()), pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
        assert other == f
        assert hash(other) == hash(f)
        assert str(other) == str(f)
    x = torch.randn(3, 8)
    torch.testing.assert_close(Bank([Expression.from_json(f.to_json())])(x), Bank([f])(x), rtol=0, atol=0)
    with pytest.raises(AttributeError):
        f.name = "sin"  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "3", '[["sin", [0], {}]]', '[["sine", [], {}]]', '[["rows", [], {"scale": 1}]]',
     '[["rows", [], {}], ["multiple", [0], {"scale": -1}]]', '[["rows", [], {}], ["multiple", [0], {}]]'],
)  # fmt: skip
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"to_json wrote"):
        Expression.from_json(text)


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"at least one"):
        Bank([])
    with pytest.raises(ValueError, match=r"function of h"):
        Bank([sin(weight(4))])
    with pytest.raises(ValueError, match=r"same dim"):
        Bank([h @ weight(4), h @ weight(5)])
    with pytest.raises(ValueError, match=r"h must have shape \(B, 4\), got \(2, 5\)"):
        Bank([h @ weight(4)])(torch.rand(2, 5))
    with pytest.raises(ValueError, match=r"dtype of the module"):
        Bank([h @ weight(4)])(torch.rand(2, 4, dtype=torch.float64))
    with pytest.raises(
        ValueError, match=r"every operator must give \(2, 4\), got \(2, 7\) from rms\(squared"
    ):
        Bank([squared_distance(h, points(4, count=7))])(torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"degree must be"):
        _ = h**None  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"scale must be"):
        _ = 0.0 * h
    with pytest.raises(ValueError, match=r"must be floating"):
        sin(torch.arange(3))


def test_a_bank_equals_its_operators_one_by_one() -> None:
    bank, x = Bank(OPERATORS), torch.randn(5, 8)
    assert bank(x).shape == (len(OPERATORS), 5, 8)
    for k, f in enumerate(OPERATORS):
        torch.testing.assert_close(bank(x)[k], Bank([bank[k]])(x)[0], rtol=0, atol=0)
        assert bank[k] == (f if f.name == "rms" else rms(f))
    torch.testing.assert_close(bank(x).square().mean(-1), torch.ones(len(bank), 5), rtol=1e-3, atol=1e-3)


def test_a_bank_can_be_copied_and_stored() -> None:
    bank, x = Bank(OPERATORS, learnable=True), torch.randn(3, 8)
    for other in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        torch.testing.assert_close(other(x), bank(x), rtol=0, atol=0)
    assert set(bank.state_dict()) == {"log_parameters"}  # the formulas hold everything else


def test_equal_subexpressions_are_one_node() -> None:
    z = h @ weight(8)
    assert len(Bank([sin(z), cos(z)]).nodes) == 7  # h, W0, z, sin, cos and two norms
    assert len(Bank([sin(z), sin(h @ weight(8))]).nodes) == 5
    assert len(Bank([sin(z)] * 3)) == 3


def test_learnable_parameters() -> None:
    x = torch.randn(5, 8)
    fixed, bank = Bank(OPERATORS), Bank(OPERATORS, learnable=True)
    assert not list(fixed.parameters())
    torch.testing.assert_close(bank(x), fixed(x), rtol=1e-4, atol=1e-4)
    (bank(x) * torch.randn(len(bank), 5, 8)).sum().backward()
    assert bank.log_parameters is not None
    assert bank.log_parameters.grad is not None
    assert bank.log_parameters.grad.abs().min() > 0
    with torch.no_grad():
        bank.log_parameters += 0.3
    assert str(bank[0]) == "rms(sin(b0 + 0.135 * (h @ W0)))"
    torch.testing.assert_close(Bank(bank.expressions)(x), bank(x), rtol=1e-4, atol=1e-4)


class Living(TorchDispatchMode):
    """The largest number of sines that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sines: list[weakref.ref[Tensor]] = []
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.sin.default:
            self.sines.append(weakref.ref(result))
            self.most = max(self.most, sum(sine() is not None for sine in self.sines))
        return result


def test_nodes_are_dropped_once_read() -> None:
    f, operators = h, []
    for _ in range(30):
        f = sin(f)
        operators.append(f)
    with torch.no_grad(), Living() as living:
        for _, _ in Bank(operators).stream(torch.randn(3, 4)):
            pass
    assert len(living.sines) == 30  # each is the input of the next, and computed once
    assert living.most <= 3


def test_runs_on_a_fake_device() -> None:
    check_on_fake_cuda(lambda: Bank(OPERATORS, learnable=True), (3, 8), torch.float64)


def test_draws() -> None:
    ax = Bank(OPERATORS).draw()
    assert len(ax.texts) == len(Bank(OPERATORS).nodes) + sum(len(n.inputs) for n in Bank(OPERATORS).nodes)
