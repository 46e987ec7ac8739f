"""How fast a bank of operators is at (B, d) = (256, 256): forward, and forward and backward.

    python benchmarks/operators.py                                   everything, about half an hour
    python benchmarks/operators.py --banks library --counts 32 64    these rows again, the others stay

Writes csos_lib/results/operators.csv. Banks: "library" is the mini library, doubled; "programs" are random
programs. What counts is the ratio: in every round each candidate runs beside the operators one by one, and
the table has the median of the rounds' ratios, the smallest and the largest. One thread, float32, processor
time, which other programs disturb little.

one by one: K banks of one operator each, every one with its own graph and fixed tensors.
bank:       their graph, which writes (K, B, d).
in place:   the same into a table that it is given, `bank(h, out=table)`; forward only.
mixture:    their weighted sum, streamed; it is held against `one by one` without any sum.
stacked:    the answers of the graph without their norms, stacked, then one norm over all of them.
vmap:       operators that differ in numbers only are one call of torch.vmap over these numbers.
compiled:   torch.compile of the bank, K = 32 only.
recomputed: the mixture in blocks of 32 operators, run again in the backward pass (torch.utils.checkpoint).
floor:      one pass that writes K x B x d numbers into memory just asked for.
sin:        torch.sin over (B, d), to compare runs of different hours: a machine is not always equally fast.

memory: "returned", as the C library does unless told otherwise: large tables go back to the system when they
are freed, and each call asks for them again; "kept": the process keeps them (by the settings in MEMORY).
They are glibc's and count from the start of a process, so this program starts itself again for each.

peak_megabytes: how far one call raises the resident memory (Linux); forward is without gradients. For
`one by one` that is the hungriest operator's, because each has been forgotten when the next one runs.
"""

import argparse
import csv
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from reactions import peak_megabytes, processor
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from csos_lib.operators import Bank, Expression, Mixture, mini_library, mix, rms, sample_programs
from table import RESULTS, write_table

COLUMNS = (
    "bank",
    "count",
    "pass",
    "memory",
    "candidate",
    "milliseconds",
    "ratio",
    "ratio_low",
    "ratio_high",
    "peak_megabytes",
    "nodes_written",
    "nodes",
    "products_written",
    "products",
)
B = D = 256
COUNTS = {"library": (32, 64, 128, 256, 512, 1024), "programs": (32, 256, 1024)}
BLOCK = 32
WITH_PEAK = ("one by one", "bank", "in place", "mixture", "recomputed", "floor")
GIBIBYTE = str(2**30)
MEMORY = {
    "returned": {},
    "kept": {"MALLOC_TRIM_THRESHOLD_": GIBIBYTE, "MALLOC_MMAP_THRESHOLD_": GIBIBYTE},
}


@functools.cache
def expressions(bank: str, count: int) -> list[Expression]:
    if bank == "programs":
        return [rms(f) if f.name != "rms" else f for f in sample_programs(count, D)]
    library = mini_library(D)
    while len(library) < count:
        library = library.doubled()
    return list(library.expressions)


def same_form(operators: list[Expression]) -> list[list[int]]:
    """The numbers of the operators that differ in continuous parameters only."""
    groups: dict[object, list[int]] = {}

    def form(f: Expression) -> object:
        numbers = tuple((name, value) for name, value in f.parameters if name not in f.primitive.continuous)
        return f.name, tuple(map(form, f.inputs)), numbers

    for k, f in enumerate(operators):
        groups.setdefault(form(f), []).append(k)
    return list(groups.values())


def stacked_by_vmap(operators: list[Expression]) -> Callable[[Tensor], Tensor]:
    calls: list[Callable[[Tensor], Tensor]] = []
    for group in same_form(operators):
        bank = Bank([operators[group[0]]], learnable=True)
        if bank.log_parameters is None:
            calls.append(bank)
            continue
        numbers = torch.stack(
            [p.detach() for k in group if (p := Bank([operators[k]], True).log_parameters) is not None]
        )

        def call(x: Tensor, bank: Bank = bank, numbers: Tensor = numbers) -> Tensor:
            def one(log_parameters: Tensor) -> Tensor:
                values = {"log_parameters": log_parameters}
                answer: Tensor = torch.func.functional_call(bank, values, (x,))
                return answer[0]

            return torch.vmap(one)(numbers)

        calls.append(call)
    return lambda x: torch.cat([call(x) for call in calls])


