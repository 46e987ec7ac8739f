"""Many operators as one graph, in which equal subexpressions are one node."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib.operators.expressions import CONTINUOUS, Expression, Value, distinct, h
from csos_lib.operators.inner import NORMS, rms

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Step(NamedTuple):
    """How one node is run: the nodes it reads, the operators it is, the nodes that nobody reads after it."""

    node: Expression
    reads: tuple[int, ...]
    operators: tuple[int, ...]
    done: tuple[int, ...]


class Bank(nn.Module):
    """K operators h (B, d) -> (B, d) stored as one graph: whatever they have in common is computed once.

    Args:
        expressions: K formulas, at least one, each a function of `h` that gives (B, d).
        learnable: make every continuous parameter (scale, tau, sigma, alpha) a parameter, learned through its
            logarithm. Operators that share a node share its parameter.
        normalised: put `rms` around every formula that does not end in a norm.

    Attributes:
        nodes: the distinct subexpressions, each after its inputs.
        dim: d, or None where nothing in the formulas fixes it.

    Raises:
        ValueError: there is no expression, one does not use `h`, their dimensions differ, or h is not (B, d).

    Source: memo 2, section 3; hash-consing, Ershov (1958). Chapters 13 and 21.

    >>> from csos_lib.operators import cos, sin, weight
    >>> z = h @ weight(dim=4)
    >>> bank = Bank([sin(z), cos(z), h + 0.5 * sin(z)])
    >>> bank(torch.rand(2, 4)).shape, len(bank.nodes), str(bank[0])
    (torch.Size([3, 2, 4]), 9, 'rms(sin(h @ W0))')
    """

    def __init__(
        self, expressions: Iterable[Expression], learnable: bool = False, normalised: bool = True
    ) -> None:
        super().__init__()
        operators = list(expressions)
        if not operators or not all(isinstance(f, Expression) for f in operators):
            raise ValueError(f"expressions must be at least one Expression, got {operators!r}")
        if normalised:
            operators = [f if f.name in NORMS else rms(f) for f in operators]
        self.learnable, self.nodes = learnable, distinct(operators)
        self._operators, self._steps = operators, _schedule(self.nodes, operators)
        for f in operators:
            if h not in distinct([f]):
                raise ValueError(f"every operator must be a function of h, got {f}")
        self.dim = _dimension(self.nodes)
        self._fixed = {i: f"node_{i}" for i, node in enumerate(self.nodes) if not node.inputs and node != h}
        for place, name in self._fixed.items():
            fixed = self.nodes[place].primitive.function(**dict(self.nodes[place].parameters))
            fixed = fixed.to(torch.get_default_device(), torch.get_default_dtype())
            self.register_buffer(name, fixed, persistent=False)  # the formula is enough to make it again
        start = [cast(float, v) for _, _, v in self._continuous()] if learnable else []
        self.log_parameters = nn.Parameter(torch.tensor(start).log()) if start else None

    def _continuous(self) -> Iterator[tuple[int, str, Value]]:
        for place, node in enumerate(self.nodes):
            yield from ((place, name, value) for name, value in node.parameters if name in CONTINUOUS)

    def parameter_values(self) -> dict[tuple[int, str], Tensor]:
        """The learned values by node and name; empty if the bank is not learnable."""
        if self.log_parameters is None:
            return {}
        values = self.log_parameters.exp().unbind()
        return {(place, name): x for (place, name, _), x in zip(self._continuous(), values, strict=True)}

    def stream(self, h: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each operator's number and answer (B, d), as soon as it is known; a node is dropped once read."""
        constant = next(self.buffers(), self.log_parameters)
        _check.matrix("h", h, self.dim, None if constant is None else constant.dtype)
        learned: list[dict[str, Value | Tensor]] = [dict(node.parameters) for node in self.nodes]
        for (place, name), value in self.parameter_values().items():
            learned[place][name] = value
        values: dict[int, Tensor] = {}
        for place, (node, reads, operators, done) in enumerate(self._steps):
            if reads:
                value = node.primitive.function(*[values[i] for i in reads], **learned[place])
            else:
                value = self.get_buffer(self._fixed[place]) if place in self._fixed else h
            values[place] = value
            if operators and value.shape != h.shape:
                raise ValueError(
                    f"every operator must give {tuple(h.shape)}, got {tuple(value.shape)} from {node}"
                )
            for i in done:
                del values[i]
            for k in operators:
                yield k, value

    def forward(self, h: Tensor) -> Tensor:
        answers = dict(self.stream(h))
        return torch.stack([answers[k] for k in range(len(self))])

    def __len__(self) -> int:
        return len(self._operators)

    def __getitem__(self, k: int) -> Expression:
        """Operator k as an expression, with the values that its parameters have now."""
        return self.expressions[k]

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The K operators, with the values that their parameters have now."""
        now = {key: x.item() for key, x in self.parameter_values().items()}
        if not now:
            return tuple(self._operators)
        new: dict[Expression, Expression] = {}
        for place, node in enumerate(self.nodes):
            parameters = tuple((name, now.get((place, name), value)) for name, value in node.parameters)
            new[node] = Expression(node.name, tuple(new[child] for child in node.inputs), parameters)
        return tuple(new[f] for f in self._operators)

    @property
    def families(self) -> list[str | None]:
        """The family of each operator; None for one of inner primitives alone."""
        return [f.family for f in self._operators]

    @property
    def names(self) -> list[str]:
        """K short names, all different, made of the outermost primitive of a family and the numbers in it."""
        short = [" ".join([f.head.name, *_numbers(f)]) for f in self._operators]
        longer = [
            " ".join([x, *(str(n) for n in distinct([f]) if not n.inputs and n != h)])
            if short.count(x) > 1
            else x
            for x, f in zip(short, self._operators, strict=True)
        ]
        return [f"{x} #{k}" if longer.count(x) > 1 else x for k, x in enumerate(longer)]

    def draw(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the graph, from h on the left to the operators on the right; see :func:`draw`."""
        from csos_lib.operators.drawing import draw

        return draw(self.expressions, ax)

    def extra_repr(self) -> str:
        return f"{len(self)} operators, {len(self.nodes)} nodes, learnable={self.learnable}"


