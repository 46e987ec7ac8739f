"""What a state_dict says, what is made again, and where autocast ends; tests/test_zoo.py asks all modules."""

import pytest
import torch
from torch import Tensor, nn

from csos_lib import CSOS
from csos_lib._modules import autocasts, without_autocast
from csos_lib.operators import Mixture, mini_library, rms
from csos_lib.relatives.equilibrium import Equilibrium, StochasticReaction
from csos_lib.relatives.flow import Flow


@pytest.mark.parametrize(
    ("made", "other", "told"),
    [
        (lambda: CSOS(12, 3), lambda: CSOS(12, 5), "of a CSOS made with steps = 3, not 5"),
        (lambda: CSOS(12), lambda: CSOS(12, dynamics="mirror"), "dynamics = 'euler', not 'mirror'"),
        (lambda: CSOS(12), lambda: CSOS(12, readout="normalised"), "readout = 'memo', not 'normalised'"),
        (lambda: CSOS(dynamics=Flow(2.0)), lambda: CSOS(dynamics=Flow()), "dynamics made with time = 2.0"),
        (
            lambda: CSOS(reaction=StochasticReaction(64), dynamics=Equilibrium(0.4)),
            lambda: CSOS(reaction=StochasticReaction(64), dynamics=Equilibrium(0.3)),
            "dynamics made with alpha = 0.4, not 0.3",
        ),
        (
            lambda: Mixture(mini_library(4)),
            lambda: Mixture(mini_library(4), residual=True),
            "of a Mixture made with residual = False, not True",
        ),
        (
            lambda: nn.Sequential(Mixture(mini_library(4))),
            lambda: nn.Sequential(Mixture(mini_library(4, seed=1))),
            r"of a 0\.bank made with formulas = ",
        ),
    ],
)
def test_a_state_dict_says_what_differs(made, other, told):
    state, module = made().state_dict(), other()
    with pytest.raises(RuntimeError, match=told):
        module.load_state_dict(state)
    with pytest.raises(RuntimeError, match=told):  # as with shapes
        module.load_state_dict(state, strict=False)
    module.load_state_dict({k: v for k, v in state.items() if not k.endswith("_extra_state")})


def test_a_state_dict_is_a_file_read_without_code(tmp_path):
    model = CSOS(12, inputs=20)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    CSOS(12, inputs=20).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))


def test_fixed_numbers_get_all_the_digits_of_a_dtype():
    narrow, wide = mini_library(6).bfloat16().double(), mini_library(6)
    x = torch.randn(3, 6, dtype=torch.float64)
    assert torch.equal(narrow(x), wide.double()(x))
    assert not mini_library(6).state_dict().keys() - {"_extra_state"}


def test_autocast_ends_where_a_reaction_begins():
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append((x.dtype, autocasts(x)))
        return x

    x = torch.rand(2, 3)
    assert not autocasts(x)
    assert not autocasts(3)
    assert without_autocast(look, x.double(), torch.float32).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert autocasts(x)
        without_autocast(look, x.bfloat16(), torch.float32)
    assert seen == [(torch.float64, False), (torch.float32, False)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_is_the_same_under_autocast(dtype):
    x = torch.randn(3, 6)
    with torch.autocast("cpu", dtype):
        mixed = rms(x)
    assert torch.equal(mixed, rms(x))
