"""Run chapters and write them back normalised, so that running twice gives the same bytes.

    python tools/run_notebooks.py [NOTEBOOK ...]      all of notebooks/ by default
    python tools/run_notebooks.py --twice [NOTEBOOK ...]   write nothing; run twice and compare

Exits with 1 if a cell fails, or if two runs differ. What each chapter costs is kept in notebooks/costs.csv
and printed in its opening box ("**Run time**: about 10 s on two CPU cores, 600 MB of memory"). Time is
measured against the loop of tools/calibration.py, run just before on the same machine, so that a slow or a
busy one writes the same. Memory is read from /proc: elsewhere than on Linux a chapter keeps its costs.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent.parent / "notebooks"
COSTS = FOLDER / "costs.csv"
CALIBRATION = Path(__file__).parent / "calibration.py"
CALIBRATION_SECONDS = 4.5  # what the loop takes on the machine that the header of costs.csv names
HEADER = f"""\
# python tools/run_notebooks.py
# ratio: processor time of the chapter over that of tools/calibration.py, run just before, one thread each
# seconds: ratio x {CALIBRATION_SECONDS} s, which the loop takes on the stated machine: two virtual cores
#   at 2.0 GHz of an Intel Xeon (Sapphire Rapids), Debian 12, Python 3.11, torch 2.14.1
# megabytes: largest resident set of the chapter's kernel on the CPU, torch with its CUDA libraries
"""
SECONDS = (5, 10, 15, 20, 30, 40, 50, 60)
MEGABYTES = (400, 500, 600, 800, 1000, 1200, 1500, 2000)
RUN_TIME = re.compile(r"\*\*Run time\*\*: about \d+ s on two CPU cores(, \d+ MB of memory)?")
SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


class Cost(NamedTuple):
    """Seconds on the stated machine, megabytes, and the ratio to the calibration loop."""

    seconds: float
    megabytes: int
    ratio: float

    def printed(self) -> str:
        """The line of the opening box, both rounded up to a step."""
        seconds, megabytes = rounded_up(self.seconds, SECONDS), rounded_up(self.megabytes, MEGABYTES)
        return f"**Run time**: about {seconds} s on two CPU cores, {megabytes} MB of memory"


def rounded_up(value: float, steps: tuple[int, ...]) -> int:
    """The first step that is enough."""
    for step in steps:
        if value <= step:
            return step
    raise SystemExit(f"{value:.0f} is more than the {steps[-1]} that a chapter may take")


def read_costs() -> dict[str, Cost]:
    """The costs of each chapter, by the name of its file."""
    if not COSTS.exists():
        return {}
    lines = [line for line in COSTS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {
        row["chapter"]: Cost(float(row["seconds"]), int(row["megabytes"]), float(row["ratio"]))
        for row in csv.DictReader(lines)
    }


def keep_cost(chapter: str, cost: Cost) -> Cost:
    """The cost that stands in the file from now on.

    What stands there stays while the new measurement lies between half of what is printed and a little more
    than it, so that two machines, or a quiet one and a busy one, write the same.
    """
    costs = read_costs()
    old = costs.get(chapter)
    if old is None or not all(
        step / 2 <= new <= 1.15 * step
        for new, step in (
            (cost.seconds, rounded_up(old.seconds, SECONDS)),
            (cost.megabytes, rounded_up(old.megabytes, MEGABYTES)),
        )
    ):
        costs[chapter] = cost
        rows = [f"{name},{c.seconds:.1f},{c.megabytes},{c.ratio:.2f}" for name, c in sorted(costs.items())]
        COSTS.write_text(HEADER + "\n".join(["chapter,seconds,megabytes,ratio", *rows, ""]), encoding="utf-8")
    return costs[chapter]


def run(path: Path) -> tuple[str, float, int | None]:
    """The text of a notebook after a run from top to bottom in a fresh kernel, its seconds and megabytes.

    Seconds of the processor, not of the clock: with one thread they are the same on a quiet machine, and on a
    busy one they do not count the others.
    """
    notebook = nbformat.read(path, as_version=4)
    client: Any = None
    megabytes = None

    def measure(**_: object) -> None:
        nonlocal megabytes
        megabytes = _peak_megabytes(client.km.provisioner.pid)

    client = NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {}},
        on_cell_executed=measure,
    )
    start = _children_seconds()
    client.execute(cwd=str(path.parent))
    seconds = _children_seconds() - start
    normalise(notebook)
    return nbformat.writes(notebook) + "\n", seconds, megabytes


def calibrate() -> float:
    """Processor seconds of the calibration loop, in an interpreter of its own as a kernel is."""
    start = _children_seconds()
    subprocess.run([sys.executable, str(CALIBRATION)], check=True)
    return _children_seconds() - start


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _peak_megabytes(process: int) -> int | None:
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) // 1000 if found else None


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Leave nothing in a notebook that differs between two runs or two editors."""
    version = ".".join(map(str, sys.version_info[:1]))
    notebook.metadata = nbformat.from_dict(
        {
            "accelerator": "GPU",
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "version": version},
        }
    )
    notebook.nbformat_minor = 5
    for index, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{index:03d}"
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in sorted(cell.metadata) if key in ("tags", "mystnb", "jupyter")}
        )
        if cell.cell_type == "code":
            for output in cell.outputs:
                output.pop("transient", None)
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)  # a random id
                if "metadata" in output:
                    output.metadata = nbformat.from_dict({})


def with_cost(text: str, cost: Cost) -> str:
    """The text with this cost in its opening box."""
    if RUN_TIME.search(text) is None:
        raise SystemExit("no line '**Run time**: about N s on two CPU cores' in the opening box")
    return RUN_TIME.sub(cost.printed(), text, count=1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--twice", action="store_true", help="write nothing; run twice and compare")
    arguments = parser.parse_args()
    os.environ.update(SETTINGS)
    failures = 0
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        print(f"{path.name}: ", end="", flush=True)
        before = path.read_bytes()
        try:
            yardstick = 0.0 if arguments.twice else calibrate()
            text, seconds, megabytes = run(path)
            if arguments.twice:
                same = run(path)[0] == text
                failures += not same
                print("same bytes twice" if same else "DIFFERS between two runs")
                continue
        except CellExecutionError as error:
            print(f"FAILED\n{error}")
            failures += 1
            continue
        if path.read_bytes() != before:
            print("was changed while it ran: NOT WRITTEN")
            failures += 1
            continue
        ratio = seconds / yardstick
        if megabytes is None:
            kept = read_costs().get(path.stem)
        else:
            kept = keep_cost(path.stem, Cost(ratio * CALIBRATION_SECONDS, megabytes, ratio))
        path.write_text(with_cost(text, kept) if kept else text, encoding="utf-8")
        print(f"{seconds:.1f} s, {ratio:.2f} of the calibration loop, {megabytes or '?'} MB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
