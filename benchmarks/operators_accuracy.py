"""What frozen operators are worth: a linear head on K = 32 ... 1024 of them, none of which is trained.

    python benchmarks/operators_accuracy.py [SECONDS]    writes csos_lib/results/operators_accuracy.csv

About an hour on one core. With SECONDS it stops after so many; started again, it goes on where it stopped.

Images are pooled to 7 x 7, shifted and scaled to mean 0 and variance 1 over the training images, and are the
rows h (d = 49) of a bank. Of each operator's answer the head sees two of the 49 numbers, drawn once: 2 K
features, whatever the bank. The head is ridge regression on one-hot labels, the ridge chosen on the last
fifth of the training images, then it is fitted on all.

    waves (one scale)      random Fourier features, K frequencies, sine and cosine; the scale is chosen as the
                           ridge is. The baseline.
    waves (all scales)     the same, each frequency with a scale of its own, log-uniform in memo 2's range
    spectral ... sorting   one-step programs of one family
    one step               one-step programs of all families
    programs               random programs as they come: two to four steps
    programs, depth 2 ...  the same with one depth only, or with no or all residual branches

A one-step program repeats another now and then; here that is allowed: it is what more of the same means.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

import csos_lib
from csos_lib.operators import Bank, Expression, draw_programs, random_fourier_features, sample_frequencies
from csos_lib.operators.programs import FAMILIES
from table import RESULTS, write_table

COLUMNS = ("dataset", "bank", "seed", "operators", "features", "accuracy", "ridge")
SIZES = (32, 64, 128, 256, 512, 1024)
SEEDS = range(3)
GRID, D = (7, 7), 49
EACH = 2
RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
SCALES = (0.05, 0.1, 0.2)  # of frequencies; two rows are some 10 apart
VARIANTS: dict[str, dict[str, Any]] = {
    "programs, depth 2": {"depths": (2,)},
    "programs, depth 4": {"depths": (4,)},
    "programs, p_skip 0": {"p_skip": 0.0},
    "programs, p_skip 1": {"p_skip": 1.0},
}
BANKS = (
    "waves (one scale)",
    "waves (all scales)",
    "programs",
    "one step",
    *(family for family in FAMILIES if family != "inner"),
)
DATASETS = {"mnist5k": (*BANKS, *VARIANTS), "fashion_mnist": BANKS}


def pooled(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images.unflatten(1, (1, 28, 28)), 4).flatten(1)


def load(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All 4,000 + 1,000 bundled digits, or 10,000 of Fashion-MNIST and all its 10,000 test images."""
    data, count = csos_lib.load_dataset(name), 10_000
    x, y = pooled(data.train_images[:count]), pooled(data.test_images)
    mean, std = x.mean(), x.std()
    return (x - mean) / std, data.train_labels[:count], (y - mean) / std, data.test_labels


def programs(bank: str, seed: int, count: int) -> list[Expression]:
    if bank == "one step" or bank in FAMILIES:
        families = FAMILIES if bank == "one step" else {bank: 1.0}
        drawn = draw_programs(D, seed, 0.0, (1,), GRID, families, alike=2.0)
    else:
        drawn = draw_programs(D, seed, grid=GRID, **VARIANTS.get(bank, {}))
    return [f for f, _ in islice(drawn, count)]


@torch.no_grad()
def read(expressions: Sequence[Expression], h: Tensor, seed: int) -> Tensor:
    """Two numbers of each operator's answer, (B, 2 K)."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(len(expressions), D, generator=generator).argsort(1)[:, :EACH]
    bank, features = Bank(expressions), torch.empty(len(h), EACH * len(expressions))
    for rows, out in zip(h.split(1000), features.split(1000), strict=True):
        for k, answer in bank.stream(rows):
            out[:, EACH * k : EACH * (k + 1)] = answer[:, places[k]]
    return features


def heads(
    train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, sizes: Sequence[int]
) -> Iterator[tuple[float, float, float]]:
    """Test accuracy, ridge and accuracy on the held-out fifth, for the first features of each size."""
    part = len(train) - len(train) // 5
    mean = train.mean(0)
    train, test = train - mean, test - mean
    targets = torch.nn.functional.one_hot(labels, 10).to(train.dtype) - 0.1
    parts = [(train[:part], targets[:part]), (train[part:], targets[part:])]
    gram, other = [(x.T @ x).double() for x, _ in parts]
    right, more = [(x.T @ y).double() for x, y in parts]

    def fit(gram: Tensor, right: Tensor, ridge: float, f: int) -> Tensor:
        block = gram[:f, :f] + ridge * gram[:f, :f].diagonal().mean() * torch.eye(f, dtype=gram.dtype)
        return torch.cholesky_solve(right[:f], torch.linalg.cholesky(block)).float()

    def accuracy(answers: Tensor, labels: Tensor) -> float:
        return (answers.argmax(1) == labels).double().mean().item()

    for size in sizes:
        f = EACH * size
        scores = [accuracy(train[part:, :f] @ fit(gram, right, r, f), labels[part:]) for r in RIDGES]
        best = max(range(len(RIDGES)), key=scores.__getitem__)
        weights = fit(gram + other, right + more, RIDGES[best], f)
        yield accuracy(test[:, :f] @ weights, test_labels), RIDGES[best], scores[best]


def measure(name: str, bank: str, seed: int) -> list[list[object]]:
    x, labels, y, test_labels = load(name)
    sizes = (64,) if bank in VARIANTS else SIZES
    if bank.startswith("waves"):
        scales = SCALES if "one" in bank else ((1e-2 / D**0.5, 1e2 / D**0.5),)
        best: list[tuple[float, float, float]] = []
        for scale in scales:
            frequencies = sample_frequencies(D, sizes[-1], scale, seed)
            # sine and cosine of one frequency side by side, so that the first 2 K features are K frequencies
            train, test = (
                random_fourier_features(h, frequencies).unflatten(1, (2, -1)).mT.flatten(1) for h in (x, y)
            )
            found = list(heads(train, labels, test, test_labels, sizes))
            best = [max(a, b, key=lambda r: r[2]) for a, b in zip(best or found, found, strict=True)]
        results = best
    else:
        expressions = programs(bank, seed, sizes[-1])
        train, test = read(expressions, x, seed), read(expressions, y, seed)
        results = list(heads(train, labels, test, test_labels, sizes))
    return [
        [name, bank, seed, size, EACH * size, accuracy, ridge]
        for size, (accuracy, ridge, _) in zip(sizes, results, strict=True)
    ]


def main() -> None:
    torch.set_num_threads(1)
    until = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
    rows: dict[tuple[str, ...], list[object]] = {}
    if (RESULTS / "operators_accuracy.csv").exists():
        for old in csos_lib.load_results("operators_accuracy"):
            rows[tuple(old[c] for c in COLUMNS[:4])] = [old[c] for c in COLUMNS]
    work = [
        (name, bank, seed)
        for name, banks in DATASETS.items()
        for bank in banks
        for seed in SEEDS
        if (name, bank, str(seed), "64") not in rows
    ]
    for place, (name, bank, seed) in enumerate(work):
        if time.monotonic() > until:
            print(f"{len(work) - place} of them left: start again")
            return
        start = time.monotonic()
        for row in measure(name, bank, seed):
            rows[tuple(map(str, row[:4]))] = row
        write_table("operators_accuracy", COLUMNS, rows.values())
        print(f"{name:13} {bank:18} {seed} {time.monotonic() - start:5.1f} s {row[5]:.3f}", flush=True)


if __name__ == "__main__":
    main()
