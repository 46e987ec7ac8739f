"""The flow against closed forms and SciPy; orders of convergence; the steps that it is the limit of."""

import builtins

import pytest
import torch
from conftest import check_on_fake_cuda, concentrations, dense_reaction
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torchdiffeq import odeint

import csos_lib
from csos_lib import CSOS
from csos_lib.dynamics import run
from csos_lib.reactions import DenseReaction
from csos_lib.relatives.flow import Flow, flow_field

sizes = st.integers(2, 6)


def precise(time: float = 1.0, kind: str = "euler") -> Flow:
    return Flow(time, kind, method="dopri5", rtol=1e-10, atol=1e-12)


@given(n=sizes)
def test_the_field_against_its_formula_and_along_the_simplex(n):
    x, reaction = concentrations(3, n), dense_reaction(n, positive=False)
    made = torch.einsum("kij,bi,bj->bk", reaction.weight, x, x)
    field = flow_field(x, reaction)
    torch.testing.assert_close(field, made - x * made.sum(1, keepdim=True))
    torch.testing.assert_close(field.sum(1), torch.zeros(3, dtype=torch.float64))


@settings(max_examples=8)
@given(n=sizes, time=st.floats(0.1, 3))
def test_against_scipy(n, time):
    x, reaction = concentrations(1, n), dense_reaction(n)
    weight = reaction.weight.detach().numpy()

    def field(_, y):
        made = (weight @ y) @ y
        return made - y * made.sum()

    oracle = solve_ivp(field, (0, time), x[0].numpy(), method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    torch.testing.assert_close(precise(time)(x, reaction)[0], torch.tensor(oracle), rtol=0, atol=1e-7)


@settings(max_examples=15)
@given(time=st.floats(0.1, 5), start=st.floats(0.01, 0.99))
def test_logistic_growth(time, start):
    """A molecule that everybody makes copies of: x' = x (1 - x)."""
    x = torch.tensor([[start, 1 - start]], dtype=torch.float64)
    grown = precise(time)(x, lambda x: x * torch.tensor([1.0, 0.0], dtype=torch.float64))
    odds = start / (1 - start) * torch.tensor(time, dtype=torch.float64).exp()
    torch.testing.assert_close(grown[0, 0], odds / (1 + odds), rtol=0, atol=1e-7)


@settings(max_examples=8)
@given(n=sizes, kind=st.sampled_from(["euler", "mirror"]))
def test_stays_on_the_simplex(n, kind):
    x, reaction = concentrations(3, n), dense_reaction(n, positive=kind == "euler")
    end = odeint(
        lambda t, x: flow_field(x, lambda x: n * x * reaction(x) if kind == "mirror" else reaction(x)),
        x,
        torch.tensor([0.0, 2.0], dtype=torch.float64),
    )[-1]
    assert end.min() > -1e-8
    torch.testing.assert_close(end.sum(1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(Flow(2.0, kind, rtol=1e-8, atol=1e-10)(x, reaction), end, rtol=0, atol=1e-6)


def test_a_negative_rate_takes_the_euler_flow_out_of_the_simplex():
    x = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    eaten = lambda x: -0.5 * x[:, 1:] * torch.tensor([1.0, 0.0], dtype=torch.float64)  # noqa: E731
    times = torch.tensor([0.0, 3.0], dtype=torch.float64)
    assert odeint(lambda t, x: flow_field(x, eaten), x, times)[-1].min() < -0.1
    assert precise(3.0, "mirror")(x, eaten).min() > 0


SLOPES = {"euler": 1, "heun2": 2, "rk4": 4}


@pytest.mark.parametrize("method", SLOPES)
def test_order_of_the_solvers(method):
    x, reaction = concentrations(4, 4), dense_reaction(4)
    exact = precise(1.0)(x, reaction)
    errors = [
        (Flow(1.0, method=method, step_size=h)(x, reaction) - exact).abs().max().log2().item()
        for h in (1 / 8, 1 / 16, 1 / 32)
    ]
    order = SLOPES[method]
    assert order - 0.3 <= (errors[0] - errors[2]) / 2 <= order + 0.5


@pytest.mark.parametrize("kind", ["euler", "mirror"])
def test_the_named_steps_follow_their_flows_to_first_order(kind):
    x, reaction = concentrations(4, 4), dense_reaction(4, positive=kind == "euler")
    exact = precise(1.0, kind)(x, reaction)
    errors = [
        (run(x, reaction, count, 0.0, 1 / count, kind) - exact).abs().max().log2().item()
        for count in (64, 128, 256)
    ]
    assert 0.7 <= (errors[0] - errors[2]) / 2 <= 1.5


def test_one_euler_step_of_the_solver_is_ours():
    x, reaction = concentrations(3, 4), dense_reaction(4)
    ours = x + 0.1 * flow_field(x, reaction)
    torch.testing.assert_close(Flow(0.1, method="euler", step_size=0.1)(x, reaction), ours, rtol=0, atol=1e-7)


def test_gradient_against_finite_differences():
    reaction = dense_reaction(3)
    flow = Flow(1.0, method="rk4", step_size=0.25)
    x = concentrations(2, 3).requires_grad_()

    def end(x: Tensor, weight: Tensor) -> Tensor:
        return flow(x, lambda x: torch.einsum("kij,bi,bj->bk", weight, x, x))

    assert torch.autograd.gradcheck(end, (x, reaction.weight))


def test_rows_are_independent_with_a_fixed_step():
    x, reaction = concentrations(5, 4), dense_reaction(4)
    flow = Flow(1.0, method="rk4", step_size=0.25)
    torch.testing.assert_close(flow(x[:1], reaction), flow(x, reaction)[:1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", ["euler", "mirror"])
def test_a_classifier_takes_it_and_learns(kind):
    dataset = csos_lib.load_dataset("mnist5k")
    part = csos_lib.Dataset(*(t[:300] for t in dataset))
    flow = Flow(0.5, kind, method="heun2", step_size=0.25)
    model = CSOS(12, dynamics=flow)
    history = csos_lib.fit(model, part, epochs=3, progress=False)
    assert history.train_loss[-1] < history.train_loss[0]
    images = part.test_images[:5]
    expected = flow(model.inject(images), model.reaction)
    torch.testing.assert_close(model.trajectory(images)[-1], expected)


def test_on_a_fake_cuda_device():
    class OneStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reaction = DenseReaction(4)

        def forward(self, x: Tensor) -> Tensor:
            return x + flow_field(x, self.reaction)

    check_on_fake_cuda(OneStep, (3, 4), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["euler", "mirror"])
@pytest.mark.parametrize("method", ["euler", "midpoint", "heun2", "heun3", "rk4"])
def test_fixed_steps_on_a_fake_cuda_device(method, kind, dtype):
    flow = Flow(1.0, kind, method, step_size=0.3)
    check_on_fake_cuda(lambda: CSOS(12, inputs=20, dynamics=flow), (3, 20), dtype)


WAYS = [{"method": "dopri5"}, {"method": "rk4", "step_size": 0.25}]


@pytest.mark.parametrize("kind", ["euler", "mirror"])
@pytest.mark.parametrize("way", WAYS, ids=["chosen", "fixed"])
def test_no_rows_and_a_row_that_is_lost(way, kind):
    flow, reaction = Flow(1.0, kind, **way), DenseReaction(6)
    empty = torch.empty(0, 6, requires_grad=True)
    assert flow(empty, reaction).shape == (0, 6)
    flow(empty, reaction).sum().backward()
    x = torch.rand(4, 6).softmax(1)
    expected = flow(x, reaction)
    for bad in (torch.nan, torch.inf):
        lost = x.clone()
        lost[2, 3] = bad
        answer = flow(lost, reaction)
        assert answer[2].isnan().all()
        others = [0, 1, 3]
        torch.testing.assert_close(answer[others], expected[others], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["euler", "mirror"])
@pytest.mark.parametrize("way", WAYS, ids=["chosen", "fixed"])
def test_strong_reactions_end_on_the_simplex_or_are_lost_or_refused(way, kind):
    reaction = dense_reaction(6, positive=False)
    with torch.no_grad():
        reaction.weight.mul_(100)
    x = torch.rand(4, 6, dtype=torch.float64).softmax(1)
    try:
        y = Flow(1.0, kind, **way)(x, reaction)
    except ValueError as error:
        assert "time must be shorter or the reaction weaker" in str(error)  # noqa: PT017
    else:
        total = y.nansum(1)
        torch.testing.assert_close(total[total > 0], torch.ones_like(total[total > 0]))
        assert (y.isnan().any(1) <= (way["method"] == "rk4")).all()


def test_bad_arguments_say_what_is_allowed():
    for wrong in (
        {"time": 0},
        {"rtol": 0.0},
        {"atol": -1.0},
        {"kind": "spiral"},
        {"step_size": 0.5},
        {"step_size": 2.0, "method": "rk4"},
        {"method": "guess"},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
            Flow(**wrong)
    with pytest.raises(ValueError, match="step_size must be given"):
        Flow(method="rk4")
    with pytest.raises(ValueError, match=r"\(B, N\)"):
        Flow()(torch.ones(3), lambda x: x)


def test_without_torchdiffeq_it_says_what_to_install(monkeypatch):
    import importlib

    def missing(name, *rest):
        if name == "torchdiffeq":
            raise ImportError(name)
        return builtins.__import__(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"csos_lib\[relatives\]"):
        Flow()
