"""Real chemistry: species and reactions, what they conserve, their rate equations and their random molecules.

One convention throughout: a reaction with rate k whose reactants are m molecules of a species runs at k c^m
in the rate equations, and at k V n (n - 1) ... (n - m + 1) / V^m among n molecules in a volume V. So a
molecule does not meet itself, and there is no factor 1 / m!.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, inf, lcm

import torch
from torch import Tensor

from csos_lib import _check
from csos_lib.classifier import CSOS
from csos_lib.relatives.equilibrium import StochasticReaction

Field = Callable[[Tensor], Tensor]
"""The right-hand side of a differential equation, from concentrations (B, S) to their speeds (B, S)."""

TOLERANCE = 0.01
"""How far off a step of `integrate` may be, as a share of the largest concentration that its row has had."""


@dataclass(frozen=True)
class Network:
    """Reactions between species: what each takes, what it leaves, how fast it is.

    Args:
        reactants: molecules that each reaction takes, (R, S) int64.
        products: molecules that it leaves, (R, S) int64.
        rates: the rate k of each reaction, (R,), floating point, above 0 and finite.
        species: S names.

    Raises:
        ValueError: there is no reaction, shapes or dtypes do not fit, a count is negative, or a rate is not
            above 0 and finite.

    Chapter 10, :eq:`eq-stoichiometry`.
    """

    reactants: Tensor
    products: Tensor
    rates: Tensor
    species: tuple[str, ...]

    def __post_init__(self) -> None:
        _check.floating("rates", self.rates)
        if self.rates.ndim != 1:
            raise ValueError(f"rates must have shape (R,), got {tuple(self.rates.shape)}")
        if len(self.rates) == 0:
            raise ValueError("a network must have at least one reaction, got none")
        shape = (*self.rates.shape, len(self.species))
        for name, counts in (("reactants", self.reactants), ("products", self.products)):
            if counts.dtype != torch.int64 or counts.shape != shape or (counts < 0).any():
                raise ValueError(
                    f"{name} must be counts of at least 0, int64 {shape}, "
                    f"got {counts.dtype} {tuple(counts.shape)}, least {counts.min().item()}"
                )
        if (bad := self.rates[~(self.rates > 0) | self.rates.isinf()]).numel():
            raise ValueError(f"rates must be above 0 and finite, got {bad[0].item():.3g}")

    @property
    def stoichiometry(self) -> Tensor:
        """What each reaction changes, products less reactants, (S, R) int64."""
        return (self.products - self.reactants).T

    def __str__(self) -> str:
        def side(counts: Sequence[int]) -> str:
            terms = [f"{n} {s}" if n > 1 else s for n, s in zip(counts, self.species, strict=True) if n]
            return " + ".join(terms) or "0"

        rows = zip(self.reactants.tolist(), self.products.tolist(), self.rates.tolist(), strict=True)
        return "\n".join(f"{side(left)} -> {side(right)}  ({rate:.4g})" for left, right, rate in rows)


def parse(reactions: Iterable[tuple[str, float]]) -> Network:
    """A network from text; the species are those that appear, in that order.

    Args:
        reactions: pairs such as ("A + B -> 2 B", 1.0), a reaction and its rate; "0" is an empty side.

    Returns:
        The network, with float64 rates.

    Raises:
        ValueError: there is no reaction, a text is not one, or a rate is not above 0 and finite.

    Chapter 10, :eq:`eq-stoichiometry`.

    >>> print(parse([("prey -> 2 prey", 1.0), ("prey + fox -> 2 fox", 0.5), ("fox -> 0", 1.0)]))
    prey -> 2 prey  (1)
    prey + fox -> 2 fox  (0.5)
    fox -> 0  (1)
    """
    sides: list[Counter[str]] = []
    rates = []
    for text, rate in reactions:
        for half in text.split("->"):
            terms = [re.fullmatch(r"\s*(\d*)\s*([A-Za-z]\w*)\s*|\s*0\s*", term) for term in half.split("+")]
            if text.count("->") != 1 or not all(terms):
                raise ValueError(f"a reaction must read like 'A + 2 B -> C' or 'A -> 0', got {text!r}")
            side: Counter[str] = Counter()
            for term in terms:
                if term and term[2]:
                    side[term[2]] += int(term[1] or 1)
            sides.append(side)
        rates.append(float(rate))
    species = tuple(dict.fromkeys(name for side in sides for name in side))
    if not species:
        raise ValueError("reactions must hold at least one reaction with a species, got none")
    counts = torch.tensor([[side[name] for name in species] for side in sides])
    return Network(counts[::2], counts[1::2], torch.tensor(rates, dtype=torch.float64), species)


def from_tensor(weight: Tensor) -> Network:
    """The chemistry of a tensor W: one reaction for each entry that acts; its rate equation is dc/dt = R(c).

    A pair i, j makes a molecule k, i + j -> i + j + k, at the rate W[k, i, j] + W[k, j, i], or W[k, i, i]. If
    that is negative, the pair uses k up, which must then be one of the two: i + j -> j.

    Args:
        weight: W (N, N, N), indexed [k, i, j], floating point.

    Returns:
        The network of species X0, X1, ..., with one reaction for each of these rates that is not 0.

    Raises:
        ValueError: weight is not a cube, or a pair uses up what it does not hold: then no network has R(c) as
            its rate equation.

    Source: Hárs & Tóth (1981). Chapter 10, :eq:`eq-valid-chemistry`.

    >>> weight = torch.zeros(3, 3, 3)
    >>> weight[2, 0, 1], weight[1, 1, 1] = 0.5, -1.0
    >>> print(from_tensor(weight))
    2 X1 -> X1  (1)
    X0 + X1 -> X0 + X1 + X2  (0.5)
    """
    one = _unit_vectors(weight)
    acting = (weight + weight.mT).triu() / (1 + torch.eye(len(weight)).to(weight))
    k, i, j = acting.nonzero().T
    rates = acting[k, i, j]
    reactants = one[i] + one[j]
    products = reactants + rates.sign().long()[:, None] * one[k]
    if (products < 0).any():
        raise ValueError("weight must not be negative where k is neither i nor j: no pair uses up a third")
    return Network(reactants, products, rates.abs(), _names(weight))


def from_conversions(weight: Tensor) -> Network:
    """The chemistry in which molecules only change: i + j -> k + j at the rate W[k, i, j], for k != i.

    The number of molecules never changes. If the W[k, i, j] of each pair i, j sum to 1, the rate equation is
    dc_k/dt = R(c)_k - c_k sum_j c_j.

    Args:
        weight: W (N, N, N), indexed [k, i, j], floating point, at least 0.

    Returns:
        The network of species X0, X1, ..., with one reaction for each W[k, i, j] above 0 with k != i.

    Raises:
        ValueError: weight is not a cube, or has negative entries.

    Chapter 10, :eq:`eq-conversions`.

    >>> weight = torch.zeros(2, 2, 2)
    >>> weight[1, 0, 1] = 0.5
    >>> print(from_conversions(weight))
    X0 + X1 -> 2 X1  (0.5)
    """
    one = _unit_vectors(weight)
    if not (weight >= 0).all():
        raise ValueError(f"weight must be at least 0 everywhere, got {weight.min().item():.3g}")
    k, i, j = (weight * (1 - torch.eye(len(weight)).to(weight))[:, :, None]).nonzero().T
    return Network(one[i] + one[j], one[k] + one[j], weight[k, i, j], _names(weight))


def _unit_vectors(weight: Tensor) -> Tensor:
    _check.cube("weight", weight)
    return torch.eye(len(weight), dtype=torch.int64, device=weight.device)


def _names(weight: Tensor) -> tuple[str, ...]:
    return tuple(f"X{k}" for k in range(len(weight)))


def conservation_laws(network: Network) -> Tensor:
    """All that no reaction can change: a basis of the vectors l with l . stoichiometry = 0, in whole numbers.

    Args:
        network: S species.

    Returns:
        One law a row, (L, S) int64 without a common factor: sum_s l_s n_s stays what it was at the start.

    Source: Horn & Jackson (1972). Chapter 10, :eq:`eq-conservation`.

    >>> conservation_laws(parse([("A + B -> C", 1.0)])).tolist()
    [[-1, 1, 0], [1, 0, 1]]
    """
    rows = [[Fraction(n) for n in row] for row in torch.unique(network.stoichiometry.T, dim=0).tolist()]
    pivots: list[int] = []  # the column that row r has to itself
    for column in range(len(network.species)):
        r = len(pivots)
        found = next((row for row in rows[r:] if row[column]), None)
        if found is None:
            continue
        rows.remove(found)
        found = [value / found[column] for value in found]
        rows = [[a - row[column] * b for a, b in zip(row, found, strict=True)] for row in rows]
        rows.insert(r, found)
        pivots.append(column)
    laws = []
    for free in sorted(set(range(len(network.species))) - set(pivots)):
        law = [Fraction(s == free) for s in range(len(network.species))]
        for row, pivot in zip(rows, pivots, strict=False):
            law[pivot] = -row[free]
        scale = lcm(*(value.denominator for value in law))
        laws.append([int(scale * value) for value in law])
    return torch.tensor(laws, dtype=torch.int64).reshape(-1, len(network.species))


def rate_equation(network: Network) -> Field:
    """Mass action: dc/dt = sum_r (products_r - reactants_r) k_r prod_s c_s^reactants_rs.

    Args:
        network: S species.

    Returns:
        The function c -> dc/dt, (B, S) -> (B, S), in the dtype and on the device of c. It raises ValueError
        for another number of species.

    Source: Waage & Guldberg (1864). Chapter 10, :eq:`eq-mass-action`.

    >>> rate_equation(parse([("2 A -> B", 1.0)]))(torch.tensor([[3.0, 0.0]])).tolist()
    [[-18.0, 9.0]]
    """
    slots, _ = _slots(network.reactants)
    change, rates = network.stoichiometry.T, network.rates

    def field(c: Tensor) -> Tensor:
        _check.matrix("c", c, len(network.species))
        return (rates.to(c) * _meetings(c, slots.to(c.device))) @ change.to(c)

    return field


def integrate(field: Field, c: Tensor, times: Sequence[float], step: float = 0.01) -> Tensor:
    """Solve dc/dt = field(c) by the classical method of Runge and Kutta, of order 4.

    The slope where a step ends, which the next step needs anyway, gives an estimate of its error: how far a
    method of order 3 would be off. So a step that is too long for the fastest reaction is found out.

    Args:
        field: c -> dc/dt, (B, S) -> (B, S).
        c: concentrations at time 0, (B, S).
        times: when to look, finite and rising, the first at least 0.
        step: the longest step, above 0.

    Returns:
        Concentrations at those times, (T, B, S).

    Raises:
        ValueError: c is not (B, S) floating point, times are not finite or do not rise, or step is not above
            0 or too long: the estimate was more than a hundredth of the largest concentration that a row has
            had. This is not looked at while compiling.

    Source: Kutta (1901). Chapter 10.
    """
    _check.matrix("c", c)
    _check.number("step", step, 0, above=True)
    states, k1 = [], field(c)
    largest = c.detach().abs().amax(1)
    fine, was_finite = torch.ones_like(largest, dtype=torch.bool), largest.isfinite()
    for length in _intervals(times):
        steps = ceil(length / step)
        h = length / max(1, steps)
        for _ in range(steps):
            k2 = field(c + h / 2 * k1)
            k3 = field(c + h / 2 * k2)
            k4 = field(c + h * k3)
            c = c + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            k1 = field(c)
            error = h / 6 * (k4 - k1).detach().abs().amax(1)
            largest = torch.maximum(largest, c.detach().abs().amax(1))
            fine &= error <= TOLERANCE * largest
        if not torch.compiler.is_compiling() and (was_finite & ~fine).any():
            raise ValueError(
                f"step must be shorter than {step:.3g} for this field, if its solution has bounds: a step of "
                f"{h:.3g} is off by more than {TOLERANCE} of the largest concentration"
            )
        states.append(c)
    return torch.stack(states)


def simulate(
    network: Network,
    counts: Tensor,
    times: Sequence[float],
    volume: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Gillespie's exact simulation of many test tubes at once: every single reaction of every tube.

    Args:
        network: S species.
        counts: molecules at time 0, (B, S) int64, at least 0, one row a tube.
        times: when to look, finite and rising, the first at least 0.
        volume: of all tubes, or of each (B,), above 0; a concentration is a count divided by the volume.
        generator: where the chance comes from, on the device of counts; None is torch's global one.

    Returns:
        Molecules at those times, (T, B, S) int64.

    Raises:
        ValueError: counts are not (B, S) int64 of at least 0, volume does not fit or is not above 0, or times
            are not finite or do not rise.

    Source: Gillespie (1977), direct method. Chapter 10, :eq:`eq-propensity`.

    >>> simulate(parse([("A -> B", 1.0)]), torch.tensor([[5, 0], [2, 7]]), times=[100.0]).tolist()
    [[[0, 5], [0, 9]]]
    """
    if counts.dtype != torch.int64 or counts.ndim != 2 or counts.shape[1] != len(network.species):
        expected = f"(B, {len(network.species)}) int64"
        raise ValueError(f"counts must be {expected}, got {tuple(counts.shape)} {counts.dtype}")
    if (counts < 0).any():
        raise ValueError(f"counts must be at least 0, got {counts.min().item()}")
    _check.number("volume", volume, 0, above=True)
    device = counts.device
    x, volumes = counts.double(), torch.as_tensor(volume, dtype=torch.float64, device=device)
    if volumes.shape not in ((), counts.shape[:1]) or not (volumes > 0).all():
        raise ValueError(f"volume must be a number or ({len(counts)},), above 0, got {volume!r}")

    # First what meets is drawn, then what comes of it, each from a sum of its own: a fast reaction of others
    # cannot swallow a slow one. Reactions of one complex wait in one row; an empty place has rate 0.
    complexes, group = torch.unique(network.reactants, dim=0, return_inverse=True)
    order, sizes = group.argsort(stable=True).to(device), group.bincount().to(device)
    first, change = sizes.cumsum(0) - sizes, network.stoichiometry.T.to(x)[order]
    taken_up = torch.arange(int(sizes.max()), device=device) < sizes[:, None]
    rates = x.new_zeros(taken_up.shape).masked_scatter(taken_up, network.rates.to(x)[order]).cumsum(1)
    together = rates[:, -1]
    slots, taken = (part.to(device) for part in _slots(complexes))
    scale = volumes.expand(len(x))[:, None] ** (1 - complexes.sum(1).to(x))

    seen, until = [], 0.0
    for length in _intervals(times):
        now, until = x.new_full((len(x),), until), until + length
        while True:
            hazard = (together * scale * _meetings(x, slots, taken)).cumsum(1)
            chance = 1 - torch.rand(3, len(x), dtype=x.dtype, device=device, generator=generator)  # (0, 1]
            now = now - chance[0].log() / hazard[:, -1]
            moving = now <= until
            if not moving.any():
                break  # a wait cut off at `until` starts afresh: chance has no memory
            # The first sum that reaches a value above 0 always ends in something possible.
            meeting = torch.searchsorted(hazard, (chance[1] * hazard[:, -1])[:, None])[:, 0]
            meeting = meeting.clamp(max=len(complexes) - 1)
            mark = (chance[2] * together[meeting])[:, None]
            reaction = first[meeting] + torch.searchsorted(rates[meeting], mark)[:, 0]
            x = x + moving[:, None] * change[reaction]
        seen.append(x.long())
    return torch.stack(seen)


