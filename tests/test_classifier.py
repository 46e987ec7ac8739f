"""The classifier from images to log-probabilities, and its files."""

import pytest
import torch
from conftest import check_on_fake_cuda
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS
from csos_lib.classifier import CLASSES
from csos_lib.dynamics import run
from csos_lib.reactions import DenseReaction

REACTIONS = ("dense", "symmetric", "cp", "tucker", "pairwise")
all_kinds = pytest.mark.parametrize("dynamics", ["euler", "mirror"])
all_reactions = pytest.mark.parametrize("reaction", REACTIONS)


def test_the_memo_to_the_letter():
    """The memo's forward, written out as the memo writes it."""
    model, images = CSOS(), torch.rand(6, 784)
    weight, encoder = model.reaction.weight, model.encoder
    assert weight.shape == (64, 64, 64)
    assert encoder.weight.shape == (64, 784)
    x = torch.relu(encoder(images))
    x = x / (x.sum(dim=1, keepdim=True) + 1e-8)
    for _ in range(5):
        x = x * (1.0 - 0.1)
        x = torch.relu(x + 1.0 * torch.einsum("kij,bi,bj->bk", weight, x, x))
        x = x / (x.sum(dim=1, keepdim=True) + 1e-8)
    torch.testing.assert_close(model(images), torch.log(x[:, :10] + 1e-8))


