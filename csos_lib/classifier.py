"""The reaction model: an image becomes concentrations, they react, and some of them are the answer."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from csos_lib import _check, dynamics
from csos_lib._modules import Recorded, autocasts
from csos_lib.reactions import (
    CPReaction,
    DenseReaction,
    PairwiseReaction,
    SymmetricReaction,
    TuckerReaction,
)
from csos_lib.simplex import log_guarded, normalise

PIXELS = 784
CLASSES = 10
_FULL = {"dense": DenseReaction, "symmetric": SymmetricReaction, "pairwise": PairwiseReaction}
_LOW_RANK = {"cp": CPReaction, "tucker": TuckerReaction}
_ALPHA = {"euler": 1.0, "mirror": 0.1}
_READOUTS = ("memo", "normalised")


class CSOS(Recorded):
    """A reaction network that reads images; `CSOS()` is the model of memo 1, with our decay, alpha and steps.

    Its answer is a row of logarithms for each image. With the readout of memo 1 they are log(x + 1e-8) of the
    class molecules, which hold only a part of the soup: their exponentials sum to less than 1, and the loss
    is `nll_loss`. A loss that normalises once more, such as `cross_entropy`, would let all of them die
    together. With the readout "normalised" they are log-probabilities, and every loss on those is right.

    Args:
        num_basis: N, the number of molecules, at least `classes`; the first ones are the classes.
        steps: T, how often the molecules react, at least 0 (0 leaves encoder and readout alone).
        decay: the share that fades before each reaction, in [0, 1).
        alpha: the strength of the reaction, at least 0; None is 0.1 for "mirror" and 1 otherwise.
        reaction: "dense", "symmetric", "cp", "tucker", "pairwise", or a module that maps (B, N) to (B, N).
        rank: the rank of "cp" (None is N) and "tucker" (None is N // 2); None for the others.
        dynamics: "euler", "mirror", or a callable (x_0, reaction) -> x_T on concentrations (B, N). With
            "mirror" the model stays in log space, and injection is a log_softmax.
        classes: how many classes there are, at least 1.
        inputs: how many numbers a row has, at least 1.
        readout: "memo", log(x + 1e-8) of the class molecules, or "normalised", which divides them by their
            sum; None is "normalised" for "mirror" and "memo" otherwise.

    Attributes:
        encoder: nn.Linear(inputs, N); it may be replaced by any module that gives (B, N).
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
        classes: int = CLASSES,
        inputs: int = PIXELS,
        readout: str | None = None,
    ) -> None:
        super().__init__()
        if not callable(dynamics):
            _check.choice("dynamics", dynamics, tuple(_ALPHA))
        alpha = _ALPHA.get(str(dynamics), 1.0) if alpha is None else alpha
        self.classes = _check.integer("classes", classes, 1)
        self.num_basis = _check.integer("num_basis", num_basis, self.classes)
        self.inputs = _check.integer("inputs", inputs, 1)
        self.steps = _check.integer("steps", steps, 0)
        self.decay = _check.number("decay", decay, 0, 1, below=True)
        self.alpha = _check.number("alpha", alpha, 0)
        self.rank = None if rank is None else _check.integer("rank", rank, 1)
        if readout is not None:
            _check.choice("readout", readout, _READOUTS)
        self.readout = readout or ("normalised" if dynamics == "mirror" else "memo")
        self.dynamics = dynamics
        self.encoder = nn.Linear(self.inputs, self.num_basis)
        self.reaction_name = reaction if isinstance(reaction, str) else None
        self.reaction = self._make_reaction(reaction, self.num_basis, self.rank)

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
        """Concentrations x_0 (B, N) of images (B, inputs). Chapter 1, :eq:`eq-injection`."""
        amounts = self._encode(images)
        return amounts.softmax(1) if self.dynamics == "mirror" else normalise(torch.relu(amounts))

    def react(self, x: Tensor) -> Tensor:
        """Concentrations x_T (B, N) from x_0 (B, N). Chapter 2, :eq:`eq-euler-step`."""
        if callable(self.dynamics):
            return self.dynamics(x, self.reaction)
        return dynamics.run(x, self.reaction, self.steps, self.decay, self.alpha, self.dynamics)

    def read(self, x: Tensor) -> Tensor:
        """The answer (B, classes) from concentrations x_T (B, N). Chapter 3, :eq:`eq-readout`."""
        log_x = log_guarded(x[:, : self.classes])
        return log_x.log_softmax(1) if self.readout == "normalised" else log_x

    def forward(self, images: Tensor) -> Tensor:
        """Logarithms (B, classes) of images (B, inputs): log-probabilities if the readout is "normalised".

        Chapter 3, :eq:`eq-readout`.
        """
        if self.dynamics == "mirror" and self.readout == "normalised":  # it never leaves log space
            for log_x in self._log_states(images):
                last = log_x
            return last[:, : self.classes].log_softmax(1)
        return self.read(self.react(self.inject(images)))

    def trajectory(self, images: Tensor) -> Tensor:
        """Concentrations (T + 1, B, N) at every step; only x_0 and x_T if `dynamics` is a callable."""
        if self.dynamics == "mirror":
            return torch.stack(list(self._log_states(images))).exp()
        x = self.inject(images)
        if callable(self.dynamics):
            return torch.stack([x, self.dynamics(x, self.reaction)])
        return dynamics.trajectory(x, self.reaction, self.steps, self.decay, self.alpha, self.dynamics)

    def _encode(self, images: Tensor) -> Tensor:
        if not isinstance(self.encoder, nn.Linear):
            amounts = self.encoder(images)
            _check.matrix("what the encoder gives", amounts, self.num_basis)
            return amounts
        dtype = self.encoder.weight.dtype
        images = images.to(dtype) if autocasts(images) else images
        _check.matrix("images", images, self.encoder.in_features, dtype)
        return self.encoder(images).to(dtype)  # autocast ends here

    def _log_states(self, images: Tensor) -> Iterator[Tensor]:
        log_x = self._encode(images).log_softmax(1)
        return dynamics.iterate(
            log_x, dynamics.mirror_step, self.reaction, self.steps, self.decay, self.alpha
        )

    def _recipe(self) -> dict[str, Any]:
        """The arguments that make such a model; a module or a callable goes by the name of its class."""
        named = {"reaction": self.reaction_name or type(self.reaction).__name__}
        named["dynamics"] = getattr(self.dynamics, "__qualname__", type(self.dynamics).__qualname__)
        if isinstance(self.dynamics, str):
            named["dynamics"] = self.dynamics
        plain = ("num_basis", "steps", "decay", "alpha", "rank", "classes", "inputs", "readout")
        values = {name: getattr(self, name) for name in plain}
        return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in values.items()} | named

    def extra_repr(self) -> str:
        about = f"num_basis={self.num_basis}, steps={self.steps}, decay={self.decay}, alpha={self.alpha}"
        return f"{about}, classes={self.classes}, readout={self.readout!r}"
