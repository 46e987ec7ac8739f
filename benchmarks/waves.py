"""One wave and a linear head on the bundled digits, from too slow to too fast, against heads without waves.

python benchmarks/waves.py        writes csos_lib/results/waves.csv, a few minutes on one core

Every variant trains the same 7,850 numbers for the same epochs; "learned" also learns its one scale.
"""

import torch
from torch import Tensor, nn

import csos_lib
from csos_lib.operators import Bank, Expression, gelu, h, phase, rms, sin, weight
from table import write_table

EPOCHS, LR = 8, 0.002
SCALES = (0.01, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 100.0)
COLUMNS = ("variant", "scale", "seed", "train_accuracy", "test_accuracy", "last_scale")


class Head(nn.Module):
    """One operator on the normalised pixels, and a linear head."""

    def __init__(self, operator: Expression, learnable: bool = False) -> None:
        super().__init__()
        self.bank, self.head = Bank([operator], learnable), nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        return torch.log_softmax(self.head(self.bank(rms(images))[0]), -1)


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[list[object]] = []
    for seed in range(3):
        runs: list[tuple[str, float, Expression, bool]] = [
            ("linear", 0.0, h, False),
            ("random map", 0.0, h @ weight(784, seed), False),
            ("gelu", 0.0, gelu(h @ weight(784, seed)), False),
            *(("wave", s, sin(phase(h, 784, s, seed)), False) for s in SCALES),
            *(("learned", s, sin(phase(h, 784, s, seed)), True) for s in (0.1, 10.0)),
        ]
        for variant, scale, operator, learnable in runs:
            torch.manual_seed(seed)
            model = Head(operator, learnable)
            history = csos_lib.fit(model, data, epochs=EPOCHS, lr=LR, seed=seed, progress=False)
            accuracy = csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy
            last = next((x.item() for x in model.bank.parameter_values().values()), scale)
            numbers = [history.train_accuracy[-1], accuracy, last]
            rows.append([variant, scale, seed, *(f"{v:.5g}" for v in numbers)])
            print(*rows[-1], flush=True)
    write_table("waves", COLUMNS, rows)


if __name__ == "__main__":
    main()
