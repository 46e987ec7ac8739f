"""Cells that read a digit together, against the plain model of the same size and number of epochs.

python benchmarks/space.py             writes csos_lib/results/space.csv, about ten minutes on one core
python benchmarks/space.py 2           seed 2 alone: its rows replace those of an earlier run

All are trained without clipping. "right" and "down" say by how many pixels the test digits are moved, below 0
for left and up; what leaves the image comes in on the other side (half of the digits have faint ink in the
last rows). With zeros there instead, seed 0 reads the same on 12 x 12 cells, and 0.923 in place of 0.906 on
18 x 18 of them, four down. "grid" is how many cells there are on a side when they are tested: 12 as in
training, or 18, with an empty margin of two cells round the whole image, so that the edge is far. "steps" is
how many steps the cells take when they are tested. "agreement" is the share of the ink whose cell votes for
the answer of the image. The weights of seed 0 are kept, in half precision, in csos_lib/data/cells.pt; where
that file is, they are not trained again.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib.relatives.space import CellularCSOS
from csos_lib.simplex import EPSILON
from table import write_table

SEEDS, EPOCHS, LR, BATCH, STEPS = range(3), 4, 0.005, 32, 12
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
COLUMNS = ("model", "seed", "parameters", "grid", "steps", "right", "down", "test_accuracy", "agreement")
WEIGHTS = Path(csos_lib.__file__).parent / "data" / "cells.pt"


def cells(steps: int, roomy: bool = False) -> CellularCSOS:
    """12 x 12 cells, or 18 x 18 of them for images with a margin of six pixels."""
    return CellularCSOS(steps=steps, grid=(40, 40) if roomy else (28, 28))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "cells": lambda: cells(STEPS),
    "one step": lambda: cells(1),
    "plain": lambda: csos_lib.CSOS(10, alpha=0.6, reaction="cp", rank=4, dynamics="mirror"),
}


@torch.no_grad()
def test(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float | str]:
    """Accuracy, and the share of the ink that agrees with the answer if there are cells to disagree."""
    right, agreement = 0.0, 0.0
    for x, y in zip(images.split(100), labels.split(100), strict=True):
        if not isinstance(model, CellularCSOS):
            right += (model(x).argmax(1) == y).sum().item() / len(images)
            continue
        states, ink = model.trajectory(x)[-1, :, :10], model.ink(x)[:, 0] + EPSILON
        votes = (states / states.sum(1, keepdim=True)).log()
        answer = (votes * ink[:, None]).sum(2).argmax(1)  # what the model's forward answers
        agrees = (ink * (votes.argmax(1) == answer[:, None])).sum(1) / ink.sum(1)
        right += (answer == y).sum().item() / len(images)
        agreement += agrees.sum().item() / len(images)
    return right, agreement if isinstance(model, CellularCSOS) else ""


def train(name: str, seed: int, data: csos_lib.Dataset) -> nn.Module:
    torch.manual_seed(seed)
    model = MODELS[name]()
    if (name, seed) == ("cells", 0) and WEIGHTS.exists():
        model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
        return model
    csos_lib.fit(model, data, EPOCHS, LR, BATCH, seed, progress=False, clip=None)
    if (name, seed) == ("cells", 0):
        torch.save({key: value.half() for key, value in model.named_parameters()}, WEIGHTS)
    return model


def run(seed: int, data: csos_lib.Dataset) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name in MODELS:
        model = train(name, seed, data)
        size = sum(p.numel() for p in model.parameters())
        own = {"cells": STEPS, "one step": 1, "plain": 5}[name]
        tests = [(12, own, 0, 0)]
        if name != "one step":
            tests += [(12, own, d * x, d * y) for d in (1, 2, 3, 4) for x, y in DIRECTIONS]
        if name == "cells":
            tests += [(12, steps, 0, 0) for steps in (3, 6, 9, 18, 24, 48)]
            tests += [(18, own, d * x, d * y) for d in (0, 1, 4) for x, y in DIRECTIONS[: 4 if d else 1]]
        for grid, steps, right, down in tests:
            tested = model
            if isinstance(model, CellularCSOS):
                tested = cells(steps, roomy=grid == 18)
                tested.load_state_dict(dict(model.named_parameters()))
            images = data.test_images.unflatten(1, (28, 28)).roll((down, right), (1, 2))
            images = (F.pad(images, (6, 6, 6, 6)) if grid == 18 else images).flatten(1)
            found = test(tested, images, data.test_labels)
            rows.append((name, seed, size, grid if name != "plain" else "", steps, right, down, *found))
            print(*rows[-1], flush=True)
    return rows


def main(seeds: list[int]) -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows = [row for seed in seeds for row in run(seed, data)]
    if set(seeds) != set(SEEDS):
        rows += [
            tuple(row.values()) for row in csos_lib.load_results("space") if int(row["seed"]) not in seeds
        ]
    write_table("space", COLUMNS, sorted(rows, key=lambda row: int(str(row[1]))))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or list(SEEDS))
