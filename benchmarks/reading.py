"""What attributions say of a trained reaction, and what knocking out each reaction costs; five seeds.

python benchmarks/reading.py        writes csos_lib/results/reading.csv, about two minutes on one core

One row for each seed and class k. Only that class's 100 test images are looked at, and of W only the
N (N + 1) / 2 reactions i + j -> k that make its molecule, each knocked out by itself in the centred network.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

import csos_lib
from csos_lib.interpret import attribute, centred, class_accuracy
from csos_lib.quadratic import pair_members
from csos_lib.reactions import SymmetricReaction
from table import write_table

SEEDS, EPOCHS, MOLECULES, CLASSES = range(5), 6, 24, 10


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's: the correlation of the ranks."""
    ranks = torch.stack([v.argsort().argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def train(seed: int, data: csos_lib.Dataset, steps: int = 5) -> csos_lib.CSOS:
    torch.manual_seed(seed)
    model = csos_lib.CSOS(MOLECULES, steps, alpha=0.25, reaction="symmetric", dynamics="mirror")
    csos_lib.fit(model, data, EPOCHS, seed=seed, progress=False)
    return model


def copy_without(model: csos_lib.CSOS, products: slice) -> csos_lib.CSOS:
    """No reaction makes these molecules, over what it makes of the mean class."""
    copy = centred(model)
    assert isinstance(copy.reaction, SymmetricReaction)
    with torch.no_grad():
        copy.reaction.weight[products] = 0
    return copy


def read_class(
    raw: csos_lib.CSOS, model: csos_lib.CSOS, images: Tensor, k: int
) -> tuple[dict[str, float], Tensor]:
    """The row of class k, and the parts of its pairs. `raw` is `model` before centring."""
    assert isinstance(model.reaction, SymmetricReaction)
    weight = model.reaction.weight
    i, j = pair_members(MOLECULES)
    parts = attribute(model, images)
    table = parts.pairs.sum(0)[k]
    table = table + table.triu(1).T  # pairs may come as (i, j) or (j, i)
    share = table[i, j]
    uncentred = attribute(raw, images).pairs.sum(0)[k]
    uncentred = (uncentred + uncentred.triu(1).T)[i, j]
    loss = F.nll_loss(model(images), torch.full((len(images),), k))
    (gradient,) = torch.autograd.grad(loss, weight)
    damage = torch.empty_like(share)
    with torch.no_grad():
        for pair in range(len(i)):
            kept = weight[k, pair].clone()
            weight[k, pair] = 0
            damage[pair] = -model(images)[:, k].mean() - loss
            weight[k, pair] = kept
    predicted = -(gradient * weight)[k].detach()  # what the slope of the loss says of the knock-out
    own = int(((i == k) & (j == k)).nonzero())
    worst = int(damage.argmax())
    hidden = (i >= CLASSES) | (j >= CLASSES)
    strength = share.abs()
    top = strength.topk(10).indices
    row = {
        "loss": loss.item(),
        "margin": float(parts.total[k] - parts.total[:CLASSES].mean()),
        "start": float(parts.start[k] - parts.start[:CLASSES].mean()),
        "own": float(share[own]),
        "other_classes": float(share[~hidden].sum() - share[own]),
        "hidden": float(share[hidden].sum()),
        "top8": float(strength.topk(8).values.sum() / strength.sum()),
        "rank_attribution": rank_correlation(share, damage),
        "rank_uncentred": rank_correlation(uncentred, damage),
        "rank_coefficient": rank_correlation(weight[k].detach(), damage),
        "rank_gradient": rank_correlation(predicted, damage),
        "top10_attribution": rank_correlation(share[top], damage[top]),
        "top10_gradient": rank_correlation(predicted[top], damage[top]),
        "attribution_finds_worst": int(share.argmax() == worst),
        "gradient_finds_worst": int(predicted.argmax() == worst),
        "own_damage": float(damage[own]),
        "worst_i": min(int(i[worst]), int(j[worst])),
        "worst_j": max(int(i[worst]), int(j[worst])),
        "worst_share": float(share[worst]),
        "worst_damage": float(damage[worst]),
        "own_is_strongest": int(strength.argmax() == own),
    }
    return row, share[~hidden & (torch.arange(len(i)) != own)]


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[dict[str, float]] = []
    named: list[list[Tensor]] = []  # [seed][class], what the 54 other pairs of class molecules made
    for seed in SEEDS:
        raw = train(seed, data).double()
        model = centred(raw)
        images = data.test_images.double()
        accuracies = {
            "accuracy": model,
            "accuracy_no_hidden_products": copy_without(raw, slice(CLASSES, None)),
            "accuracy_no_class_products": copy_without(raw, slice(0, CLASSES)),
            "accuracy_encoder_alone": train(seed, data, steps=0).double(),
        }
        by_class = {
            name: class_accuracy(m, images, data.test_labels).tolist() for name, m in accuracies.items()
        }
        named.append([])
        for k in range(CLASSES):
            row, shares = read_class(raw, model, images[data.test_labels == k], k)
            rows.append({"seed": seed, "class": k, **{n: by_class[n][k] for n in accuracies}, **row})
            named[-1].append(shares)
        print(f"seed {seed}: test accuracy {sum(by_class['accuracy']) / CLASSES:.3f}", flush=True)
    for row in rows:
        seed, k = int(row["seed"]), int(row["class"])
        others = [rank_correlation(named[seed][k], named[other][k]) for other in SEEDS if other != seed]
        row["agreement"] = sum(others) / len(others)
    write_table("reading", list(rows[0]), [[float(v) for v in row.values()] for row in rows])


if __name__ == "__main__":
    main()
