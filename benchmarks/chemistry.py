"""Valid chemistry against the plain model, and the trained network read from a finite number of molecules.

python benchmarks/chemistry.py         writes csos_lib/results/chemistry.csv, about four minutes on one core

All models have 32 molecules, take 5 steps, and see the digits for 10 epochs. Each has its learning rate from
the same three, the one with the best mean accuracy of two seeds (of their own) on 1,000 training digits that
were held out ("tuning", there as "test_accuracy"). "bad share" is the share of the
entries W[k, i, j], k neither i nor j, of the symmetrised W that are negative: what no network of reactions
can do. "molecules" is how many a test tube holds, 0 for the rate equation; 200 test digits, one tube each,
read by the most frequent class molecule when they are poured in ("poured") and in the end ("reacted").
"""

from collections.abc import Callable

import torch

import csos_lib
from csos_lib.reactions import symmetrise
from csos_lib.relatives.chemistry import ChemicalCSOS, from_conversions, integrate, rate_equation, simulate
from table import write_table

N, STEPS, SPEED, EPOCHS, SEEDS = 32, 5, 0.5, 10, range(3)
RATES, TUNING_SEEDS, HELD_OUT = (0.002, 0.005, 0.01), (10, 11), 1000
SIZES, TUBES = (1, 3, 10, 30, 100, 300, 1000), 200
COLUMNS = (
    "experiment",
    "model",
    "lr",
    "seed",
    "molecules",
    "parameters",
    "train_accuracy",
    "test_accuracy",
    "bad_share",
)
MODELS: dict[str, Callable[[], csos_lib.CSOS]] = {
    "encoder": lambda: ChemicalCSOS(N, 0, SPEED),
    "memo": lambda: csos_lib.CSOS(N, STEPS),
    "mirror": lambda: csos_lib.CSOS(N, STEPS, alpha=0.2, dynamics="mirror"),
    "chemistry": lambda: ChemicalCSOS(N, STEPS, SPEED),
}


def bad_share(weight: torch.Tensor) -> float:
    """How much of a tensor no network of reactions can have: pairs that use up a third."""
    k, i, j = torch.meshgrid(*[torch.arange(len(weight))] * 3, indexing="ij")
    third = symmetrise(weight)[(k != i) & (k != j)]
    return (third < 0).double().mean().item()


def score(state: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of rows whose most frequent class molecule is the label; a tie of m counts as 1 / m."""
    votes = state[:, :10] == state[:, :10].max(1, keepdim=True).values
    return (votes.gather(1, labels[:, None])[:, 0] / votes.sum(1)).double().mean().item()


def train(name: str, data: csos_lib.Dataset, lr: float, seed: int) -> tuple[csos_lib.CSOS, float, float]:
    """A trained model, its accuracy in the last epoch and its test accuracy."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    history = csos_lib.fit(model, data, epochs=EPOCHS, lr=lr, seed=seed, progress=False)
    accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
    return model, history.train_accuracy[-1], accuracy


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    images, labels = data.test_images[:TUBES], data.test_labels[:TUBES]
    order = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[:HELD_OUT], order[HELD_OUT:]
    split = csos_lib.Dataset(
        data.train_images[kept],
        data.train_labels[kept],
        data.train_images[held_out],
        data.train_labels[held_out],
    )
    rows: list[tuple[object, ...]] = []
    rates = {}
    for name in MODELS:
        sums = dict.fromkeys(RATES, 0.0)
        for lr in RATES:
            for seed in TUNING_SEEDS:
                _, trained, accuracy = train(name, split, lr, seed)
                sums[lr] += accuracy
                rows.append(("tuning", name, lr, seed, 0, "", trained, accuracy, ""))
                print(*rows[-1], flush=True)
        rates[name] = max(RATES, key=sums.__getitem__)
    for seed in SEEDS:
        for name, lr in rates.items():
            model, trained, accuracy = train(name, data, lr, seed)
            weight = model.reaction.to_tensor().detach()  # type: ignore[operator]
            size = sum(p.numel() for p in (model.encoder if name == "encoder" else model).parameters())
            rows.append(
                (
                    "training",
                    name,
                    lr,
                    seed,
                    0,
                    size,
                    trained,
                    accuracy,
                    bad_share(weight) if model.steps else "",
                )
            )
            print(*rows[-1])
        network = from_conversions(weight)
        with torch.no_grad():
            poured = model.inject(images)
        time = STEPS * SPEED
        ends = {0: (poured, integrate(rate_equation(network), poured.double(), [time], 0.05)[0])}
        generator = torch.Generator().manual_seed(seed)
        for molecules in SIZES:
            drawn = torch.multinomial(poured, molecules, replacement=True, generator=generator)
            counts = torch.nn.functional.one_hot(drawn, N).sum(1)
            ends[molecules] = (counts, simulate(network, counts, [time], float(molecules), generator)[0])
        for molecules, states in ends.items():
            for moment, state in zip(("poured", "reacted"), states, strict=True):
                rows.append(
                    ("tubes", moment, rates["chemistry"], seed, molecules, size, "", score(state, labels), "")
                )
                print(*rows[-1], flush=True)
    write_table("chemistry", COLUMNS, rows)


if __name__ == "__main__":
    main()
