"""Write the chapters without their solutions and answers, for a class.

    python tools/student_copies.py [FOLDER]    FOLDER is student/ unless given

Only the cells tagged "solution" and "answers" (with which a chapter tries its checkers) are left out.
"""

import sys
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).parent.parent
LEFT_OUT = {"solution", "answers"}


def without_solutions(notebook: Any) -> Any:
    """A copy of the notebook without the cells tagged with one of LEFT_OUT."""
    copy = nbformat.from_dict(notebook)
    copy.cells = [cell for cell in copy.cells if not LEFT_OUT & set(cell.metadata.get("tags", []))]
    return copy


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        nbformat.write(without_solutions(nbformat.read(path, as_version=4)), folder / path.name)
        print(f"{folder / path.name}: written")


if __name__ == "__main__":
    if len(sys.argv) > 2 or any(argument.startswith("-") for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else ROOT / "student")
