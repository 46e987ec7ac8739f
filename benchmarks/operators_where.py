"""Where a bank of 256 operators spends its time at (B, d) = (256, 256), forward and with backward.

    python benchmarks/operators_where.py        writes csos_lib/results/operators_where.csv, about a minute

Every node of the mini library, doubled to 256, and of 256 random programs is computed on its own, five times,
and the fastest counts; the times of equal primitives are added up. Processor time, one thread, float32. In a
mixture the norms are cheaper than here: what is left of them is one number for each row.
"""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from reactions import processor
from torch import Tensor

from csos_lib.operators import Bank, Expression, h, mini_library, sample_programs
from table import write_table

B = D = 256
K = 256


def fastest(call: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def forth_and_back(function: Callable[..., Tensor], leaves: list[Tensor], gradient: Tensor) -> None:
    torch.autograd.grad(function(*leaves), leaves, gradient)


def measure(name: str, bank: Bank) -> list[list[object]]:
    values: dict[Expression, Tensor] = {h: torch.randn(B, D)}
    nodes, forward, both = Counter[str](), dict[str, float](), dict[str, float]()
    for node in bank.nodes:
        if node == h:
            continue
        function = partial(node.primitive.function, **dict(node.parameters))
        inputs = [values[x] for x in node.inputs]
        value = values[node] = function(*inputs).float()
        if inputs:
            leaves, gradient = [x.clone().requires_grad_() for x in inputs], torch.ones_like(value)
            nodes[node.name] += 1
            forward[node.name] = forward.get(node.name, 0) + fastest(partial(function, *inputs))
            run = partial(forth_and_back, function, leaves, gradient)
            both[node.name] = both.get(node.name, 0) + fastest(run)
    rows: list[list[object]] = []
    for kind, taken in (("forward", forward), ("both", both)):
        total = sum(taken.values())
        for primitive, t in sorted(taken.items(), key=lambda item: -item[1]):
            count = nodes[primitive]
            rows.append([name, kind, primitive, count, 1e3 * t, 1e6 * t / count, t / total])
    return rows


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    library = mini_library(D)
    while len(library) < K:
        library = library.doubled()
    rows = measure("library", library) + measure("programs", Bank(sample_programs(K, D)))
    for row in rows:
        print(row)
    columns = ("bank", "pass", "primitive", "nodes", "milliseconds", "microseconds_per_node", "share")
    write_table("operators_where", columns, rows, processor())


if __name__ == "__main__":
    main()
