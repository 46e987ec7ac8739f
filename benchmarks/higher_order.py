"""The quadratic classifier of 1998 beside ours, and accuracy against the degree 2^T, on the bundled digits.

python benchmarks/higher_order.py        writes csos_lib/results/higher_order.csv, about three minutes

splits  five random splits of the 5,000 digits into 4,000 (or fewer) and 1,000. The ridge of the classifier
        of 1998 is chosen on a held-out quarter; the networks train for eight epochs at lr 0.005.
degree  T steps of 32 molecules, five epochs, three seeds, injected by a softmax: W free, and W >= 0, where
        nothing is cut and the network is a rational map of degree 2^T.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

import csos_lib
from csos_lib import CSOS, Dataset
from csos_lib.reactions import DenseReaction
from csos_lib.relatives.higher_order import QuadraticClassifier
from table import write_table

SPLITS, SEEDS = range(5), range(3)
COLUMNS = ("experiment", "model", "training", "steps", "seed", "parameters", "accuracy", "train_accuracy")
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
STRENGTH = 0.32  # alpha N 0.05 of a mirror step, as in chapter 4


class NonNegativeReaction(DenseReaction):
    """W = |weight|: nothing is taken, so nothing is cut."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,bj,kij->bk", x, x, self.weight.abs())


class SoftInjection(CSOS):
    """No molecule is missing at the start."""

    def inject(self, images: Tensor) -> Tensor:
        return self._encode(images).softmax(1)


def split(seed: int, count: int) -> Dataset:
    data = csos_lib.load_dataset("mnist5k")
    images = torch.cat([data.train_images, data.test_images])
    labels = torch.cat([data.train_labels, data.test_labels])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    train, test = order[1000 : 1000 + count], order[:1000]
    return Dataset(images[train], labels[train], images[test], labels[test])


def quadratic(data: Dataset) -> QuadraticClassifier:
    part = 3 * len(data.train_images) // 4
    held = data.train_images[part:], data.train_labels[part:]

    def score(ridge: float) -> float:
        model = QuadraticClassifier(data.train_images[:part], data.train_labels[:part], ridge=ridge)
        return csos_lib.evaluate(model, *held).accuracy

    return QuadraticClassifier(data.train_images, data.train_labels, ridge=max(RIDGES, key=score))


def record(
    experiment: str, name: str, model: nn.Module, data: Dataset, steps: object, seed: int
) -> list[object]:
    numbers = [p.numel() for p in model.parameters()] or [b.numel() for b in model.buffers()]
    test = csos_lib.evaluate(model, data.test_images, data.test_labels)
    train = csos_lib.evaluate(model, data.train_images, data.train_labels)
    count = len(data.train_images)
    row = [experiment, name, count, steps, seed, sum(numbers), test.accuracy, train.accuracy]
    print(*row, flush=True)
    return row


def splits(seed: int) -> Iterator[list[object]]:
    mirror = STRENGTH / (40 * 0.05)
    for count in (500, 1000, 2000, 4000):
        data = split(seed, count)
        yield record("splits", "1998", quadratic(data), data, "", seed)
        networks = {"mirror 5": (5, mirror, "mirror")}
        if count == 4000:
            networks |= {
                "mirror 0": (0, mirror, "mirror"),
                "mirror 1": (1, mirror, "mirror"),
                "memo 5": (5, 1.0, "euler"),
            }
        for name, (steps, alpha, kind) in networks.items():
            torch.manual_seed(seed)
            model = CSOS(40, steps, alpha=alpha, dynamics=kind)
            csos_lib.fit(model, data, epochs=8, seed=seed, progress=False)
            yield record("splits", name, model, data, steps, seed)


def degree(seed: int) -> Iterator[list[object]]:
    data = csos_lib.load_dataset("mnist5k")
    for steps in range(5):
        for name in ("free", "positive"):
            torch.manual_seed(seed)
            reaction = DenseReaction(32) if name == "free" else NonNegativeReaction(32)
            model = SoftInjection(32, steps, reaction=reaction)
            csos_lib.fit(model, data, epochs=5, seed=seed, progress=False)
            yield record("degree", name, model, data, steps, seed)


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for seed in SPLITS for row in splits(seed)]
    rows += [row for seed in SEEDS for row in degree(seed)]
    write_table("higher_order", COLUMNS, rows)


if __name__ == "__main__":
    main()
