"""Both steps against their formulas written as loops, and the invariants of each."""

import pytest
import torch
from conftest import check_on_fake_cuda
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from csos_lib.dynamics import euler_step, iterate, mirror_step, run, trajectory
from csos_lib.operators import softsort
from csos_lib.reactions import CPReaction, DenseReaction, SymmetricReaction, symmetrise
from csos_lib.simplex import normalise

rates = st.tuples(st.floats(0, 0.9), st.floats(0, 2))
sizes = st.integers(2, 8)
both = pytest.mark.parametrize("kind", ["euler", "mirror"])


def concentrations(batch: int, n: int) -> Tensor:
    return torch.softmax(2 * torch.randn(batch, n, dtype=torch.float64), 1)


def dense(n: int, scale: float = 1.0) -> DenseReaction:
    reaction = DenseReaction(n).double()
    nn.init.normal_(reaction.weight, std=scale)
    return reaction


def production(weight: list, x: list[float]) -> list[float]:
    n = len(x)
    return [sum(weight[k][i][j] * x[i] * x[j] for i in range(n) for j in range(n)) for k in range(n)]


@given(n=sizes, decay=st.floats(0, 0.9), alpha=st.floats(0, 2))
def test_euler_step_against_a_triple_loop(n, decay, alpha):
    x, reaction = concentrations(3, n), dense(n)
    got = euler_step(x, reaction, decay, alpha)
    for row, result in zip(x.tolist(), got, strict=True):
        mixed = [(1 - decay) * c for c in row]
        made = production(reaction.weight.tolist(), mixed)
        amounts = [max(m + alpha * r, 0.0) for m, r in zip(mixed, made, strict=True)]
        expected = [a / (sum(amounts) + 1e-8) for a in amounts]
        torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64))


@given(n=sizes, decay=st.floats(0, 0.9), alpha=st.floats(0, 2))
def test_mirror_step_is_the_exponentiated_gradient(n, decay, alpha):
    """x'_k is proportional to x_k^(1 - decay) exp(alpha N R(x)_k)."""
    x, reaction = concentrations(3, n), dense(n)
    got = mirror_step(x.log(), reaction, decay, alpha).exp()
    for row, result in zip(x, got, strict=True):
        made = torch.tensor(production(reaction.weight.tolist(), row.tolist()), dtype=torch.float64)
        grown = row ** (1 - decay) * torch.exp(alpha * n * made)
        torch.testing.assert_close(result, grown / grown.sum())


@both
@given(n=sizes, steps=st.integers(0, 6), rate=rates)
def test_stays_on_the_simplex(kind, n, steps, rate):
    states = trajectory(concentrations(4, n), dense(n), steps, *rate, kind)
    assert states.shape == (steps + 1, 4, n)
    assert (states >= 0).all()
    totals = states.sum(-1)
    if kind == "mirror":
        torch.testing.assert_close(totals, torch.ones_like(totals))
    else:  # s / (s + 1e-8), where s is the sum before normalising: 0 where all have died at once
        assert (totals < 1 + 1e-12).all()
        healthy = trajectory(concentrations(4, n), lambda m: m * m, steps, *rate, kind).sum(-1)
        torch.testing.assert_close(healthy, torch.ones_like(healthy), rtol=0, atol=1e-6)


@both
@given(n=sizes, rate=rates)
def test_permutation_equivariance(kind, n, rate):
    x, reaction, order = concentrations(3, n), dense(n), torch.randperm(n)
    permuted = dense(n)
    with torch.no_grad():
        permuted.weight.copy_(reaction.weight[order][:, order][:, :, order])
    torch.testing.assert_close(
        run(x[:, order], permuted, 3, *rate, kind), run(x, reaction, 3, *rate, kind)[:, order]
    )


@both
@given(n=sizes, rate=rates)
def test_only_the_symmetric_part_of_the_rates_acts(kind, n, rate):
    x, reaction, symmetric = concentrations(3, n), dense(n), dense(n)
    with torch.no_grad():
        symmetric.weight.copy_(symmetrise(reaction.weight))
    expected = run(x, reaction, 4, *rate, kind)
    torch.testing.assert_close(run(x, symmetric, 4, *rate, kind), expected)
    packed = SymmetricReaction.from_tensor(reaction.weight)
    torch.testing.assert_close(run(x, packed, 4, *rate, kind), expected)


@given(n=sizes, decay=st.floats(0, 0.8), alpha=st.floats(0, 2), steps=st.integers(1, 5))
def test_decay_and_alpha_are_one_knob_in_the_euler_step(n, decay, alpha, steps):
    """Only alpha (1 - decay) matters, up to the 1e-8."""
    x, reaction = concentrations(3, n), dense(n, 0.2)
    torch.testing.assert_close(
        run(x, reaction, steps, decay, alpha),
        run(x, reaction, steps, 0.0, alpha * (1 - decay)),
        rtol=0,
        atol=1e-6,
    )


