"""What every operator owes: gradients, finite answers, one row at a time, any device, arguments checked."""

from typing import Any

import pytest
import torch
from conftest import check_on_fake_cuda
from torch import Tensor

from csos_lib import operators as ops
from csos_lib.operators import Bank, Expression, h
from csos_lib.operators.expressions import PRIMITIVES

D, GRID = 12, (3, 4)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


ONE_ROW: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in [
            "negate",
            "exp",
            "gelu",
            "tanh",
            "sigmoid",
            "rms",
            "layer_norm",
            "sin",
            "cos",
            "sort",
            "both_ways",
        ]
    },
    "multiple": {"scale": 0.7},
    "power": {"degree": 3},
    "laplacian": {"grid": GRID},
    "derivative": {"axis": 0, "grid": GRID},
    "edges": {"grid": GRID},
    "gaussian_blur": {"sigma": 0.8, "grid": GRID},
    "rbf": {"sigma": 0.8},
    "closeness": {"tau": 0.8},
    "score": {"tau": 0.8},
    "blur_sorted": {"tau": 0.8},
    "soft_rank": {"tau": 0.8},
    "log_sinkhorn": {"iterations": 3},
    "dilate": {"tau": 0.3, "grid": GRID},
    "soft_quantile": {"tau": 0.3, "level": 0.3, "grid": GRID},
}
TWO_ROWS: dict[str, dict[str, Any]] = {
    **{
        name: {}
        for name in ["add", "subtract", "multiply", "gate", "absolute_difference", "squared_difference"]
    },
    "add_scaled": {"scale": 0.7},
    "ratio": {},
    "squared_distance": {},
    "absolute_row_sums": {},
    "order_weights": {"tau": 0.8},
}
MATRICES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "matmul": ((2, D), (D, 3)),
    "weigh": ((2, 4, D), (2, D)),
    "collect": ((2, D), (2, D, 4)),
}
SOURCES = {"rows", "weight", "points", "phases", "anchors"}


def example(name: str) -> tuple[list[Tensor], dict[str, Any]]:
    """Double-precision inputs away from kinks, and parameters."""
    if name in MATRICES:
        return [randn(*shape) for shape in MATRICES[name]], {}
    if name in TWO_ROWS:
        x, y = randn(2, D), randn(2, D)
        return [x, x.sort(-1, descending=True).values if name == "absolute_row_sums" else y], TWO_ROWS[name]
    x = randn(2, D, D) if name == "log_sinkhorn" else randn(2, D)
    if name == "blur_sorted":
        x = ops.sorting.both_ways(ops.sort(x))
    return [x], ONE_ROW[name]


def test_every_primitive_is_tested_here() -> None:
    assert set(ONE_ROW) | set(TWO_ROWS) | set(MATRICES) | SOURCES == set(PRIMITIVES)


@pytest.mark.parametrize("name", [*ONE_ROW, *TWO_ROWS, *MATRICES])
def test_gradcheck(name: str) -> None:
    inputs, parameters = example(name)
    learned = {
        k: torch.tensor(v, dtype=torch.float64)
        for k, v in parameters.items()
        if k in PRIMITIVES[name].continuous
    }
    fixed = {k: v for k, v in parameters.items() if k not in PRIMITIVES[name].continuous}
    everything = [x.requires_grad_() for x in (*inputs, *learned.values())]

    def run(*xs: Tensor) -> Tensor:
        values = dict(zip(learned, xs[len(inputs) :], strict=True))
        if name == "absolute_row_sums":  # its second argument is the first one, sorted
            return ops.absolute_row_sums(xs[0], ops.sort(xs[0]))
        return PRIMITIVES[name].function(*xs[: len(inputs)], **values, **fixed)

    assert torch.autograd.gradcheck(run, everything)


def operators(d: int, grid: ops.axes.Grid = None) -> dict[str, Expression]:
    """Every operator of the six families as a formula of h."""
    c, w, z = ops.points(d, 5), ops.weight(d, rows=5), ops.layer_norm(h)
    return {
        "sin": ops.sin(ops.phase(h, d, 2.0)),
        "cos": ops.cos(ops.phase(h, d, 2.0)),
        "square": h**2,
        "cube": h**3,
        "fourth": ops.rms(h) ** 4,
        "gate": ops.gate(h @ ops.weight(d), h @ ops.weight(d, 1)),
        "rational": ops.rational(ops.rms(h)),
        "diffuse": ops.diffuse(h, 0.1, grid),
        "derivative": ops.derivative(h, grid=grid),
        "edges": ops.edges(h, grid=grid),
        "gaussian_blur": ops.gaussian_blur(h, 1.5, grid=grid),
        "prototypes": ops.prototypes(h, c, w, 0.5),
        "soft_neighbours": ops.soft_neighbours(h, c, 0.2),
        "softsort": ops.weigh(ops.softsort(z, 0.2), z),
        "softsorted": ops.softsorted(ops.sort(z), 0.2),
        "neuralsort": ops.weigh(ops.neuralsort(z, 2.0), z),
        "sinkhorn": ops.sinkhorn_sort(z, ops.anchors(d), 0.2, 5),
        "soft_rank": ops.layer_norm(ops.soft_rank(z, 0.2)),
        "dilate": ops.dilate(h, 0.2, grid=grid),
        "erode": ops.erode(h, 0.2, grid=grid),
        "opening": ops.opening(h, 0.2, grid=grid),
        "closing": ops.closing(h, 0.2, grid=grid),
        "soft_quantile": ops.soft_quantile(h, 0.2, grid=grid),
        "gelu": ops.gelu(h @ ops.weight(d)),
        "tanh": ops.tanh(h) - ops.sigmoid(h),
    }


