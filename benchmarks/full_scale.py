"""Reaction models, networks of the same size and what is left at T = 0, on all of Fashion-MNIST or MNIST.

    python benchmarks/full_scale.py --tune           each kind's learning rate, on held-out training images
    python benchmarks/full_scale.py                  all of Fashion-MNIST, three seeds, an hour of one core
    python benchmarks/full_scale.py --dataset mnist  all of MNIST, where it is on disk

One recipe for every model: Adam, batches of 128, 10 epochs, the learning rate falling from its peak to 0
along a half cosine. The peak is the best of PEAKS for each of four kinds (memo's step as it is and with the
gradient's norm cut at 1, mirror step, network), found by training on 12,000 training images and measuring on
10,000 others, two seeds. "clipped memo" is the only model whose gradient is cut.
Seconds are those of the processor, one thread. Every run appends one row to csos_lib/results/full_scale.csv;
runs that are there already are skipped, so an interrupted command goes on where it stopped.
"""

import argparse
import csv
import math
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import csos_lib
from csos_lib import CSOS, Dataset
from table import RESULTS

RESULT, TUNING = RESULTS / "full_scale.csv", RESULTS / "full_scale_tuning.csv"
EPOCHS = 10
Model = TypeVar("Model", bound=nn.Module)
COLUMNS = ("model", "dataset", "seed", "parameters", "accuracy", "loss", "train_seconds", "command")


def mlp(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10), nn.LogSoftmax(1))


mirror = partial(CSOS, dynamics="mirror")
MODELS: dict[str, Callable[[], nn.Module]] = {
    "memo": CSOS,
    "memo T=0": partial(CSOS, steps=0, reaction="cp", rank=1),
    "mirror dense": mirror,
    "mirror symmetric": partial(mirror, reaction="symmetric"),
    **{f"mirror cp {rank}": partial(mirror, reaction="cp", rank=rank) for rank in (16, 32, 64, 128)},
    **{f"mirror tucker {rank}": partial(mirror, reaction="tucker", rank=rank) for rank in (8, 16, 32)},
    "mirror pairwise": partial(mirror, reaction="pairwise"),
    "mirror T=0": partial(mirror, steps=0, reaction="cp", rank=1),
    # As many parameters as the T = 0 models, CP 16, 32, 64, 128, symmetric and dense, in this order.
    **{f"mlp {hidden}": partial(mlp, hidden) for hidden in (63, 67, 71, 79, 94, 231, 393)},
}


CLIPPED: dict[str, Callable[[], nn.Module]] = {"clipped memo": CSOS}
"""Trained with the gradient's norm cut at CLIP, as `csos_lib.fit` does."""
CLIP = 1.0
PEAKS = (0.001, 0.002, 0.004, 0.008, 0.016)
TUNED = ("memo", "clipped memo", "mirror cp 64", "mlp 94")
"""One model of each kind is tuned for all of them."""


def count_parameters(name: str, model: nn.Module) -> int:
    """At T = 0 the reaction is never used: its parameters do not count."""
    counted = model.encoder if name.endswith("T=0") and isinstance(model, CSOS) else model
    return sum(p.numel() for p in counted.parameters())


def train(
    model: nn.Module,
    data: Dataset,
    epochs: int,
    lr: float,
    seed: int,
    bar: tqdm,
    clip: float | None = None,
) -> float:
    """Seconds of the processor that the training took."""
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    batches_in_all = epochs * math.ceil(len(data.train_labels) / 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, batches_in_all)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_labels), generator=generator).split(128):
            loss = F.nll_loss(model(data.train_images[batch]), data.train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
            schedule.step()
            bar.update()
    return time.process_time() - start


def trained(
    make: Callable[[], Model], data: Dataset, epochs: int, lr: float, seed: int, clip: float = math.inf
) -> tuple[Model, float]:
    """A model started and trained from this seed, and its test accuracy."""
    torch.manual_seed(seed)
    model = make()
    train(model, data, epochs, lr, seed, tqdm(disable=True), clip)
    return model, csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy


def kind(name: str) -> str:
    return name.split()[0]


def peak(name: str) -> float:
    """The learning rate that did best for this kind of model."""
    rows = [row for row in csos_lib.load_results(TUNING.stem) if row["kind"] == kind(name)]
    mean = {
        lr: statistics.mean(float(row["accuracy"]) for row in rows if row["lr"] == lr)
        for lr in {row["lr"] for row in rows}
    }
    return float(max(mean, key=lambda lr: mean[lr]))


def start_table(path: Path, columns: tuple[str, ...]) -> None:
    about = (
        f"# torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, one thread\n"
    )
    path.write_text(about + ",".join(columns) + "\n", encoding="utf-8")


def append(path: Path, *row: object) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(row)


def tune() -> None:
    data = csos_lib.load_dataset("fashion_mnist")
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(0))
    fitted, held_out = order[:12_000], order[12_000:22_000]
    part = Dataset(
        data.train_images[fitted],
        data.train_labels[fitted],
        data.train_images[held_out],
        data.train_labels[held_out],
    )
    if not TUNING.exists():
        start_table(TUNING, ("kind", "model", "lr", "seed", "accuracy", "command"))
    done = {(row["model"], float(row["lr"]), int(row["seed"])) for row in csos_lib.load_results(TUNING.stem)}
    runs = [(name, lr, seed) for name in TUNED for lr in PEAKS for seed in range(2)]
    runs = [run for run in runs if run not in done]
    with tqdm(total=len(runs) * EPOCHS * math.ceil(len(fitted) / 128), unit="batch") as bar:
        for name, lr, seed in runs:
            bar.set_description(f"{name}, lr {lr:g}")
            torch.manual_seed(seed)
            model = (MODELS | CLIPPED)[name]()
            train(model, part, EPOCHS, lr, seed, bar, CLIP if name in CLIPPED else None)
            result = csos_lib.evaluate(model, part.test_images, part.test_labels)
            command = "python benchmarks/full_scale.py --tune"
            append(TUNING, kind(name), name, lr, seed, f"{result.accuracy:.4f}", command)


def main() -> None:
    models = MODELS | CLIPPED
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist", choices=("fashion_mnist", "mnist"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=list(models), choices=list(models), metavar="MODEL")
    parser.add_argument("--tune", action="store_true", help="find the learning rates, and do nothing else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tune:
        tune()
        return
    if not RESULT.exists():
        start_table(RESULT, COLUMNS)
    data = csos_lib.load_dataset(arguments.dataset)
    command = f"python benchmarks/full_scale.py --dataset {arguments.dataset}"
    runs = [(seed, name) for seed in range(arguments.seeds) for name in arguments.models]
    batches = EPOCHS * math.ceil(len(data.train_labels) / 128)
    with tqdm(total=len(runs) * batches, unit="batch") as bar:
        for seed, name in runs:
            bar.set_description(f"{name}, seed {seed}")
            rows = csos_lib.load_results(RESULT.stem)  # again each time: another process may work on others
            if (name, arguments.dataset, str(seed)) in {(r["model"], r["dataset"], r["seed"]) for r in rows}:
                bar.update(batches)
                continue
            torch.manual_seed(seed)
            model = models[name]()
            clip = CLIP if name in CLIPPED else None
            seconds = train(model, data, EPOCHS, peak(name), seed, bar, clip)
            result = csos_lib.evaluate(model, data.test_images, data.test_labels)
            size = count_parameters(name, model)
            measured = (f"{result.accuracy:.4f}", f"{result.loss:.4f}", f"{seconds:.1f}")
            append(RESULT, name, arguments.dataset, seed, size, *measured, command)


if __name__ == "__main__":
    main()
