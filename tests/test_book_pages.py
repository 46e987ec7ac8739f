"""What the pages around the chapters promise: a notation without gaps, an API without gaps."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from sphinx.application import Sphinx

import csos_lib.relatives

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from course import lesson, overview, read_chapter, read_chapters  # noqa: E402
from glossary_links import first_sentence  # noqa: E402

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
    assert sum(len(numbered_equations(path)) for path in CHAPTERS) > 100
    tex = r"\hat W_{k} = \bar{p} + \operatorname{rms}(h), \mathbb{R}^n \text{ for all } \tfrac12 \bar\pi_c"
    assert symbols(tex) == {r"\hatW", "k", r"\barp", "rms", "h", r"\mathbbR", "n", r"\bar\pi", "c"}


@chapter
def test_every_symbol_of_a_numbered_equation_is_in_the_notation(path: Path) -> None:
    known = notation(int(path.stem[:2]))
    equations = numbered_equations(path)
    missing = {label: symbols(tex) - known for label, tex in equations.items()}
    assert not {label: letters for label, letters in missing.items() if letters}


MEMO_TERMS = """
分子 分子濃度 触媒テンソル 3階テンソル 二次相互作用 減衰率 反応項の強さ 反応ステップ 初期濃度の生成
化学反応による推論 観測 正規化 確率単体 力学系 離散時間力学系 損失関数 正解率 低ランク化
テンソル分解 勾配消失 解釈性 反応パターン 連続時間化 エネルギー関数 エネルギーベースモデル Hopfield
反復更新 固定点 レプリケータダイナミクス 進化ゲーム理論 反応拡散系 セルオートマトン 演算子
演算子ライブラリ 微分可能 離散的な選択 混合 系統 連続パラメータ 温度 スケール 周波数
周波数・スペクトル系 多項式 ゲート 有理関数 拡散 ラプラシアン 平滑化 カーネル プロトタイプ
ソフト近傍集約 注意 距離行列 順位 割当 置換の連続緩和 滑らかな最大値 形態学 分位 ランダムプログラム
プリミティブ 分岐 対数一様 共有計算 ミニライブラリ
"""
GLOSSARY = """# Glossary

## Reaction networks

```{glossary}
decay
  減衰率. The share that fades. More follows.

memory
  連想記憶. What stays.
```
"""
PAGE = """# Decay is a heading

> The opening box says decay.

