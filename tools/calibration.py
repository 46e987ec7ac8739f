"""A fixed amount of work of the kind the chapters do: tools/run_notebooks.py compares each chapter with it.

It uses nothing of csos_lib, so that a faster library makes the chapters cheaper and not the yardstick.
"""

import io

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn import functional as F


def main() -> None:
    torch.manual_seed(0)
    weight = (0.01 * torch.rand(64, 64, 64)).requires_grad_()
    for _ in range(20):  # a network of reactions learns, five steps a batch
        x = torch.softmax(torch.randn(128, 64), 1)
        for _ in range(5):
            x = F.normalize(x + torch.einsum("bi,bj,kij->bk", x, x, weight), p=1, dim=1)
        loss = F.nll_loss(x.clamp(min=1e-8).log(), torch.randint(10, (128,)))
        (slope,) = torch.autograd.grad(loss, weight)
        weight = (weight - 0.001 * slope).detach().requires_grad_()
    rng = np.random.default_rng(0)
    for _ in range(4):  # and numpy looks at it
        np.linalg.svd(rng.random((300, 300)))
        np.sort(rng.random(500_000))
    figure, axes = plt.subplots(2, 3)
    for ax in axes.flat:
        ax.plot(rng.random((100, 10)))
    figure.savefig(io.BytesIO(), format="png")


if __name__ == "__main__":
    main()
