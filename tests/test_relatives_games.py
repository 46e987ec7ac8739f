"""Games: the Euler step as natural selection, the mirror step as learning, against nashpy and theorems."""

import math

import nashpy
import numpy as np
import pytest
import torch
from conftest import check_on_fake_cuda, concentrations, react
from hypothesis import given
from hypothesis import strategies as st
from nashpy.learning.replicator_dynamics import get_derivative_of_fitness
from torch import Tensor

from csos_lib import CSOS
from csos_lib.dynamics import euler_step, mirror_step, run
from csos_lib.reactions import DenseReaction, symmetrise
from csos_lib.relatives.games import (
    GameReaction,
    game_tensor,
    mean_payoff,
    replicator_flow,
    replicator_map,
)

sizes = st.integers(2, 8)
RPS = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)


def payoffs(n: int, low: float = -1.0) -> Tensor:
    return low + (1 - low) * torch.rand(n, n, dtype=torch.float64)


def production(weight: Tensor, x: Tensor) -> Tensor:
    return react(weight)(x)


@given(n=sizes, decay=st.floats(0, 0.9), alpha=st.floats(0, 1))
def test_the_euler_step_is_the_replicator_map(n, decay, alpha):
    x, payoff = concentrations(4, n), payoffs(n)
    step = euler_step(x, react(game_tensor(payoff)), decay, alpha)
    expected = replicator_map(x, payoff, alpha * (1 - decay))
    total = (1 - decay) * (1 + alpha * (1 - decay) * mean_payoff(x, payoff)).unsqueeze(1)
    guarded = expected * total / (total + 1e-8)
    torch.testing.assert_close(step, guarded, rtol=0, atol=1e-12)
    torch.testing.assert_close(step / step.sum(1, keepdim=True), expected, rtol=1e-12, atol=1e-15)


@given(n=sizes)
def test_the_game_tensor_entry_by_entry(n):
    payoff = payoffs(n)
    weight = game_tensor(payoff)
    for k in range(n):
        for i in range(n):
            for j in range(n):
                assert weight[k, i, j] == (payoff[k, j] if k == i else 0)


@pytest.mark.parametrize("kind", ["euler", "mirror"])
@given(n=sizes)
def test_the_module_and_its_tensor_agree_on_the_simplex(kind, n):
    reaction, x = GameReaction(n, kind).double(), concentrations(5, n)
    torch.testing.assert_close(reaction(x), production(reaction.to_tensor(), x))
    expected = x @ reaction.payoff.T
    torch.testing.assert_close(reaction(x), x * expected if kind == "euler" else expected)


@given(n=sizes, rate=st.floats(0, 5))
def test_extinct_stays_extinct_and_shares_sum_to_one(n, rate):
    x = concentrations(4, n)
    x[:, 0] = 0
    x = x / x.sum(1, keepdim=True)
    after = replicator_map(x, payoffs(n, low=0.0), rate)
    assert (after[:, 0] == 0).all()
    torch.testing.assert_close(after.sum(1), torch.ones(4, dtype=torch.float64))


@given(n=sizes, rate=st.floats(0.01, 10))
def test_baum_eagon(n, rate):
    """With A symmetric and 1 + rate A >= 0 the mean payoff never falls."""
    a = payoffs(n, low=-1 / max(rate, 1.0))
    payoff = torch.triu(a) + torch.triu(a, 1).T
    x = concentrations(6, n)
    for _ in range(5):
        after = replicator_map(x, payoff, rate)
        assert (mean_payoff(after, payoff) >= mean_payoff(x, payoff) - 1e-13).all()
        x = after


