"""Does an energy cost accuracy? A fully symmetric W on the bundled digits, beside others of its size.

    python benchmarks/energy.py        writes csos_lib/results/energy.csv, about five minutes on one core

Three seeds; 10 epochs, batches of 128, a learning rate that falls along a half cosine from one of two peaks,
tried for everyone. "energy" is EnergyReaction; dense of 40 molecules and CP of rank 238 have its size, dense
of 64 has its molecules.

strength        how far the trained step is beyond its theorem, whose bound is 1: alpha N max|W| / (1 - d / 2)
                for the mirror step; for the memo's, 2 alpha (1 - d) times the largest singular value of W
                unfolded to (N, N^2)
falls           the share of steps, five for each test image, that lower the free energy (mirror step) or the
                Rayleigh quotient (memo's step)
symmetric       the share of |W|^2 that is symmetric in all three places, of the part that acts
"""

from collections.abc import Callable
from functools import partial

import torch

import csos_lib
from csos_lib import CSOS, Dataset
from csos_lib.reactions import symmetrise
from csos_lib.relatives.energy import EnergyReaction, free_energy, rayleigh, symmetrise_fully
from full_scale import trained
from table import write_table

SEEDS, EPOCHS, PEAKS = range(3), 10, (0.002, 0.008)
COLUMNS = (
    "dynamics",
    "kind",
    "molecules",
    "lr",
    "seed",
    "parameters",
    "accuracy",
    "strength",
    "falls",
    "symmetric",
)


def models(dynamics: str) -> dict[tuple[str, int], Callable[[], CSOS]]:
    make = partial(CSOS, dynamics=dynamics)
    return {
        ("energy", 64): lambda: make(reaction=EnergyReaction(64)),
        ("cp", 64): lambda: make(reaction="cp", rank=238),
        ("dense", 40): lambda: make(40),
        ("dense", 64): lambda: make(),
    }


@torch.no_grad()
def examine(model: CSOS, data: Dataset) -> tuple[str, str, str]:
    model = model.double()
    weight = symmetrise(model.reaction.to_tensor())  # type: ignore[operator]
    states = model.trajectory(data.test_images.double())
    if model.dynamics == "mirror":
        eta = model.alpha * model.num_basis
        strength = eta * weight.abs().max() / (1 - model.decay / 2)
        heights = [free_energy(x, model.reaction, model.decay / eta) for x in states]
    else:
        norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
        strength = 2 * model.alpha * (1 - model.decay) * norm
        heights = [rayleigh(x.clamp_min(1e-30), model.reaction) for x in states]
    falls = (torch.stack(heights).diff(dim=0) < -1e-12).double().mean()
    share = (symmetrise_fully(weight).norm() / weight.norm()) ** 2
    return f"{strength.item():.3f}", f"{falls.item():.4f}", f"{share.item():.3f}"


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[tuple[object, ...]] = []
    for dynamics in ("mirror", "euler"):
        for (kind, molecules), make in models(dynamics).items():
            for lr in PEAKS:
                for seed in SEEDS:
                    model, hit = trained(make, data, EPOCHS, lr, seed)
                    size = sum(p.numel() for p in model.parameters())
                    rows.append(
                        (dynamics, kind, molecules, lr, seed, size, f"{hit:.3f}", *examine(model, data))
                    )
                print(*rows[-1][:4], [row[-4:] for row in rows[-3:]], flush=True)
    write_table("energy", COLUMNS, rows)


if __name__ == "__main__":
    main()
