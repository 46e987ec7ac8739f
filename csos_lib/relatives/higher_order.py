"""Higher-order networks: steps as one polynomial, its cousins, and the quadratic classifier of 1998."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csos_lib import _check
from csos_lib._modules import without_autocast
from csos_lib.dynamics import Reaction, laid_out
from csos_lib.quadratic import multiply_pairs
from csos_lib.simplex import normalise


def step_polynomial(v: Tensor, reaction: Reaction, beta: float) -> Tensor:
    """The memo's step before it cuts and normalises, on amounts of any size: Q(v) = (sum v) v + beta R(v).

    Every entry is a homogeneous polynomial of degree 2, Q(c v) = c^2 Q(v).

    Args:
        v: amounts (B, N).
        reaction: maps (B, N) to the production R (B, N), of degree 2.
        beta: the strength alpha (1 - decay), at least 0.

    Returns:
        Amounts (B, N).

    Raises:
        ValueError: v is not (B, N) floating point, or beta is negative.

    Chapter 12, :eq:`eq-step-polynomial`.

    >>> step_polynomial(torch.tensor([[1.0, 1.0]]), lambda v: v * v, beta=1.0).tolist()
    [[3.0, 3.0]]
    """
    _check.matrix("v", v)
    _check.number("beta", beta, 0)
    return v.sum(1, keepdim=True) * v + beta * reaction(v)


def rational_map(x: Tensor, reaction: Reaction, steps: int, beta: float) -> Tensor:
    """T steps as one rational map: a polynomial of degree 2^T in each entry, divided by their sum at the end.

    Equal to T steps of the memo as long as nothing is cut off, such as for W >= 0. The numbers on the way
    would grow or shrink like powers of 2^T; so each row is divided by its largest entry after every step,
    which multiplies all entries of x_T alike and cancels. A row of zeros stays zero.

    Args:
        x: concentrations x_0 (B, N).
        reaction: maps (B, N) to the production R (B, N), of degree 2.
        steps: T, at least 0.
        beta: the strength alpha (1 - decay), at least 0.

    Returns:
        Concentrations x_T (B, N).

    Raises:
        ValueError: an argument is out of range.

    Chapter 12, :eq:`eq-rational-map`.
    """
    _check.integer("steps", steps, 0)
    reaction, tiny = laid_out(reaction), torch.finfo(x.dtype).tiny
    for _ in range(steps):
        x = step_polynomial(x, reaction, beta)
        x = x / x.detach().abs().amax(1, keepdim=True).clamp(min=tiny)
    return normalise(x, epsilon=tiny)


def polarise(reaction: Reaction, x: Tensor, y: Tensor) -> Tensor:
    """What x and y make when they meet, R(x, y) = (R(x + y) - R(x - y)) / 4, from R(x) = R(x, x).

    Taken so, a small y would be lost in x. It is computed as half the slope of R at x towards y, by forward
    differentiation, which subtracts nothing.

    Args:
        reaction: maps (B, N) to the production R (B, N), of degree 2, made of what torch can differentiate.
        x: amounts (B, N).
        y: amounts (B, N).

    Returns:
        sum_ij W[k, i, j] x_i y_j (B, N), with the symmetric part of W.

    Chapter 12, :eq:`eq-polarise`.

    >>> polarise(lambda x: x * x, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]])).tolist()
    [[3.0, 10.0]]
    """
    return torch.func.jvp(reaction, (x,), (y,))[1] / 2


def pi_net(z: Tensor, factors: Sequence[Tensor], out: Tensor) -> Tensor:
    """A polynomial network of degree n: s_1 = U_1 z, s_m = (U_m z) * s_(m-1) + s_(m-1), and C s_n.

    On the simplex the one of degree 2 is `CPReaction` with A = U_1, B = U_2 + 1 and the same C.

    Args:
        z: inputs (B, N).
        factors: U_1, ..., U_n, each (R, N).
        out: C (K, R).

    Returns:
        (B, K).

    Raises:
        ValueError: z is not (B, N) floating point, or there is no factor.

    Source: Chrysos et al. (2020), the model CCP, without its bias. Chapter 12, :eq:`eq-pi-net`.
    """
    _check.matrix("z", z)
    if not factors:
        raise ValueError("factors must hold at least one matrix, got none")
    state = z @ factors[0].T
    for factor in factors[1:]:
        state = (z @ factor.T) * state + state
    return state @ out.T


def factorisation_machine(x: Tensor, bias: Tensor, linear: Tensor, factors: Tensor) -> Tensor:
    """b + sum_i l_i x_i + sum_(i<j) <v_i, v_j> x_i x_j, at a cost that grows with N and not with N^2.

    Args:
        x: inputs (B, N).
        bias: b, a scalar ().
        linear: l (N,).
        factors: rows v_i (N, R).

    Returns:
        (B,).

    Raises:
        ValueError: x is not (B, N) floating point.

    Source: Rendle (2010), eq. 1 and lemma 3.1. Chapter 12, :eq:`eq-factorisation-machine`.
    """
    _check.matrix("x", x, len(linear))
    pairs = (x @ factors).square() - x.square() @ factors.square()
    return bias + x @ linear + pairs.sum(1) / 2


def factorisation_machine_rates(bias: Tensor, linear: Tensor, factors: Tensor) -> Tensor:
    """The slice W[k] (N, N) of the reaction that computes a factorisation machine on the simplex.

    There sum x = 1, so that bias and linear part are of degree 2 as well: b = b (sum x)^2, l_i x_i = l_i x_i
    sum_j x_j.

    Args:
        bias: b, one number.
        linear: l (N,).
        factors: the vectors v_i (N, R).

    Returns:
        (N, N).

    Chapter 12, :eq:`eq-factorisation-machine`.
    """
    gram = factors @ factors.T
    return (gram - gram.diagonal().diag()) / 2 + (linear[:, None] + linear) / 2 + bias


class QuadraticClassifier(nn.Module):
    """The classifier of 1998: principal components, all products of two of them, and a linear map.

    Nothing in it is trained by gradients: it is fitted when it is made, by least squares on targets 0 and 1.

    Args:
        images: (n, d) to fit.
        labels: (n,) int64, 0..classes - 1.
        components: m, at least 1.
        ridge: added to the diagonal of the normal equations, relative to its mean, at least 0.
        classes: how many classes there are, at least 1.

    Attributes:
        mean: (d,), a buffer as the others.
        components: (d, m), orthonormal columns.
        weight: (m (m + 1) / 2 + 1, classes); its last row is for the constant.

    Raises:
        ValueError: an argument or the data is out of range, or images are not (B, d) of the dtype of those it
            was fitted to.

    Source: LeCun et al. (1998), section III-C. Chapter 12, :eq:`eq-pca-quadratic`.
    """

    mean: Tensor
    components: Tensor
    weight: Tensor

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        components: int = 40,
        ridge: float = 1e-3,
        *,
        classes: int = 10,
    ) -> None:
        super().__init__()
        _check.matrix("images", images)
        components = _check.integer("components", components, 1)
        ridge = _check.number("ridge", ridge, 0)
        classes = _check.integer("classes", classes, 1)
        try:
            targets = F.one_hot(labels.reshape(len(images)), classes).double()
        except RuntimeError as error:
            raise ValueError(f"labels must be ({len(images)},) int64 in 0..{classes - 1}: {error}") from error
        self.register_buffer("mean", images.mean(0))
        centred = (images - self.mean).double()
        basis = torch.linalg.eigh(centred.T @ centred).eigenvectors
        self.register_buffer("components", basis.flip(1)[:, :components].to(images))
        features = self._features(images).double()
        gram = features.T @ features
        gram.diagonal().add_(ridge * gram.diagonal().mean())
        weight = torch.linalg.solve(gram, features.T @ targets)
        self.register_buffer("weight", weight.to(images))

    def _features(self, images: Tensor) -> Tensor:
        pairs = multiply_pairs(((images - self.mean) @ self.components).T.contiguous()).T
        return F.pad(pairs, (0, 1), value=1.0)

    def forward(self, images: Tensor) -> Tensor:
        """Scores as log-probabilities (B, classes): the largest is the answer."""
        return without_autocast(self._score, images, self.weight.dtype)

    def _score(self, images: Tensor) -> Tensor:
        _check.matrix("images", images, len(self.mean), self.weight.dtype)
        return (self._features(images) @ self.weight).log_softmax(1)
