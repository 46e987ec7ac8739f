"""Formulas as data: an operator is a small frozen tree of primitives with `h` at its leaves.

A primitive is a plain function of tensors that also accepts expressions: called on a tensor it computes,
called on an expression it writes itself down. So a formula is built by running it, and printing, JSON,
sharing and drawing need nothing but the tree.

>>> from csos_lib.operators import h, rms, sin, weight
>>> formula = rms(sin(2.3 * (h @ weight(dim=4))) + h)
>>> print(formula)
rms(sin(2.3 * (h @ W0)) + h)
>>> Expression.from_json(formula.to_json()) == formula
True
"""

import functools
import inspect
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, Protocol, Self, TypeVar, cast, get_type_hints, overload
from weakref import WeakValueDictionary

from torch import Tensor

from csos_lib import _check

Value = int | float | tuple[int, int] | None
BINDINGS = ("sum", "product", "power", "atom")


class Term(NamedTuple):
    """Text of a formula: in a template, `{0:power}` brackets it unless it binds as tightly as a power."""

    text: str
    binding: str

    def __format__(self, needed: str) -> str:
        loose = needed and BINDINGS.index(self.binding) < BINDINGS.index(needed)
        return f"({self.text})" if loose else self.text


class Primitive(NamedTuple):
    """A function, the names of its arguments, and how to print it; family None marks the inner primitives.

    Its continuous parameters, memo 2's s, tau, sigma and alpha among them, are positive and can be learned.
    """

    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    continuous: frozenset[str]
    defaults: dict[str, Value]
    family: str | None
    template: str | None
    binding: str


PRIMITIVES: dict[str, Primitive] = {}


_MADE: WeakValueDictionary[tuple[Any, ...], "Expression"] = WeakValueDictionary()
_LOCK = threading.Lock()


@dataclass(frozen=True, repr=False, eq=False)
class Expression:
    """One primitive applied to expressions, never changed. Equal formulas are one and the same object.

    Attributes:
        name: the primitive, a key of PRIMITIVES.
        inputs: the expressions it is applied to.
        parameters: its other arguments, as pairs (name, value) in the order of its signature.

    Source: hash-consing, Ershov (1958). Chapter 13, :eq:`eq-contract`.
    """

    name: str
    inputs: tuple["Expression", ...] = ()
    parameters: tuple[tuple[str, Value], ...] = ()

    def __new__(
        cls, name: str, inputs: tuple["Expression", ...] = (), parameters: tuple[tuple[str, Value], ...] = ()
    ) -> Self:
        key = name, inputs, parameters
        with _LOCK:
            there = _MADE.get(key)
            if there is None:
                there = _MADE[key] = super().__new__(cls)
        return cast(Self, there)

    def __reduce__(self) -> tuple[Any, ...]:  # as text, in which no depth is too deep
        return Expression.from_json, (self.to_json(),)

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __add__(self, other: "Expression") -> "Expression":
        if not isinstance(other, Expression):
            return NotImplemented
        if other.name == "multiple":  # x + 0.1 * y is one pass over memory, not two
            return _node("add_scaled", (self, *other.inputs), dict(other.parameters))
        return _node("add", (self, other))

    def __sub__(self, other: "Expression") -> "Expression":
        return _node("subtract", (self, other)) if isinstance(other, Expression) else NotImplemented

    def __mul__(self, other: "Expression | float") -> "Expression":
        if isinstance(other, Expression):
            return _node("multiply", (self, other))
        return _node("multiple", (self,), {"scale": other})

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> "Expression":
        if isinstance(other, Expression):
            return NotImplemented  # a ratio needs a guard against poles: `ratio`
        _check.number("divisor", other, 0, above=True)
        return self * (1 / other)

    def __matmul__(self, other: "Expression") -> "Expression":
        return _node("matmul", (self, other)) if isinstance(other, Expression) else NotImplemented

    def __pow__(self, degree: int) -> "Expression":
        return _node("power", (self,), {"degree": degree})

    def __neg__(self) -> "Expression":
        return _node("negate", (self,))

    @property
    def primitive(self) -> Primitive:
        return PRIMITIVES[self.name]

    @property
    def family(self) -> str | None:
        """The family of the outermost primitive that has one; None for inner primitives alone."""
        return self.head.primitive.family

    @property
    def head(self) -> "Expression":
        """The outermost subexpression whose primitive has a family, or the expression itself."""
        queue, seen = deque([self]), {self}
        while queue:
            node = queue.popleft()
            if node.primitive.family is not None:
                return node
            for child in node.inputs:
                if child not in seen:
                    seen.add(child)
                    queue.append(child)
        return self

    def __str__(self) -> str:
        texts: dict[Expression, str] = {}
        for node in distinct([self]):
            texts[node] = node.format(*[texts[x] for x in node.inputs])
        return texts[self]

    __repr__ = __str__

    def format(self, *inputs: str) -> str:
        """The formula of this one primitive, with the text of each input given."""
        primitive = self.primitive
        if primitive.template is None:
            extra = [f"{k}={_show(v)}" for k, v in self.parameters if v != primitive.defaults.get(k)]
            return f"{self.name}({', '.join([*inputs, *extra])})"
        terms = [Term(x, node.primitive.binding) for node, x in zip(self.inputs, inputs, strict=True)]
        return primitive.template.format(*terms, **{k: _show(v) for k, v in self.parameters})

    def to_json(self) -> str:
        """The expression as JSON text: its distinct nodes, each after its inputs, numbers in full."""
        nodes = distinct([self])
        place = {node: i for i, node in enumerate(nodes)}
        return json.dumps([[n.name, [place[i] for i in n.inputs], dict(n.parameters)] for n in nodes])

    @staticmethod
    def from_json(text: str) -> "Expression":
        """The expression that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or not an expression of known primitives.
        """
        nodes: list[Expression] = []
        try:
            for name, places, parameters in json.loads(text):
                if name not in PRIMITIVES or any(not 0 <= place < len(nodes) for place in places):
                    raise ValueError(f"primitive {name!r} with inputs {places!r} is not known")
                values = {k: tuple(v) if isinstance(v, list) else v for k, v in parameters.items()}
                nodes.append(_node(name, tuple(nodes[place] for place in places), values))
            return nodes[-1]
        except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise ValueError(f"text must be what Expression.to_json wrote: {error}") from error


