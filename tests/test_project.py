"""The project's own promises: addresses that agree, an environment that matches, a library of stated size."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import codespell_lib
import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import set_repository  # noqa: E402

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNTIME = {"torch", "numpy", "tqdm"}


def test_the_environment_installs_what_pyproject_declares() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-e .[book,test]"]
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python == "python" + PYPROJECT["project"]["requires-python"]


def test_the_runtime_needs_nothing_heavier_than_promised() -> None:
    names = {re.split(r"[><=\[]", entry)[0] for entry in PYPROJECT["project"]["dependencies"]}
    assert names == RUNTIME


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PYPROJECT["project"]["version"]


def test_the_repository_address_agrees_everywhere() -> None:
    address = set_repository.current()
    assert PYPROJECT["project"]["urls"]["Repository"] == address
    owner_and_name = address.removeprefix("https://github.com/")
    for path in set_repository.paths():
        text = path.read_text(encoding="utf-8")
        for line in text.splitlines():
            if "github.com" in line and "OWNER/NAME" not in line:
                assert owner_and_name in line, f"{path.name}: {line.strip()}"
        if path.suffix == ".ipynb":
            assert f"csos_lib[chapters] @ git+{address}" in text, f"{path.name} installs from elsewhere"


def test_one_command_sets_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in set_repository.paths():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(set_repository, "ROOT", tmp_path)
    old = set_repository.current().removeprefix("https://github.com/")
    set_repository.main("https://github.com/somebody/their-book/")
    assert set_repository.current() == "https://github.com/somebody/their-book"
    for path in tmp_path.rglob("*.*"):
        assert old not in path.read_text(encoding="utf-8"), path.name
    notebook = next(tmp_path.rglob("01-*.ipynb")).read_text(encoding="utf-8")
    json.loads(notebook)
    assert "git+https://github.com/somebody/their-book" in notebook


def lines_of_code(path: Path) -> int:
    """Lines that are neither blank, comment nor docstring."""
    text = path.read_text(encoding="utf-8")
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.end_lineno:
            prose |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(1 for i, line in lines if i not in prose and line.strip() and not line.strip().startswith("#"))


def test_the_spelling(tmp_path: Path) -> None:
    """Of the chapters' prose, the pages and every docstring. British or American is left to the author."""
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        (tmp_path / f"{path.stem}.md").write_text("\n\n".join(prose), encoding="utf-8")
    paths = [tmp_path, *ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), *(ROOT / "csos_lib").rglob("*.py")]
    paths += [*(ROOT / "tools").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert codespell_lib.main("--ignore-words-list=bu,fro", *map(str, paths)) == 0


def test_the_library_can_be_read_in_an_evening() -> None:
    """The relatives are illustrations, one a chapter, that nothing else uses: they are counted apart.

    The bound of the rest was 2,900 when the second edition began. What makes it a library that PyTorch's own
    tools take (recipes, checkpoints, batches of any kind, derivatives of every kind) took 350 lines more.
    """
    package = ROOT / "csos_lib"
    lengths = {path.relative_to(package): lines_of_code(path) for path in package.rglob("*.py")}
    longest = max(lengths, key=lambda path: lengths[path])
    assert lengths[longest] <= 250, f"{longest} has {lengths[longest]} lines of code"
    relatives = sum(length for path, length in lengths.items() if path.parts[0] == "relatives")
    assert relatives <= 1200
    assert sum(lengths.values()) - relatives <= 3300
