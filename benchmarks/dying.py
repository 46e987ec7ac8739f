"""Death or explosion? What ruins memo 1's model at many steps, and which part of a cure cures it.

python benchmarks/dying.py        appends to csos_lib/results/dying.csv, a quarter of an hour on one core

Bundled digits, 32 molecules, three epochs, five seeds. A network is put together from an injection, a step
and a readout, and trained with the gradient's norm cut at 1 (clip) or as it is (inf): memo 1's three parts
and the mirror network's, by T and learning rate; one or two parts exchanged; no step at all; and memo 1's
one knob, beta = alpha (1 - decay). Runs that are in the table are skipped.
"""

import csv
import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS, dynamics
from csos_lib.reactions import SCALE
from csos_lib.simplex import EPSILON, count_living, normalise
from table import RESULTS, write_table

SEEDS, MOLECULES, EPOCHS = range(5), 32, 3
FLOOR, GUARD, SHARPNESS, STRENGTH = 1e-3, 1e-2, float(MOLECULES), 0.32
RESULT = RESULTS / "dying.csv"
SETTING = ("injection", "step", "readout", "steps", "decay", "alpha", "clip", "lr", "seed")
MEASURED = ("test_accuracy", "living_last", "right_dead", "norm_median", "norm_largest")

INJECTION: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda amounts: normalise(torch.relu(amounts)),
    "softmax": lambda amounts: amounts.softmax(1),
    "softplus": lambda amounts: normalise(F.softplus(amounts)),
}
CUT: dict[str, Callable[[Tensor], Tensor]] = {
    "cut": torch.relu,
    "softplus": lambda amounts: F.softplus(amounts, beta=SHARPNESS),
    "floor": lambda amounts: torch.relu(amounts) + FLOOR,
}
READOUT: dict[str, Callable[[Tensor], Tensor]] = {
    "memo": lambda x: torch.log(x[:, :10] + EPSILON),
    "guard": lambda x: torch.log(x[:, :10] + GUARD) - torch.log1p(torch.tensor(10 * GUARD)),
    "ten-way": lambda x: torch.log(x[:, :10] + EPSILON).log_softmax(1),
}
"""The guard's ten numbers sum to 1 at most, as probabilities should; the constant moves no gradient."""


class Network(CSOS):
    """A CSOS whose three parts are named one by one."""

    def __init__(
        self, injection: str, step: str, readout: str, steps: int, decay: float, alpha: float
    ) -> None:
        super().__init__(MOLECULES, steps, decay, alpha)
        self.parts = injection, step, readout

    def last(self, images: Tensor) -> Tensor:
        injection, step, _ = self.parts
        x = INJECTION[injection](self.encoder(images))
        if step == "mirror":
            return dynamics.run(x, self.reaction, self.steps, self.decay, self.alpha, "mirror")
        reaction = dynamics.laid_out(self.reaction)
        for _ in range(self.steps):
            mixed = (1 - self.decay) * x
            x = normalise(CUT[step](mixed + self.alpha * reaction(mixed)))
        return x

    def forward(self, images: Tensor) -> Tensor:
        return READOUT[self.parts[2]](self.last(images))


def train(model: Network, data: csos_lib.Dataset, lr: float, clip: float, seed: int) -> Tensor:
    """The gradient's norm at each batch, before it is cut."""
    optimiser = torch.optim.Adam(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(seed)
    norms: list[Tensor] = []
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(128):
            loss = F.nll_loss(model(data.train_images[batch]), data.train_labels[batch])
            optimiser.zero_grad()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
            optimiser.step()
    return torch.stack(norms)


MEMO, MIRROR = ("relu", "cut", "memo"), ("softmax", "mirror", "ten-way")
ONE_PART = [("softmax", "cut", "memo"), ("relu", "cut", "guard"), ("relu", "mirror", "memo")]
ONE_PART += [("relu", "floor", "memo"), ("softmax", "mirror", "memo")]
MORE = [("relu", "softplus", "memo"), ("softplus", "softplus", "memo"), ("relu", "cut", "ten-way")]
NO_STEP = [(injection, "cut", readout) for injection in INJECTION for readout in ("memo", "ten-way")]


def settings() -> Iterator[tuple[object, ...]]:
    """The columns of SETTING, but for the seed, of every network, the most telling first."""

    def of(parts: tuple[str, str, str], steps: int, lr: float = 0.005, beta: float = 0.0) -> None:
        alpha = STRENGTH / (MOLECULES * SCALE) if parts[1] == "mirror" else beta or 1.0
        decay = 0.0 if beta else 0.1
        listed.extend((*parts, steps, decay, alpha, clip, lr) for clip in (math.inf, 1.0))

    listed: list[tuple[object, ...]] = []
    for steps in (20, 5, 1):
        of(MEMO, steps)
        of(MIRROR, steps)
        of(MEMO, steps, lr=0.001)
    for parts in (*ONE_PART, *MORE):
        of(parts, 5)
    for parts in NO_STEP:
        of(parts, 0)
    for beta in (1 / 4, 1.0, 4.0):
        of(MEMO, 5, beta=beta)
    for parts in ONE_PART[:4]:
        of(parts, 20)
    of(MEMO, 40)
    of(MIRROR, 40)
    of(MEMO, 40, lr=0.001)
    for steps in (1, 5, 20, 40):
        of(MIRROR, steps, lr=0.001)
    yield from listed


def measure(setting: tuple[Any, ...], data: csos_lib.Dataset) -> list[float]:
    clip, lr, seed = setting[6:]
    torch.manual_seed(seed)
    model = Network(*setting[:6])
    norms = train(model, data, lr, clip, seed)
    with torch.no_grad():
        x, answers = model.last(data.test_images), model(data.test_images).argmax(1)
    right = x.gather(1, data.test_labels[:, None])[:, 0]
    measured = (
        (answers == data.test_labels).double().mean(),
        count_living(x).double().mean(),
        (right == 0).double().mean(),
        norms.median(),
        norms.max(),
    )
    return [float(value) for value in measured]


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    done: set[tuple[str, ...]] = set()
    if RESULT.exists():
        done = {tuple(row[c] for c in SETTING) for row in csos_lib.load_results(RESULT.stem)}
    else:
        write_table(RESULT.stem, (*SETTING, *MEASURED), [])
    for setting, seed in product(settings(), SEEDS):
        full = (*setting, seed)
        if tuple(str(value) for value in full) in done:
            continue
        measured = measure(full, data)
        with RESULT.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([*full, *(f"{v:.6g}" for v in measured)])
        print(*full, "|", *(f"{v:.3f}" for v in measured), flush=True)


if __name__ == "__main__":
    main()
