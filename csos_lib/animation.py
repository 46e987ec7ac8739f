"""Three molecules on a triangle, moving without a kernel: one piece of HTML with its own slider."""

import hashlib
import json
from collections.abc import Sequence
from string import Template

from torch import Tensor

from csos_lib.plots import COLOURS
from csos_lib.simplex import barycentric

_SIDE, _MARGIN = 360, 34
_PAGE = Template("""<div id="$id"
 style="max-width:430px;background:#fff;color:#000;padding:8px;border-radius:6px">
<svg viewBox="0 0 $width $height" role="img" aria-label="$alt" style="width:100%;height:auto">
<polygon points="$triangle" fill="none" stroke="#000"/>$labels$tracks$dots</svg>
<div style="display:flex;gap:10px;align-items:center"><button type="button">Play</button>
<input type="range" min="0" max="$last" value="0" style="flex:1" aria-label="step t">
<output style="min-width:5em">step 0</output></div></div>
<script>
(() => {
  const box = document.getElementById("$id"), tracks = $points;
  const [button, slider, text] = ["button", "input", "output"].map((s) => box.querySelector(s));
  const dots = [...box.querySelectorAll("circle")];
  let timer = null;
  const draw = () => {
    const t = Number(slider.value);
    dots.forEach((dot, b) => { [dot.cx.baseVal.value, dot.cy.baseVal.value] = tracks[b][t]; });
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
        points = json.dumps(tracks, separators=(",", ":"))
        return _PAGE.substitute(
            id="csos-" + hashlib.sha256((points + self.alt).encode()).hexdigest()[:10],
            width=_SIDE + 2 * _MARGIN,
            height=round(top + _MARGIN),
            alt=self.alt.replace("&", "&amp;").replace('"', "&quot;"),
            triangle=" ".join(f"{x},{y}" for x, y in corners),
            labels="".join(
                f'<text x="{x}" y="{round(y + dy, 1)}" text-anchor="middle">{label}</text>'
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
            last=len(self.points) - 1,
            points=points,
        )
