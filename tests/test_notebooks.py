"""What every chapter has, checked on the committed files; what its cells print is nbval's part."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import run_notebooks  # noqa: E402
from student_copies import without_solutions  # noqa: E402

CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOT_RUN = {"skip-execution", "nbval-skip"}
chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def markdown(path: Path) -> str:
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def text_of(cell: Any) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


@chapter
def test_every_cell_was_run_in_order(path: Path) -> None:
    """A notebook that was never run would pass nbval."""
    cells = [c for c in read(path).cells if c.cell_type == "code" and not tags(c) & NOT_RUN]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [o for o in cell.outputs if o.output_type == "error"]
        assert not [o for o in cell.outputs if o.get("name") == "stderr"], "a warning is printed"


@chapter
def test_colab_can_install_and_offers_a_gpu(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata.accelerator == "GPU"
    install = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert tags(install) == {"remove-cell", "nbval-skip", "skip-execution"}
    assert install.source.splitlines()[:3] == ["import sys", "", 'if "google.colab" in sys.modules:']
    assert re.fullmatch(
        r' {4}%pip install -q "csos_lib\[chapters\] @ git\+\S+"', install.source.splitlines()[3]
    )


@chapter
def test_the_opening_box(path: Path) -> None:
    first = read(path).cells[0].source
    assert re.match(r"# \S.*\n\n> \*\*For\*\* ", first)
    for part in ("**Before this chapter:**", "**You will be able to**"):
        assert part in first
    assert f"> {run_notebooks.read_costs()[path.stem].printed()}" in first


def test_no_chapter_takes_long() -> None:
    """60 s each and 30 s on average on the stated machine, counted in calibration loops."""
    costs = run_notebooks.read_costs()
    assert sorted(costs) == [path.stem for path in CHAPTERS]
    loops = [cost.ratio for cost in costs.values()]
    assert max(loops) <= 60 / run_notebooks.CALIBRATION_SECONDS
    assert sum(loops) / len(loops) <= 30 / run_notebooks.CALIBRATION_SECONDS
    for chapter, cost in costs.items():
        assert cost.seconds == pytest.approx(cost.ratio * run_notebooks.CALIBRATION_SECONDS, abs=0.1), chapter


def test_costs_are_kept_while_they_are_about_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_notebooks, "COSTS", tmp_path / "costs.csv")
    cost = run_notebooks.Cost(12.0, 700, 3.0)
    assert run_notebooks.keep_cost("a", cost) == cost
    assert run_notebooks.keep_cost("a", run_notebooks.Cost(16.0, 500, 4.0)) == cost
    for other in (run_notebooks.Cost(18.0, 700, 4.5), run_notebooks.Cost(12.0, 950, 3.0)):
        assert run_notebooks.keep_cost("a", other) == other
        assert run_notebooks.read_costs() == {"a": other}
    box = "> **Run time**: about 10 s on two CPU cores.\n"
    text = run_notebooks.with_cost(box, cost)
    assert text == "> **Run time**: about 15 s on two CPU cores, 800 MB of memory.\n"
    assert run_notebooks.with_cost(text, cost) == text


@chapter
def test_figures_have_alternative_text_and_a_caption(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.outputs):
            about = cell.metadata.get("mystnb", {})
            assert len(about.get("image", {}).get("alt", "")) > 40, cell.source
            assert "caption" in about.get("figure", {}), cell.source
            assert about["figure"]["name"].startswith("fig-"), cell.source


def test_every_figure_has_a_name_of_its_own() -> None:
    names = [
        cell.metadata.mystnb.figure.name
        for path in CHAPTERS
        for cell in read(path).cells
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    assert len(names) > 100
    assert sorted(names) == sorted(set(names))


@chapter
def test_the_prose_is_asserted(path: Path) -> None:
    hidden = [c for c in read(path).cells if "remove-cell" in tags(c) and "assert " in c.source]
    assert len(hidden) >= 3


@chapter
def test_exercises_check_themselves(path: Path) -> None:
    """Each stub was run and is not yet right; each solution was run and is. nbval holds both to it."""
    number = int(path.stem[:2])
    titles = re.findall(r"^### Exercise (\d+)\.(\d+): ", markdown(path), re.MULTILINE)
    assert titles == [(str(number), str(k)) for k in range(1, len(titles) + 1)]
    assert 2 <= len(titles) <= 4
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    stubs = [cell for cell in cells if "exercise" in tags(cell)]
    solutions = [cell for cell in cells if "solution" in tags(cell)]
    checkers = [cell for cell in cells if "@checker\n" in cell.source]
    assert len(stubs) == len(solutions) == len(checkers) == len(titles)
    for k, (stub, solution) in enumerate(zip(stubs, solutions, strict=True), 1):
        assert "raise NotImplementedError" in stub.source
        assert re.fullmatch(r"Not yet: the stub is still empty\.\n", text_of(stub))
        assert text_of(solution).startswith("Right.\n")
        assert "hide-cell" in tags(solution)
        assert solution.metadata.mystnb.code_prompt_show == f"Solution to exercise {number}.{k}"


@chapter
def test_checkers_are_held_to_wrong_answers(path: Path) -> None:
    """Behind each solution a hidden cell: wrong answers refused for their reason, a right one accepted."""
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    for place, cell in enumerate(cells):
        if "solution" in tags(cell):
            answers = cells[place + 1]
            assert tags(answers) == {"remove-cell", "answers"}, cell.source
            assert len(re.findall(r"\bverdict\b", answers.source)) >= 2, answers.source
            assert re.search(r"assert [^=]+ in ", answers.source), "a reason that the verdict must hold"
            assert '"Right."' in answers.source


@chapter
def test_a_student_copy_lacks_the_solutions_and_nothing_else(path: Path) -> None:
    chapter, copy = read(path), without_solutions(read(path))
    solutions = [cell for cell in chapter.cells if tags(cell) & {"solution", "answers"}]
    assert copy.metadata == chapter.metadata
    assert [cell for cell in chapter.cells if cell not in solutions] == copy.cells
    assert len(copy.cells) + len(solutions) == len(chapter.cells)
    assert not any(tags(cell) & {"solution", "answers"} for cell in copy.cells)


@chapter
def test_the_closing(path: Path) -> None:
    text = markdown(path)
    closing = text[text.index("## What we learned") :]
    assert "**Further reading.**" in closing
    assert "{cite:t}`" in closing


@chapter
def test_pages_read_well_where_directives_are_unknown(path: Path) -> None:
    """Colab shows a directive as raw text; roles and labels are the only MyST that a chapter uses."""
    assert not re.search(r"^(:::|```\{)", markdown(path), re.MULTILINE)


def test_every_chapter_is_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    listed = [name for name in files if name.startswith("notebooks/")]
    assert listed == [f"notebooks/{path.stem}" for path in CHAPTERS]
    assert [int(path.stem[:2]) for path in CHAPTERS] == sorted(int(path.stem[:2]) for path in CHAPTERS)


def test_equations_and_docstrings_name_each_other() -> None:
    """A docstring names only equations that a chapter has; a numbered equation is used somewhere."""
    equations = {
        label: path
        for path in CHAPTERS
        for label in re.findall(r"^\$\$ \((eq-[\w-]+)\)", markdown(path), re.MULTILINE)
    }
    named: set[str] = set()
    for source in (ROOT / "csos_lib").rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        for label in re.findall(r":eq:`([\w-]+)`", text):
            assert label in equations, f"{source.name} names {label}, which no chapter has"
            named.add(label)
        for number, label in re.findall(r"Chapter (\d+), :eq:`([\w-]+)`", text):
            assert equations[label].stem.startswith(f"{int(number):02d}-"), (
                f"{label} is not in chapter {number}"
            )
    referred = {label for path in CHAPTERS for label in re.findall(r"\{eq\}`([\w-]+)`", markdown(path))}
    assert equations.keys() <= named | referred, "a numbered equation that nobody uses"