NAMES = list(operators(D))


@pytest.mark.parametrize("grid", [None, GRID])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zeros", "ones", "ties", "large", "small"])
def test_extreme_inputs_give_finite_answers_and_gradients(name: str, kind: str, grid: ops.axes.Grid) -> None:
    x = {
        "zeros": torch.zeros(3, D),
        "ones": torch.ones(3, D),
        "ties": torch.randint(0, 3, (3, D)).float(),
        "large": 1e4 * torch.randn(3, D),
        "small": 1e-20 * torch.randn(3, D),
    }[kind].requires_grad_()
    bank = Bank([operators(D, grid)[name]], learnable=True)
    y = bank(x)
    assert y.isfinite().all()
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert bank.log_parameters is None or bank.log_parameters.grad is not None
    assert bank.log_parameters is None or bank.log_parameters.grad.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("grid", [None, GRID])
def test_a_row_does_not_see_its_batch(grid: ops.axes.Grid) -> None:
    bank, x = Bank(operators(D, grid).values()).double(), randn(6, D)
    together, alone = bank(x), torch.cat([bank(row[None]) for row in x], 1)
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(
        bank(torch.cat([x[:2], 100 * x[2:]]))[:, :2], together[:, :2], rtol=1e-9, atol=1e-10
    )


def test_a_row_sees_its_batch_on_request() -> None:
    bank, x = Bank([ops.soft_neighbours(h, h, 0.5)]), torch.randn(6, D)
    assert not torch.allclose(bank(x)[0, :1], bank(x[:1])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", [None, GRID])
def test_runs_on_a_fake_device(grid: ops.axes.Grid, dtype: torch.dtype) -> None:
    check_on_fake_cuda(lambda: Bank(operators(D, grid).values()), (3, D), dtype)
    check_on_fake_cuda(lambda: Bank(operators(D, grid).values(), learnable=True), (3, D), dtype)


def test_each_function_equals_its_operator() -> None:
    """The function that builds a formula from h computes the same from numbers."""
    x, c = torch.randn(3, D), Bank([ops.soft_neighbours(h, ops.points(D, 5), 0.2)]).get_buffer("node_1")
    cases = {
        "diffuse": ops.diffuse(x, 0.1, GRID),
        "derivative": ops.derivative(x, grid=GRID),
        "edges": ops.edges(x, grid=GRID),
        "gaussian_blur": ops.gaussian_blur(x, 1.5, grid=GRID),
        "soft_neighbours": ops.soft_neighbours(x, c, 0.2),
        "rational": ops.rational(ops.rms(x)),
        "dilate": ops.dilate(x, 0.2, grid=GRID),
        "erode": ops.erode(x, 0.2, grid=GRID),
        "opening": ops.opening(x, 0.2, grid=GRID),
        "closing": ops.closing(x, 0.2, grid=GRID),
        "soft_quantile": ops.soft_quantile(x, 0.2, grid=GRID),
        "softsort": ops.weigh(ops.softsort(ops.layer_norm(x), 0.2), ops.layer_norm(x)),
        "neuralsort": ops.weigh(ops.neuralsort(ops.layer_norm(x), 2.0), ops.layer_norm(x)),
    }
    for name, expected in cases.items():
        actual = Bank([operators(D, GRID)[name]], normalised=False)(x)[0]
        torch.testing.assert_close(actual, expected, msg=name)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ops.dilate(x, 0.0), "tau must be"),
        (lambda x: ops.dilate(x, 0.1, window=4), "window must be odd"),
        (lambda x: ops.dilate(x, 0.1, grid=(3,)), "grid must be None or a pair"),
        (lambda x: ops.gaussian_blur(x, -1.0), "sigma must be"),
        (lambda x: ops.diffuse(x, 0.0), "alpha must be"),
        (lambda x: ops.soft_quantile(x, 0.1, level=1.5), "level must be"),
        (lambda x: ops.sinkhorn(x, 0), "iterations must be"),
        (lambda x: ops.softsort(x, float("nan")), "tau must be"),
        (lambda x: ops.derivative(x, axis=2, grid=GRID), "axis must be"),
        (lambda x: ops.power(x, 1), "degree must be"),
        (lambda x: ops.ratio(x, x, eps=0.0), "eps must be"),
        (lambda x: ops.soft_neighbours(x, x, tau=-1.0), "tau must be"),
    ],
)
def test_arguments_are_checked_for_tensors_and_for_formulas(call: Any, message: str) -> None:
    for x in (torch.rand(2, D), h):
        with pytest.raises(ValueError, match=message):
            call(x)


