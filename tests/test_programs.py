"""Random programs: what every one of them owes, the same on every machine, prefix-stable, none degenerate."""

import hashlib
import math
import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from conftest import check_on_fake_cuda, default_dtype
from hypothesis import given
from hypothesis import strategies as st

from csos_lib.operators import (
    Bank,
    Expression,
    cos,
    draw_programs,
    exp,
    h,
    mini_library,
    phases,
    rms,
    sample_programs,
    tanh,
)
from csos_lib.operators.expressions import distinct
from csos_lib.operators.inner import NORMS
from csos_lib.operators.programs import (
    ALPHA,
    BLUR,
    FAMILIES,
    MATRICES,
    MEMBERS,
    REACH,
    SCALE,
    TAU,
    Judge,
)

GRIDS = [(12, None), (12, (3, 4)), (16, (4, 4)), (9, None)]


def several(count: int, *args: Any, **settings: Any) -> list[Expression]:
    return [f for f, _ in islice(draw_programs(*args, **settings), count)]


@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from(GRIDS),
    p_skip=st.floats(0, 1),
    depths=st.sampled_from([(1,), (2, 3, 4), (4,)]),
)
def test_what_every_program_owes(
    seed: int, shape: tuple[int, Any], p_skip: float, depths: tuple[int, ...]
) -> None:
    dim, grid = shape
    programs = sample_programs(24, dim, seed, p_skip, depths, grid)
    assert len(set(programs)) == 24
    x = torch.cat(
        [
            torch.randn(4, dim),
            torch.zeros(1, dim),
            torch.ones(1, dim),
            torch.randint(0, 3, (1, dim)),
            1e4 * torch.randn(1, dim),
            1e-20 * torch.randn(1, dim),
        ]
    ).requires_grad_()
    pull = torch.randn_like(x)
    for k, y in Bank(programs).stream(x):
        assert programs[k].name in NORMS
        assert y.shape == x.shape
        assert y.isfinite().all()
        (slope,) = torch.autograd.grad((y * pull).sum(), x, retain_graph=True)
        assert slope.isfinite().all()
        assert (slope[:4] != 0).any(1).sum() >= 2, f"no gradient reaches the input of {programs[k]}"
        assert Expression.from_json(programs[k].to_json()) == programs[k]
        for node in distinct([programs[k]]):
            inputs = node.inputs
            if node.name == "power":  # a ratio's q^2 is a power of a power of a norm
                assert inputs[0].name in NORMS or (inputs[0].name == "power" and node.parameters[0][1] == 2)
            if node.name == "ratio":
                assert all(set(NORMS) & {x.name, *(y.name for y in x.inputs)} for x in inputs)


def digest(programs: list[Expression]) -> str:
    return hashlib.sha256("\n".join(f.to_json() for f in programs).encode()).hexdigest()


def test_the_first_programs_stay_what_they_are() -> None:
    assert list(map(str, sample_programs(4, 16))) == [
        "layer_norm(layer_norm(h @ W0)^2)",
        "rms(edges(rms(cos(0.104 * rms(gelu(rms(h + derivative(h))))))))",
        "rms(h + sigmoid(rms(h)) + (h + sigmoid(rms(h)) + 0.00646 * laplacian(h + sigmoid(rms(h)))) + "
        "(h + sigmoid(rms(h)) + (h + sigmoid(rms(h)) + 0.00646 * laplacian(h + sigmoid(rms(h))))) @ W3)",
        "rms(edges(rms(h)) + gate(edges(rms(h)), rms(h @ W1)))",
    ]
    assert str(sample_programs(1, 16, seed=3, grid=(4, 4))[0]).count("grid=4x4") <= 4
    assert sample_programs(8, 16, seed=1) != sample_programs(8, 16, seed=2)