def _numbers(f: Expression) -> list[str]:
    values = [v for node in distinct([f]) for k, v in node.parameters if k in CONTINUOUS]
    return [f"{v:.3g}" for v in [*values, *(v for k, v in f.head.parameters if k == "degree")]]


def _schedule(nodes: list[Expression], operators: list[Expression]) -> list[Step]:
    place = {node: i for i, node in enumerate(nodes)}
    last = {
        child: i for i, node in enumerate(nodes) for child in (place[node], *(place[x] for x in node.inputs))
    }
    done: dict[int, list[int]] = {}
    for child, reader in last.items():
        done.setdefault(reader, []).append(child)
    numbers: dict[Expression, list[int]] = {}
    for k, f in enumerate(operators):
        numbers.setdefault(f, []).append(k)
    return [
        Step(
            node,
            tuple(place[x] for x in node.inputs),
            tuple(numbers.get(node, ())),
            tuple(done.get(i, ())),
        )
        for i, node in enumerate(nodes)
    ]


def _dimension(nodes: list[Expression]) -> int | None:
    """d, which every fixed tensor and every grid of a formula must agree on."""
    found = set()
    for parameters in (dict(node.parameters) for node in nodes):
        found.add(parameters.get("dim"))
        if isinstance(grid := parameters.get("grid"), tuple):
            found.add(grid[0] * grid[1])
    found.discard(None)
    if len(found) > 1:
        raise ValueError(f"all operators must have the same dim, got {sorted(map(str, found))}")
    return cast(int | None, found.pop() if found else None)
