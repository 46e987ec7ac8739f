"""Valid chemistry against the plain model, and the trained network read from a finite number of molecules.

python benchmarks/chemistry.py         writes csos_lib/results/chemistry.csv, about five minutes on one core

All models take 5 steps and see the digits for 10 epochs, the norm of the gradient clipped at 1. "bad share"
is the share of the entries W[k, i, j], k neither i nor j, of the symmetrised W that are negative: what no
network of reactions can do.

tuning, training   32 molecules; each model has its learning rate from the same three, the one that read 1,000
           training digits best that were held out ("tuning", one seed of its own, there as "test_accuracy").
           The memo's model was also tried without clipping.
compiled   the memo's model with 16, 32 and 64 molecules (lr 0.005), clipped and not, five seeds: as it was
           trained ("whole"), and with the bad entries set to zero ("cut out"); "within" was trained so that
           it never had any. Each is read after 3, 5 and 20 steps; "alive" is the mean number of molecules
           above zero by then.
tubes      "molecules" is how many a test tube holds, 0 for the rate equation; 200 test digits, one tube each,
           read by the most frequent class molecule when they are poured in ("poured") and in the end
           ("reacted").
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from games import hold_out
from torch import Tensor

import csos_lib
from csos_lib.reactions import DenseReaction, symmetrise
from csos_lib.relatives.chemistry import ChemicalCSOS, from_conversions, integrate, rate_equation, simulate
from table import write_table

N, STEPS, SPEED, EPOCHS, SEEDS, TUBE_SEEDS = 32, 5, 0.5, 10, range(5), range(3)
RATES, TUNING_SEED, HELD_OUT = (0.002, 0.005, 0.01), 10, 1000
SIZES, TUBES = (1, 3, 10, 30, 100, 300, 1000), 200
COLUMNS = (
    "experiment",
    "model",
    "basis",
    "lr",
    "clip",
    "seed",
    "steps",
    "molecules",
    "parameters",
    "train_accuracy",
    "test_accuracy",
    "bad_share",
    "alive",
)
MODELS: dict[str, Callable[[], csos_lib.CSOS]] = {
    "encoder": lambda: ChemicalCSOS(N, 0, SPEED),
    "memo": lambda: csos_lib.CSOS(N, STEPS),
    "mirror": lambda: csos_lib.CSOS(N, STEPS, alpha=0.2, dynamics="mirror"),
    "chemistry": lambda: ChemicalCSOS(N, STEPS, SPEED),
}
Row = tuple[object, ...]


def thirds(size: int) -> Tensor:
    """Where k is neither i nor j."""
    k, i, j = torch.meshgrid(*[torch.arange(size)] * 3, indexing="ij")
    return (k != i) & (k != j)


def repaired(weight: Tensor) -> Tensor:
    """The nearest W that a network of reactions can have: exercise 10.3."""
    weight = symmetrise(weight)
    return torch.where(thirds(len(weight)), weight.clamp_min(0), weight)


class ValidReaction(DenseReaction):
    """What would be negative where k is neither i nor j counts as positive."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,bj,kij->bk", x, x, self.to_tensor())

    def to_tensor(self) -> Tensor:
        weight = symmetrise(self.weight)
        return torch.where(thirds(self.num_basis), weight.abs(), weight)


def within(size: int) -> csos_lib.CSOS:
    return csos_lib.CSOS(size, STEPS, reaction=ValidReaction(size))


def bad_share(weight: Tensor) -> float:
    """How much of a tensor no network of reactions can have: pairs that use up a third."""
    third = symmetrise(weight)[thirds(len(weight))]
    return (third < 0).double().mean().item()


def score(state: Tensor, labels: Tensor) -> float:
    """Share of rows whose most frequent class molecule is the label; a tie of m counts as 1 / m."""
    votes = state[:, :10] == state[:, :10].max(1, keepdim=True).values
    return (votes.gather(1, labels[:, None])[:, 0] / votes.sum(1)).double().mean().item()


