"""Expressions and banks: formulas as data, and one graph in which equal subexpressions are one node."""

import copy
import pickle
import weakref
from typing import Any

import pytest
import torch
from conftest import check_on_fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from csos_lib.operators import (
    Bank,
    Expression,
    Mixture,
    cos,
    diffuse,
    gate,
    h,
    mini_library,
    mix,
    phase,
    points,
    rational,
    rms,
    sample_programs,
    sin,
    squared_distance,
    tanh,
    weight,
)
from csos_lib.operators.expressions import distinct

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
    with torch.no_grad(), pytest.raises(ValueError, match=r"h must be a torch.Tensor"):
        Bank([h @ weight(4)])([[0.0] * 4])
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


@pytest.mark.parametrize("learnable", [False, True])
def test_a_bank_writes_into_the_table_that_it_is_given(learnable: bool) -> None:
    bank, x = Bank([*OPERATORS, OPERATORS[0]], learnable), torch.randn(5, 8)
    out = torch.full((len(bank), 5, 8), torch.nan)
    with torch.no_grad():
        assert bank(x, out=out) is out
        torch.testing.assert_close(out, bank(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"gradients = .* False\), got .* True\)"):
        bank(x, out=out)
    for other in (out[1:], out.double(), out.to("meta")):
        with (
            torch.no_grad(),
            pytest.raises(ValueError, match=r"out must have .* = \(\(11, 5, 8\), torch"),
        ):
            bank(x, out=other)


def test_a_bank_can_be_copied_and_stored() -> None:
    bank, x = Bank(OPERATORS, learnable=True), torch.randn(3, 8)
    for other in (copy.deepcopy(bank), pickle.loads(pickle.dumps(bank))):
        torch.testing.assert_close(other(x), bank(x), rtol=0, atol=0)
    assert set(bank.state_dict()) == {"log_parameters", "_extra_state"}  # the formulas hold everything else


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


def test_what_is_shared_is_counted() -> None:
    z = h @ weight(8)
    assert Bank([sin(z)]).cost() == (1, 5, 5, 1, 1)  # h, W0, z, sin, rms
    assert Bank([sin(z), cos(z), sin(h @ weight(8))]).cost() == (3, 15, 7, 3, 1)
    assert Bank([gate(z, z)], normalised=False).cost() == (1, 7, 4, 2, 1)
    assert Bank([gate(z, h @ weight(8, 1))], normalised=False).cost() == (1, 7, 6, 2, 2)
    assert Bank([sin(z)] * 4).cost() == (4, 20, 5, 4, 1)
    waves = [wave(phase(h, 8, 1.01**k)) for k in range(128) for wave in (sin, cos)]
    # as written: h, W, product, b, sum, wave, norm; once: h, W, product, b, 128 sums, 256 waves, 256 norms
    assert Bank(waves).cost() == (256, 256 * 7, 4 + 128 + 512, 256, 1)
    f = h
    for _ in range(200):  # written 2^201 times; counted without writing it
        f = f + f
    assert Bank([f], normalised=False).cost() == (1, 2**201 - 1, 201, 0, 0)


PROGRAMS = [*sample_programs(40, 12, seed=5), *mini_library(12).doubled().expressions]


@given(st.lists(st.sampled_from(range(len(PROGRAMS))), min_size=1, max_size=12))
@settings(max_examples=25)
def test_any_bank_equals_its_operators_one_by_one(chosen: list[int]) -> None:
    operators = [PROGRAMS[k] for k in chosen]
    bank, x = Bank(operators), torch.randn(4, 12)
    with torch.no_grad():
        answers = bank(x)
        for answer, f in zip(answers, operators, strict=True):
            torch.testing.assert_close(answer, Bank([f])(x)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bank(x), answers, rtol=0, atol=0)  # written in place or stacked
    assert bank.cost().nodes == len(set().union(*(distinct([f]) for f in bank.expressions)))
    assert bank.cost().products <= bank.cost().products_written


@given(st.lists(st.sampled_from(range(len(PROGRAMS))), min_size=1, max_size=8), st.booleans())
@settings(max_examples=15)
def test_a_streamed_mixture_equals_the_plain_one(chosen: list[int], per_row: bool) -> None:
    bank = Bank([PROGRAMS[k] for k in chosen], learnable=True).double()
    x = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    shape = (4, len(bank)) if per_row else (len(bank),)
    weights = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    leaves = [x, weights, *bank.parameters()]
    streamed = mix(bank, x, weights)
    plain = torch.einsum("bk,kbd->bd", weights.expand(4, -1), bank(x))
    torch.testing.assert_close(streamed, plain)
    direction = torch.randn_like(x)
    expected = torch.autograd.grad(plain, leaves, direction, allow_unused=True)
    actual = torch.autograd.grad(streamed, leaves, direction, allow_unused=True)
    for a, b in zip(actual, expected, strict=True):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_norms_that_others_read_are_written_down() -> None:
    inner = rms(sin(h))
    bank, x = Bank([inner, rms(cos(inner)), inner, sin(inner)], normalised=False), torch.randn(3, 4)
    normed = torch.nn.functional.rms_norm(torch.sin(x), (4,), eps=1e-6)
    expected = [normed, torch.nn.functional.rms_norm(normed.cos(), (4,), eps=1e-6), normed, normed.sin()]
    torch.testing.assert_close(bank(x), torch.stack(expected))
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(mix(bank, x, weights), torch.einsum("k,kbd->bd", weights, bank(x)))


def most_bytes(call: Any) -> int:
    """The most bytes in tensors that were made by a call and alive at once; views are left out."""
    made: list[tuple[weakref.ref[Tensor], int]] = []
    most = 0

    class Bytes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal most, made
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and not result._is_view():
                made.append((weakref.ref(result), result.nbytes))
            made = [(tensor, size) for tensor, size in made if tensor() is not None]
            most = max(most, sum(size for _, size in made))
            return result

    with torch.no_grad(), Bytes():
        call()
    return most


def test_the_memory_of_a_mixture_does_not_grow_with_the_bank() -> None:
    x, bank = torch.randn(16, 12), mini_library(12)
    small = most_bytes(lambda: Mixture(bank)(x))
    for _ in range(3):
        bank = bank.doubled()
    large = most_bytes(lambda: Mixture(bank)(x))
    assert len(bank) == 256
    assert large < 2.5 * small  # soft sorts hold a few tables more
    assert most_bytes(lambda: bank(x)) > 256 * x.nbytes > 5 * large
    again = bank.doubled()
    assert most_bytes(lambda: Mixture(again)(x)) < 1.1 * large


def most_waiting(bank: Bank) -> int:
    """The most tables that wait for a reader at once; fixed tensors are left out."""
    last = {x: i for i, node in enumerate(bank.nodes) for x in (node, *node.inputs)}
    alive: set[Expression] = set()
    most = 0
    for i, node in enumerate(bank.nodes):
        assert all(x in alive or not x.inputs for x in node.inputs if x != h)
        alive |= {node} if node.inputs or node == h else set()
        most = max(most, len(alive))
        alive = {x for x in alive if last[x] > i}
    return most


def test_few_tables_wait_for_their_readers() -> None:
    # two programs start alike and others stand between them: what they share is computed when both are due
    start = [sin(k * rms(h)) for k in range(1, 21)]
    assert most_waiting(Bank([*start, *(tanh(x) for x in start), *(cos(x) for x in start)])) <= 5
    banks = [mini_library(6)]
    while len(banks[-1]) < 256:
        banks.append(banks[-1].doubled())
    assert [most_waiting(bank) for bank in banks] == [5] * 4
    programs = sample_programs(64, 8)
    waiting = [most_waiting(Bank(programs[:count])) for count in (32, 64)]
    assert waiting[1] < 2 * waiting[0] < 32


def test_names_say_what_an_operator_is() -> None:
    z = h @ weight(8)
    bank = Bank([sin(z), h + 0.5 * sin(z), diffuse(h, 0.1), rms(h) ** 3, h @ weight(8), tanh(z)])
    assert bank.names == ["sin", "spectral 0.5", "diffusion 0.1", "power 3", "matmul", "tanh"]


def test_vmap_over_rows_and_over_parameters() -> None:
    bank, x = Bank(OPERATORS), torch.randn(3, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(bank)(x)[1], bank(x[1]))
        learnable = Bank([sin(phase(h, 8, 1.0))], learnable=True)
        numbers = torch.linspace(-1, 1, 4).unsqueeze(1)

        def answer(log_parameters: Tensor) -> Any:
            return torch.func.functional_call(learnable, {"log_parameters": log_parameters}, (x[0],))

        expected = [Bank([sin(phase(h, 8, float(s.exp())))])(x[0]) for s in numbers]
        torch.testing.assert_close(torch.vmap(answer)(numbers), torch.stack(expected), rtol=1e-4, atol=1e-4)
