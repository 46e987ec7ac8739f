"""The playground on the built pages: drawn on by mouse and by touch, played with by keyboard, offline."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from playground_node import FOLDER
from test_browser import browser, shoot, site, watched  # noqa: F401

import csos_lib
from csos_lib.interpret import without_molecule
from csos_lib.playground import load_weights
from csos_lib.playground.weights import unpack_arrays

pytestmark = pytest.mark.browser
READY = ".csos-digit .csos-thumbnail"
STROKES = {  # in parts of the pad
    "1": [[(0.55, 0.15), (0.5, 0.85)]],
    "7": [[(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)]],
    "0": [
        [
            (0.5, 0.15),
            (0.3, 0.25),
            (0.25, 0.5),
            (0.33, 0.77),
            (0.5, 0.85),
            (0.67, 0.75),
            (0.75, 0.5),
            (0.68, 0.25),
            (0.5, 0.15),
        ]
    ],
}


@pytest.fixture
def page(site: str, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:  # noqa: F811
    """The front page with its demo ready; nothing on the way may fail or come from elsewhere."""
    with watched(browser, site, **{"reduced_motion": "reduce", **getattr(request, "param", {})}) as page:
        page.goto(site + "book/welcome.html", wait_until="load")
        page.wait_for_selector(READY)
        yield page


def draw(page: Any, digit: str) -> None:
    box = page.locator(".csos-pad").bounding_box()
    for stroke in STROKES[digit]:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=6)
        page.mouse.up()


def says(page: Any, pattern: str) -> str:
    """The text of the live region, once it matches."""
    page.wait_for_function(
        "pattern => new RegExp(pattern).test(document.querySelector('.csos-status').textContent)", arg=pattern
    )
    return page.locator(".csos-status").inner_text()


def shares(page: Any) -> list[str]:
    """The names of all molecules, which say how much there is of each."""
    return page.eval_on_selector_all(
        ".csos-molecule", "all => all.map(one => one.getAttribute('aria-label'))"
    )


def test_a_digit_drawn_with_the_mouse_is_read(page: Any) -> None:
    for digit in STROKES:
        page.get_by_role("button", name="Clear").click()
        says(page, "Nothing is drawn")
        draw(page, digit)
        says(page, f"Read as {digit}, probability ")


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}], indirect=True
)
def test_a_digit_drawn_with_a_finger_is_read_and_the_page_stays(page: Any) -> None:
    page.locator(".csos-pad").scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    box = page.locator(".csos-pad").bounding_box()
    touch = page.context.new_cdp_session(page)

    def send(kind: str, *points: tuple[float, float]) -> None:
        places = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]} for x, y in points]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    (start, corner, end) = STROKES["7"][0]
    send("touchStart", start)
    for first, last in ((start, corner), (corner, end)):
        for part in range(1, 7):
            send("touchMove", tuple(a + (b - a) * part / 6 for a, b in zip(first, last, strict=True)))
    send("touchEnd")
    says(page, "Read as 7, probability ")
    assert page.evaluate("scrollY") == before


def test_everything_by_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "a 0, example 1"
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    says(page, "Read as 9, probability ")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("molecule 0, ")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    says(page, "Read as [0-8] without molecule 9, probability ")
    page.get_by_role("button", name="Put all back").press("Enter")
    says(page, "Read as 9, probability ")
    slider = page.get_by_role("slider", name="step", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    assert "step 0" in page.locator(".csos-digit").inner_text().lower()


def test_a_knock_out_is_that_of_the_library(page: Any) -> None:
    _, arrays = unpack_arrays((FOLDER / "digits.bin").read_bytes())
    place = 14
    page.locator(".csos-thumbnail").nth(place).click()
    says(page, "Read as")
    page.locator(".csos-molecule").nth(22).click()
    page.locator(".csos-molecule").nth(8).click()
    text = says(page, "without molecules 8, 22")
    model = without_molecule(without_molecule(load_weights("mirror-cp", torch.float64), 8), 22)
    image = torch.from_numpy(arrays["images"][place : place + 1].copy()).double() / 255
    with torch.no_grad():
        x, p = model.trajectory(image)[-1, 0], model(image)[0].exp()
    assert text.startswith(f"Read as {int(p.argmax())} ")
    for k, label in enumerate(shares(page)):
        if k in (8, 22):
            assert label.endswith("knocked out")
        else:
            shown = float(re.search(r"([\d.]+) %$", label)[1]) / 100  # type: ignore[index]
            assert shown == pytest.approx(x[k].item(), abs=0.0051 if x[k] > 0.09 else 0.00051)


def test_the_built_page_computes_what_the_library_computes(page: Any) -> None:
    data = csos_lib.load_dataset("mnist5k")
    images = data.test_images[:12].double()
    body = """
        async ({ images, names }) => {
          const pg = await import("../_static/playground.js");
          const result = {};
          for (const name of names) {
            const file = await fetch(`../_static/${name}.bin`);
            const model = pg.parseModel(await file.arrayBuffer());
            const settings = { ...model.recipe, alpha: 2 * model.recipe.alpha, steps: 9 };
            result[name] = images.map((image) => pg.trajectory(model, image, settings).x.map((x) => [...x]));
          }
          return JSON.stringify(result);
        }
    """
    names = ["mirror-cp", "mirror-dense", "memo-cp", "memo"]
    found = json.loads(page.evaluate(body, {"images": images.tolist(), "names": names}))
    for name in names:
        model = load_weights(name, torch.float64)
        model.steps, model.alpha = 9, 2 * model.alpha
        with torch.no_grad():
            x = model.trajectory(images).transpose(0, 1)
        assert torch.allclose(x, torch.tensor(found[name], dtype=torch.float64), rtol=0, atol=1e-6)


def test_memo_1_is_one_click_away(page: Any) -> None:
    page.get_by_text("Change the reaction").click()
    page.get_by_role("button", name="Memo 1's defaults").click()
    page.wait_for_function("document.querySelector('.csos-controls output').textContent === '1.00'")
    assert page.get_by_label("Euler (memo 1)").is_checked()
    assert page.get_by_label("dense").is_checked()
    says(page, "Read as 3, probability ")
    assert sum(label.endswith(": 0 %") for label in shares(page)) > 40  # most molecules are dead
    trained = shares(page)
    as_trained = """(trained) => trained.every(
      (label, k) => document.querySelectorAll(".csos-molecule")[k].getAttribute("aria-label") === label)"""
    page.get_by_role("slider", name="strength α").fill("0")
    page.wait_for_function(f"(trained) => !({as_trained})(trained)", arg=trained)
    page.get_by_role("button", name="As it was trained").click()
    page.wait_for_function(as_trained, arg=trained)
    assert page.locator(".csos-controls output").first.inner_text() == "1.00"


@pytest.mark.parametrize("page", [{"reduced_motion": "no-preference"}], indirect=True)
def test_the_bars_move_when_played(page: Any) -> None:
    page.wait_for_selector(".csos-moving")  # it plays by itself once it is in view; a step stops it
    page.get_by_role("slider", name="step", exact=True).fill("0")
    before = page.locator(".csos-bar").nth(3).get_attribute("style")
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_selector(".csos-moving")
    page.wait_for_function(
        "before => document.querySelectorAll('.csos-bar')[3].getAttribute('style') !== before", arg=before
    )
    page.get_by_role("button", name="Pause").click()


def test_less_motion_is_none(page: Any) -> None:
    page.evaluate(
        """() => {
          window.moved = false;
          new MutationObserver(() => { window.moved ||= document.querySelector(".csos-moving") !== null; })
            .observe(document.querySelector(".csos-arcs"), { attributes: true });
        }"""
    )
    page.get_by_role("button", name="Play", exact=True).click()
    page.wait_for_timeout(1500)
    assert not page.evaluate("window.moved")
    page.get_by_role("button", name="Pause").click()


def test_it_needs_no_network_once_it_is_there(page: Any) -> None:
    page.context.set_offline(True)
    draw(page, "1")
    says(page, "Read as 1, probability ")
    page.get_by_text("Change the reaction").click()
    page.get_by_label("dense").click()
    says(page, "could not be loaded")
    assert page.get_by_label("low rank").is_checked()
    page.context.set_offline(False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_demos_for_everyone(site: str, browser: Any, scheme: str) -> None:  # noqa: F811
    """Axe finds nothing, nothing is cut off, whatever is unfolded."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(site + "book/playground.html", wait_until="load")
    page.wait_for_selector(READY)
    for summary in page.locator(".csos-demo summary").all():
        summary.click()
    page.locator(".csos-molecule").nth(20).click()
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(150)
        for demo in page.locator(".csos-demo").all():
            name = demo.get_attribute("data-csos-demo")
            assert demo.evaluate("demo => demo.scrollWidth - demo.clientWidth") <= 1, f"{name} at {width} px"
            shoot(demo, f"demo-{name}-{width}-{scheme}")
        if width == 360:  # the theme makes wide code focusable when it loads, and we loaded at 1280
            continue
        found = Axe().run(page, context=".csos-demo", options={"preload": False}).response["violations"]
        assert not [(v["id"], v["help"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found]
    context.close()


def test_without_javascript_there_is_a_picture(site: str, browser: Any) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + "book/welcome.html", wait_until="load")
    picture = page.locator(".csos-demo img")
    assert len(picture.get_attribute("alt")) > 40
    assert picture.bounding_box()["height"] > 200
    context.close()
