"""Waves and a linear head on the bundled digits, from too slow to too fast, against heads without waves.

python benchmarks/waves.py        writes csos_lib/results/waves.csv, about five minutes on one core

Every variant trains the same 7,850 numbers for the same epochs; "learned" also learns its scale, "gelu" has
the same knob as the wave, gelu(s h W), and "mixture" is a soft mixture of memo 2's sixteen waves at the
temperature in the column of the scale, which learns sixteen more; "centred" is a wave whose mean over the
training images is taken away and whose size is made 1 before the head sees it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import csos_lib
from csos_lib.operators import Bank, Expression, Mixture, cos, gelu, h, phase, rms, sin, spread, weight
from table import write_table

EPOCHS, LR = 8, 0.002
SCALES = (0.01, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)
COLUMNS = ("variant", "scale", "seed", "train_accuracy", "test_accuracy", "last_scale", "largest")


class Head(nn.Module):
    """One operator on the normalised pixels, or a soft mixture of several, and a linear head."""

    def __init__(self, operators: Sequence[Expression], learnable: bool, temperature: float) -> None:
        super().__init__()
        self.mixture = Mixture(Bank(operators, learnable), temperature)
        self.head = nn.Linear(784, 10)
        self.mean, self.size = torch.zeros(784), torch.ones(())

    def centre(self, images: Tensor) -> None:
        """From now on the head sees answers with mean 0 over these images and of size 1."""
        with torch.no_grad():
            answers = self.mixture(rms(images))
            self.mean = answers.mean(0)
            self.size = (answers - self.mean).std()

    def forward(self, images: Tensor) -> Tensor:
        return torch.log_softmax(self.head((self.mixture(rms(images)) - self.mean) / self.size), -1)


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[list[object]] = []
    for seed in range(3):
        z = h @ weight(784, seed)
        sixteen = [f(phase(h, 784, s, seed)) for s in spread(1e-2, 1e2, 8) for f in (sin, cos)]
        runs: list[tuple[str, float, list[Expression], bool]] = [
            ("linear", 0.0, [h], False),
            ("random map", 0.0, [z], False),
            *(("gelu", s, [gelu(s * z)], False) for s in SCALES),
            *(("wave", s, [sin(phase(h, 784, s, seed))], False) for s in SCALES),
            *(("centred", s, [sin(phase(h, 784, s, seed))], False) for s in (0.01, 10.0)),
            *(("learned", s, [sin(phase(h, 784, s, seed))], True) for s in (0.1, 10.0)),
            *(("mixture", t, sixteen, False) for t in (1.0, 0.1, 0.02)),
        ]
        for variant, scale, operators, learnable in runs:
            torch.manual_seed(seed)
            model = Head(operators, learnable, scale if variant == "mixture" else 1.0)
            if variant == "centred":
                model.centre(data.train_images)
            history = csos_lib.fit(model, data, epochs=EPOCHS, lr=LR, seed=seed, progress=False)
            accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
            bank = model.mixture.bank
            last = next((x.item() for x in bank.parameter_values().values()), scale)
            largest = bank.names[int(model.mixture.weights.argmax())]
            numbers = [history.train_accuracy[-1], accuracy, last]
            rows.append([variant, scale, seed, *(f"{v:.5g}" for v in numbers), largest])
            print(*rows[-1], flush=True)
    write_table("waves", COLUMNS, rows)


if __name__ == "__main__":
    main()
