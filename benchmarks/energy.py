"""Does an energy cost accuracy? A fully symmetric W on the bundled digits, beside others of its size.

    python benchmarks/energy.py        writes csos_lib/results/energy.csv, about seven minutes on one core

Ten epochs, batches of 128, a learning rate that falls along a half cosine from one of two peaks, the norm of
the gradient clipped at 1, or with the memo's step perhaps not at all ("clip" inf). Each kind has the setting
that read 1,000 training digits best that were held out ("tuning", one seed of its own, accuracy on those),
and is then trained on all from five seeds ("training"). "energy" is EnergyReaction, trained in all its other
settings too ("other", three seeds); dense of 40 molecules and CP of rank 238 have its size, dense of 64 has
its molecules.

strength        how far the trained step is beyond its theorem, whose bound is 1: alpha N max|W| / (1 - d / 2)
                for the mirror step; for the memo's, 2 alpha (1 - d) times the largest singular value of W
                unfolded to (N, N^2)
falls           the share of steps, five for each test image, that lower the free energy (mirror step) or the
                Rayleigh quotient (memo's step)
symmetric       the share of |W|^2 that is symmetric in all three places, of the part that acts
potential       the share that the best potential explains of what a mirror step feels (`potential_share`)
"""

from collections.abc import Callable
from functools import partial

import torch
from games import CLIPPED, EPOCHS, HELD_OUT, SEEDS, SETTINGS, TUNING_SEED, hold_out

import csos_lib
from csos_lib import CSOS, Dataset
from csos_lib.reactions import symmetrise
from csos_lib.relatives.energy import (
    EnergyReaction,
    free_energy,
    potential_share,
    rayleigh,
    symmetrise_fully,
)
from full_scale import trained
from table import write_table

COLUMNS = (
    "experiment",
    "dynamics",
    "kind",
    "molecules",
    "lr",
    "clip",
    "seed",
    "parameters",
    "accuracy",
    "strength",
    "falls",
    "symmetric",
    "potential",
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
def examine(model: CSOS, data: Dataset) -> tuple[str, ...]:
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
    found = strength, falls, share, potential_share(weight)
    return tuple(f"{value.item():.{digits}f}" for value, digits in zip(found, (3, 4, 3, 3), strict=True))


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    part = hold_out(data, HELD_OUT)
    rows: list[tuple[object, ...]] = []
    for dynamics in ("mirror", "euler"):
        for (kind, molecules), make in models(dynamics).items():
            name = dynamics, kind, molecules
            settings = SETTINGS.get(dynamics, CLIPPED)
            reads = {how: trained(make, part, EPOCHS, how[0], TUNING_SEED, how[1])[1] for how in settings}
            for how, hit in reads.items():
                rows.append(("tuning", *name, *how, TUNING_SEED, "", f"{hit:.3f}", "", "", "", ""))
            best = max(settings, key=reads.__getitem__)
            for how in settings if kind == "energy" else (best,):
                experiment, seeds = ("training", SEEDS) if how == best else ("other", SEEDS[:3])
                for seed in seeds:
                    model, hit = trained(make, data, EPOCHS, how[0], seed, how[1])
                    size = sum(p.numel() for p in model.parameters())
                    rows.append((experiment, *name, *how, seed, size, f"{hit:.3f}", *examine(model, data)))
                print(*rows[-1][:6], reads, [row[-5:] for row in rows[-3:]], flush=True)
    write_table("energy", COLUMNS, rows)


if __name__ == "__main__":
    main()
