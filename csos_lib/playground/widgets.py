"""The demos as widgets: in a live notebook the kernel sees the drawing, and can push a model of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.classifier import CSOS, PIXELS
from csos_lib.playground.weights import load_weights, pack_weights

try:
    import anywidget
    import traitlets
except ImportError as error:
    raise ImportError('csos_lib.playground needs anywidget: pip install "csos_lib[playground]"') from error

FOLDER = Path(__file__).parent


class _Demo(anywidget.AnyWidget):
    """What the demos share: the module, its files on demand, and HTML for a page without a kernel."""

    _esm = FOLDER / "playground.js"
    _css = FOLDER / "playground.css"
    demo = traitlets.Unicode().tag(sync=True)
    _about = ""
    _data = ""  # what the page is told besides, as attributes of HTML

    def __init__(self) -> None:
        super().__init__()
        self.on_msg(self._send_file)

    def _send_file(self, widget: object, content: dict[str, Any], buffers: object) -> None:
        names = {path.stem: path for path in FOLDER.glob("*.bin")}
        if content.get("file") in names:
            self.send(content, buffers=[names[content["file"]].read_bytes()])

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._about}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if bundle is not None else ({}, {})
        html = (
            f'<div class="csos-demo" data-csos-demo="{self.demo}"{self._data}><p>A live demo: {self._about}. '
            "It needs JavaScript and a kernel, or the published book.</p></div>"
        )
        return {**data, "text/html": html, "text/plain": repr(self)}, metadata


class DrawDigit(_Demo):
    """Draw a digit and watch a trained reaction read it.

    Args:
        model: the CSOS that reads; None is the one that comes with the library, "mirror-cp".

    Attributes:
        image: the drawing as the network sees it, (28, 28) float32 in [0, 1].
        model: the model that reads. Setting it (`widget.model = mine`) shows that one in the browser; it
            needs named dynamics and a reaction that has `to_tensor`.

    Chapter 3.

    >>> widget = DrawDigit()
    >>> widget
    <DrawDigit: a digit drawn here is read by a trained reaction, step by step>
    >>> widget.model(widget.image.view(1, 784)).shape
    torch.Size([1, 10])
    """

    demo = traitlets.Unicode("digit").tag(sync=True)
    pixels = traitlets.Bytes(bytes(4 * PIXELS)).tag(
        sync=True,
        from_json=lambda value, widget: bytes(value),  # buffers arrive as memoryviews
    )
    weights = traitlets.Bytes(b"").tag(sync=True)
    _about = "a digit drawn here is read by a trained reaction, step by step"

    def __init__(self, model: CSOS | None = None) -> None:
        super().__init__()
        self._model = load_weights("mirror-cp")
        if model is not None:
            self.model = model

    @property
    def image(self) -> Tensor:
        return torch.from_numpy(np.frombuffer(self.pixels, "<f4").copy()).view(28, 28)

    @property
    def model(self) -> CSOS:
        return self._model

    @model.setter
    def model(self, model: CSOS) -> None:
        self.weights = pack_weights(model)
        self._model = model


class Triangle(_Demo):
    """Three molecules on a triangle: drag the start, edit W, watch the trajectory.

    Args:
        example: the table of reactions to begin with, one of `Triangle.EXAMPLES`.

    Raises:
        ValueError: example is not one of them.

    Chapter 2, :eq:`eq-euler-step`; chapter 4, :eq:`eq-mirror-step`.

    >>> Triangle("death")
    <Triangle: three molecules on a triangle, with a flow that you set>
    """

    EXAMPLES = ("decay", "rock-paper-scissors", "autocatalysis", "death")
    demo = traitlets.Unicode("triangle").tag(sync=True)
    preset = traitlets.Unicode().tag(sync=True)
    _about = "three molecules on a triangle, with a flow that you set"

    def __init__(self, example: str = "rock-paper-scissors") -> None:
        _check.choice("example", example, self.EXAMPLES)
        super().__init__()
        self.preset = example
        self._data = f' data-preset="{example}"'


class Sorting(_Demo):
    """Sorting and the maximum, softly: drag the bars and turn the temperature.

    Chapter 18, :eq:`eq-softsort`; chapter 19, :eq:`eq-lse-bounds`.
    """

    demo = traitlets.Unicode("sorting").tag(sync=True)
    _about = "bars to drag, sorted softly at a temperature that you set"
