"""Valid chemistry against the plain model, and the trained network read from a finite number of molecules.

python benchmarks/chemistry.py         writes csos_lib/results/chemistry.csv, about two minutes on one core

All models have 32 molecules, take 5 steps, and see the digits for 10 epochs. "bad share" is the share of the
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
SIZES, TUBES = (1, 3, 10, 30, 100, 300, 1000), 200
COLUMNS = (
    "experiment",
    "model",
    "seed",
    "molecules",
    "parameters",
    "train_accuracy",
    "test_accuracy",
    "bad_share",
)
MODELS: dict[str, tuple[Callable[[], csos_lib.CSOS], float]] = {
    "encoder": (lambda: ChemicalCSOS(N, 0, SPEED), 0.005),
    "memo": (lambda: csos_lib.CSOS(N, STEPS), 0.002),
    "mirror": (lambda: csos_lib.CSOS(N, STEPS, alpha=0.2, dynamics="mirror"), 0.005),
    "chemistry": (lambda: ChemicalCSOS(N, STEPS, SPEED), 0.01),
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


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    images, labels = data.test_images[:TUBES], data.test_labels[:TUBES]
    rows: list[tuple[object, ...]] = []
    for seed in SEEDS:
        for name, (make, lr) in MODELS.items():
            torch.manual_seed(seed)
            model = make()
            history = csos_lib.fit(model, data, epochs=EPOCHS, lr=lr, seed=seed, progress=False)
            accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
            weight = model.reaction.to_tensor().detach()  # type: ignore[operator]
            size = sum(p.numel() for p in (model.encoder if name == "encoder" else model).parameters())
            rows.append(
                (
                    "training",
                    name,
                    seed,
                    0,
                    size,
                    history.train_accuracy[-1],
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
                rows.append(("tubes", moment, seed, molecules, size, "", score(state, labels), ""))
                print(*rows[-1], flush=True)
    write_table("chemistry", COLUMNS, rows)


if __name__ == "__main__":
    main()