def test_decay_and_alpha_are_two_knobs_in_the_mirror_step():
    x, reaction = concentrations(3, 6), dense(6)
    with_decay = run(x, reaction, 3, 0.5, 1.0, "mirror")
    assert not torch.allclose(with_decay, run(x, reaction, 3, 0.0, 0.5, "mirror"), atol=0.01)
    # Forgetting alone flattens x, until all are equal.
    flat = run(x, reaction, 60, 0.5, 0.0, "mirror")
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 6))


@given(n=sizes, factor=st.floats(0.1, 10))
def test_the_scale_of_the_rates_is_that_of_alpha(n, factor):
    x, reaction = concentrations(3, n), dense(n, 0.2)
    for kind in ("euler", "mirror"):
        scaled = lambda m: factor * reaction(m)  # noqa: E731
        torch.testing.assert_close(
            run(x, scaled, 3, 0.1, 0.3, kind), run(x, reaction, 3, 0.1, 0.3 * factor, kind)
        )


@both
def test_a_small_step_is_the_replicator_to_first_order(kind):
    """W[k, i, j] = [k = i] A[k, j]: (x' - x) / step -> x (A x - x . A x), its error of order 1 in the step.

    The mirror step multiplies by exp(alpha N R), so its production is the fitness A x itself, not x A x.
    """
    n, x = 5, concentrations(4, 5)
    payoff = torch.randn(n, n, dtype=torch.float64)
    fitness = x @ payoff.T
    field = x * (fitness - (x * fitness).sum(1, keepdim=True))
    errors = []
    for size in (1e-1, 1e-2, 1e-3):
        if kind == "euler":
            moved = run(x, lambda m: m * (m @ payoff.T), 1, 0.0, size)
        else:
            moved = run(x, lambda m: m @ payoff.T, 1, 0.0, size / n, "mirror")
        errors.append(float(((moved - x) / size - field).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def test_the_euler_step_is_the_discrete_replicator_exactly():
    """x' = x (A' x) / (x . A' x) with A' = 1 + alpha (1 - decay) A, if no amount turns negative."""
    n, x, decay, alpha = 6, concentrations(4, 6), 0.2, 0.7
    payoff = torch.rand(n, n, dtype=torch.float64)
    reaction = dense(n)
    with torch.no_grad():
        reaction.weight.copy_(torch.eye(n, dtype=torch.float64)[:, :, None] * payoff[:, None, :])
    fitness = x @ (1 + alpha * (1 - decay) * payoff).T
    expected = x * fitness / (x * fitness).sum(1, keepdim=True)
    torch.testing.assert_close(euler_step(x, reaction, decay, alpha), expected, rtol=0, atol=1e-7)


@both
def test_gradcheck(kind):
    reaction = SymmetricReaction(4).double()
    for steps in (1, 4):

        def call(x, weight, steps=steps):
            rates = lambda m: torch.func.functional_call(reaction, {"weight": weight}, (m,))  # noqa: E731
            return run(x, rates, steps, 0.2, 0.5, kind)

        x = concentrations(2, 4)
        assert torch.autograd.gradcheck(call, (x.requires_grad_(), reaction.weight))


@both
@pytest.mark.parametrize("scale", [0.0, 0.05, 5.0, 500.0])
def test_a_hundred_steps_in_single_precision(kind, scale):
    reaction = DenseReaction(16)
    nn.init.normal_(reaction.weight, std=scale)
    one_hot = torch.eye(16)[:3]
    x = torch.cat([torch.rand(5, 16).softmax(1), one_hot, torch.full((1, 16), 1 / 16)]).requires_grad_()
    states = trajectory(x, reaction, 100, 0.1, 0.1, kind)
    assert states.isfinite().all()
    if kind == "mirror":
        torch.testing.assert_close(states.sum(-1), torch.ones(101, 9))
    states[-1, :, 0].sum().backward()
    if scale < 1:
        assert x.grad.isfinite().all()
        assert reaction.weight.grad.isfinite().all()


def test_nothing_dies_in_the_mirror_step():
    """Same rates, same start: the Euler step cuts molecules off, the mirror step keeps all above 0."""
    x, reaction = concentrations(20, 16), dense(16)
    assert (run(x, reaction, 10, 0.1, 1.0) == 0).float().mean() > 0.3
    assert (run(x, reaction, 10, 0.1, 0.3, "mirror") > 0).all()


@both
def test_run_is_the_end_of_the_trajectory_and_lays_out_once(kind):
    class Counting(CPReaction):
        count = 0

        def lay_out(self):
            self.count += 1
            return super().lay_out()

    x, reaction = torch.rand(4, 8).softmax(1), Counting(8)
    states = trajectory(x, reaction, 5, 0.1, 0.5, kind)
    assert reaction.count == 1
    assert torch.equal(run(x, reaction, 5, 0.1, 0.5, kind), states[-1])
    # A plain callable has nothing to lay out, and gives the same.
    torch.testing.assert_close(run(x, lambda m: reaction(m), 5, 0.1, 0.5, kind), states[-1])
    torch.testing.assert_close(states[0], x)


@both
def test_a_reaction_that_does_more_when_called_does_so_in_every_step(kind):
    class Twice(DenseReaction):
        def forward(self, x):
            return 2 * super().forward(x)

    hooked, pruned = DenseReaction(6), DenseReaction(6)
    hooked.register_forward_hook(lambda module, inputs, made: 2 * made)
    prune.random_unstructured(pruned, "weight", 0.5)
    run(torch.rand(3, 6).softmax(1), pruned, 2, 0.1, 1.0, kind).sum().backward()
    with torch.no_grad():
        pruned.weight_orig.mul_(2)  # as a step of training changes it
    for reaction in (Twice(6), hooked, pruned):
        x = torch.rand(3, 6).softmax(1)
        found = run(x, reaction, 1, 0.1, 1.0, kind)
        by_hand = (
            euler_step(x, reaction, 0.1, 1.0)
            if kind == "euler"
            else mirror_step(x.log(), reaction, 0.1, 1.0).exp()
        )
        assert torch.equal(found, by_hand)
        found.sum().backward()


def test_iterate_gives_every_state_of_any_step():
    def halve(state, reaction, decay, alpha):
        return state / 2

    states = list(iterate(torch.ones(1, 2), halve, nn.Identity(), 3, 0.0, 1.0))
    assert [float(s[0, 0]) for s in states] == [1.0, 0.5, 0.25, 0.125]


def test_a_sweep_over_both_rates_under_vmap():
    x, reaction = concentrations(3, 6), dense(6)
    decays, alphas = torch.tensor([0.0, 0.3, 0.6]).double(), torch.tensor([0.2, 1.0, 0.5]).double()
    for kind in ("euler", "mirror"):
        for rates in (reaction, SymmetricReaction.from_tensor(reaction.weight)):
            swept = torch.func.vmap(lambda d, a, r=rates, k=kind: run(x, r, 4, d, a, k))(decays, alphas)
            for index, (decay, alpha) in enumerate(zip(decays.tolist(), alphas.tolist(), strict=True)):
                torch.testing.assert_close(swept[index], run(x, rates, 4, decay, alpha, kind))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_fake_device(kind, dtype):
    class Runs(nn.Module):
        def __init__(self):
            super().__init__()
            self.reaction = SymmetricReaction(12)

        def forward(self, x):
            return run(x, self.reaction, 3, 0.1, 0.5, kind)

    check_on_fake_cuda(Runs, (4, 12), dtype)


@both
@pytest.mark.parametrize("call", [run, trajectory])
def test_bad_arguments(kind, call):
    x, reaction = torch.full((2, 4), 0.25), DenseReaction(4)
    for bad in (-0.1, 1.0, 2, float("nan"), "0.1", None, True):
        with pytest.raises(ValueError, match="decay"):
            call(x, reaction, 2, bad, 1.0, kind)
    for bad in (-0.1, float("inf"), "1", None):
        with pytest.raises(ValueError, match="alpha"):
            call(x, reaction, 2, 0.1, bad, kind)
    for bad in (-1, 1.5, None, True):
        with pytest.raises(ValueError, match="steps"):
            call(x, reaction, bad, 0.1, 1.0, kind)
    for bad in (torch.rand(4), torch.rand(1, 2, 4), torch.ones(2, 4, dtype=torch.int64), [[1.0]]):
        with pytest.raises(ValueError, match="x must"):
            call(bad, reaction, 2, 0.1, 1.0, kind)
    with pytest.raises(ValueError, match="x must"):
        call(torch.rand(2, 5), reaction, 2, 0.1, 1.0, kind)
    with pytest.raises(ValueError, match="kind must be one of 'euler', 'mirror'"):
        call(x, reaction, 2, 0.1, 1.0, "heun")


def test_half_precision_is_refused_where_it_would_be_wrong():
    x, reaction = torch.full((2, 4), 0.25, dtype=torch.float16), DenseReaction(4)
    for call in (
        lambda: run(x, reaction.half(), 2, 0.1, 1.0),
        lambda: reaction(x),
        lambda: normalise(x),
        lambda: softsort(x, 0.1),
    ):
        with pytest.raises(ValueError, match="float32, float64 or bfloat16, got float16"):
            call()


def test_bad_arguments_of_one_step():
    reaction = DenseReaction(4)
    for step, name in ((euler_step, "x"), (mirror_step, "log_x")):
        with pytest.raises(ValueError, match=f"{name} must"):
            step(torch.rand(4), reaction, 0.1, 1.0)
        with pytest.raises(ValueError, match="decay"):
            step(torch.rand(2, 4), reaction, 1.0, 1.0)
        with pytest.raises(ValueError, match="alpha"):
            step(torch.rand(2, 4), reaction, 0.1, -1.0)
