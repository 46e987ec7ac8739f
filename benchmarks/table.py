"""How a benchmark writes its table: where, and with which lines on top that say how it was made."""

import csv
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import csos_lib

RESULTS = Path(csos_lib.__file__).parent / "results"


def write_table(
    name: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    machine: str = "",
    command: str | None = None,
) -> None:
    """Write csos_lib/results/NAME.csv, the result of a command (benchmarks/NAME.py) run on one thread.

    Timings name the machine.
    Floats get six digits; all else is written as it is.
    """
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        print(f"# {command or f'python benchmarks/{name}.py'}", file=file)
        versions = f"torch {torch.__version__}, Python {platform.python_version()}"
        print(f"# {', '.join(filter(None, (versions, machine, 'one thread')))}", file=file)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows])
