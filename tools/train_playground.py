"""Train the models of the playground and write their weights, and the strip of digits to choose from.

    python tools/train_playground.py [--data mnist --root FOLDER] [NAME ...]

Without arguments: all four models on the 4,000 bundled training digits, about five minutes on one core. With
--data mnist and the folder of its IDX files: on all 60,000. Readers draw off the middle, tilted and in other
sizes than the writers of MNIST, so each digit is also learned in copies that are turned, scaled, sheared and
shifted a little. Accuracy is always that of the stored (rounded) numbers on the bundled test digits, which
are never seen: with --data mnist, images equal to one of them are left out of the training.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import csos_lib
from csos_lib.playground.weights import load_weights, pack_arrays, pack_weights

FOLDER = Path(csos_lib.__file__).parent / "playground"
MODELS: dict[str, dict[str, Any]] = {
    "mirror-cp": {"dynamics": "mirror", "reaction": "cp", "rank": 64, "alpha": 0.3},
    "mirror-dense": {"dynamics": "mirror"},
    "memo": {},
    "memo-cp": {"reaction": "cp", "rank": 64},
}
COPIES = 9
SCHEDULE = ((8, 0.002), (2, 0.0004))  # epochs at a learning rate


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 12 degrees, scale by up to 12 %, shear by up to 0.15, shift by up to 1.5 pixels."""

    def draw(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * limit

    angle, shear = draw(math.pi / 15), draw(0.15)
    wide, high = 1 + draw(0.12), 1 + draw(0.12)
    across, down = draw(1.5 / 14), draw(1.5 / 14)
    rows = [
        torch.stack([wide * angle.cos(), shear - angle.sin(), across], 1),
        torch.stack([angle.sin(), high * angle.cos(), down], 1),
    ]
    square = images.view(-1, 1, 28, 28)
    grid = F.affine_grid(torch.stack(rows, 1), list(square.shape), align_corners=False)
    return F.grid_sample(square, grid, align_corners=False).clamp(0, 1).flatten(1)


def training_data(name: str, root: str | None) -> csos_lib.Dataset:
    bundled = csos_lib.load_dataset("mnist5k")
    data = bundled if name == "mnist5k" else csos_lib.load_dataset(name, root)
    images, labels = data.train_images, data.train_labels
    if name != "mnist5k":
        tests = {row.numpy().tobytes() for row in (bundled.test_images * 255).round().byte()}
        keep = [row.numpy().tobytes() not in tests for row in (images * 255).round().byte()]
        images, labels = images[torch.tensor(keep)], labels[torch.tensor(keep)]
    generator = torch.Generator().manual_seed(0)
    copies = [distort(images, generator) for _ in range(COPIES)]
    return csos_lib.Dataset(
        torch.cat([images, *copies]),
        labels.repeat(COPIES + 1),
        bundled.test_images,
        bundled.test_labels,
    )


def train(name: str, data: csos_lib.Dataset, source: str) -> None:
    torch.manual_seed(0)
    model = csos_lib.CSOS(**MODELS[name])
    for seed, (epochs, lr) in enumerate(SCHEDULE):
        csos_lib.fit(model, data, epochs=epochs, lr=lr, seed=seed, progress=False)
    path = FOLDER / f"{name}.bin"
    about: dict[str, Any] = {
        "name": name,
        "trained_on": f"{len(data.train_images) // (COPIES + 1)} digits of {source}, each also in {COPIES} "
        "copies turned, scaled, sheared and shifted a little",
        "training": {"epochs_and_lr": SCHEDULE, "batch_size": 128, "seed": 0},
        "tested_on": "the 1,000 bundled test digits",
    }
    path.write_bytes(pack_weights(model, "float16", **about))
    about["accuracy"] = csos_lib.evaluate(load_weights(path), data.test_images, data.test_labels).accuracy
    path.write_bytes(pack_weights(load_weights(path), "float16", **about))
    print(f"{name}: {about['accuracy']:.3f}, {path.stat().st_size} bytes", flush=True)


def write_strip(data: csos_lib.Dataset) -> None:
    """The first two bundled test digits of each class, whatever the models make of them."""
    rows = [row for k in range(10) for row in (data.test_labels == k).nonzero()[:2, 0].tolist()]
    arrays = {
        "images": (data.test_images[rows] * 255).round().byte().numpy(),
        "labels": data.test_labels[rows].byte().numpy(),
    }
    header = {"source": "LeCun, Cortes & Burges, MNIST (CC BY-SA 3.0)", "rows": rows}
    (FOLDER / "digits.bin").write_bytes(pack_arrays(header, arrays))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--data", choices=("mnist5k", "mnist"), default="mnist5k")
    parser.add_argument("--root", help="the folder of MNIST's IDX files")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = training_data(arguments.data, arguments.root)
    source = "MNIST" if arguments.data == "mnist" else "MNIST (the bundled training half)"
    write_strip(data)
    for name in arguments.names or MODELS:
        train(name, data, source)


if __name__ == "__main__":
    main()
