"""Cells that read a digit together, against the plain model of the same size and number of epochs.

python benchmarks/space.py             writes csos_lib/results/space.csv, about ten minutes on one core
python benchmarks/space.py 2           seed 2 alone: its rows replace those of an earlier run

"shift" is by how many pixels the test digits are moved to the right; "steps" how many steps the cells take
when they are tested. "agreement" is the share of the ink whose cell votes for the answer of the image. The
weights of seed 0 go to csos_lib/data/cells.pt, in half precision.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import csos_lib
from csos_lib.relatives.space import CellularCSOS
from table import write_table

SEEDS, EPOCHS, LR, BATCH, STEPS = range(3), 4, 0.005, 32, 12
COLUMNS = ("model", "seed", "parameters", "steps", "shift", "test_accuracy", "agreement")
MODELS = {
    "cells": lambda: CellularCSOS(steps=STEPS),
    "one step": lambda: CellularCSOS(steps=1),
    "plain": lambda: csos_lib.CSOS(10, alpha=0.6, reaction="cp", rank=4, dynamics="mirror"),
}


@torch.no_grad()
def test(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float | str]:
    """Accuracy, and the share of the ink that agrees with the answer if there are cells to disagree."""
    right, agreement = 0.0, 0.0
    for x, y in zip(images.split(100), labels.split(100), strict=True):
        answer = model(x).argmax(1)
        right += (answer == y).sum().item() / len(images)
        if isinstance(model, CellularCSOS):
            votes, ink = model.trajectory(x)[-1, :, :10].argmax(1), model.ink(x)[:, 0]
            agrees = (ink * (votes == answer[:, None])).sum(1) / ink.sum(1)
            agreement += agrees.sum().item() / len(images)
    return right, agreement if isinstance(model, CellularCSOS) else ""


def run(seed: int, data: csos_lib.Dataset) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for name, make in MODELS.items():
        torch.manual_seed(seed)
        model = make()
        csos_lib.fit(model, data, epochs=EPOCHS, lr=LR, batch_size=BATCH, seed=seed, progress=False)
        size = sum(p.numel() for p in model.parameters())
        tests = [({"cells": STEPS, "one step": 1, "plain": 5}[name], shift) for shift in (0, 1, 2, 3, 4)]
        if name == "cells":
            tests += [(steps, 0) for steps in (3, 6, 9, 18, 24, 48)]
            if seed == 0:
                weights = {key: value.half() for key, value in model.state_dict().items()}
                torch.save(weights, Path(csos_lib.__file__).parent / "data" / "cells.pt")
        for steps, shift in tests:
            if isinstance(model, CellularCSOS):
                model.steps = steps
            images = data.test_images.unflatten(1, (28, 28)).roll(shift, 2).flatten(1)
            rows.append((name, seed, size, steps, shift, *test(model, images, data.test_labels)))
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
