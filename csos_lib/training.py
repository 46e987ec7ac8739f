"""Fitting a classifier by gradient descent, and measuring it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from csos_lib import _check
from csos_lib.datasets import Dataset, check_data


@dataclass
class History:
    """What `fit` saw while it trained: one number an epoch, averaged over the batches as they went by.

    Chapter 3.
    """

    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)


class Evaluation(NamedTuple):
    """Mean negative log-likelihood and share of right answers. Chapter 3, :eq:`eq-nll`."""

    loss: float
    accuracy: float


def fit(
    model: nn.Module,
    dataset: Dataset,
    epochs: int = 10,
    lr: float = 0.005,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
    *,
    clip: float | None = 1.0,
    after_epoch: Callable[[int], None] | None = None,
) -> History:
    """Train a classifier with Adam on the negative log-likelihood of the training images.

    The same seed on the same machine gives the same numbers, and the global random state is left alone.

    Args:
        model: any module with parameters that maps images (B, 784) to log-probabilities (B, C), C > every
            label. Its batches are moved to its device.
        dataset: what `load_dataset` gives; only its training half is used.
        epochs: passes over the training images, at least 0.
        lr: the learning rate, above 0.
        batch_size: at least 1; the last batch of an epoch may be smaller.
        seed: drives the shuffling (and dropout, if the model has any).
        progress: show a bar for each epoch; its line ends with the epoch's loss and accuracy.
        clip: the longest gradient, above 0: a longer one (the norm over all parameters) is shortened to it, so
            that no single batch throws the network away; None leaves it as it is, which is memo 1's recipe.
        after_epoch: called with 1, 2, ... after each epoch, to measure the model on the way.

    Returns:
        The History with train_loss and train_accuracy, one float an epoch.

    Raises:
        ValueError: an argument or the data is out of range, the model has no parameters, or what it gives are
            not log-probabilities.

    Source: memo 1, section 3; Kingma & Ba (2015), Adam; Pascanu, Mikolov & Bengio (2013), clipping. Chapter 3, :eq:`eq-nll`.
    """
    _check.integer("epochs", epochs, 0)
    _check.number("lr", lr, 0, above=True)
    _check.integer("batch_size", batch_size, 1)
    _check.integer("seed", seed, 0)
    if clip is not None:
        _check.number("clip", clip, 0, above=True)
    check_data(dataset.train_images, dataset.train_labels)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have parameters to train, got none")
    device = parameters[0].device
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    optimiser = torch.optim.Adam(parameters, lr=lr)
    history = History()
    with _own_randomness(device, seed) as generator:
        for epoch in range(epochs):
            model.train()
            order = torch.randperm(len(images), generator=generator).to(device)
            loss_sum = torch.zeros((), dtype=torch.float64, device=device)
            right = torch.zeros((), dtype=torch.int64, device=device)
            batches = order.split(batch_size)
            with tqdm(total=len(batches), desc=f"epoch {epoch + 1}/{epochs}", disable=not progress) as bar:
                for step, batch in enumerate(batches):
                    target = labels[batch]
                    log_p = model(images[batch])
                    if epoch == step == 0:
                        _check_log_probabilities(log_p, target, int(labels.max()))
                    loss = F.nll_loss(log_p, target)
                    optimiser.zero_grad()
                    loss.backward()
                    if clip is not None:
                        nn.utils.clip_grad_norm_(parameters, clip)
                    optimiser.step()
                    loss_sum += loss.detach().double() * len(batch)
                    right += (log_p.argmax(1) == target).sum()
                    bar.update()
                history.train_loss.append(loss_sum.item() / len(images))
                history.train_accuracy.append(right.item() / len(images))
                bar.set_postfix(loss=history.train_loss[-1], accuracy=history.train_accuracy[-1])
            if after_epoch is not None:
                after_epoch(epoch + 1)
    optimiser.zero_grad()  # leave nothing behind that a later backward() would be added to
    return history


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 1000) -> Evaluation:
    """Mean negative log-likelihood and accuracy of a classifier, in evaluation mode.

    Args:
        model: maps images (B, 784) to log-probabilities (B, C); left in the mode it came in.
        images: (n, 784), n at least 1, pixels in [0, 1]; moved to the device of the model batch by batch.
        labels: (n,) int64, 0..9.
        batch_size: at least 1; does not change the result beyond rounding.

    Returns:
        Evaluation(loss, accuracy), two floats.

    Raises:
        ValueError: an argument or the data is out of range, or the model does not give log-probabilities.

    Source: memo 1, section 3. Chapter 3, :eq:`eq-nll`.
    """
    _check.integer("batch_size", batch_size, 1)
    check_data(images, labels)
    parameter = next(model.parameters(), None)
    device = images.device if parameter is None else parameter.device
    loss, right, largest = 0.0, 0, int(labels.max())
    was_training = model.training
    model.eval()
    try:
        with _own_randomness(device, seed=0):
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                x, y = x.to(device), y.to(device)
                log_p = model(x)
                _check_log_probabilities(log_p, y, largest)
                loss += F.nll_loss(log_p.double(), y, reduction="sum").item()
                right += int((log_p.argmax(1) == y).sum())
    finally:
        model.train(was_training)
    return Evaluation(loss / len(images), right / len(images))


@contextmanager
def _own_randomness(device: torch.device, seed: int) -> Iterator[torch.Generator]:
    """A generator for the shuffling; what a model draws is seeded, and the global state restored."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def _check_log_probabilities(log_p: Tensor, labels: Tensor, largest: int) -> None:
    """`labels` are those of this batch, `largest` is the largest of all."""
    if log_p.ndim != 2 or log_p.shape[0] != labels.shape[0] or log_p.shape[1] <= largest:
        raise ValueError(
            f"model must give log-probabilities ({len(labels)}, C) with C > {largest}, "
            f"got shape {tuple(log_p.shape)}"
        )
    total = float(log_p.detach().exp().sum(1).max())
    if total > 1.01:
        raise ValueError(
            f"model must give log-probabilities, but exp of a row sums to {total:.3g}: end it with "
            "log_softmax"
        )
