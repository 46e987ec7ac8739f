"""Learn to order digits from the order of lists of five alone: relaxations of sorting, temperatures, seeds.

python benchmarks/ranking_digits.py        writes csos_lib/results/ranking_digits.csv, minutes on one core
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib.operators import neuralsort, score, sinkhorn, soft_rank, softsort, squared_difference
from table import write_table

SEEDS, EPOCHS, LISTS, LENGTH = range(3), 5, 800, 5
TEMPERATURES = (0.01, 0.1, 1.0, 10.0)
COLUMNS = ("method", "tau", "seed", "whole_list", "places")


def draw_lists(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lists of five consecutive digits in random order: image numbers, and ranks with 0 for the largest."""
    sizes = labels.bincount(minlength=10)
    by_class, first = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    start = torch.randint(0, 11 - LENGTH, (count, 1), generator=generator)
    digits = start + torch.arange(LENGTH - 1, -1, -1)
    drawn = (torch.rand(count, LENGTH, generator=generator) * sizes[digits]).long()
    ranks = torch.rand(count, LENGTH, generator=generator).argsort(1)
    return by_class[first[digits] + drawn].gather(1, ranks), ranks


def loss_of(method: str, tau: float, s: Tensor, ranks: Tensor) -> Tensor:
    if method == "each on its own":  # no sorting: every image is to say its rank, whatever its list
        return (s + ranks - (LENGTH - 1) / 2).square().mean()
    if method == "soft ranks":
        return (soft_rank(s, tau) - 1 - ranks).square().mean()
    if method == "Sinkhorn":
        places = torch.linspace(1.4142, -1.4142, LENGTH).expand(len(s), LENGTH)
        p = sinkhorn(score(squared_difference(places, F.layer_norm(s, (LENGTH,))), tau), iterations=10)
    else:
        p = softsort(s, tau) if method == "SoftSort" else neuralsort(s, tau)
    return F.nll_loss((p + 1e-8).log().flatten(0, 1), ranks.argsort(1).flatten())


def train(method: str, tau: float, seed: int, data: csos_lib.Dataset) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(-2))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        lists, ranks = draw_lists(data.train_labels, LISTS, generator)
        for batch in torch.arange(LISTS).split(20):
            loss = loss_of(method, tau, model(data.train_images[lists[batch]]), ranks[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    lists, ranks = draw_lists(data.test_labels, 2000, torch.Generator().manual_seed(99))
    settings = [("each on its own", 1.0)]
    settings += [(m, t) for m in ("soft ranks", "SoftSort", "NeuralSort", "Sinkhorn") for t in TEMPERATURES]
    rows: list[tuple[object, ...]] = []
    for method, tau in settings:
        for seed in SEEDS:
            model = train(method, tau, seed, data)
            with torch.no_grad():
                order = model(data.test_images[lists]).argsort(1, descending=True)
            right = ranks.gather(1, order) == torch.arange(LENGTH)
            whole, places = right.all(1).double().mean().item(), right.double().mean().item()
            rows.append((method, tau, seed, f"{whole:.4f}", f"{places:.4f}"))
            print(*rows[-1], flush=True)
    write_table("ranking_digits", COLUMNS, rows)


if __name__ == "__main__":
    main()
