"""Fitting a classifier by gradient descent."""

import functools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Sized
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from csos_lib import _check
from csos_lib.batches import Batches
from csos_lib.checkpoint import Checkpoint
from csos_lib.datasets import Dataset, check_data
from csos_lib.evaluation import Evaluation, Loss, check_answer, evaluate, modes_kept
from csos_lib.saving import unwrapped

__all__ = ["Evaluation", "History", "cosine", "evaluate", "fit"]

_NORMALISES = (F.cross_entropy, nn.CrossEntropyLoss, F.kl_div, nn.KLDivLoss)


@dataclass
class History:
    """What `fit` saw: one number an epoch; those of training are averaged over the batches as they went by.

    Chapter 3.
    """

    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)


def cosine(done: float) -> float:
    """Half a cosine, from 1 at the start to 0 at the end: a schedule for `fit`.

    Args:
        done: the share of the training that is over, in [0, 1].

    Raises:
        ValueError: done is out of range.

    Source: Loshchilov & Hutter (2017), eq. 5, without restarts. Chapter 3.

    >>> cosine(0.0), round(cosine(0.5), 3), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    _check.number("done", done, 0, 1)
    return (1 + math.cos(math.pi * done)) / 2


def fit(
    model: nn.Module,
    dataset: Dataset | Iterable[tuple[Tensor, Tensor]],
    epochs: int = 10,
    lr: float = 0.005,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
    *,
    clip: float | None = 1.0,
    optimiser: torch.optim.Optimizer | Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    schedule: Callable[[float], float] | None = None,
    loss: Loss | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    autocast: torch.dtype | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    after_epoch: Callable[[int, History, nn.Module, torch.optim.Optimizer], object] | None = None,
) -> History:
    """Train a classifier; with the defaults by Adam on the negative log-likelihood.

    The same seed on the same machine gives the same numbers. The global random state is neither set nor read,
    except by a model that draws from it, as dropout does. What is interrupted from the keyboard warns, and
    gives back the History of the epochs that were finished.

    Args:
        model: any module that maps inputs (B, ...) to (B, C), C > every label: log-probabilities, unless
            `loss` takes something else. Batches are moved to its device. It is trained in training mode; if
            it comes in training mode, layers frozen by their own `eval()` stay so. Each module returns in the
            mode it came in.
        dataset: a Dataset, of which the training half is used; or batches (inputs, labels) that can be gone
            through again for each epoch, such as a DataLoader, which shuffles by itself.
        epochs: passes over the data, at least 0.
        lr: the learning rate, above 0.
        batch_size: of a Dataset, at least 1. The last batch of an epoch may be smaller; a single row left
            over joins the batch before it, since batch normalisation cannot do with one.
        seed: of the shuffling, at least 0.
        progress: show a bar for each epoch; its line ends with the epoch's loss and accuracy.
        clip: the longest gradient, above 0: a longer one (the norm over all parameters) is shortened to it,
            so that no single batch throws the network away. It helps networks that react for several steps,
            and slows memo 1's injection where there is one step or none: None leaves it, as memo 1 does.
        optimiser: called as optimiser(parameters, lr=lr), such as partial(AdamW, weight_decay=0.01); or one
            that is made already, which has learning rates of its own.
        schedule: the factor on the learning rate at each batch, from the share of the training that is done,
            in [0, 1): :func:`cosine`, say.
        loss: the mean loss () of (outputs, labels); None is `nll_loss`.
        validation: (inputs, labels) that are measured after each epoch.
        autocast: the dtype of mixed precision, torch.bfloat16 or torch.float16; None is full precision.
        checkpoint: a file that is written after each epoch, whole or not at all. If it is there already,
            training goes on from it, to the same numbers as if it had never stopped.
        after_epoch: called with (epoch, history, model, optimiser), epochs from 1; if it returns True,
            training stops.

    Returns:
        The History.

    Raises:
        ValueError: an argument or the data is out of range, the model has no parameters or gives NaN or what
            the loss does not take, or the checkpoint is of another training.

    Source: memo 1, section 3; Kingma & Ba (2015), Adam; Pascanu, Mikolov & Bengio (2013), clipping. Chapter
    3, :eq:`eq-nll`.
    """
    epochs, seed = _check.integer("epochs", epochs, 0), _check.integer("seed", seed, 0)
    batch_size, lr = _check.integer("batch_size", batch_size, 1), _check.number("lr", lr, 0, above=True)
    if clip is not None:
        _check.number("clip", clip, 0, above=True)
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"autocast must be torch.bfloat16, torch.float16 or None, got {autocast!r}")
    _check_loss(model, loss)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("model must have parameters to train, got none")
    device = parameters[0].device
    shuffle = torch.Generator().manual_seed(seed)
    if isinstance(dataset, Dataset):
        dataset = Batches(dataset, batch_size, shuffle, device)
    adam = optimiser if isinstance(optimiser, torch.optim.Optimizer) else optimiser(parameters, lr=lr)
    peaks = [group["lr"] for group in adam.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=autocast == torch.float16)

    def step(inputs: Tensor, labels: Tensor, done: float, first: bool, largest: int) -> tuple[Tensor, Tensor]:
        """One batch: its loss and how many answers were right."""
        if schedule is not None:
            for group, peak in zip(adam.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(done)
        labels = labels.to(device)
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            output = model(inputs.to(device))
            check_answer(output, len(labels), largest, log_probabilities=first and loss is None, finite=first)
            value = (loss or F.nll_loss)(output, labels)
        adam.zero_grad()
        scaler.scale(value).backward()
        if clip is not None:
            scaler.unscale_(adam)
            nn.utils.clip_grad_norm_(parameters, clip)
        scaler.step(adam)
        scaler.update()
        return value.detach(), (output.detach().argmax(1) == labels).sum()

    history, epoch, stopped, kept = History(), 0, False, None
    if checkpoint is not None:
        settings = {"lr": peaks, "batch_size": batch_size, "seed": seed, "clip": clip}
        settings |= {"autocast": str(autocast), "loss": _name(loss), "schedule": _name(schedule)}
        settings["epochs"] = None if schedule is None else epochs  # on which its rates hang
        parts = {"model": model, "optimiser": adam, "scaler": scaler}
        kept = Checkpoint(checkpoint, parts, settings, shuffle, device)
        if progressed := kept.read():
            history = History(**progressed["history"])
            epoch, stopped = progressed["epoch"], progressed["stopped"]
    with modes_kept(model):
        while epoch < epochs and not stopped:
            if not model.training:
                model.train()
            try:
                with tqdm(desc=f"epoch {epoch + 1}/{epochs}", disable=not progress) as bar:
                    _train_epoch(step, dataset, epoch, epochs, history, bar)
                if validation is not None:
                    measured = evaluate(model, *validation, loss=loss)
                    history.validation_loss.append(measured.loss)
                    history.validation_accuracy.append(measured.accuracy)
                epoch += 1
                if after_epoch is not None:
                    answer = after_epoch(epoch, history, model, adam)
                    stopped = isinstance(answer, bool | np.bool_) and bool(answer)
                if kept is not None:
                    kept.write(history=asdict(history), epoch=epoch, stopped=stopped)
            except KeyboardInterrupt:
                warnings.warn(f"interrupted after {epoch} of {epochs} epochs", stacklevel=2)
                break
    adam.zero_grad()  # leave nothing behind that a later backward() would be added to
    return history


def _train_epoch(
    step: Callable[[Tensor, Tensor, float, bool, int], tuple[Tensor, Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    epoch: int,
    epochs: int,
    history: History,
    bar: Any,
) -> None:
    """All batches once; their mean loss and accuracy go to the end of the history."""
    length = len(batches) if isinstance(batches, Sized) else None
    bar.reset(total=length)
    losses, right, counts = [], [], list[int]()
    for inputs, labels in batches:
        first = epoch == len(counts) == 0
        if isinstance(batches, Batches):  # it has been looked at as a whole
            largest = batches.largest if first else 0
        else:
            check_data(inputs, labels)
            largest = int(labels.max())
        share = len(counts) / length if length else 0.0
        loss, hits = step(inputs, labels, (epoch + share) / epochs, first, largest)
        losses.append(loss)
        right.append(hits)
        counts.append(len(labels))
        bar.update()
    if not counts:
        raise ValueError(
            f"dataset gave no batch in epoch {epoch + 1}: give what can be gone through again, such as a "
            "DataLoader or a list, and no generator"
        )
    means = torch.stack(losses).cpu().double()  # not every device has float64
    mean = float(means @ torch.tensor(counts, dtype=torch.float64)) / sum(counts)
    if math.isnan(mean):
        raise ValueError(f"model must give numbers, got NaN in epoch {epoch + 1}: try a smaller lr or a clip")
    history.train_loss.append(mean)
    history.train_accuracy.append(int(torch.stack(right).sum()) / sum(counts))
    bar.set_postfix(loss=history.train_loss[-1], accuracy=history.train_accuracy[-1])


def _check_loss(model: nn.Module, loss: Loss | None) -> None:
    """The readout of memo 1 is no distribution: a loss that makes it one lets all class molecules die."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    last = unwrapped(model)
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    if (loss in _NORMALISES or type(loss) in _NORMALISES) and getattr(last, "readout", None) == "memo":
        raise ValueError(
            f"loss must be nll_loss for the readout of memo 1, got {_name(loss)}, which normalises once more "
            'and trains it to chance: CSOS(readout="normalised") takes it'
        )


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
