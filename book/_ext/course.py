"""Tables of a course whose minutes are counted from the chapters, so that nobody types them in.

The directive `minutes` takes one line for each part of a lesson, "04 Counting the living | what to do", or
"04 | what to do" for a whole chapter without its exercises; with no lines it lists every chapter.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import nbformat
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

WORDS_A_MINUTE = 130
MINUTES_A_CELL = 0.5
UNSEEN = {"remove-cell", "remove-input", "hide-input", "solution"}
OPENING = "Opening"


class Chapter(NamedTuple):
    name: str
    minutes: dict[str, int]
    run_seconds: int
    exercises: int


def read_chapter(path: Path) -> Chapter:
    """Minutes of reading of each section, rounded up, and what the opening box says of the run time."""
    cells = nbformat.read(path, as_version=4).cells
    section, needed, run_seconds, exercises = OPENING, {OPENING: 0.0}, 0, 0
    for cell in cells:
        if cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            needed[section] += 0 if tags & UNSEEN or "@checker" in cell.source else MINUTES_A_CELL
            exercises += "exercise" in tags
            continue
        run_time = re.search(r"\*\*Run time\*\*: about (\d+) s", cell.source)
        run_seconds = int(run_time[1]) if run_time else run_seconds
        for piece in re.split(r"^(?=## )", cell.source, flags=re.MULTILINE):
            title = re.match(r"## (.*)", piece)
            section = title[1] if title else section
            words = len(re.sub(r"^(>|#) .*$", "", piece, flags=re.MULTILINE).split())
            needed[section] = needed.get(section, 0.0) + words / WORDS_A_MINUTE
    return Chapter(
        path.stem, {key: math.ceil(value) for key, value in needed.items()}, run_seconds, exercises
    )


def read_chapters(folder: Path) -> dict[str, Chapter]:
    return {path.stem[:2]: read_chapter(path) for path in sorted(folder.glob("*.ipynb"))}


def overview(chapters: dict[str, Chapter]) -> list[str]:
    """Every chapter with its sections."""
    rows = ["| Chapter | Sections, minutes of reading | Reading | Run | Exercises |", "|---|---|---|---|---|"]
    for chapter in chapters.values():
        sections = ", ".join(f"{title} {minutes}" for title, minutes in chapter.minutes.items())
        total = f"{sum(chapter.minutes.values())} min"
        link = f"{{doc}}`../notebooks/{chapter.name}`"
        rows.append(f"| {link} | {sections} | {total} | {chapter.run_seconds} s | {chapter.exercises} |")
    return rows


def lesson(lines: list[str], chapters: dict[str, Chapter]) -> list[str]:
    """The lines of a lesson with their minutes, and the sum. Raises KeyError for what no chapter has."""
    rows, total = ["| Part | What to do | Reading |", "|---|---|---|"], 0
    for line in lines:
        place, _, todo = (text.strip() for text in line.partition("|"))
        number, _, title = place.partition(" ")
        chapter = chapters[number]
        whole = sum(value for key, value in chapter.minutes.items() if key != "Exercises")
        minutes = chapter.minutes[title] if title else whole
        total += minutes
        link = f"{{doc}}`{int(number)} <../notebooks/{chapter.name}>`"
        rows.append(f"| {link} {title or '(whole chapter)'} | {todo} | {minutes} min |")
    seconds = sum(chapters[number].run_seconds for number in {line[:2] for line in lines})
    return [*rows, f"| | Running these chapters from top to bottom takes {seconds} s | **{total} min** |"]


class Minutes(SphinxDirective):
    has_content = True

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.srcdir) / "notebooks"
        for path in folder.glob("*.ipynb"):
            self.env.note_dependency(str(path))
        chapters = read_chapters(folder)
        try:
            lines = lesson(list(self.content), chapters) if self.content else overview(chapters)
        except KeyError as missing:
            raise self.error(f"no such chapter or section: {missing}") from missing
        table = nodes.container()
        self.state.nested_parse(StringList(lines, "minutes"), self.content_offset, table)
        return list(table.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("minutes", Minutes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
