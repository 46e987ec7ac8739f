"""Games on the bundled digits: reactions that are games of two, beside reactions of the same size.

    python benchmarks/games.py        writes csos_lib/results/games.csv, about six minutes on one core

Ten epochs, batches of 128, a learning rate that falls along a half cosine from one of two peaks, the norm of
the gradient clipped at 1, or with the memo's injection perhaps not at all ("clip" inf). Each kind has the
setting that read 1,000 training digits best that were held out ("tuning", one seed of its own, accuracy on
those), and is then trained on all from five seeds. "game" has
R(x) = x * (A x) with the memo's step and R(x) = A x with the mirror step; "partnership" is the same with A
symmetric. CP of rank 21 and dense of 31 molecules have the size of a game of 64, a network of 68 hidden units
too. At T = 0 there is no reaction, and its parameters do not count. "soft" is the memo's step after an
injection by a softmax, so that nobody is absent.

"absent" is the share of test images whose own class molecule is exactly zero at injection.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from continuous_time import SoftInjection
from torch import Tensor, nn
from torch.nn.utils import parametrize

import csos_lib
from csos_lib import CSOS, Dataset
from csos_lib.relatives.games import GameReaction
from full_scale import mlp, trained
from table import write_table

SEEDS, EPOCHS = range(5), 10
TUNING_SEED, HELD_OUT = 10, 1000
CLIPPED = [(lr, 1.0) for lr in (0.002, 0.008)]
SETTINGS = {"euler": CLIPPED + [(lr, math.inf) for lr, _ in CLIPPED]}  # all others are clipped
COLUMNS = (
    "experiment",
    "dynamics",
    "kind",
    "molecules",
    "lr",
    "clip",
    "seed",
    "parameters",
    "accuracy",
    "absent",
)


class Symmetric(nn.Module):
    """The upper triangle on both sides."""

    def forward(self, a: Tensor) -> Tensor:
        return torch.triu(a) + torch.triu(a, 1).T


def partnership(kind: str) -> GameReaction:
    reaction = GameReaction(64, kind)
    parametrize.register_parametrization(reaction, "payoff", Symmetric())
    return reaction


def models(dynamics: str) -> dict[tuple[str, int], Callable[[], nn.Module]]:
    soft = dynamics == "soft"
    step = "euler" if soft else dynamics
    make = partial(SoftInjection if soft else CSOS, dynamics=step)
    found: dict[tuple[str, int], Callable[[], nn.Module]] = {
        ("T = 0", 64): lambda: make(64, 0, reaction="cp", rank=1),
        ("game", 64): lambda: make(reaction=GameReaction(64, step)),
        ("partnership", 64): lambda: make(reaction=partnership(step)),
        ("cp", 64): lambda: make(reaction="cp", rank=21),
        ("dense", 31): lambda: make(31),
    }
    return {key: found[key] for key in found if not soft or key[0] in ("game", "cp", "dense")}


def count(kind: str, model: nn.Module) -> int:
    if not isinstance(model, CSOS):
        return sum(p.numel() for p in model.parameters())
    n = model.num_basis
    reaction = {"T = 0": 0, "partnership": n * (n + 1) // 2}.get(
        kind, sum(p.numel() for p in model.reaction.parameters())
    )
    return sum(p.numel() for p in model.encoder.parameters()) + reaction


def hold_out(data: Dataset, number: int) -> Dataset:
    """Training digits alone, so many of them in the place of the test digits."""
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(0))
    kept, held = order[number:], order[:number]
    return Dataset(
        data.train_images[kept], data.train_labels[kept], data.train_images[held], data.train_labels[held]
    )


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    part = hold_out(data, HELD_OUT)
    rows: list[tuple[object, ...]] = []
    jobs = {(d, *key): make for d in ("euler", "soft", "mirror") for key, make in models(d).items()}
    jobs["none", "network", 68] = partial(mlp, 68)
    for (dynamics, kind, molecules), make in jobs.items():
        settings = SETTINGS.get(dynamics, CLIPPED)
        reads = {how: trained(make, part, EPOCHS, how[0], TUNING_SEED, how[1])[1] for how in settings}
        for how, hit in reads.items():
            rows.append(("tuning", dynamics, kind, molecules, *how, TUNING_SEED, "", f"{hit:.3f}", ""))
        lr, clip = best = max(settings, key=reads.__getitem__)
        for seed in SEEDS:
            model, hit = trained(make, data, EPOCHS, lr, seed, clip)
            absent: object = ""
            if isinstance(model, CSOS):
                with torch.no_grad():
                    x = model.inject(data.test_images)
                own = x.gather(1, data.test_labels[:, None])
                absent = f"{(own == 0).double().mean().item():.3f}"
            size = count(kind, model)
            rows.append(("training", dynamics, kind, molecules, *best, seed, size, f"{hit:.3f}", absent))
        print(dynamics, kind, molecules, reads, [row[-2:] for row in rows[-5:]], flush=True)
    write_table("games", COLUMNS, rows)


if __name__ == "__main__":
    main()
