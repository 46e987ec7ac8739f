"""Measuring a classifier, and asking it: any module that maps rows to one number a class."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csos_lib import _check
from csos_lib.datasets import check_data

Loss = Callable[[Tensor, Tensor], Tensor]
"""From what a model gives (B, C) and labels (B,) to the mean loss (): `torch.nn.functional.nll_loss`, say."""


class Evaluation(NamedTuple):
    """Mean loss and share of right answers. Chapter 3, :eq:`eq-nll`."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 1000, *, loss: Loss | None = None
) -> Evaluation:
    """Mean loss and accuracy of a classifier, in evaluation mode.

    Args:
        model: maps rows (B, ...) to log-probabilities (B, C), or to what `loss` takes; each of its modules is
            left in the mode it came in.
        images: (n, ...), n at least 1, whatever the model takes; moved to its device batch by batch.
        labels: (n,) int64, 0..C - 1.
        batch_size: at least 1; does not change the result beyond rounding.
        loss: the mean loss of a batch; None is the negative log-likelihood of the log-probabilities.

    Returns:
        Evaluation(loss, accuracy), two floats.

    Raises:
        ValueError: an argument or the data is out of range, or the model gives NaN or, if `loss` is None, no
            log-probabilities.

    Source: memo 1, section 3. Chapter 3, :eq:`eq-nll`.
    """
    check_data(images, labels)
    total, right, largest = 0.0, 0, int(labels.max())
    answers = _answers(model, images, batch_size)
    for output, y in zip(answers, labels.split(batch_size), strict=True):
        check_answer(output, len(y), largest, log_probabilities=loss is None)
        output, y = output.cpu().double(), y.cpu()
        total += (loss or F.nll_loss)(output, y).item() * len(y)
        right += int((output.argmax(1) == y).sum())
    return Evaluation(total / len(images), right / len(images))


@torch.no_grad()
def predict_proba(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """The probability of each class: the softmax of what the model gives.

    It is that whether a model gives log-probabilities, logits or the readout of memo 1, whose exponentials do
    not sum to 1.

    Args:
        model: maps rows (B, ...) to (B, C).
        images: (n, ...), n at least 1.
        batch_size: at least 1.

    Returns:
        (n, C) on the CPU, each row of sum 1.

    Raises:
        ValueError: an argument is out of range, or the model gives NaN or something else than (B, C).

    Chapter 3.
    """
    check_data(images, torch.zeros(len(images), dtype=torch.int64))
    outputs = []
    for output, batch in zip(_answers(model, images, batch_size), images.split(batch_size), strict=True):
        check_answer(output, len(batch))
        outputs.append(output.cpu())
    return torch.cat(outputs).softmax(1)


def predict(model: nn.Module, images: Tensor, batch_size: int = 1000) -> Tensor:
    """The class of each row: the largest of what the model gives.

    The arguments are those of :func:`predict_proba`.

    Returns:
        (n,) int64 on the CPU.

    Chapter 3.

    >>> from csos_lib import CSOS
    >>> predict(CSOS(3, classes=3, inputs=4), torch.rand(5, 4)).shape
    torch.Size([5])
    """
    return predict_proba(model, images, batch_size).argmax(1)


def _answers(model: nn.Module, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """What the model gives for batch after batch, in evaluation mode, without a gradient."""
    _check.integer("batch_size", batch_size, 1)
    device = device_of(model, images)
    for x in images.split(batch_size):
        with modes_kept(model):
            model.eval()
            output = model(x.to(device))
        yield output


def device_of(model: nn.Module, otherwise: Tensor) -> torch.device:
    """The device of a model's first parameter or buffer, or that of a tensor."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), otherwise.device)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Whether each module trains is put back at the end: a layer may have been frozen by its own `eval()`."""
    before = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def check_answer(
    output: object, count: int, largest: int = 0, *, log_probabilities: bool = False, finite: bool = True
) -> None:
    """An answer is (count, C) with C > largest, has no NaN, and is log-probabilities if that is asked."""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[0] != count:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"model must give one row of numbers for each input, ({count}, C), got {given}")
    if output.shape[1] <= largest:
        raise ValueError(f"model must give ({count}, C) with C > {largest}, got shape {tuple(output.shape)}")
    if finite and (lost := int(output.isnan().any(1).sum())):
        raise ValueError(f"model must give numbers, got NaN in {lost} of {count} rows")
    if log_probabilities and (total := float(output.detach().exp().sum(1).max())) > 1.01:
        raise ValueError(
            f"model must give log-probabilities, but exp of a row sums to {total:.3g}: end it with "
            "log_softmax, or give the loss that fits, such as loss=torch.nn.functional.cross_entropy"
        )
