"""What the book asks of Sphinx beyond its settings.

Equations without a network, no console errors, and chapters numbered as their files are.
"""

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.environment.collectors.toctree import TocTreeCollector
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


def _plain_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Take bars for absolute values, and what is returned for a sentence, not for a type and a sentence."""
    returns = False
    for i, line in enumerate(lines):
        if not line.startswith(">>>"):
            lines[i] = line.replace("|", r"\|")
        if line in ("Returns:", "Yields:"):
            lines[i], returns = f":{line[:-1].lower()}:", True
        elif line and not line.startswith(" "):
            returns = False
        elif returns and line:
            lines[i] = lines[i].replace(": ", r"\: ")


class _ChaptersByFile(TocTreeCollector):
    """Numbers notebooks/13-the-contract 13, also while part II is missing: exercises and files say 13 too."""

    def assign_section_numbers(self, env: BuildEnvironment) -> list[str]:
        changed = super().assign_section_numbers(env)
        for docname, numbers in env.toc_secnumbers.items():
            found = re.match(r"notebooks/(\d+)-", docname)
            if found:
                chapter = int(found[1])
                env.toc_secnumbers[docname] = {
                    anchor: number and (chapter, *number[1:]) for anchor, number in numbers.items()
                }
                entries = [env.titles[docname], *env.tocs[docname].findall(nodes.reference)]
                for entry in entries:
                    if entry.get("secnumber"):
                        entry["secnumber"] = [chapter, *entry["secnumber"][1:]]
        return changed


def setup(app: Sphinx) -> dict[str, bool]:
    app.config.mathjax_path = MATHJAX
    app.add_env_collector(_ChaptersByFile)
    app.connect("autodoc-process-docstring", _plain_docstring, priority=400)  # before napoleon
    app.connect("build-finished", _copy_mathjax)
    app.connect("html-page-context", _drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
