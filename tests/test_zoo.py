"""Every public module in every use that PyTorch has for a module: it works, or it is refused for a reason.

What does not work is listed with its reason in book/pytorch_refusals.csv, which the book shows too: each of
its rows must really fail. A row may name several modules and uses, parted by semicolons, or every module.
"""

import copy
import csv
import io
import os
import pickle
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, stack_module_state
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from csos_lib import CSOS
from csos_lib.operators import (
    Bank,
    Mixture,
    OperatorNet,
    ReactionMixture,
    ReactionNet,
    collect,
    dilate,
    h,
    mini_library,
    neuralsort,
    sample_programs,
    soft_rank,
    softsort,
    softsorted,
    sort,
    weight,
)
from csos_lib.reactions import (
    CPReaction,
    DenseReaction,
    PairwiseReaction,
    SymmetricReaction,
    TuckerReaction,
)
from csos_lib.relatives.chemistry import ChemicalCSOS, ConversionReaction
from csos_lib.relatives.energy import EnergyReaction
from csos_lib.relatives.equilibrium import Equilibrium, StochasticReaction
from csos_lib.relatives.flow import Flow
from csos_lib.relatives.games import GameReaction
from csos_lib.relatives.higher_order import QuadraticClassifier
from csos_lib.relatives.space import CellularCSOS

TABLE = Path(__file__).parents[1] / "book" / "pytorch_refusals.csv"
with TABLE.open(newline="") as file:
    REFUSED = {
        (name, feature): row["reason"]
        for row in csv.DictReader(file)
        for name in row["module"].split("; ")
        for feature in row["feature"].split("; ")
    }


class Kind(NamedTuple):
    """How a module is made, how one is made with another recipe, and how long its rows are."""

    make: Callable[[], nn.Module]
    other: Callable[[], nn.Module] | None = None
    inputs: int = 12


def csos(**settings: object) -> CSOS:
    return CSOS(**{"num_basis": 8, "steps": 2, "classes": 3, "inputs": 12, **settings})


def model(**settings: object) -> Kind:
    return Kind(lambda: csos(**settings), lambda: csos(**settings, decay=0.3))


def reaction(make: Callable[[int], nn.Module]) -> Kind:
    return Kind(lambda: make(6), inputs=6)


def rk4(**settings: object) -> CSOS:
    return csos(dynamics=Flow(method="rk4", **{"step_size": 0.4, **settings}))


def settle(**settings: object) -> CSOS:
    return csos(reaction=StochasticReaction(8), dynamics=Equilibrium(**settings))


def quadratic() -> QuadraticClassifier:
    return QuadraticClassifier(torch.rand(60, 12), torch.randint(3, (60,)), 5, classes=3)


def programs(seed: int = 0) -> Bank:
    return Bank(sample_programs(5, 6, seed))


def sorting(tau: float = 0.5) -> Bank:
    ordered, z = sort(h), h @ weight(6)
    methods = [softsorted(ordered, tau), softsorted(sort(z), 1.0)]
    matrices = [collect(z, method(h, tau)) for method in (softsort, neuralsort)]
    return Bank([*methods, *matrices, soft_rank(z, tau)])


def learnable(tau: float = 0.5) -> Bank:
    return Bank([dilate(h, tau), softsorted(sort(h), 1.0), h + 0.5 * (h @ weight(6))], learnable=True)


