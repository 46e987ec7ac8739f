"""The figure styles of the book: every picture that is drawn twice has its function here.

Each function draws on the axes it is given and returns them; captions and alt text are the notebook's.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.classifier import CLASSES
from csos_lib.dynamics import Reaction, euler_step
from csos_lib.interpret import Pathway
from csos_lib.simplex import barycentric
from csos_lib.training import History

try:
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('csos_lib.plots needs matplotlib: pip install "csos_lib[plots]"') from error

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""Okabe and Ito's palette (2008), told apart with any kind of colour vision. Chapter 1."""


def use_style() -> None:
    """Set matplotlib's defaults for the book: the palette, light grids, and PNG that is the same twice.

    How to use this book.
    """
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "font.size": 11,
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "image.cmap": "gray_r",
            "lines.linewidth": 2,
        }
    )


def show_images(images: Tensor, titles: Sequence[str] = (), columns: int = 10) -> Figure:
    """A sheet of 28 x 28 images, ink dark on white.

    Args:
        images: (n, 784) in [0, 1], n at least 1.
        titles: one text an image, or none.
        columns: images a row, at least 1.

    Returns:
        The figure.

    Raises:
        ValueError: images are not (n, 784) with n at least 1, or there are titles but not n of them.

    Chapter 1.
    """
    _check.matrix("images", images, 784)
    _check.integer("columns", columns, 1)
    if len(images) == 0 or len(titles) not in (0, len(images)):
        raise ValueError(
            f"images must hold at least one image and titles one text each, got {len(images)}, {len(titles)}"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.9 * columns, (1.2 if titles else 0.9) * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for k, (axis, image) in enumerate(zip(axes.flat, images.detach().float().cpu(), strict=False)):
        axis.imshow(image.reshape(28, 28), vmin=0, vmax=1)
        if titles:
            axis.set_title(titles[k], fontsize=10)
    return figure


def show_concentrations(x: Tensor, axis: Axes | None = None) -> Axes:
    """Concentrations as bars; the ten class molecules stand out.

    Args:
        x: concentrations (N,).
        axis: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: x is not one row of concentrations.

    Chapter 1.
    """
    _check.floating("x", x)
    if x.ndim != 1:
        raise ValueError(f"x must have shape (N,), got {tuple(x.shape)}")
    axis = plt.subplots(figsize=(7, 2.2))[1] if axis is None else axis
    colours = [COLOURS[1] if k < 10 else COLOURS[0] for k in range(len(x))]
    axis.bar(range(len(x)), x.detach().double().cpu(), color=colours)
    axis.set(xlabel="molecule k", ylabel="concentration")
    return axis


def show_triangle(axis: Axes | None = None, labels: Sequence[str] = ("0", "1", "2")) -> Axes:
    """The simplex of three molecules: a triangle whose corners are pure molecules.

    Args:
        axis: where to draw; None makes a new figure.
        labels: the names of the three molecules.

    Returns:
        The axes, in the coordinates of :func:`csos_lib.simplex.barycentric`.

    Raises:
        ValueError: there are not three labels.

    Chapter 2, :eq:`eq-barycentric`.
    """
    if len(labels) != 3:
        raise ValueError(f"labels must be three names, got {len(labels)}")
    axis = plt.subplots(figsize=(4.5, 4))[1] if axis is None else axis
    corners = barycentric(torch.eye(3))
    axis.fill(*corners.T, facecolor="none", edgecolor="black", linewidth=1)
    offsets = ((-8, -14), (8, -14), (0, 6))
    for corner, label, offset in zip(corners, labels, offsets, strict=True):
        axis.annotate(label, corner.tolist(), xytext=offset, textcoords="offset points", ha="center")
    axis.set_aspect("equal")
    axis.axis("off")
    return axis


def show_flow(
    reaction: Reaction, decay: float, alpha: float, axis: Axes | None = None, density: int = 12
) -> Axes:
    """Where one Euler step takes every point of the triangle, as arrows at half their length.

    Args:
        reaction: maps (B, 3) to (B, 3), in the dtype and on the device of its parameters if it has any.
        decay: in [0, 1).
        alpha: at least 0.
        axis: where to draw; None draws a new triangle.
        density: points along a side, at least 2.

    Returns:
        The axes.

    Raises:
        ValueError: an argument is out of range.

    Chapter 2, :eq:`eq-euler-step`.
    """
    _check.integer("density", density, 2)
    axis = show_triangle() if axis is None else axis
    starts = simplex_grid(density)
    for parameter in reaction.parameters() if isinstance(reaction, torch.nn.Module) else ():
        starts = starts.to(parameter)
    with torch.no_grad():
        ends = euler_step(starts, reaction, decay, alpha)
    here, there = (barycentric(x.float().cpu()) for x in (starts, ends))
    axis.quiver(
        *here.T, *((there - here) / 2).T, angles="xy", scale_units="xy", scale=1, width=0.004, color="0.55"
    )
    return axis


def simplex_grid(density: int) -> Tensor:
    """Evenly spaced interior points of the triangle, (density (density + 1) / 2, 3). Chapter 2.

    Args:
        density: points along a side, at least 1.

    Raises:
        ValueError: density is not a positive integer.

    >>> simplex_grid(1)
    tensor([[0.3333, 0.3333, 0.3333]])
    """
    _check.integer("density", density, 1)
    points = [
        (i + 1 / 3, j + 1 / 3, density - 1 - i - j + 1 / 3)
        for i in range(density)
        for j in range(density - i)
    ]
    return torch.tensor(points) / density


def show_curves(histories: dict[str, History], axes: Sequence[Axes] | None = None) -> Sequence[Axes]:
    """Training loss and accuracy against epochs, one line a run.

    Args:
        histories: a History for each name.
        axes: two axes; None makes a new figure.

    Returns:
        The two axes.

    Chapter 3.
    """
    axes = plt.subplots(1, 2, figsize=(8, 3))[1] if axes is None else axes
    for name, history in histories.items():
        epochs = range(1, len(history.train_loss) + 1)
        axes[0].plot(epochs, history.train_loss, marker=".", label=name)
        axes[1].plot(epochs, history.train_accuracy, marker=".", label=name)
    axes[0].set(xlabel="epoch", ylabel="training loss")
    axes[1].set(xlabel="epoch", ylabel="training accuracy")
    axes[1].legend()
    return axes


def show_confusion(truth: Tensor, answers: Tensor, axis: Axes | None = None) -> Axes:
    """How often each true class got each answer; the diagonal is right.

    Args:
        truth: labels (n,) int64 in 0..9.
        answers: labels (n,) int64 in 0..9.
        axis: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: truth and answers differ in shape.

    Chapter 3.
    """
    if truth.shape != answers.shape:
        raise ValueError(
            f"truth and answers must have one shape, got {tuple(truth.shape)}, {tuple(answers.shape)}"
        )
    counts = (truth * 10 + answers).bincount(minlength=100).reshape(10, 10)
    axis = plt.subplots(figsize=(4.6, 4.6))[1] if axis is None else axis
    axis.imshow(counts, cmap="Blues", vmin=0, vmax=int(counts.sum(1).max()))
    for i in range(10):
        for j in range(10):
            if counts[i, j]:
                dark = counts[i, j] > counts.sum(1).max() / 2
                axis.text(
                    j, i, str(int(counts[i, j])), ha="center", va="center", color="white" if dark else "black"
                )
    axis.set(xlabel="answer", ylabel="truth", xticks=range(10), yticks=range(10))
    axis.grid(False)
    return axis


def show_pathways(pathways: Sequence[Pathway], axis: Axes | None = None) -> Axes:
    """Reactions as a graph: molecules on the left, one dot a reaction, what it makes on the right.

    Lines are as thick as the pathway is strong; what is made is a solid line, what is taken a dashed one. A
    molecule that meets its own kind has a single line, and "2" beside it. Class molecules stand out.

    Args:
        pathways: such as `csos_lib.interpret.strongest` gives; at least 1, and at most ~8 stay readable.
        axis: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: there is no pathway.

    Chapter 6.
    """
    if not pathways:
        raise ValueError("pathways must hold at least one, got none")
    axis = plt.subplots(figsize=(6, 4))[1] if axis is None else axis
    left = sorted({molecule for p in pathways for molecule in (p.i, p.j)})
    right = sorted({p.k for p in pathways})
    high = max(abs(p.strength) for p in pathways)

    def heights(count: int) -> list[float]:
        return [(count - place - 0.5) / count for place in range(count)]

    y_left, y_right = (dict(zip(column, heights(len(column)), strict=True)) for column in (left, right))
    # Dots in the order of what meets there, so that few lines cross.
    ordered = sorted(pathways, key=lambda p: -(y_left[p.i] + y_left[p.j]))
    for p, y in zip(ordered, heights(len(pathways)), strict=True):
        made = p.strength > 0
        style: dict[str, Any] = {
            "color": COLOURS[0] if made else COLOURS[1],
            "linestyle": "-" if made else "--",
            "linewidth": 1 + 5 * abs(p.strength) / high,
            "zorder": 1,
        }
        for molecule in {p.i, p.j}:
            axis.plot([0, 0.5], [y_left[molecule], y], **style)
        axis.plot([0.5, 1], [y, y_right[p.k]], **style)
        axis.plot(0.5, y, "o", color="black", markersize=5, zorder=2)
        label = f"{p.strength:+.2f}"
        above = y >= y_right[p.k]  # the side that no line takes
        offset, align = ((0, 6), "bottom") if above else ((0, -6), "top")
        axis.annotate(label, (0.5, y), offset, textcoords="offset points", ha="center", va=align, zorder=3)
        if p.i == p.j:
            axis.annotate("2", (0.25, (y_left[p.i] + y) / 2), (0, 5), textcoords="offset points")
    for x, column in ((0, y_left), (1, y_right)):
        for molecule, y in column.items():
            edge = COLOURS[1] if molecule < CLASSES else COLOURS[0]
            box = {"boxstyle": "circle", "facecolor": "white", "edgecolor": edge, "linewidth": 2}
            axis.text(x, y, str(molecule), ha="center", va="center", bbox=box, zorder=4)
    axis.set(xlim=(-0.1, 1.1), ylim=(-0.04, 1.04))
    axis.axis("off")
    return axis
