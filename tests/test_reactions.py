"""Every reaction against its dense tensor, against TensorLy, and against what its docstring promises."""

import math

import pytest
import torch
from conftest import check_on_fake_cuda
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from csos_lib import reactions
from csos_lib.dynamics import run
from csos_lib.quadratic import (
    count_pairs,
    multiply_pairs,
    pack,
    pair_members,
    quadratic,
    unpack,
)
from csos_lib.reactions import (
    CPReaction,
    DenseReaction,
    PairwiseReaction,
    SymmetricReaction,
    TuckerReaction,
    symmetrise,
)
from csos_lib.relatives.games import game_tensor

KINDS = {
    "dense": DenseReaction,
    "symmetric": SymmetricReaction,
    "cp": CPReaction,
    "tucker": TuckerReaction,
    "pairwise": PairwiseReaction,
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def produce(weight: Tensor, x: Tensor) -> Tensor:
    """The definition: R(x)_k = sum_ij W[k, i, j] x_i x_j."""
    return torch.einsum("kij,bi,bj->bk", weight, x, x)


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64)


@kinds
@given(n=st.integers(1, 9), batch=st.integers(0, 5))
def test_equals_its_tensor(make, n, batch):
    reaction = make(n).double()
    x = rand(batch, n)
    assert reaction.to_tensor().shape == (n, n, n)
    torch.testing.assert_close(reaction(x), produce(reaction.to_tensor(), x))
    torch.testing.assert_close(reaction.lay_out()(x), reaction(x), rtol=0, atol=0)


@kinds
@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_gradients(make, n):
    reaction = make(n).double()
    names = [name for name, _ in reaction.named_parameters()]

    def call(x, *parameters):
        return torch.func.functional_call(reaction, dict(zip(names, parameters, strict=True)), (x,))

    one_hot = torch.eye(n, dtype=torch.float64)
    for x in (rand(3, n), torch.zeros(2, n, dtype=torch.float64), one_hot):
        inputs = (x.requires_grad_(), *reaction.parameters())
        assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, (rand(2, n).requires_grad_(), *reaction.parameters()))


@kinds
def test_vmap_over_models_and_their_gradients(make):
    models = [make(6).double() for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(models)
    x = rand(4, 6)

    def loss(p, x):
        return torch.func.functional_call(models[0], p, (x,)).square().sum()

    for x_dim, batches in ((None, x), (0, rand(3, 4, 6))):
        got = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)), in_dims=(0, x_dim))(parameters, batches)
        for index, model in enumerate(models):
            one = (batches if x_dim is None else batches[index]).clone().requires_grad_()
            model.zero_grad()
            model(one).square().sum().backward()
            torch.testing.assert_close(got[1][index], one.grad)
            for name, p in model.named_parameters():
                torch.testing.assert_close(got[0][name][index], p.grad)
    # One x a row, the rates shared: the gradient of a plain sum is the same for all rows.
    per_row = torch.func.vmap(torch.func.grad(lambda x: models[0](x[None]).sum()))(x)
    whole = x.clone().requires_grad_()
    models[0](whole).sum().backward()
    torch.testing.assert_close(per_row, whole.grad)


@kinds
def test_the_start_has_the_variance_of_the_memo(make):
    """Var R(x)_k = SCALE^2 (sum x_i^2)^2 for every x: for one at a corner, one at the centre, one between."""
    n = 12
    x = torch.stack([torch.eye(n)[3], torch.full((n,), 1 / n), torch.softmax(torch.linspace(0, 3, n), 0)])
    production = torch.stack([make(n)(x) for _ in range(1500)]).detach()
    expected = reactions.SCALE**2 * (x**2).sum(1) ** 2
    torch.testing.assert_close(production.var((0, 2)), expected, rtol=0.1, atol=0)
    # 18,000 values, of which those of one draw share factors: an error of 10 % is about 3 deviations.
    assert (production.mean((0, 2)).abs() < 0.05 * expected.sqrt()).all()