def _intervals(times: Sequence[float]) -> list[float]:
    lengths = [after - before for before, after in pairwise((0.0, *times))]
    rising = lengths and lengths[0] >= 0 and all(length > 0 for length in lengths[1:])
    if not rising or sum(lengths) == inf:
        raise ValueError(f"times must rise from 0, be finite and at least one, got {list(times)}")
    return lengths


def _slots(reactants: Tensor) -> tuple[Tensor, Tensor]:
    """Each reactant molecule in a place of its own: its species, and how many of that were taken before.

    Both (R, M), M the most molecules of any reaction; an empty place holds species S, of which one is there.
    """
    end = reactants.cumsum(1)
    place = torch.arange(max(1, int(reactants.sum(1).max())), device=reactants.device)
    species = (end[:, None, :] <= place[:, None]).sum(-1)
    start = torch.cat([end - reactants, place.new_zeros(len(end), 1)], 1).gather(1, species)
    return species, torch.where(species < reactants.shape[1], place - start, 0)


def _meetings(amounts: Tensor, slots: Tensor, taken: Tensor | float = 0.0) -> Tensor:
    """How often the reactants of each reaction meet, (B, R): c^m, or n (n - 1) ... if `taken` is given."""
    return (torch.cat([amounts, amounts.new_ones(len(amounts), 1)], 1)[:, slots] - taken).prod(-1)


