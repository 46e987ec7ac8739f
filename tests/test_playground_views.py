"""The numbers of the triangle and of the sorting demo are the library's."""

import random
from typing import Any

import pytest
import torch
from playground_node import run_node
from torch import Tensor
from torch.nn import functional as F

from csos_lib import operators, plots
from csos_lib.dynamics import trajectory
from csos_lib.operators.sorting import collect
from csos_lib.playground import Triangle
from csos_lib.quadratic import pair_members
from csos_lib.reactions import SymmetricReaction
from csos_lib.simplex import barycentric

Setting = dict[str, Any]


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def soup(rates: list[float], start: list[float], setting: Setting) -> Tensor:
    """The states (T + 1, 3) by the library, from rates (3, 6) in the order of SymmetricReaction."""
    reaction = SymmetricReaction(3).double()
    reaction.weight.data = f64(rates).view(3, 6)
    options = {"steps": setting["steps"], "decay": setting["decay"], "alpha": setting["alpha"]}
    with torch.no_grad():
        return trajectory(f64([start]), reaction, kind=setting["dynamics"], **options)[:, 0]


def random_soups(count: int, seed: int) -> list[dict[str, Any]]:
    """Rates, starts and settings over the whole ranges of the page, its corners included."""
    ranges = run_node("return pg.SOUP_RANGES;")
    rng = random.Random(seed)

    def within(name: str) -> float:
        low, high, _ = ranges[name]
        return rng.choice([low, high, rng.uniform(low, high), rng.uniform(low, high)])

    soups = []
    for _ in range(count):
        amounts = [rng.choice([0.0, rng.random(), rng.random() ** 4]) for _ in range(3)]
        amounts[rng.randrange(3)] += 0.1
        rates = [rng.choice([0.0, rng.choice(ranges["rate"][:2]), within("rate")]) for _ in range(18)]
        setting = {"alpha": within("alpha"), "decay": within("decay"), "steps": int(within("steps"))}
        setting["dynamics"] = rng.choice(["euler", "mirror"])
        soups.append({"rates": rates, "start": [a / sum(amounts) for a in amounts], "setting": setting})
    return soups


SOUP = "return given.map((g) => pg.soup(Float64Array.from(g.rates), g.start, g.setting).map((x) => [...x]));"


def test_every_state_of_every_soup() -> None:
    """400 random tables, starts and settings: each concentration at each step within 1e-9 of the library."""
    soups = random_soups(400, seed=0)
    for given, states in zip(soups, run_node(SOUP, soups), strict=True):
        expected = soup(given["rates"], given["start"], given["setting"])
        assert expected.shape == (given["setting"]["steps"] + 1, 3)
        assert torch.allclose(f64(states), expected, rtol=0, atol=1e-9), given


def test_the_table_of_the_page_is_w() -> None:
    """Entry (k, p) is W[k, i, j] + W[k, j, i] for the p-th pair, in the order of the library."""
    assert run_node("return pg.SOUP_PAIRS;") == torch.stack(pair_members(3), 1).tolist()


def test_the_python_that_the_page_prints_is_the_run_it_shows() -> None:
    soups = random_soups(12, seed=1)
    body = "return given.map((g) => pg.soupCode(Float64Array.from(g.rates), g.start, g.setting));"
    for given, code in zip(soups, run_node(body, soups), strict=True):
        names: dict[str, Any] = {"torch": torch}
        exec(code, names)
        expected = soup(given["rates"], given["start"], given["setting"])
        assert torch.allclose(names["path"][:, 0], expected, rtol=0, atol=1e-9), code


def test_places_on_the_triangle() -> None:
    """The page's coordinates are the library's, a place leads back to its soup, and no place leaves it."""
    torch.manual_seed(0)
    soups = torch.distributions.Dirichlet(torch.full((3,), 0.4, dtype=torch.float64)).sample((50,))
    body = "return given.map((x) => [pg.barycentric(x), [...pg.fromPoint(pg.barycentric(x))]]);"
    for x, (point, back) in zip(soups, run_node(body, soups.tolist()), strict=True):
        assert torch.allclose(f64(point), barycentric(x), rtol=0, atol=1e-15)
        assert torch.allclose(f64(back), x, rtol=0, atol=1e-14)
    outside = run_node(
        "return given.map((p) => [...pg.fromPoint(p)]);", [[-2, 0.1], [0.5, 3], [2, -1], [0.5, -1]]
    )
    assert f64(outside).min() == 0
    assert torch.allclose(f64(outside).sum(1), torch.ones(4, dtype=torch.float64))
    grid = f64(run_node("return pg.simplexGrid(12).map((x) => [...x]);"))
    assert torch.allclose(grid, plots.simplex_grid(12).double(), atol=1e-7)


