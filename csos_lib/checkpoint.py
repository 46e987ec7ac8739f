"""Checkpoints: all that a training needs to go on to the same numbers after it was killed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from csos_lib.saving import read_whole, write_whole

_FORMAT = "csos_lib checkpoint 1"


class Checkpoint:
    """One file that holds the state of a training, replaced as a whole.

    Args:
        path: the file.
        parts: what has state_dict() and load_state_dict(): model, optimiser, ...
        settings: plain numbers in which a training that goes on must agree with the one that was written.
        shuffle: the generator that draws the order of the data.
        device: whose random state is kept beside the processor's.

    Chapter 3.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        parts: Mapping[str, Any],
        settings: Mapping[str, Any],
        shuffle: torch.Generator,
        device: torch.device,
    ) -> None:
        self.path = Path(path).expanduser()
        self.parts, self.settings, self.shuffle = parts, dict(settings), shuffle
        self.cuda = device if device.type == "cuda" else None

    def write(self, **progress: Any) -> None:
        """The state of now, and how far the training is."""
        random = {"shuffle": self.shuffle.get_state(), "cpu": torch.get_rng_state()}
        if self.cuda is not None:
            random["cuda"] = torch.cuda.get_rng_state(self.cuda)
        states = {name: part.state_dict() for name, part in self.parts.items()}
        about = {"settings": self.settings, "random": random, "progress": progress}
        write_whole(self.path, {"format": _FORMAT, "states": states, **about})

    def read(self) -> dict[str, Any]:
        """Put the state back that was written, and say how far the training was; {} if there is no file.

        Raises:
            ValueError: the file is no checkpoint, or of another training.
        """
        if not self.path.exists():
            return {}
        content = read_whole(self.path, _FORMAT, "a checkpoint written by csos_lib.fit")
        if content["settings"] != self.settings:
            raise ValueError(
                f"{self.path} is of a training with {content['settings']}, this one has {self.settings}"
            )
        try:
            for name, part in self.parts.items():
                part.load_state_dict(content["states"][name])
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{self.path} is of another model or optimiser: {error}") from error
        random = content["random"]
        self.shuffle.set_state(random["shuffle"])
        torch.set_rng_state(random["cpu"])
        if self.cuda is not None and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.cuda)
        return content["progress"]
