"""Export the named figures of chapters for slides, as PNG (300 dots an inch) and SVG.

    python tools/figures.py [NOTEBOOK ...]    all of notebooks/ by default; writes to figures/

A drawing can be made larger only where it is made, so each chapter is run once more, in a fresh kernel, with
the inline backend told to give both formats. fig-dying of chapter 4 becomes figures/04-dying.png and .svg.
"""

import base64
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
BACKEND = """\
from matplotlib_inline.backend_inline import set_matplotlib_formats

set_matplotlib_formats("png", "svg", dpi=300)
"""


def export(path: Path, folder: Path) -> list[Path]:
    """Run a chapter and write each of its named figures into a folder."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(BACKEND))
    NotebookClient(notebook, timeout=600, resources={"metadata": {}}).execute(cwd=str(path.parent))
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name", "")
        pictures = [
            output.data for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        if name and pictures:
            stem = folder / f"{path.stem[:2]}-{name.removeprefix('fig-')}"
            files = (stem.with_suffix(".png"), stem.with_suffix(".svg"))
            files[0].write_bytes(base64.b64decode(pictures[0]["image/png"]))
            files[1].write_text(pictures[0]["image/svg+xml"], encoding="utf-8")
            written += files
    return written


if __name__ == "__main__":
    if any(argument.startswith("-") for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    for chapter in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted((ROOT / "notebooks").glob("*.ipynb")):
        print(f"{chapter.name}: {len(export(chapter, ROOT / 'figures')) // 2} figures", flush=True)
