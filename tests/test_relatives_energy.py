"""Energy: what never falls along each dynamics, the fully symmetric W, and memories, against loops."""

import itertools
import math

import pytest
import torch
from conftest import check_on_fake_cuda, concentrations, react
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from csos_lib import CSOS
from csos_lib.dynamics import euler_step, mirror_step
from csos_lib.relatives.energy import (
    EnergyReaction,
    free_energy,
    hopfield_energy,
    hopfield_update,
    potential_share,
    rayleigh,
    recall_by_signs,
    symmetrise_fully,
)
from csos_lib.relatives.games import GameReaction

sizes = st.integers(2, 7)
strengths = st.floats(0.05, 1)


def symmetric(n: int) -> Tensor:
    return symmetrise_fully(torch.randn(n, n, n, dtype=torch.float64))


def signs(rows: int, n: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.randint(2, (rows, n), generator=generator).double() * 2 - 1


@given(n=sizes)
def test_symmetrise_fully_is_the_projection(n):
    weight = torch.randn(n, n, n, dtype=torch.float64)
    mean = symmetrise_fully(weight)
    for order in itertools.permutations(range(3)):
        torch.testing.assert_close(mean.permute(order), mean)
    torch.testing.assert_close(symmetrise_fully(mean), mean)
    assert abs(((weight - mean) * symmetric(n)).sum().item()) < 1e-10  # what is cut off is orthogonal


@given(n=sizes)
def test_the_best_potential_is_that_of_least_squares(n):
    """Against a solver: a basis of the fully symmetric tensors, with the mean over k taken off."""
    weight = torch.randn(n, n, n, dtype=torch.float64)
    felt = (weight + weight.mT) / 2
    felt = (felt - felt.mean(0)).flatten()
    basis = torch.eye(n**3, dtype=torch.float64).unflatten(1, (n, n, n))
    basis = torch.stack([symmetrise_fully(b) for b in basis])
    basis = (basis - basis.mean(1, keepdim=True)).flatten(1).T
    fit = basis @ (torch.linalg.pinv(basis) @ felt)
    expected = fit.square().sum() / felt.square().sum()
    torch.testing.assert_close(potential_share(weight), expected)
    gauge, odd = torch.randn(n, n, dtype=torch.float64), torch.randn(n, n, n, dtype=torch.float64)
    torch.testing.assert_close(potential_share(weight + gauge + odd - odd.mT), expected)
    one = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(potential_share(symmetric(n) + gauge), one)


@given(n=sizes)
def test_the_reaction_against_a_triple_loop(n):
    reaction, x = EnergyReaction(n).double(), concentrations(3, n)
    weight = reaction.to_tensor()
    values = reaction.weight.tolist()
    for triple in itertools.product(range(n), repeat=3):
        k, i, j = sorted(triple)
        assert weight[triple].item() == values[j * (j + 1) * (j + 2) // 6 + i * (i + 1) // 2 + k]
    torch.testing.assert_close(reaction(x), react(weight)(x))


@given(n=sizes)
def test_production_is_the_gradient_of_the_potential(n):
    reaction, x = EnergyReaction(n).double(), concentrations(3, n).requires_grad_()
    (slope,) = torch.autograd.grad(free_energy(x, reaction).sum(), x)
    torch.testing.assert_close(slope, reaction(x))


@given(n=sizes, decay=st.floats(0, 0.9), part=strengths)
def test_the_mirror_step_never_lowers_the_free_energy(n, decay, part):
    weight = symmetric(n)
    eta = part * (1 - decay / 2) / weight.abs().max().item()
    log_x = concentrations(5, n).log()
    for _ in range(10):
        after = mirror_step(log_x, react(weight), decay, eta / n)
        before, now = (free_energy(s.exp(), react(weight), decay / eta) for s in (log_x, after))
        gained = (1 - decay / 2) / eta - weight.abs().max()
        distance = (after.exp() - log_x.exp()).abs().sum(1)
        assert (now - before >= gained * distance**2 - 1e-12).all()
        log_x = after


def test_beyond_the_bound_the_free_energy_can_fall():
    """Two molecules that love only each other: too strong a step overshoots again and again."""
    weight = torch.zeros(2, 2, 2, dtype=torch.float64)
    weight[0, 0, 1] = weight[0, 1, 0] = weight[1, 0, 0] = 1.0
    weight[0, 1, 1] = weight[1, 0, 1] = weight[1, 1, 0] = 1.0
    log_x = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    after = mirror_step(log_x, react(weight), 0.0, 20.0)
    assert free_energy(after.exp(), react(weight)) < free_energy(log_x.exp(), react(weight))


@given(n=sizes, decay=st.floats(0, 0.9), part=strengths)
def test_the_euler_step_never_lowers_the_rayleigh_quotient(n, decay, part):
    """With the cut or without it: W has both signs, and starts on the border are among these."""
    weight = symmetric(n)
    alpha = part / (2 * (1 - decay) * torch.linalg.matrix_norm(weight.flatten(1), 2).item())
    x = concentrations(6, n)
    x[:2, 0] = 0
    x = x / x.sum(1, keepdim=True)
    for _ in range(10):
        after = euler_step(x, react(weight), decay, alpha)
        assert (rayleigh(after, react(weight)) >= rayleigh(x, react(weight)) - 1e-12).all()
        x = after


@given(n=sizes)
def test_the_potential_never_falls_along_the_replicator_flow(n):
    weight, x = symmetric(n), concentrations(5, n)
    made = react(weight)(x)
    velocity = x * (made - (x * made).sum(1, keepdim=True))
    rate = (made * velocity).sum(1)
    variance = (x * made**2).sum(1) - (x * made).sum(1) ** 2
    torch.testing.assert_close(rate, variance)
    assert (rate >= -1e-14).all()


def test_the_potential_can_fall_along_the_models_own_flow():
    """dx/dt = R - x sum R: molecule 0 makes itself, and half as much of molecule 1, and loses by it."""
    weight = torch.zeros(2, 2, 2, dtype=torch.float64)
    weight[0, 0, 0] = 1.0
    weight[0, 0, 1] = weight[0, 1, 0] = weight[1, 0, 0] = 0.5
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    made = react(weight)(x)
    velocity = made - x * made.sum(1, keepdim=True)
    assert (made * velocity).sum() == -0.25
    after = euler_step(x, react(weight), 0.0, 0.1)
    assert free_energy(after, react(weight)) < free_energy(x, react(weight))
    assert rayleigh(after, react(weight)) > rayleigh(x, react(weight))


@given(n=sizes)
def test_a_zero_sum_game_has_no_part_with_an_energy(n):
    """As a game of three, W[k, i, j] = A[k, j] with A antisymmetric."""
    game = GameReaction(n, "mirror").double()
    game.payoff.data = torch.triu(game.payoff.data, 1) - torch.triu(game.payoff.data, 1).T
    assert symmetrise_fully(game.to_tensor()).abs().max() < 1e-16


def test_starts_with_the_variance_of_a_dense_reaction():
    """Exactly so where all k, i, j differ; the stated deviation everywhere."""
    torch.manual_seed(0)
    values = torch.stack([EnergyReaction(3).weight.detach() for _ in range(4000)])
    diagonal = [0, 3, 9]
    rest = [m for m in range(10) if m not in diagonal]
    assert values[:, diagonal].std().item() == pytest.approx(0.05, rel=0.03)
    assert values[:, rest].std().item() == pytest.approx(0.05 / math.sqrt(2), rel=0.03)


@pytest.mark.parametrize("dynamics", ["euler", "mirror"])
def test_trains_inside_the_classifier(dynamics):
    model = CSOS(12, reaction=EnergyReaction(12), dynamics=dynamics)
    model(torch.rand(4, 784))[:, 3].sum().backward()
    gradient = model.reaction.weight.grad
    assert isinstance(gradient, Tensor)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_gradients():
    reaction = EnergyReaction(4).double()
    x = concentrations(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(reaction, {"weight": w}, x), (x, reaction.weight)
    )
    memory = torch.randn(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: hopfield_energy(s, memory, 0.7), (x,))
    assert torch.autograd.gradcheck(lambda s: hopfield_update(s, memory, 0.7), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_fake_device(dtype):
    check_on_fake_cuda(lambda: EnergyReaction(5), (3, 5), dtype)


# Memories


@given(n=st.integers(3, 12), count=st.integers(1, 4))
def test_power_two_is_hebbs_network(n, count):
    """Hopfield (1982): T_ij = sum_m pattern_i pattern_j, T_ii = 0; each unit takes the sign of its field."""
    memory, state = signs(count, n), signs(3, n)
    weight = memory.T @ memory
    weight.fill_diagonal_(0)
    expected = state.clone()
    for row in expected:
        for i in range(n):
            field = (weight[i] @ row).item()
            if field != 0:
                row[i] = math.copysign(1, field)
    assert torch.equal(recall_by_signs(state, memory, 2), expected)


@given(n=st.integers(3, 12), count=st.integers(1, 5), power=st.integers(2, 6))
def test_a_sweep_never_raises_its_energy(n, count, power):
    memory, state = signs(count, n), signs(4, n)

    def energy(s: Tensor) -> Tensor:
        return -((s @ memory.T) ** power).sum(1)

    after = recall_by_signs(state, memory, power)
    assert (after.abs() == 1).all()
    assert (energy(after) <= energy(state)).all()


def test_a_higher_power_holds_more():
    """100 random memories of 100 signs are far beyond 0.14 N; the third power holds them all."""
    generator = torch.Generator().manual_seed(0)
    memory = signs(100, 100, generator)
    kept = [(recall_by_signs(memory, memory, n) == memory).all(1).double().mean().item() for n in (2, 3, 4)]
    assert kept[0] < 0.1
    assert kept[1] > 0.9
    assert kept[2] == 1.0


@given(n=st.integers(2, 8), count=st.integers(1, 6), beta=st.floats(0.05, 20))
def test_the_modern_update_never_raises_its_energy_and_stays_in_the_hull(n, count, beta):
    memory = torch.randn(count, n, dtype=torch.float64)
    state = 2 * torch.randn(5, n, dtype=torch.float64)
    for _ in range(3):
        after = hopfield_update(state, memory, beta)
        assert (hopfield_energy(after, memory, beta) <= hopfield_energy(state, memory, beta) + 1e-12).all()
        assert (after >= memory.min(0).values - 1e-12).all()
        assert (after <= memory.max(0).values + 1e-12).all()
        state = after


@given(n=st.integers(2, 8), count=st.integers(1, 6), beta=st.floats(0.05, 20))
def test_the_modern_update_is_a_step_down_its_energy_and_is_attention(n, count, beta):
    memory = torch.randn(count, n, dtype=torch.float64)
    state = torch.randn(5, n, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(hopfield_energy(state, memory, beta).sum(), state)
    after = hopfield_update(state, memory, beta)
    torch.testing.assert_close(after, state - slope)
    attention = torch.nn.functional.scaled_dot_product_attention(
        state[None], memory[None], memory[None], scale=beta
    )
    torch.testing.assert_close(after, attention[0])


@pytest.mark.parametrize(
    "call",
    [
        lambda: symmetrise_fully(torch.zeros(2, 2, 3)),
        lambda: free_energy(torch.ones(2), lambda x: x),
        lambda: free_energy(torch.ones(1, 2), lambda x: x, -1.0),
        lambda: rayleigh(torch.ones(2), lambda x: x),
        lambda: EnergyReaction(0),
        lambda: EnergyReaction(3)(torch.zeros(2, 4)),
        lambda: recall_by_signs(torch.ones(1, 3), torch.ones(2, 4), 2),
        lambda: recall_by_signs(torch.ones(1, 3), torch.ones(2, 3).double(), 2),
        lambda: recall_by_signs(torch.ones(1, 3), torch.ones(2, 3), 1),
        lambda: hopfield_energy(torch.ones(1, 3), torch.ones(2, 3), 0.0),
        lambda: hopfield_update(torch.ones(3), torch.ones(2, 3), 1.0),
    ],
)
def test_bad_input_is_named(call):
    with pytest.raises(ValueError, match=r"weight|temperature|x must|num_basis|patterns|state|power|beta"):
        call()


@given(n=sizes)
def test_full_symmetry_is_exact(n):
    for dtype in (torch.float32, torch.float64):
        weight = symmetrise_fully(torch.randn(n, n, n, dtype=dtype))
        assert all(torch.equal(weight, weight.permute(order)) for order in itertools.permutations(range(3)))
    torch.autograd.gradcheck(symmetrise_fully, torch.randn(3, 3, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("n", [64, 784])
@pytest.mark.parametrize("power", [2, 48, 56, 126, 200, 1000])
def test_one_memory_is_recalled_at_any_power(n, power):
    memory = signs(1, n)
    state = memory.clone()
    state[:, torch.randperm(n)[: 2 * n // 5]] *= -1
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(recall_by_signs(state.to(dtype), memory.to(dtype), power), memory.to(dtype))


def test_no_memory_moves_nothing():
    assert recall_by_signs(torch.ones(2, 3), torch.ones(0, 3), 2).tolist() == [[1, 1, 1]] * 2
