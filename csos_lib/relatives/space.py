"""Space: a reaction in every cell of a grid, and molecules that spread from cell to cell."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csos_lib import _check
from csos_lib._modules import Recorded, without_autocast
from csos_lib.operators.diffusion import derivative, diffuse, laplacian
from csos_lib.operators.expressions import check_grid
from csos_lib.simplex import EPSILON


def on_each_cell(reaction: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of concentrations to every cell by itself.

    Args:
        reaction: maps rows (n, N) to rows (n, N).
        x: the concentrations of N molecules in d cells, (B, N, d).

    Returns:
        (B, N, d).

    Raises:
        ValueError: x is not (B, N, d) floating point.

    Chapter 11, :eq:`eq-reaction-diffusion`.

    >>> on_each_cell(lambda c: c / c.sum(1, keepdim=True), torch.ones(1, 2, 3))[0, 0].tolist()
    [0.5, 0.5, 0.5]
    """
    _check_cells(x)
    return reaction(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def reaction_diffusion(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    diffusion: Sequence[float],
    grid: tuple[int, int] | None,
    steps: int,
    step: float = 1.0,
) -> Tensor:
    """Solve dx/dt = field(x) + D laplacian(x) by Euler's steps.

    Args:
        field: the reaction, from concentrations (n, S) to their speeds (n, S).
        x: concentrations of S species in d cells, (B, S, d).
        diffusion: D for each species, at least 0; step * D up to 1/2 on a line and 1/4 on a grid is stable.
        grid: (height, width) with height * width = d, or None for a line of cells.
        steps: at least 0.
        step: the length of a step, above 0.

    Returns:
        Concentrations after all steps, (B, S, d).

    Raises:
        ValueError: an argument is out of range.

    Source: Turing (1952). Chapter 11, :eq:`eq-reaction-diffusion`.
    """
    _check_cells(x)
    _check.integer("steps", steps, 0)
    _check.number("step", step, 0, above=True)
    if len(diffusion) != x.shape[1]:
        raise ValueError(
            f"diffusion must be one number for each of {x.shape[1]} species, got {len(diffusion)}"
        )
    for rate in diffusion:
        _check.number("diffusion", rate, 0)
    spread = torch.tensor(diffusion, dtype=x.dtype, device=x.device)[:, None]
    for _ in range(steps):
        x = x + step * (on_each_cell(field, x) + spread * laplacian(x, grid=grid))
    return x


def growth_rates(jacobian: Tensor, diffusion: Sequence[float], laplacian_eigenvalues: Tensor) -> Tensor:
    """How fast patterns grow on an even state: the largest real part of the eigenvalues of J + lambda D.

    Args:
        jacobian: J (S, S) of the reaction at the even state.
        diffusion: D for each species, S numbers.
        laplacian_eigenvalues: lambda of each pattern, (K,), at most 0; 0 is no pattern.

    Returns:
        Growth rates (K,): a pattern with a positive one grows.

    Source: Turing (1952). Chapter 11, :eq:`eq-growth`.

    >>> growth_rates(torch.tensor([[-1.0]]), [0.5], torch.tensor([0.0, -2.0])).tolist()
    [-1.0, -2.0]
    """
    spread = torch.diag(torch.tensor(diffusion, dtype=jacobian.dtype, device=jacobian.device))
    return torch.linalg.eigvals(jacobian + laplacian_eigenvalues[:, None, None] * spread).real.amax(1)


class CellularCSOS(Recorded):
    """Cells that read a digit together: in each the same reaction runs, and molecules leak to its neighbours.

    The image, without a margin of two pixels, becomes cells of 2 x 2 pixels, 12 x 12 of them for 28 x 28. All
    start with the same mixture. In each step a cell senses its molecules and its ink, and how both rise
    across and down. From this, p, a reaction of low rank makes R = C ((A p + a) * (B p + b)); the cell takes
    a mirror step, and its molecules diffuse. In the end each cell votes with its class molecules, and counts
    as much as it has ink.

    Args:
        num_basis: N, the number of molecules, at least `classes`; the first ones are the votes.
        rank: of the reaction, at least 1.
        steps: T, at least 0.
        diffusion: how much flows to each neighbour in a step, in (0, 1/4].
        grid: (height, width) of the images, both even and at least 6.
        classes: how many classes there are, at least 1.

    Attributes:
        meet: nn.Linear(3 (N + 1), 2 rank), the factors A and B.
        make: nn.Linear(rank, N) without offset, the factor C.

    Raises:
        ValueError: an argument is out of range, or images are not (B, height * width) of the model's dtype.

    Source: Randazzo et al. (2020). Chapter 11, :eq:`eq-cell-step`, :eq:`eq-cell-votes`.

    >>> model = CellularCSOS(num_basis=12, rank=8, steps=2)
    >>> model(torch.rand(3, 784)).shape, model.trajectory(torch.rand(3, 784)).shape
    (torch.Size([3, 10]), torch.Size([3, 3, 12, 144]))
    """

    def __init__(
        self,
        num_basis: int = 16,
        rank: int = 64,
        steps: int = 12,
        diffusion: float = 0.2,
        *,
        grid: tuple[int, int] = (28, 28),
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.classes = _check.integer("classes", classes, 1)
        self.num_basis = _check.integer("num_basis", num_basis, self.classes)
        self.steps, rank = _check.integer("steps", steps, 0), _check.integer("rank", rank, 1)
        self.diffusion = _check.number("diffusion", diffusion, 0, 0.25, above=True)
        if check_grid(grid) is None or any(side < 6 or side % 2 for side in grid):
            raise ValueError(f"grid must be (height, width), both even and at least 6, got {grid!r}")
        self.grid = grid
        self.cells = (grid[0] - 4) // 2, (grid[1] - 4) // 2
        self.meet = nn.Linear(3 * (self.num_basis + 1), 2 * rank)
        self.make = nn.Linear(rank, self.num_basis, bias=False)
        nn.init.normal_(self.meet.weight)
        nn.init.normal_(self.meet.bias, std=0.5)
        nn.init.normal_(self.make.weight, std=0.1 / rank**0.5)

    def ink(self, images: Tensor) -> Tensor:
        """How dark each cell is, (B, 1, cells): the mean of 2 x 2 pixels of the middle of the image."""
        _check.matrix("images", images, self.grid[0] * self.grid[1], self.meet.weight.dtype)
        return F.avg_pool2d(images.unflatten(1, (1, *self.grid))[..., 2:-2, 2:-2], 2).flatten(2)

    def forward(self, images: Tensor) -> Tensor:
        """Mean log-votes (B, classes) of the inked cells; they sum to 1 only where all cells agree."""
        return without_autocast(self._vote, images, self.meet.weight.dtype)

    def _vote(self, images: Tensor) -> Tensor:
        ink = self.ink(images)
        ink = ink / EPSILON + 1 if torch.compiler.is_compiling() else ink + EPSILON  # as in `normalise`
        for log_x in self._log_states(images):
            last = log_x
        votes = last[:, : self.classes].log_softmax(1)
        return (votes * ink / ink.sum(2, keepdim=True)).sum(2)

    def trajectory(self, images: Tensor) -> Tensor:
        """Concentrations (T + 1, B, N, cells) in every cell at every step."""

        def states(images: Tensor) -> Tensor:
            return torch.stack(list(self._log_states(images))).exp()

        return without_autocast(states, images, self.meet.weight.dtype)

    def _log_states(self, images: Tensor) -> Iterator[Tensor]:
        ink = self.ink(images)
        # What a linear map does to single cells is its matrix: one product is faster than many shifts.
        cells = torch.eye(ink.shape[2], dtype=ink.dtype, device=ink.device)
        across, down = (derivative(cells, axis, self.cells) / 4 for axis in (1, 0))
        spread = diffuse(cells, self.diffusion, self.cells)
        x = ink.new_full((ink.shape[0], self.num_basis, ink.shape[2]), 1 / self.num_basis)
        log_x = x.log()
        yield log_x
        for _ in range(self.steps):
            here = torch.cat([x, ink], 1)
            left, right = self.meet(torch.cat([here, here @ across, here @ down], 1).mT).chunk(2, 2)
            x = (log_x + self.make(left * right).mT).softmax(1) @ spread
            log_x = x.clamp_min(torch.finfo(x.dtype).tiny).log()
            yield log_x

    def _recipe(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("steps", "diffusion", "grid", "classes")}

    def extra_repr(self) -> str:
        return f"num_basis={self.num_basis}, steps={self.steps}, diffusion={self.diffusion}"


def _check_cells(x: Tensor) -> None:
    _check.floating("x", x)
    if x.ndim != 3:
        raise ValueError(f"x must have shape (B, N, d), got {tuple(x.shape)}")