@all_reactions
@all_kinds
def test_shapes_and_probabilities(reaction, dynamics):
    model = CSOS(16, steps=3, reaction=reaction, dynamics=dynamics)
    images = torch.rand(5, 784)
    log_p, states = model(images), model.trajectory(images)
    assert log_p.shape == (5, 10)
    assert states.shape == (4, 5, 16)
    assert (states >= 0).all()
    torch.testing.assert_close(states.sum(-1), torch.ones(4, 5))
    if dynamics == "mirror":
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(5))
        torch.testing.assert_close(log_p.exp(), states[-1, :, :10] / states[-1, :, :10].sum(1, keepdim=True))
    else:
        torch.testing.assert_close(log_p, torch.log(states[-1, :, :10] + 1e-8))
    torch.testing.assert_close(model.inject(images), states[0])
    torch.testing.assert_close(model.react(states[0]), states[-1])
    F.nll_loss(log_p, torch.arange(5)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_the_mirror_model_follows_its_formula():
    model, images = CSOS(12, steps=4, dynamics="mirror").double(), torch.rand(3, 784, dtype=torch.float64)
    x = model.encoder(images).softmax(1)
    for _ in range(4):
        made = torch.einsum("kij,bi,bj->bk", model.reaction.weight, x, x)
        x = (0.9 * x.log() + 0.1 * 12 * made).softmax(1)
    torch.testing.assert_close(model(images), (x[:, :10] / x[:, :10].sum(1, keepdim=True)).log())


def test_the_mirror_model_takes_extreme_encodings():
    """Logits of 1e4 make concentrations that vanish in single precision; in log space nothing is lost."""
    model = CSOS(16, steps=100, dynamics="mirror")
    nn.init.normal_(model.encoder.weight, std=1e3)
    images = torch.cat([torch.rand(4, 784), torch.zeros(1, 784), torch.ones(1, 784)])
    loss = F.nll_loss(model(images), torch.arange(6))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@given(n=st.integers(10, 20), steps=st.integers(0, 3))
def test_readout_identity(n, steps):
    """NLL of log x[:, :10] = cross-entropy of the renormalised ten + the mean of -log of their mass."""
    model, images = CSOS(n, steps, alpha=0.3).double(), torch.rand(4, 784, dtype=torch.float64)
    labels = torch.randint(10, (4,))
    ten = model.trajectory(images)[-1, :, :CLASSES] + 1e-8
    mass = ten.sum(1, keepdim=True)
    expected = F.nll_loss((ten / mass).log(), labels) - mass.log().mean()
    torch.testing.assert_close(F.nll_loss(model(images), labels), expected)


def test_no_steps_leave_encoder_and_readout():
    images = torch.rand(3, 784)
    model = CSOS(12, steps=0, dynamics="mirror")
    torch.testing.assert_close(model(images), model.encoder(images)[:, :10].log_softmax(1))
    model = CSOS(12, steps=0)
    torch.testing.assert_close(model(images), torch.log(model.inject(images)[:, :10] + 1e-8))


def test_alpha_depends_on_the_dynamics_unless_given():
    assert CSOS(10).alpha == 1.0
    assert CSOS(10, dynamics="mirror").alpha == 0.1
    assert CSOS(10, dynamics=lambda x, reaction: x).alpha == 1.0
    assert CSOS(10, dynamics="mirror", alpha=0.5).alpha == 0.5


def test_ranks():
    assert CSOS(16, reaction="cp").reaction.rank == 16
    assert CSOS(16, reaction="tucker").reaction.rank == 8
    assert CSOS(16, reaction="cp", rank=3).reaction.rank == 3


def test_own_reaction_and_own_dynamics():
    class Squares(nn.Module):
        def forward(self, x):
            return x * x

    def twice(x, reaction):
        return run(x, reaction, 2, 0.1, 1.0)

    images = torch.rand(3, 784)
    torch.manual_seed(0)
    model = CSOS(12, steps=2, reaction=Squares())
    torch.manual_seed(0)
    other = CSOS(12, reaction=Squares(), dynamics=twice)
    torch.testing.assert_close(other(images), model(images))
    torch.testing.assert_close(other.trajectory(images), model.trajectory(images)[[0, -1]])
    assert CSOS(12, reaction=Squares(), dynamics="mirror")(images).isfinite().all()


@all_reactions
@all_kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_fake_device(reaction, dynamics, dtype):
    check_on_fake_cuda(lambda: CSOS(12, reaction=reaction, dynamics=dynamics), (4, 784), dtype)


@all_reactions
@all_kinds
def test_save_and_load(reaction, dynamics, tmp_path):
    rank = 3 if reaction in ("cp", "tucker") else None
    model = CSOS(12, 2, 0.2, 0.3, reaction=reaction, rank=rank, dynamics=dynamics).double()
    images = torch.rand(3, 784, dtype=torch.float64)
    csos_lib.save(model, tmp_path / "model.pt")
    before = torch.get_rng_state()
    loaded = csos_lib.load(tmp_path / "model.pt")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(loaded(images), model(images))
    assert (loaded.steps, loaded.decay, loaded.alpha, loaded.rank) == (2, 0.2, 0.3, rank)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_saving_replaces_only_when_complete(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    csos_lib.save(CSOS(10), path)
    content = path.read_bytes()

    def broken(*args):
        args[1].write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        csos_lib.save(CSOS(10), path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_what_has_no_recipe_is_not_saved(tmp_path):
    class Nothing(nn.Module):
        def forward(self, x):
            return x

    for model in (CSOS(10, reaction=Nothing()), CSOS(10, dynamics=lambda x, reaction: x)):
        with pytest.raises(ValueError, match="named by strings"):
            csos_lib.save(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"must be a CSOS .* got Linear"):
        csos_lib.save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def edited(path, **changes):
    content = torch.load(path, weights_only=True)
    content.update(changes)
    torch.save(content, path)


def test_files_that_are_not_models(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(FileNotFoundError, match=r"model\.pt"):
        csos_lib.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=r"not a model file"):
        csos_lib.load(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"not a model file"):
        csos_lib.load(path)
    torch.save(nn.Linear(2, 2), path)  # code: refused, not run
    with pytest.raises(ValueError, match=r"not a model file"):
        csos_lib.load(path)


def test_files_with_the_wrong_weights(tmp_path):
    path = tmp_path / "model.pt"
    csos_lib.save(CSOS(12), path)
    edited(path, weights=CSOS(11).state_dict())
    with pytest.raises(ValueError, match="does not fit together"):
        csos_lib.load(path)
    weights = CSOS(12).state_dict()
    weights["reaction.weight"][1, 2, 3] = float("nan")
    edited(path, weights=weights)
    with pytest.raises(ValueError, match=r"reaction\.weight .* not finite"):
        csos_lib.load(path)
    del weights["reaction.weight"]
    for incomplete in (weights, {}, None):
        edited(path, weights=incomplete)
        with pytest.raises(ValueError, match="does not fit together"):
            csos_lib.load(path)


def test_files_with_a_wrong_recipe(tmp_path):
    path = tmp_path / "model.pt"
    model = CSOS(12)
    csos_lib.save(model, path)
    recipe = torch.load(path, weights_only=True)["recipe"]
    for change in ({"num_basis": 3}, {"reaction": "cubic"}, {"colour": "red"}):
        edited(path, recipe={**recipe, **change})
        with pytest.raises(ValueError, match=r"model\.pt does not fit together"):
            csos_lib.load(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_basis": 9}, "num_basis"),
        ({"num_basis": 16.0}, "num_basis"),
        ({"steps": -1}, "steps"),
        ({"decay": 1.0}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"reaction": "cubic"}, "reaction must be one of 'dense', 'symmetric', 'pairwise', 'cp', 'tucker'"),
        ({"reaction": None}, "reaction"),
        ({"rank": 4}, "rank must be None"),
        ({"reaction": "symmetric", "rank": 4}, "rank must be None"),
        ({"reaction": nn.Identity(), "rank": 4}, "rank must be None"),
        ({"reaction": DenseReaction(16)}, "reaction must have num_basis = 12, got 16"),
        ({"reaction": "cp", "rank": 0}, "rank"),
        ({"dynamics": "heun"}, "dynamics must be one of 'euler', 'mirror'"),
        ({"dynamics": None}, "dynamics"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CSOS(**{"num_basis": 12, **arguments})


@all_kinds
def test_bad_images(dynamics):
    model = CSOS(12, dynamics=dynamics)
    for bad in (
        torch.rand(784),
        torch.rand(2, 28, 28),
        torch.rand(2, 783),
        torch.ones(2, 784, dtype=torch.int64),
    ):
        for call in (model, model.inject, model.trajectory):
            with pytest.raises(ValueError, match="images must"):
                call(bad)
    with pytest.raises(ValueError, match="dtype of the module"):
        model(torch.rand(2, 784, dtype=torch.float64))


def test_what_prints():
    assert "num_basis=12, steps=5, decay=0.1, alpha=0.1" in repr(CSOS(12, dynamics="mirror"))


def test_an_image_may_have_another_length(tmp_path):
    model, images = CSOS(12, inputs=5, dynamics="mirror"), torch.rand(3, 5)
    csos_lib.save(model, tmp_path / "model.pt")
    torch.testing.assert_close(csos_lib.load(tmp_path / "model.pt")(images), model(images))
    with pytest.raises(ValueError, match=r"images must.*5"):
        model(torch.rand(3, 784))
    with pytest.raises(ValueError, match="inputs"):
        CSOS(inputs=0)
