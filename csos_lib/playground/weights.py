"""The weights of the playground: one small file a model, read alike by the browser and by `load_weights`.

A file is the length of its header (uint32), the header (JSON: recipe, arrays, sha256 of what follows, and
whatever the training script states, such as accuracy), and the arrays one after the other, all little-endian.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.classifier import CSOS, PIXELS
from csos_lib.quadratic import pack
from csos_lib.reactions import CPReaction

_FORMAT = "csos_lib playground 1"
_WRITTEN = ("format", "sha256", "arrays", "recipe")  # of the header, by the functions below


def pack_arrays(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """A file of named arrays, each in its own dtype; the header with their shapes and checksum."""
    payload = b"".join(
        np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<")).tobytes() for a in arrays.values()
    )
    about = {
        "format": _FORMAT,
        **header,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "arrays": [{"name": k, "dtype": str(a.dtype), "shape": a.shape} for k, a in arrays.items()],
    }
    text = json.dumps(about, separators=(",", ":"), allow_nan=False).encode()  # browsers read no NaN
    return len(text).to_bytes(4, "little") + text + payload


def unpack_arrays(content: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack_arrays` wrote: the header and the arrays.

    Raises:
        ValueError: the content is not such a file, or its checksum is wrong.
    """
    try:
        length = int.from_bytes(content[:4], "little")
        header = json.loads(content[4 : 4 + length])
        payload, arrays, place = content[4 + length :], {}, 0
        if header["format"] != _FORMAT or hashlib.sha256(payload).hexdigest() != header["sha256"]:
            raise ValueError("format or checksum differ")
        for entry in header["arrays"]:
            dtype = np.dtype(entry["dtype"]).newbyteorder("<")
            count = int(np.prod(entry["shape"]))
            arrays[entry["name"]] = np.frombuffer(payload, dtype, count, place).reshape(entry["shape"])
            place += count * dtype.itemsize
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a whole file of the playground: {error}") from error
    return header, arrays


def pack_weights(model: CSOS, dtype: str = "float32", **about: object) -> bytes:
    """The file of a model: factors for a CP reaction, otherwise one coefficient a pair of molecules.

    Args:
        model: a CSOS of 784 pixels, not of a subclass, with dynamics "euler" or "mirror" and a reaction that
            has `to_tensor`.
        dtype: "float16", "float32" or "float64", what the numbers are rounded to.
        about: what the header says besides, such as accuracy=0.95, under other names than the header's own:
            format, sha256, arrays, recipe.

    Raises:
        ValueError: model is of another class or of other images, its dynamics is a callable, its reaction has
            no dense tensor, dtype is another one or too small for a number of the model, or about has a name
            of the header's own.

    Chapter 3.
    """
    _check.choice("dtype", dtype, ("float16", "float32", "float64"))
    if taken := sorted(set(about) & set(_WRITTEN)):
        raise ValueError(f"about must not name {', '.join(_WRITTEN)}, got {', '.join(taken)}")
    if type(model) is not CSOS or model.encoder.in_features != PIXELS:
        raise ValueError(f"model must be a CSOS of {PIXELS} inputs and of no subclass, got {model!r}")
    if callable(model.dynamics) or not hasattr(model.reaction, "to_tensor"):
        raise ValueError("model must have its dynamics named by a string and a reaction that has to_tensor()")
    reaction: Any = model.reaction
    arrays: dict[str, Tensor] = {"encoder": model.encoder.weight, "bias": model.encoder.bias}
    if isinstance(reaction, CPReaction):
        arrays |= {"left": reaction.left, "right": reaction.right, "out": reaction.out}
        name, rank = "cp", len(reaction.left)
    else:
        arrays["weight"] = pack(reaction.to_tensor().detach())
        name, rank = "symmetric", None
    recipe = {
        "num_basis": model.num_basis,
        "steps": model.steps,
        "decay": model.decay,
        "alpha": model.alpha,
        "reaction": name,
        "rank": rank,
        "dynamics": model.dynamics,
    }
    with np.errstate(over="ignore"):
        rounded = {key: value.detach().double().cpu().numpy().astype(dtype) for key, value in arrays.items()}
    for key, value in rounded.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{key} must be finite in {dtype}, got {arrays[key].abs().max().item():.3g}")
    return pack_arrays({**about, "recipe": recipe}, rounded)


def load_weights(path: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> CSOS:
    """The model that the browser runs, from the same stored numbers.

    Args:
        path: a file that `pack_weights` wrote, or the name of one that comes with the library: "mirror-cp",
            "mirror-dense", "memo" or "memo-cp".
        dtype: of the model; the browser computes in float64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or not one of the playground.

    Chapter 3.
    """
    bundled = Path(__file__).parent / f"{path}.bin"
    header, arrays = unpack_arrays((bundled if bundled.is_file() else Path(path)).read_bytes())
    try:
        values = {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}
        state = {"encoder.weight": values.pop("encoder"), "encoder.bias": values.pop("bias")}
        state |= {f"reaction.{name}": value for name, value in values.items()}
        with torch.device("meta"):  # no starting values, and no memory that only a damaged recipe would need
            model = CSOS(**header["recipe"])
        model.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"not a model of the playground: {error}") from error
    return model
