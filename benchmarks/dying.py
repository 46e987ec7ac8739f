"""Death or explosion? What ruins memo 1's model at many steps, and which part of a cure cures it.

python benchmarks/dying.py        writes csos_lib/results/dying.csv, about a quarter of an hour on one core

Bundled digits, 32 molecules, three epochs, five seeds. A network is put together from an injection, a step
and a readout, and trained with the gradient's norm cut at 1 (clip) or as it is (inf). Experiments:
steps       memo 1's three parts and the mirror network's three, by T, clip and learning rate
parts       one or two parts at a time taken from elsewhere, T = 5 and T = 20; and no step at all, T = 0
beta        memo 1's one knob, alpha (1 - decay)
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS, dynamics
from csos_lib.reactions import SCALE
from csos_lib.simplex import EPSILON, count_living, normalise
from table import write_table

SEEDS, MOLECULES, EPOCHS = range(5), 32, 3
FLOOR, GUARD, SHARPNESS, STRENGTH = 1e-3, 1e-2, float(MOLECULES), 0.32
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


def run(
    experiment: str,
    data: csos_lib.Dataset,
    parts: tuple[str, str, str],
    steps: int,
    clip: float,
    lr: float = 0.005,
    decay: float = 0.1,
    alpha: float | None = None,
) -> list[list[object]]:
    """One row a seed. Unless given, alpha is 1, and for the mirror step alpha N sigma is STRENGTH."""
    if alpha is None:
        alpha = STRENGTH / (MOLECULES * SCALE) if parts[1] == "mirror" else 1.0
    rows: list[list[object]] = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = Network(*parts, steps, decay, alpha)
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
        setting = (experiment, *parts, steps, decay, alpha, clip, lr, seed)
        rows.append([*setting, *(float(value) for value in measured)])
    accuracy = " ".join(f"{row[len(SETTING) + 1]:.3f}" for row in rows)
    print(*rows[0][: len(SETTING)], "|", accuracy, flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    clips = (float("inf"), 1.0)
    memo, mirror = ("relu", "cut", "memo"), ("softmax", "mirror", "ten-way")
    cuts = [("relu", step, "memo") for step in ("floor", "softplus", "mirror")]
    one_part = [("softmax", "cut", "memo"), ("relu", "cut", "guard"), ("softmax", "mirror", "memo"), *cuts]
    more = [("softplus", "cut", "memo"), ("softplus", "softplus", "memo"), ("relu", "mirror", "ten-way")]
    more += [("relu", "cut", "ten-way"), ("softmax", "cut", "ten-way")]
    rows: list[list[object]] = []
    for steps, clip in product((1, 5, 10, 20, 40), clips):
        rows += run("steps", data, memo, steps, clip)
        rows += run("steps", data, memo, steps, clip, lr=0.001)
        rows += run("steps", data, mirror, steps, clip)
    for parts, clip in product((*one_part, *more), clips):
        rows += run("parts", data, parts, 5, clip)
    for injection, readout, clip in product(("relu", "softplus", "softmax"), ("memo", "ten-way"), clips):
        rows += run("parts", data, (injection, "cut", readout), 0, clip)
    for parts, clip in product(one_part, clips):
        rows += run("parts", data, parts, 20, clip)
    for beta, clip in product((1 / 16, 1 / 4, 1.0, 4.0, 16.0), clips):
        rows += run("beta", data, memo, 5, clip, decay=0.0, alpha=beta)
    write_table("dying", ("experiment", *SETTING, *MEASURED), rows)


if __name__ == "__main__":
    main()