def candidates(
    bank: str, operators: list[Expression], x: Tensor, backward: bool
) -> dict[str, Callable[[], None]]:
    """What is timed; each call returns nothing and leaves nothing behind."""
    count = len(operators)
    alone = [Bank([f]) for f in operators]
    graph = Bank(operators)
    mixture = Mixture(graph)
    gradient = torch.randn(B, D)
    gradients = gradient.expand(count, B, D).contiguous() if backward else gradient

    def one_by_one() -> None:
        for k, one in enumerate(alone):
            run(one, gradients[k : k + 1])

    def run(model: Callable[[Tensor], Tensor], gradient: Tensor) -> None:
        if backward:
            model(x.detach().requires_grad_()).backward(gradient)
        else:
            with torch.no_grad():
                model(x)

    found: dict[str, Callable[[], None]] = {
        "one by one": one_by_one,
        "bank": lambda: run(graph, gradients),
        "mixture": lambda: run(mixture, gradient),
    }
    if count <= 256:
        raw = Bank([f.inputs[0] if f.name == "rms" else f for f in operators], normalised=False)
        found["stacked"] = lambda: run(lambda h: rms(raw(h)), gradients)
        if bank == "library":
            by_vmap = stacked_by_vmap(operators)
            found["vmap"] = lambda: run(by_vmap, gradients)
    if backward and 32 < count <= 256:
        blocks = [Bank(operators[i : i + BLOCK]) for i in range(0, count, BLOCK)]

        def recomputed(x: Tensor) -> Tensor:
            parts = zip(blocks, mixture.weights.split(BLOCK), strict=True)
            y = [checkpoint(mix, block, x, weights, use_reentrant=False) for block, weights in parts]
            return torch.stack(y).sum(0)

        found["recomputed"] = lambda: run(recomputed, gradient)
    if not backward:
        table = torch.empty(count, B, D)
        found["in place"] = lambda: run(lambda h: graph(h, out=table), gradient)
        found["sin"] = lambda: (torch.sin(x), None)[1]
        found["floor"] = lambda: (torch.empty(count, B, D).fill_(1.0), None)[1]
    return found


def seconds(call: Callable[[], object], at_least: float) -> float:
    """Processor time of the fastest of as many calls as fit into a while."""
    best, until = float("inf"), time.perf_counter() + at_least
    while best == float("inf") or time.perf_counter() < until:
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def measure(bank: str, count: int, backward: bool, memory: str, patience: float) -> list[list[object]]:
    torch.manual_seed(0)
    x = torch.randn(B, D)
    operators = expressions(bank, count)
    cost = Bank(operators).cost()
    found = candidates(bank, operators, x, backward)
    for name, call in list(found.items()):
        try:
            call()
        except Exception as error:  # no compiler, no batching rule: the table says so by an empty line
            print(f"{name} does not work here: {str(error).splitlines()[0]}")
            del found[name]
    times: dict[str, list[float]] = {name: [] for name in found}
    until = time.perf_counter() + patience
    while len(times["mixture"]) < 3 or time.perf_counter() < until:
        for name, call in found.items():
            times[name].append(seconds(call, 0.05))
    rows: list[list[object]] = []
    for name, call in found.items():
        ratios = [a / b for a, b in zip(times["one by one"], times[name], strict=True)]
        taken = statistics.median(times[name])
        peak = peak_megabytes(call) if name in WITH_PEAK else None
        row = [bank, count, "both" if backward else "forward", memory, name]
        row += [f"{taken * 1e3:.4g}", f"{statistics.median(ratios):.2f}"]
        row += [f"{min(ratios):.2f}", f"{max(ratios):.2f}", "" if peak is None else f"{peak:.1f}"]
        rows.append([*row, *cost[1:]])
        print("  ".join(map(str, rows[-1])), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--banks", nargs="+", default=list(COUNTS))
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS["library"])
    parser.add_argument("--passes", nargs="+", default=["forward", "both"])
    parser.add_argument("--memory", nargs="+", default=list(MEMORY), choices=list(MEMORY))
    parser.add_argument("--patience", type=float, default=8, help="seconds a measurement")
    arguments = parser.parse_args()
    if "CSOS_MEMORY" not in os.environ:
        for memory in arguments.memory:
            environment = os.environ | MEMORY[memory] | {"CSOS_MEMORY": memory}
            subprocess.run([sys.executable, *sys.argv], env=environment, check=True)
        return
    torch.set_num_threads(1)
    print(processor())
    path = RESULTS / "operators.csv"
    rows: dict[tuple[str, ...], list[object]] = {}
    if path.exists():
        with path.open(encoding="utf-8") as file:
            table = csv.reader(line for line in file if not line.startswith("#"))
            next(table)
            rows = {tuple(row[:5]): list(row) for row in table}
    for bank in arguments.banks:
        for count in sorted(set(arguments.counts) & set(COUNTS[bank])):
            for way in arguments.passes:
                for row in measure(bank, count, way == "both", os.environ["CSOS_MEMORY"], arguments.patience):
                    rows[tuple(map(str, row[:5]))] = row
                    write_table("operators", COLUMNS, rows.values(), processor())


if __name__ == "__main__":
    main()
