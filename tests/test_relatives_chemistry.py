"""Networks against GillesPy2 and SciPy; what is conserved, exactly; what a tensor needs to be chemistry."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import gillespy2
import numpy as np
import pytest
import sympy
import torch
from conftest import check_on_fake_cuda
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from csos_lib.dynamics import euler_step
from csos_lib.relatives.chemistry import (
    ChemicalCSOS,
    ConversionReaction,
    Network,
    conservation_laws,
    from_conversions,
    from_tensor,
    integrate,
    parse,
    rate_equation,
    simulate,
)

NETWORKS = {
    "predators": [("X -> 2 X", 1.0), ("X + Y -> 2 Y", 0.6), ("Y -> 0", 0.8)],
    "brusselator": [("0 -> X", 1.0), ("2 X + Y -> 3 X", 1.0), ("X -> Y", 2.5), ("X -> 0", 1.0)],
    "majority": [
        ("X + Y -> X + B", 1.0),
        ("X + Y -> Y + B", 1.0),
        ("X + B -> 2 X", 1.0),
        ("Y + B -> 2 Y", 1.0),
    ],
    "dimers": [("2 A -> D", 0.7), ("D -> 2 A", 0.2), ("3 A -> T", 0.1), ("A + D -> T", 0.3)],
}


def networks(reactions: int = 4, species: int = 4, most: int = 3) -> st.SearchStrategy[Network]:
    row = st.lists(st.integers(0, most), min_size=species, max_size=species)
    side = st.lists(row, min_size=reactions, max_size=reactions)
    rates = st.lists(st.floats(0.1, 3), min_size=reactions, max_size=reactions)
    names = tuple("ABCDEFG"[:species])
    return st.builds(
        lambda left, right, k: Network(
            torch.tensor(left), torch.tensor(right), torch.tensor(k, dtype=torch.float64), names
        ),
        side,
        side,
        rates,
    )


def in_gillespy(
    network: Network, start: Sequence[float], volume: float, times: list[float]
) -> gillespy2.Model:
    model = gillespy2.Model(name="ours")
    model.volume = volume
    mode = "discrete" if all(isinstance(n, int) for n in start) else "continuous"
    model.add_species(
        [
            gillespy2.Species(name=s, initial_value=n, mode=mode)
            for s, n in zip(network.species, start, strict=True)
        ]
    )
    for r, rate in enumerate(network.rates.tolist()):
        parameter = gillespy2.Parameter(name=f"k{r}", expression=rate)
        model.add_parameter(parameter)
        sides = (
            {s: n for s, n in zip(network.species, side[r].tolist(), strict=True) if n}
            for side in (network.reactants, network.products)
        )
        left, right = sides
        law = {"rate": parameter}
        if sum(left.values()) > 2:  # their mass action ends at two molecules; the third is written out here
            falling = "".join(
                f" * {s}" + f" * ({s} - 1)" * (n > 1) + f" * ({s} - 2)" * (n > 2) for s, n in left.items()
            )
            law = {
                "propensity_function": f"k{r}{falling} / vol / vol",
                "ode_propensity_function": f"k{r}" + "".join(f" * {s}" * n for s, n in left.items()),
            }
        model.add_reaction(gillespy2.Reaction(name=f"r{r}", reactants=left, products=right, **law))
    model.timespan(gillespy2.TimeSpan(times))
    return model


def test_what_is_parsed_is_printed() -> None:
    text = "A + 2 B -> C  (0.5)\n0 -> A  (2)\nC -> 0  (1)"
    network = parse([("A + 2 B -> C", 0.5), ("0 -> A", 2.0), ("C->0", 1)])
    assert str(network) == text
    assert network.stoichiometry.tolist() == [[-1, 1, 0], [-2, 0, 0], [1, 0, -1]]
    assert parse([("A + A -> B", 1.0)]).reactants.tolist() == [[2, 0]]


@pytest.mark.parametrize(
    "text", ["A", "A -> B -> C", "A - B -> C", "-> A", "A + -> B", "2 -> A", "1.5 A -> B"]
)
def test_what_is_no_reaction_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a reaction must read like"):
        parse([(text, 1.0)])


@given(networks())
def test_rate_equation_by_hand(network: Network) -> None:
    c = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    expected = torch.zeros_like(c)
    for left, right, k in zip(network.reactants, network.products, network.rates, strict=True):
        expected += k * (c**left).prod(1, keepdim=True) * (right - left)
    torch.testing.assert_close(rate_equation(network)(c), expected, rtol=1e-10, atol=1e-10)


@given(networks())
def test_conservation_laws_are_a_basis_of_the_null_space_and_hold_exactly(network: Network) -> None:
    laws = conservation_laws(network)
    matrix = sympy.Matrix(network.stoichiometry.tolist())
    assert len(laws) == 4 - matrix.rank()
    assert not (laws @ network.stoichiometry).any()
    assert sympy.Matrix(laws.tolist()).rank() == len(laws) if len(laws) else True


def test_conservation_laws_of_a_chain_of_dimers() -> None:
    laws = conservation_laws(parse(NETWORKS["dimers"]))
    assert laws.tolist() == [[1, 2, 3]]  # atoms of A
    assert conservation_laws(parse(NETWORKS["predators"])).shape == (0, 2)
    big = parse([("7 A -> 6 B", 1.0), ("10 B -> 15 C", 1.0)])
    (law,) = conservation_laws(big).tolist()
    assert [Fraction(n, law[2]) for n in law] == [Fraction(9, 7), Fraction(3, 2), 1]
    assert np.gcd.reduce(law) == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_integrate_is_scipys(name: str) -> None:
    network = parse(NETWORKS[name])
    field = rate_equation(network)
    c = torch.linspace(0.5, 1.2, len(network.species), dtype=torch.float64)[None]
    times = [0.0, 0.7, 2.0, 5.0]
    theirs = solve_ivp(
        lambda t, y: field(torch.tensor(y)[None])[0].numpy(),
        (0, 5),
        c[0].numpy(),
        "DOP853",
        times,
        rtol=1e-12,
        atol=1e-12,
    ).y.T
    ours = integrate(field, c, times)[:, 0]
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-7)
    rough = [(integrate(field, c, [2.0], h)[0, 0] - torch.tensor(theirs[2])).abs().max() for h in (0.1, 0.05)]
    assert 3.5 < (rough[0] / rough[1]).log2() < 4.8  # order 4
    for law in conservation_laws(network).double():
        torch.testing.assert_close(ours @ law, (c @ law).expand(4), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_rate_equation_is_gillespys(name: str) -> None:
    network = parse(NETWORKS[name])
    start, times = [1.2, 2.0, 0.8][: len(network.species)], [0.0, 0.5, 1.0]
    model = in_gillespy(network, start, 1.0, times)
    options = {"rtol": 1e-11, "atol": 1e-11}
    theirs = model.run(solver=gillespy2.ODESolver, integrator_options=options)[0]
    ours = integrate(rate_equation(network), torch.tensor([start]).double(), times)[:, 0]
    for s, species in enumerate(network.species):
        np.testing.assert_allclose(ours[:, s].numpy(), theirs[species], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_simulation_has_gillespys_means_and_spreads(name: str) -> None:
    network = parse(NETWORKS[name])
    volume, counts, times, runs = 4.0, [9, 8, 6][: len(network.species)], [0.0, 0.5, 1.0], 120
    model = in_gillespy(network, counts, volume, times)
    theirs = model.run(solver=gillespy2.NumPySSASolver, number_of_trajectories=runs, seed=1)
    generator = torch.Generator().manual_seed(0)
    ours = simulate(network, torch.tensor([counts]).repeat(1500, 1), times, volume, generator).double()
    for s, species in enumerate(network.species):
        sample = np.array([run[species] for run in theirs])
        assert (sample[:, 0] == counts[s]).all()
        assert (ours[0, :, s] == counts[s]).all()
        for t in (1, 2):
            mean, spread = ours[t, :, s].mean().item(), ours[t, :, s].std().item()
            assert abs(sample[:, t].mean() - mean) < 4 * spread * (1 / runs + 1 / 1500) ** 0.5
            assert 0.7 < sample[:, t].std() / spread < 1.4


def test_simulation_of_decay_is_binomial() -> None:
    counts = torch.tensor([[40]]).repeat(20000, 1)
    left = simulate(parse([("A -> 0", 2.0)]), counts, [0.3], generator=torch.Generator().manual_seed(0))[
        0, :, 0
    ]
    p = np.exp(-0.6)
    assert abs(left.double().mean() - 40 * p) < 4 * (40 * p * (1 - p) / 20000) ** 0.5
    assert abs(left.double().var() / (40 * p * (1 - p)) - 1) < 0.05


def test_looking_often_does_not_disturb() -> None:
    network, counts = parse(NETWORKS["dimers"]), torch.tensor([[20, 0, 0]]).repeat(1500, 1)
    means = []
    for times in ([1.0], [0.01 * t for t in range(1, 101)]):
        last = simulate(network, counts, times, 5.0, torch.Generator().manual_seed(len(times)))[-1].double()
        means.append((last.mean(0), last.std(0)))
    (a, spread), (b, _) = means
    assert ((a - b).abs() < 4 * spread * (2 / 1500) ** 0.5).all()


@given(networks(3, 3, most=1), st.integers(0, 100))
def test_simulation_never_goes_below_zero_and_keeps_every_law(network: Network, seed: int) -> None:
    counts = torch.randint(0, 6, (8, 3), generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    ends = simulate(network, counts, [0.005, 0.02], torch.linspace(1, 2, 8), generator)
    assert (ends >= 0).all()
    assert torch.equal(
        ends @ conservation_laws(network).T, (counts @ conservation_laws(network).T).expand(2, 8, -1)
    )


def test_a_molecule_does_not_meet_itself() -> None:
    one = simulate(parse([("2 A -> B", 1.0)]), torch.tensor([[1, 0]]), [1e6])
    assert one.tolist() == [[[1, 0]]]


def test_simulation_approaches_the_rate_equation_with_the_root_of_the_volume() -> None:
    network = parse(NETWORKS["majority"])
    sizes = torch.tensor([100, 1600]).repeat_interleave(200)
    counts = torch.stack([sizes * 6 // 10, sizes * 4 // 10, 0 * sizes], 1)
    ends = (
        simulate(network, counts, [1.0], sizes.double(), torch.Generator().manual_seed(0))[0] / sizes[:, None]
    )
    limit = integrate(rate_equation(network), torch.tensor([[0.6, 0.4, 0.0]]).double(), [1.0])[0]
    errors = (ends - limit).square().mean(1).reshape(2, 200).mean(1).sqrt()
    assert 3.2 < errors[0] / errors[1] < 4.8  # 4 = sqrt(1600 / 100)


def cubes(low: float) -> st.SearchStrategy[torch.Tensor]:
    entry = st.one_of(st.just(0.0), st.floats(low, 2).filter(lambda v: abs(v) > 1e-3))
    return st.lists(entry, min_size=27, max_size=27).map(
        lambda v: torch.tensor(v, dtype=torch.float64).reshape(3, 3, 3)
    )


@given(cubes(-2))
def test_a_tensor_is_chemistry_if_and_only_if_no_pair_uses_up_a_third(weight: torch.Tensor) -> None:
    assume(weight.any())
    symmetric = (weight + weight.mT) / 2
    third = torch.tensor([[[k not in (i, j) for j in range(3)] for i in range(3)] for k in range(3)])
    c = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    production = torch.einsum("kij,bi,bj->bk", weight, c, c)
    if (symmetric[third] >= 0).all():
        torch.testing.assert_close(rate_equation(from_tensor(weight))(c), production)
    else:
        with pytest.raises(ValueError, match="uses up a third"):
            from_tensor(weight)
        # And rightly so: somewhere on the face c_k = 0 the field points outwards.
        k, i, j = ((symmetric < 0) & third).nonzero()[0].tolist()
        face = torch.zeros(1, 3, dtype=torch.float64)
        face[0, i] = face[0, j] = 1.0
        if symmetric[k, i, i] == symmetric[k, j, j] == 0:
            assert torch.einsum("kij,bi,bj->bk", weight, face, face)[0, k] < 0


@given(cubes(0))
def test_conversions_keep_the_number_of_molecules(weight: torch.Tensor) -> None:
    weight = (weight + 0.01) / (weight + 0.01).sum(0)
    network = from_conversions(weight)
    laws = conservation_laws(network)
    assert laws.tolist() == [[1, 1, 1]]
    c = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("kij,bi,bj->bk", weight, c, c) - c * c.sum(1, keepdim=True)
    torch.testing.assert_close(rate_equation(network)(c), expected)


@given(st.floats(0.01, 0.9), st.integers(2, 8))
def test_a_conversion_step_needs_no_cut_and_no_normalising(h: float, size: int) -> None:
    reaction = ConversionReaction(size).double()
    torch.testing.assert_close(reaction.to_tensor().sum(0), torch.ones(size, size).double())
    x = torch.rand(5, size, dtype=torch.float64).softmax(1)
    step = euler_step(x, reaction, decay=h, alpha=h / (1 - h) ** 2)
    torch.testing.assert_close(step, (1 - h) * x + h * reaction(x), rtol=0, atol=2e-8)
    field = rate_equation(from_conversions(reaction.to_tensor().detach()))
    torch.testing.assert_close(step, x + h * field(x), rtol=0, atol=2e-8)
    y = torch.rand(5, size, dtype=torch.float64).softmax(1)
    assert ((reaction(x) - reaction(y)).abs().sum(1) <= 2 * (x - y).abs().sum(1) + 1e-12).all()


def test_a_chemical_classifier_is_the_euler_scheme_of_its_network() -> None:
    model = ChemicalCSOS(12, steps=3, speed=0.4).double()
    states = model.trajectory(torch.rand(5, 784).double())
    field = rate_equation(from_conversions(model.reaction.to_tensor().detach()))
    for before, after in pairwise(states.detach()):
        torch.testing.assert_close(after, before + 0.4 * field(before), rtol=0, atol=1e-7)


def test_gradients() -> None:
    torch.autograd.gradcheck(ConversionReaction(4).double(), torch.rand(3, 4).double().requires_grad_())
    field = rate_equation(parse(NETWORKS["dimers"]))
    torch.autograd.gradcheck(field, torch.rand(2, 3).double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_device_and_dtype(dtype: torch.dtype) -> None:
    check_on_fake_cuda(lambda: ConversionReaction(12), (3, 12), dtype)
    check_on_fake_cuda(lambda: ChemicalCSOS(12), (3, 784), dtype)
    c = torch.rand(2, 3, dtype=dtype)
    assert rate_equation(parse(NETWORKS["dimers"]))(c).dtype == dtype


def test_bad_arguments_are_named() -> None:
    network = parse([("A -> B", 1.0)])
    counts = torch.tensor([[1, 1]])
    kept = torch.zeros(2, 2, 2)
    kept[1, 0, 1], kept[0, 0, 1] = 0.5, -1.0
    for call, message in (
        (lambda: parse([]), "reactions must hold"),
        (lambda: from_tensor(torch.zeros(3, 3, 3)), "at least one reaction"),
        (lambda: parse([("A -> B", -1.0)]), "rates must be above 0"),
        (lambda: Network(counts, counts, torch.ones(2), ("A", "B")), "reactants must be counts"),
        (lambda: Network(counts, -counts, torch.ones(1), ("A", "B")), "products must be counts"),
        (lambda: from_tensor(torch.ones(2, 2)), "weight must have shape"),
        (lambda: from_conversions(-torch.ones(2, 2, 2)), "weight must be at least 0"),
        (lambda: from_conversions(kept), "weight must be at least 0 everywhere, got -1"),
        (lambda: Network(counts[0], counts[0], torch.tensor(1.0), ("A", "B")), "rates must have shape"),
        (lambda: integrate(rate_equation(network), torch.ones(1, 2), [1.0, 1.0]), "times must rise"),
        (lambda: simulate(network, counts, [1.0, 1.0]), "times must rise"),
        (lambda: ChemicalCSOS(12, speed=1.0), "speed must be"),
        (lambda: ConversionReaction(0), "num_basis must be"),
        (lambda: ConversionReaction(3)(torch.ones(1, 2)), "x must have shape"),
        (lambda: rate_equation(network)(torch.ones(1, 3)), "c must have shape"),
        (lambda: integrate(rate_equation(network), torch.ones(1, 2), [1.0, 0.5]), "times must rise"),
        (lambda: integrate(rate_equation(network), torch.ones(1, 2), [1.0], 0.0), "step must be"),
        (lambda: simulate(network, counts.double(), [1.0]), "counts must be"),
        (lambda: simulate(network, counts, []), "times must rise"),
        (lambda: parse([("A -> B", float("inf"))]), "rates must be above 0 and finite"),
        (lambda: parse([("A -> B", float("nan")), ("B -> A", 1.0)]), "rates must be above 0 and finite"),
        (lambda: simulate(network, counts, [1.0, float("inf")]), "times must rise"),
        (lambda: integrate(rate_equation(network), torch.ones(1, 2), [float("nan")]), "times must rise"),
        (lambda: simulate(network, torch.tensor([[-1, 1]]), [1.0]), "counts must be at least 0"),
        (lambda: simulate(network, counts, [1.0], 0.0), "volume must be"),
        (lambda: simulate(network, counts, [1.0], torch.zeros(1)), "volume must be a number or"),
        (lambda: simulate(network, counts, [1.0], torch.ones(3)), "volume must be a number or"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("fast", [1e10, 1e12, 1e300])
def test_a_fast_reaction_does_not_swallow_a_slow_one(fast: float) -> None:
    network = parse([("B -> Y", 1e-6), ("B -> Z", 2e-6), ("A -> X", fast)])
    counts = torch.zeros(200, 5, dtype=torch.int64)
    counts[:, network.species.index("B")] = 1000
    ends = simulate(network, counts, [2e5], generator=torch.Generator().manual_seed(0))[0].double().mean(0)
    left = 1000 * np.exp(-0.6)
    for species, expected in (("B", left), ("Y", (1000 - left) / 3), ("Z", (1000 - left) * 2 / 3)):
        spread = (expected * (1 - expected / 1000) / 200) ** 0.5
        assert abs(ends[network.species.index(species)] - expected) < 4 * spread


@pytest.mark.parametrize("rate", [100.0, 290.0, 1000.0])
@pytest.mark.parametrize("time", [0.01, 0.05, 1.0, 10.0])
def test_a_step_too_long_is_refused(rate: float, time: float) -> None:
    decay, start = rate_equation(parse([("A -> B", rate)])), torch.tensor([[1.0, 0.0]]).double()
    with pytest.raises(ValueError, match=r"step must be shorter than 0\.01"):
        integrate(decay, start, [time])
    exact = np.exp(-rate * time)
    assert abs(integrate(decay, start, [time], 0.1 / rate)[0, 0, 0] - exact) < 1e-6


def test_what_the_check_of_steps_lets_pass() -> None:
    """Fast growth along a chain, a row that was NaN from the beginning, an empty tube, no tube."""
    chain = rate_equation(parse([("A -> B", 1.0), ("B -> B + C", 1e4), ("C -> C + D", 1e4)]))
    c, d = integrate(chain, torch.tensor([[1.0, 0, 0, 0]]).double(), [1.0])[0, 0, 2:].tolist()
    assert c == pytest.approx(1e4 * np.exp(-1), rel=1e-6)
    assert d == pytest.approx(1e8 * (0.5 - np.exp(-1)), rel=1e-6)
    decay = rate_equation(parse([("A -> B", 1.0)]))
    ends = integrate(decay, torch.tensor([[float("nan"), 0], [1, 0], [0, 0]]), [0.0, 1.0])[1]
    assert ends[0].isnan().all()
    assert ends[1:].isfinite().all()
    assert integrate(decay, torch.zeros(0, 2), [1.0]).shape == (1, 0, 2)
    slopes = torch.func.jacfwd(lambda c: integrate(decay, c, [1.0]))(torch.ones(1, 2).double())[0, 0, :, 0]
    expected = torch.tensor([[np.exp(-1), 0], [1 - np.exp(-1), 1]])
    torch.testing.assert_close(slopes, expected)
    with pytest.raises(ValueError, match="if its solution has bounds"):
        integrate(rate_equation(parse([("2 A -> 3 A", 1.0)])), torch.ones(1, 1), [3.0])  # infinite at 1
