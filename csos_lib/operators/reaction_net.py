"""A network that sees with fixed operators on the image and mixes others by weights that reactions make."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csos_lib import _check
from csos_lib._modules import autocasts
from csos_lib.classifier import CSOS
from csos_lib.operators.algebraic import ratio
from csos_lib.operators.bank import Bank
from csos_lib.operators.diffusion import derivative, edges, gaussian_blur, laplacian
from csos_lib.operators.expressions import Expression, check_grid, h
from csos_lib.operators.inner import gelu, rms
from csos_lib.operators.library import mini_library
from csos_lib.operators.morphology import closing, dilate, erode, opening
from csos_lib.operators.reaction_mixture import ReactionMixture
from csos_lib.operators.spectral import cos, sin

CELLS = 7
"""Cells along a side into which `ReactionNet` cuts what it sees."""


def eyes(grid: tuple[int, int] = (28, 28)) -> Bank:
    """32 fixed operators on images: edges in eight directions at two scales, spots, tones, shapes.

    Args:
        grid: (height, width) of the images, each at least 2.

    Chapter 22.

    >>> len(eyes()), eyes().dim
    (32, 784)
    """
    seen: list[Expression] = []
    for sigma in (0.7, 1.4):
        blurred = gaussian_blur(h, sigma, grid=grid)
        across, down = (derivative(blurred, axis, grid=grid) for axis in (1, 0))
        contrast = gaussian_blur(edges(blurred, grid=grid), 3.0, grid=grid)
        for edge in (across, 0.7 * (across + down), down, 0.7 * (down - across)):
            seen += [ratio(gelu(6.0 * side), contrast, eps=0.05) for side in (edge, -edge)]
        spot = 12.0 * laplacian(blurred, grid=grid)
        seen += [gelu(spot), gelu(-spot)]
    smooth = gaussian_blur(h, 1.0, grid=grid)
    seen += [h, h**2, smooth, edges(h, grid=grid), erode(edges(smooth, grid=grid), 0.05, grid=grid)]
    seen += [wave(scale * h) for scale in (6.0, 12.0) for wave in (sin, cos)]
    seen += [dilate(h, 0.05, grid=grid), erode(h, 0.05, grid=grid)]
    seen += [closing(h, 0.05, window=5, grid=grid) - opening(h, 0.05, window=5, grid=grid)]
    return Bank(seen)


class ReactionNet(nn.Module):
    """A classifier of images: fixed eyes, a linear stem, residual blocks of mixtures, a CSOS as the head.

    Every operator of `eyes()` makes an image of the image; each is cut into 7 x 7 cells, and a cell is its
    mean, brought to mean 0 and variance 1 over the training images (batch normalisation without gains). A
    block adds to its input x a learned matrix times a mixture of operators of rms(x).

    Args:
        dim: d, the length of a row between the layers, at least 2.
        blocks: how many mixtures, at least 0; each has a library of its own.
        mixture: makes a block's mixture from its bank: `ReactionMixture`, `Mixture`, or a partial of one.
        seed: fixes the libraries' random numbers, at least 0; what is learned starts from torch's generator.
        grid: (height, width) of the images, each at least 7.
        classes: how many classes there are, 1 to 64.

    Raises:
        ValueError: an argument is out of range, or images are not (B, height * width) of the model's dtype.

    Source: memos 1 and 2; He et al. (2016), residual blocks; Ioffe & Szegedy (2015), batch normalisation.
    Chapter 22.

    >>> ReactionNet(dim=16, blocks=1)(torch.rand(2, 784)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        dim: int = 128,
        blocks: int = 2,
        mixture: Callable[[Bank], nn.Module] = ReactionMixture,
        seed: int = 0,
        *,
        grid: tuple[int, int] = (28, 28),
        classes: int = 10,
    ) -> None:
        super().__init__()
        dim, blocks = _check.integer("dim", dim, 2), _check.integer("blocks", blocks, 0)
        seed = _check.integer("seed", seed, 0)
        if grid is None or min(check_grid(grid) or (0,)) < CELLS:
            raise ValueError(f"grid must be (height, width), each at least {CELLS}, got {grid!r}")
        self.grid = grid
        self.eyes = eyes(grid)
        self.scale = nn.BatchNorm1d(len(self.eyes) * CELLS**2, affine=False)
        self.stem = nn.Linear(self.scale.num_features, dim)
        self.mixtures = nn.ModuleList(mixture(mini_library(dim, seed + block)) for block in range(blocks))
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in range(blocks))
        self.head = CSOS(reaction="cp", dynamics="mirror", inputs=dim, classes=classes)

    def see(self, images: Tensor) -> Tensor:
        """What the eyes see, (B, 1568): nothing in it is learned, so it can be kept between epochs."""
        cells = []
        for _, seen in self.eyes.stream(images):
            cells.append(F.adaptive_avg_pool2d(seen.unflatten(1, self.grid), CELLS).flatten(1))
        return torch.cat(cells, 1)

    def read(self, seen: Tensor) -> Tensor:
        """Log-probabilities (B, classes) of what `see` gave."""
        x = self.stem(self.scale(seen)).to(self.stem.weight.dtype)  # autocast is for the linear maps alone
        for mixture, linear in zip(self.mixtures, self.maps, strict=True):
            x = x + linear(mixture(rms(x)))
        return self.head(rms(x))

    def forward(self, images: Tensor) -> Tensor:
        """Log-probabilities (B, classes) of images (B, height * width)."""
        dtype = self.stem.weight.dtype
        images = images.to(dtype) if autocasts(images) else images
        _check.matrix("images", images, self.grid[0] * self.grid[1], dtype)
        return self.read(self.see(images))
