"""What each operator costs at (B, d) = (256, 256), in units of one torch.sin over the same numbers.

    python benchmarks/operator_costs.py        writes csos_lib/results/operator_costs.csv, about two minutes

Every operator is a bank of its own, norm included, on one thread, float32. With each measurement torch.sin is
measured again, so that a ratio compares moments that are close, and the fastest run of each counts, so that
other work on the machine matters little. Each ratio is the median over up to five rounds (slow operators have
fewer), the smallest and the largest beside it.
"""

import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import csos_lib
from csos_lib import operators as ops
from csos_lib.operators import Bank, Expression, h

RESULT = Path(csos_lib.__file__).parent / "results" / "operator_costs.csv"
COLUMNS = (
    "operator",
    "family",
    "library",
    "forward",
    "forward_low",
    "forward_high",
    "both",
    "both_low",
    "both_high",
)
B = D = 256
ROUNDS = 5


def others() -> dict[str, Expression]:
    """What the six families have beyond the mini library."""
    z, c = ops.layer_norm(h), ops.points(D, 64)
    return {
        "rational": ops.rational(ops.rms(h)),
        "edges": ops.edges(h),
        "gaussian_blur": ops.gaussian_blur(h, 2.0),
        "gaussian_blur 16x16": ops.gaussian_blur(h, 2.0, grid=(16, 16)),
        "prototypes": ops.prototypes(h, c, ops.weight(D, rows=64), 1.0),
        "opening": ops.opening(h, 0.5),
        "dilate 3x3": ops.dilate(h, 0.5, grid=(16, 16)),
        "soft_quantile": ops.soft_quantile(h, 0.5),
        "sort": ops.sort(z),
        "softsorted": ops.softsorted(ops.sort(z), 0.5),
        "softsort": ops.weigh(ops.softsort(z, 0.5), z),
        "neuralsort": ops.weigh(ops.neuralsort(z, 0.5 * D), z),
        "soft_rank": ops.layer_norm(ops.soft_rank(z, 0.5)),
        **{f"sinkhorn T={t}": ops.sinkhorn_sort(z, ops.anchors(D), 0.5, t) for t in (3, 10)},
    }


def seconds(run: Callable[[], object], at_least: float) -> float:
    """The fastest of as many runs as fit into a while."""
    best, until, runs = float("inf"), time.perf_counter() + at_least, 0
    while runs < 1 or time.perf_counter() < until:
        start = time.perf_counter()
        run()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


def measure(bank: Bank, x: Tensor) -> list[float]:
    """Ratios to torch.sin: forward, then forward and backward, each as median, smallest and largest."""
    leaf, shape = x.clone().requires_grad_(), (len(bank), *x.shape)
    gradient = torch.randn(shape)

    def forward() -> None:
        with torch.no_grad():
            bank(x)

    def both() -> None:
        leaf.grad = None
        bank(leaf).backward(gradient)

    ratios: list[float] = []
    for run in (forward, both):
        run()
        rounds: list[float] = []
        start = time.perf_counter()
        while len(rounds) < ROUNDS and (not rounds or time.perf_counter() - start < 3):
            rounds.append(seconds(run, 0.04) / seconds(lambda: torch.sin(x), 0.02))
        ratios += [statistics.median(rounds), min(rounds), max(rounds)]
    return ratios


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(B, D)
    library = ops.mini_library(D)
    rows: list[list[object]] = []
    for name, f in zip(library.names, library.expressions, strict=True):
        rows.append([name, f.family, 1, *measure(Bank([f]), x)])
    rows += [[name, f.family, 0, *measure(Bank([f]), x)] for name, f in others().items()]
    information = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next(line.split(":")[1].strip() for line in information if line.startswith("model name"))
    sine = seconds(lambda: torch.sin(x), 0.2) * 1e6
    with RESULT.open("w", newline="", encoding="utf-8") as file:
        print("# python benchmarks/operator_costs.py", file=file)
        print(
            f"# torch {torch.__version__}, Python {platform.python_version()}, {cpu}, one thread", file=file
        )
        print(f"# one torch.sin over ({B}, {D}) took {sine:.0f} microseconds", file=file)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow([f"{v:.3g}" if isinstance(v, float) else v for v in row])
            print("  ".join(f"{v:8.3g}" if isinstance(v, float) else f"{v!s:>22}" for v in row))


if __name__ == "__main__":
    main()
