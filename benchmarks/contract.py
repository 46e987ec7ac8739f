"""What the contract of an operator is worth on the bundled digits: Norm or none, soft choice or hard.

python benchmarks/contract.py        writes csos_lib/results/contract.csv, a few minutes on one core

experiment "norm": residual mixtures of twelve operators, one to four deep, with every Norm or without any.
experiment "choice": one mixture, its weights chosen in several ways; "single" is what an argmax over learned
logits amounts to, whose pick never changes, run once for each of the twelve.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib.operators import (
    Bank,
    Expression,
    diffuse,
    gate,
    h,
    mix,
    phase,
    points,
    rms,
    sin,
    soft_neighbours,
    spread,
    weight,
)
from table import write_table

DIM, EPOCHS = 32, 6
COLUMNS = ("experiment", "variant", "number", "seed", "train_loss", "test_accuracy", "operators_used")


def operators(seed: int) -> list[Expression]:
    """Eight waves from slow to fast, and one operator of each kind that has no Norm of its own."""
    waves = [sin(phase(h, DIM, s, seed)) for s in spread(1e-2, 1e2, 8)]
    gated = gate(h @ weight(DIM, seed), h @ weight(DIM, seed + 100))
    return [*waves, h**3, gated, diffuse(h, 0.1), soft_neighbours(h, points(DIM, 64, seed), 0.5)]


class Deep(nn.Module):
    """Stem, residual mixtures, head; with a Norm wherever the contract asks for one, or without any."""

    def __init__(self, blocks: int, normalised: bool, seed: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(784, DIM), nn.Linear(DIM, 10)
        self.banks = nn.ModuleList(Bank(operators(seed + k), normalised=normalised) for k in range(blocks))
        self.logits = nn.Parameter(torch.zeros(blocks, len(operators(seed))))
        self.normalised = normalised

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = rms(x) if self.normalised else x
        for bank, logits in zip(self.banks, self.logits, strict=True):
            assert isinstance(bank, Bank)
            x = x + mix(bank, x, torch.softmax(logits, 0))
            x = rms(x) if self.normalised else x
        return torch.log_softmax(self.head(x), -1)


class Choice(nn.Module):
    """Stem, one mixture whose weights are made in the way `variant` says, head."""

    def __init__(self, variant: str, number: int, seed: int) -> None:
        super().__init__()
        self.variant, self.number = variant, number
        self.stem, self.head = nn.Linear(784, DIM), nn.Linear(DIM, 10)
        self.bank = Bank(operators(seed))
        self.logits = nn.Parameter(torch.zeros(len(self.bank)))
        self.router = nn.Linear(DIM, len(self.bank))

    def weights(self, x: Tensor) -> Tensor:
        count = len(self.bank)
        if self.variant == "single":
            return F.one_hot(torch.tensor(self.number), count).to(x)
        if self.variant == "even":
            return torch.full_like(self.logits, 1 / count)
        if self.variant == "soft":
            return torch.softmax(self.logits, 0)
        rows = torch.softmax(self.router(x), -1)
        if self.variant == "soft for each row":
            return rows
        return rows * F.one_hot(rows.argmax(-1), count)  # "top 1 for each row"

    def forward(self, images: Tensor) -> Tensor:
        x = rms(self.stem(images))
        return torch.log_softmax(self.head(mix(self.bank, x, self.weights(x))), -1)


def measure(model: nn.Module, data: csos_lib.Dataset, seed: int) -> list[float]:
    history = csos_lib.fit(model, data, epochs=EPOCHS, seed=seed, progress=False)
    with torch.no_grad():
        right = (model(data.test_images).argmax(1) == data.test_labels).double().mean().item()
    return [history.train_loss[-1], right]


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[list[object]] = []

    def add(*row: object) -> None:
        rows.append([f"{v:.5g}" if isinstance(v, float) else v for v in row])
        print(*rows[-1], flush=True)

    for seed in range(5):
        for blocks in (1, 2, 3, 4):
            for normalised in (True, False):
                torch.manual_seed(seed)
                model = Deep(blocks, normalised, seed)
                add("norm", "norm" if normalised else "none", blocks, seed, *measure(model, data, seed), 12)
        for variant in ("soft", "even", "soft for each row", "top 1 for each row"):
            torch.manual_seed(seed)
            choice = Choice(variant, 0, seed)
            result = measure(choice, data, seed)
            with torch.no_grad():
                used = choice.weights(rms(choice.stem(data.test_images))).reshape(-1, 12).amax(0) > 0
            add("choice", variant, 0, seed, *result, int(used.sum()))
        for number in range(12 if seed < 3 else 0):
            torch.manual_seed(seed)
            add("choice", "single", number, seed, *measure(Choice("single", number, seed), data, seed), 1)
    write_table("contract", COLUMNS, rows)


if __name__ == "__main__":
    main()
