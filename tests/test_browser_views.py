"""The triangle and the sorting demo in a real browser: dragged by mouse and finger, moved by keys."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playground_node import FOLDER
from test_browser import browser, serve, shoot, watched  # noqa: F401

pytestmark = pytest.mark.browser
PAGE = b"""<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Views</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="playground.css">
<style>body { font: 16px/1.6 sans-serif; max-width: 800px; margin: 0 auto; padding: 12px; background: #fff; }
html[data-theme="dark"] body { background: #14181e; color: #ddd; }</style></head><body><main><h1>Views</h1>
<div data-csos-demo="triangle"></div><div data-csos-demo="sorting"></div>
<div data-csos-demo="triangle" data-preset="death"></div>
</main><script type="module" src="mount.js"></script></body></html>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The playground's folder and a page with the two demos; `browser` of test_browser asks for this name."""
    folder = tmp_path_factory.mktemp("views") / "site"
    shutil.copytree(FOLDER, folder)
    (folder / "index.html").write_bytes(PAGE)
    with serve(folder) as address:
        yield address


@pytest.fixture
def page(site: str, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:  # noqa: F811
    """Both demos, ready; nothing on the way may fail or come from elsewhere."""
    options = {"viewport": {"width": 1280, "height": 1000}, "reduced_motion": "reduce"}
    with watched(browser, site, **{**options, **getattr(request, "param", {})}) as page:
        page.goto(site, wait_until="load")
        page.wait_for_selector(".csos-sort-bar")
        yield page


def says(page: Any, pattern: str, demo: str = ".csos-tri") -> str:
    """What the live region of the first demo of that kind says, once it matches."""
    place = f"{demo} .csos-status"
    page.wait_for_function(
        "([place, pattern]) => new RegExp(pattern).test(document.querySelector(place).textContent)",
        arg=[place, pattern],
    )
    return page.locator(place).first.inner_text()


def start(page: Any) -> list[float]:
    """The start of the first triangle in per cent, as a screen reader hears it."""
    text = page.locator(".csos-tri-handle").first.get_attribute("aria-valuetext")
    return [float(share) for share in re.findall(r": ([\d.]+)", text)]


def bars(page: Any) -> list[float]:
    return page.eval_on_selector_all(
        ".csos-sort-column", "all => all.map(bar => Number(bar.getAttribute('aria-valuenow')))"
    )


def softly(page: Any) -> list[float]:
    return [float(text) for text in page.locator(".csos-sort-number").all_text_contents()]


def drag(page: Any, what: Any, by: tuple[float, float]) -> None:
    what.scroll_into_view_if_needed()
    box = what.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0], y + by[1], steps=5)
    page.mouse.up()


def set_slider(page: Any, label: str, value: float) -> None:
    page.get_by_label(label).first.fill(str(value))


def test_the_start_is_dragged(page: Any) -> None:
    handle, path = page.locator(".csos-tri-handle").first, page.locator(".csos-tri-path").first
    before, track = start(page), path.get_attribute("d")
    drag(page, handle, (0, -80))
    after = start(page)
    assert after[2] > before[2] + 15
    assert sum(after) == pytest.approx(100, abs=0.3)
    assert path.get_attribute("d") != track
    drag(page, handle, (900, 200))  # far outside
    assert start(page) == [0, 100, 0]
    box = page.locator(".csos-tri-edge").first.bounding_box()  # and a click moves it there
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 2 / 3)
    assert start(page) == pytest.approx([100 / 3] * 3, abs=2)


def test_the_triangle_by_keyboard(page: Any) -> None:
    page.locator(".csos-tri-handle").first.focus()
    before = start(page)
    page.keyboard.press("ArrowUp")
    middle = start(page)
    page.keyboard.press("Shift+ArrowUp")
    assert before[2] < middle[2] < start(page)[2] - 2
    page.keyboard.press("ArrowRight")
    assert start(page)[1] > middle[1] - 5
    page.get_by_role("button", name="Autocatalysis").first.focus()
    page.keyboard.press("Enter")
    says(page, r"After 30 Euler steps: molecule 0: 100.0 %")


def test_a_molecule_dies_and_lives(page: Any) -> None:
    """The example named Death, on demand and as the page's own choice."""
    assert "dead since step" in page.locator(".csos-tri-table").nth(1).inner_text()
    page.get_by_role("button", name="Death").first.click()
    said = says(page, r"2: dead since step \d+")
    step = int(re.findall(r"\d+", said)[-1])
    row = page.locator(".csos-tri-table tbody tr").nth(2)
    scrub = page.get_by_label("step", exact=True).first
    scrub.fill(str(step - 1))
    assert "alive" in row.inner_text()
    scrub.fill(str(step))
    assert "dead" in row.inner_text()
    page.get_by_label("mirror").first.check()
    assert "dead" not in says(page, r"After 20 mirror steps")
    assert "alive" in row.inner_text()


def test_w_is_edited(page: Any) -> None:
    page.get_by_role("button", name="Decay only").first.click()
    says(page, "0: 60.0 %, 1: 30.0 %, 2: 10.0 %")
    page.get_by_text("Edit the reactions W").first.click()
    rate = page.get_by_label("0 + 1 makes 2").first
    rate.fill("0.5")
    assert page.locator(".csos-tri-formulas").first.inner_text().endswith("R₂ = 0.5 x₀ x₁")
    assert "W[2, 0, 1] = 0.5" in page.locator(".csos-tri pre").first.text_content()
    moved = says(page, r"2: [2-9]\d")
    for wrong in ("7", ""):
        rate.fill(wrong)
        assert rate.get_attribute("aria-invalid") == "true"
    rate.blur()
    assert rate.input_value() == "0.5"
    assert says(page, "After") == moved


