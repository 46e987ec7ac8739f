"""How fast the reactions are: forward and backward of T = 5 Euler steps, against the memo's einsum.

    python benchmarks/reactions.py                          three to ten minutes on one core
    pip install opt_einsum; python benchmarks/reactions.py  measures with and without it

Writes csos_lib/results/reactions.csv, row by row. What counts is the ratio: in every round each candidate
runs once beside the einsum, so both see the same machine, and the table has the median of the rounds' ratios
and their quartiles. With one thread the clock is processor time, which other programs disturb little; with
two it is wall time.

gemm_share: the multiplications that the candidate needs (forward, and twice as many backward), divided by its
time and by the rate of a 1024 x 1024 matrix product measured in the same rounds. For dense and symmetric that
is N^2 (N + 1) / 2 a sample and step, so the einsum, which does N^3, cannot reach more than a half.
peak_megabytes: how far one forward and backward raises the resident memory (Linux, one thread).
"""

import argparse
import csv
import ctypes
import gc
import importlib.util
import itertools
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import csos_lib
from csos_lib.dynamics import run
from csos_lib.quadratic import count_pairs
from csos_lib.reactions import (
    CPReaction,
    DenseReaction,
    PairwiseReaction,
    SymmetricReaction,
    TuckerReaction,
)

STEPS = 5
RESULT = Path(csos_lib.__file__).parent / "results" / "reactions.csv"
COLUMNS = (
    "threads",
    "opt_einsum",
    "num_basis",
    "batch",
    "reaction",
    "milliseconds",
    "ratio",
    "ratio_low",
    "ratio_high",
    "gemm_share",
    "peak_megabytes",
)


class Einsum(DenseReaction):
    """The memo's line; its W[i, j, k] is ours with the axes in another order."""

    subscripts = "ijk,bi,bj->bk"

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.einsum(self.subscripts, self.weight, x, x)


class EinsumPairsFirst(DenseReaction):
    """The same with the operands in a better order for a torch that goes from left to right."""

    def _lay_out(self) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.einsum("bi,bj,kij->bk", x, x, self.weight)


def candidates(n: int) -> dict[str, tuple[torch.nn.Module, int]]:
    """Each reaction with the multiplications that it needs for one sample and step."""
    quadratic = n * count_pairs(n)
    found: dict[str, tuple[torch.nn.Module, int]] = {
        "einsum": (Einsum(n), quadratic),
        "einsum, pairs first": (EinsumPairsFirst(n), quadratic),
        "dense": (DenseReaction(n), quadratic),
        "symmetric": (SymmetricReaction(n), quadratic),
        "pairwise": (PairwiseReaction(n), 2 * n * n),
    }
    for rank in (16, 64, n):
        found[f"cp {rank}"] = (CPReaction(n, rank), 3 * n * rank)
    for rank in (16, n // 2):
        found[f"tucker {rank}"] = (TuckerReaction(n, rank), 3 * n * rank + rank**3)
    return found


def train_step(reaction: torch.nn.Module, x: Tensor) -> None:
    for parameter in reaction.parameters():
        parameter.grad = None
    run(x, reaction, STEPS, 0.1, 1.0)[:, :10].sum().backward()


def seconds(call: Callable[[], object], clock: Callable[[], float], least: float = 0.02) -> float:
    """Seconds of one call, from as many calls as take `least` seconds."""
    calls, start = 0, clock()
    while True:
        call()
        calls += 1
        taken = clock() - start
        if taken >= least:
            return taken / calls


def peak_megabytes(call: Callable[[], object]) -> float | None:
    """How far a call raises the resident memory; Linux only."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])  # type: ignore[index]
    call()
    return (int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) - before) / 1024  # type: ignore[index]


def measure(threads: int, opt_einsum: bool, n: int, batch: int, rounds: int) -> list[list[object]]:
    torch.set_num_threads(threads)
    torch.backends.opt_einsum.enabled = opt_einsum
    clock = time.process_time if threads == 1 else time.perf_counter
    torch.manual_seed(0)
    x = torch.rand(batch, n).softmax(1).requires_grad_()
    square = torch.rand(1024, 1024)
    found = candidates(n)
    if opt_einsum:  # nothing else calls einsum
        found = {name: found[name] for name in ("einsum", "einsum, pairs first", "symmetric")}
    calls = {name: lambda r=reaction: train_step(r, x) for name, (reaction, _) in found.items()}
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    rates = []
    for _ in range(rounds):
        rates.append(1024**3 / seconds(lambda: square @ square, clock))
        for name, call in calls.items():
            times[name].append(seconds(call, clock))
    rate = statistics.median(rates)
    rows: list[list[object]] = []
    for name, (_, multiplications) in found.items():
        ratios = sorted(e / t for e, t in zip(times["einsum"], times[name], strict=True))
        low, middle, high = statistics.quantiles(ratios, n=4)
        taken = statistics.median(times[name])
        share = 3 * STEPS * batch * multiplications / taken / rate
        peak = peak_megabytes(calls[name]) if threads == 1 else None
        row = [threads, "yes" if opt_einsum else "no", n, batch, name, f"{taken * 1e3:.3g}"]
        row += [f"{middle:.2f}", f"{low:.2f}", f"{high:.2f}", f"{share:.2f}"]
        rows.append([*row, "" if peak is None else f"{peak:.1f}"])
        print(
            "  ".join(f"{column} {value}" for column, value in zip(COLUMNS, rows[-1], strict=True)),
            flush=True,
        )
    return rows


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-basis", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    with_opt_einsum = [False, True] if importlib.util.find_spec("opt_einsum") else [False]
    with RESULT.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# python benchmarks/reactions.py {' '.join(sys.argv[1:])}".rstrip() + "\n")
        file.write(f"# torch {torch.__version__}, Python {platform.python_version()}, {processor()}\n")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for threads, batch, n, opt_einsum in itertools.product(
            arguments.threads, arguments.batch, arguments.num_basis, with_opt_einsum
        ):
            slow = n**3 * batch > 64**3 * 1024  # seconds a call: fewer rounds
            rounds = max(3, arguments.rounds // 2) if slow else arguments.rounds
            writer.writerows(measure(threads, opt_einsum, n, batch, rounds))
            file.flush()


if __name__ == "__main__":
    main()
