"""What moves without a kernel: pieces of HTML with a play button and a slider through time.

Nothing moves until the reader starts it, and the slider shows every moment at rest.
"""

import hashlib
import html
import json
from collections.abc import Sequence
from string import Template

import torch
from torch import Tensor

from csos_lib.plots import COLOURS
from csos_lib.simplex import barycentric

_SIDE, _MARGIN = 360, 34
_PAGE = Template("""<div id="$id"
 style="max-width:430px;background:#fff;color:#000;padding:8px;border-radius:6px">
$picture
<div style="display:flex;gap:10px;align-items:center"><button type="button">Play</button>
<input type="range" min="0" max="$last" value="0" style="flex:1" aria-label="step t">
<output style="min-width:5em">step 0</output></div></div>
<script>
(() => {
  const box = document.getElementById("$id"), $name = $data;
  const [button, slider, text] = ["button", "input", "output"].map((s) => box.querySelector(s));
  $prepare
  let timer = null;
  const draw = () => {
    const t = Number(slider.value);
    $show
    text.value = "step " + t;
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  button.onclick = () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = 0;
    draw();
    button.textContent = "Pause";
    timer = setInterval(() => { slider.value++; draw(); if (slider.value === slider.max) stop(); }, 250);
  };
  slider.oninput = () => { stop(); draw(); };
})();
</script>""")
_TRIANGLE = Template(
    """<svg viewBox="0 0 $width $height" role="img" aria-label="$alt" style="width:100%;height:auto">
<polygon points="$triangle" fill="none" stroke="#000"/>$labels$tracks$dots</svg>"""
)
_SHOW_DOTS = "dots.forEach((dot, b) => { [dot.cx.baseVal.value, dot.cy.baseVal.value] = tracks[b][t]; });"
_CELL, _COLUMNS = 24, 3
_SIGNS = "0123456789?"
_CELL_COLOURS = (*COLOURS, "#999999", "#882255", "#FFFFFF")
_CELLS = Template("""const [wide, tall, cell, width, columns] = $sizes, colours = $colours, titles = $titles;
  const pen = box.querySelector("canvas").getContext("2d");
  const bright = (colour) => colour.match(/[0-9A-F]{2}/gi).reduce((sum, part) => sum + parseInt(part, 16), 0);
  const write = (text, x, y, size) => {
    pen.font = size + "px sans-serif";
    pen.fillText(text, x, y);
  };
  [pen.textAlign, pen.textBaseline] = ["center", "middle"];
  slider.value = slider.max;
  queueMicrotask(() => draw());""")
_SHOW_CELLS = """pen.clearRect(0, 0, pen.canvas.width, pen.canvas.height);
    frames[t].forEach((votes, k) => {
      const left = (k % columns) * wide, top = Math.floor(k / columns) * tall;
      pen.fillStyle = "#000000";
      write(titles[k], left + wide / 2, top + cell / 2, cell * 0.8);
      [...votes].forEach((vote, c) => {
        if (vote === ".") return;
        const x = left + (c % width) * cell, y = top + (Math.floor(c / width) + 1) * cell;
        const colour = colours["0123456789?".indexOf(vote)];
        pen.fillStyle = colour;
        pen.fillRect(x, y, cell - 1, cell - 1);
        pen.fillStyle = bright(colour) > 370 ? "#000000" : "#FFFFFF";
        write(vote, x + cell / 2, y + cell / 2, cell * 0.7);
      });
    });"""