def test_the_mean_payoff_can_fall_in_a_game_that_is_not_symmetric():
    """The prisoner's dilemma: selection makes everyone poorer."""
    dilemma = torch.tensor([[3.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    x = torch.tensor([[0.9, 0.1]], dtype=torch.float64)
    assert mean_payoff(replicator_map(x, dilemma, 0.1), dilemma) < mean_payoff(x, dilemma)


@given(n=sizes)
def test_the_flow_against_nashpy(n):
    x, payoff = concentrations(3, n), payoffs(n)
    for row, velocity in zip(x, replicator_flow(x, payoff), strict=True):
        expected = get_derivative_of_fitness(row.numpy(), 0, payoff.numpy())
        np.testing.assert_allclose(velocity, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["euler", "mirror"])
def test_both_steps_approach_nashpys_trajectory_with_order_one(kind):
    payoff = torch.tensor([[-1.0, 2.0, 0.5], [0.0, 1.0, 0.5], [-0.5, 1.5, 1.0]], dtype=torch.float64)
    start = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    times = np.linspace(0, 4, 2)
    end = torch.tensor(nashpy.Game(payoff.numpy()).replicator_dynamics(start[0].numpy(), times)[-1])
    errors = []
    for steps in (100, 400):
        reaction = GameReaction(3, kind).double()
        reaction.payoff.data = payoff
        alpha = 4 / steps / (3 if kind == "mirror" else 1)
        errors.append((run(start, reaction, steps, 0.0, alpha, kind)[0] - end).abs().max().item())
    assert 0.7 < math.log(errors[0] / errors[1], 4) < 1.3


@given(n=sizes, eta=st.floats(0.01, 3))
def test_the_mirror_step_is_the_best_answer_to_its_objective(n, eta):
    """For every p: objective(x') - objective(p) = KL(p || x'), so x' is the maximum and the only one."""
    x, weight = concentrations(1, n), torch.randn(n, n, n, dtype=torch.float64)
    gain = production(weight, x)
    best = mirror_step(x.log(), react(weight), 0.0, eta / n).exp()
    p = concentrations(20, n)

    def objective(p):
        return eta * (p * gain).sum(1) - (p * (p / x).log()).sum(1)

    torch.testing.assert_close(objective(best) - objective(p), (p * (p / best).log()).sum(1))


@given(n=sizes)
def test_a_game_of_two_is_a_game_of_three(n):
    """R(x) = A x on the simplex is the production of W[k, i, j] = A[k, j], and of its symmetric part."""
    reaction, x = GameReaction(n, "mirror").double(), concentrations(4, n)
    dense = DenseReaction(n).double()
    dense.weight.data = symmetrise(reaction.to_tensor())
    torch.testing.assert_close(
        mirror_step(x.log(), reaction, 0.1, 0.3), mirror_step(x.log(), dense, 0.1, 0.3)
    )


@given(eta=st.floats(0.05, 1), steps=st.integers(1, 200))
def test_regret_of_the_mirror_step(eta, steps):
    """In T rounds no fixed strategy earns more by KL / eta + eta T / 2, for payoffs that are 2 wide."""
    x, reaction = concentrations(1, 3), GameReaction(3, "mirror").double()
    reaction.payoff.data = RPS
    earned, offered, log_x = 0.0, torch.zeros(3, dtype=torch.float64), x.log()
    start = -x.log().min().item()  # KL of a pure strategy to the start is at most this
    for _ in range(steps):
        gain = reaction(log_x.exp())[0]
        earned += (log_x.exp()[0] * gain).sum().item()
        offered += gain
        log_x = mirror_step(log_x, reaction, 0.0, eta / 3)
    assert offered.max().item() - earned <= start / eta + eta * steps / 2 + 1e-9


def test_rock_paper_scissors_grows_wider_in_both_steps_and_keeps_its_product_in_the_flow():
    x = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    velocity = replicator_flow(x, RPS)
    assert abs((velocity / x).sum().item()) < 1e-15  # d/dt log x0 x1 x2
    for kind in ("euler", "mirror"):
        reaction = GameReaction(3, kind).double()
        reaction.payoff.data = RPS
        after = run(x, reaction, 50, 0.0, 0.1, kind)
        assert after.prod() < x.prod()


def test_starts_with_the_stated_variance():
    torch.manual_seed(0)
    x = torch.softmax(torch.randn(1, 40, dtype=torch.float64), 1)
    made = torch.cat([GameReaction(40).double()(x) for _ in range(2000)]).detach()
    total = made.square().sum(1).mean().sqrt().item()
    assert total == pytest.approx(0.05 * math.sqrt(40) * x.square().sum().item(), rel=0.03)


@pytest.mark.parametrize("kind", ["euler", "mirror"])
def test_trains_inside_the_classifier(kind):
    model = CSOS(16, reaction=GameReaction(16, kind), dynamics=kind)
    log_p = model(torch.rand(4, 784))
    log_p[:, 3].sum().backward()
    gradient = model.reaction.payoff.grad
    assert isinstance(gradient, Tensor)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", ["euler", "mirror"])
def test_gradients(kind):
    reaction = GameReaction(4, kind).double()
    x = concentrations(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, a: torch.func.functional_call(reaction, {"payoff": a}, x), (x, reaction.payoff)
    )
    assert torch.autograd.gradcheck(lambda x, a: replicator_map(x, a, 0.3), (x, reaction.payoff))


@pytest.mark.parametrize("kind", ["euler", "mirror"])
def test_on_a_fake_device(kind):
    check_on_fake_cuda(lambda: GameReaction(5, kind), (3, 5), torch.float32)
    check_on_fake_cuda(lambda: GameReaction(5, kind), (3, 5), torch.float64)


@pytest.mark.parametrize(
    "call",
    [
        lambda: game_tensor(torch.zeros(2, 3)),
        lambda: game_tensor(torch.zeros(2, 2, dtype=torch.int64)),
        lambda: replicator_map(torch.ones(3) / 3, torch.zeros(2, 2), 1.0),
        lambda: replicator_map(torch.ones(2) / 2, torch.zeros(2, 2), -1.0),
        lambda: replicator_flow(torch.ones(2).double() / 2, torch.zeros(2, 2)),
        lambda: mean_payoff(torch.tensor(1.0), torch.zeros(1, 1)),
        lambda: GameReaction(0),
        lambda: GameReaction(3, "chess"),
        lambda: GameReaction(3)(torch.zeros(2, 4)),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(ValueError, match=r"payoff|rate|x must|num_basis|kind"):
        call()


def test_nobody_has_offspring():
    x, payoff = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    assert replicator_map(x, payoff, 1.0).tolist() == [[0, 0], [0, 0]]
    assert replicator_map(x, payoff, 0.5).tolist() == x.tolist()