Here `decay`, [decay](https://example.org) and $decay$; then decay at last, Memories, and decay again.

$$
v / s
$$ (eq-normalise)
"""


def test_words_link_to_the_glossary_and_equations_to_their_functions(tmp_path: Path) -> None:
    pages = {
        "index": "# Index\n\n```{toctree}\nbook/glossary\nbook/api\nnotebooks/01-a\n```\n",
        "book/glossary": GLOSSARY,
        "book/api": "# API\n\n```{eval-rst}\n.. autofunction:: csos_lib.simplex.normalise\n```\n",
        "notebooks/01-a": PAGE,
    }
    for name, text in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    settings = {
        "extensions": ["myst_parser", "sphinx.ext.autodoc", "equation_links", "glossary_links"],
        "myst_enable_extensions": ["dollarmath"],
    }
    out = tmp_path / "out"
    Sphinx(tmp_path, None, out, tmp_path / "doctrees", "html", settings, status=None).build()
    page = (out / "notebooks" / "01-a.html").read_text(encoding="utf-8")
    words = re.findall(r'<a class="glossary-word[^>]*href="([^"]*)" title="([^"]*)">([^<]*)</a>', page)
    address = "../book/glossary.html#term-"
    assert words == [
        (f"{address}decay", "The share that fades.", "decay"),
        (f"{address}memory", "What stays.", "Memories"),
    ]
    assert "then <a" in page
    assert re.search(r'In the library: <a [^>]*href="../book/api.html#csos_lib.simplex.normalise"', page)
    api = (out / "book" / "api.html").read_text(encoding="utf-8")
    assert 'href="../notebooks/01-a.html#equation-eq-normalise"' in api
    assert re.search(r'href="../notebooks/01-a.html"><span class="doc">Chapter 1</span>', api)


def glossary() -> dict[str, str]:
    page = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    return {
        term: first_sentence(definition)
        for body in re.findall(r"```\{glossary\}\n(.*?)```", page, re.DOTALL)
        for term, definition in re.findall(r"^(\S[^\n]*)\n((?:  [^\n]+\n)+)", body, re.MULTILINE)
    }


def test_hover_texts_are_sentences_without_formulas() -> None:
    sentences = glossary()
    assert len(sentences) > 70
    for term, sentence in sentences.items():
        assert re.fullmatch(r"[A-Z][^$`{]{8,200}[.]", sentence), term


def test_the_glossary_has_the_terms_of_both_memos() -> None:
    page = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    assert [term for term in MEMO_TERMS.split() if term not in page] == []


def on_the_api_page() -> dict[str, object]:
    """Every name that book/api.md shows, as its directives say."""
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for kind, target in re.findall(r"\.\. auto(\w+):: ([\w.]+)", page):
        module = importlib.import_module(target if kind == "module" else target.rpartition(".")[0])
        if kind == "module":
            names |= {f"{target}.{name}": vars(module)[name] for name in public_names(module)}
        else:
            names[target] = getattr(module, target.rpartition(".")[2])
    return names


def public_names(module: ModuleType) -> list[str]:
    """What a module offers: its __all__, or the functions and classes made in it."""
    own = [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


API = on_the_api_page()
OPEN_MODULES = [
    "simplex",
    "reactions",
    "dynamics",
    "interpret",
    "operators",
    "plots",
    "animation",
    "playground",
]


def test_every_public_name_is_on_the_api_page() -> None:
    relatives = (f"relatives.{module.name}" for module in pkgutil.iter_modules(csos_lib.relatives.__path__))
    shown = {id(value) for value in API.values()}
    for name in ("", *OPEN_MODULES, "exercises", *relatives):
        module = importlib.import_module(f"csos_lib.{name}".rstrip("."))
        for public in public_names(module):
            value = getattr(module, public)
            assert id(value) in shown or isinstance(value, ModuleType), f"{module.__name__}.{public}"


@chapter
def test_what_a_chapter_uses_or_links_is_on_the_api_page(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    shown = {id(value) for value in API.values()}
    names = set(re.findall(r"\{py:(?:func|class)\}`([\w.]+)`", text))
    for cell in cells:
        if cell.cell_type == "code" and "google.colab" not in cell.source:
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("csos_lib"):
                    names |= {f"{node.module}.{alias.name}" for alias in node.names}
    for name in names:
        owner, _, last = name.rpartition(".")
        value = getattr(importlib.import_module(owner), last)
        assert id(value) in shown or isinstance(value, ModuleType), name


@pytest.mark.parametrize("name", [name for name, value in API.items() if callable(value)])
def test_an_api_docstring_is_complete(name: str) -> None:
    """Chapter, the shape of every tensor, and what is raised if something is."""
    value: Any = API[name]
    text = inspect.getdoc(value) or ""
    assert re.search(r"Chapters?\s\d+|How to use this book", text)
    function = value.__init__ if inspect.isclass(value) else value
    if inspect.isfunction(function) and function.__code__.co_filename != "<string>":
        if "Tensor" in str(inspect.signature(function)):
            assert re.search(r"\([^)]*(, |\.\.\.|,\))|\([A-Z]\)|any shape|, 3\)", text), "a shape"
        if re.search(r"raise ValueError|_check\.\w|\bcheck_data\(", inspect.getsource(function)):
            assert "ValueError" in text + (inspect.getdoc(function) or ""), "what it raises"


def test_minutes_are_counted_from_the_cells(tmp_path: Path) -> None:
    cells = [
        nbformat.v4.new_markdown_cell(
            "# Title\n\n> **Run time**: about 20 s on two CPU cores.\n\n" + 130 * "word "
        ),
        nbformat.v4.new_markdown_cell("## Next\n\n" + 258 * "word "),
        nbformat.v4.new_code_cell("1 + 1"),
        nbformat.v4.new_code_cell("assert True", metadata={"tags": ["remove-cell"]}),
        nbformat.v4.new_code_cell("stub", metadata={"tags": ["exercise"]}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "03-title.ipynb")
    found = read_chapter(tmp_path / "03-title.ipynb")
    assert found == ("03-title", {"Opening": 1, "Next": 3}, 20, 1)
    chapters = {"03": found}
    assert lesson(["03 Next | do", "03 Opening | say"], chapters)[-1].endswith("takes 20 s | **4 min** |")
    assert "Opening 1, Next 3 | 4 min | 20 s | 1 |" in overview(chapters)[-1]


def test_the_teaching_guide_names_what_there_is() -> None:
    page = (ROOT / "book" / "teaching.md").read_text(encoding="utf-8")
    chapters = read_chapters(ROOT / "notebooks")
    assert all(found.run_seconds for found in chapters.values())
    for lines in re.findall(r"```\{minutes\}\n(.*?)```", page, re.DOTALL):
        lesson(lines.splitlines(), chapters)  # raises for a section that no chapter has
    figures = {
        f"{path.stem[:2]}-{cell.metadata.mystnb.figure.name.removeprefix('fig-')}"
        for path in CHAPTERS
        for cell in nbformat.read(path, as_version=4).cells
        if "figure" in cell.metadata.get("mystnb", {})
    }
    named = set(re.findall(r"`(\d\d-[a-z-]+)`", page))
    assert len(named) >= 10
    assert named <= figures
    guides = dict(re.findall(r"^### (\d+)\. [^\n]*\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL))
    assert {int(number) for number in chapters} <= {int(number) for number in guides}
    for number, guide in guides.items():
        for part in ("**Expect.**", "**Ask.**", "*A good answer", "**Set**", "**Leave out**"):
            assert part in guide.replace("\n", " "), f"chapter {number}: {part}"
    to_set = " ".join(re.findall(r"(?:Exercises?|\*\*Set\*\*) (?:[^*.]|[.]\d)*", page))
    for number, exercise in re.findall(r"(\d+)\.(\d)", to_set):
        assert 1 <= int(exercise) <= chapters[f"{int(number):02d}"].exercises, f"{number}.{exercise}"