def test_same_programs_in_another_process_and_under_any_setting() -> None:
    expected = sample_programs(32, 16, seed=5, grid=(4, 4))
    code = (
        "import hashlib\nfrom csos_lib.operators import sample_programs\n"
        "programs = sample_programs(32, 16, seed=5, grid=(4, 4))\n"
        "print(hashlib.sha256('\\n'.join(f.to_json() for f in programs).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == digest(expected)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    with default_dtype(torch.float16), torch.device("meta"), torch.inference_mode():
        assert sample_programs(32, 16, seed=5, grid=(4, 4)) == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"p_skip": 0.0},
        {"p_skip": 1.0},
        {"depths": (1, 6)},
        {"grid": (4, 4)},
        {"families": {"diffusion": 3, "inner": 1}},
    ],
    ids=str,
)
def test_the_first_half_of_twice_as_many(settings: dict[str, Any]) -> None:
    drawn = list(islice(draw_programs(16, seed=2, **settings), 40))
    for count in (1, 7, 20):
        assert several(count, 16, seed=2, **settings) == [f for f, _ in drawn[:count]]
    if not settings:
        assert any(faults for _, faults in drawn[:20])  # stable although some were drawn again
        assert sample_programs(20, 16, seed=2) == [f for f, _ in drawn[:20]]


@pytest.mark.parametrize("p_skip", [0.0, 0.3, 1.0])
def test_as_many_residual_branches_as_asked_for(p_skip: float) -> None:
    programs = several(100, 16, 0, p_skip, (3,), families={"spectral": 1})
    sums = Counter(node.name for f in programs for node in distinct([f]))
    steps = sums["sin"] + sums["cos"]
    assert steps == 3 * 100
    assert sums["add"] / steps == pytest.approx(p_skip, abs=0.08 if 0 < p_skip < 1 else 0)


def test_depths_are_equally_likely() -> None:
    programs = several(120, 16, 0, 0.0, (1, 2, 5), families={"spectral": 1})
    depth = Counter(sum(node.name in ("sin", "cos") for node in distinct([f])) for f in programs)
    assert set(depth) == {1, 2, 5}
    assert min(depth.values()) > 20  # chance takes some of the shallow ones: they repeat


PROGRAMS = sample_programs(400, 16, seed=7)


def test_parameters_are_log_uniform_in_their_ranges() -> None:
    found: dict[tuple[str, str], list[float]] = {}
    for node in {node for f in PROGRAMS for node in distinct([f])}:
        for key, value in node.parameters:
            if isinstance(value, float):
                found.setdefault((node.name, key), []).append(value)
    ranges = {
        ("multiple", "scale"): SCALE,
        ("add_scaled", "scale"): ALPHA,
        ("gaussian_blur", "sigma"): BLUR,
        ("rbf", "sigma"): REACH,
        ("dilate", "tau"): TAU,
        ("soft_quantile", "tau"): TAU,
        ("closeness", "tau"): TAU,
        ("blur_sorted", "tau"): TAU,
    }
    for key, (low, high) in ranges.items():
        assert all(low <= value <= high for value in found[key]), key
        assert all(float(f"{value:.3g}") == value for value in found[key]), key
        places = [math.log(value / low) / math.log(high / low) for value in found[key]]
        assert abs(np.mean(places) - 0.5) < 4 * np.sqrt(1 / 12 / len(places)) + 0.1, key
    assert set(dict(FAMILIES)) == set(MEMBERS)


def test_every_primitive_is_drawn_and_matrices_are_shared() -> None:
    nodes = Counter(node for f in PROGRAMS for node in set(distinct([f])))
    names = Counter(node.name for node in nodes.elements())
    everyday = {x for members in MEMBERS.values() for x in members} - {
        "linear",
        "diffuse",
        "ratio",
        "rational",
    }
    renamed = {
        "erode",
        "opening",
        "closing",
        "prototypes",
        "soft_neighbours",
        "softsorted",
        "soft_rank",
        "neuralsort",
        "sinkhorn",
    }
    assert everyday - renamed <= set(names)
    assert {"matmul", "add_scaled", "ratio", "negate", "rbf", "closeness", "blur_sorted"} <= set(names)
    large = sum(names[x] for x in ("soft_rank", "order_weights", "log_sinkhorn"))
    assert large < 0.02 * len(PROGRAMS)
    matrices = {node for node in nodes if node.name == "weight"}
    assert len(matrices) == MATRICES + 1  # and the one that reads prototypes
    assert sum(node.name == "points" for node in nodes) == 1
    bank = Bank(PROGRAMS[:256])
    trees = sum(tree_size(f) for f in PROGRAMS[:256])
    assert len(bank.nodes) < trees / 2
    assert sum(node.name in ("matmul", "squared_distance") for node in bank.nodes) < 128


def tree_size(f: Expression) -> int:
    return 1 + sum(map(tree_size, f.inputs))