def distinct(expressions: Iterable[Expression]) -> list[Expression]:
    """All subexpressions, equal ones once, each after its inputs. Chapter 21, :eq:`eq-written`."""
    order: dict[Expression, None] = {}
    for expression in expressions:
        stack = [expression]
        while stack:  # no recursion: a formula may be deeper than Python's stack
            node = stack[-1]
            if node in order or all(child in order for child in node.inputs):
                order[stack.pop()] = None
            else:
                stack += [child for child in reversed(node.inputs) if child not in order]
    return list(order)


Arguments = ParamSpec("Arguments")
T = TypeVar("T", Tensor, Expression)  # for functions made of primitives, which work on both


class Dual(Protocol[Arguments]):
    """A function of tensors that writes itself down when it is called on expressions."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, x: Expression, /, *args: Any, **kwargs: Any
    ) -> Expression: ...
    @overload
    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor: ...


def primitive(
    family: str | None = None, template: str | None = None, binding: str = "atom"
) -> Callable[[Callable[Arguments, Tensor]], Dual[Arguments]]:
    """Make a function of tensors a primitive, of the library's own or of yours.

    Args:
        family: one of the six families, a name of your own, or None for an inner primitive.
        template: its formula, inputs by number and parameters by name; None prints it as a call.
        binding: how tightly its formula binds: "sum", "product", "power" or "atom".

    Returns:
        A decorator. Arguments annotated `Tensor` become the inputs, all others the parameters. Those that are
        annotated `float | Tensor` are continuous: positive, and learned by a learnable bank.

    Raises:
        ValueError: the name of the decorated function is that of a primitive of another module.

    Chapter 13.

    >>> @primitive("mine")
    ... def dampen(x: Tensor, beta: float | Tensor) -> Tensor:
    ...     return x / (beta + x.abs())
    >>> print(dampen(h, beta=0.5))
    dampen(h, beta=0.5)
    """

    def decorate(function: Callable[Arguments, Tensor]) -> Dual[Arguments]:
        signature, hints = inspect.signature(function), get_type_hints(function)
        inputs = tuple(k for k in signature.parameters if hints.get(k) is Tensor)
        parameters = tuple(k for k in signature.parameters if k not in inputs)
        continuous = frozenset(k for k in parameters if hints.get(k) == float | Tensor)
        defaults = {k: p.default for k, p in signature.parameters.items() if p.default is not p.empty}
        name = function.__name__
        if (known := PRIMITIVES.get(name)) and known.function.__module__ != function.__module__:
            raise ValueError(f"a primitive must have a name of its own, and {name!r} is there already")
        PRIMITIVES[name] = Primitive(
            function, inputs, parameters, continuous, defaults, family, template, binding
        )

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            tensors = tuple(bound.arguments[k] for k in inputs)
            values = {k: v for k, v in bound.arguments.items() if k not in inputs}
            if any(isinstance(x, Expression) for x in tensors) or not inputs:
                return _node(name, tensors, values)
            for key, x in zip(inputs, tensors, strict=True):
                _check.floating(key, x)
            return function(*tensors, **check_parameters(name, values))

        return cast(Dual[Arguments], call)

    return decorate


def source(template: str) -> Callable[[Callable[Arguments, Tensor]], Callable[Arguments, Expression]]:
    """A primitive without inputs: numbers fixed by its parameters, which a bank works out once."""
    return cast(Any, primitive(None, template))


_LEAST = {"seed": 0, "axis": 0, "degree": 2} | dict.fromkeys(
    ("dim", "count", "rows", "window", "radius", "iterations"), 1
)
"""What a whole number of the library's own primitives must be at least; those of others may be any."""


