"""fit and evaluate: reproducible, leaving the world as it was, and strict about what they are given."""

import copy
import functools
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.metrics import accuracy_score, log_loss
from torch import nn
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS, Dataset, History, cosine, evaluate, fit, interpret


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


def test_the_global_state_is_neither_set_nor_read() -> None:
    data, histories = digits(), []
    for outside in (1, 2):
        torch.manual_seed(0)
        model = Linear()
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        histories.append(fit(model, data, epochs=1, progress=False))
        evaluate(model, data.test_images, data.test_labels)
        assert torch.equal(torch.get_rng_state(), before)
    assert histories[0] == histories[1]


def test_two_threads_do_not_disturb_each_other() -> None:
    """The first edition seeded the global generator: every other thread then drew the same numbers again."""
    drawn: list[float] = []
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            drawn.append(torch.rand(()).item())

    thread = threading.Thread(target=draw)
    thread.start()
    data = digits()
    model = Linear()
    for _ in range(5):
        fit(model, data, epochs=1, progress=False)
        evaluate(model, data.test_images, data.test_labels)
    stop.set()
    thread.join()
    assert len(set(drawn)) > 0.99 * len(drawn)


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
    history = fit(ours, data, epochs=1, lr=0.01, batch_size=60, progress=False, clip=None)
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


def test_after_epoch_sees_all_and_may_stop() -> None:
    seen: list[tuple[int, int, str]] = []

    def look(epoch: int, history: History, model: nn.Module, optimiser: torch.optim.Optimizer) -> bool:
        seen.append((epoch, len(history.train_loss), type(optimiser).__name__))
        assert isinstance(model, Linear)
        return np.bool_(epoch == 2)  # type: ignore[return-value]

    history = fit(Linear(), digits(), epochs=5, progress=False, after_epoch=look)
    assert seen == [(1, 1, "Adam"), (2, 2, "Adam")]
    assert len(history.train_loss) == 2


def test_the_clip_bounds_the_gradient() -> None:
    """With plain gradient descent of rate 1 a step is the gradient: never longer than the clip."""
    data, lengths = digits(), []
    model = CSOS(12)
    with torch.no_grad():
        model.encoder.weight.mul_(30)
    before = [p.detach().clone() for p in model.parameters()]

    @torch.no_grad()
    def measure(*_: object) -> None:
        after = list(model.parameters())
        steps = [(a - b).square().sum() for a, b in zip(after, before, strict=True)]
        lengths.append(float(torch.stack(steps).sum().sqrt()))

    fit(model, data, 1, 1.0, 60, progress=False, optimiser=torch.optim.SGD, after_epoch=measure, clip=0.01)
    assert lengths == pytest.approx([0.01], rel=1e-3)


