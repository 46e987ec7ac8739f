"""Steps, flows and equilibria on the bundled digits: accuracy against evaluations of the reaction.

python benchmarks/continuous_time.py        writes csos_lib/results/continuous_time.csv, about eight minutes

32 molecules, five epochs at lr 0.005 (three also at 0.02), the gradient's norm clipped at 1, five seeds. All
but "memo" inject by a softmax, so that no molecule is missing at the start. Steps and flows have one unit of
time, whatever the number of steps, and the mirror kind is tested with other solvers than it was trained with.
Its W is free; that of "stochastic" and of the equilibria is stochastic.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import csos_lib
from csos_lib import CSOS, dynamics
from csos_lib.dynamics import Reaction
from csos_lib.relatives.equilibrium import Equilibrium, StochasticReaction
from csos_lib.relatives.flow import Flow
from table import write_table

SEEDS, MOLECULES, EPOCHS = range(5), 32, 5
COLUMNS = ("model", "trained", "tested", "lr", "seed", "parameters", "evaluations", "accuracy", "loss")
Dynamics = Callable[[Tensor, Reaction], Tensor]


class SoftInjection(CSOS):
    """No molecule is missing at the start."""

    def inject(self, images: Tensor) -> Tensor:
        return self._encode(images).softmax(1)


class Counted(nn.Module):
    """A reaction that counts how often it is called."""

    def __init__(self, reaction: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = reaction, 0

    def lay_out(self) -> Reaction:
        reaction = dynamics.laid_out(self.inner)

        def count(x: Tensor) -> Tensor:
            self.calls += 1
            return reaction(x)

        return count


def steps(count: int, kind: str) -> Dynamics:
    """So many steps in one unit of time."""
    return lambda x, reaction: dynamics.run(x, reaction, count, 0.0, 1 / count, kind)


def build(how: Dynamics | None, stochastic: bool = False) -> CSOS:
    """One of the networks; None is no reaction at all."""
    reaction = StochasticReaction(MOLECULES) if stochastic else "dense"
    if how is None:
        return SoftInjection(MOLECULES, steps=0)
    return SoftInjection(MOLECULES, reaction=reaction, dynamics=how)


def measure_seed(seed: int) -> list[list[object]]:
    data = csos_lib.load_dataset("mnist5k")
    mirror: dict[str, Dynamics] = {f"{t} steps": steps(t, "mirror") for t in (1, 2, 5, 20)}
    mirror["flow"] = Flow(kind="mirror", rtol=1e-3, atol=1e-5).forward
    euler: dict[str, Dynamics] = {"5 steps": steps(5, "euler")}
    euler["flow"] = Flow(rtol=1e-3, atol=1e-5).forward
    rows: list[list[object]] = []

    def train(make: Callable[[], CSOS], lr: float = 0.005) -> CSOS:
        torch.manual_seed(seed)
        model = make()
        csos_lib.fit(model, data, EPOCHS, lr, seed=seed, progress=False)
        return model

    def measure(
        model: CSOS, name: str, trained: str, tested: str, how: Dynamics | None, lr: float = 0.005
    ) -> None:
        """One row; `how` is the dynamics to test with, None the model's own."""
        own = model.dynamics, model.reaction
        counted = model.reaction = Counted(model.reaction)
        model.dynamics = model.dynamics if how is None else how
        images, labels = data.test_images, data.test_labels
        result = csos_lib.evaluate(model, images, labels, batch_size=len(images))
        model.dynamics, model.reaction = own
        size = sum(p.numel() for p in model.parameters())
        rows.append([name, trained, tested, lr, seed, size, counted.calls, result.accuracy, result.loss])
        print(*rows[-1], flush=True)

    measure(train(lambda: CSOS(MOLECULES)), "memo", "5 steps", "5 steps", None)
    for lr in (0.005, 0.02):
        measure(train(lambda: build(None), lr), "no reaction", "0 steps", "0 steps", None, lr)
    for trained in ("1 steps", "5 steps", "flow"):
        model = train(partial(build, mirror[trained]))
        for tested, how in mirror.items():
            measure(model, "mirror", trained, tested, how)
    for trained, how in euler.items():
        model = train(partial(build, how, stochastic=True))
        measure(model, "stochastic", trained, trained, None)
    for time in (0.25, 0.5, 2.0, 4.0, 8.0, 16.0):
        longer = Flow(time, rtol=1e-3, atol=1e-5).forward
        measure(model, "stochastic", "flow", f"time {time:g}", longer)
    for alpha, lr in ((0.25, 0.005), (0.45, 0.005), (0.45, 0.02), (0.95, 0.005), (0.95, 0.02)):
        model = train(partial(build, Equilibrium(alpha, tol=1e-5).forward, stochastic=True), lr)
        measure(model, f"equilibrium {alpha}", "settled", "settled", None, lr)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    write_table("continuous_time", COLUMNS, [row for seed in SEEDS for row in measure_seed(seed)])


if __name__ == "__main__":
    main()
