"""A figure without an alternative text is a warning, and `make strict-book` fails on warnings."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _check(app: Sphinx, doctree: nodes.document) -> None:
    for image in doctree.findall(nodes.image):
        alt = image.get("alt", "")
        if len(alt) < 20 or "_build/" in alt:  # a figure of a notebook has the path of its file otherwise
            logger.warning("image without an alternative text: %r", alt or image["uri"], location=image)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
