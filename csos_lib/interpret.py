"""Reading a trained reaction: which pairs made each molecule, what a knock-out costs, what the encoder seeks.

Only the symmetric part of W acts, so all is told in unordered pairs i <= j, each with the one coefficient
that counts: c[k, i, j] = W[k, i, j] + W[k, j, i], or W[k, i, i].
"""

import math
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib.classifier import CSOS
from csos_lib.datasets import check_data
from csos_lib.dynamics import euler_step, iterate, mirror_step
from csos_lib.evaluation import predict_proba
from csos_lib.reactions import SymmetricReaction, symmetrise
from csos_lib.simplex import EPSILON


class Attribution(NamedTuple):
    """Where the final state comes from: total = start + pairs.sum((0, 2, 3)) + norm, for every molecule.

    Attributes:
        total: (N,), x_T for the Euler step, log x_T for the mirror step (means over the images).
        start: (N,), the part that is left of x_0 (or log x_0).
        pairs: (T, N, N, N), [t, k, i, j] is the part that the pair i <= j made at step t; a negative part is
            inhibition. The entries with i > j are 0.
        norm: (N,), what normalising took. It is 0 for the Euler step, whose parts are divided by the same
            sum as x; for the mirror step it is one number for all molecules, so it never decides between two.

    Chapter 6, :eq:`eq-adds-up`.
    """

    total: Tensor
    start: Tensor
    pairs: Tensor
    norm: Tensor


class Pathway(NamedTuple):
    """The pair (i, j) makes k; strength is what it made, or took if negative. Chapter 6."""

    i: int
    j: int
    k: int
    strength: float


@torch.no_grad()
def attribute(model: CSOS, images: Tensor) -> Attribution:
    """Split the final concentrations of a model into what each pair made at each step.

    The Euler step divides all it adds up by the same sum Z, so for a molecule that lives

        x'_k = (1 - decay) x_k / Z + sum_{i <= j} alpha c[k, i, j] m_i m_j / Z,    m = (1 - decay) x,

    and 0 = 0 + 0 for one that is cut off. The first term carries on what earlier steps made. The mirror
    step adds up in log space: log x'_k = (1 - decay) log x_k + sum alpha N c[k, i, j] x_i x_j - log Z.

    Args:
        model: a CSOS with named dynamics and a reaction that has `to_tensor`.
        images: (B, inputs) of the model. One row explains that image; the rows of one class explain the class
            on average.

    Returns:
        The mean Attribution of the images.

    Raises:
        ValueError: the dynamics is a callable, the reaction has no dense tensor, or images do not fit or are
            none.

    Chapter 6, :eq:`eq-adds-up` and :eq:`eq-log-parts`.

    >>> model = CSOS(12, dynamics="mirror")
    >>> a = attribute(model, torch.rand(1, 784))
    >>> bool(torch.allclose(a.total, a.start + a.pairs.sum((0, 2, 3)) + a.norm, atol=1e-5))
    True
    """
    coefficients = pair_coefficients(model)
    step = {"euler": euler_step, "mirror": mirror_step}.get(str(model.dynamics))
    if step is None:
        raise ValueError("model must have its dynamics named by a string to be attributed, got a callable")
    if len(images) == 0:
        raise ValueError("images must be at least one, got none")
    first = next(model._log_states(images)) if step is mirror_step else model.inject(images)
    states = list(iterate(first, step, model.reaction, model.steps, model.decay, model.alpha))
    replay = _replay_mirror if step is mirror_step else _replay_euler
    carried = torch.ones_like(first)  # how much of a part made at step t is left at the end
    norm = torch.zeros_like(first)
    pairs = []
    for before, after in zip(reversed(states[:-1]), reversed(states[1:]), strict=True):
        mixed, made, kept, lost = replay(model, before, after)
        weights = (carried * made).T @ (mixed[:, :, None] * mixed[:, None, :]).flatten(1)
        pairs.append(coefficients * weights.view_as(coefficients) / len(images))
        norm += carried * lost
        carried = carried * kept
    stacked = torch.stack(pairs[::-1]) if pairs else coefficients.new_zeros(0, *coefficients.shape)
    return Attribution(states[-1].mean(0), (carried * first).mean(0), stacked, norm.mean(0))


