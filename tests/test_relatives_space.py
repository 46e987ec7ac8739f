"""Cells on a grid: what spreading keeps, what it breaks, and the votes of a digit's cells."""

import re

import numpy as np
import pytest
import torch
from conftest import check_on_fake_cuda
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from csos_lib.animation import CellsAnimation
from csos_lib.dynamics import euler_step
from csos_lib.operators import diffuse, laplacian
from csos_lib.relatives.chemistry import parse, rate_equation
from csos_lib.relatives.space import CellularCSOS, growth_rates, on_each_cell, reaction_diffusion

GRID = (5, 7)
BRUSSELATOR = rate_equation(
    parse([("0 -> X", 2.0), ("2 X + Y -> 3 X", 1.0), ("X -> Y", 4.0), ("X -> 0", 1.0)])
)


def react(x: torch.Tensor) -> torch.Tensor:
    """Rock, paper, scissors: a step of memo 1, from simplex to simplex."""
    return euler_step(x, lambda m: m * (m.roll(1, 1) - m.roll(-1, 1)), decay=0.0, alpha=0.7)


def points(seed: int, cells: int = 35) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, cells, dtype=torch.float64, generator=generator).mul(2).softmax(1)


@given(st.integers(0, 1000), st.floats(1e-3, 0.25))
def test_reaction_and_diffusion_stay_on_the_simplex_and_spreading_keeps_every_molecule(
    seed: int, alpha: float
) -> None:
    reacted = on_each_cell(react, points(seed))
    spread = diffuse(reacted, alpha, GRID)
    assert (spread >= 0).all()
    torch.testing.assert_close(spread.sum(1), torch.ones(2, 35).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(spread.sum(2), reacted.sum(2), rtol=0, atol=1e-12)
    assert (spread.amax(2) <= reacted.amax(2) + 1e-12).all()


def test_spreading_beyond_a_quarter_leaves_the_simplex() -> None:
    one_hot = torch.zeros(1, 2, 35, dtype=torch.float64)
    one_hot[:, 0, 17], one_hot[:, 1] = 1, 1
    one_hot[:, 1, 17] = 0
    assert diffuse(one_hot, 0.25, GRID).min() >= 0
    assert diffuse(one_hot, 0.26, GRID).min() < 0


@given(st.integers(0, 1000))
def test_an_even_state_follows_the_well_stirred_reaction_exactly(seed: int) -> None:
    cell = points(seed, cells=1)
    x = cell.expand(2, 3, 35)
    for _ in range(5):
        x, cell = diffuse(on_each_cell(react, x), 0.2, GRID), on_each_cell(react, cell)
    assert torch.equal(x, cell.expand(2, 3, 35))


def test_a_cell_by_itself_is_a_row_of_the_batch() -> None:
    x = points(0)
    out = on_each_cell(react, x)
    for cell in range(35):
        torch.testing.assert_close(out[:, :, cell], react(x[:, :, cell]))


def test_reaction_diffusion_is_scipys_up_to_the_order_of_euler() -> None:
    x = points(3)[:1, :2] + 1

    def right(t: float, y: np.ndarray) -> np.ndarray:
        state = torch.tensor(y).reshape(1, 2, 35)
        spread = torch.tensor([0.1, 0.8])[:, None] * laplacian(state, grid=GRID)
        return (on_each_cell(BRUSSELATOR, state) + spread).flatten().numpy()

    exact = solve_ivp(right, (0, 1), x.flatten().numpy(), "DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    errors = []
    for steps in (100, 200):
        ours = reaction_diffusion(BRUSSELATOR, x, (0.1, 0.8), GRID, steps, 1 / steps)
        errors.append(np.abs(ours.flatten().numpy() - exact).max())
    assert errors[1] < 0.05
    assert 0.7 < np.log2(errors[0] / errors[1]) < 1.5


def test_patterns_grow_as_turing_says() -> None:
    cells, diffusion, step = 16, (0.05, 1.0), 2e-3
    steady = torch.tensor([[2.0, 2.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda c: BRUSSELATOR(c[None])[0], steady[0])
    waves = torch.arange(cells, dtype=torch.float64)
    eigenvalues = 2 * torch.cos(torch.pi * waves / cells) - 2
    rates = growth_rates(jacobian, diffusion, eigenvalues)
    assert rates[0] < 0 < rates.max()  # stirred it is stable; spread out, it is not
    assert (growth_rates(jacobian, (1.0, 1.0), eigenvalues) < 0).all()  # nor would it with equal diffusion
    wave = int(rates.argmax())
    shape = torch.cos(torch.pi * wave * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells)
    torch.testing.assert_close(laplacian(shape[None])[0], eigenvalues[wave] * shape)

    x = steady[..., None] + 1e-7 * shape
    sizes = []
    for _ in range(3):
        x = reaction_diffusion(BRUSSELATOR, x, diffusion, None, 1000, step)
        sizes.append((x[0, 0] - 2).norm())
    assert abs((sizes[2] / sizes[1]).log() / 2 - rates[wave]) < 0.02 * rates[wave]


def test_growth_rates_without_diffusion_are_those_of_the_reaction() -> None:
    jacobian = torch.randn(4, 4, dtype=torch.float64)
    expected = np.linalg.eigvals(jacobian.numpy()).real.max()
    np.testing.assert_allclose(growth_rates(jacobian, [0.3] * 4, torch.tensor([0.0, -1.0]))[0], expected)
    np.testing.assert_allclose(growth_rates(jacobian, [0.3] * 4, torch.tensor([-2.0])), [expected - 0.6])


def test_cells_stay_on_the_simplex_and_all_start_alike() -> None:
    model = CellularCSOS(num_basis=11, rank=8, steps=4).double()
    images = torch.rand(3, 784).double()
    states = model.trajectory(images)
    assert states.shape == (5, 3, 11, 144)
    torch.testing.assert_close(states.sum(2), torch.ones(5, 3, 144).double())
    assert (states[0] == states[0, 0, 0, 0]).all()
    assert (states > 0).all()


def test_the_answer_is_the_mean_log_vote_of_the_ink() -> None:
    model = CellularCSOS(num_basis=11, rank=8, steps=2).double()
    images = torch.rand(3, 784).double()
    ink, votes = model.ink(images)[:, 0], model.trajectory(images)[-1, :, :10]
    votes = votes / votes.sum(1, keepdim=True)
    expected = (votes.log() * ink[:, None]).sum(2) / ink.sum(1, keepdim=True)
    torch.testing.assert_close(model(images), expected, rtol=1e-6, atol=1e-6)
    assert (model(images).exp().sum(1) <= 1).all()
    torch.testing.assert_close(ink[0, 0], images[0].reshape(28, 28)[2:4, 2:4].mean())


def test_cells_do_the_same_wherever_the_digit_is() -> None:
    model = CellularCSOS(num_basis=11, rank=8, steps=2).double()
    image = torch.zeros(1, 28, 28).double()
    image[:, 10:14, 8:12] = torch.rand(4, 4).double()
    moved = image.roll((4, 2), (1, 2))
    here, there = (model.trajectory(x.flatten(1))[-1].unflatten(2, (12, 12)) for x in (image, moved))
    torch.testing.assert_close(here.roll((2, 1), (2, 3))[..., 4:, 3:], there[..., 4:, 3:])
    torch.testing.assert_close(model(image.flatten(1)), model(moved.flatten(1)))


def test_news_travels_one_cell_a_step_by_sensing_and_one_by_diffusion() -> None:
    model = CellularCSOS(num_basis=11, rank=8, steps=2).double()
    image = torch.zeros(1, 28, 28).double()
    dotted = image.clone()
    dotted[:, 2, 2] = 1
    a, b = (model.trajectory(x.flatten(1))[-1, 0].unflatten(1, (12, 12)) for x in (image, dotted))
    changed = ((a - b).abs().amax(0) > 0).nonzero()
    assert changed.max() == 4


def test_gradients_reach_every_parameter() -> None:
    model = CellularCSOS(num_basis=11, rank=4, steps=3)
    model(torch.rand(4, 784)).diagonal().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_blank_images_are_finite() -> None:
    for image in (torch.zeros(2, 784), torch.ones(2, 784)):
        log_p = CellularCSOS()(image)
        assert log_p.isfinite().all()
        assert (log_p.exp().sum(1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_device_and_dtype(dtype: torch.dtype) -> None:
    check_on_fake_cuda(lambda: CellularCSOS(num_basis=12, rank=4, steps=2), (3, 784), dtype)


def test_cells_animation_holds_every_vote_and_stays_small() -> None:
    votes = torch.randint(-1, 11, (13, 6, 12, 12))
    html = CellsAnimation(votes, 'six "digits"', [str(k) for k in range(6)])._repr_html_()
    assert len(html) < 20_000
    assert 'aria-label="six &quot;digits&quot;"' in html
    frames = re.findall(r'"([.0-9?]{144})"', html)
    assert len(frames) == 13 * 6
    signs = torch.tensor([".0123456789?".index(sign) - 1 for sign in "".join(frames)])
    assert torch.equal(signs.reshape(votes.shape), votes)


def test_bad_arguments_are_named() -> None:
    x = torch.ones(1, 2, 35)
    for call, message in (
        (lambda: on_each_cell(react, torch.ones(2, 3)), "x must have shape"),
        (lambda: reaction_diffusion(BRUSSELATOR, x, (1.0,), GRID, 1), "diffusion must be"),
        (lambda: reaction_diffusion(BRUSSELATOR, x, (1.0, -1.0), GRID, 1), "diffusion must be"),
        (lambda: reaction_diffusion(BRUSSELATOR, x, (float("nan"), 1.0), GRID, 1), "diffusion must be"),
        (lambda: reaction_diffusion(BRUSSELATOR, x, (1.0, 1.0), GRID, 1, 0.0), "step must be"),
        (lambda: reaction_diffusion(BRUSSELATOR, x, (1.0, 1.0), GRID, -1), "steps must be"),
        (lambda: CellularCSOS(9), "num_basis must be"),
        (lambda: CellularCSOS(rank=0), "rank must be"),
        (lambda: CellularCSOS(diffusion=0.3), "diffusion must be"),
        (lambda: CellularCSOS()(torch.ones(2, 783)), "images must have shape"),
        (lambda: CellsAnimation(torch.zeros(2, 1, 3, 3).long(), "", []), "votes must be"),
        (lambda: CellsAnimation(torch.full((2, 1, 3, 3), 11), "", ["a"]), "votes must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_no_rows_and_no_cells() -> None:
    assert on_each_cell(react, torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert on_each_cell(react, torch.zeros(2, 3, 0)).shape == (2, 3, 0)
    assert reaction_diffusion(react, torch.zeros(0, 3, 35), [0.1] * 3, GRID, 2).shape == (0, 3, 35)
    model = CellularCSOS(12, 8, 2)
    assert model(torch.zeros(0, 784)).shape == (0, 10)
    assert model.trajectory(torch.zeros(0, 784)).shape == (3, 0, 12, 144)


def test_export_takes_any_number_of_images() -> None:
    model, batch = CellularCSOS(12, 8, 2), torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (torch.rand(3, 784),), dynamic_shapes=({0: batch},))
    images = torch.rand(5, 784)
    torch.testing.assert_close(program.module()(images), model(images))