class TriangleAnimation:
    """Trajectories on the simplex of three molecules, with a play button and a slider through time.

    Displayed by Jupyter, Colab and the built page alike; nothing moves until the reader starts it.

    Args:
        trajectories: concentrations (T + 1, B, 3), T at least 1.
        alt: a text that says what there is to see.
        labels: the names of the three molecules.

    Raises:
        ValueError: trajectories do not have that shape, or there are not three labels.

    Chapter 2, :eq:`eq-barycentric`.
    """

    def __init__(self, trajectories: Tensor, alt: str, labels: Sequence[str] = ("0", "1", "2")) -> None:
        if trajectories.ndim != 3 or trajectories.shape[0] < 2:
            raise ValueError(
                f"trajectories must be (T + 1, B, 3) with T >= 1, got {tuple(trajectories.shape)}"
            )
        if len(labels) != 3:
            raise ValueError(f"labels must be three names, got {len(labels)}")
        self.points = barycentric(trajectories.detach().double().cpu())
        self.alt, self.labels = alt, labels

    def __repr__(self) -> str:
        return f"<{self.points.shape[1]} trajectories of {self.points.shape[0] - 1} steps on the triangle>"

    def _repr_html_(self) -> str:
        top = _MARGIN + _SIDE * 3**0.5 / 2

        def place(point: Sequence[float]) -> list[float]:
            return [round(_MARGIN + _SIDE * point[0], 1), round(top - _SIDE * point[1], 1)]

        tracks = [[place(p) for p in track] for track in self.points.transpose(0, 1).tolist()]
        corners = [place(p) for p in ((0, 0), (1, 0), (0.5, 3**0.5 / 2))]
        colours = [COLOURS[b % len(COLOURS)] for b in range(len(tracks))]
        texts = zip(corners, (20, 20, -10), self.labels, strict=True)
        picture = _TRIANGLE.substitute(
            width=_SIDE + 2 * _MARGIN,
            height=round(top + _MARGIN),
            alt=html.escape(self.alt),
            triangle=" ".join(f"{x},{y}" for x, y in corners),
            labels="".join(
                f'<text x="{x}" y="{round(y + dy, 1)}" text-anchor="middle">{html.escape(label)}</text>'
                for (x, y), dy, label in texts
            ),
            tracks="".join(
                f'<polyline points="{" ".join(f"{x},{y}" for x, y in track)}" fill="none" stroke="{colour}" '
                'stroke-opacity="0.4" stroke-width="2"/>'
                for track, colour in zip(tracks, colours, strict=True)
            ),
            dots="".join(
                f'<circle cx="{track[0][0]}" cy="{track[0][1]}" r="7" fill="{colour}"/>'
                for track, colour in zip(tracks, colours, strict=True)
            ),
        )
        return _play(
            picture,
            len(self.points) - 1,
            name="tracks",
            data=tracks,
            prepare='const dots = [...box.querySelectorAll("circle")];',
            show=_SHOW_DOTS,
        )


class CellsAnimation:
    """What the cells of small grids say over time: a digit in each, on its colour, with a slider.

    Displayed by Jupyter, Colab and the built page alike; it shows the last moment until the reader starts it.

    Args:
        votes: (T + 1, K, height, width) int64 for K pictures: 0..9, 10 for a cell that is undecided, -1 for
            one that is left blank.
        alt: a text that says what there is to see.
        titles: one text a picture.

    Raises:
        ValueError: votes do not have that shape or range, or there are not K titles.

    Chapter 11.
    """

    def __init__(self, votes: Tensor, alt: str, titles: Sequence[str]) -> None:
        if votes.ndim != 4 or votes.dtype != torch.int64 or votes.shape[1] != len(titles):
            expected = f"(T + 1, {len(titles)}, height, width) int64"
            raise ValueError(f"votes must be {expected}, got {tuple(votes.shape)} {votes.dtype}")
        if len(votes) < 2 or votes.min() < -1 or votes.max() >= len(_SIGNS):
            raise ValueError(f"votes must be in -1..10 at two moments or more, got {len(votes)} moments")
        self.votes, self.alt, self.titles = votes.detach().cpu(), alt, titles

    def __repr__(self) -> str:
        steps, count, height, width = self.votes.shape
        return f"<{count} pictures of {height} x {width} cells in {steps - 1} steps>"

    def _repr_html_(self) -> str:
        _, count, height, width = self.votes.shape
        columns = min(_COLUMNS, count)
        wide, tall = _CELL * (width + 1), _CELL * (height + 2)
        frames = [
            ["".join("." if v < 0 else _SIGNS[v] for v in picture) for picture in moment]
            for moment in self.votes.flatten(2).tolist()
        ]
        picture = (
            f'<canvas width="{columns * wide}" height="{-(-count // columns) * tall}" role="img" '
            f'aria-label="{html.escape(self.alt)}" style="width:100%;height:auto"></canvas>'
        )
        prepare = _CELLS.substitute(
            sizes=_script([wide, tall, _CELL, width, columns]),
            colours=_script(_CELL_COLOURS),
            titles=_script(list(self.titles)),
        )
        return _play(picture, len(frames) - 1, "frames", frames, prepare, _SHOW_CELLS)


def _play(picture: str, last: int, name: str, data: object, prepare: str, show: str) -> str:
    parts = {"picture": picture, "last": last, "name": name, "data": _script(data), "prepare": prepare}
    everything = json.dumps(parts)  # two figures on a page are told apart by all that they show
    return _PAGE.substitute(
        parts, id="csos-" + hashlib.sha256(everything.encode()).hexdigest()[:10], show=show
    )


def _script(data: object) -> str:
    """JSON that may stand in a script: no text in it can end the script or begin a comment of HTML."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
