"""What compilation gives: a bank and a dense reaction, eager, compiled and, the bank, one by one.

    python benchmarks/compiled.py [K ...]      writes csos_lib/results/compiled.csv; K is 32, 64, 128 at first

Milliseconds of one call on 256 rows of 64 numbers (128 soups for a reaction), the least of five rounds; the
modes of one module take turns, round by round, so that a slow moment hits all alike. "both" is forward and
backward with gradients for the input and all parameters. "seconds" is what the first compiled call took: the
price of a compiled module before it pays.
"""

import platform
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from csos_lib.operators import Bank, mini_library
from csos_lib.reactions import DenseReaction
from table import write_table

COLUMNS = ("module", "size", "batch", "direction", "mode", "milliseconds", "seconds")
ROUNDS = 5


def forward(module: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def both(module: Callable[[Tensor], Tensor], x: Tensor) -> None:
    module(x).square().sum().backward()


def measure(
    modes: dict[str, Callable[[Tensor], Tensor]], x: Tensor, run: Callable[..., None]
) -> list[list[object]]:
    """Rows (mode, milliseconds, seconds of the first call)."""
    first, count = {}, {}
    for mode, module in modes.items():
        start = time.perf_counter()
        run(module, x)
        first[mode] = time.perf_counter() - start
        run(module, x)
        start = time.perf_counter()
        run(module, x)
        count[mode] = max(1, int(0.2 / (time.perf_counter() - start)))
    least = dict.fromkeys(modes, float("inf"))
    for _ in range(ROUNDS):
        for mode, module in modes.items():
            start = time.perf_counter()
            for _ in range(count[mode]):
                run(module, x)
            least[mode] = min(least[mode], (time.perf_counter() - start) / count[mode])
    return [[mode, 1000 * least[mode], first[mode] if mode == "compiled" else ""] for mode in modes]


class OneByOne(nn.Module):
    """A bank of one for each operator: nothing is shared."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.banks = nn.ModuleList(Bank([f]) for f in bank.expressions)

    def forward(self, h: Tensor) -> Tensor:
        return torch.cat([bank(h) for bank in self.banks])


def table(sizes: list[int]) -> list[list[object]]:
    rows: list[list[object]] = []

    def add(
        name: str, size: int, batch: int, modes: dict[str, Callable[[Tensor], Tensor]], x: Tensor
    ) -> None:
        for direction, run in (("forward", forward), ("both", both)):
            for measured in measure(modes, x, run):
                rows.append([name, size, batch, direction, *measured])
                print(*rows[-1], flush=True)

    for size in (32, 64, 128):
        reaction = DenseReaction(size)
        soups = torch.rand(128, size).softmax(1).requires_grad_()
        modes: dict[str, Callable[[Tensor], Tensor]] = {
            "eager": reaction,
            "compiled": torch.compile(reaction),
        }
        add("dense reaction", size, len(soups), modes, soups)
    for size in sizes:
        bank = mini_library(64)
        while len(bank) < size:
            bank = bank.doubled()
        h = torch.randn(256, 64, requires_grad=True)
        modes = {"eager": bank, "compiled": torch.compile(bank), "one by one": OneByOne(bank)}
        add("bank", len(bank), len(h), modes, h)
    return rows


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {platform.system()}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sizes = [int(word) for word in sys.argv[1:]] or [32, 64, 128]
    write_table("compiled", COLUMNS, table(sizes), machine())