def test_the_schedule_is_torchs_cosine() -> None:
    data, rates = digits(), []
    model = Linear()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.3)
    optimiser.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    fit(model, data, 3, batch_size=20, progress=False, optimiser=optimiser, schedule=cosine)
    other = torch.optim.SGD(Linear().parameters(), lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(other, 9)
    expected = []
    for _ in range(9):
        expected.append(theirs.get_last_lr()[0])
        other.step()
        theirs.step()
    assert rates == pytest.approx(expected)


def test_batches_of_a_loader_and_of_a_list() -> None:
    data = digits()
    pairs = torch.utils.data.TensorDataset(data.train_images, data.train_labels)
    loader = torch.utils.data.DataLoader(pairs, batch_size=25)
    torch.manual_seed(0)
    one = Linear()
    two = copy.deepcopy(one)
    assert fit(one, loader, 2, progress=False) == fit(two, list(loader), 2, progress=False)
    with pytest.raises(ValueError, match="no generator"):
        fit(one, (batch for batch in loader), 2, progress=False)
    with pytest.raises(ValueError, match="inputs must be finite"):
        fit(one, [(data.train_images * torch.nan, data.train_labels)], progress=False)
    with pytest.raises(ValueError, match="C > 11"):
        fit(one, [*loader, (data.train_images[:2], torch.tensor([1, 11]))], progress=False)


def test_validation_is_measured_after_each_epoch() -> None:
    data = digits()
    model = Linear()
    history = fit(model, data, 3, progress=False, validation=(data.test_images, data.test_labels))
    loss, accuracy = evaluate(model, data.test_images, data.test_labels)
    assert len(history.validation_loss) == len(history.validation_accuracy) == 3
    assert (history.validation_loss[-1], history.validation_accuracy[-1]) == (loss, accuracy)


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_killed_training_goes_on_to_the_same_numbers(epochs: int, tmp_path: Path) -> None:
    """Dropout, momentum and the order of the data go on bitwise, in a model that is made anew."""

    class Killed(Exception):
        pass

    def kill(epoch: int, *_: object) -> None:
        if epoch == epochs + 1:
            raise Killed

    def run(**more: Any) -> tuple[History, nn.Module]:
        torch.manual_seed(4)
        model = Linear(dropout=0.3)
        return fit(model, digits(), 4, batch_size=9, progress=False, schedule=cosine, **more), model

    straight, model = run()
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "run.pt", after_epoch=kill)
    torch.rand(100)
    gone_on, other = run(checkpoint=tmp_path / "run.pt")
    assert gone_on == straight
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    with pytest.raises(ValueError, match="of a training with"):
        fit(Linear(0.3), digits(), 4, batch_size=10, progress=False, checkpoint=tmp_path / "run.pt")
    with pytest.raises(ValueError, match="of another model"):
        fit(CSOS(12), digits(), 4, 0.005, 9, 0, False, schedule=cosine, checkpoint=tmp_path / "run.pt")
    (tmp_path / "run.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="not a checkpoint"):
        fit(Linear(), digits(), 4, progress=False, checkpoint=tmp_path / "run.pt")


def test_two_and_two_epochs_are_four(tmp_path: Path) -> None:
    histories = []
    for parts in ((4,), (2, 4)):
        torch.manual_seed(0)
        model = Linear()
        for epochs in parts:
            history = fit(model, digits(), epochs, progress=False, checkpoint=tmp_path / f"{len(parts)}.pt")
        histories.append(history)
    assert histories[0] == histories[1]


def test_an_interrupt_gives_back_the_history() -> None:
    def interrupt(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted after 2 of 5 epochs"):
        history = fit(Linear(), digits(), 5, progress=False, after_epoch=interrupt)
    assert len(history.train_loss) == 2


def test_each_module_keeps_its_mode() -> None:
    data = digits()
    model = nn.Sequential(nn.Linear(784, 12), nn.BatchNorm1d(12), nn.Linear(12, 10), nn.LogSoftmax(1))
    model[1].eval()  # frozen by its own eval()
    running = model[1].running_mean.clone()
    fit(model, data, 1, progress=False)
    evaluate(model, data.test_images, data.test_labels)
    interpret.class_accuracy(model, data.test_images, data.test_labels)
    assert torch.equal(model[1].running_mean, running)
    assert [m.training for m in model] == [True, False, True, True]
    model.eval()
    fit(model, data, 1, progress=False)
    assert not any(m.training for m in model.modules())


def test_a_row_left_over_joins_the_batch_before() -> None:
    sizes: list[int] = []

    class Seen(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(len(x))
            return super().forward(x)

    model = Seen(nn.Linear(784, 12), nn.BatchNorm1d(12), nn.Linear(12, 10), nn.LogSoftmax(1))
    fit(model, digits(65), 1, batch_size=32, progress=False)
    assert sizes == [32, 33]


def test_the_memos_readout_refuses_a_loss_that_normalises() -> None:
    """cross_entropy would let all class molecules die together: measured, it trains to chance."""
    data = digits()
    smoothed = functools.partial(F.cross_entropy, label_smoothing=0.1)
    for loss in (F.cross_entropy, nn.CrossEntropyLoss(label_smoothing=0.1), smoothed):
        with pytest.raises(ValueError, match="nll_loss for the readout of memo 1"):
            fit(nn.Sequential(nn.Identity(), CSOS(12)), data, loss=loss, progress=False)
        with pytest.raises(ValueError, match="nll_loss for the readout of memo 1"):
            fit(CSOS(12), data, loss=loss, progress=False)
        model = CSOS(12, readout="normalised")
        losses = fit(model, data, 5, loss=loss, progress=False).train_loss
        assert losses[-1] < losses[0]
        fit(nn.Linear(784, 10), data, 1, loss=loss, progress=False)
    a = CSOS(12, readout="normalised")
    b = copy.deepcopy(a)
    one = fit(a, data, 1, progress=False).train_loss
    assert fit(b, data, 1, loss=F.cross_entropy, progress=False).train_loss == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    data = digits()
    for model in (CSOS(16), CSOS(16, reaction="cp", dynamics="mirror"), Linear()):
        history = fit(model, data, 3, progress=False, autocast=dtype)
        assert history.train_loss[-1] < history.train_loss[0]
        assert all(p.dtype == torch.float32 for p in model.parameters())


def test_other_classes_and_inputs() -> None:
    """Wine: 178 rows of 13 standardised columns, three classes."""
    table, kinds = load_wine(return_X_y=True)
    rows = torch.tensor((table - table.mean(0)) / table.std(0), dtype=torch.float32)
    labels = torch.tensor(kinds)
    data = Dataset(rows[::2], labels[::2], rows[1::2], labels[1::2])
    for dynamics in ("euler", "mirror"):
        model = CSOS(12, dynamics=dynamics, classes=3, inputs=13)
        fit(model, data, 40, 0.02, progress=False)
        assert evaluate(model, data.test_images, data.test_labels).accuracy > 0.9
        p = csos_lib.predict_proba(model, data.test_images)
        assert p.shape == (89, 3)
        torch.testing.assert_close(p.sum(1), torch.ones(89))
        assert torch.equal(csos_lib.predict(model, data.test_images), model(data.test_images).argmax(1))
        assert interpret.class_accuracy(model, data.test_images, data.test_labels).shape == (3,)
        with pytest.raises(ValueError, match="C > 3"):
            evaluate(model, data.test_images, data.test_labels + 1)


def test_a_model_that_gives_nan_is_refused() -> None:
    data = digits()
    model = Linear()
    with torch.no_grad():
        model[1].bias[3] = torch.nan
    for ask in (evaluate, interpret.class_accuracy):
        with pytest.raises(ValueError, match="NaN"):
            ask(model, data.test_images, data.test_labels)
    with pytest.raises(ValueError, match="NaN"):
        fit(model, data, progress=False)
    with pytest.raises(ValueError, match="NaN"):
        csos_lib.predict(model, data.test_images)


BAD = {
    "epochs": {"epochs": -1},
    "lr": {"lr": 0.0},
    "batch_size": {"batch_size": 0},
    "seed": {"seed": -1},
    "clip": {"clip": 0.0},
    "autocast": {"autocast": torch.float32},
}


@pytest.mark.parametrize("name", BAD)
def test_fit_names_a_bad_argument(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        fit(Linear(), digits(), progress=False, **BAD[name])


def test_fit_and_evaluate_refuse_bad_data() -> None:
    good = digits()
    bad_values = {
        "inputs must be finite": good._replace(train_images=good.train_images.clone().fill_(torch.nan)),
        "inputs must be floating point": good._replace(train_images=(good.train_images * 255).byte()),
        "n at least 1": good._replace(train_images=good.train_images[:0], train_labels=good.train_labels[:0]),
        "labels must be at least 0": good._replace(train_labels=good.train_labels - 1),
        "C > 10": good._replace(train_labels=good.train_labels + 1),
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
