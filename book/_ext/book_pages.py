"""What the book asks of Sphinx beyond its settings: equations offline, no console errors."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.fileutil import copy_asset

MATHJAX = "mathjax/tex-mml-chtml.js"


def _copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax's one-file build and its fonts from the package that carries them."""
    if error is not None or app.builder.format != "html":
        return
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("the package sphinx-mathjax-offline is missing: pip install -e '.[book]'")
    source = Path(spec.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = "output/chtml/fonts/woff-v2"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-mml-chtml.js", target)
    copy_asset(str(source / fonts), str(target / fonts))


def _drop_repeated_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Keep one of each script: Jupyter Book registers its inline scripts twice, and the second one throws."""
    scripts = {(s.filename or "", str(s.attributes)): s for s in context.get("script_files", [])}
    context["script_files"] = list(scripts.values())


def setup(app: Sphinx) -> dict[str, bool]:
    app.config.mathjax_path = MATHJAX
    app.connect("build-finished", _copy_mathjax)
    app.connect("html-page-context", _drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
