"""fit and evaluate: reproducible, leaving the world as it was, and strict about what they are given."""

import re

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

import csos_lib
from csos_lib import CSOS, Dataset, evaluate, fit


def digits(n: int = 60) -> Dataset:
    data = csos_lib.load_dataset()
    return Dataset(data.train_images[:n], data.train_labels[:n], data.test_images[:n], data.test_labels[:n])


class Linear(nn.Sequential):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(nn.Dropout(dropout), nn.Linear(784, 10), nn.LogSoftmax(1))


def test_the_same_seed_gives_the_same_numbers() -> None:
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        model = CSOS(16, steps=2)
        history = fit(model, digits(), epochs=2, seed=5, progress=False)
        runs.append((history, [p.clone() for p in model.parameters()]))
        torch.rand(7)  # what happens outside between the two must not matter
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_another_seed_shuffles_otherwise() -> None:
    histories = []
    for seed in (0, 1):
        torch.manual_seed(0)
        histories.append(fit(Linear(), digits(), epochs=1, seed=seed, batch_size=7, progress=False))
    assert histories[0] != histories[1]


def test_dropout_is_seeded_too_and_the_global_state_is_left_alone() -> None:
    data, histories = digits(), []
    for outside in (1, 2):
        torch.manual_seed(0)
        model = Linear(dropout=0.5)
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        histories.append(fit(model, data, epochs=1, progress=False))
        evaluate(model, data.test_images, data.test_labels)
        assert torch.equal(torch.get_rng_state(), before)
    assert histories[0] == histories[1]


def test_training_learns_what_can_be_learned() -> None:
    data = digits()
    model = CSOS(32, steps=2)
    before = evaluate(model, data.train_images, data.train_labels)
    history = fit(model, data, epochs=30, progress=False)
    after = evaluate(model, data.train_images, data.train_labels)
    assert len(history.train_loss) == len(history.train_accuracy) == 30
    assert history.train_loss[-1] < history.train_loss[0]
    assert after.loss < before.loss / 2
    assert after.accuracy > 0.7
    assert all(p.grad is None for p in model.parameters()), (
        "nothing that a later backward() would be added to"
    )


def test_the_first_epoch_is_adam_on_the_mean_negative_log_likelihood() -> None:
    """One batch, one epoch, against the four lines a reader would write."""
    data = digits()
    torch.manual_seed(0)
    ours = Linear()
    torch.manual_seed(0)
    theirs = Linear()
    history = fit(ours, data, epochs=1, lr=0.01, batch_size=60, progress=False)
    optimiser = torch.optim.Adam(theirs.parameters(), lr=0.01)
    loss = nn.functional.nll_loss(theirs(data.train_images), data.train_labels)
    loss.backward()
    optimiser.step()
    assert history.train_loss[0] == pytest.approx(loss.item(), abs=1e-6)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_evaluate_agrees_with_scikit_learn_for_any_batch_size() -> None:
    data = digits(50)
    model = Linear().double()
    images = data.test_images.double()
    with torch.no_grad():
        p = model.eval()(images).exp().numpy()
    model.train()
    for batch_size in (1, 7, 50, 1000):
        loss, accuracy = evaluate(model, images, data.test_labels, batch_size)
        assert loss == pytest.approx(log_loss(data.test_labels, p, labels=list(range(10))))
        assert accuracy == accuracy_score(data.test_labels, p.argmax(1))
    assert model.training, "evaluate leaves the mode as it was"


def test_the_bar_says_epoch_loss_and_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    history = fit(Linear(), digits(), epochs=2)
    shown = capsys.readouterr().err
    for epoch in range(2):
        line = re.findall(rf"epoch {epoch + 1}/2.*accuracy=([\d.]+), loss=([\d.]+)", shown)[-1]
        assert float(line[0]) == pytest.approx(history.train_accuracy[epoch], rel=0.01)
        assert float(line[1]) == pytest.approx(history.train_loss[epoch], rel=0.01)
    fit(Linear(), digits(), epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_after_epoch_is_told_each_epoch() -> None:
    seen: list[int] = []
    fit(Linear(), digits(), epochs=3, progress=False, after_epoch=seen.append)
    assert seen == [1, 2, 3]


BAD = {
    "epochs": {"epochs": -1},
    "lr": {"lr": 0.0},
    "batch_size": {"batch_size": 0},
    "seed": {"seed": -1},
}


@pytest.mark.parametrize("name", BAD)
def test_fit_names_a_bad_argument(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        fit(Linear(), digits(), progress=False, **BAD[name])


def test_fit_and_evaluate_refuse_bad_data() -> None:
    good = digits()
    bad_values = {
        "images must be finite": good._replace(train_images=good.train_images.clone().fill_(torch.nan)),
        r"images must have pixels in \[0, 1\]": good._replace(train_images=good.train_images * 255),
        "images must have shape": good._replace(train_images=good.train_images.reshape(-1, 28, 28)),
        "images must be floating point": good._replace(train_images=(good.train_images * 255).byte()),
        "images must hold at least one": good._replace(
            train_images=good.train_images[:0], train_labels=good.train_labels[:0]
        ),
        "labels must be in": good._replace(train_labels=good.train_labels + 1 + good.train_labels.max()),
        "labels must be int64": good._replace(train_labels=good.train_labels[:-1]),
    }
    for message, data in bad_values.items():
        with pytest.raises(ValueError, match=message):
            fit(Linear(), data, progress=False)
        with pytest.raises(ValueError, match=message):
            evaluate(Linear(), data.train_images, data.train_labels)


def test_a_model_must_give_log_probabilities() -> None:
    data = digits()
    for model, message in (
        (nn.Linear(784, 10), "log_softmax"),
        (nn.Sequential(nn.Linear(784, 3), nn.LogSoftmax(1)), "C > 9"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, data, progress=False)
        with pytest.raises(ValueError, match=message):
            evaluate(model, data.test_images, data.test_labels)
    rare = data._replace(train_labels=torch.where(torch.arange(len(data.train_labels)) == 7, 9, 0))
    with pytest.raises(ValueError, match="C > 9"):
        fit(nn.Sequential(nn.Linear(784, 3), nn.LogSoftmax(1)), rare, batch_size=1, progress=False)
    with pytest.raises(ValueError, match="parameters to train"):
        fit(nn.LogSoftmax(1), data, progress=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA on this machine")
def test_fit_on_a_gpu() -> None:
    model = CSOS(16, steps=2).cuda()
    history = fit(model, digits(), epochs=1, progress=False)
    assert history.train_loss[0] > 0
    assert evaluate(model, digits().test_images, digits().test_labels).loss > 0