class ChemicalCSOS(CSOS):
    """A classifier that is a chemical network: molecules are poured in, react by conversion, and are counted.

    Args:
        num_basis: N, the number of molecules, at least `classes`; the first ones are the classes.
        steps: T, at least 0.
        speed: h, the share of the molecules that meet another in a step, above 0 and below 1.
        classes: how many classes there are, at least 1.
        inputs: how many numbers a row has, at least 1.

    Raises:
        ValueError: an argument is out of range, or images are not (B, inputs) of the dtype of the model.

    Chapter 10, :eq:`eq-conversion-step`.

    >>> ChemicalCSOS(num_basis=12, steps=2)(torch.rand(3, 784)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self, num_basis: int = 64, steps: int = 5, speed: float = 0.5, *, classes: int = 10, inputs: int = 784
    ) -> None:
        speed = _check.number("speed", speed, 0, 1, above=True, below=True)
        reaction, alpha = ConversionReaction(num_basis), speed / (1 - speed) ** 2
        super().__init__(num_basis, steps, speed, alpha, reaction=reaction, classes=classes, inputs=inputs)

    def inject(self, images: Tensor) -> Tensor:
        """Concentrations x_0 (B, N) of images (B, inputs): a softmax, so that no tube is empty."""
        return self._encode(images).softmax(1)


class ConversionReaction(StochasticReaction):
    """The stochastic reaction of chapter 9 as chemistry: W[k, i, j] >= 0, summing to 1 over k, most keep i.

    W[k, i, j] is the chance that i, when it meets j, turns into k. For concentrations that sum to 1, so does
    R(x), and `CSOS(decay=h, alpha=h / (1 - h) ** 2, reaction=ConversionReaction(N))` takes steps
    x' = (1 - h) x + h R(x), which need no cut and no normalising.

    Args:
        num_basis: N, the number of molecules, at least 1.

    Attributes:
        logits: (N, N, N), W is their softmax over k. They start normal with deviation 1, 3 higher for k = i:
            most meetings change little.

    Raises:
        ValueError: num_basis is not a positive integer; x is not (B, N) of the dtype of the logits.

    Chapter 10, :eq:`eq-conversion-step`.

    >>> reaction = ConversionReaction(3)
    >>> round(reaction(torch.tensor([[0.2, 0.3, 0.5]])).sum().item(), 4)
    1.0
    """

    def __init__(self, num_basis: int) -> None:
        super().__init__(num_basis)
        with torch.no_grad():
            self.logits.add_(3 * torch.eye(num_basis)[:, :, None])