def train(
    make: Callable[[], csos_lib.CSOS], data: csos_lib.Dataset, lr: float, clip: float | None, seed: int
) -> tuple[csos_lib.CSOS, float, float]:
    """A trained model, its accuracy in the last epoch and its test accuracy."""
    torch.manual_seed(seed)
    model = make()
    history = csos_lib.fit(model, data, EPOCHS, lr, seed=seed, progress=False, clip=clip)
    accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
    return model, history.train_accuracy[-1], accuracy


@torch.no_grad()
def read(
    model: csos_lib.CSOS, name: str, clip: float | None, seed: int, data: csos_lib.Dataset
) -> Iterator[Row]:
    """How a model reads after more and fewer steps than it was trained with."""
    weight = model.reaction.to_tensor()  # type: ignore[operator]
    size = sum(p.numel() for p in model.parameters())
    for model.steps in (3, 5, 20):
        accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
        alive = (model.trajectory(data.test_images)[-1] > 0).sum(1).double().mean().item()
        how = model.num_basis, 0.005, clip, seed, model.steps
        yield ("compiled", name, *how, "", size, "", accuracy, bad_share(weight), alive)


def compiled(data: csos_lib.Dataset) -> Iterator[Row]:
    for size in (16, 32, 64):
        for seed in SEEDS:
            for clip in (1.0, None):
                model, _, _ = train(partial(csos_lib.CSOS, size, STEPS), data, 0.005, clip, seed)
                yield from read(model, "whole", clip, seed, data)
                with torch.no_grad():
                    model.reaction.weight.copy_(repaired(model.reaction.to_tensor()))  # type: ignore
                yield from read(model, "cut out", clip, seed, data)
            valid, _, _ = train(partial(within, size), data, 0.005, 1.0, seed)
            yield from read(valid, "within", 1.0, seed, data)


def tubes(model: csos_lib.CSOS, lr: float, seed: int, data: csos_lib.Dataset) -> Iterator[Row]:
    images, labels = data.test_images[:TUBES], data.test_labels[:TUBES]
    network = from_conversions(model.reaction.to_tensor().detach())  # type: ignore[operator]
    with torch.no_grad():
        poured = model.inject(images)
    time, size = STEPS * SPEED, sum(p.numel() for p in model.parameters())
    ends = {0: (poured, integrate(rate_equation(network), poured.double(), [time], 0.05)[0])}
    generator = torch.Generator().manual_seed(seed)
    for molecules in SIZES:
        drawn = torch.multinomial(poured, molecules, replacement=True, generator=generator)
        counts = torch.nn.functional.one_hot(drawn, N).sum(1)
        ends[molecules] = (counts, simulate(network, counts, [time], float(molecules), generator)[0])
    for molecules, states in ends.items():
        for moment, state in zip(("poured", "reacted"), states, strict=True):
            how = N, lr, 1.0, seed, STEPS, molecules
            yield ("tubes", moment, *how, size, "", score(state, labels), "", "")


def measure(data: csos_lib.Dataset) -> Iterator[Row]:
    part = hold_out(data, HELD_OUT)
    for name, make in MODELS.items():
        settings = [(lr, clip) for clip in ((1.0, None) if name == "memo" else (1.0,)) for lr in RATES]
        reads = {}
        for lr, clip in settings:
            _, trained, reads[lr, clip] = train(make, part, lr, clip, TUNING_SEED)
            how: Row = (N, lr, clip, TUNING_SEED, "", "")
            yield ("tuning", name, *how, "", trained, reads[lr, clip], "", "")
        lr, clip = max(settings, key=reads.__getitem__)
        for seed in SEEDS:
            model, trained, accuracy = train(make, data, lr, clip, seed)
            size = sum(p.numel() for p in (model.encoder if name == "encoder" else model).parameters())
            bad = bad_share(model.reaction.to_tensor().detach()) if model.steps else ""  # type: ignore
            how = (N, lr, clip, seed, model.steps, "")
            yield ("training", name, *how, size, trained, accuracy, bad, "")
            if name == "chemistry" and seed in TUBE_SEEDS:
                yield from tubes(model, lr, seed, data)
    yield from compiled(data)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for row in measure(csos_lib.load_dataset("mnist5k")):
        print(*row, flush=True)
        rows.append(row)
    write_table("chemistry", COLUMNS, rows)


if __name__ == "__main__":
    main()
