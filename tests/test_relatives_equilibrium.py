"""The contraction, its fixed point, Anderson's method, and the gradient against unrolling and torchdeq."""

import pytest
import torch
import torchdeq
from conftest import check_on_fake_cuda, concentrations
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import csos_lib
from csos_lib import CSOS
from csos_lib.relatives.equilibrium import (
    Equilibrium,
    StochasticReaction,
    anderson,
    attach_gradient,
    fed,
)
from csos_lib.relatives.flow import Flow
from csos_lib.simplex import normalise

sizes = st.integers(2, 6)
contracting = st.floats(0.05, 0.45)


def stochastic(n: int, scale: float = 3.0) -> StochasticReaction:
    return StochasticReaction(n, scale).double()


def iterate(step, x: Tensor, count: int) -> Tensor:
    for _ in range(count):
        x = step(x)
    return x


@given(n=sizes)
def test_a_stochastic_reaction_maps_the_simplex_into_itself_and_stretches_at_most_twofold(n):
    reaction, x, y = stochastic(n), concentrations(4, n), concentrations(4, n)
    weight = reaction.to_tensor()
    torch.testing.assert_close(weight.sum(0), torch.ones(n, n, dtype=torch.float64))
    torch.testing.assert_close(reaction(x), torch.einsum("kij,bi,bj->bk", weight, x, x))
    torch.testing.assert_close(reaction(x).sum(1), torch.ones(4, dtype=torch.float64))
    assert (reaction(x) >= 0).all()
    assert ((reaction(x) - reaction(y)).abs().sum(1) <= 2 * (x - y).abs().sum(1) + 1e-12).all()


@given(n=sizes, alpha=contracting, steps=st.integers(1, 30))
def test_below_one_half_all_starts_meet_at_the_rate_of_the_theorem(n, alpha, steps):
    feed, reaction = concentrations(4, n), stochastic(n, 5.0)
    step = fed(reaction, feed, alpha)
    x, y = concentrations(4, n), concentrations(4, n)
    bound = (2 * alpha) ** steps * (x - y).abs().sum(1)
    gap = (iterate(step, x, steps) - iterate(step, y, steps)).abs().sum(1)
    assert (gap <= bound + 1e-12).all()


def only_if_both_are_first(x: Tensor) -> Tensor:
    """R_0 = x_0^2: the pair (0, 0) makes 0, all others make 1."""
    return torch.stack([x[:, 0] ** 2, 1 - x[:, 0] ** 2], 1)


@settings(max_examples=10)
@given(alpha=st.floats(0.55, 0.95))
def test_one_half_is_sharp(alpha):
    """Fed with molecule 0 alone, x_0 = alpha x_0^2 + 1 - alpha has the roots 1 and (1 - alpha) / alpha."""
    feed = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    step = fed(only_if_both_are_first, feed, alpha)
    other = (1 - alpha) / alpha
    for root in (1.0, other):
        x = torch.tensor([[root, 1 - root]], dtype=torch.float64)
        torch.testing.assert_close(step(x), x, rtol=0, atol=1e-7)
    near = torch.tensor([[0.999, 0.001]], dtype=torch.float64)
    torch.testing.assert_close(iterate(step, near, 500)[0, 0].item(), other, rtol=0, atol=1e-6)


@settings(max_examples=10)
@given(n=sizes, alpha=contracting)
def test_the_solvers_find_the_fixed_point(n, alpha):
    feed, reaction = concentrations(3, n), stochastic(n)
    step = fed(reaction, feed, alpha)
    exact = iterate(step, feed, 300)
    torch.testing.assert_close(step(exact), exact)
    for memory in (0, 5):
        x, evaluations = anderson(step, feed, tol=1e-12, max_steps=500, memory=memory)
        torch.testing.assert_close(x, exact, rtol=0, atol=1e-9)
        assert (evaluations < 500).all()
    settle = Equilibrium(alpha, tol=1e-12, max_steps=500)
    torch.testing.assert_close(settle(feed, reaction), exact, rtol=0, atol=1e-7)


