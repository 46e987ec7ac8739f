"""What compilation gives: a bank and a dense reaction, eager, compiled and, the bank, one by one.

    python benchmarks/compiled.py [K ...]      K is 32, 64, ..., 1024 unless given, which takes an hour

Writes csos_lib/results/compiled.csv, one K after the other; the rows of a K that is not asked for stay.

Milliseconds of one call on 256 rows of 64 numbers (128 soups for a reaction), the least of five rounds; the
modes of one module take turns, round by round, so that a slow moment hits all alike. "both" is forward and
backward with gradients for the input and all parameters. "seconds" is what the first compiled call took: the
price of a compiled module before it pays. What the compiler keeps on disk is not used.
"""

import os
import platform
import sys
import time
from collections.abc import Callable

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
from torch import Tensor, nn

import csos_lib
from csos_lib.operators import Bank, mini_library
from csos_lib.reactions import DenseReaction
from table import RESULTS, write_table

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


def measured(
    name: str, size: int, modes: dict[str, Callable[[Tensor], Tensor]], x: Tensor
) -> list[list[object]]:
    """The rows of one module: both directions, all modes."""
    return [
        [name, size, len(x), direction, *row]
        for direction, run in (("forward", forward), ("both", both))
        for row in measure(modes, x, run)
    ]


def reaction(size: int) -> list[list[object]]:
    module, soups = DenseReaction(size), torch.rand(128, size).softmax(1).requires_grad_()
    modes: dict[str, Callable[[Tensor], Tensor]] = {"eager": module, "compiled": torch.compile(module)}
    return measured("dense reaction", size, modes, soups)


def bank(size: int) -> list[list[object]]:
    library, h = mini_library(64), torch.randn(256, 64, requires_grad=True)
    while len(library) < size:
        library = library.doubled()
    modes: dict[str, Callable[[Tensor], Tensor]] = {"eager": library, "compiled": torch.compile(library)}
    return measured("bank", len(library), modes | {"one by one": OneByOne(library)}, h)


def main(sizes: list[int]) -> None:
    rows: dict[tuple[str, int], list[list[object]]] = {}
    if (RESULTS / "compiled.csv").exists():
        for old in csos_lib.load_results("compiled"):
            values: list[object] = [float(v) if k == "milliseconds" else v for k, v in old.items()]
            rows.setdefault((old["module"], int(old["size"])), []).append(values)
    jobs = [*((reaction, size) for size in (32, 64, 128)), *((bank, size) for size in sizes)]
    for make, size in jobs:
        torch.compiler.reset()
        new = make(size)
        rows[str(new[0][0]), size] = new
        for row in new:
            print(*row, flush=True)
        ordered = [
            row for key in sorted(rows, key=lambda key: (key[0] == "bank", key[1])) for row in rows[key]
        ]
        write_table("compiled", COLUMNS, ordered, machine())


def machine() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {platform.system()}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([int(word) for word in sys.argv[1:]] or [32, 64, 128, 256, 512, 1024])
