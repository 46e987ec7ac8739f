"""What every test shares: one thread, a seed of its own, and modules on a fake cuda device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from csos_lib.reactions import DenseReaction

torch.set_num_threads(1)
settings.register_profile("csos", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("csos")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_on_fake_cuda(build: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Build a module on a fake cuda device, run it forward: mixing devices or dtypes raises.

    Only the building happens under torch.device("cuda"): a tensor that forward makes on the default device
    would be on the CPU, and is found out.
    """
    with FakeTensorMode(), default_dtype(dtype):
        with torch.device("cuda"):
            module = build()
            x = torch.rand(shape)
        y: Tensor = module(x)
        assert y.device.type == "cuda"
        assert y.dtype == dtype
        for name, parameter in module.named_parameters():
            assert parameter.device.type == "cuda", name
            assert parameter.dtype == dtype, name


def concentrations(batch: int, n: int) -> Tensor:
    """Rows (batch, n) on the simplex, float64, some far from its middle."""
    return torch.softmax(2 * torch.randn(batch, n, dtype=torch.float64), 1)


def react(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """R(x) from W (N, N, N), by its definition."""
    return lambda x: torch.einsum("bi,bj,kij->bk", x, x, weight)


def dense_reaction(n: int, positive: bool = True) -> DenseReaction:
    """A dense reaction with W of standard deviation 1, float64, or its absolute values."""
    reaction = DenseReaction(n).double()
    nn.init.normal_(reaction.weight)
    if positive:
        with torch.no_grad():
            reaction.weight.abs_()
    return reaction
