"""The built book as a whole: its links, its search, and how it prints."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from test_browser import SITE, browser, need, site, watched  # noqa: F401

pytestmark = pytest.mark.browser


class Links(HTMLParser):
    """What a page points to, and what may be pointed to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.names = {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if value and (key in ("id", "name")):
                self.names.add(value)
            elif value and key in ("href", "src"):
                self.targets.add(value)


def test_every_link_within_the_book_leads_somewhere() -> None:
    need((SITE / "index.html").is_file(), "the book is not built: run make strict-book")
    pages = {page.resolve(): Links(page) for page in SITE.rglob("*.html") if "_static" not in page.parts}
    broken, followed = [], 0
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            followed += 1
            path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            there = path.is_file() or (path / "index.html").is_file()
            if not there or (path in pages and unquote(parts.fragment) not in pages[path].names):
                broken.append(f"{page.relative_to(SITE.resolve())}: {target}")
    assert not broken, "\n".join(sorted(broken))
    assert followed > 1000


def test_the_search_finds_a_chapter(site: str, browser: Any) -> None:  # noqa: F811
    with watched(browser, site) as page:
        page.goto(site + "book/welcome.html", wait_until="load")
        page.keyboard.press("Control+k")
        page.keyboard.type("replicator")
        page.keyboard.press("Enter")
        found = page.locator("ul.search li a", has_text="Games and mirrors").first
        found.click()
        page.wait_for_url("**/notebooks/07-games-and-mirrors.html*")
        assert "Games and mirrors" in page.locator("h1").first.inner_text()


def test_a_chapter_prints(site: str, browser: Any) -> None:  # noqa: F811
    """In the light theme, without what only a screen needs, nothing cut off, solutions folded and named."""
    with watched(browser, site, color_scheme="dark") as page:
        page.goto(site + "notebooks/09-continuous-time-and-equilibrium.html", wait_until="load")
        page.evaluate("() => window.MathJax && MathJax.startup.promise")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 680, "height": 960})  # A4 at 96 dots an inch, within its margins
        for screen_only in (
            ".bd-sidebar-primary",
            ".bd-sidebar-secondary",
            ".bd-header-article",
            ".bd-footer",
        ):
            assert not page.locator(screen_only).first.is_visible(), screen_only
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        wide = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
        assert page.eval_on_selector_all("article pre, article mjx-container[display='true']", wide) == []
        assert page.get_by_text("Solution to exercise 9.1").first.is_visible()
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
