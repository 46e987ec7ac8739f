"""One command gives the book's figures for slides."""

import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from figures import export  # noqa: E402

DRAWING = "import matplotlib.pyplot as plt\n\nplt.plot([1, 2])\nplt.show()"


def test_named_figures_become_png_and_svg(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(DRAWING), nbformat.v4.new_code_cell(DRAWING)]
    cells[0].metadata = {"mystnb": {"figure": {"name": "fig-line", "caption": "A line."}}}
    chapter = tmp_path / "07-lines.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), chapter)
    written = export(chapter, tmp_path / "figures")
    assert [path.name for path in written] == ["07-line.png", "07-line.svg"]
    png = written[0].read_bytes()
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") > 1200, "wide enough for a slide"
    assert "<svg" in written[1].read_text(encoding="utf-8")
