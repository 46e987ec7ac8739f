"""What the contract of an operator is worth on the bundled digits: Norm or none, soft choice or hard.

python benchmarks/contract.py     writes csos_lib/results/contract.csv, a quarter of an hour on one core

experiment "norm": residual mixtures of twelve operators, one, three or six deep, with every Norm or without
any, with h^3 among them and without, at three rates; and with the gradient's norm left as it is. For one
mixture `largest` is the operator with the largest part of its sum, and `largest_weight` that part's share.
experiment "choice": one mixture, its weights chosen in several ways, at two rates; "single" is one operator,
its number in the table. `balance` is the coefficient of the loss that spreads the rows (Fedus 2022).
experiment "net": the library's OperatorNet, which operator has the largest weight in the end, and the same
network with its weights frozen at 1 / 32.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib.operators import (
    Bank,
    Expression,
    Mixture,
    OperatorNet,
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
RATES = (0.001, 0.005, 0.02)
CHOICES = (
    "soft", "soft, T = 0.1", "soft, T = 0.02", "even", "soft for each row",
    "gumbel", "gumbel for each row", "noisy top 2 for each row",
)  # fmt: skip
Key = tuple[str, str, int, float, float | None, float, int]
COLUMNS = (
    "experiment", "variant", "number", "lr", "clip", "balance", "seed",
    "train_loss", "test_accuracy", "operators_used", "largest", "largest_weight",
)  # fmt: skip


def operators(seed: int, cube: bool = True) -> list[Expression]:
    """Eight waves from slow to fast, and one operator of each kind that has no Norm of its own."""
    waves = [sin(phase(h, DIM, s, seed)) for s in spread(1e-2, 1e2, 8)]
    gated = gate(h @ weight(DIM, seed), h @ weight(DIM, seed + 100))
    others = [gated, diffuse(h, 0.1), soft_neighbours(h, points(DIM, 64, seed), 0.5)]
    return [*waves, *([h**3] if cube else []), *others]


class Deep(nn.Module):
    """Stem, residual mixtures, head; with a Norm wherever the contract asks for one, or without any."""

    def __init__(self, blocks: int, normalised: bool, seed: int, cube: bool = True) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(784, DIM), nn.Linear(DIM, 10)
        banks = [Bank(operators(seed + k, cube), normalised=normalised) for k in range(blocks)]
        self.banks = nn.ModuleList(banks)
        self.logits = nn.Parameter(torch.zeros(blocks, len(banks[0])))
        self.normalised = normalised

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = rms(x) if self.normalised else x
        for bank, logits in zip(self.banks, self.logits, strict=True):
            assert isinstance(bank, Bank)
            x = x + mix(bank, x, torch.softmax(logits, 0))
            x = rms(x) if self.normalised else x
        return torch.log_softmax(self.head(x), -1)


def loudest(model: Deep, images: Tensor) -> list[object]:
    """The operator with the largest part of the first mixture, and its share in the sizes of all parts."""
    with torch.no_grad():
        x = model.stem(images)
        x = rms(x) if model.normalised else x
        bank = model.banks[0]
        assert isinstance(bank, Bank)
        parts = torch.softmax(model.logits[0], 0) * bank(x).square().mean((1, 2)).sqrt()
    return [bank.names[int(parts.argmax())], (parts.max() / parts.sum()).item()]


class Choice(nn.Module):
    """Stem, one mixture whose weights are made in the way `variant` says, head."""

    def __init__(self, variant: str, number: int, seed: int, balance: float = 0.0) -> None:
        super().__init__()
        self.variant, self.number, self.balance = variant, number, balance
        self.stem, self.head = nn.Linear(784, DIM), nn.Linear(DIM, 10)
        self.bank = Bank(operators(seed))
        self.logits = nn.Parameter(torch.zeros(len(self.bank)))
        self.router, self.noise = nn.Linear(DIM, len(self.bank)), nn.Linear(DIM, len(self.bank))

    def weights(self, x: Tensor) -> Tensor:
        count = len(self.bank)
        if self.variant == "single":
            return F.one_hot(torch.tensor(self.number), count).to(x)
        if self.variant == "even":
            return torch.full_like(self.logits, 1 / count)
        if self.variant in ("soft", "soft, T = 0.1", "soft, T = 0.02"):
            temperature = float(self.variant.partition("= ")[2] or 1)
            return torch.softmax(self.logits / temperature, 0)
        if self.variant == "gumbel":  # one choice for all rows, drawn anew for each while it is learned
            return gumbel(self.logits.expand(len(x), -1), self.training)
        scores = self.router(x)
        if self.variant == "gumbel for each row":
            return gumbel(scores, self.training)
        if self.variant == "noisy top 2 for each row":  # Shazeer et al. 2017
            if self.training:
                scores = scores + F.softplus(self.noise(x)) * torch.randn_like(scores)
            least = scores.topk(2).values[:, 1:]
            return torch.softmax(scores.masked_fill(scores < least, -torch.inf), -1)
        rows = torch.softmax(scores, -1)
        if self.variant == "soft for each row":
            return rows
        hard = F.one_hot(rows.argmax(-1), count).to(x)
        if rows.requires_grad:
            # The loss K sum_k f_k P_k, f the shares of the rows, P the mean weights, enters by its slope.
            push = self.balance * count * hard.mean(0) / len(x)
            rows.register_hook(lambda slope: slope + push)
        return rows * hard  # "top 1 for each row"

    def forward(self, images: Tensor) -> Tensor:
        x = rms(self.stem(images))
        return torch.log_softmax(self.head(mix(self.bank, x, self.weights(x))), -1)


def gumbel(scores: Tensor, training: bool) -> Tensor:
    """One operator a row: drawn while training, with the softmax's slope, else the likeliest (Jang 2017)."""
    if training:
        return F.gumbel_softmax(scores, hard=True)
    return F.one_hot(scores.argmax(-1), scores.shape[-1]).to(scores)