def test_what_the_examples_promise() -> None:
    """Each sentence beside an example, run by the library."""
    examples = run_node("return Object.entries(pg.SOUPS).map(([k, s]) => [k, {...s, rates: [...s.rates]}]);")
    runs: dict[str, dict[str, Tensor]] = {}
    for key, given in examples:
        runs[key] = {
            kind: soup(given["rates"], given["start"], {**given["settings"], "dynamics": kind})
            for kind in ("euler", "mirror")
        }
    still, forgetful = runs["decay"]["euler"], runs["decay"]["mirror"]
    assert torch.allclose(still, still[0].expand_as(still), atol=1e-6)
    assert (forgetful[-1] - 1 / 3).abs().max() < 0.05
    rounds = runs["rock-paper-scissors"]["euler"]
    assert len(set(rounds.argmax(1).tolist())) == 3
    assert (rounds[-1] - 1 / 3).norm() > 2 * (rounds[0] - 1 / 3).norm()
    rock = dict(examples)["rock-paper-scissors"]
    calm = {**rock["settings"], "dynamics": "mirror", "decay": 0.2, "steps": 40}
    assert (soup(rock["rates"], rock["start"], calm)[-1] - 1 / 3).norm() < 0.1 * (rounds[0] - 1 / 3).norm()
    assert runs["autocatalysis"]["euler"][-1, 0] > 0.99
    dead, alive = runs["death"]["euler"], runs["death"]["mirror"]
    assert dead[-1, 2] == 0
    assert 0 < alive[-1, 2] < 0.01
    gone = run_node(f"{SOUP[:-1].replace('return', 'const states =')}; return pg.deaths(states[0]);", [
        {**dict(examples)["death"], "setting": dict(examples)["death"]["settings"]}
    ])  # fmt: skip
    assert gone == [-1, -1, int((dead[:, 2] > 0).sum())]


def random_rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Values, temperatures and rounds over the ranges of the page, with ties."""
    low, high = run_node("return pg.SORT_RANGES.tau;")
    rng = random.Random(seed)
    rows = []
    for place in range(count):
        values = [round(rng.random(), 2) for _ in range(7)]
        if place % 3 == 0:
            values[rng.randrange(7)] = values[0]
        tau = rng.choice([low, high, low * (high / low) ** rng.random()])
        rows.append({"s": values, "tau": tau, "rounds": rng.randint(1, 50)})
    return [*rows, {"s": [0.5] * 7, "tau": low, "rounds": 3}]


def test_soft_orders_and_soft_maxima() -> None:
    """SoftSort, NeuralSort, Sinkhorn, soft ranks and the soft maximum within 1e-12 of the library."""
    rows = random_rows(200, seed=0)
    places = torch.arange(6.0, -7.0, -2.0, dtype=torch.float64)
    places /= places.square().mean().sqrt()  # mean 0, variance 1
    body = """
        return given.map(({ s: list, tau, rounds }) => {
          const s = Float64Array.from(list);
          const kinds = [pg.softsort(s, tau), pg.neuralsort(s, tau), pg.sinkhornSort(s, tau, rounds)];
          return { P: kinds.map((P) => P.map((row) => [...row])),
            sorted: kinds.map((P) => [...pg.apply(P, s)]),
            rank: [...pg.softRank(s, tau)], lse: pg.lse(s, tau), order: pg.hardOrder(s),
            spread: pg.spread(kinds[0]) };
        });
    """
    for given, found in zip(rows, run_node(body, rows), strict=True):
        s, tau = f64([given["s"]]), given["tau"]
        distance = operators.squared_difference(F.layer_norm(s, (7,)), places)
        plan = operators.sinkhorn(operators.score(distance, tau), given["rounds"])
        expected = [operators.softsort(s, tau)[0], operators.neuralsort(s, tau)[0], plan[0].mT]
        for P, matrix in zip(found["P"], expected, strict=True):
            assert torch.allclose(f64(P), matrix, rtol=0, atol=1e-12), given
        values = [*((P @ s[0]) for P in expected[:2]), collect(s, plan)[0]]
        assert torch.allclose(f64(found["sorted"]), torch.stack(values), rtol=0, atol=1e-12), given
        assert torch.allclose(f64(found["rank"]), operators.soft_rank(s, tau)[0], rtol=0, atol=1e-12)
        assert found["lse"] == pytest.approx(operators.lse(s, tau).item(), abs=1e-12)
        assert found["order"] == s[0].argsort(descending=True, stable=True).tolist()
        entropy = torch.special.entr(expected[0]).sum(-1)
        assert found["spread"] == pytest.approx(entropy.exp().mean().item(), abs=1e-12)


def test_what_the_sorting_page_says() -> None:
    """The bound it prints, and that SoftSort's first row is the slope of the soft maximum."""
    body = """
        return given.map(({ s: list, tau }) => {
          const s = Float64Array.from(list);
          return [pg.lse(s, tau), [...pg.softsort(s, tau)[0]]];
        });
    """
    rows = random_rows(50, seed=1)
    for given, (maximum, first) in zip(rows, run_node(body, rows), strict=True):
        s, tau = f64(given["s"]), given["tau"]
        assert s.max() - 1e-12 <= maximum <= s.max() + tau * f64(7.0).log() + 1e-12
        s.requires_grad_()
        assert torch.allclose(torch.autograd.grad(operators.lse(s, tau), s)[0], f64(first), atol=1e-12)


def test_a_chapter_chooses_its_example() -> None:
    assert run_node("return Object.keys(pg.SOUPS);") == list(Triangle.EXAMPLES)
    data, _ = Triangle("death")._repr_mimebundle_()
    assert 'data-csos-demo="triangle" data-preset="death"' in data["text/html"]
    with pytest.raises(ValueError, match="example"):
        Triangle("life")