@pytest.mark.parametrize(("make", "rank"), [(CPReaction, 3), (CPReaction, 48), (TuckerReaction, 2)])
def test_the_variance_does_not_depend_on_the_rank(make, rank):
    x = torch.softmax(torch.linspace(0, 3, 12), 0)[None]
    production = torch.stack([make(12, rank)(x) for _ in range(4000)]).detach()
    expected = reactions.SCALE**2 * (x**2).sum() ** 2
    torch.testing.assert_close(production.var(), expected, rtol=0.15, atol=0)


def test_the_dense_start_is_that_of_the_memo():
    torch.manual_seed(7)
    reaction = DenseReaction(8)
    torch.manual_seed(7)
    assert torch.equal(reaction.weight, 0.05 * torch.randn(8, 8, 8))


@pytest.mark.parametrize(
    ("make", "rank", "count"),
    [
        (DenseReaction, None, 64**3),
        (SymmetricReaction, None, 64 * 64 * 65 // 2),
        (CPReaction, 16, 3 * 64 * 16),
        (CPReaction, None, 3 * 64 * 64),
        (TuckerReaction, 8, 8**3 + 3 * 64 * 8),
        (TuckerReaction, None, 38_912),
        (PairwiseReaction, None, 2 * 64 * 64),
    ],
)
def test_parameter_counts(make, rank, count):
    reaction = make(64) if rank is None else make(64, rank)
    assert sum(p.numel() for p in reaction.parameters()) == count


@given(n=st.integers(1, 12))
def test_pairs_are_all_unordered_pairs_once(n):
    i, j = pair_members(n)
    pairs = {frozenset((a, b)) for a, b in zip(i.tolist(), j.tolist(), strict=True)}
    assert len(i) == len(pairs) == count_pairs(n) == n * (n + 1) // 2
    x = rand(n, 3)
    assert torch.equal(multiply_pairs(x), x[i] * x[j])


@given(n=st.integers(1, 8))
def test_packing(n):
    weight = torch.randn(n, n, n, dtype=torch.float64)
    torch.testing.assert_close(unpack(pack(weight)), symmetrise(weight))
    packed = torch.randn(n, count_pairs(n), dtype=torch.float64)
    torch.testing.assert_close(pack(unpack(packed)), packed)
    x = rand(4, n)
    reaction = SymmetricReaction.from_tensor(weight)
    torch.testing.assert_close(reaction(x), produce(weight, x))
    torch.testing.assert_close(reaction.to_tensor(), symmetrise(weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_normal_numbers_or_zero(dtype):
    """Subnormal ones would be a hundred times as slow; as zeros they change nothing that rounding leaves."""
    tiny = torch.finfo(dtype).tiny
    x = torch.softmax(1.1 * math.log(tiny) * torch.rand(50, 20, dtype=dtype), 1)
    i, j = pair_members(20)
    products = x.T[i] * x.T[j]
    assert ((products != 0) & (products < tiny)).any()
    products = multiply_pairs(x.T)
    assert not ((products != 0) & (products < tiny)).any()
    reaction = DenseReaction(20).to(dtype)
    torch.testing.assert_close(reaction(x).double(), produce(reaction.to_tensor().double(), x.double()))


def test_what_is_nearly_dead_still_reacts():
    """The first edition cut concentrations at 1e-19: in a game the better strategy never grew from there."""
    reaction = DenseReaction(2)
    with torch.no_grad():
        reaction.weight.zero_()[0, 0, 1] = 1.0  # molecule 0 is made where it meets 1
    for share in (1e-20, 1e-30, 1e-37):
        made = reaction(torch.tensor([[share, 1.0]]))[0, 0].item()
        assert made == pytest.approx(share, rel=1e-6, abs=0)
    game = SymmetricReaction.from_tensor(game_tensor(torch.tensor([[1.0, 1.0], [0.0, 0.0]])))
    grown = run(torch.tensor([[1e-30, 1.0]]), game, 120, 0.0, 1.0)
    torch.testing.assert_close(grown, torch.tensor([[1.0, 0.0]]), atol=1e-3, rtol=0)


@given(n=st.integers(1, 6))
def test_derivatives_of_every_kind(n):
    """Forward, second and batched derivatives against autograd through the definition."""
    weight, x = torch.randn(n, n, n, dtype=torch.float64), rand(3, n)
    dw, dx, v = torch.randn_like(weight), torch.randn_like(x), torch.randn_like(x)

    def ours(x, weight):
        return quadratic(x, pack(weight))

    def theirs(x, weight):
        return produce(weight, x)

    for a, b in zip(
        torch.func.jvp(ours, (x, weight), (dx, dw)),
        torch.func.jvp(theirs, (x, weight), (dx, dw)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    for place in (0, 1):
        hessians = [
            torch.func.hessian(lambda *z, f=f: (f(*z).square() * v).sum(), place)(x, weight)
            for f in (ours, theirs)
        ]
        torch.testing.assert_close(*hessians)
    xs, weights = rand(4, 3, n), torch.randn(4, n, n, n, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(ours)(xs, weights), torch.vmap(theirs)(xs, weights))


def test_second_derivatives_at_tiny_cotangents():
    """They were differences of large things: 30 % wrong at 1e-8. Now they are as exact as the einsum's."""
    weight, x = torch.randn(8, 8, 8), torch.rand(4, 8)

    def second(produce, tiny):
        x_ = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(produce(x_).sum(), x_, create_graph=True)
        return torch.autograd.grad((g * tiny).sum(), x_)[0] / tiny

    for tiny in (1e-7, 1e-8):
        ours = second(lambda x: quadratic(x, pack(weight)), tiny)
        theirs = second(lambda x: produce(weight, x), tiny)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_only_the_symmetric_part_acts():
    weight, x = torch.randn(7, 7, 7, dtype=torch.float64), rand(5, 7)
    twisted = weight - weight.transpose(1, 2)
    assert not torch.allclose(weight, symmetrise(weight))
    torch.testing.assert_close(produce(symmetrise(weight), x), produce(weight, x))
    torch.testing.assert_close(produce(twisted, x), torch.zeros(5, 7, dtype=torch.float64))


def test_cp_of_rank_n_squared_reproduces_any_tensor():
    n = 4
    weight = torch.randn(n, n, n, dtype=torch.float64)
    i, j = torch.arange(n * n) // n, torch.arange(n * n) % n
    reaction = CPReaction(n, n * n).double()
    eye = torch.eye(n, dtype=torch.float64)
    reaction.load_state_dict({"left": eye[i], "right": eye[j], "out": weight[:, i, j]})
    torch.testing.assert_close(reaction.to_tensor(), weight)


def test_tucker_at_full_rank_reproduces_any_tensor():
    weight = torch.randn(5, 5, 5, dtype=torch.float64)
    reaction = TuckerReaction(5, 5).double()
    eye = torch.eye(5, dtype=torch.float64)
    reaction.load_state_dict({"core": weight, "left": eye, "right": eye, "out": eye})
    torch.testing.assert_close(reaction.to_tensor(), weight)


def test_pairwise_is_cp_of_rank_n():
    pairwise, cp = PairwiseReaction(6), CPReaction(6, 6)
    cp.load_state_dict({"left": pairwise.left, "right": pairwise.right, "out": torch.eye(6)})
    torch.testing.assert_close(pairwise.to_tensor(), cp.to_tensor())
    x = torch.rand(3, 6)
    torch.testing.assert_close(pairwise(x), cp(x))


def test_to_tensor_against_tensorly():
    tensorly = pytest.importorskip("tensorly")

    def array(parameter: Tensor):
        return parameter.detach().numpy()

    cp = CPReaction(5, 3).double()
    factors = [array(cp.out), array(cp.left.T), array(cp.right.T)]
    expected = torch.from_numpy(tensorly.cp_to_tensor((None, factors)))
    torch.testing.assert_close(cp.to_tensor().detach(), expected)

    tucker = TuckerReaction(5, 3).double()
    factors = [array(tucker.out), array(tucker.left.T), array(tucker.right.T)]
    expected = torch.from_numpy(tensorly.tucker_to_tensor((array(tucker.core), factors)))
    torch.testing.assert_close(tucker.to_tensor().detach(), expected)


def table_of_xor() -> Tensor:
    weight = torch.zeros(6, 6, 6)
    zero, one, a, b, c, d = range(6)
    weight[one, a, d] = weight[one, b, c] = weight[zero, a, c] = weight[zero, b, d] = 1.0
    return weight


def knocked_out() -> Tensor:
    """Eight molecules, four of which are in no reaction."""
    weight = torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(0))
    weight[4:] = weight[:, 4:] = weight[:, :, 4:] = 0
    return weight


def error_of(reaction, weight):
    """Of the symmetric parts, relative to the largest entry so that tiny tables do not vanish."""
    made, wanted = (symmetrise(table.detach().double()) for table in (reaction.to_tensor(), weight))
    made, wanted = made / wanted.abs().max(), wanted / wanted.abs().max()
    return float((made - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("make", [CPReaction, TuckerReaction])
def test_from_tensor_finds_a_tensor_of_its_rank(make):
    weight = make(6, 2).double().to_tensor().detach()
    reaction = make.from_tensor(weight, 2, iterations=1000)
    assert reaction.rank == 2
    assert error_of(reaction, weight) < 1e-4
    assert all(p.requires_grad and p.dtype == torch.float64 for p in reaction.parameters())
    for no_grad in (torch.no_grad(), torch.inference_mode()):
        with no_grad:
            again = make.from_tensor(weight, 2, iterations=1000)
            assert torch.equal(again.to_tensor(), reaction.to_tensor())


@pytest.mark.parametrize("make", [CPReaction, TuckerReaction])
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_from_tensor_finds_xor(make, rank):
    assert error_of(make.from_tensor(table_of_xor(), rank), table_of_xor()) < 1e-3


@pytest.mark.parametrize(
    ("weight", "rank"),
    [(torch.ones(3, 3, 3), 2), (knocked_out(), 8), (1e-30 * knocked_out(), 8), (1e30 * knocked_out(), 8)],
)
def test_from_tensor_of_a_table_that_needs_less(weight, rank):
    for make in (CPReaction, TuckerReaction):
        assert error_of(make.from_tensor(weight, rank), weight) < 2e-3


@pytest.mark.parametrize("make", [CPReaction, TuckerReaction])
def test_from_tensor_of_nothing_makes_nothing_and_can_learn(make):
    for nothing in (torch.zeros(3, 3, 3), torch.tensor([[[0.0, 1], [-1, 0]]] * 2)):  # or all of it cancels
        reaction = make.from_tensor(nothing, 2)
        x = torch.rand(4, len(nothing))
        assert not reaction(x).any()
        reaction(x).sum().backward()
        assert reaction.out.grad.any()


@pytest.mark.parametrize("make", [CPReaction, TuckerReaction])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_from_tensor_refuses_what_is_not_finite(make, bad):
    weight = torch.ones(3, 3, 3)
    weight[1, 2, 0] = bad
    with pytest.raises(ValueError, match="weight must be finite"):
        make.from_tensor(weight, 2)


def test_only_the_symmetric_part_is_fitted():
    """What cancels costs no rank: a table that does one product and a large twist has a fit of rank 1."""
    a, b, c, twist = torch.randn(4, 5, dtype=torch.float64)
    plain = c[:, None, None] * a[:, None] * b
    twisted = plain + 100 * twist[:, None, None] * (a[:, None] * b - b[:, None] * a)
    reaction = CPReaction.from_tensor(twisted, 1, iterations=300)
    x = rand(6, 5)
    torch.testing.assert_close(reaction(x), produce(plain, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rank", [2, 4])
def test_from_tensor_beats_a_fit_of_the_entries(rank):
    """TensorLy fits symmetrise(W) entry by entry, and half of its rank goes into being symmetric."""
    decomposition = pytest.importorskip("tensorly.decomposition")
    weight = symmetrise(torch.randn(8, 8, 8, generator=torch.Generator().manual_seed(1)).double())
    entries = decomposition.parafac(weight.numpy(), rank, init="svd", n_iter_max=300, random_state=0)
    made = torch.from_numpy(pytest.importorskip("tensorly").cp_to_tensor(entries))
    theirs = float((symmetrise(made) - weight).norm() / weight.norm())
    assert error_of(CPReaction.from_tensor(weight, rank, iterations=300), weight) < theirs - 0.01


def test_from_tensor_of_tucker_obeys_the_tail_bound():
    """Error^2 <= the sum over the three unfoldings of the squared singular values left out."""
    weight = symmetrise(torch.randn(6, 6, 6, dtype=torch.float64))
    unfoldings = [weight.movedim(mode, 0).flatten(1) for mode in range(3)]
    previous = float("inf")
    for rank in (1, 3, 5):
        approximation = symmetrise(TuckerReaction.from_tensor(weight, rank).to_tensor().detach())
        error = float((approximation - weight).norm() ** 2)
        tail = sum(float(torch.linalg.svdvals(u)[rank:].square().sum()) for u in unfoldings)
        assert error <= tail + 1e-9
        assert error < previous
        previous = error
    assert error_of(TuckerReaction.from_tensor(weight, 6, iterations=500), weight) < 1e-3


def test_more_starts_are_never_worse():
    weight = torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(2))
    errors = [error_of(CPReaction.from_tensor(weight, 4, 30, starts), weight) for starts in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True)


def test_from_tensor_leaves_the_random_state_alone():
    weight = torch.randn(4, 4, 4)
    before = torch.get_rng_state()
    assert CPReaction.from_tensor(weight, 3).left.dtype == torch.float32
    assert TuckerReaction.from_tensor(weight.bfloat16(), 2).left.dtype == torch.bfloat16
    SymmetricReaction.from_tensor(weight)
    assert torch.equal(before, torch.get_rng_state())


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_fake_device(make, dtype):
    check_on_fake_cuda(lambda: make(12), (4, 12), dtype)


@kinds
@pytest.mark.parametrize("n", [1, 2, 5])
def test_an_empty_batch_has_gradients_of_zero(make, n):
    reaction, x = make(n).double(), rand(0, n).requires_grad_()
    (slope,) = torch.autograd.grad(reaction(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad.shape == (0, n)
    for parameter in reaction.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    reaction(x).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in reaction.parameters())


@kinds
def test_laid_out_rates_follow_the_dtype(make):
    reaction = make(6).double()
    assert reaction(rand(2, 6)).dtype == torch.float64
    assert reaction.to_tensor().dtype == torch.float64


@kinds
def test_bad_arguments(make):
    for bad in (0, -1, 2.0, True, None, "8"):
        with pytest.raises(ValueError, match="num_basis"):
            make(bad)
    reaction = make(4)
    for x in (
        torch.rand(4),
        torch.rand(2, 5),
        torch.rand(2, 4, 1),
        torch.ones(2, 4, dtype=torch.int64),
        [[0.25] * 4],
    ):
        with pytest.raises(ValueError, match="x must"):
            reaction(x)
    with pytest.raises(ValueError, match="float32"):
        reaction(rand(2, 4))


@pytest.mark.parametrize("make", [CPReaction, TuckerReaction])
def test_bad_ranks(make):
    for bad in (0, -2, 1.5, True):
        with pytest.raises(ValueError, match="rank"):
            make(4, bad)
        with pytest.raises(ValueError, match="rank"):
            make.from_tensor(torch.zeros(4, 4, 4), bad)
    with pytest.raises(ValueError, match="iterations"):
        make.from_tensor(torch.zeros(4, 4, 4), 2, iterations=0)
    with pytest.raises(ValueError, match="starts"):
        make.from_tensor(torch.zeros(4, 4, 4), 2, starts=0)
    with pytest.raises(ValueError, match="at most N = 4"):
        TuckerReaction.from_tensor(torch.zeros(4, 4, 4), 5)


def test_bad_tensors():
    calls = (
        symmetrise,
        SymmetricReaction.from_tensor,
        lambda weight: CPReaction.from_tensor(weight, 2),
        lambda weight: TuckerReaction.from_tensor(weight, 2),
    )
    for bad in (torch.zeros(3, 3), torch.zeros(2, 3, 3), torch.zeros(3, 3, 3, dtype=torch.int64), None):
        for call in calls:
            with pytest.raises(ValueError, match="weight must"):
                call(bad)


def test_what_prints():
    assert "num_basis=4, rank=2" in repr(CPReaction(4, 2))
    assert "num_basis=4, rank=2" in repr(TuckerReaction(4))
    assert "num_basis=4" in repr(SymmetricReaction(4))
