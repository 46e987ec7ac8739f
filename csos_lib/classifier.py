"""The reaction model: an image becomes concentrations, they react, ten of them are the answer."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csos_lib import _check, dynamics
from csos_lib.reactions import (
    CPReaction,
    DenseReaction,
    PairwiseReaction,
    SymmetricReaction,
    TuckerReaction,
)
from csos_lib.simplex import EPSILON, normalise

PIXELS = 784
CLASSES = 10
_FORMAT = "csos_lib model 1"
_FULL = {"dense": DenseReaction, "symmetric": SymmetricReaction, "pairwise": PairwiseReaction}
_LOW_RANK = {"cp": CPReaction, "tucker": TuckerReaction}
_ALPHA = {"euler": 1.0, "mirror": 0.1}


class CSOS(nn.Module):
    """A reaction network that reads images; `CSOS()` is the model of memo 1 to the letter.

    Args:
        num_basis: N, the number of molecules, at least 10; molecules 0..9 are the classes.
        steps: T, how often the molecules react, at least 0 (0 leaves encoder and readout alone).
        decay: the share that fades before each reaction, in [0, 1).
        alpha: the strength of the reaction, at least 0; None is 0.1 for "mirror" and 1 otherwise.
        reaction: "dense", "symmetric", "cp", "tucker", "pairwise", or a module that maps (B, N) to (B, N).
        rank: the rank of "cp" (None is N) and "tucker" (None is N // 2); None for the others.
        dynamics: "euler", "mirror", or a callable (x_0, reaction) -> x_T on concentrations (B, N). With
            "mirror" the model stays in log space: injection is a log_softmax, and so is the readout, over the
            ten class molecules.
        inputs: how many numbers an image has, at least 1; chapter 22 puts other layers before the encoder.

    Attributes:
        encoder: nn.Linear(inputs, N).
        reaction: the reaction module; its starting values come from torch's global generator.

    Raises:
        ValueError: an argument is out of range, or images are not (B, inputs) of the dtype of the model.

    Source: memo 1, section 2. Chapters 1 to 3, :eq:`eq-injection`, :eq:`eq-euler-step`, :eq:`eq-readout`.

    >>> model = CSOS(num_basis=16, steps=2)
    >>> model(torch.rand(3, 784)).shape, model.trajectory(torch.rand(3, 784)).shape
    (torch.Size([3, 10]), torch.Size([3, 3, 16]))
    """

    def __init__(
        self,
        num_basis: int = 64,
        steps: int = 5,
        decay: float = 0.1,
        alpha: float | None = None,
        *,
        reaction: str | nn.Module = "dense",
        rank: int | None = None,
        dynamics: str | Callable[[Tensor, dynamics.Reaction], Tensor] = "euler",
        inputs: int = PIXELS,
    ) -> None:
        super().__init__()
        if not callable(dynamics):
            _check.choice("dynamics", dynamics, tuple(_ALPHA))
        alpha = _ALPHA.get(str(dynamics), 1.0) if alpha is None else alpha
        _check.integer("num_basis", num_basis, CLASSES)
        _check.integer("inputs", inputs, 1)
        _check.integer("steps", steps, 0)
        _check.number("decay", decay, 0, 1, below=True)
        _check.number("alpha", alpha, 0)
        self.num_basis, self.steps, self.decay, self.alpha = num_basis, steps, decay, alpha
        self.dynamics, self.rank = dynamics, rank
        self.encoder = nn.Linear(inputs, num_basis)
        self.reaction_name = reaction if isinstance(reaction, str) else None
        self.reaction = self._make_reaction(reaction, num_basis, rank)

    @staticmethod
    def _make_reaction(reaction: str | nn.Module, num_basis: int, rank: int | None) -> nn.Module:
        if isinstance(reaction, str) and reaction in _LOW_RANK:
            return _LOW_RANK[reaction](num_basis, rank)
        if rank is not None:
            raise ValueError(f"rank must be None for reaction {reaction!r}, got {rank!r}")
        if isinstance(reaction, nn.Module):
            if (size := getattr(reaction, "num_basis", num_basis)) != num_basis:
                raise ValueError(f"reaction must have num_basis = {num_basis}, got {size}")
            return reaction
        _check.choice("reaction", reaction, (*_FULL, *_LOW_RANK))
        return _FULL[reaction](num_basis)

    def inject(self, images: Tensor) -> Tensor:
        """Concentrations x_0 (B, N) of images (B, 784) in [0, 1]. Chapter 1, :eq:`eq-injection`."""
        amounts = self._encode(images)
        return amounts.softmax(1) if self.dynamics == "mirror" else normalise(torch.relu(amounts))

    def react(self, x: Tensor) -> Tensor:
        """Concentrations x_T (B, N) from x_0 (B, N). Chapter 2, :eq:`eq-euler-step`."""
        if callable(self.dynamics):
            return self.dynamics(x, self.reaction)
        return dynamics.run(x, self.reaction, self.steps, self.decay, self.alpha, self.dynamics)

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, 10) of images (B, 784) in [0, 1]. Chapter 3, :eq:`eq-readout`."""
        if self.dynamics == "mirror":
            for log_x in self._log_states(images):
                last = log_x
            return last[:, :CLASSES].log_softmax(1)
        return torch.log(self.react(self.inject(images))[:, :CLASSES] + EPSILON)

    def trajectory(self, images: Tensor) -> Tensor:
        """Concentrations (T + 1, B, N) at every step; only x_0 and x_T if `dynamics` is a callable."""
        if self.dynamics == "mirror":
            return torch.stack(list(self._log_states(images))).exp()
        x = self.inject(images)
        if callable(self.dynamics):
            return torch.stack([x, self.dynamics(x, self.reaction)])
        return dynamics.trajectory(x, self.reaction, self.steps, self.decay, self.alpha, self.dynamics)

    def _encode(self, images: Tensor) -> Tensor:
        _check.matrix("images", images, self.encoder.in_features, self.encoder.weight.dtype)
        return self.encoder(images)

    def _log_states(self, images: Tensor) -> Iterator[Tensor]:
        log_x = self._encode(images).log_softmax(1)
        return dynamics.iterate(
            log_x, dynamics.mirror_step, self.reaction, self.steps, self.decay, self.alpha
        )

    def extra_repr(self) -> str:
        return f"num_basis={self.num_basis}, steps={self.steps}, decay={self.decay}, alpha={self.alpha}"


def save(model: CSOS, path: str | os.PathLike[str]) -> None:
    """Write a model's weights and its recipe to one file that `load` reads without running code.

    Args:
        model: a CSOS whose reaction and dynamics are named by strings (a module or a callable has no recipe).
        path: the file; it is replaced only when the new one is complete.

    Raises:
        ValueError: model is not a CSOS, or its reaction or dynamics is not named by a string.

    Chapter 3.
    """
    if not isinstance(model, CSOS):
        raise ValueError(f"model must be a CSOS, got {type(model).__name__}")
    if model.reaction_name is None or callable(model.dynamics):
        raise ValueError("model must have its reaction and dynamics named by strings: others have no recipe")
    recipe = {
        "num_basis": model.num_basis,
        "steps": model.steps,
        "decay": model.decay,
        "alpha": model.alpha,
        "reaction": model.reaction_name,
        "rank": model.rank,
        "dynamics": model.dynamics,
        "inputs": model.encoder.in_features,
    }
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        torch.save({"format": _FORMAT, "recipe": recipe, "weights": model.state_dict()}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> CSOS:
    """Read a model that `save` wrote, onto the CPU.

    Args:
        path: the file.

    Returns:
        The CSOS, in the dtype it was saved in.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one that `save` wrote, or holds weights that do not fit or are not finite.

    Chapter 3.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no model file at {path}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a model file written by csos_lib.save") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a model file written by csos_lib.save")
    try:
        weights = content["weights"]
        with torch.random.fork_rng(
            devices=[]
        ):  # building the module draws starting values that are thrown away
            model = CSOS(**content["recipe"])
        model.to(weights["encoder.weight"].dtype).load_state_dict(weights)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit together: {error}") from error
    for name, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} in {path} holds values that are not finite")
    return model