ZOO = {
    "CSOS": model(),
    "CSOS mirror": model(dynamics="mirror"),
    "CSOS normalised": model(readout="normalised"),
    "CSOS symmetric": model(reaction="symmetric"),
    "CSOS cp": model(reaction="cp"),
    "CSOS tucker": model(reaction="tucker"),
    "CSOS pairwise": model(reaction="pairwise"),
    "CSOS with Flow, fixed steps": Kind(rk4, lambda: rk4(step_size=0.5)),
    "CSOS with Flow, chosen steps": Kind(lambda: csos(dynamics=Flow()), lambda: csos(dynamics=Flow(2.0))),
    "CSOS with Equilibrium": Kind(settle, lambda: settle(alpha=0.3)),
    "CSOS with Equilibrium, tol=0": Kind(
        lambda: settle(tol=0.0, max_steps=6), lambda: settle(tol=0.0, max_steps=7)
    ),
    "ChemicalCSOS": Kind(
        lambda: ChemicalCSOS(8, 2, classes=3, inputs=12), lambda: ChemicalCSOS(8, 3, classes=3, inputs=12)
    ),
    "CellularCSOS": Kind(
        lambda: CellularCSOS(4, 3, 2, grid=(8, 10), classes=3),
        lambda: CellularCSOS(4, 3, 3, grid=(8, 10), classes=3),
        80,
    ),
    "QuadraticClassifier": Kind(quadratic),
    "DenseReaction": reaction(DenseReaction),
    "SymmetricReaction": reaction(SymmetricReaction),
    "CPReaction": reaction(CPReaction),
    "TuckerReaction": reaction(TuckerReaction),
    "PairwiseReaction": reaction(PairwiseReaction),
    "EnergyReaction": reaction(EnergyReaction),
    "GameReaction euler": Kind(lambda: GameReaction(6), lambda: GameReaction(6, "mirror"), 6),
    "GameReaction mirror": Kind(lambda: GameReaction(6, "mirror"), lambda: GameReaction(6), 6),
    "StochasticReaction": reaction(StochasticReaction),
    "ConversionReaction": reaction(ConversionReaction),
    "Bank": Kind(lambda: mini_library(6), lambda: mini_library(6, seed=1), 6),
    "Bank learnable": Kind(learnable, lambda: learnable(0.6), 6),
    "Bank of programs": Kind(programs, lambda: programs(1), 6),
    "Bank of sorting": Kind(sorting, lambda: sorting(0.6), 6),
    "Mixture": Kind(lambda: Mixture(programs()), lambda: Mixture(programs(), temperature=0.5), 6),
    "ReactionMixture": Kind(
        lambda: ReactionMixture(programs(), 3, 2), lambda: ReactionMixture(programs(), 3, 3), 6
    ),
    "OperatorNet": Kind(
        lambda: OperatorNet(6, 1, inputs=12, classes=3), lambda: OperatorNet(6, 1, 1, inputs=12, classes=3)
    ),
    "ReactionNet": Kind(
        lambda: ReactionNet(6, 1, grid=(7, 7), classes=3),
        lambda: ReactionNet(6, 1, seed=1, grid=(7, 7), classes=3),
        49,
    ),
}
INDUCTOR = ("CSOS", "CSOS mirror", "CSOS tucker", "EnergyReaction", "Bank of programs", "Bank of sorting")


def made(kind: Kind, dtype: torch.dtype = torch.float32) -> nn.Module:
    return kind.make().to(dtype).eval()


