"""What dies, and what keeps it alive: the memo's cut, softplus and the mirror step, on the bundled digits.

python benchmarks/dying.py        writes csos_lib/results/dying.csv, about seven minutes on one core

Three seeds each. Experiments:
cure        64 molecules, six epochs, measured after each, two learning rates for everyone
steps, scale, strength, molecules       32 molecules, two epochs, one thing changed at a time
sweep       16 molecules, one epoch, 55 settings of (decay, alpha) trained as one batch
"""

import torch
from torch import Tensor
from torch.func import stack_module_state, vmap
from torch.nn import functional as F

import csos_lib
from csos_lib import CSOS
from csos_lib.reactions import SCALE
from csos_lib.simplex import EPSILON, count_living, normalise
from table import write_table

SEEDS = range(3)
COLUMNS = (
    "experiment",
    "dynamics",
    "molecules",
    "steps",
    "decay",
    "alpha",
    "scale",
    "lr",
    "seed",
    "epoch",
    "test_accuracy",
    "living_last",
    "zero_gradient",
    "gradient_reaction",
    "gradient_encoder",
)
Row = dict[str, float | str]


class SoftplusCSOS(CSOS):
    """Memo 1's model with softplus wherever it has relu, of sharpness N in the step."""

    def inject(self, images: Tensor) -> Tensor:
        return normalise(F.softplus(self._encode(images)))

    def trajectory(self, images: Tensor) -> Tensor:
        states = [self.inject(images)]
        for _ in range(self.steps):
            mixed = (1 - self.decay) * states[-1]
            amounts = F.softplus(mixed + self.alpha * self.reaction(mixed), beta=self.num_basis)
            states.append(normalise(amounts))
        return torch.stack(states)

    def react(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return torch.log(self.trajectory(images)[-1, :, :10] + EPSILON)


def make(dynamics: str, molecules: int, steps: int, decay: float, alpha: float, scale: float) -> CSOS:
    kind = SoftplusCSOS if dynamics == "softplus" else CSOS
    model = kind(molecules, steps, decay, alpha, dynamics="mirror" if dynamics == "mirror" else "euler")
    with torch.no_grad():
        for rates in model.reaction.parameters():
            rates.mul_(scale / SCALE)
    return model


def measure(model: CSOS, data: csos_lib.Dataset) -> Row:
    """Accuracy and living on the test images; gradients of the mean loss over 128 training images."""
    with torch.no_grad():
        living = count_living(model.trajectory(data.test_images)[-1]).double().mean()
    model.zero_grad()
    F.nll_loss(model(data.train_images[:128]), data.train_labels[:128]).backward()
    reaction, encoder = model.reaction.weight.grad, model.encoder.weight.grad
    if not isinstance(reaction, Tensor):  # no step, no reaction
        reaction = torch.zeros(1)
    assert isinstance(encoder, Tensor)
    return {
        "test_accuracy": csos_lib.evaluate(model, data.test_images, data.test_labels).accuracy,
        "living_last": living.item(),
        "zero_gradient": (reaction == 0).double().mean().item(),
        "gradient_reaction": reaction.norm().item(),
        "gradient_encoder": encoder.norm().item(),
    }


def train_one(
    experiment: str,
    data: csos_lib.Dataset,
    dynamics: str,
    molecules: int = 32,
    steps: int = 5,
    decay: float = 0.1,
    alpha: float | None = None,
    scale: float = SCALE,
    lr: float = 0.005,
    epochs: int = 2,
    every: bool = False,
) -> list[Row]:
    """Three seeds; alpha is 1 for the memo's step, and alpha N scale 0.32 for the mirror step."""
    if alpha is None:
        alpha = 0.32 / (molecules * scale) if dynamics == "mirror" else 1.0
    rows: list[Row] = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = make(dynamics, molecules, steps, decay, alpha, scale)
        setting: Row = dict(
            zip(
                COLUMNS[:9],
                (experiment, dynamics, molecules, steps, decay, alpha, scale, lr, seed),
                strict=True,
            )
        )

        def after(epoch: int, *_: object, model: CSOS = model, setting: Row = setting) -> None:
            if every or epoch == epochs:
                rows.append(setting | {"epoch": epoch} | measure(model, data))

        csos_lib.fit(model, data, epochs, lr, seed=seed, progress=False, after_epoch=after)
    last = [row for row in rows if row["epoch"] == epochs]
    print(
        *COLUMNS[:8],
        [last[0][c] for c in COLUMNS[:8]],
        [f"{row['test_accuracy']:.3f} ({row['living_last']:.1f} alive)" for row in last],
        flush=True,
    )
    return rows


def states(kind: str, p: dict[str, Tensor], decay: Tensor, alpha: Tensor, images: Tensor) -> Tensor:
    """Log-probabilities (B, 10) and living molecules (B, 1) of one network whose knobs are tensors."""
    amounts = F.linear(images, p["encoder.weight"], p["encoder.bias"])
    weight = p["reaction.weight"]
    molecules = len(weight)

    def produce(x: Tensor) -> Tensor:
        return (x[:, :, None] * x[:, None, :]).flatten(1) @ weight.flatten(1).T

    if kind == "relu":
        x = normalise(torch.relu(amounts))
        for _ in range(5):
            mixed = (1 - decay) * x
            x = normalise(torch.relu(mixed + alpha * produce(mixed)))
        log_p = torch.log(x[:, :10] + EPSILON)
    else:
        log_x = amounts.log_softmax(1)
        for _ in range(5):
            x = F.threshold(log_x.exp(), 1e-19, 0.0)
            log_x = ((1 - decay) * log_x + alpha * molecules * produce(x)).log_softmax(1)
        x, log_p = log_x.exp(), log_x[:, :10].log_softmax(1)
    return torch.cat([log_p, (x > 0).sum(1, keepdim=True).to(log_p)], 1)


def sweep(kind: str, data: csos_lib.Dataset, seed: int, molecules: int = 16, epochs: int = 1) -> list[Row]:
    """Every setting of a grid of (decay, alpha), trained side by side from the same start."""
    keep, alphas = 2.0 ** -torch.arange(5.0), 2.0 ** torch.arange(-5.0, 6.0)
    grid = torch.cartesian_prod(1 - keep, alphas)
    decay, alpha = grid.T
    torch.manual_seed(seed)
    start = CSOS(molecules)
    models = [CSOS(molecules) for _ in grid]
    for model in models:
        model.load_state_dict(start.state_dict())
    parameters, _ = stack_module_state(models)
    together = vmap(lambda p, d, a, images: states(kind, p, d, a, images), in_dims=(0, 0, 0, None))
    optimiser = torch.optim.Adam(parameters.values(), lr=0.005)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(128):
            log_p = together(parameters, decay, alpha, data.train_images[batch])
            loss = -log_p[:, range(len(batch)), data.train_labels[batch]].mean(1).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        out = together(parameters, decay, alpha, data.test_images)
    accuracy = (out[..., :10].argmax(2) == data.test_labels).double().mean(1)
    living = out[..., 10].double().mean(1)
    print("sweep", kind, seed, accuracy.reshape(len(keep), -1), flush=True)
    fixed: Row = {"experiment": "sweep", "dynamics": kind, "molecules": molecules, "steps": 5}
    fixed |= {"scale": SCALE, "lr": 0.005, "seed": seed, "epoch": epochs}
    return [
        fixed | {"decay": d, "alpha": a, "test_accuracy": hit, "living_last": alive}
        for (d, a), hit, alive in zip(grid.tolist(), accuracy.tolist(), living.tolist(), strict=True)
    ]


def main() -> None:
    torch.set_num_threads(1)
    data = csos_lib.load_dataset("mnist5k")
    rows: list[Row] = []
    for steps in (0, 1, 2, 5, 10, 20, 40):
        rows += train_one("steps", data, "relu", steps=steps)
        rows += train_one("steps", data, "mirror", steps=steps)
        if steps >= 20:
            rows += train_one("steps", data, "mirror", steps=steps, decay=0.0)
        if steps in (5, 20):
            rows += train_one("steps", data, "softplus", steps=steps)
    for scale in (0.0125, 0.05, 0.2, 0.8):
        rows += train_one("scale", data, "relu", scale=scale)
    for strength in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0):
        rows += train_one("strength", data, "mirror", alpha=strength / (32 * SCALE))
    for molecules in (16, 32, 64):
        for dynamics in ("relu", "mirror"):
            rows += train_one("molecules", data, dynamics, molecules)
    for kind in ("relu", "mirror"):
        for seed in SEEDS:
            rows += sweep(kind, data, seed)
    for dynamics in ("relu", "softplus", "mirror"):
        for lr in (0.005, 0.002):
            rows += train_one("cure", data, dynamics, 64, lr=lr, epochs=6, every=True)
    write_table("dying", COLUMNS, [[row.get(k, "") for k in COLUMNS] for row in rows])


if __name__ == "__main__":
    main()
