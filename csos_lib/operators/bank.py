"""Many operators as one graph, in which equal subexpressions are one node."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from csos_lib import _check
from csos_lib._modules import Derived, Recorded, autocasts
from csos_lib.operators.expressions import Expression, Value, distinct, h
from csos_lib.operators.inner import NORMS, rms, rms_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PRODUCTS = ("matmul", "squared_distance", "gaussian_blur", "weigh", "collect")
"""The primitives that multiply by a matrix."""


class Step(NamedTuple):
    """How one node is run: its numbers, what it reads, the operators it is, the nodes no later one reads.

    `last` says that it is an operator's `rms` which no other node reads: it need not be written down.
    """

    node: Expression
    arguments: dict[str, Any]
    reads: tuple[int, ...]
    operators: tuple[int, ...]
    done: tuple[int, ...]
    last: bool


class Cost(NamedTuple):
    """What a bank computes for one batch, beside what its formulas say when each is read on its own.

    Attributes:
        operators: K.
        nodes_written: the functions in all K formulas as they are written, inputs and fixed tensors included.
        nodes: the nodes of the graph, each of which is computed once.
        products_written: the matrix products among `nodes_written`.
        products: the matrix products among `nodes`.

    Chapter 21, :eq:`eq-written`.
    """

    operators: int
    nodes_written: int
    nodes: int
    products_written: int
    products: int


class Bank(Derived, Recorded):
    """K operators h (B, d) -> (B, d) stored as one graph: whatever they have in common is computed once.

    `bank(h)` is all their answers, (K, B, d). While gradients are disabled, `bank(h, out=table)` writes them
    into a table that is there already, which saves asking for memory in every call. A bank that is called
    many times is fastest compiled, `torch.compile(bank)`: chapter 21 has the table.

    Args:
        expressions: K formulas, at least one, each a function of `h` that gives (B, d).
        learnable: make every continuous parameter (scale, tau, sigma, alpha) a parameter, learned through its
            logarithm. Operators that share a node share its parameter.
        normalised: put `rms` around every formula that does not end in a norm.

    Attributes:
        nodes: the distinct subexpressions in the order in which they are computed.
        dim: d, or None where nothing in the formulas fixes it.

    Raises:
        ValueError: there is no expression, one does not use `h`, their dimensions differ, h is not (B, d), or
            `out` is not (K, B, d) of its dtype.

    Source: memo 2, section 3; hash-consing, Ershov (1958). Chapter 13; chapter 21, :eq:`eq-written`.

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
        self.learnable, self.nodes = learnable, _depth_first(distinct(operators))
        self._operators, self._steps = operators, _schedule(self.nodes, operators)
        for f in operators:
            if h not in distinct([f]):
                raise ValueError(f"every operator must be a function of h, got {f}")
        self.dim = _dimension(self.nodes, operators)
        self._fixed = {i: f"node_{i}" for i, node in enumerate(self.nodes) if not node.inputs and node != h}
        self._register_derived()
        start = [cast(float, v) for _, _, v in self._continuous()] if learnable else []
        self.log_parameters = nn.Parameter(torch.tensor(start).log()) if start else None

    def _derive(self) -> dict[str, Tensor]:
        return {
            name: self.nodes[place].primitive.function(**self._steps[place].arguments)
            for place, name in self._fixed.items()
        }

    def _recipe(self) -> dict[str, Any]:
        text = "".join(f.to_json() for f in self._operators)
        formulas = hashlib.sha256(text.encode()).hexdigest()[:16]
        return {"operators": len(self), "formulas": formulas, "learnable": self.learnable}

    def _continuous(self) -> Iterator[tuple[int, str, Value]]:
        for place, node in enumerate(self.nodes):
            yield from (
                (place, name, value) for name, value in node.parameters if name in node.primitive.continuous
            )

    def parameter_values(self) -> dict[tuple[int, str], Tensor]:
        """The learned values by node and name; empty if the bank is not learnable."""
        if self.log_parameters is None:
            return {}
        values = self.log_parameters.exp().unbind()
        return {(place, name): x for (place, name, _), x in zip(self._continuous(), values, strict=True)}

    def stream(self, h: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Each operator's number and answer (B, d), as soon as it is known; a node is dropped once read.

        Each answer is a tensor of its own, which may be written to.
        """
        for operators, value, scale, shared in self._run(h):
            answer = value if scale is None else value * scale
            for place, k in enumerate(operators, 1):
                read_again = place < len(operators) or (shared and scale is None)
                yield k, (answer.clone() if read_again else answer)

    def factors(self, h: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor | None]]:
        """As `stream`, with the last `rms` left to the reader: the answer is value (B, d) times scale (B, 1).

        Equal operators come together. The scale is None where the value is the answer.
        """
        for operators, value, scale, _ in self._run(h):
            yield operators, value, scale

    def _run(self, h: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor | None, bool]]:
        """As `factors`, and whether the value is read again later, or is not the bank's to give away."""
        constant = next(self.buffers(), self.log_parameters)
        mixed = autocasts(h)
        if mixed and constant is not None:
            h = h.to(constant.dtype)
        _check.matrix("h", h, self.dim, None if constant is None else constant.dtype)
        learned = self.parameter_values()
        values: dict[int, Tensor] = {}

        def compute(function: Callable[..., Tensor], *inputs: Tensor, **arguments: Any) -> Tensor:
            if mixed:  # a wave of frequency 100 magnifies what rounding leaves of its angle
                with torch.autocast(h.device.type, enabled=False):
                    return function(*inputs, **arguments)
            return function(*inputs, **arguments)

        for place, (node, arguments, reads, operators, done, last) in enumerate(self._steps):
            scale = None
            if learned:
                arguments = {name: learned.get((place, name), x) for name, x in arguments.items()}
            if last:
                value = values[reads[0]]
                scale = compute(rms_scale, value, **arguments)
            elif reads:
                inputs = [values[i] for i in reads]
                value = values[place] = compute(node.primitive.function, *inputs, **arguments)
            else:
                value = values[place] = self.get_buffer(self._fixed[place]) if place in self._fixed else h
            if operators and value.shape != h.shape:
                raise ValueError(
                    f"every operator must give {tuple(h.shape)}, got {tuple(value.shape)} from {node}"
                )
            for i in done:
                values.pop(i, None)
            if operators:
                yield operators, value, scale, place in values or not reads

    def forward(self, h: Tensor, out: Tensor | None = None) -> Tensor:
        """The answers of all K operators.

        Args:
            h: rows (B, d).
            out: where to write them, (K, B, d) of the dtype of h, only while gradients are disabled; None for
                a new tensor.

        Returns:
            (K, B, d); `out` if it was given.

        Raises:
            ValueError: h is not (B, d), or out has another shape, dtype or device, or gradients are enabled.

        Chapter 21.
        """
        _check.matrix("h", h)
        if out is None and (torch.is_grad_enabled() or self.learnable or torch.compiler.is_compiling()):
            answers: dict[int, Tensor] = {}
            for operators, value, scale in self.factors(h):
                answers |= dict.fromkeys(operators, value if scale is None else value * scale)
            return torch.stack([answers[k] for k in range(len(self))])
        allowed = (len(self), *h.shape), h.dtype, h.device, False
        out = h.new_empty(allowed[0]) if out is None else out
        if (given := (out.shape, out.dtype, out.device, torch.is_grad_enabled())) != allowed:
            raise ValueError(f"out must have shape, dtype, device, gradients = {allowed}, got {given}")
        for operators, value, scale in self.factors(h):
            for k in operators:
                out[k] = value  # while it is in cache, and before the next takes its memory
                if scale is not None:
                    out[k].mul_(scale)
        return out

    def cost(self) -> Cost:
        """How many nodes and matrix products the formulas write down, and how many are computed.

        >>> from csos_lib.operators import cos, sin, weight
        >>> z = h @ weight(dim=4)
        >>> Bank([sin(z), cos(z)]).cost()
        Cost(operators=2, nodes_written=10, nodes=7, products_written=2, products=1)
        """
        nodes: dict[Expression, int] = {}
        products: dict[Expression, int] = {}
        for node in self.nodes:
            nodes[node] = 1 + sum(nodes[x] for x in node.inputs)
            products[node] = (node.name in PRODUCTS) + sum(products[x] for x in node.inputs)
        return Cost(
            len(self),
            sum(nodes[f] for f in self._operators),
            len(self.nodes),
            sum(products[f] for f in self._operators),
            sum(node.name in PRODUCTS for node in self.nodes),
        )

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
        """K short names, all different, of what an operator ends in and the numbers in it.

        That is the primitive under the norm or, where that is arithmetic, the family of what it acts on.
        """
        short = [" ".join([_kind(f), *_numbers(f)]) for f in self._operators]
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


def _kind(f: Expression) -> str:
    while f.name in NORMS:
        f = f.inputs[0]
    return f.name if f == f.head else f.family or f.name


def _numbers(f: Expression) -> list[str]:
    nodes = distinct([f])
    values = [v for node in nodes for k, v in node.parameters if k in node.primitive.continuous]
    return [f"{v:.3g}" for v in [*values, *(v for k, v in f.head.parameters if k == "degree")]]


def _depth_first(nodes: list[Expression]) -> list[Expression]:
    """The same nodes, each after its inputs and soon before its readers: then few have to wait for them."""
    readers: dict[Expression, list[Expression]] = {}
    for node in nodes:
        for child in node.inputs:
            readers.setdefault(child, []).append(node)
    order: dict[Expression, None] = {}
    waiting = nodes[::-1]
    while waiting:
        node = waiting.pop()
        order.update(dict.fromkeys(distinct([node])))  # what is there already stays where it is
        waiting += reversed(readers.pop(node, []))
    return list(order)


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
    read = {child for node in nodes for child in node.inputs}
    return [
        Step(
            node,
            dict(node.parameters),
            tuple(place[x] for x in node.inputs),
            tuple(numbers.get(node, ())),
            tuple(done.get(i, ())),
            node.name == "rms" and node in numbers and node not in read,
        )
        for i, node in enumerate(nodes)
    ]


def _dimension(nodes: list[Expression], operators: list[Expression]) -> int | None:
    """d, which the fixed tensors and grids of the formulas must agree on; None if nothing fixes it."""
    found, possible = set[int](), set[int]()
    for parameters in (dict(node.parameters) for node in nodes):
        grid = parameters.get("grid")
        places = [parameters.get("dim"), grid[0] * grid[1] if isinstance(grid, tuple) else None]
        found |= {d for d in places if isinstance(d, int)}
        possible |= {d for d in (*places, parameters.get("rows")) if isinstance(d, int)}
    if len(found) > 1:  # maps between rows of several lengths: d is what goes in and comes out
        fitting = {d for d in possible if _fits(nodes, operators, d)}
        if len(fitting) != 1:
            raise ValueError(f"all operators must have the same dim, got {sorted(found)}")
        found = fitting
    return found.pop() if found else None


def _fits(nodes: list[Expression], operators: list[Expression], dim: int) -> bool:
    values = {h: torch.empty(2, dim, device="meta")}
    try:
        for node in nodes:
            if node is not h:
                inputs = [values[x] for x in node.inputs]
                values[node] = node.primitive.function(*inputs, **dict(node.parameters)).to("meta")
    except (RuntimeError, ValueError):
        return False
    return all(values[f].shape == (2, dim) for f in operators)