@pytest.mark.parametrize("number", [torch.tensor(0.5), torch.nn.Parameter(torch.tensor(0.5))])
def test_an_expression_holds_no_tensors_and_a_function_takes_them(number: torch.Tensor) -> None:
    for write in (
        lambda x: ops.dilate(x, number),
        lambda x: ops.soft_neighbours(x, x, number),
        lambda x: x / number,
        lambda x: x + number * ops.sin(x),
        lambda x: ops.ratio(x, x, eps=number),
    ):
        with pytest.raises(ValueError, match=r"learnable=True"):
            write(h)
    x = torch.rand(2, D)
    torch.testing.assert_close(ops.dilate(x, number), ops.dilate(x, 0.5))
    swept = torch.func.vmap(lambda tau: ops.soft_neighbours(x, x, tau))(torch.tensor([0.5, 2.0]))
    torch.testing.assert_close(swept[1], ops.soft_neighbours(x, x, 2.0))


def test_rows_must_fit_their_grid() -> None:
    for call in (
        lambda x, grid: ops.diffuse(x, 0.1, grid=grid),
        lambda x, grid: ops.derivative(x, grid=grid),
        lambda x, grid: ops.gaussian_blur(x, 1.0, grid=grid),
        lambda x, grid: ops.erode(x, 0.1, grid=grid),
        lambda x, grid: ops.soft_quantile(x, 0.1, window=1, grid=grid),
    ):
        for shape, grid in (((2, D + 1), GRID), ((2, D - 1), GRID), ((), GRID), ((), None)):
            with pytest.raises(ValueError, match="h must have shape"):
                call(torch.rand(shape), grid)


def test_one_number_is_no_row() -> None:
    for call in (ops.softsort, ops.neuralsort, ops.soft_rank, ops.sinkhorn):
        with pytest.raises(ValueError, match="must have shape"):
            call(torch.tensor(0.5), 1)


def test_a_plan_is_square() -> None:
    with pytest.raises(ValueError, match="must have shape"):
        ops.sinkhorn(torch.rand(2, 3, 4), 2)


def test_the_border_must_be_wide_enough() -> None:
    with pytest.raises(ValueError, match=r"at least 4 long"):
        ops.dilate(torch.rand(2, 3), 0.1, window=9)
    with pytest.raises(ValueError, match=r"axis must be 1"):
        ops.derivative(torch.rand(2, 3), axis=0)


@pytest.mark.parametrize("name", ["rms", "layer_norm"])
def test_norms_of_large_rows(name: str) -> None:
    norm = PRIMITIVES[name].function
    x = torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    for size in (1e10, 1e19, 1e20, 1e22):
        torch.testing.assert_close(norm(size * x), norm(1e6 * x))
        large = (size * x).requires_grad_()
        slopes = torch.autograd.grad(norm(large)[0, 0], large)[0]
        exact = x.double().mul(size).requires_grad_()
        expected = torch.autograd.grad(norm(exact)[0, 0], exact)[0]
        torch.testing.assert_close(slopes.double(), expected, rtol=1e-4, atol=1e-40)
    for size in (1e-8, 1e-3, 1.0, 1e9):  # and ordinary rows stay as they are
        plain = size * x
        means = torch.linalg.vecdot(plain, plain).unsqueeze(-1) / 4
        by_hand = (
            plain * torch.rsqrt(means + 1e-6)
            if name == "rms"
            else torch.nn.functional.layer_norm(plain, (4,), eps=1e-6)
        )
        torch.testing.assert_close(norm(plain), by_hand, rtol=3e-7, atol=0)


def test_a_norm_undoes_a_high_power() -> None:
    assert torch.equal(ops.rms(torch.full((1, 4), 255.0) ** 8), torch.ones(1, 4))
    x = torch.tensor([[1e20, 1e20]])
    assert torch.equal(ops.rms(x), torch.ones(1, 2))
    torch.testing.assert_close(Bank([ops.rms(h)])(x), torch.ones(1, 1, 2))
    with torch.no_grad():
        torch.testing.assert_close(Bank([ops.rms(h)])(x), torch.ones(1, 1, 2))


@pytest.mark.parametrize("name", ["rms", "layer_norm"])
def test_norms_have_slopes_where_rows_are_zero_or_large(name: str) -> None:
    norm, x = PRIMITIVES[name].function, randn(4, 5)
    x[0] = 0
    scale = torch.tensor([1.0, 1.0, 1e-2, 1e2]).double()[:, None]
    assert torch.autograd.gradcheck(lambda z: norm(z * scale, eps=0.1), (x.requires_grad_(),))
    assert torch.autograd.gradgradcheck(lambda z: norm(z * scale, eps=0.1), (x,))
    huge = 1e190 * randn(2, 5)
    assert torch.autograd.gradcheck(lambda z: norm(huge * z), (randn(2, 5).requires_grad_(),))
