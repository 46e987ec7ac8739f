"""What can be read of a trained reaction, and what knocking out each of its reactions costs; five seeds.

python benchmarks/reading.py        writes csos_lib/results/reading.csv, about three minutes on one core

One row for each seed and class k. Only that class's 100 test images are looked at, and of W only the
N (N + 1) / 2 reactions i + j -> k that make its molecule, each knocked out by itself: in the centred network
and compared with the centred share, and in the network as it was trained and compared with the share there.
Damage is told twice: what the loss rises by, and what the margin over the mean class drops by.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS
from csos_lib.interpret import attribute, centred, class_accuracy
from csos_lib.quadratic import pack, pair_members, unpack
from csos_lib.reactions import SymmetricReaction
from table import write_table

SEEDS, EPOCHS, MOLECULES, CLASSES = range(5), 6, 24, 10
Numbers = dict[str, float]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: the correlation of the ranks."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def untrained(seed: int, steps: int = 5) -> CSOS:
    torch.manual_seed(seed)
    return CSOS(MOLECULES, steps, alpha=0.25, reaction="symmetric", dynamics="mirror")


def train(seed: int, data: csos_lib.Dataset, steps: int = 5) -> CSOS:
    model = untrained(seed, steps)
    csos_lib.fit(model, data, EPOCHS, seed=seed, progress=False)
    return model


def packed(model: CSOS) -> nn.Parameter:
    assert isinstance(model.reaction, SymmetricReaction)
    return model.reaction.weight


def with_coefficients(model: CSOS, weight: Tensor) -> CSOS:
    copy = deepcopy(model)
    with torch.no_grad():
        packed(copy).copy_(weight)
    return copy


def shuffled(model: CSOS, seed: int) -> CSOS:
    """Each molecule keeps its coefficients, at other pairs."""
    generator = torch.Generator().manual_seed(seed)
    rows = [row[torch.randperm(len(row), generator=generator)] for row in packed(model).detach()]
    return with_coefficients(model, torch.stack(rows))


def forms(model: CSOS) -> tuple[Tensor, Tensor]:
    """Eigenvalues (10, N) and eigenvectors (10, N, N) of what a class is given over the mean class."""
    eigenvalues, vectors = torch.linalg.eigh(unpack(packed(centred(model)).detach())[:CLASSES])
    return eigenvalues, vectors


def spectrum(model: CSOS, data: csos_lib.Dataset, k: int) -> Numbers:
    """How much the first eigenvector holds; how like class k the outermost two are as pixels."""
    eigenvalues, vectors = (part[k] for part in forms(model))
    strength = eigenvalues.square()
    inked = (data.train_images > 0).double().mean(0) > 0.02
    rows = model.encoder.weight.detach()
    images = data.train_images.to(rows)
    looks = images[data.train_labels == k].mean(0) - images.mean(0)

    def likeness(vector: Tensor) -> float:
        picture = vector @ (rows - rows.mean(0))
        return abs(float(torch.corrcoef(torch.stack([picture[inked], looks[inked]]))[0, 1]))

    return {
        "first": float(strength.max() / strength.sum()),
        "likeness": likeness(vectors[:, -1]),  # the largest eigenvalue
        "against": likeness(vectors[:, 0]),  # the most negative one
    }


def keep_eigenvectors(model: CSOS, count: int, seed: int | None = None) -> CSOS:
    """Each class keeps its largest eigenvectors, or random ones."""
    eigenvalues, vectors = forms(model)
    whole = unpack(packed(centred(model)).detach())
    generator = torch.Generator().manual_seed(seed or 0)
    for k in range(CLASSES):
        order = eigenvalues[k].abs().argsort(descending=True)
        if seed is not None:
            order = torch.randperm(MOLECULES, generator=generator)
        kept = vectors[k][:, order[:count]]
        whole[k] = (kept * eigenvalues[k][order[:count]]) @ kept.T
    return with_coefficients(model, pack(whole))


def keep_pairs(model: CSOS, data: csos_lib.Dataset, count: int) -> CSOS:
    """Each class keeps the pairs with the largest share on its training images."""
    reader = centred(model)
    weight = packed(reader).detach().clone()
    i, j = pair_members(MOLECULES)
    for k in range(CLASSES):
        images = data.train_images[data.train_labels == k].to(weight)
        table = attribute(reader, images).pairs.sum(0)[k]
        share = (table + table.triu(1).T)[i, j].abs()
        weight[k, share.argsort(descending=True)[count:]] = 0
    return with_coefficients(model, weight)


class Probe(nn.Module):
    """Logistic regression on log x_0: what a linear reader gets out of the encoder's soup."""

    def __init__(self, model: CSOS, data: csos_lib.Dataset) -> None:
        super().__init__()
        self.encoder = deepcopy(model.encoder).requires_grad_(False)
        self.read = nn.Linear(MOLECULES, CLASSES).to(self.encoder.weight)
        images, labels = data.train_images.to(self.encoder.weight), data.train_labels
        optimiser = torch.optim.LBFGS(self.read.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimiser.zero_grad()
            loss = F.nll_loss(self(images), labels) + 1e-4 * self.read.weight.square().sum()
            loss.backward()
            return loss.item()

        optimiser.step(closure)

    def forward(self, images: Tensor) -> Tensor:
        return self.read(self.encoder(images).log_softmax(1)).log_softmax(1)


@torch.no_grad()
def favourite_accuracy(model: CSOS, images: Tensor, labels: Tensor) -> Tensor:
    right = (model.encoder(images)[:, :CLASSES].argmax(1) == labels).double()
    return torch.stack([right[labels == k].mean() for k in range(CLASSES)])


def knock_out(model: CSOS, images: Tensor, k: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What each pair's loss costs class k, and what the slopes say of it: by the loss and by the margin."""
    weight = packed(model)

    def costs() -> tuple[Tensor, Tensor]:
        log_p = model(images)
        return -log_p[:, k].mean(), (log_p.mean(1) - log_p[:, k]).mean()

    whole = costs()
    slopes = [-(torch.autograd.grad(c, weight, retain_graph=True)[0] * weight)[k].detach() for c in whole]
    damage = torch.empty(2, weight.shape[1], dtype=weight.dtype)
    with torch.no_grad():
        for pair in range(weight.shape[1]):
            kept = weight[k, pair].clone()
            weight[k, pair] = 0
            damage[:, pair] = torch.stack(costs()) - torch.stack(whole)
            weight[k, pair] = kept
    names = ("loss", "margin")
    return dict(zip(names, damage, strict=True)), dict(zip(names, slopes, strict=True))


def compare(guess: Tensor, strength: Tensor, damage: Tensor) -> Numbers:
    """How well a guess ranks the damage: of all, of the ten with the largest share, and the one worst."""
    top = strength.topk(10).indices
    return {
        "rank": rank_correlation(guess, damage),
        "top10": rank_correlation(guess[top], damage[top]),
        "found": float(guess.argmax() == damage.argmax()),
    }


def read_class(raw: CSOS, model: CSOS, images: Tensor, k: int) -> tuple[Numbers, Tensor]:
    """The row of class k, and the parts of its pairs. `raw` is `model` before centring."""
    i, j = pair_members(MOLECULES)
    row: Numbers = {}
    shares, damages = {}, {}
    for name, network in (("centred", model), ("uncentred", raw)):
        table = attribute(network, images).pairs.sum(0)[k]
        share = shares[name] = (table + table.triu(1).T)[i, j]  # pairs may come as (i, j) or (j, i)
        damage, slope = knock_out(network, images, k)
        damages[name] = damage
        for by in ("loss", "margin"):
            guesses = {"share": share, "slope": slope[by], "coefficient": packed(network)[k].detach()}
            for guess, values in guesses.items():
                for measure, value in compare(values, share.abs(), damage[by]).items():
                    row[f"{name}_{guess}_{by}_{measure}"] = value
    share, damage = shares["centred"], damages["centred"]
    for by in ("loss", "margin"):
        row[f"two_gauges_{by}"] = rank_correlation(damage[by], damages["uncentred"][by])
    parts = attribute(model, images)
    own = int(((i == k) & (j == k)).nonzero())
    hidden = (i >= CLASSES) | (j >= CLASSES)
    worst = int(damage["loss"].argmax())
    strength = share.abs()
    row |= {
        "margin": float(parts.total[k] - parts.total[:CLASSES].mean()),
        "start": float(parts.start[k] - parts.start[:CLASSES].mean()),
        "own": float(share[own]),
        "other_classes": float(share[~hidden].sum() - share[own]),
        "hidden": float(share[hidden].sum()),
        "top8": float(strength.topk(8).values.sum() / strength.sum()),
        "own_loss": float(damage["loss"][own]),
        "own_margin": float(damage["margin"][own]),
        "worst_i": min(int(i[worst]), int(j[worst])),
        "worst_j": max(int(i[worst]), int(j[worst])),
        "worst_share": float(share[worst]),
        "worst_loss": float(damage["loss"][worst]),
        "worst_margin": float(damage["margin"][worst]),
        "own_is_strongest": float(strength.argmax() == own),
        "own_is_worst_for_margin": float(damage["margin"].argmax() == own),
    }
    return row, share[~hidden & (torch.arange(len(i)) != own)]


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    images, labels = data.test_images.double(), data.test_labels
    rows: list[Numbers] = []
    named: list[list[Tensor]] = []  # [seed][class], what the 54 other pairs of class molecules made
    for seed in SEEDS:
        raw = train(seed, data).double()
        model = centred(raw)
        no_hidden = packed(model).detach().clone()
        no_hidden[CLASSES:] = 0
        readers: dict[str, nn.Module] = {
            "accuracy": model,
            "no_hidden_products": with_coefficients(model, no_hidden),
            "encoder_alone": train(seed, data, steps=0).double(),
            "probe": Probe(raw, data),
            **{f"eigenvectors_{n}": keep_eigenvectors(raw, n) for n in (1, 2, 3)},
            "random_eigenvectors_3": keep_eigenvectors(raw, 3, seed),
            **{f"pairs_{n}": keep_pairs(raw, data, n) for n in (1, 2, 3, 8)},
        }
        by_class = {name: class_accuracy(m, images, labels).tolist() for name, m in readers.items()}
        by_class["favourite"] = favourite_accuracy(raw, images, labels).tolist()
        started = with_coefficients(raw, packed(untrained(seed)).detach())
        tables = {"trained": raw, "start": started, "shuffled": shuffled(raw, seed)}
        named.append([])
        for k in range(CLASSES):
            row, shares = read_class(raw, model, images[labels == k], k)
            for title, table in tables.items():
                row |= {f"{title}_{name}": value for name, value in spectrum(table, data, k).items()}
            rows.append({"seed": seed, "class": k, **{n: by_class[n][k] for n in by_class}, **row})
            named[-1].append(shares)
        print(seed, {name: round(sum(v) / CLASSES, 3) for name, v in by_class.items()}, flush=True)
    for row in rows:
        seed, k = int(row["seed"]), int(row["class"])
        others = [rank_correlation(named[seed][k], named[other][k]) for other in SEEDS if other != seed]
        row["agreement"] = sum(others) / len(others)
    write_table("reading", list(rows[0]), [[float(v) for v in row.values()] for row in rows])


if __name__ == "__main__":
    main()