def test_rounding_does_not_lead_away_from_the_simplex():
    """Without the division in `fed` the sum would fall to (1 - alpha) / alpha."""
    feed, reaction = concentrations(3, 5).float(), StochasticReaction(5)
    x = iterate(fed(reaction, feed, 0.9), feed, 300)
    torch.testing.assert_close(x.sum(1), torch.ones(3), rtol=0, atol=1e-5)
    raw = feed
    for _ in range(300):
        raw = 0.1 * feed + 0.9 * reaction(raw)
    assert ((raw.sum(1) - 1).abs() > 0.1).all()


def test_anderson_against_torchdeq():
    feed, reaction = concentrations(4, 6), stochastic(6)
    step = fed(reaction, feed, 0.45)
    deq = torchdeq.get_deq(f_solver="anderson", f_tol=1e-12, f_max_iter=100, f_stop_mode="abs")
    with torch.no_grad():
        theirs, _ = deq(step, feed)
    torch.testing.assert_close(anderson(step, feed, 1e-12, 100).x, theirs[-1], rtol=0, atol=1e-9)


def test_anderson_solves_linear_systems_in_about_as_many_steps_as_dimensions():
    matrix = 0.3 * torch.randn(4, 4, dtype=torch.float64)
    matrix = 0.95 * matrix / torch.linalg.eigvals(matrix).abs().max()
    shift = torch.randn(3, 4, dtype=torch.float64)
    x, evaluations = anderson(lambda x: x @ matrix.T + shift, torch.zeros_like(shift), 1e-8, 40)
    torch.testing.assert_close(x, torch.linalg.solve(torch.eye(4) - matrix, shift.T).T, rtol=0, atol=1e-6)
    assert (evaluations <= 10).all()
    slow = anderson(lambda x: x @ matrix.T + shift, torch.zeros_like(shift), 1e-8, 40, memory=0)
    assert (slow.evaluations == 40).all()


def test_a_row_that_has_settled_does_not_move_and_does_not_depend_on_the_others():
    feed, reaction = concentrations(6, 5), stochastic(5)
    together = anderson(fed(reaction, feed, 0.45), feed, 1e-6)
    for row in range(6):
        alone = anderson(fed(reaction, feed[row : row + 1], 0.45), feed[row : row + 1], 1e-6)
        assert alone.evaluations.item() == together.evaluations[row].item()
        torch.testing.assert_close(alone.x[0], together.x[row], rtol=0, atol=1e-6)


def test_a_row_that_is_not_finite_has_not_settled():
    bad = torch.tensor([[0.5], [torch.nan], [torch.inf]])
    x, evaluations = anderson(
        lambda x: torch.where(bad.isfinite(), torch.cos(x), bad), torch.zeros(3, 1), 1e-5, 30
    )
    assert evaluations[0] < 30
    assert evaluations[1:].tolist() == [30, 30]
    torch.testing.assert_close(x[0].cos(), x[0], rtol=0, atol=1e-5)


@settings(max_examples=10)
@given(n=sizes, alpha=st.floats(0.05, 0.3))
def test_gradient_equals_the_unrolled_one_and_the_dense_solve(n, alpha):
    feed, reaction = concentrations(3, n).requires_grad_(), stochastic(n)
    direction = torch.randn(3, n, dtype=torch.float64)
    inputs = (feed, reaction.logits)

    settled = Equilibrium(alpha, tol=1e-13, max_steps=500)(feed, reaction)
    implicit = torch.autograd.grad((settled * direction).sum(), inputs)
    # Equilibrium ends with normalise, which takes out of a gradient what would change the sum.
    unrolled = normalise(iterate(fed(reaction, feed, alpha), feed, 60))
    expected = torch.autograd.grad((unrolled * direction).sum(), inputs)
    for ours, theirs in zip(implicit, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)

    # By a dense linear solve, (I - J^T) u = g; x_0 enters the map with the factor 1 - alpha.
    fixed = settled.detach()
    attached = attach_gradient(fed(reaction, feed, alpha), fixed, 1e-13, 500)
    ours = torch.autograd.grad((attached * direction).sum(), feed)[0]
    for row in range(3):
        step = fed(reaction, feed.detach()[row : row + 1], alpha)
        jacobian = torch.autograd.functional.jacobian(step, fixed[row : row + 1])[0, :, 0]
        u = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - jacobian.T, direction[row])
        torch.testing.assert_close(ours[row], (1 - alpha) * u, rtol=1e-6, atol=1e-9)


