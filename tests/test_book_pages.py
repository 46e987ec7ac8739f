"""What the pages around the chapters promise: a notation without gaps, an API without gaps."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)

# Signs that mean the same everywhere, and commands that only arrange.
PLAIN = frozenset(
    re.findall(
        r"\\[a-zA-Z]+",
        r"""\sum \prod \int \infty \frac \tfrac \binom \sqrt \underline \textstyle \left \right \big \Big
        \Bigl \Bigr \cdot \cdots \dots \times \circ \cup \bigcup \in \ge \le \ne \approx \propto \iff \to
        \Rightarrow \leftarrow \rightarrow \downarrow \xrightarrow \langle \rangle \lVert \rVert \lvert
        \rvert \Vert \top \odot \square \quad \qquad \max \min \arg \exp \log \sin \cos \nabla \partial""",
    )
)
ACCENT = r"\\(?:bar|hat|tilde|dot|mathbb)"


def symbols(tex: str) -> set[str]:
    r"""The letters, accented letters and named functions of a formula: \bar x is not x."""
    named = r"\\(?:operatorname|mathrm)\{([^}]*)\}"
    rest = re.sub(named, " ", re.sub(r"\\(?:text|begin|end)\{[^}]*\}", " ", tex))
    letters = re.findall(rf"{ACCENT}\W*\w[a-z]*|\\[a-zA-Z]+|[a-zA-Z]", rest)
    return {re.sub(r"[{} ]", "", letter) for letter in letters} - PLAIN | set(re.findall(named, tex))


def numbered_equations(path: Path) -> dict[str, str]:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    found = re.findall(r"^\$\$\n((?:(?!\$\$).)*)\n\$\$ \((eq-[\w-]+)\)", text, re.MULTILINE | re.DOTALL)
    return {label: tex for tex, label in found}


def explained(section: str) -> set[str]:
    """The symbols in the first column of a section's tables."""
    cells = re.findall(r"^\|(.*?)(?<!\\)\|", section, re.MULTILINE)
    return symbols(" ".join(re.findall(r"\$(.*?)\$", " ".join(cells))))


def notation(chapter_number: int) -> set[str]:
    """What the notation page explains to the reader of a chapter."""
    page = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^##+ ([^\n]*)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    part = (
        "I" if chapter_number < 7 else "II" if chapter_number < 13 else "III" if chapter_number < 22 else "IV"
    )
    heads = ["Everywhere", f"Part {part}:", f"Chapter {chapter_number}:"]
    if part in ("II", "IV"):
        heads.append("Part I:")
    return {
        symbol
        for title, section in sections.items()
        if title.startswith(tuple(heads))
        for symbol in explained(section)
    }


def test_symbols_are_told_apart() -> None:
    tex = r"\hat W_{k} = \bar{p} + \operatorname{rms}(h), \mathbb{R}^n \text{ for all } \tfrac12 \bar\pi_c"
    assert symbols(tex) == {r"\hatW", "k", r"\barp", "rms", "h", r"\mathbbR", "n", r"\bar\pi", "c"}


@chapter
def test_every_symbol_of_a_numbered_equation_is_in_the_notation(path: Path) -> None:
    known = notation(int(path.stem[:2]))
    equations = numbered_equations(path)
    assert equations
    missing = {label: symbols(tex) - known for label, tex in equations.items()}
    assert not {label: letters for label, letters in missing.items() if letters}
