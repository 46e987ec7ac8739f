"""Reactions of every kind on the bundled digits: from scratch, and compressed from a trained dense W.

    python benchmarks/fewer_numbers.py    writes csos_lib/results/fewer_numbers.csv, ten minutes of a core

Five seeds, and one recipe for every model, that of benchmarks/full_scale.py: 10 epochs, batches of 128, a
learning rate that falls along a half cosine, no gradient cut. Seconds are those of the processor, one thread.

held out        five models at three learning rates, trained on 3,000 training images and measured on the
                other 1,000; the peak for all that follows is LR
from scratch    all kinds, with networks of one hidden layer of the same sizes, and what is left at T = 0
compressed      the trained dense W replaced by a fit of low rank (error: of the symmetric part); then one
                epoch of fine-tuning at a lower rate
entry by entry  the symmetric part of W fitted as a table of numbers, by TensorLy's alternating least squares
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import tensorly
import torch
from tensorly.decomposition import parafac
from torch import Tensor, nn
from tqdm.auto import tqdm

import csos_lib
from csos_lib import CSOS, Dataset
from csos_lib.reactions import CPReaction, TuckerReaction, symmetrise
from full_scale import mlp, train
from table import write_table

SEEDS, EPOCHS, LR, TUNING_LR = range(5), 10, 0.008, 0.001
RATES = (0.004, 0.008, 0.016)
COLUMNS = (
    "experiment",
    "kind",
    "molecules",
    "rank",
    "lr",
    "seed",
    "parameters",
    "accuracy",
    "tuned_accuracy",
    "error",
    "start",
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
    ("symmetric", 16, None): partial(mirror, 16, reaction="symmetric"),
    ("tucker", 16, 3): partial(mirror, 16, reaction="tucker", rank=3),
    ("cp", 16, 2): partial(mirror, 16, reaction="cp", rank=2),
    ("pairwise", 16, None): partial(mirror, 16, reaction="pairwise"),
    ("T = 0", 16, None): partial(mirror, 16, steps=0, reaction="cp", rank=1),
    **{("mlp", n, None): partial(mlp, n) for n in (16, 32, 63, 71, 79, 120, 231, 393)},
}
TRIED = [
    ("dense", 64, None),
    ("cp", 64, 16),
    ("tucker", 64, 16),
    ("pairwise", 64, None),
    ("mlp", 393, None),
]
KEPT = [("cp", r) for r in (4, 8, 16, 32, 64)] + [("tucker", r) for r in (4, 8, 16, 32)]


def count(kind: str, model: nn.Module) -> int:
    """At T = 0 the reaction is never used: its parameters do not count."""
    counted = model.encoder if kind == "T = 0" and isinstance(model, CSOS) else model
    return sum(p.numel() for p in counted.parameters())


def test_accuracy(model: nn.Module, data: Dataset) -> str:
    return f"{csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy:.4f}"


def distance(made: Tensor, weight: Tensor) -> str:
    """Of the symmetric parts, relative to that of W."""
    return f"{((symmetrise(made) - weight).norm() / weight.norm()).item():.4f}"


def fit_entries(weight: Tensor, rank: int) -> CPReaction:
    with tensorly.backend_context("numpy"):
        scales, (out, left, right) = parafac(
            weight.double().numpy(), rank, n_iter_max=50, init="svd", tol=1e-10, random_state=0
        )
    reaction = CPReaction(len(weight), rank)
    factors = {"out": out * scales, "left": left.T, "right": right.T}
    reaction.load_state_dict({name: torch.tensor(f).float() for name, f in factors.items()})
    return reaction


def with_reaction(trained: CSOS, reaction: nn.Module) -> CSOS:
    model: CSOS = mirror(reaction=reaction)
    model.encoder.load_state_dict(trained.encoder.state_dict())
    return model


@torch.no_grad()
def table_of(model: CSOS) -> Tensor:
    return symmetrise(model.reaction.to_tensor())  # type: ignore[operator]


def compress(trained: CSOS, data: Dataset, seed: int, bar: tqdm) -> list[Row]:
    weight = table_of(trained)
    rows: list[Row] = []
    for kind, rank in KEPT:
        cls = CPReaction if kind == "cp" else TuckerReaction
        reaction = cls.from_tensor(weight, rank)
        model = with_reaction(trained, reaction)
        row: Row = {
            "experiment": "compressed",
            "kind": kind,
            "molecules": 64,
            "rank": rank,
            "seed": seed,
            "parameters": count(kind, model),
            "accuracy": test_accuracy(model, data),
            "error": distance(reaction.to_tensor(), weight),
        }
        train(model, data, 1, TUNING_LR, seed, bar)
        rows.append(row | {"tuned_accuracy": test_accuracy(model, data)})
    for rank in (r for kind, r in KEPT if kind == "cp"):
        reaction = fit_entries(weight, rank)
        row = {
            "experiment": "entry by entry",
            "kind": "cp",
            "molecules": 64,
            "rank": rank,
            "seed": seed,
            "accuracy": test_accuracy(with_reaction(trained, reaction), data),
            "error": distance(reaction.to_tensor(), weight),
        }
        rows.append(row)
    return rows


def try_rates(data: Dataset, bar: tqdm) -> list[Row]:
    """The last 1,000 training images are held out."""
    fitted, held_out = slice(0, 3_000), slice(3_000, 4_000)
    images, labels = data.train_images, data.train_labels
    part = Dataset(images[fitted], labels[fitted], images[held_out], labels[held_out])
    rows: list[Row] = []
    for kind, molecules, rank in TRIED:
        for lr in RATES:
            torch.manual_seed(0)
            model = MODELS[kind, molecules, rank]()
            train(model, part, EPOCHS, lr, 0, bar)
            row: Row = {"experiment": "held out", "kind": kind, "molecules": molecules, "rank": rank}
            rows.append(row | {"lr": lr, "seed": 0, "accuracy": test_accuracy(model, part)})
            print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    bar = tqdm(disable=True)
    rows = try_rates(data, bar)
    for seed in SEEDS:
        for (kind, molecules, rank), make in MODELS.items():
            torch.manual_seed(seed)
            model = make()
            start = deepcopy(model)
            seconds = train(model, data, EPOCHS, LR, seed, bar)
            row: Row = {
                "experiment": "from scratch",
                "kind": kind,
                "molecules": molecules,
                "rank": rank,
                "lr": LR,
                "seed": seed,
                "parameters": count(kind, model),
                "accuracy": test_accuracy(model, data),
                "cpu_seconds": f"{seconds:.2f}",
            }
            rows.append(row)
            print(*row.values(), flush=True)
            if (kind, molecules) == ("dense", 64):
                assert isinstance(model, CSOS)
                assert isinstance(start, CSOS)
                row["start"] = f"{(table_of(start).norm() / table_of(model).norm()).square().item():.4f}"
                rows += compress(model, data, seed, bar)
    write_table("fewer_numbers", COLUMNS, [[row.get(k, "") for k in COLUMNS] for row in rows])


if __name__ == "__main__":
    main()
