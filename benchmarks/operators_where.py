"""Where a bank of 256 operators spends its time at (B, d) = (256, 256), forward.

    python benchmarks/operators_where.py        writes csos_lib/results/operators_where.csv, a few seconds

Every node of the mini library, doubled to 256, is computed on its own, five times, and the fastest counts;
the times of equal primitives are added up. Processor time, one thread, float32. In a mixture the norms are
cheaper than here: what is left of them is one number for each row.
"""

import time
from collections import Counter

import torch
from reactions import processor
from torch import Tensor

from csos_lib.operators import Expression, h, mini_library
from table import write_table

B = D = 256
K = 256


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bank = mini_library(D)
    while len(bank) < K:
        bank = bank.doubled()
    values: dict[Expression, Tensor] = {h: torch.randn(B, D)}
    taken: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for node in bank.nodes:
        if node == h:
            continue
        inputs = [values[x] for x in node.inputs]
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            value = node.primitive.function(*inputs, **dict(node.parameters))
            best = min(best, time.process_time() - start)
        values[node] = value.float()
        if inputs:
            nodes[node.name] += 1
            taken[node.name] += best  # type: ignore[assignment]
    total = sum(taken.values())
    rows = [[name, nodes[name], 1e3 * t, 1e6 * t / nodes[name], t / total] for name, t in taken.most_common()]
    for row in rows:
        print(row)
    columns = ("primitive", "nodes", "milliseconds", "microseconds_per_node", "share")
    write_table("operators_where", columns, rows, processor())


if __name__ == "__main__":
    main()