def rows(kind: Kind, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows as a soup or as an image, each with some zeros."""
    x = torch.rand(batch, kind.inputs, dtype=torch.float64) ** 2
    return (x / x.sum(1, keepdim=True) if kind.inputs == 6 else x).to(dtype)


def scalar(y: Tensor) -> Tensor:
    """A number that weighs the entries of an output differently."""
    return (y * torch.linspace(0.5, 1.5, y[0].numel(), dtype=y.dtype).view_as(y[0])).sum()


def slopes(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """What a module answers, and its gradients for its parameters and its input."""
    x = x.detach().clone().requires_grad_()
    y = call(x)
    wanted = [x, *(p for p in module.parameters() if p.requires_grad)]
    return [y.detach(), *torch.autograd.grad(scalar(y.float() if y.dtype.itemsize < 4 else y), wanted)]


def compiles(kind: Kind, backend: str, gradients: bool) -> None:
    torch._dynamo.reset()
    module = made(kind)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for batch in (3, 5, 8, 6):
        x = rows(kind, batch)
        if gradients:
            torch.testing.assert_close(
                slopes(module, compiled, x), slopes(module, module, x), rtol=1e-3, atol=1e-4
            )
        else:
            with torch.no_grad():
                torch.testing.assert_close(compiled(x), module(x), rtol=1e-3, atol=1e-4)
    assert counter.frame_count <= 2


def compile_with_gradients(kind: Kind) -> None:
    compiles(kind, "aot_eager", True)


def compile_without_gradients(kind: Kind) -> None:
    compiles(kind, "aot_eager", False)


def export(kind: Kind) -> None:
    module, batch = made(kind), torch.export.Dim("batch", min=2, max=1000)
    program = torch.export.export(module, (rows(kind),), dynamic_shapes=({0: batch},))
    x = rows(kind, 7)
    torch.testing.assert_close(program.module()(x), module(x), rtol=1e-4, atol=1e-5)


def onnx(kind: Kind) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    module, batch = made(kind), torch.export.Dim("batch", min=2, max=1000)
    program = torch.onnx.export(
        module, (rows(kind),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False
    )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    x = torch.cat([rows(kind, 4), torch.zeros(1, kind.inputs)])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), module(x), rtol=1e-3, atol=1e-4)


def autocast(kind: Kind, dtype: torch.dtype) -> None:
    module, x = made(kind), rows(kind)

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype):
            return module(x)

    answer, *gradients = slopes(module, mixed, x)
    expected = module(x)
    assert (answer.float() - expected).norm() <= 0.05 * expected.norm()
    assert all(g.isfinite().all() for g in gradients)


def autocast_bfloat16(kind: Kind) -> None:
    autocast(kind, torch.bfloat16)


def autocast_float16(kind: Kind) -> None:
    autocast(kind, torch.float16)


def to_bfloat16(kind: Kind) -> None:
    module, x = made(kind, torch.bfloat16), rows(kind, dtype=torch.bfloat16)
    y, *gradients = slopes(module, module, x)
    assert y.dtype == torch.bfloat16
    assert all(z.isfinite().all() for z in (y, *gradients))


def to_float16(kind: Kind) -> None:
    made(kind, torch.float16)(rows(kind, dtype=torch.float16))


def to_float64(kind: Kind) -> None:
    module, x = made(kind), rows(kind, dtype=torch.float64)
    single = module(x.float())
    double = module.double()(x)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-3, atol=1e-4)


def forward_mode(kind: Kind) -> None:
    module, x = made(kind, torch.float64), rows(kind, dtype=torch.float64)
    direction = torch.randn_like(x)
    _, change = jvp(module, (x,), (direction,))
    gradient = torch.autograd.grad(scalar(module(x.requires_grad_())), x)[0]
    torch.testing.assert_close(scalar(change.detach()), (gradient * direction).sum(), rtol=1e-4, atol=1e-6)


def second_derivatives(kind: Kind, of: Callable) -> None:
    module, x = made(kind, torch.float64), rows(kind, 2, torch.float64)

    def f(x: Tensor) -> Tensor:
        return scalar(module(x).square())

    torch.testing.assert_close(of(f)(x), jacrev(jacrev(f))(x), rtol=1e-5, atol=1e-7)


def hessians(kind: Kind) -> None:
    second_derivatives(kind, hessian)


def forward_mode_twice(kind: Kind) -> None:
    second_derivatives(kind, lambda f: jacfwd(jacfwd(f)))


def double_backward(kind: Kind) -> None:
    module, x = made(kind, torch.float64), rows(kind, 2, torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(module, x, fast_mode=True, atol=1e-4)


def vmap_over_rows(kind: Kind) -> None:
    module, x = made(kind), torch.stack([rows(kind), rows(kind)])
    expected = torch.stack([module(part) for part in x])
    torch.testing.assert_close(torch.vmap(module)(x), expected, rtol=1e-4, atol=1e-5)


def vmap_over_models(kind: Kind) -> None:
    modules, x = [made(kind), made(kind)], rows(kind)
    shared = copy.deepcopy(modules[0])
    answers = torch.vmap(lambda p, b: functional_call(shared, (p, b), (x,)))(*stack_module_state(modules))
    torch.testing.assert_close(answers, torch.stack([m(x) for m in modules]), rtol=1e-4, atol=1e-5)


def meta_and_to_empty(kind: Kind) -> None:
    module, x = made(kind), rows(kind)
    with torch.device("meta"):
        started = kind.make()
    started.to_empty(device="cpu").load_state_dict(module.state_dict())
    assert torch.equal(started.eval()(x), module(x))


def meta_and_assign(kind: Kind) -> None:
    module, x = made(kind), rows(kind)
    with torch.device("meta"):
        started = kind.make()
    started.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(started.eval()(x), module(x))


def strict_state_dict(kind: Kind) -> None:
    module, twin, x = made(kind), made(kind), rows(kind)
    state = module.state_dict()
    twin.load_state_dict(state)
    assert torch.equal(twin(x), module(x))
    plain = {k: v for k, v in made(kind).state_dict().items() if not k.endswith("_extra_state")}
    module.load_state_dict(plain)
    if kind.other is not None:
        other = kind.other()
        assert other.state_dict().keys() == state.keys()
        with pytest.raises(RuntimeError, match=r"the state_dict is of a .* made with .* = .*, not "):
            other.load_state_dict(state)


def deepcopy(kind: Kind) -> None:
    module, x = made(kind), rows(kind)
    assert torch.equal(copy.deepcopy(module)(x), module(x))


def pickled(kind: Kind) -> None:
    module, x = made(kind), rows(kind)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), module(x))


def checkpointed(kind: Kind) -> None:
    module, x = made(kind), rows(kind)
    again = slopes(module, lambda x: checkpoint(module, x, use_reentrant=False), x)
    torch.testing.assert_close(again, slopes(module, module, x))


FEATURES = {
    "torch.compile, with gradients": compile_with_gradients,
    "torch.compile, without gradients": compile_without_gradients,
    "torch.export, any batch": export,
    "autocast bfloat16": autocast_bfloat16,
    "autocast float16": autocast_float16,
    "to(bfloat16)": to_bfloat16,
    "to(float16)": to_float16,
    "double()": to_float64,
    "forward mode": forward_mode,
    "torch.func.hessian": hessians,
    "forward mode twice": forward_mode_twice,
    "double backward": double_backward,
    "vmap over inputs": vmap_over_rows,
    "vmap over models": vmap_over_models,
    "meta, to_empty": meta_and_to_empty,
    "meta, assign=True": meta_and_assign,
    "strict state_dict": strict_state_dict,
    "deepcopy": deepcopy,
    "pickle": pickled,
    "checkpoint": checkpointed,
}
EVERYTHING = (*FEATURES, "ONNX", "DistributedDataParallel")


def refused(name: str, feature: str) -> bool:
    return not REFUSED.keys().isdisjoint({(name, feature), ("every module", feature)})


def check(name: str, feature: str, use: Callable[[Kind], None]) -> None:
    if not refused(name, feature):
        return use(ZOO[name])
    with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError)):
        use(ZOO[name])


def test_the_table_names_what_there_is() -> None:
    for name, feature in REFUSED:
        assert name in ZOO or name == "every module"
        assert feature in EVERYTHING
    assert all(reason.endswith(".") and len(reason) > 40 for reason in REFUSED.values())


@pytest.mark.parametrize(
    "feature",
    [pytest.param(f, marks=pytest.mark.slow) if f.startswith("torch.compile") else f for f in FEATURES],
)
@pytest.mark.parametrize("name", ZOO)
def test_use(name: str, feature: str) -> None:
    check(name, feature, FEATURES[feature])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ZOO)
def test_onnx(name: str) -> None:
    check(name, "ONNX", onnx)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", INDUCTOR)
def test_inductor(name: str, gradients: bool) -> None:
    compiles(ZOO[name], "inductor", gradients)


def train_distributed(rank: int, folder: str, port: int) -> None:
    """In a process of its own: the gradients of half a batch each, averaged, are those of the whole."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    failures = {}
    for name, kind in ZOO.items():
        torch.manual_seed(0)
        try:
            module, x = made(kind), rows(kind, 4)
            expected = slopes(module, module, x)[2:]
            parallel = DistributedDataParallel(module)
            scalar(parallel(x[2 * rank : 2 * rank + 2])).backward()
            found = [2 * p.grad for p in module.parameters() if p.grad is not None]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        except (RuntimeError, AssertionError) as error:
            failures[name] = str(error)
    torch.save(failures, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch has no gloo")
def test_two_processes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_distributed, (str(tmp_path), port), nprocs=2)
    allowed = {name for name in ZOO if refused(name, "DistributedDataParallel")}
    for rank in range(2):
        failures = torch.load(tmp_path / str(rank))
        assert failures.keys() == allowed, failures
