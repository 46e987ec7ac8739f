"""Reactions of every kind on the bundled digits: from scratch, and compressed from a trained dense W.

    python benchmarks/fewer_numbers.py        writes csos_lib/results/fewer_numbers.csv, minutes on one core

Three seeds, and one recipe for every model, that of benchmarks/full_scale.py: 10 epochs, batches of 128, a
learning rate that falls along a half cosine. Its peak is the same for all: of 0.004, 0.008 and 0.016, tried
on 1,000 training images held out, none was ahead of 0.008 by more than a point for any kind tried.
Seconds are those of the processor, on one thread.

from scratch    all kinds, with networks of one hidden layer of the same sizes, and what is left at T = 0
compressed      the trained dense W, or what it has learned since its start, replaced by its best
                approximation of low rank; then one epoch of fine-tuning at a lower rate
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

import csos_lib
from csos_lib import CSOS, Dataset
from csos_lib.reactions import CPReaction, TuckerReaction, symmetrise
from full_scale import mlp, train
from table import write_table

SEEDS, EPOCHS, LR, TUNING_LR = range(3), 10, 0.008, 0.001
COLUMNS = (
    "experiment",
    "kind",
    "molecules",
    "rank",
    "seed",
    "parameters",
    "accuracy",
    "tuned_accuracy",
    "error",
    "cpu_seconds",
)
Row = dict[str, object]

mirror = partial(CSOS, dynamics="mirror")
# Kind, molecules (of a network: hidden units) and rank of what is trained from scratch.
MODELS: dict[tuple[str, int, int | None], Callable[[], nn.Module]] = {
    ("dense", 64, None): mirror,
    ("symmetric", 64, None): partial(mirror, reaction="symmetric"),
    **{("dense", n, None): partial(mirror, n) for n in (16, 32)},
    **{("cp", 64, r): partial(mirror, reaction="cp", rank=r) for r in (4, 8, 16, 32, 64)},
    **{("tucker", 64, r): partial(mirror, reaction="tucker", rank=r) for r in (4, 8, 16, 32)},
    ("pairwise", 64, None): partial(mirror, reaction="pairwise"),
    ("T = 0", 64, None): partial(mirror, steps=0, reaction="cp", rank=1),
    **{("mlp", n, None): partial(mlp, n) for n in (16, 32, 63, 71, 79, 120, 231, 393)},
}
KEPT = [("cp", r) for r in (4, 8, 16, 32, 64)] + [("tucker", r) for r in (4, 8, 16, 32)]


def count(kind: str, model: nn.Module) -> int:
    """At T = 0 the reaction is never used: its parameters do not count."""
    counted = model.encoder if kind == "T = 0" and isinstance(model, CSOS) else model
    return sum(p.numel() for p in counted.parameters())


def test_accuracy(model: nn.Module, data: Dataset) -> str:
    return f"{csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy:.4f}"


def compress(trained: CSOS, start: Tensor, data: Dataset, seed: int, bar: tqdm) -> list[Row]:
    with torch.no_grad():
        final = symmetrise(trained.reaction.to_tensor())  # type: ignore[operator]
        targets = {"W": final, "learned part": final - symmetrise(start)}
    rows: list[Row] = []
    for target, weight in targets.items():
        for kind, rank in KEPT:
            cls = CPReaction if kind == "cp" else TuckerReaction
            reaction = cls.from_tensor(weight, rank, iterations=50)
            model = mirror(reaction=reaction)
            model.encoder.load_state_dict(trained.encoder.state_dict())
            error = (reaction.to_tensor() - weight).norm() / weight.norm()
            row: Row = {
                "experiment": f"compressed {target}",
                "kind": kind,
                "molecules": 64,
                "rank": rank,
                "seed": seed,
                "parameters": count(kind, model),
                "accuracy": test_accuracy(model, data),
                "error": f"{error.item():.4f}",
            }
            train(model, data, 1, TUNING_LR, seed, bar)
            rows.append(row | {"tuned_accuracy": test_accuracy(model, data)})
    return rows


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    bar = tqdm(disable=True)
    rows: list[Row] = []
    for seed in SEEDS:
        for (kind, molecules, rank), make in MODELS.items():
            torch.manual_seed(seed)
            model = make()
            start = {name: value.clone() for name, value in model.state_dict().items()}
            seconds = train(model, data, EPOCHS, LR, seed, bar)
            row: Row = {
                "experiment": "from scratch",
                "kind": kind,
                "molecules": molecules,
                "rank": rank,
                "seed": seed,
                "parameters": count(kind, model),
                "accuracy": test_accuracy(model, data),
                "cpu_seconds": f"{seconds:.2f}",
            }
            rows.append(row)
            print(*row.values(), flush=True)
            if (kind, molecules) == ("dense", 64):
                assert isinstance(model, CSOS)
                rows += compress(model, start["reaction.weight"], data, seed, bar)
    write_table("fewer_numbers", COLUMNS, [[row.get(k, "") for k in COLUMNS] for row in rows])


if __name__ == "__main__":
    main()
