"""Random programs: operators that chance writes, from a grammar whose weights and ranges are stated here.

A program starts from `h` or from one of a few shared maps of it, takes some steps, each a primitive of a
family drawn by weight, and ends in a norm. Linear primitives read the state as it is; all others read its
norm: a scale or a temperature then means the same at any depth, and no power of a power runs away.

>>> for program in sample_programs(2, dim=16):
...     print(program)
layer_norm(layer_norm(h @ W0)^2)
rms(edges(rms(cos(0.104 * rms(gelu(rms(h + derivative(h))))))))
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import accumulate, count, islice
from typing import TypeVar

import torch

from csos_lib import _check
from csos_lib.operators import algebraic, diffusion, inner, kernel, morphology, sorting, spectral
from csos_lib.operators.axes import Grid
from csos_lib.operators.expressions import Expression, check_grid, distinct, h
from csos_lib.operators.inner import NORMS, layer_norm, rms
from csos_lib.operators.library import MEMORY

FAMILIES: dict[str, float] = {
    "inner": 6, "spectral": 4, "algebraic": 4, "diffusion": 4, "morphology": 4, "kernel": 1, "sorting": 1,
}  # fmt: skip
"""How often a step is of each family, relative to the others. Chapter 20."""

MEMBERS: dict[str, dict[str, float]] = {
    "inner": {"linear": 1, "gelu": 1, "tanh": 1, "sigmoid": 1, "layer_norm": 1},
    "spectral": {"sin": 1, "cos": 1},
    "algebraic": {"power": 2, "gate": 2, "ratio": 1, "rational": 1},
    "diffusion": {"diffuse": 1, "laplacian": 1, "derivative": 1, "edges": 1, "gaussian_blur": 1},
    "morphology": {"dilate": 2, "erode": 2, "opening": 1, "closing": 1, "soft_quantile": 1},
    "kernel": {"prototypes": 1, "soft_neighbours": 1},
    "sorting": {"softsorted": 29, "soft_rank": 1, "neuralsort": 1, "sinkhorn": 1},
}
"""How often each primitive of a family is drawn; few of those that hold a d x d matrix a row.

Chapter 20.
"""

SCALE, TAU, ALPHA, BLUR, REACH = (1e-2, 1e2), (0.05, 5.0), (1e-3, 1e-1), (0.5, 4.0), (0.3, 3.0)
"""Ranges, each log-uniform: s, tau, alpha, sigma of a blur, sigma of a prototype.