def check_parameters(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a primitive as plain numbers, each checked by what its name or annotation says."""
    primitive = PRIMITIVES[name]
    optional = {k for k, v in primitive.defaults.items() if v is None}
    return {
        k: None if v is None and k in optional else _check_parameter(k, v, k in primitive.continuous)
        for k, v in values.items()
    }


def _check_parameter(name: str, value: Any, continuous: bool) -> Any:
    if continuous:
        value = _check.number(name, value, 0, above=True)
        return value if isinstance(value, Tensor) else float(value)
    if name == "eps":
        return _check.number(name, value, 0, above=True)
    if name == "level":
        return _check.number(name, value, 0, 1)
    if name == "grid":
        return check_grid(value)
    if name in _LEAST:
        value = _check.integer(name, value, _LEAST[name])
        if name == "window" and value % 2 == 0:
            raise ValueError(f"window must be odd, got {value!r}")
        if name == "axis" and value > 1:
            raise ValueError(f"axis must be 0 or 1, got {value!r}")
        return value
    return _check.number(name, value)


def check_grid(grid: Any) -> tuple[int, int] | None:
    """(height, width), each at least 1, or None."""
    if grid is None:
        return None
    if not isinstance(grid, tuple) or len(grid) != 2:
        raise ValueError(f"grid must be None or a pair (height, width), got {grid!r}")
    return _check.integer("grid", grid[0], 1), _check.integer("grid", grid[1], 1)


def _node(name: str, inputs: tuple[Any, ...], parameters: dict[str, Any] | None = None) -> Expression:
    primitive, values = PRIMITIVES[name], {**PRIMITIVES[name].defaults, **(parameters or {})}
    if len(inputs) != len(primitive.inputs) or not all(isinstance(x, Expression) for x in inputs):
        raise ValueError(f"{name} must be given expressions for {primitive.inputs}, got {inputs!r}")
    if set(values) != set(primitive.parameters):
        raise ValueError(f"{name} must have the parameters {primitive.parameters}, got {list(values)}")
    if any(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(
            f"an expression holds numbers, which Bank(learnable=True) learns; {name} got a tensor in {values}"
        )
    values = check_parameters(name, values)
    return Expression(name, inputs, tuple((k, values[k]) for k in primitive.parameters))


def _show(value: Value) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@source("h")
def rows() -> Tensor:
    """The input itself, which is given rather than computed."""
    raise AssertionError("rows has no value of its own")


h = rows()
"""The input of every operator: a batch of rows (B, d)."""
