"""Under each numbered equation, the functions of the library whose docstrings name it.

The docstrings say `:eq:`; the way back is made here, so that neither side can lack the other. And "Chapter 3"
in a docstring becomes a link to that chapter.
"""

import importlib
import inspect
import re
from collections import defaultdict
from functools import cache
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry
from sphinx.environment import BuildEnvironment

NOT_MATHEMATICS = ("csos_lib.plots", "csos_lib.animation", "csos_lib.playground")


def _docstring(name: str) -> str:
    """The docstring behind a full name such as csos_lib.CSOS.inject."""
    path = name.split(".")
    for end in range(len(path), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(path[:end]))
        except ImportError:
            continue
        for attribute in path[end:]:
            found = getattr(found, attribute, None)
        return inspect.getdoc(found) or ""
    return ""


def _objects(env: BuildEnvironment) -> dict[str, ObjectEntry]:
    objects: dict[str, ObjectEntry] = env.domaindata["py"]["objects"]
    return objects


@cache
def functions_by_equation(env: BuildEnvironment) -> dict[str, list[str]]:
    """For each label, the names on the API page whose docstrings refer to it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, entry in _objects(env).items():
        shown = entry.objtype in ("function", "class", "method") and not entry.aliased
        if shown and not name.startswith(NOT_MATHEMATICS):
            for label in dict.fromkeys(re.findall(r":eq:`([\w-]+)`", _docstring(name))):
                found[label].append(name)
    return found


def _name_functions(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    objects = _objects(app.env)
    for equation in list(doctree.findall(nodes.math_block)):
        names = functions_by_equation(app.env).get(equation.get("label"), [])
        if not names:
            continue
        line = nodes.paragraph("", "In the library: ", classes=["in-the-library"])
        for name in names:
            line += [nodes.Text(", ")] * (name != names[0])
            page = app.builder.get_relative_uri(docname, objects[name].docname)
            link = nodes.reference("", "", internal=True, refuri=f"{page}#{objects[name].node_id}")
            link += nodes.literal("", name.removeprefix("csos_lib."))
            line += link
        equation.parent.insert(equation.parent.index(equation) + 1, line)


def _link_chapters(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    pages = {int(page[10:12]): page for page in app.env.found_docs if re.match(r"notebooks/\d\d-", page)}

    def link(chapter: re.Match[str]) -> str:
        page = pages.get(int(chapter[1]))
        return f":doc:`{chapter[0]} </{page}>`" if page else chapter[0]

    lines[:] = [line if ">>>" in line else re.sub(r"\bChapter (\d+)\b", link, line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _link_chapters)
    app.connect("doctree-resolved", _name_functions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
