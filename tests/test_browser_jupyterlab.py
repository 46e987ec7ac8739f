"""The playground in a live JupyterLab: the kernel sees the drawing and pushes a model of its own."""

import importlib.util
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from test_browser import browser, site  # noqa: F401
from test_browser_playground import draw

pytestmark = pytest.mark.browser
CELLS = [
    "import csos_lib, csos_lib.playground\nwidget = csos_lib.playground.DrawDigit()\nwidget",
    "x = widget.image.view(1, 784)\nprint('answer', int(widget.model(x).argmax()), 'ink', int(x.sum()))",
    "widget.model = csos_lib.CSOS(num_basis=16)\nprint('pushed', widget.model.num_basis)",
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a notebook in a JupyterLab of its own."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("no JupyterLab in this environment: pip install -e '.[test]'")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, tmp_path / "live.ipynb")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += ["--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={tmp_path}"]
    command += [
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    environment = {**os.environ, "HOME": str(tmp_path), "JUPYTER_NO_CONFIG": "1"}
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
    try:
        for _ in range(300):
            found = re.search(r"http://localhost:(\d+)/", log.read_text())
            if found or server.poll() is not None:
                break
            time.sleep(0.2)
        assert found, log.read_text()[-2000:]
        yield f"http://localhost:{found[1]}/lab/tree/live.ipynb"
    finally:
        server.terminate()
        server.wait(20)


def test_the_widget_in_a_live_notebook(browser: Any, lab: str) -> None:  # noqa: F811
    context = browser.new_context(viewport={"width": 1280, "height": 1400}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(40_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(lab)
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    outputs = [cell.locator(".jp-OutputArea-output") for cell in (cells.nth(0), cells.nth(1), cells.nth(2))]

    def run(number: int) -> None:
        cells.nth(number).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")

    cells.first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for()
    run(0)
    page.wait_for_selector(".csos-digit .csos-thumbnail")
    page.locator(".csos-pad").scroll_into_view_if_needed()
    draw(page, "1")
    page.wait_for_function("document.querySelector('.csos-status').textContent.startsWith('Read as 1')")
    page.wait_for_timeout(500)  # the drawing is sent when it has rested for a moment
    run(1)
    outputs[1].get_by_text("answer").wait_for()
    assert re.fullmatch(r"answer 1 ink [3-9]\d", outputs[1].inner_text().strip())
    run(2)
    outputs[2].get_by_text("pushed 16").wait_for()
    page.wait_for_function("document.querySelectorAll('.csos-molecule').length === 16")
    page.locator(".csos-molecule").nth(11).press("Enter")  # a key that JupyterLab would take for itself
    page.wait_for_function("/without molecule 11/.test(document.querySelector('.csos-status').textContent)")
    context.close()
    assert not errors
