"""Attributions that add up, and knock-outs that leave the model alone."""

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from csos_lib import CSOS
from csos_lib.interpret import (
    Pathway,
    attribute,
    centred,
    class_accuracy,
    pair_coefficients,
    strongest,
    templates,
    without_molecule,
    without_reaction,
)
from csos_lib.plots import show_pathways
from csos_lib.reactions import SymmetricReaction
from csos_lib.relatives.chemistry import ChemicalCSOS

both = pytest.mark.parametrize("dynamics", ["euler", "mirror"])


def strong(n=12, steps=4, dynamics="euler", reaction="dense", scale=0.6, **rates) -> CSOS:
    """A model whose reactions matter: in the Euler step some molecules die, in the mirror step none."""
    model = CSOS(n, steps, reaction=reaction, dynamics=dynamics, **rates).double()
    for p in model.reaction.parameters():
        nn.init.normal_(p, std=scale)
    return model


def images(count):
    return torch.rand(count, 784, dtype=torch.float64)


@both
@given(
    n=st.integers(10, 13),
    steps=st.integers(0, 5),
    decay=st.floats(0, 0.8),
    alpha=st.floats(0, 2),
    reaction=st.sampled_from(["dense", "symmetric", "cp", "tucker", "pairwise"]),
)
def test_the_parts_add_up(dynamics, n, steps, decay, alpha, reaction):
    model, x = strong(n, steps, dynamics, reaction, decay=decay, alpha=alpha), images(3)
    parts = attribute(model, x)
    assert parts.pairs.shape == (steps, n, n, n)
    torch.testing.assert_close(parts.start + parts.pairs.sum((0, 2, 3)) + parts.norm, parts.total)
    final = model.trajectory(x)[-1]
    torch.testing.assert_close(parts.total, (final.log() if dynamics == "mirror" else final).mean(0))
    assert (parts.pairs.tril(-1) == 0).all()  # unordered pairs: i <= j
    if dynamics == "euler":
        assert (parts.norm == 0).all()
    else:
        torch.testing.assert_close(parts.norm, parts.norm[:1].expand(n))


def test_one_euler_step_by_hand():
    model, x = strong(10, steps=1, decay=0.2, alpha=0.7), images(1)
    first, last = model.trajectory(x)[:, 0].detach()
    mixed = 0.8 * first
    weight = model.reaction.weight.detach()
    amounts = mixed + 0.7 * torch.einsum("kij,i,j->k", weight, mixed, mixed)
    total = amounts.relu().sum() + 1e-8
    parts = attribute(model, x)
    assert (last == 0).any()  # the test is about both kinds of molecules
    for k in range(10):
        for i in range(10):
            for j in range(i, 10):
                coefficient = weight[k, i, j] + (weight[k, j, i] if i != j else 0)
                part = 0.7 * coefficient * mixed[i] * mixed[j] / total if amounts[k] > 0 else 0.0
                assert float(parts.pairs[0, k, i, j]) == pytest.approx(float(part), rel=1e-9, abs=1e-15)


@both
def test_the_mean_over_images_is_the_mean_of_the_attributions(dynamics):
    model, x = strong(dynamics=dynamics), images(4)
    single = [attribute(model, x[[row]]) for row in range(4)]
    for name, value in attribute(model, x)._asdict().items():
        torch.testing.assert_close(value, torch.stack([getattr(s, name) for s in single]).mean(0))


