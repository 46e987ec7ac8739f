"""On each page the first use of a word of the glossary links to it, with its first sentence as a hover text.

Done when pages are written, so that the notebooks stay plain text.
"""

import re
from functools import cache
from typing import NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

GLOSSARY = "book/glossary"
# A flow or a mixture is another thing in other parts: chapters (from, to) where a section's words mean this.
SECTIONS = {"Reaction networks": (1, 99), "Relatives": (7, 12), "Operators": (13, 99)}
OTHER_SENSE = {("temperature", 16)}  # that of a rod
NO_PROSE = (GLOSSARY, "book/api", "book/bibliography")
NOT_PROSE = (
    nodes.Titular, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.reference,
    nodes.caption, nodes.block_quote, nodes.raw, nodes.table,
)  # fmt: skip


class Word(NamedTuple):
    anchor: str
    sentence: str
    chapters: tuple[int, int]


def first_sentence(definition: str) -> str:
    """The first sentence after the Japanese term."""
    english = re.sub(r"^[^.]*[\u3040-\u9fff][^.]*\. ", "", " ".join(definition.split()))
    return re.split(r"(?<=[.])\s(?=[A-Z`${])", english)[0]


def forms(term: str) -> list[str]:
    """A word and its plurals."""
    plurals = [term + "s"]
    for end, plural in (("y", "ies"), ("um", "a"), ("on", "a")):
        if term.endswith(end):
            plurals.append(term.removesuffix(end) + plural)
    return [term, *plurals]


@cache
def glossary_words(env: BuildEnvironment) -> dict[str, Word]:
    """All words of the glossary and their plurals, in lower case."""
    words: dict[str, Word] = {}
    for section in env.get_doctree(GLOSSARY).findall(nodes.section):
        chapters = SECTIONS.get(section[0].astext())
        if chapters is not None:
            for item in section.findall(nodes.definition_list_item):
                term, definition = item[0], item[-1]
                word = Word(term["ids"][0], first_sentence(definition.astext()), chapters)
                words |= dict.fromkeys(forms(term.astext().lower()), word)
    return words


def _is_prose(text: nodes.Text) -> bool:
    node = text.parent
    while node is not None:
        if isinstance(node, NOT_PROSE):
            return False
        node = node.parent
    return True


def words_for(docname: str, env: BuildEnvironment) -> dict[str, Word]:
    """The words that a page links: a chapter those that mean there what the glossary says."""
    found = re.match(r"notebooks/(\d+)-", docname)
    if not found:
        return glossary_words(env)
    chapter = int(found[1])
    return {
        form: word
        for form, word in glossary_words(env).items()
        if word.chapters[0] <= chapter <= word.chapters[1] and (form, chapter) not in OTHER_SENSE
    }


def _link_first_uses(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if docname in NO_PROSE:
        return
    words = words_for(docname, app.env)
    page = app.builder.get_relative_uri(docname, GLOSSARY)
    for text in [node for node in doctree.findall(nodes.Text) if _is_prose(node)]:
        pieces: list[nodes.Node] = []
        rest = str(text)
        while words:
            longest_first = sorted(words, key=len, reverse=True)
            use = re.search(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", rest, re.I)
            if use is None:
                break
            word = words[use[0].lower()]
            words = {form: other for form, other in words.items() if other != word}
            link = nodes.reference("", use[0], internal=True, refuri=f"{page}#{word.anchor}")
            link["reftitle"], link["classes"] = word.sentence, ["glossary-word"]
            pieces += [nodes.Text(rest[: use.start()]), link]
            rest = rest[use.end() :]
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(rest)])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", _link_first_uses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