@pytest.mark.parametrize("page", [{"reduced_motion": "no-preference"}], indirect=True)
def test_it_moves(page: Any) -> None:
    head = page.locator(".csos-tri-now").first
    page.get_by_role("button", name="Autocatalysis").first.click()  # plays
    first = head.get_attribute("cx")
    page.wait_for_function(
        "first => document.querySelector('.csos-tri-now').getAttribute('cx') !== first", arg=first
    )
    page.get_by_role("button", name="Pause").first.click()
    still = head.get_attribute("cx")
    page.wait_for_timeout(200)
    assert head.get_attribute("cx") == still
    page.get_by_role("button", name="Cool down").click()
    label = page.locator(".csos-sort output").first
    hot = float(label.inner_text())
    page.wait_for_function(
        "hot => Number(document.querySelector('.csos-sort output').textContent) < hot", arg=hot
    )


def test_bars_are_dragged_and_sorted(page: Any) -> None:
    drag(page, page.locator(".csos-sort-bar").nth(2), (0, -60))
    assert bars(page)[2] > 0.4
    bar = page.get_by_role("slider", name="bar b")
    bar.focus()
    for key, value in (("Home", 0), ("ArrowUp", 0.01), ("PageUp", 0.11), ("End", 1), ("ArrowLeft", 0.99)):
        page.keyboard.press(key)
        assert bars(page)[1] == pytest.approx(value)
    set_slider(page, "temperature τ", -2)
    ordered = sorted(bars(page), reverse=True)
    assert softly(page)[0] == 0.99
    says(page, "Soft maximum 0.99, maximum 0.99", ".csos-sort")
    assert softly(page) == sorted(softly(page), reverse=True)
    set_slider(page, "temperature τ", 1)
    mean = sum(ordered) / 7
    assert softly(page) == pytest.approx([mean] * 7, abs=0.03)
    lower, maximum, upper = re.findall(r"[\d.]+", page.locator(".csos-sort-bounds").inner_text())[:3]
    assert float(lower) <= float(maximum) <= float(upper)
    assert float(maximum) > 19


@pytest.mark.parametrize("method", ["SoftSort", "NeuralSort", "Sinkhorn"])
def test_each_method_sorts_when_it_is_cold(page: Any, method: str) -> None:
    page.get_by_label(method).check()
    set_slider(page, "temperature τ", -2 if method != "Sinkhorn" else -1)
    if method == "Sinkhorn":
        set_slider(page, "rounds", 50)
    assert page.get_by_label("rounds").is_visible() == (method == "Sinkhorn")
    tolerance = 0.01 if method != "Sinkhorn" else 0.05
    assert softly(page) == pytest.approx(sorted(bars(page), reverse=True), abs=tolerance)
    page.get_by_text("The numbers as a table").click()
    table = page.locator(".csos-sort-table").inner_text()
    assert "soft rank" in table
    assert len(page.locator(".csos-sort-table tbody tr").all()) == 8
    page.get_by_role("button", name="Make a tie").click()
    page.wait_for_function(
        """() => {
          const bars = [...document.querySelectorAll(".csos-sort-column")];
          const heights = bars.map((bar) => Number(bar.getAttribute("aria-valuenow"))).sort((a, b) => a - b);
          return heights.at(-1) === heights.at(-2);
        }"""
    )
    says(page, f"^{method}", ".csos-sort")


@pytest.mark.parametrize(
    "page", [{"has_touch": True, "viewport": {"width": 360, "height": 800}}], indirect=True
)
def test_with_a_finger(page: Any) -> None:
    """The handle and the bars follow a finger; a tap on the triangle moves the start."""
    session = page.context.new_cdp_session(page)

    def swipe(what: Any, by: tuple[float, float]) -> None:
        what.scroll_into_view_if_needed()
        box = what.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for kind, share in (("touchStart", 0.0), ("touchMove", 0.4), ("touchMove", 1.0)):
            point = {"x": x + share * by[0], "y": y + share * by[1]}
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
            page.wait_for_timeout(40)  # long enough for the page to begin to scroll, if it did
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    before = start(page)
    swipe(page.locator(".csos-tri-handle").first, (0, -60))
    assert start(page)[2] > before[2] + 18
    box = page.locator(".csos-tri-edge").first.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] * 2 / 3)
    assert start(page) == pytest.approx([100 / 3] * 3, abs=3)
    value = bars(page)[4]
    swipe(page.locator(".csos-sort-bar").nth(4), (0, -40))
    assert bars(page)[4] > value + 0.2


def test_for_everyone(page: Any) -> None:
    """Wide and narrow, light and dark, everything unfolded: nothing cut off, and axe finds nothing."""
    from axe_playwright_python.sync_playwright import Axe

    for fold in page.locator("details > summary").all():
        fold.click()
    page.get_by_role("button", name="Death").first.click()
    page.wait_for_timeout(600)  # live regions have spoken
    for scheme in ("light", "dark"):
        page.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 1000})
            root = "document.documentElement"
            assert page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") <= 0, (scheme, width)
            shoot(page, f"playground-views-{width}-{scheme}", full_page=True)
            if (scheme, width) not in (("light", 1280), ("dark", 360)):
                continue
            violations = Axe().run(page, options={"preload": False}).response["violations"]
            found = [f"{v['id']}: {[node['html'][:120] for node in v['nodes'][:3]]}" for v in violations]
            assert not found, f"{scheme}, {width} px: " + "\n".join(found)
