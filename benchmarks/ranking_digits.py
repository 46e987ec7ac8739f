"""Learn to order digits from the order of lists of five alone: losses with and without sorting, five seeds.

python benchmarks/ranking_digits.py        writes csos_lib/results/ranking_digits.csv, minutes on one core

Every loss, at every temperature that it has, is trained for 5 and for 20 epochs at the best of three learning
rates: one run each on lists of 3,200 training digits, measured on lists of the other 800. The rows are runs
on all 4,000.

    soft ranks, SoftSort, NeuralSort, Sinkhorn    the order of a list by a soft sort, tau its temperature
    pairs           logistic loss on the difference of any two of a list
    lists           Plackett & Luce: place by place, the softmax of those that are left
    centred ranks   the marks of a list, less their mean, are to be its ranks, less theirs
    ranks           the same without the means: every image is to know its rank, whatever its list
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib import Dataset
from csos_lib.operators import neuralsort, score, sinkhorn, soft_rank, softsort, squared_difference
from table import write_table

SEEDS, EPOCHS, RATES, LISTS, LENGTH = range(5), (5, 20), (0.001, 0.003, 0.01), 800, 5
TEMPERATURES = (0.01, 0.1, 1.0, 10.0)
SORTS = ("soft ranks", "SoftSort", "NeuralSort", "Sinkhorn")
OTHERS = ("pairs", "lists", "centred ranks", "ranks")
SETTINGS = [(m, str(t)) for m in SORTS for t in TEMPERATURES] + [(m, "") for m in OTHERS]
COLUMNS = ("method", "tau", "epochs", "lr", "seed", "whole_list", "places")


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
    if method == "ranks":
        return (s + ranks - (LENGTH - 1) / 2).square().mean()
    if method == "centred ranks":
        return loss_of("ranks", tau, s - s.mean(1, keepdim=True), ranks)
    ordered = s.gather(1, ranks.argsort(1))
    if method == "pairs":
        i, j = torch.triu_indices(LENGTH, LENGTH, 1)
        return F.softplus(ordered[:, j] - ordered[:, i]).mean()
    if method == "lists":
        return (ordered.flip(1).logcumsumexp(1).flip(1) - ordered).mean()
    if method == "soft ranks":
        return (soft_rank(s, tau) - 1 - ranks).square().mean()
    if method == "Sinkhorn":
        places = torch.linspace(1.4142, -1.4142, LENGTH).expand(len(s), LENGTH)
        p = sinkhorn(score(squared_difference(places, F.layer_norm(s, (LENGTH,))), tau), iterations=10)
    else:
        p = softsort(s, tau) if method == "SoftSort" else neuralsort(s, tau)
    return F.nll_loss((p + 1e-8).log().flatten(0, 1), ranks.argsort(1).flatten())


def train(
    method: str, tau: str, epochs: int, lr: float, seed: int, images: Tensor, labels: Tensor
) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(-2))
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        lists, ranks = draw_lists(labels, LISTS, generator)
        for batch in torch.arange(LISTS).split(20):
            loss = loss_of(method, float(tau or 1), model(images[lists[batch]]), ranks[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


@torch.no_grad()
def measure(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """The share of whole lists in the right order, and of single places."""
    lists, ranks = draw_lists(labels, 2000, torch.Generator().manual_seed(99))
    order = model(images)[lists].argsort(1, descending=True)
    right = ranks.gather(1, order) == torch.arange(LENGTH)
    return right.all(1).double().mean().item(), right.double().mean().item()


def best_rate(method: str, tau: str, epochs: int, data: Dataset) -> float:
    images, labels = data.train_images, data.train_labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    fitted, held_out = order.split([3200, 800])

    def held_out_places(lr: float) -> float:
        model = train(method, tau, epochs, lr, 0, images[fitted], labels[fitted])
        return measure(model, images[held_out], labels[held_out])[1]

    return max(RATES, key=held_out_places)


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[tuple[object, ...]] = []
    for method, tau in SETTINGS:
        for epochs in EPOCHS:
            lr = best_rate(method, tau, epochs, data)
            for seed in SEEDS:
                model = train(method, tau, epochs, lr, seed, data.train_images, data.train_labels)
                whole, places = measure(model, data.test_images, data.test_labels)
                rows.append((method, tau, epochs, lr, seed, f"{whole:.4f}", f"{places:.4f}"))
            print(method, tau, epochs, lr, [row[-2] for row in rows[-len(SEEDS) :]], flush=True)
    write_table("ranking_digits", COLUMNS, rows)


if __name__ == "__main__":
    main()