Those of s, alpha and the blur are memo 2's. It gives tau in [0.1, 5] for waves and no range for the soft
families: theirs, and that of a prototype, are ours.
"""

MATRICES = 4
"""How many random maps of h the programs of one seed share."""

ALIKE, SMALL = 0.999, 1e-3
"""Answers correlated beyond ALIKE count as one; a mean square or a slope below SMALL counts as nothing."""

TRIES = 200
"""Draws for one program before giving up."""

Option = TypeVar("Option")


class Dice:
    """Choices that are the same on every machine: of a generator seeded by text, only `random()` is used."""

    def __init__(self, key: str, dim: int, seed: int, grid: Grid) -> None:
        self.random = random.Random(key).random
        self.dim, self.seed, self.grid = dim, 1000 * seed, grid

    def pick(self, options: Mapping[Option, float] | Sequence[Option]) -> Option:
        """One of the options, by weight if they have weights."""
        weights = options if isinstance(options, Mapping) else dict.fromkeys(options, 1.0)
        ends = list(accumulate(weights.values()))
        mark = self.random() * ends[-1]
        return next(option for option, end in zip(weights, ends, strict=True) if mark < end)

    def log_uniform(self, limits: tuple[float, float]) -> float:
        """A number whose logarithm is uniform, to three digits: a formula then says all of it."""
        low, high = limits
        return float(f"{low * (high / low) ** self.random():.3g}")


def _step(name: str, x: Expression, dice: Dice) -> Expression:
    """One primitive applied to the state x; those that are not linear read its norm z."""
    z, s = x if x.name in NORMS else rms(x), layer_norm(x)
    dim, grid, pick, log_uniform = dice.dim, dice.grid, dice.pick, dice.log_uniform
    memory, tau = inner.points(dim, MEMORY, dice.seed), log_uniform(TAU)
    readout = inner.weight(dim, dice.seed + MATRICES, rows=MEMORY)

    def window() -> int:
        return pick([w for w in (3, 5, 9) if w // 2 <= min(grid or (dim,))])

    steps: dict[str, Callable[[], Expression]] = {
        "linear": lambda: x @ _matrix(dice),
        "gelu": lambda: inner.gelu(z),
        "tanh": lambda: inner.tanh(z),
        "sigmoid": lambda: inner.sigmoid(z),
        "layer_norm": lambda: s,
        "sin": lambda: spectral.sin(log_uniform(SCALE) * z),
        "cos": lambda: spectral.cos(log_uniform(SCALE) * z),
        "power": lambda: z ** pick((2, 3, 4)),
        "gate": lambda: algebraic.gate(x, rms(h @ _matrix(dice))),
        "ratio": lambda: algebraic.ratio(z, rms(h @ _matrix(dice))),
        "rational": lambda: algebraic.rational(z),
        "diffuse": lambda: diffusion.diffuse(x, log_uniform(ALPHA), grid),
        "laplacian": lambda: diffusion.laplacian(x, grid=grid),
        "derivative": lambda: diffusion.derivative(x, axis=pick((0, 1)) if grid else 1, grid=grid),
        "edges": lambda: diffusion.edges(z, grid=grid),
        "gaussian_blur": lambda: diffusion.gaussian_blur(x, log_uniform(BLUR), grid=grid),
        "dilate": lambda: morphology.dilate(z, tau, window=window(), grid=grid),
        "erode": lambda: morphology.erode(z, tau, window(), grid),
        "opening": lambda: morphology.opening(z, tau, window(), grid),
        "closing": lambda: morphology.closing(z, tau, window(), grid),
        "soft_quantile": lambda: morphology.soft_quantile(z, tau, pick((0.25, 0.5, 0.75)), grid=grid),
        "prototypes": lambda: kernel.prototypes(z, memory, readout, log_uniform(REACH)),
        "soft_neighbours": lambda: kernel.soft_neighbours(z, memory, tau),
        "softsorted": lambda: sorting.softsorted(sorting.sort(s), tau),
        "soft_rank": lambda: layer_norm(sorting.soft_rank(s, tau)),
        "neuralsort": lambda: inner.weigh(sorting.neuralsort(s, dim * tau), s),
        "sinkhorn": lambda: sorting.sinkhorn_sort(s, inner.anchors(dim), tau, pick({3: 4, 5: 2, 10: 1})),
    }
    return steps[name]()


def _matrix(dice: Dice) -> Expression:
    return inner.weight(dice.dim, dice.seed + dice.pick(range(MATRICES)))


class Judge:
    """Says what is wrong with a program, from what it does to fixed rows, in float64 on the CPU.

    The rows are standard normal. Rounding is then some 1e-13 of an answer, and two machines can disagree only
    about a program that comes that close to a limit.

    Args:
        dim: d, the length of a row, at least 2.
        alike: a correlation beyond which two answers count as one.

    Chapter 20, :eq:`eq-alike`.
    """

    @torch.inference_mode(False)
    def __init__(self, dim: int, alike: float = ALIKE) -> None:
        self.alike = alike
        generator = torch.Generator("cpu").manual_seed(0)
        shape = max(8, min(64, 2048 // dim)), dim
        numbers = torch.randn(2, *shape, dtype=torch.float64, device="cpu", generator=generator)
        self.rows, self.direction = numbers.unbind()
        self.answers, self.count = self.rows.new_zeros(1, self.rows.numel()), 0

    @torch.inference_mode(False)
    def fault(self, program: Expression) -> str | None:
        """What is wrong with a program, or None: then it joins those that later ones are compared with."""
        with torch.enable_grad():
            x = self.rows.clone().requires_grad_()
            values = {h: x}
            for node in distinct([program]):
                if node != h:
                    inputs = [values[i] for i in node.inputs]
                    values[node] = node.primitive.function(*inputs, **dict(node.parameters))
            (slope,) = torch.autograd.grad((values[program] * self.direction).sum(), x)
        y = values[program].detach()
        answer = y.flatten() - y.mean()
        answer = answer / answer.norm()
        faults = {
            "not finite": not (y.isfinite().all() and slope.isfinite().all()),
            "vanishes": y.square().mean() < 0.5,
            "constant": (y - y.mean(1, keepdim=True)).square().mean() < SMALL,
            "ignores its input": (y - y.mean(0)).square().mean() < SMALL,
            "dead gradient": slope.square().mean(1).sqrt().median() < SMALL,
            "repeats": (self.answers[: self.count] @ answer).abs().gt(self.alike).any(),
        }
        fault = next((name for name, found in faults.items() if found), None)
        if fault is None:
            if self.count == len(self.answers):
                self.answers = torch.cat([self.answers, torch.zeros_like(self.answers)])
            self.answers[self.count] = answer
            self.count += 1
        return fault


def draw_programs(
    dim: int,
    seed: int = 0,
    p_skip: float = 0.3,
    depths: Sequence[int] = (2, 3, 4),
    grid: Grid = None,
    families: Mapping[str, float] = FAMILIES,
    alike: float = ALIKE,
) -> Iterator[tuple[Expression, list[str]]]:
    """Random programs without end, each with the faults of those that were drawn in its place and rejected.

    Args:
        dim: d, the length of a row, at least 2.
        seed: fixes everything that is drawn, at least 0.
        p_skip: the probability that a step is added to what it was applied to, in [0, 1].
        depths: how many steps a program may have, each at least 1 and equally likely.
        grid: (height, width) with height * width = dim if the rows are images.
        families: how often a step is of each family, some of the keys of FAMILIES with numbers of at least 0.
        alike: a program correlated beyond this with an earlier one repeats it; above 1 none does.

    Returns:
        An iterator of pairs (program, faults); the faults are "not finite", "vanishes", "constant", "ignores
        its input", "dead gradient" and "repeats", as :func:`sample_programs` defines them.

    Raises:
        ValueError: an argument is out of range; or, from the iterator, 200 draws gave nothing new.

    Chapter 20, :eq:`eq-program`.

    >>> next(draw_programs(dim=8))
    (layer_norm(layer_norm(h @ W0)^2), [])
    """
    _check.integer("dim", dim, 2)
    _check.integer("seed", seed, 0)
    _check.number("p_skip", p_skip, 0, 1)
    _check.number("alike", alike, 0)
    if not isinstance(depths, Collection) or not depths:
        raise ValueError(f"depths must be a sequence of at least one integer, got {depths!r}")
    for depth in depths:
        _check.integer("depths", depth, 1)
    grid = check_grid(grid)
    if grid is not None and grid[0] * grid[1] != dim:
        raise ValueError(f"grid must have dim = {dim} places, got {grid}")
    for family, share in families.items():
        _check.choice("families", family, list(FAMILIES))
        _check.number("families", share, 0)
    if not sum(families.values()):
        raise ValueError(f"families must have at least one number above 0, got {families!r}")

    def draw(dice: Dice) -> Expression:
        x = dice.pick((h, h @ _matrix(dice)))
        for _ in range(dice.pick(depths)):
            y = _step(dice.pick(MEMBERS[dice.pick(families)]), x, dice)
            x = x + y if dice.random() < p_skip else y
        return x if x.name in NORMS else rms(x)

    def draws() -> Iterator[tuple[Expression, list[str]]]:
        judge = Judge(dim, alike)
        for place in count():
            dice, faults = Dice(f"program {place} of seed {seed}", dim, seed, grid), list[str]()
            while fault := judge.fault(program := draw(dice)):
                faults.append(fault)
                if len(faults) == TRIES:
                    settings = f"for dim {dim} and depths {tuple(depths)}"
                    raise ValueError(
                        f"count must be at most {place} {settings}: {TRIES} draws gave nothing new"
                    )
            yield program, faults

    return draws()


def sample_programs(
    count: int,
    dim: int,
    seed: int = 0,
    p_skip: float = 0.3,
    depths: Sequence[int] = (2, 3, 4),
    grid: Grid = None,
) -> list[Expression]:
    """Operators written by chance: formulas of the grammar above, all different, none degenerate.

    The same arguments give the same programs on every machine, and the first K of 2K programs are the K
    programs: each place has a generator of its own, and is compared only with the places before it. A draw is
    rejected, and its place drawn again, if on fixed standard normal rows, in float64, its answer y

    - or its gradient is not finite;
    - vanishes: mean y^2 is below 1/2, the norm found nothing to make larger;
    - is constant: within rows y varies by less than 0.001, as a mean square;
    - ignores its input: from row to row y varies by less than 0.001;
    - has a dead gradient: half of the rows move a random projection of y by slopes of a size below 0.001;
    - repeats: its correlation with the answer of an earlier program is above 0.999 or below -0.999.

    Of a hundred draws 5 to 11 are, on a grid 8 to 14; :func:`draw_programs` tells which and why, and lets the
    families be chosen.

    Args:
        count: K, how many, at least 1.
        dim: d, the length of a row, at least 2.
        seed: fixes everything that is drawn, at least 0; programs of one seed share their random matrices.
        p_skip: the probability that a step is added to what it was applied to, in [0, 1].
        depths: how many steps a program may have, each at least 1 and equally likely.
        grid: (height, width) with height * width = dim if the rows are images.

    Returns:
        K expressions, each ending in a norm: make a :class:`Bank` of them.

    Raises:
        ValueError: an argument is out of range, or there are not so many different programs of this kind.

    Source: memo 2, section 2.3; Dempster et al. (2020), many random features with log-uniform parameters.
    Chapter 20, :eq:`eq-program`, :eq:`eq-log-uniform` and :eq:`eq-alike`.

    >>> sample_programs(2, dim=8) == sample_programs(4, dim=8)[:2]
    True
    """
    _check.integer("count", count, 1)
    return [f for f, _ in islice(draw_programs(dim, seed, p_skip, depths, grid), count)]
