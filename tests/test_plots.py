"""Figures in every dtype, and pieces of HTML in which any text may stand."""

import html
import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
import torch

from csos_lib.animation import CellsAnimation, TriangleAnimation
from csos_lib.plots import show_concentrations, show_flow, show_images
from csos_lib.reactions import DenseReaction

NASTY = ("A & B", "<s>", '</script><b a="')


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.alt = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if dict(attributes).get("role") == "img":
            self.alt = dict(attributes)["aria-label"] or ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def identity(page: str) -> str:
    found = re.search(r'id="(csos-\w+)"', page)
    assert found
    return found[1]


def test_any_text_may_stand_in_an_animation() -> None:
    tracks, votes = torch.full((2, 1, 3), 1 / 3), torch.zeros(2, 3, 2, 2, dtype=torch.int64)
    for show, plain in (
        (lambda names, alt: TriangleAnimation(tracks, alt, names), ("0", "1", "2")),
        (lambda names, alt: CellsAnimation(votes, alt, names), ("0", "1", "2")),
    ):
        page = read(show(NASTY, NASTY[2])._repr_html_())
        assert page.tags == read(show(plain, "a")._repr_html_()).tags
        assert page.alt == NASTY[2]
    triangle = read(TriangleAnimation(tracks, "a", NASTY)._repr_html_())
    assert set(NASTY) <= set(triangle.texts)
    cells = CellsAnimation(votes, "a", NASTY)._repr_html_()
    titles = re.search(r"titles = (\[.*?\]);", cells)
    assert titles
    assert json.loads(titles[1]) == list(NASTY)
    assert html.escape(NASTY[2]) not in cells


def test_what_differs_has_an_identity_of_its_own() -> None:
    tracks, votes = torch.full((2, 1, 3), 1 / 3), torch.zeros(2, 1, 2, 2, dtype=torch.int64)
    pages = [
        TriangleAnimation(tracks, "a"),
        TriangleAnimation(tracks, "a", ("x", "y", "z")),
        TriangleAnimation(tracks, "b"),
        CellsAnimation(votes, "a", ["one"]),
        CellsAnimation(votes, "a", ["two"]),
        CellsAnimation(votes, "b", ["two"]),
    ]
    assert len({identity(page._repr_html_()) for page in pages}) == len(pages)
    assert pages[0]._repr_html_() == TriangleAnimation(tracks, "a")._repr_html_()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_figures_take_every_dtype(dtype: torch.dtype) -> None:
    x = torch.rand(2, 784).to(dtype).requires_grad_()
    show_images(x)
    bars = show_concentrations(x[0].detach()[:20]).patches
    assert [bar.get_height() for bar in bars] == x[0, :20].tolist()
    show_flow(DenseReaction(3).to(dtype), 0.1, 1.0, density=3)
    show_flow(lambda m: m * m, 0.1, 1.0, density=3)
    TriangleAnimation(torch.rand(3, 2, 3).softmax(2).to(dtype), "a")._repr_html_()
    plt.close("all")
