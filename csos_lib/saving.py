"""Files: a model with its recipe, and how a file is written so that there is never half of it."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import nn

from csos_lib.classifier import CSOS

_FORMAT = "csos_lib model 1"


def save(model: CSOS, path: str | os.PathLike[str]) -> None:
    """Write a model's weights and its recipe to one file that `load` reads without running code.

    Args:
        model: a CSOS whose reaction and dynamics are named by strings (a module or a callable has no recipe),
            compiled or not. For any other module save its state_dict: it refuses to be loaded into a module
            with other settings.
        path: the file; it is replaced only when the new one is complete.

    Raises:
        ValueError: model is no CSOS or of a class derived from it, its reaction or dynamics is not named by a
            string, or its weights are not those of its recipe (pruned, say) or not finite.

    Chapter 3.
    """
    plain = unwrapped(model)
    if type(plain) is not CSOS:
        raise ValueError(
            f"model must be a CSOS and of no class derived from it, got {type(plain).__name__}: "
            "save its state_dict with torch.save"
        )
    if plain.reaction_name is None or callable(plain.dynamics):
        raise ValueError("model must have its reaction and dynamics named by strings: others have no recipe")
    weights, recipe = plain.state_dict(), plain._recipe()
    with torch.device("meta"):
        expected = CSOS(**recipe).state_dict()
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in expected.items()}:
        changed = sorted(weights.keys() ^ expected.keys()) or "shapes"
        raise ValueError(f"model must have the weights that its recipe makes, got others: {changed}")
    _check_finite(weights, "model")
    write_whole(path, {"format": _FORMAT, "recipe": recipe, "weights": weights})


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
    content = read_whole(path, _FORMAT, "a model file written by csos_lib.save")
    try:
        weights = content["weights"]
        with torch.device("meta"):  # no starting values are drawn
            model = CSOS(**content["recipe"])
        model.to(weights["encoder.weight"].dtype).to_empty(device="cpu").load_state_dict(weights)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit together: {error}") from error
    _check_finite(weights, str(path))
    return model


def write_whole(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """torch.save to a file that is replaced only when the new one is complete, whoever else writes it."""
    path = Path(path).expanduser()
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        torch.save(content, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_whole(path: str | os.PathLike[str], kind: str, what: str) -> dict[str, Any]:
    """What `write_whole` wrote, read without running code; ValueError if it is not of this kind."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not {what}") from error
    if not isinstance(content, dict) or content.get("format") != kind:
        raise ValueError(f"{path} is not {what}")
    return content


def _check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} in {where} holds values that are not finite")


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside what torch.compile or DistributedDataParallel made of it, or the module itself."""
    for name in ("_orig_mod", "module"):
        if isinstance(inner := getattr(model, name, None), nn.Module):
            return unwrapped(inner)
    return model
