"""Run chapters and write them back normalised, so that running twice gives the same bytes.

    python tools/run_notebooks.py [NOTEBOOK ...]      all of notebooks/ by default
    python tools/run_notebooks.py --twice [NOTEBOOK ...]   write nothing; run twice and compare

Exits with 1 if a cell fails, or if two runs differ. The rounded run time of each chapter goes into its
opening box ("**Run time**: about 10 s on two CPU cores").
"""

import argparse
import os
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent.parent / "notebooks"
SECONDS = (5, 10, 15, 20, 30, 40, 50, 60)
RUN_TIME = re.compile(r"(\*\*Run time\*\*: about )(\d+)( s on two CPU cores)")
SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def run(path: Path) -> tuple[str, float]:
    """The text of a notebook after a run from top to bottom in a fresh kernel, and the seconds that took.

    Seconds of the processor, not of the clock: with one thread they are the same on a quiet machine, and on a
    busy one they do not count the others.
    """
    notebook = nbformat.read(path, as_version=4)
    start = _children_seconds()
    NotebookClient(
        notebook, timeout=600, record_timing=False, coalesce_streams=True, resources={"metadata": {}}
    ).execute(cwd=str(path.parent))
    seconds = _children_seconds() - start
    normalise(notebook)
    return nbformat.writes(notebook) + "\n", seconds


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


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


def with_run_time(path: Path, text: str, seconds: float) -> str:
    """The text with its opening box giving the run time, rounded up to a step of SECONDS.

    The printed time stays while the run takes between half and all of it, so that a quiet machine and a
    busy one write the same.
    """
    found = RUN_TIME.search(text)
    if found is None:
        raise SystemExit(
            f"{path.name}: no line '**Run time**: about N s on two CPU cores' in its opening box"
        )
    printed = int(found[2])
    if printed / 2 <= seconds <= printed:
        return text
    rounded = next((limit for limit in SECONDS if seconds <= limit), None)
    if rounded is None:
        raise SystemExit(
            f"{path.name}: took {seconds:.0f} s, more than the {SECONDS[-1]} s a chapter may take"
        )
    return RUN_TIME.sub(rf"\g<1>{rounded}\g<3>", text)


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
        try:
            text, seconds = run(path)
            if arguments.twice:
                same = run(path)[0] == text
                failures += not same
                print("same bytes twice" if same else "DIFFERS between two runs")
                continue
        except CellExecutionError as error:
            print(f"FAILED\n{error}")
            failures += 1
            continue
        path.write_text(with_run_time(path, text, seconds), encoding="utf-8")
        print(f"{seconds:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
