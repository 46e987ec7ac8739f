"""Memo 1's model on the bundled digits, five seeds, with the gradient's norm cut at 1 and as it is.

python benchmarks/memo_seeds.py        writes csos_lib/results/memo_seeds.csv, two minutes on one core
"""

from itertools import product

import torch
from torch.nn import functional as F

import csos_lib
from csos_lib.simplex import count_living
from table import write_table

SEEDS, EPOCHS = range(5), 10
COLUMNS = (
    "clip",
    "seed",
    "epoch",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "living_first",
    "living_last",
    "zero_gradient_batch",
    "zero_gradient_all",
)


def zero_gradient(model: csos_lib.CSOS, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of the entries of dL/dW that are exactly zero, L the mean loss over these images."""
    model.zero_grad()
    F.nll_loss(model(images), labels).backward()
    gradient = model.reaction.weight.grad
    assert isinstance(gradient, torch.Tensor)
    return (gradient == 0).double().mean().item()


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[list[object]] = []
    for clip, seed in product((None, 1.0), SEEDS):
        torch.manual_seed(seed)
        model = csos_lib.CSOS()
        seen: list[list[float]] = []

        def measure(*_: object, model: csos_lib.CSOS = model, seen: list[list[float]] = seen) -> None:
            test = csos_lib.evaluate(model, data.test_images, data.test_labels)
            with torch.no_grad():
                living = count_living(model.trajectory(data.test_images)).double().mean(1)
            seen.append(
                [
                    *test,
                    living[0].item(),
                    living[-1].item(),
                    zero_gradient(model, data.train_images[:128], data.train_labels[:128]),
                    zero_gradient(model, data.train_images, data.train_labels),
                ]
            )

        history = csos_lib.fit(
            model, data, epochs=EPOCHS, seed=seed, progress=False, clip=clip, after_epoch=measure
        )
        for epoch, values in enumerate(seen):
            rows.append(
                [
                    str(clip),
                    seed,
                    epoch + 1,
                    history.train_loss[epoch],
                    history.train_accuracy[epoch],
                    *values,
                ]
            )
        print(f"clip {clip}, seed {seed}: test accuracy {seen[-1][1]:.3f}, zero gradients {seen[-1][-1]:.3f}")
    write_table("memo_seeds", COLUMNS, rows)


if __name__ == "__main__":
    main()
