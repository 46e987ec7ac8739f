"""The join: a reaction that weighs operators, and the network made of it."""

from functools import partial

import pytest
import torch
from conftest import check_on_fake_cuda
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from csos_lib.dynamics import run
from csos_lib.operators import Bank, Mixture, ReactionMixture, ReactionNet, eyes, h, mini_library, sin


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 4))
def test_without_steps_it_is_the_softmax_gate(dim, rows, seed):
    torch.manual_seed(seed)
    bank = mini_library(dim, seed)
    mixture, x = ReactionMixture(bank, steps=0).double(), torch.randn(rows, dim, dtype=torch.float64)
    gate = torch.softmax(x @ mixture.encoder.weight.T + mixture.encoder.bias, 1)
    torch.testing.assert_close(mixture.weights(x), gate)
    torch.testing.assert_close(mixture(x), torch.einsum("bk,kbd->bd", gate, bank.double()(x)))


@given(st.integers(0, 8), st.floats(0, 0.9), st.floats(0, 2))
def test_the_weights_are_the_mirror_dynamics_on_the_simplex(steps, decay, alpha):
    mixture = ReactionMixture(mini_library(6), 4, steps, decay, alpha).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    weights, states = mixture.weights(x), mixture.trajectory(x)
    assert states.shape == (steps + 1, 5, 32)
    assert (states > 0).all()
    torch.testing.assert_close(states.sum(-1), torch.ones(steps + 1, 5, dtype=torch.float64))
    torch.testing.assert_close(states[-1], weights)
    start = mixture.encoder(x).softmax(1)
    torch.testing.assert_close(weights, run(start, mixture.reaction, steps, decay, alpha, "mirror"))


def test_gradients_reach_encoder_reaction_operators_and_input():
    mixture = ReactionMixture(mini_library(8, learnable=True)).double()
    x = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    mixture(x).square().sum().backward()
    for name, parameter in mixture.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert x.grad is not None
    assert (x.grad.abs().sum(1) > 0).all()


def test_gradcheck():
    torch.manual_seed(0)
    mixture = ReactionMixture(Bank([sin(h), h**2, *mini_library(3).expressions[16:20]]), rank=2).double()
    assert torch.autograd.gradcheck(mixture, torch.randn(2, 3, dtype=torch.float64, requires_grad=True))


def test_one_row_does_not_ask_another():
    mixture, x = ReactionMixture(mini_library(8)), torch.randn(6, 8)
    torch.testing.assert_close(mixture(x)[2:4], mixture(x[2:4]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bank": "mini"}, "bank must be a Bank"),
        ({"bank": Bank([sin(h)])}, "bank must be a Bank in which something fixes d"),
        ({"rank": 0}, "rank"),
        ({"steps": -1}, "steps"),
        ({"decay": 1.0}, "decay"),
        ({"alpha": float("nan")}, "alpha"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReactionMixture(**({"bank": mini_library(4)} | arguments))


def test_bad_rows():
    with pytest.raises(ValueError, match="h must"):
        ReactionMixture(mini_library(4))(torch.rand(2, 5))


def test_the_eyes_see_what_they_are_named_for():
    """Mirrored images swap the edges' directions; each answer has mean square 1 and its own formula."""
    bank, images = eyes(), torch.rand(4, 784)
    seen = bank(images)
    assert len(set(map(str, bank.expressions))) == 32
    live = seen.square().mean(-1)
    torch.testing.assert_close(live, torch.ones_like(live), rtol=1e-3, atol=1e-3)
    mirrored = bank(images.view(-1, 28, 28).flip(-1).flatten(1)).view(32, 4, 28, 28).flip(-1).flatten(2)
    torch.testing.assert_close(mirrored[0], seen[1], rtol=1e-3, atol=1e-3)  # across, and its other side
    torch.testing.assert_close(mirrored[4], seen[4], rtol=1e-3, atol=1e-3)  # down


@pytest.mark.parametrize("mixture", [ReactionMixture, Mixture, partial(ReactionMixture, steps=0)])
def test_the_network_reads(mixture):
    torch.manual_seed(0)
    model, images = ReactionNet(16, 1, mixture).train(), torch.rand(6, 784)
    log_p = model(images)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(6))
    F.nll_loss(log_p, torch.arange(6)).backward()
    untouched = {name for name, p in model.named_parameters() if p.grad is None}
    assert all(name.startswith("mixtures.0.reaction.") for name in untouched)
    assert bool(untouched) == (isinstance(mixture, partial))
    model.eval()
    torch.testing.assert_close(model.read(model.see(images)), model(images))
    torch.testing.assert_close(model(images)[:2], model(images[:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"dim": -1}, {"dim": 2.5}, {"seed": -1}, {"blocks": 0.5}])
def test_bad_arguments_of_the_network(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        ReactionNet(**{"dim": 8, "blocks": 0, **wrong})


def test_bad_images_of_the_network():
    for images in (torch.rand(2, 783), torch.rand(2, 784, dtype=torch.float64)):
        with pytest.raises(ValueError, match="images must"):
            ReactionNet(8, 0)(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fake_cuda(dtype):
    check_on_fake_cuda(lambda: ReactionMixture(mini_library(8)), (3, 8), dtype)
    check_on_fake_cuda(lambda: ReactionNet(8, 1), (3, 784), dtype)