@both
def test_the_antisymmetric_part_gets_nothing(dynamics):
    model, x = strong(dynamics=dynamics), images(2)
    before = attribute(model, x).pairs
    twist = torch.randn(12, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        model.reaction.weight += twist - twist.transpose(1, 2)
    torch.testing.assert_close(attribute(model, x).pairs, before)


def test_coefficients_give_the_production():
    for reaction in ("dense", "cp"):
        model = strong(reaction=reaction)
        x = torch.rand(3, 12, dtype=torch.float64)
        expected = model.reaction(x)
        torch.testing.assert_close(torch.einsum("kij,bi,bj->bk", pair_coefficients(model), x, x), expected)


def test_strongest():
    parts = torch.zeros(4, 4, 4)
    parts[3, 0, 1], parts[2, 1, 1], parts[0, 2, 3] = -3.0, 2.0, 1.0
    first, second, third = Pathway(0, 1, 3, -3.0), Pathway(1, 1, 2, 2.0), Pathway(2, 3, 0, 1.0)
    assert strongest(parts) == [first, second, third]
    assert strongest(parts, 2) == [first, second]
    assert strongest(parts, molecules=[2, 0]) == [second, third]
    assert strongest(torch.zeros(2, 2, 2)) == []


@both
def test_knocking_out_a_molecule(dynamics):
    model, x = strong(dynamics=dynamics), images(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for molecule in (3, 11):
        edited = without_molecule(model, molecule)
        states = edited.trajectory(x)
        assert (states[:, :, molecule] == 0).all()
        torch.testing.assert_close(states.sum(-1), torch.ones(5, 3, dtype=torch.float64))
        # The rest is a network of the others: the same as a model that never had it.
        keep = [m for m in range(12) if m != molecule]
        smaller = CSOS(11, 4, dynamics=dynamics).double()
        with torch.no_grad():
            smaller.encoder.weight.copy_(model.encoder.weight[keep])
            smaller.encoder.bias.copy_(model.encoder.bias[keep])
            smaller.reaction.weight.copy_(model.reaction.weight[keep][:, keep][:, :, keep])
        # N stands in the mirror step, and the smaller network has one less.
        smaller.alpha = model.alpha * 12 / 11 if dynamics == "mirror" else model.alpha
        torch.testing.assert_close(states[:, :, keep], smaller.trajectory(x))
    assert (without_molecule(model, 3)(x).argmax(1) != 3).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@both
def test_knocking_out_a_reaction(dynamics):
    model, x = strong(dynamics=dynamics, reaction="cp"), images(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edited = without_reaction(model, 5, 2, 7)
    expected = pair_coefficients(model)
    assert expected[7, 2, 5] != 0
    expected[7, 2, 5] = 0
    torch.testing.assert_close(pair_coefficients(edited), expected)
    assert (attribute(edited, x).pairs[:, 7, 2, 5] == 0).all()
    torch.testing.assert_close(edited.trajectory(x)[0], model.trajectory(x)[0])
    assert not torch.allclose(edited(x), model(x), rtol=0, atol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "model", [ChemicalCSOS(12), CSOS(12, inputs=100), CSOS(12, inputs=100, reaction="cp", dynamics="mirror")]
)
def test_a_knock_out_is_of_the_same_kind(model):
    model, x = model.double().eval(), torch.rand(3, model.encoder.in_features, dtype=torch.float64)
    model.reaction.requires_grad_(False)
    weight = model.reaction.to_tensor()
    uncut = without_reaction(model, 0, 0, 0)
    uncut.reaction = SymmetricReaction.from_tensor(weight)
    assert type(uncut) is type(model)
    torch.testing.assert_close(uncut(x), model(x))
    edited = without_molecule(model, 11)
    assert not edited.training
    assert edited.reaction_name is None
    assert (edited.trajectory(x)[1:, :, 11] == 0).all()
    parts = attribute(edited, x)
    torch.testing.assert_close(parts.start + parts.pairs.sum((0, 2, 3)) + parts.norm, parts.total)
    assert parts.norm.isfinite().all()


@pytest.mark.parametrize("reaction", ["dense", "cp"])
def test_a_centred_model_computes_the_same(reaction):
    model, x = strong(dynamics="mirror", reaction=reaction), images(3)
    plain = centred(model)
    torch.testing.assert_close(plain.trajectory(x), model.trajectory(x))
    coefficients = pair_coefficients(plain)
    torch.testing.assert_close(coefficients[:10].mean(0), torch.zeros(12, 12, dtype=torch.float64))
    assert pair_coefficients(model)[:10].mean(0).abs().max() > 0.01
    # What W hides is gone: any number added to all k gives the same centred model.
    with torch.no_grad():
        shifted = centred(model)
        shifted.reaction.weight += torch.randn(1, shifted.reaction.weight.shape[1])
    assert not torch.allclose(pair_coefficients(shifted), coefficients)
    torch.testing.assert_close(pair_coefficients(centred(shifted)), coefficients)
    # The parts are then those of log x_k less the mean of the ten, as they were.
    before, after = attribute(model, x), attribute(plain, x)
    torch.testing.assert_close(before.pairs - before.pairs[:, :10].mean(1, keepdim=True), after.pairs)
    torch.testing.assert_close(before.total, after.total)


def test_pathways_are_drawn():
    drawn = [Pathway(0, 12, 3, 2.0), Pathway(11, 11, 3, -1.0), Pathway(0, 0, 4, 0.5)]
    axis = show_pathways(drawn)
    texts = [text.get_text() for text in axis.texts]
    assert sorted(t for t in texts if t.isdigit()) == sorted(["0", "11", "12", "3", "4", "2", "2"])
    assert {"+2.00", "-1.00", "+0.50"} <= set(texts)
    lines = [line for line in axis.lines if line.get_marker() == "None"]
    assert len(lines) == 3 + 2 + 2  # a line each for what meets, and one for what is made
    assert sum(line.get_linestyle() == "--" for line in lines) == 2
    assert max(line.get_linewidth() for line in lines) == 6
    plt.close(axis.figure)
    with pytest.raises(ValueError, match="pathways"):
        show_pathways([])


def test_class_accuracy():
    class Answers(CSOS):
        def forward(self, images):
            return torch.eye(10)[torch.tensor([0, 1, 1, 5])].log()

    accuracy = class_accuracy(Answers(), torch.rand(4, 784), torch.tensor([0, 0, 1, 7]))
    assert accuracy[[0, 1, 7]].tolist() == [0.5, 1.0, 0.0]
    assert accuracy[[2, 3, 4, 5, 6, 8, 9]].isnan().all()


def test_templates():
    model = CSOS(12)
    assert templates(model).shape == (12, 28, 28)
    assert torch.equal(templates(model)[3].flatten(), model.encoder.weight[3])


def test_bad_arguments():
    model = CSOS(12)
    for bad in (-1, 12, 1.0, True):
        with pytest.raises(ValueError, match="molecule"):
            without_molecule(model, bad)
        with pytest.raises(ValueError, match="k must"):
            without_reaction(model, 0, 0, bad)
        with pytest.raises(ValueError, match="molecules"):
            strongest(torch.zeros(12, 12, 12), molecules=[bad])
    with pytest.raises(ValueError, match="count"):
        strongest(torch.zeros(2, 2, 2), 0)
    with pytest.raises(ValueError, match="parts"):
        strongest(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="images"):
        attribute(model, torch.rand(784))
    with pytest.raises(ValueError, match="Identity has none"):
        attribute(CSOS(12, reaction=nn.Identity()), torch.rand(1, 784))
    with pytest.raises(ValueError, match="callable"):
        attribute(CSOS(12, dynamics=lambda x, reaction: x), torch.rand(1, 784))
    with pytest.raises(ValueError, match="centred, got 'euler'"):
        centred(model)
    with pytest.raises(ValueError, match="labels"):
        class_accuracy(model, torch.rand(2, 784), torch.tensor([0, 10]))
