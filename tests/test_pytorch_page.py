"""The page "csos_lib in your PyTorch code": its Python runs, and prints what the page says."""

import contextlib
import csv
import functools
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

BOOK = Path(__file__).parent.parent / "book"
PAGE = BOOK / "pytorch.md"
RECIPES = ("lightning", "skorch", "accelerate")


class Block(NamedTuple):
    line: int
    code: str
    printed: str


def read_blocks(page: str) -> list[Block]:
    """Each block of Python with the block of text after it, or nothing."""
    found = re.finditer(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", page, re.DOTALL | re.MULTILINE)
    return [Block(page.count("\n", 0, match.start(1)), match[1], match[2] or "") for match in found]


BLOCKS = read_blocks(PAGE.read_text(encoding="utf-8"))


def recipe_of(block: Block) -> str | None:
    return next((name for name in RECIPES if re.search(rf"^(import|from) {name}\b", block.code, re.M)), None)


def run(blocks: list[Block], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace; tracebacks name the page and its lines."""
    monkeypatch.chdir(folder)
    # The compiler behind it is slow and may be missing here; tests/test_zoo.py is about compilation.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    namespace: dict[str, Any] = {"__name__": "pytorch_page"}
    for block in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * block.line + block.code, PAGE.name, "exec"), namespace)
        compare(block, printed.getvalue())


def compare(block: Block, printed: str) -> None:
    """The same text, in which numbers with two decimals are as near as two machines come."""
    number = r"-?\d+\.\d\d"
    where = f"{PAGE.name}, line {block.line + 1}, prints\n{printed}"
    assert re.sub(number, "#", printed) == re.sub(number, "#", block.printed), where
    shown = [float(x) for x in re.findall(number, block.printed)]
    assert [float(x) for x in re.findall(number, printed)] == pytest.approx(shown, abs=0.06), where


def test_the_page_runs_and_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    try:
        run([block for block in BLOCKS if recipe_of(block) is None], tmp_path, monkeypatch)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("package", RECIPES)
def test_a_recipe_runs_where_its_package_is(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    (recipe,) = [block for block in BLOCKS if recipe_of(block) == package]
    assert recipe.code.count("\n") <= 40
    needed = [
        block for block in BLOCKS if re.search(r"^(wine|from torch\.nn import|loader) ", block.code, re.M)
    ]
    run([*needed, recipe], tmp_path, monkeypatch)


def test_what_is_printed_is_compared() -> None:
    assert len(BLOCKS) > 15
    block = Block(0, "", "accuracy 0.91 of 3\n")
    compare(block, "accuracy 0.93 of 3\n")
    for other in ("accuracy 0.81 of 3\n", "accuracy 0.91 of 4\n", "loss 0.91 of 3\n", "accuracy 0.9 of 3\n"):
        with pytest.raises(AssertionError):
            compare(block, other)


def test_every_refusal_has_its_reason() -> None:
    with open(BOOK / "pytorch_refusals.csv", encoding="utf-8", newline="") as file:
        refusals = list(csv.reader(file))
    assert refusals[0] == ["module", "feature", "reason"]
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in refusals)