def test_gradient_against_torchdeq():
    feed, reaction = concentrations(4, 5), stochastic(5)
    direction = torch.randn(4, 5, dtype=torch.float64)
    deq = torchdeq.get_deq(
        f_solver="anderson",
        ift=True,
        f_tol=1e-13,
        b_solver="anderson",
        b_tol=1e-13,
        f_max_iter=100,
        b_max_iter=100,
    )
    deq.train()
    theirs, _ = deq(fed(reaction, feed, 0.45), feed)
    (theirs[-1] * direction).sum().backward()
    expected, reaction.logits.grad = reaction.logits.grad, None
    settled = Equilibrium(0.45, tol=1e-13, max_steps=200)(feed, reaction)
    (settled * direction).sum().backward()
    assert expected is not None
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(reaction.logits.grad, expected, rtol=1e-5, atol=1e-7)


def test_gradcheck():
    feed, weight = concentrations(2, 3).requires_grad_(), torch.randn(3, 3, 3, dtype=torch.float64)
    settle = Equilibrium(0.4, tol=1e-14, max_steps=300)

    def end(feed: Tensor, weight: Tensor) -> Tensor:
        return settle(feed, lambda x: torch.einsum("kij,bi,bj->bk", weight.softmax(0), x, x))

    assert torch.autograd.gradcheck(end, (feed, weight.requires_grad_()))


def test_second_derivatives_are_refused_rather_than_wrong():
    feed = concentrations(2, 3).requires_grad_()
    loss = Equilibrium(0.4)(feed, stochastic(3)).square().sum()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, feed, create_graph=True)


def test_the_fed_flow_ends_where_the_iteration_does():
    feed, reaction = concentrations(3, 4), stochastic(4)
    settled = Equilibrium(0.45, tol=1e-12, max_steps=200)(feed, reaction)
    flowed = Flow(80.0, rtol=1e-9, atol=1e-11)(feed, fed(reaction, feed, 0.45))
    torch.testing.assert_close(flowed, settled, rtol=0, atol=1e-7)


def test_a_classifier_takes_it_and_learns():
    dataset = csos_lib.load_dataset("mnist5k")
    part = csos_lib.Dataset(*(t[:300] for t in dataset))
    model = CSOS(12, reaction=StochasticReaction(12), dynamics=Equilibrium(0.4))
    before = model.reaction.logits.detach().clone()
    history = csos_lib.fit(model, part, epochs=2, progress=False)
    assert history.train_loss[-1] < history.train_loss[0]
    assert (model.reaction.logits - before).abs().max() > 1e-3
    with pytest.raises(ValueError, match="recipe"):
        csos_lib.save(model, "nowhere")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_fake_cuda_device(dtype):
    class Settled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reaction = StochasticReaction(4)

        def forward(self, x: Tensor) -> Tensor:
            return Equilibrium(0.4, tol=0, max_steps=8)(x, self.reaction)

    check_on_fake_cuda(Settled, (3, 4), dtype)


def test_dead_rows_and_pure_soups_have_finite_answers_and_gradients():
    feed = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    reaction = StochasticReaction(3)
    settled = Equilibrium(0.9)(feed, reaction)
    settled.sum().backward()
    for value in (settled, feed.grad, reaction.logits.grad):
        assert value is not None
        assert value.isfinite().all()


def test_bad_arguments_say_what_is_allowed():
    for wrong in ({"alpha": 1.5}, {"tol": -1.0}, {"max_steps": 0}, {"memory": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Equilibrium(**wrong)
    x = torch.full((2, 3), 1 / 3)
    for wrong in ({"tol": -1.0}, {"max_steps": 0}, {"memory": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            anderson(torch.cos, x, **wrong)
    with pytest.raises(ValueError, match="feed"):
        fed(torch.cos, torch.ones(3), 0.5)
    with pytest.raises(ValueError, match="dtype"):
        StochasticReaction(3)(x.double())
    with pytest.raises(ValueError, match="num_basis"):
        StochasticReaction(0)
