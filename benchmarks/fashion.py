"""The scoreboard: reaction models, networks of the same size and what is left at T = 0, over several seeds.

    python benchmarks/fashion.py                       all of Fashion-MNIST
    python benchmarks/fashion.py --dataset mnist5k     the bundled digits, a few minutes

One recipe for every model: Adam, batches of 128, 10 epochs, the learning rate falling from its peak to 0
along a half cosine. The peak was chosen by training on 12,000 training images of Fashion-MNIST and measuring
on 10,000 others. Every run appends one row to csos_lib/results/scoreboard.csv; runs that are there already
are skipped, so an interrupted command goes on where it stopped.
"""

import argparse
import csv
import math
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import csos_lib
from csos_lib import CSOS, Dataset

RESULT = Path(csos_lib.__file__).parent / "results" / "scoreboard.csv"
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


def count_parameters(name: str, model: nn.Module) -> int:
    """At T = 0 the reaction is never used: its parameters do not count."""
    counted = model.encoder if name.endswith("T=0") and isinstance(model, CSOS) else model
    return sum(p.numel() for p in counted.parameters())


def train(model: nn.Module, data: Dataset, epochs: int, lr: float, seed: int, bar: tqdm) -> float:
    """Seconds that the training took."""
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    batches_in_all = epochs * math.ceil(len(data.train_labels) / 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, batches_in_all)
    generator = torch.Generator().manual_seed(seed)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_labels), generator=generator).split(128):
            loss = F.nll_loss(model(data.train_images[batch]), data.train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.update()
    return time.perf_counter() - start


def version() -> str:
    try:
        describe = ["git", "describe", "--always"]
        commit = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return csos_lib.__name__
    return f"{csos_lib.__name__} {commit.stdout.strip()}"


def finished() -> set[tuple[str, str, int]]:
    if not RESULT.exists():
        RESULT.parent.mkdir(exist_ok=True)
        about = f"# torch {torch.__version__}, Python {platform.python_version()}, one thread\n"
        RESULT.write_text(about + ",".join(COLUMNS) + "\n", encoding="utf-8")
    rows = csos_lib.load_results(RESULT.stem)
    return {(row["model"], row["dataset"], int(row["seed"])) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion_mnist", choices=("fashion_mnist", "mnist", "mnist5k"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.004)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = csos_lib.load_dataset(arguments.dataset)
    # The dataset is a column of its own; what the seeds and the models are, too.
    command = f"python benchmarks/fashion.py --dataset {arguments.dataset} --epochs {arguments.epochs}"
    command += f" --lr {arguments.lr:g}  # {version()}"
    done = finished()
    runs = [(seed, name) for seed in range(arguments.seeds) for name in arguments.models]
    runs = [(seed, name) for seed, name in runs if (name, arguments.dataset, seed) not in done]
    with tqdm(
        total=len(runs) * arguments.epochs * math.ceil(len(data.train_labels) / 128), unit="batch"
    ) as bar:
        for seed, name in runs:
            bar.set_description(f"{name}, seed {seed}")
            torch.manual_seed(seed)
            model = MODELS[name]()
            seconds = train(model, data, arguments.epochs, arguments.lr, seed, bar)
            result = csos_lib.evaluate(model, data.test_images, data.test_labels)
            size = count_parameters(name, model)
            row = (
                name,
                arguments.dataset,
                seed,
                size,
                f"{result.accuracy:.4f}",
                f"{result.loss:.4f}",
                f"{seconds:.1f}",
            )
            with RESULT.open("a", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow((*row, command))


if __name__ == "__main__":
    main()
