"""Digits with salt: one operator of each family before the same small network, five seeds.

python benchmarks/salt_on_digits.py        writes csos_lib/results/salt_on_digits.csv, minutes on one core

Every network has the same size, data, order and number of steps. "trained_on" is the share of salt in the
training images, "salt" the share in the test images. A family with a setting to choose is tried at two.
"standardised" rows have mean 0 and variance 1 after the operator, so that the brightness which salt adds is
gone. "hard" operators are the limits of soft ones, without a slope.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import csos_lib
from csos_lib.operators import (
    diffuse,
    gaussian_blur,
    opening,
    soft_neighbours,
    soft_quantile,
    softsorted,
    sort,
)
from table import write_table

SEEDS, EPOCHS, GRID = range(5), 8, (28, 28)
SALT = (0.0, 0.05, 0.1, 0.2, 0.3)
COLUMNS = ("operator", "standardised", "trained_on", "seed", "salt", "accuracy")


def add_salt(images: Tensor, share: float, seed: int) -> Tensor:
    """Set a random share of all pixels to 1."""
    hit = torch.rand(images.shape, generator=torch.Generator().manual_seed(seed)) < share
    return images.masked_fill(hit.to(images.device), 1.0)


def open_by_lines(images: Tensor, tau: float) -> Tensor:
    """The soft maximum of an opening along rows and one along columns: a stroke needs one direction only."""
    across = opening(images, tau)
    down = opening(images.unflatten(1, GRID).mT.flatten(1), tau).unflatten(1, GRID).mT.flatten(1)
    return tau * torch.logaddexp(across / tau, down / tau)


def windows(images: Tensor) -> Tensor:
    """The nine pixels around each pixel, the border repeated: (B, 784, 9)."""
    x = F.pad(images.unflatten(1, (1, *GRID)), (1, 1, 1, 1), mode="replicate")
    return F.unfold(x, 3).mT


def hard_by_lines(images: Tensor) -> Tensor:
    """What `open_by_lines` is at temperature 0."""

    def largest(x: Tensor) -> Tensor:
        return F.max_pool1d(F.pad(x[:, None], (1, 1), mode="replicate"), 3, 1)[:, 0]

    def turned(x: Tensor) -> Tensor:
        return x.unflatten(1, GRID).mT.flatten(1)

    across, down = (largest(-largest(-x)) for x in (images, turned(images)))
    return torch.maximum(across, turned(down))


def operators(data: csos_lib.Dataset) -> dict[str, Callable[[Tensor], Tensor]]:
    frequencies = torch.randn(784, 784, generator=torch.Generator().manual_seed(0)) / 28
    some, every = data.train_images[::10], data.train_images
    return {
        "nothing": lambda x: x,
        "waves 1": lambda x: torch.sin(x @ frequencies),
        "waves 0.1": lambda x: torch.sin(0.1 * (x @ frequencies)),
        "square": lambda x: x**2,
        "diffusion": lambda x: diffuse(x, 0.2, GRID),
        "blur 0.5": lambda x: gaussian_blur(x, 0.5, GRID),
        "blur 1": lambda x: gaussian_blur(x, 1.0, GRID),
        **{
            f"{title} neighbours {tau}": partial(soft_neighbours, memory=memory, tau=tau)
            for title, memory in (("400", some), ("4000", every))
            for tau in (0.003, 0.01)
        },
        "sorted": lambda x: softsorted(sort(x), 0.05),
        "opening": lambda x: opening(x, 0.05, 3, GRID),
        "opening by lines": lambda x: open_by_lines(x, 0.05),
        "median": lambda x: soft_quantile(x, 0.05, 0.5, 3, GRID),
        "hard sorted": lambda x: x.sort(dim=1, descending=True).values,
        "hard opening by lines": hard_by_lines,
        "hard median": lambda x: windows(x).median(-1).values,
    }


def train(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[tuple[object, ...]] = []
    for name, operator in operators(data).items():
        tests = {share: operator(add_salt(data.test_images, share, seed=1)) for share in SALT}
        for trained_on in (0.0, 0.2):
            images = operator(add_salt(data.train_images, trained_on, seed=2))
            for standardised in (0, 1):
                prepare = partial(F.layer_norm, normalized_shape=(784,)) if standardised else torch.clone
                for seed in SEEDS:
                    with torch.enable_grad():
                        model = train(prepare(images), data.train_labels, seed)
                    for share, test in tests.items():
                        right = model(prepare(test)).argmax(1) == data.test_labels
                        accuracy = f"{right.double().mean().item():.3f}"
                        rows.append((name, standardised, trained_on, seed, share, accuracy))
                print(name, standardised, trained_on, [row[-1] for row in rows[-5 * len(SALT) :]], flush=True)
    write_table("salt_on_digits", COLUMNS, rows)


if __name__ == "__main__":
    main()