def measure(
    model: nn.Module, data: csos_lib.Dataset, seed: int, lr: float = 0.005, clip: float | None = 1.0
) -> list[object]:
    history = csos_lib.fit(model, data, epochs=EPOCHS, lr=lr, seed=seed, progress=False, clip=clip)
    model.eval()
    with torch.no_grad():
        right = (model(data.test_images).argmax(1) == data.test_labels).double().mean().item()
    return [history.train_loss[-1], right]


def experiments() -> Iterator[Key]:
    """The rows of the table, without what is measured."""
    for seed in range(5):
        for ending in ("", ", no cube"):
            for lr in RATES:
                for blocks in (1, 3, 6):
                    for kind in ("norm", "none"):
                        yield "norm", kind + ending, blocks, lr, 1.0, 0.0, seed
        for blocks in (1, 3, 6):
            for kind in ("norm", "none"):
                yield "norm", kind, blocks, 0.005, None, 0.0, seed
        for lr in (0.005, 0.02):
            for variant in CHOICES:
                yield "choice", variant, 0, lr, 1.0, 0.0, seed
            for balance in (0.0, 0.01, 0.03, 0.1, 0.3):
                yield "choice", "top 1 for each row", 0, lr, 1.0, balance, seed
            for number in range(12):
                if lr == 0.005 or number == 8:  # h^3
                    yield "choice", "single", number, lr, 1.0, 0.0, seed
    for seed in range(10):
        for variant in ("learned", "even"):
            yield "net", variant, 0, 0.005, 1.0, 0.0, seed


def run(key: Key, data: csos_lib.Dataset) -> list[object]:
    """A row of the table."""
    experiment, variant, number, lr, clip, balance, seed = key
    torch.manual_seed(seed)
    if experiment == "norm":
        cube = not variant.endswith("no cube")
        deep = Deep(number, variant.startswith("norm"), seed, cube)
        result = measure(deep, data, seed, lr, clip)
        rest: list[object] = [11 + cube, *(loudest(deep, data.test_images) if number == 1 else ["", ""])]
    elif experiment == "choice":
        choice = Choice(variant, number, seed, balance)
        result = measure(choice, data, seed, lr, clip)
        with torch.no_grad():
            weights = choice.weights(rms(choice.stem(data.test_images))).reshape(-1, 12)
        used, mean = int((weights.amax(0) > 0).sum()), weights.mean(0)
        rest = [used, choice.bank.names[int(mean.argmax())], mean.max().item()]
    else:
        net = OperatorNet(DIM, blocks=1, seed=seed)
        mixture = net.mixtures[0]
        assert isinstance(mixture, Mixture)
        mixture.logits.requires_grad_(variant == "learned")
        result = measure(net, data, seed, lr, clip)
        pi = mixture.weights.detach()
        rest = [32, mixture.bank.names[int(pi.argmax())], pi.max().item()]
    row = [experiment, variant, number, lr, clip or "none", balance, seed, *result, *rest]
    return [f"{v:.5g}" if isinstance(v, float) else v for v in row]


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows = []
    for key in experiments():
        rows.append(run(key, data))
        print(*rows[-1], flush=True)
    write_table("contract", COLUMNS, rows)


if __name__ == "__main__":
    main()
