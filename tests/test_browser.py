"""The built pages in a real browser: light and dark, on a desk and on a phone, with the network off."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SITE = ROOT / "_build" / "html"
SHOTS = ROOT / "screenshots"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# What axe reports of the theme's own markup, on every page of any book.
THEME_RULES = {"label-content-name-mismatch", "region"}
# Code and equations are thousands of elements that Pygments and MathJax make everywhere alike. Axe looks at
# them in one chapter, in both themes, and at everything else in every chapter.
WHOLE = "notebooks/01-pixels-become-molecules.html"
STATE = """() => ({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  cut: [...document.querySelectorAll('article mjx-container[display="true"]')]
    .filter((box) => box.querySelector("mjx-math").offsetWidth > box.clientWidth + 1)
    .map((box) => box.textContent.slice(0, 80)),
})"""
pytestmark = pytest.mark.browser


def pages() -> list[str]:
    """Pages with a text of their own: not the index, which forwards, nor the generated lists."""
    found = sorted(p.relative_to(SITE).as_posix() for p in SITE.glob("*/*.html") if "_" not in p.parts[-2])
    return found or ["missing"]


def need(there: bool, otherwise: str) -> None:
    """Skip the test with this reason; where browser tests are required, fail."""
    if there:
        return
    if os.environ.get("CSOS_REQUIRE_BROWSER"):
        pytest.fail(otherwise)
    pytest.skip(otherwise)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of this folder, for a browser that must be there."""
    reason = "no chromium on this machine: install Debian's package chromium to run the browser tests"
    need(shutil.which("chromium") is not None, reason)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@contextmanager
def watched(browser: Any, site: str, **options: Any) -> Iterator[Any]:
    """A page on which nothing may fail, or come from elsewhere, until the end."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith((site, "data:", "blob:")) else errors.append(r.url))
    page.on("response", lambda r: errors.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    yield page
    context.close()
    assert not [error for error in errors if "ERR_INTERNET_DISCONNECTED" not in error]  # one test asks for it


def shoot(what: Any, name: str, **options: Any) -> None:
    """Keep a picture of a page or an element for people to look at, where CSOS_SCREENSHOTS asks for it."""
    if os.environ.get("CSOS_SCREENSHOTS"):
        SHOTS.mkdir(exist_ok=True)
        what.screenshot(path=SHOTS / f"{name}.jpg", type="jpeg", quality=70, **options)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    need((SITE / "index.html").is_file(), "the book is not built: run make strict-book")
    with serve(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def browser(site: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("name", pages())
def test_page(site: str, browser: Any, name: str) -> None:
    """No console error, no off-site request, equations set, nothing cut off, axe content."""
    from axe_playwright_python.sync_playwright import Axe

    with watched(browser, site, color_scheme="light") as page:
        page.goto(site + name, wait_until="load")
        page.evaluate("() => window.MathJax && MathJax.startup.promise")
        for width, scheme in ((1280, "light"), (1280, "dark"), (360, "dark"), (360, "light")):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function("scheme => document.documentElement.dataset.theme === scheme", arg=scheme)
            page.wait_for_timeout(100)  # the theme follows the window with a short delay
            there = page.evaluate(STATE)
            assert not there["cut"], f"at {width} px an equation is wider than its line"
            wider = there["overflow"]
            assert wider <= 1, f"{scheme}, {width} px: the page is {wider} px wider than the window"
            shoot(page, f"{name.removesuffix('.html').replace('/', '-')}-{width}-{scheme}", full_page=True)
            # The theme makes wide code focusable as it loads, and we loaded at 1280. A chapter without
            # demo or animation has only the theme's colours, which the pages in book/ have too.
            own_colours = page.locator("article .csos-demo, article [id^=csos-]").count() > 0
            themes_alone = name.startswith("notebooks/") and not own_colours and name != WHOLE
            if width == 360 or (scheme == "dark" and themes_alone):
                continue
            # Only the contrast depends on the theme. docutils writes the roles of a bibliography entry,
            # which axe calls outdated.
            options = {"preload": False, "resultTypes": ["violations"]}
            if scheme == "dark":
                options["runOnly"] = ["color-contrast"]
            exclude = [[".citation-list"]]
            if name != WHOLE:
                exclude += [[".highlight"], ["mjx-container"]]
            context_of_axe = {"exclude": exclude}
            violations = Axe().run(page, context=context_of_axe, options=options).response["violations"]
            found = [
                f"{scheme}: {v['id']}: {v['help']} {[node['html'][:120] for node in v['nodes'][:3]]}"
                for v in violations
                if v["id"] not in THEME_RULES
            ]
            assert not found, "\n".join(found)
        assert page.locator("mjx-merror").count() == 0, "an equation does not parse"
        for alt in page.eval_on_selector_all("article img", "images => images.map(image => image.alt)"):
            assert len(alt) > 20, f"alternative text {alt!r}"
            assert "_images/" not in alt
        if name.startswith("notebooks/"):
            colab = page.locator('a[href^="https://colab.research.google.com/github/"]').first
            assert colab.get_attribute("href").endswith(f"/blob/main/{name.removesuffix('.html')}.ipynb")


def test_equations_are_local(site: str, browser: Any) -> None:
    with watched(browser, site) as page:
        page.goto(site + "notebooks/01-pixels-become-molecules.html", wait_until="load")
        page.wait_for_selector("mjx-container")
        assert page.locator("mjx-container").count() > 20


def test_animation_moves(site: str, browser: Any) -> None:
    """The triangle of chapter 2 runs without a kernel, by button and by keyboard."""
    page = browser.new_page()
    page.goto(site + "notebooks/02-molecules-react.html", wait_until="load")
    box = page.locator("[id^=csos-]").first
    dot, slider = box.locator("circle").first, box.locator("input")

    def position() -> float:
        return float(dot.get_attribute("cx"))

    start = position()
    box.get_by_role("button", name="Play").click()
    page.wait_for_timeout(700)
    assert position() != start
    assert int(slider.input_value()) >= 1
    box.get_by_role("button", name="Pause").click()
    slider.focus()
    page.keyboard.press("Home")
    assert position() == start
    page.keyboard.press("ArrowRight")
    assert box.locator("output").inner_text() == "step 1"
    page.close()