def test_only_the_families_that_were_asked_for() -> None:
    for family in FAMILIES:
        if family == "inner":
            continue
        for f in several(5, 16, seed=1, families={family: 1}):
            assert {node.primitive.family for node in distinct([f])} == {family, None}


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (rms(exp(exp(1e3 * h))), "not finite"),
        (rms(1e-5 * h), "vanishes"),
        (rms(cos(0.01 * rms(h))), "constant"),
        (rms(phases(16) + 0.01 * h), "ignores its input"),
        (rms(tanh(1e4 * h)), "dead gradient"),
        (rms(h), None),
        (h, None),
    ],
    ids=str,
)
def test_faults(program: Expression, fault: str | None) -> None:
    assert Judge(16).fault(program) == fault


def test_repeats() -> None:
    judge = Judge(16)
    assert [judge.fault(f) for f in (rms(h), rms(-(3 * h)), rms(h + 0.01 * tanh(h)))] == [
        None,
        "repeats",
        "repeats",
    ]
    assert judge.fault(rms(h**3)) is None
    assert judge.fault(rms(h**3)) == "repeats"


@pytest.mark.parametrize("grid", [None, (4, 4)])
def test_none_is_degenerate(grid: tuple[int, int] | None) -> None:
    """The criterion again, by other means: all answers at once, by the bank and numpy."""
    drawn = list(islice(draw_programs(16, seed=11, grid=grid), 150))
    bank = Bank([f for f, _ in drawn]).double()
    y = bank(Judge(16).rows).numpy()
    correlations = np.corrcoef(y.reshape(150, -1)) - np.eye(150)
    assert np.abs(correlations).max() <= 0.999
    assert y.std(1).min() > 0
    assert (y.var(1).mean(1) >= 0.999e-3).all()
    assert (y.var(2).mean(1) >= 0.999e-3).all()
    faults = Counter(fault for _, faults in drawn for fault in faults)
    assert set(faults) <= {
        "not finite", "vanishes", "constant", "ignores its input", "dead gradient", "repeats",
    }  # fmt: skip
    assert {"constant", "repeats"} <= set(faults)
    assert 0.03 < faults.total() / (faults.total() + 150) < 0.25


def test_repeats_can_be_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = several(60, 8, depths=(1,), families={"inner": 1}, alike=2)
    assert len(set(drawn)) < 50
    monkeypatch.setattr("csos_lib.operators.programs.TRIES", 20)
    with pytest.raises(ValueError, match=r"count must be at most \d+ .* nothing new"):
        several(200, 8, depths=(1,), families={"inner": 1})


def test_a_bank_equals_its_programs_one_by_one() -> None:
    everything = [*sample_programs(64, 16, seed=3), *mini_library(16).expressions]
    order = np.random.default_rng(0).permutation(len(everything))
    bank = Bank([everything[k] for k in order]).double()
    x = torch.randn(5, 16, dtype=torch.float64)
    together = bank(x)
    for place, k in enumerate(order):
        alone = Bank([everything[k]]).double()
        torch.testing.assert_close(together[place], alone(x)[0], rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(together[place, :1], alone(x[:1])[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", [None, (3, 4)])
def test_runs_on_a_fake_device(grid: tuple[int, int] | None, dtype: torch.dtype) -> None:
    programs = sample_programs(16, 12, grid=grid)
    check_on_fake_cuda(lambda: Bank(programs, learnable=True), (3, 12), dtype)


@pytest.mark.parametrize(
    "change",
    [
        {"count": 0},
        {"count": 2.0},
        {"dim": 1},
        {"seed": -1},
        {"p_skip": 1.1},
        {"p_skip": float("nan")},
        {"depths": ()},
        {"depths": 3},
        {"depths": (0, 2)},
        {"grid": (3, 4)},
        {"grid": (16,)},
        {"families": {"waves": 1}},
        {"families": {"kernel": 0}},
        {"families": {"kernel": -1}},
        {"alike": -1.0},
    ],
    ids=str,
)
def test_arguments_are_checked(change: dict[str, Any]) -> None:
    name = next(iter(change))
    draw: Any = draw_programs if name in ("families", "alike") else sample_programs
    count = {} if draw is draw_programs else {"count": 2}
    with pytest.raises(ValueError, match=rf"{name} must"):
        draw(**{**count, "dim": 16, **change})
