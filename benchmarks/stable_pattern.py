"""Is the answer a stable pattern? Memo 1's model and the mirror network on all of MNIST, run on to 500 steps.

python benchmarks/stable_pattern.py    appends to csos_lib/results/stable_pattern.csv, half an hour

64 molecules, dense W, Adam at 0.005 (0.002 for T = 20), batches of 128, three epochs. MNIST must be on disk.
Each network is measured on the test images after every epoch, and at the end on every fourth of them with
other numbers of steps: accuracy, how far the soup has moved from where training read it (L1; one that moves
less than 1e-6 in a step is taken to stand still), its largest concentration, and for 100 images the spectral
radius of the step's Jacobian (the step keeps the sum, so no eigenvalue but 0 belongs to another direction).
Leaks are rates W[k, y, y] above 0 (mirror step: above W[y, y, y]), by which a pure digit y gives way to k;
mended is the accuracy after 99 steps with these rates mirrored at the bound. Runs that are in the table are
skipped.
"""

import csv
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev, vmap
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS, dynamics
from csos_lib.simplex import EPSILON
from table import RESULTS

EPOCHS, IMAGES, STILL = 3, 100, 1e-6
RESULT = RESULTS / "stable_pattern.csv"
RUN_ON = (0, 1, 2, 3, 5, 10, 20, 50, 99, 500)


class Recipe(NamedTuple):
    step: str
    clip: float = math.inf
    cosine: bool = True
    decay: float = 0.1
    readout: str = "memo"
    trained: str = "5"
    lr: float = 0.005


COLUMNS = (
    *Recipe._fields,
    "seed",
    "epoch",
    "steps",
    "accuracy",
    "moved",
    "largest",
    "radius",
    "leaks",
    "mended",
)
CLIPPED = Recipe("euler", 1.0)
MIRROR = Recipe("mirror", readout="ten-way")
FOUR = (Recipe("mirror", decay=0.0), CLIPPED, Recipe("euler"), MIRROR)
CONTROLS = (
    *(MIRROR._replace(decay=0.0), Recipe("mirror"), Recipe("euler", cosine=False)),
    *(CLIPPED._replace(trained="1"), CLIPPED._replace(trained="20", lr=0.002)),
)
RUNS = [(seed, recipe) for seed in range(2) for recipe in FOUR] + [(0, recipe) for recipe in CONTROLS]
RUNS += [(seed, recipe) for seed in range(2, 5) for recipe in FOUR]
RUNS += [(seed, recipe) for seed in range(1, 3) for recipe in CONTROLS]


class Pattern(CSOS):
    """A CSOS that can read its whole soup, as memo 1 does, after a mirror step too."""

    def __init__(self, recipe: Recipe) -> None:
        steps = int(recipe.trained.split()[0])
        super().__init__(steps=steps, decay=recipe.decay, dynamics=recipe.step)
        self.whole_soup = recipe.step == "mirror" and recipe.readout == "memo"

    def forward(self, images: Tensor) -> Tensor:
        if self.whole_soup:
            return torch.log(self.react(self.inject(images))[:, :10] + EPSILON)
        return super().forward(images)


def radius(model: Pattern, x: Tensor) -> float:
    """The mean over images of the largest |eigenvalue| of one step's Jacobian at x, in double precision."""
    W = model.reaction.to_tensor().detach().double()  # type: ignore[operator]
    x = x.double()

    def step(row: Tensor) -> Tensor:
        def react(y: Tensor) -> Tensor:
            return torch.einsum("kij,bi,bj->bk", W, y, y)

        return dynamics.run(row[None], react, 1, model.decay, model.alpha, str(model.dynamics))[0]

    if (
        model.dynamics == "mirror"
    ):  # at the logarithms: the same eigenvalues, and none divides by what is rare
        jacobian = vmap(jacrev(lambda row: step(row.exp()).log()))(x.clamp_min(1e-300).log())
    else:
        jacobian = vmap(jacrev(step))(x)
    return torch.linalg.eigvals(jacobian).abs().max(1).values.mean().item()


def train(model: Pattern, recipe: Recipe, data: csos_lib.Dataset, seed: int) -> list[list[object]]:
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    batches = EPOCHS * math.ceil(len(data.train_images) / 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, batches)
    generator = torch.Generator().manual_seed(seed)
    low, *high = (int(word) for word in recipe.trained.split(" to "))
    rows: list[list[object]] = []
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(128):
            model.steps = int(torch.randint(low, high[0] + 1, (), generator=generator)) if high else low
            loss = F.nll_loss(model(data.train_images[batch]), data.train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimiser.step()
            if recipe.cosine:
                schedule.step()
        model.steps = 5 if high else low
        accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
        rows.append([*recipe, seed, epoch, model.steps, f"{accuracy:.4f}", "", "", "", "", ""])
    return rows


@torch.no_grad()
def run_on(model: Pattern, recipe: Recipe, data: csos_lib.Dataset, seed: int) -> list[list[object]]:
    images, labels = data.test_images[::4], data.test_labels[::4]
    home, x = model.steps, model.inject(images)
    reaction = dynamics.laid_out(model.reaction)
    states, moving = {0: x.clone()}, torch.ones(len(x), dtype=torch.bool)
    for t in range(1, max(RUN_ON) + 1):
        was = x[moving]
        now = dynamics.run(was, reaction, 1, model.decay, model.alpha, str(model.dynamics))
        x[moving] = now
        moving[moving.clone()] = (now - was).abs().sum(1) > STILL
        if t in RUN_ON:
            states[t] = x.clone()
    # A pure digit y holds off k where W[k, y, y] is at most 0, and for the mirror step at most W[y, y, y].
    W, y = model.reaction.weight, torch.arange(10)
    assert isinstance(W, Tensor)
    pure = W[:, y, y].clone()
    bound = W[y, y, y].clone() if recipe.step == "mirror" else torch.zeros(10)
    leaking = pure > bound
    leaking[y, y] = False
    leaks = int(leaking.sum())
    rows: list[list[object]] = []
    for t, x in states.items():
        accuracy = (x[:, :10].argmax(1) == labels).double().mean().item()
        moved = (x - states[home]).abs().sum(1).mean().item() if home in states else math.nan
        largest = x.max(1).values.mean().item()
        at = radius(model, x[:IMAGES]) if t in (home, 99) else math.nan
        numbers = (f"{value:.4f}" for value in (accuracy, moved, largest, at))
        rows.append([*recipe, seed, "", t, *numbers, leaks, ""])
    if leaks:
        W[:, y, y] = torch.where(leaking, 2 * bound - pure, pure)
        model.steps = 99
        rows[-2][-1] = f"{csos_lib.evaluate(model, images, labels).accuracy:.4f}"
    return rows


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist")
    done: list[tuple[str, ...]] = []
    if RESULT.exists():
        done = [tuple(row[c] for c in COLUMNS[:8]) for row in csos_lib.load_results(RESULT.stem)]
    else:
        versions = f"# torch {torch.__version__}, one thread\n"
        header = "# python benchmarks/stable_pattern.py\n" + versions + ",".join(COLUMNS) + "\n"
        RESULT.write_text(header, encoding="utf-8")
    for seed, recipe in RUNS:
        if tuple(str(value) for value in (*recipe, seed)) in done:
            continue
        torch.manual_seed(seed)
        model = Pattern(recipe)
        rows = train(model, recipe, data, seed) + run_on(model, recipe, data, seed)
        with RESULT.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
        print(seed, recipe, [row[10] for row in rows], rows[-2][11:], flush=True)


if __name__ == "__main__":
    main()
