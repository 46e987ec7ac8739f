"""Who chooses which operators: a trained ReactionNet taken apart, and one whose weights a gate makes.

    python benchmarks/choosing.py        writes csos_lib/results/choosing.csv, minutes on one core

Bundled digits, five seeds, the recipe of scoreboard.py. Of the 1,000 test images:

    entropy           of an image's weights after each step, in bits, mean over the images; 5 bits is even
    image, class      how many bits of the choice are due to the image, and to its class
    accuracy, loss    as trained ("own weights"), and if every image is given the mean weights, or the weights
                      of another image, or of another image of its own class; "no mixture": if what the
                      mixture says is left out
    knock-out         how much the loss rises if one operator is taken away and the others share its weight
    weight            the mean weight of each operator

And of 1,000 points of the plane, new ones:

    xor               how often the operators that are h outweigh those that are -h where the signs of the
                      coordinates agree, not where they differ, after training on 1,000 others; the item
                      is the learning rate
"""

from collections.abc import Callable
from functools import partial

import torch
from scoreboard import Reader, load_seen, peak
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from csos_lib.operators import Bank, ReactionMixture, ReactionNet, h, mix, rms, weight
from full_scale import EPOCHS, train
from table import write_table

SEEDS = range(5)
VARIANTS: dict[str, Callable[[Bank], ReactionMixture]] = {
    "reaction": ReactionMixture,
    "gate": partial(ReactionMixture, steps=0),
}
XOR_RATES, XOR_STEPS = (0.02, 0.05, 0.2), 300
COLUMNS = ("variant", "seed", "experiment", "item", "value")


def entropy(weights: Tensor) -> Tensor:
    return -(weights * weights.log2()).sum(-1)


def read_with(net: ReactionNet, seen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The network's answer if the weights of its one mixture are changed on the way."""
    x = net.stem(net.scale(seen))
    rows, mixture = rms(x), net.mixtures[0]
    assert isinstance(mixture, ReactionMixture)
    x = x + net.maps[0](mix(mixture.bank, rows, change(mixture.weights(rows))))
    return net.head(rms(x))


def xor_choosers() -> dict[str, nn.Module]:
    """Ways to choose between h and -h in the plane."""
    others = [h @ weight(dim=2, seed=k) for k in range(1, 5)]
    once, twice = Bank([h, -h, *others]), Bank([h, -h, h, -h, *others[:2]])
    reaction = partial(ReactionMixture, decay=0.0, alpha=2.0)
    return {
        "gate": ReactionMixture(once, steps=0),
        "gate, each twice": ReactionMixture(twice, steps=0),
        "gate, hidden layer": nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)),
        "reaction, rank 1": reaction(once, rank=1, steps=1),
        "reaction, rank 8": reaction(once, rank=8, steps=3),
        "reaction, each twice": reaction(twice, rank=8, steps=3),
    }


def xor_odds(chooser: nn.Module, rows: Tensor) -> Tensor:
    """The logarithm of all weight on h over all weight on -h."""
    if not isinstance(chooser, ReactionMixture):
        up, down = chooser(rows).unbind(1)
        return up - down
    log_pi = chooser.weights(rows).log()
    places = ([k for k, f in enumerate(chooser.bank.expressions) if f == g] for g in (rms(h), rms(-h)))
    up, down = (log_pi[:, place].logsumexp(1) for place in places)
    return up - down


def xor(note: Callable[..., None]) -> None:
    for seed in SEEDS:
        rows, new = torch.randn(2, 1000, 2, generator=torch.Generator().manual_seed(seed))
        for variant in xor_choosers():
            for lr in XOR_RATES:
                torch.manual_seed(seed)
                chooser = xor_choosers()[variant]
                optimiser = torch.optim.Adam(chooser.parameters(), lr=lr)
                for _ in range(XOR_STEPS):
                    agree = (rows.prod(1) > 0).float()
                    loss = F.binary_cross_entropy_with_logits(xor_odds(chooser, rows), agree)
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                with torch.no_grad():
                    right = (xor_odds(chooser, new) > 0) == (new.prod(1) > 0)
                note(variant, seed, "xor", lr, right.double().mean().item())


def without(operator: int, weights: Tensor) -> Tensor:
    kept = weights.clone()
    kept[:, operator] = 0
    return kept / kept.sum(1, keepdim=True)


def another_of_its_class(labels: Tensor) -> Tensor:
    """For each image the number of the next one with its label."""
    partner = torch.empty_like(labels)
    for digit in labels.unique():
        members = (labels == digit).nonzero()[:, 0]
        partner[members] = members.roll(1)
    return partner


def main() -> None:
    torch.set_num_threads(1)
    data, _ = load_seen("mnist5k")
    seen, labels = data.test_images, data.test_labels
    other, alike = torch.randperm(len(labels)), another_of_its_class(labels)
    table: list[tuple[object, ...]] = []
    xor(lambda *row: table.append(row))
    for seed in SEEDS:
        for variant, mixture in VARIANTS.items():
            torch.manual_seed(seed)
            net = ReactionNet(128, 1, mixture)
            train(Reader(net), data, EPOCHS, peak("net reaction", "mnist5k"), seed, tqdm(disable=True))
            net.eval()

            def note(*measured: object, run: tuple[object, ...] = (variant, seed)) -> None:
                table.append((*run, *measured))

            with torch.no_grad():
                chooser = net.mixtures[0]
                assert isinstance(chooser, ReactionMixture)
                path = chooser.trajectory(rms(net.stem(net.scale(seen))))
                for step, weights in enumerate(path):
                    own, shared = entropy(weights).mean(), entropy(weights.mean(0))
                    classes = torch.stack([weights[labels == c].mean(0) for c in range(10)])
                    note("entropy", step, own.item())
                    note("image", step, (shared - own).item())
                    note("class", step, (shared - entropy(classes).mean()).item())
                log_p = net.head(rms(net.stem(net.scale(seen))))
                note("accuracy", "no mixture", (log_p.argmax(1) == labels).double().mean().item())
                note("loss", "no mixture", F.nll_loss(log_p, labels).item())
                changes: dict[str, Callable[[Tensor], Tensor]] = {
                    "own weights": lambda w: w,
                    "mean weights": lambda w: w.mean(0, keepdim=True).expand_as(w),
                    "another image's": lambda w: w[other],
                    "another's of its class": lambda w: w[alike],
                }
                losses = {}
                for item, change in changes.items():
                    log_p = read_with(net, seen, change)
                    losses[item] = F.nll_loss(log_p, labels).item()
                    note("accuracy", item, (log_p.argmax(1) == labels).double().mean().item())
                    note("loss", item, losses[item])
                for k in range(len(chooser.bank)):
                    log_p = read_with(net, seen, partial(without, k))
                    note("knock-out", k, F.nll_loss(log_p, labels).item() - losses["own weights"])
                    note("weight", k, path[-1][:, k].mean().item())
    write_table("choosing", COLUMNS, table)


if __name__ == "__main__":
    main()