def _replay_euler(model: CSOS, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What meets, how much of the meeting is made, how much of x is kept, and what normalising takes."""
    mixed = (1 - model.decay) * before
    amounts = mixed + model.alpha * model.reaction(mixed)
    living = (amounts > 0) / (amounts.relu().sum(1, keepdim=True) + EPSILON)
    return mixed, model.alpha * living, (1 - model.decay) * living, torch.zeros_like(after)


def _replay_mirror(model: CSOS, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = before.exp()
    strength, keep = model.alpha * model.num_basis, 1 - model.decay
    lost = after - (keep * before + strength * model.reaction(x))
    # It is one number for all molecules; where one was knocked out, -inf less -inf does not tell it.
    lost = torch.where(after.isfinite(), lost, lost.gather(1, after.argmax(1, keepdim=True)))
    return x, torch.full_like(x, strength), torch.full_like(x, keep), lost


def pair_coefficients(model: CSOS) -> Tensor:
    """c (N, N, N): [k, i, j] is the coefficient of x_i x_j in R(x)_k for i <= j, and 0 for i > j.

    Args:
        model: a CSOS with a reaction that has `to_tensor`.

    Raises:
        ValueError: the reaction has no dense tensor.

    Chapter 6, :eq:`eq-pair-coefficient`.
    """
    symmetric = symmetrise(_dense(model))
    return symmetric.triu() + symmetric.triu(1)


def centred(model: CSOS) -> CSOS:
    """A copy of a mirror model that computes the same, told so that a class is compared with the mean class.

    A number added to c[k, i, j] for all k raises all log x_k alike, and log_softmax takes it off again. Here
    it is chosen such that the coefficients of the class molecules sum to 0 for every pair. Then a part
    says how much more a pair makes of a class than of the mean class, and a knock-out removes that.

    Args:
        model: a CSOS with dynamics "mirror" and a reaction that has `to_tensor`; it is left as it is.

    Raises:
        ValueError: the dynamics is not "mirror" (the Euler step does change), or there is no dense tensor.

    Chapter 6, :eq:`eq-gauge`.
    """
    if model.dynamics != "mirror":
        raise ValueError(f'model must have dynamics "mirror" to be centred, got {model.dynamics!r}')
    weight = _dense(model)
    return _copy_with(model, weight - weight[: model.classes].mean(0))


def strongest(parts: Tensor, count: int = 10, molecules: list[int] | None = None) -> list[Pathway]:
    """The few pathways that make or take most.

    Args:
        parts: (N, N, N), [k, i, j], such as Attribution.pairs.sum(0) or `pair_coefficients`.
        count: at most so many, at least 1.
        molecules: only those that make one of these; None is all.

    Returns:
        Pathways, the largest |strength| first; none of strength 0.

    Raises:
        ValueError: an argument is out of range.

    Chapter 6.

    >>> parts = torch.zeros(3, 3, 3)
    >>> parts[2, 0, 1] = -0.5
    >>> strongest(parts)
    [Pathway(i=0, j=1, k=2, strength=-0.5)]
    """
    _check.floating("parts", parts)
    if parts.ndim != 3 or len(set(parts.shape)) != 1:
        raise ValueError(f"parts must have shape (N, N, N), got {tuple(parts.shape)}")
    _check.integer("count", count, 1)
    size = len(parts)
    chosen = list(range(size)) if molecules is None else molecules
    for molecule in chosen:
        _check_molecule("molecules", molecule, size)
    flat = parts.detach()[chosen].flatten()
    order = flat.abs().topk(min(count, len(flat))).indices.tolist()
    places = [(place // size**2, place // size % size, place % size, float(flat[place])) for place in order]
    return [Pathway(i, j, chosen[row], strength) for row, i, j, strength in places if strength]


def without_molecule(model: CSOS, molecule: int) -> CSOS:
    """A copy of a model in which one molecule is never there: not injected, not made, in no reaction.

    Args:
        model: a CSOS with a reaction that has `to_tensor`; it is left as it is.
        molecule: 0..N - 1. Without the molecule of a class its concentration is 0, and it is not the answer;
            only where no class molecule at all is left alive, as the Euler step can end, all answer alike.

    Raises:
        ValueError: there is no such molecule, or the reaction has no dense tensor.

    Chapter 6.
    """
    _check_molecule("molecule", molecule, model.num_basis)
    weight = _dense(model).clone()
    weight[molecule] = weight[:, molecule] = weight[:, :, molecule] = 0
    copy = _copy_with(model, weight)
    with torch.no_grad():
        copy.encoder.weight[molecule] = 0
        copy.encoder.bias[molecule] = -math.inf  # relu makes it 0, softmax too
    return copy


def without_reaction(model: CSOS, i: int, j: int, k: int) -> CSOS:
    """A copy of a model in which the pair (i, j) no longer makes k.

    Args:
        model: a CSOS with a reaction that has `to_tensor`; it is left as it is.
        i, j, k: molecules, 0..N - 1. (i, j) and (j, i) are the same pair.

    Raises:
        ValueError: there is no such molecule, or the reaction has no dense tensor.

    Chapter 6.
    """
    for name, molecule in (("i", i), ("j", j), ("k", k)):
        _check_molecule(name, molecule, model.num_basis)
    weight = _dense(model).clone()
    weight[k, i, j] = weight[k, j, i] = 0
    return _copy_with(model, weight)


def class_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The share of right answers in each class, (C,); NaN for a class that has no image.

    What a knock-out costs each class is the difference of two of these.

    Args:
        model: gives (B, C); asked in evaluation mode, and left in the mode it came in.
        images: (n, ...), whatever the model takes.
        labels: (n,) int64, 0..C - 1.

    Raises:
        ValueError: the data is out of range, or the model gives NaN.

    Chapter 6.
    """
    answers = predict_proba(model, images)
    classes = answers.shape[1]
    check_data(images, labels, classes)
    right = (answers.argmax(1) == labels.cpu()).float()
    counts = torch.bincount(labels.cpu(), minlength=classes)
    return torch.bincount(labels.cpu(), weights=right, minlength=classes) / counts


def templates(model: CSOS, shape: tuple[int, int] = (28, 28)) -> Tensor:
    """The encoder's rows as images (N, height, width): what injects each molecule, and what holds it back.

    Args:
        model: a CSOS with an nn.Linear for encoder.
        shape: (height, width) of the images, height * width = inputs.

    Raises:
        ValueError: the encoder has no weights for pixels, or the shape does not fit.

    Chapter 6.
    """
    if not isinstance(model.encoder, nn.Linear) or shape[0] * shape[1] != model.encoder.in_features:
        raise ValueError(f"model must have a linear encoder of {shape} pixels, got {model.encoder}")
    return model.encoder.weight.detach().unflatten(1, shape)


def _dense(model: CSOS) -> Tensor:
    to_tensor = getattr(model.reaction, "to_tensor", None)
    if to_tensor is None:
        raise ValueError(
            f"model.reaction must have to_tensor(), and {type(model.reaction).__name__} has none"
        )
    return to_tensor().detach()


def _copy_with(model: CSOS, weight: Tensor) -> CSOS:
    """The same model with another W; its reaction is a module of its own, so `save` will refuse it."""
    copy = deepcopy(model, {id(model.reaction): SymmetricReaction.from_tensor(weight)})
    copy.reaction_name = copy.rank = None
    return copy.train(model.training)


def _check_molecule(name: str, molecule: object, size: int) -> None:
    if _check.integer(name, molecule, 0) >= size:
        raise ValueError(f"{name} must be at most N - 1 = {size - 1}, got {molecule}")
