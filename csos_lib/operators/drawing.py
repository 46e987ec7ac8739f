"""A bank drawn as a graph: every node once, from the input on the left to the operators on the right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from csos_lib.operators.expressions import Expression, distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {  # Okabe & Ito (2008), for readers who do not see all colours
    "spectral": "#56B4E9",
    "algebraic": "#E69F00",
    "diffusion": "#009E73",
    "kernel": "#CC79A7",
    "sorting": "#D55E00",
    "morphology": "#F0E442",
    None: "#D9D9D9",
}


def draw(expressions: Sequence[Expression], ax: "Axes | None" = None) -> "Axes":
    """Draw formulas as one graph in which equal subexpressions are one node.

    A node stands right of all its inputs, beside those it is connected to, and says what is done there: its
    inputs are the dots that its lines lead to, left to right as in the formula.

    Args:
        expressions: the operators, at least one; up to about thirty nodes are readable on a page.
        ax: where to draw; None makes a figure that fits the graph.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.

    Source: Sugiyama, Tagawa & Toda (1981), layers ordered by the mean place of their neighbours. Chapter 13.
    """
    nodes = distinct(expressions)
    depth: dict[Expression, int] = {}
    for node in nodes:
        depth[node] = 1 + max((depth[x] for x in node.inputs), default=-1)
    for node in nodes:  # a fixed tensor stands just before its first reader, not at the far left
        if not node.inputs and node.name != "rows":
            depth[node] = min(depth[reader] for reader in nodes if node in reader.inputs) - 1
    layers = [[node for node in nodes if depth[node] == i] for i in range(max(depth.values()) + 1)]
    height = _order(layers, nodes)
    if ax is None:
        size = (1.9 * len(layers), 0.5 * max(map(len, layers)) + 0.6)
        try:
            import matplotlib.pyplot as plt  # not at the top: `import csos_lib` takes long enough without it
        except ImportError as error:
            raise ImportError('drawing needs matplotlib: pip install "csos_lib[plots]"') from error
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    for node in nodes:
        for child in node.inputs:
            (x0, y0), (x1, y1) = (depth[child], height[child]), (depth[node], height[node])
            style = f"arc3,rad={0 if x1 - x0 == 1 else 0.15}"
            arrow = {
                "arrowstyle": "-|>",
                "color": "0.55",
                "connectionstyle": style,
                "shrinkA": 14,
                "shrinkB": 14,
            }
            ax.annotate("", (x1, y1), (x0, y0), arrowprops=arrow, zorder=1)
    for node in nodes:
        box = {
            "boxstyle": "round,pad=0.3",
            "facecolor": COLOURS[node.primitive.family],
            "edgecolor": "black" if node in expressions else "none",
        }
        label = node.format(*["·"] * len(node.inputs))
        label = node.name if label == f"{node.name}(·)" else label.replace("(·)", "·")
        ax.text(
            depth[node],
            height[node],
            label,
            ha="center",
            va="center",
            fontsize=8,
            color="black",
            bbox=box,
            zorder=2,
        )
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.set_ylim(min(height.values()) - 0.6, max(height.values()) + 0.6)
    ax.axis("off")
    return ax


def _order(layers: list[list[Expression]], nodes: list[Expression]) -> dict[Expression, float]:
    """A height for every node: sweeps to and fro sort each layer by the mean height of its neighbours."""
    near: dict[Expression, list[Expression]] = {node: list(node.inputs) for node in nodes}
    for node in nodes:
        for child in node.inputs:
            near[child].append(node)
    height = {node: (len(layer) - 1) / 2 - i for layer in layers for i, node in enumerate(layer)}
    for sweep in range(8):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            mean = {x: sum(height[y] for y in near[x]) / max(len(near[x]), 1) for x in layer}
            layer.sort(key=lambda x: -mean[x])
            for i, node in enumerate(layer):
                height[node] = (len(layer) - 1) / 2 - i
    return height
