"""The mini library, mixtures and the network: counts, growth, sharing and gradients."""

from collections import Counter
from typing import Any

import pytest
import torch
from conftest import check_on_fake_cuda
from torch.utils._python_dispatch import TorchDispatchMode

import csos_lib
from csos_lib.operators import (
    Bank,
    Mixture,
    OperatorNet,
    anchors,
    cos,
    h,
    layer_norm,
    mini_library,
    mix,
    neuralsort,
    phase,
    points,
    sin,
    sinkhorn,
    soft_neighbours,
    softsort,
    softsorted,
    sort,
    spread,
    weigh,
)
from csos_lib.operators.sorting import collect, log_sinkhorn, score, squared_difference


class Calls(TorchDispatchMode):
    """Counts the operations that are really executed."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def executed(bank: Bank, d: int) -> Counter[str]:
    with Calls() as calls:
        bank(torch.randn(3, d))
    return calls.count


def test_the_memos_32() -> None:
    bank = mini_library(dim=12)
    assert len(bank) == 32
    assert Counter(bank.families) == {
        "spectral": 16,
        "algebraic": 4,
        "diffusion": 4,
        "morphology": 4,
        "kernel": 4,
    }
    assert Counter(name.split()[0] for name in bank.names) == {
        "sin": 8, "cos": 8, "power": 2, "gate": 2, "diffusion": 4, "dilate": 4, "kernel": 4,
    }  # fmt: skip
    assert len(set(bank.names)) == 32
    assert bank(torch.randn(5, 12)).shape == (32, 5, 12)


@pytest.mark.parametrize("grid", [None, (3, 4)])
def test_doubling_keeps_every_operator(grid: tuple[int, int] | None) -> None:
    bank, x = mini_library(dim=12, seed=3, grid=grid), torch.randn(4, 12)
    for size in (64, 128, 256):
        bigger = bank.doubled()
        assert len(bigger) == size
        assert bigger.expressions[: len(bank)] == bank.expressions
        assert len(set(bigger.expressions)) == size
        assert len(set(bigger.names)) == size
        torch.testing.assert_close(bigger(x)[: len(bank)], bank(x), rtol=0, atol=0)
        assert bigger.families.count("sorting") >= size // 64
        bank = bigger
    norms = bank(x).square().mean(-1)
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("learnable", [False, True])
def test_doubling_keeps_dtype_and_device(learnable: bool) -> None:
    bank, x = mini_library(12, learnable=learnable).double(), torch.randn(4, 12, dtype=torch.float64)
    torch.testing.assert_close(bank.doubled()(x)[:32], bank(x), rtol=1e-6, atol=1e-6)
    assert next(mini_library(12).to("meta").doubled().buffers()).device.type == "meta"


def test_seeds() -> None:
    x = torch.randn(4, 12)
    torch.testing.assert_close(mini_library(12, seed=1)(x), mini_library(12, seed=1)(x), rtol=0, atol=0)
    assert not torch.allclose(mini_library(12, seed=1)(x)[0], mini_library(12, seed=2)(x)[0])


def test_spread_refines() -> None:
    points = sorted(spread(0.05, 5, 4) + spread(0.05, 5, 4, level=1) + spread(0.05, 5, 4, level=2))
    assert points == pytest.approx(spread(0.05, 5, 16))


def test_the_grid_is_used() -> None:
    x = torch.randn(4, 12)
    flat, image = mini_library(12)(x), mini_library(12, grid=(3, 4))(x)
    changed = [
        name
        for name, a, b in zip(mini_library(12).families, flat, image, strict=True)
        if not torch.equal(a, b)
    ]
    assert Counter(changed) == {"diffusion": 4, "morphology": 4}


def test_sharing_is_counted() -> None:
    d = 16
    waves = [wave(phase(h, d, s)) for s in spread(0.01, 100, 128) for wave in (sin, cos)]
    assert len(waves) == 256
    assert executed(Bank(waves), d)["mm"] == 1

    neighbours = [soft_neighbours(h, points(d, 8), tau) for tau in spread(0.05, 5, 10)]
    count = executed(Bank(neighbours), d)
    assert count["clamp"] == 1  # one matrix of distances
    assert count["mm"] == 1 + 10  # and one mean of the memory for each temperature

    z = layer_norm(h)
    sorted_in_many_ways = [
        *(softsorted(sort(z), tau) for tau in spread(0.05, 5, 4)),
        *(weigh(softsort(z, tau), z) for tau in spread(0.05, 5, 4)),
        *(weigh(neuralsort(z, tau), z) for tau in spread(0.05, 5, 4)),
    ]
    count = executed(Bank(sorted_in_many_ways), d)
    assert count["sort"] == 1
    assert count["searchsorted"] == 2  # from either side
    assert count["abs"] == 1

    scores = score(squared_difference(z, anchors(d)), 0.5)
    five = log_sinkhorn(log_sinkhorn(scores, 3), 2)
    count = executed(Bank([collect(z, sinkhorn(scores, 3)), collect(z, five.__class__("exp", (five,)))]), d)
    assert count["_log_softmax"] == 2 * 5  # the first three rounds are done once

    assert executed(mini_library(d), d)["mm"] == 2 + 1 + 4  # two random maps, the distances, four means


def test_mixture_is_the_weighted_sum() -> None:
    bank, x = mini_library(12), torch.randn(5, 12)
    mixture = Mixture(bank, temperature=0.5)
    with torch.no_grad():
        mixture.logits.copy_(torch.randn(32))
    weights = mixture.weights
    assert weights.shape == (32,)
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    torch.testing.assert_close(weights, torch.softmax(mixture.logits / 0.5, 0))
    expected = torch.einsum("k,kbd->bd", weights, bank(x))
    torch.testing.assert_close(mixture(x), expected)
    residual = Mixture(bank, residual=True)
    torch.testing.assert_close(residual(x), x + bank(x).mean(0))
    per_row = torch.softmax(torch.randn(5, 32), -1)
    torch.testing.assert_close(mix(bank, x, per_row), torch.einsum("bk,kbd->bd", per_row, bank(x)))
    mixture.temperature = 1e-3
    torch.testing.assert_close(mixture(x), bank(x)[mixture.logits.argmax()], atol=1e-3, rtol=0)


def test_gradients_reach_every_weight_and_parameter() -> None:
    bank = mini_library(12, learnable=True).doubled()
    mixture = Mixture(bank)
    (mixture(torch.randn(5, 12)) * torch.randn(5, 12)).sum().backward()
    assert mixture.logits.grad is not None
    assert mixture.logits.grad.abs().min() > 0
    assert bank.log_parameters is not None
    assert bank.log_parameters.grad is not None
    assert bank.log_parameters.grad.abs().min() > 0


def test_arguments_are_checked() -> None:
    bank = mini_library(12)
    for call in (
        lambda: mini_library(1),
        lambda: mini_library(12, seed=-1),
        lambda: mini_library(12, grid=(3, 5)),
        lambda: Mixture(bank, temperature=0.0),
        lambda: Mixture(torch.nn.Linear(2, 2)),  # type: ignore[arg-type]
        lambda: mix(bank, torch.rand(5, 12), torch.rand(31)),
        lambda: OperatorNet(dim=1),
        lambda: OperatorNet(dim=2.5, blocks=0),  # type: ignore[arg-type]
        lambda: OperatorNet(dim=0, blocks=0),
        lambda: OperatorNet(dim=16, blocks=0, temperature=-1.0),
        lambda: OperatorNet(dim=16, blocks=0, seed=-1),
        lambda: OperatorNet(dim=16, blocks=-1),
        lambda: OperatorNet(dim=16, doublings=-1),
        lambda: OperatorNet(dim=16, temperature=0.0),
        lambda: OperatorNet(dim=16)(torch.rand(2, 783)),
        lambda: bank(torch.rand(2, 11)),
    ):
        with pytest.raises(ValueError, match=r"must"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_runs_on_a_fake_device(dtype: torch.dtype) -> None:
    check_on_fake_cuda(lambda: mini_library(12).doubled().doubled(), (3, 12), dtype)
    check_on_fake_cuda(lambda: Mixture(mini_library(12, learnable=True)), (3, 12), dtype)
    check_on_fake_cuda(lambda: OperatorNet(dim=12, grid=(3, 4)), (3, 784), dtype)


def test_the_network_learns_the_bundled_digits() -> None:
    dataset = csos_lib.load_dataset("mnist5k")
    torch.manual_seed(0)
    net = OperatorNet(dim=32)
    csos_lib.fit(net, dataset, epochs=2, lr=0.005, progress=False)
    assert csos_lib.evaluate(net, dataset.test_images, dataset.test_labels).accuracy > 0.85


def test_hooks_on_the_bank_of_a_mixture_see_its_answers() -> None:
    mixture, x, seen = Mixture(mini_library(12)), torch.randn(3, 12), list[Any]()
    plain = mixture(x)
    handle = mixture.bank.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    torch.testing.assert_close(mixture(x), plain)
    torch.testing.assert_close(mix(mixture.bank, x, torch.full((3, 32), 1 / 32)), plain)
    handle.remove()
    mixture(x)
    assert seen == [torch.Size([32, 3, 12])] * 2
