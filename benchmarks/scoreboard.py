"""Every model of the book on one scoreboard: bundled digits, Fashion-MNIST, and MNIST where it is on disk.

    python benchmarks/scoreboard.py                            the bundled digits, five seeds
    python benchmarks/scoreboard.py --dataset fashion_mnist    all of Fashion-MNIST
    python benchmarks/scoreboard.py --dataset fashion_10k      10,000 of its images, for the slow models
    python benchmarks/scoreboard.py --dataset mnist            all of MNIST, where it is on disk
    python benchmarks/scoreboard.py --tune --dataset ...       each kind's learning rate, on held-out images
    python benchmarks/scoreboard.py --speed                    what an answer costs, in units of a network
    python benchmarks/scoreboard.py --clip                     three kinds once more, with the gradient cut
    python benchmarks/scoreboard.py ... --dask ADDRESS         on a Dask cluster

One recipe for every model, that of full_scale.py: Adam, batches of 128, 10 epochs, the learning rate falling
from its peak to 0 along a half cosine. The peak is the best of five for each kind of model, found with one
budget for all. On the bundled digits: one run each, on 3,000 of them, measured on the other 1,000 training
images. On Fashion images, and taken over for MNIST: two runs each, on 12,000 of them, measured on 10,000
others. scoreboard_tuning.csv has both. The first word of a model's name is its kind. The kind "clipped" is
memo 1's step with the norm of its gradient cut at 1, as `csos_lib.fit` does it; no other row was trained with
the cut, and scoreboard_clip.csv has what it does to three of them.

Runs are independent jobs. A job that fails, or whose worker dies, is reported at the end and costs no other;
the same command runs what is missing. Every finished run appends a row to csos_lib/results/scoreboard.csv.
Seconds are those of the processor, one thread. Rows that full_scale.py measured are taken over as they are.

A cluster on one machine, as it was tried (the workers must find the benchmarks and the data):

    dask scheduler --port 8786 &
    PYTHONPATH=benchmarks dask worker tcp://127.0.0.1:8786 --nworkers 2 --nthreads 1 &
    python benchmarks/scoreboard.py --dataset fashion_10k --dask tcp://127.0.0.1:8786
"""

import argparse
import functools
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import joblib  # type: ignore[import-untyped]
import torch
from continuous_time import SoftInjection
from joblib.externals.loky.process_executor import (  # type: ignore[import-untyped]
    TerminatedWorkerError,
)
from reactions import processor
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

import csos_lib
import full_scale
from csos_lib import CSOS, Dataset
from csos_lib.operators import (
    Mixture,
    OperatorNet,
    ReactionMixture,
    ReactionNet,
    random_fourier_features,
    sample_frequencies,
)
from csos_lib.relatives.chemistry import ChemicalCSOS
from csos_lib.relatives.equilibrium import Equilibrium, StochasticReaction
from csos_lib.relatives.flow import Flow
from csos_lib.relatives.space import CellularCSOS
from full_scale import CLIP, COLUMNS, EPOCHS, PEAKS, append, kind, mirror, mlp, start_table, train
from table import RESULTS, write_table

RESULT, TUNING, SPEED = (RESULTS / f"scoreboard{part}.csv" for part in ("", "_tuning", "_speed"))
TUNING_COLUMNS = ("kind", "model", "dataset", "lr", "seed", "accuracy", "command")
UNIT = "mlp 79"
"""The network that others are compared with: as many parameters as a mirror CP reaction of rank 64."""


def eyes_mlp(hidden: int) -> ReactionNet:
    """A network of one hidden layer behind the same eyes: nothing reacts and nothing is mixed."""
    net = ReactionNet(hidden, blocks=0)
    net.head = nn.Sequential(nn.ReLU(), nn.Linear(hidden, 10), nn.LogSoftmax(1))  # type: ignore[assignment]
    return net


class Fourier(nn.Module):
    """Random Fourier features of the pixels, fixed, with a linear read-out."""

    def __init__(self, features: int, scale: float = 0.2) -> None:
        super().__init__()
        drawn = sample_frequencies(784, features // 2, scale, seed=int(torch.randint(2**31, ())))
        self.register_buffer("frequencies", drawn)
        self.readout = nn.Linear(features, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = random_fourier_features(images, self.get_buffer("frequencies"))
        return self.readout(features * (features.shape[1] / 2) ** 0.5).log_softmax(1)


class CNN(nn.Sequential):
    """Two convolutions: the ceiling of this table."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 28, 28)),
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10), nn.LogSoftmax(1)),
        )


def frozen(model: CSOS) -> CSOS:
    """The reaction stays as chance made it; only the encoder learns."""
    model.reaction.requires_grad_(False)
    return model


def shuffle_reaction(model: nn.Module) -> None:
    """Give every number of the trained reaction another place in its own tensor."""
    assert isinstance(model, CSOS)
    with torch.no_grad():
        for parameter in model.reaction.parameters():
            parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))


MODELS: dict[str, Callable[[], nn.Module]] = {
    **full_scale.MODELS,
    **full_scale.CLIPPED,
    "mirror cp 64, reaction frozen": lambda: frozen(mirror(reaction="cp", rank=64)),
    "mirror cp 64, reaction shuffled": partial(mirror, reaction="cp", rank=64),
    # As their chapters have them; the first two inject by a softmax, so that no molecule is missing.
    "flow": lambda: SoftInjection(reaction="cp", dynamics=Flow(kind="mirror", method="rk4", step_size=0.25)),
    "equilibrium": lambda: SoftInjection(
        reaction=StochasticReaction(64), dynamics=Equilibrium(0.45, tol=1e-4)
    ),
    "chemistry": lambda: ChemicalCSOS(64, 5, 0.5),
    "automaton": CellularCSOS,
    # One block, so that all differ in nothing but the number of operators.
    **{f"operators {32 << k}": partial(OperatorNet, blocks=1, doublings=k) for k in range(6)},
    # As many parameters each, to 0.2 %.
    "net reaction": partial(ReactionNet, 128, 1),
    "net gate": partial(ReactionNet, 129, 1, partial(ReactionMixture, steps=0)),
    "net constant": partial(ReactionNet, 131, 1, Mixture),
    "net without mixture": partial(ReactionNet, 139, 0),
    "eyes mlp 154": partial(eyes_mlp, 154),
    "mlp 306": partial(mlp, 306),
    **{f"fourier {n}": partial(Fourier, n) for n in (640, 4096)},
    "cnn": CNN,
}
AFTER: dict[str, Callable[[nn.Module], None]] = {"mirror cp 64, reaction shuffled": shuffle_reaction}
TUNED = {
    "memo": "memo",
    "clipped": "clipped memo",
    "mirror": "mirror cp 64",
    "mlp": "mlp 94",
    "flow": "flow",
    "equilibrium": "equilibrium",
    "chemistry": "chemistry",
    "automaton": "automaton",
    "operators": "operators 32",
    "net": "net reaction",
    "eyes": "eyes mlp 154",
    "fourier": "fourier 4096",
    "cnn": "cnn",
}
"""One model of each kind is tuned for all of them."""

SMALL = ("operators 256", "operators 512", "operators 1024", "automaton")
"""What meets 10,000 Fashion images instead of 60,000."""
FULL = dict.fromkeys((name for name in MODELS if name not in SMALL), 5)
SEEDS: dict[str, dict[str, int]] = {
    "mnist5k": dict.fromkeys(MODELS, 5),
    "fashion_mnist": FULL,
    "fashion_10k": dict.fromkeys(("operators 32", "mirror cp 64", UNIT, *SMALL), 5),
    "mnist": FULL,
}
"""How many seeds of each model the whole table has."""
HERE = ("mnist5k", "fashion_mnist", "fashion_10k")
"""What the committed table has: all but MNIST, which was not on its machine."""
TUNING_SEEDS = {"mnist5k": 1, "fashion_mnist": 2}
FITTED = {"mnist5k": 3_000, "fashion_mnist": 12_000}
"""How many images a learning rate is tuned on."""

Run = tuple[str, str, int]


def declared(dataset: str) -> list[Run]:
    """Every (model, dataset, seed) that the table is to hold."""
    seeds = SEEDS[dataset]
    return [
        (name, dataset, seed) for seed in range(max(seeds.values())) for name in seeds if seed < seeds[name]
    ]


def shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


@functools.cache
def load(dataset: str) -> Dataset:
    data = csos_lib.load_dataset(dataset.replace("_10k", "_mnist"))
    if not dataset.endswith("_10k"):
        return data
    kept = shuffled(len(data.train_labels))[:10_000]
    return data._replace(train_images=data.train_images[kept], train_labels=data.train_labels[kept])


def tuning_part(data: Dataset, dataset: str) -> Dataset:
    """The training images alone: some to fit, others to measure on."""
    fitted = FITTED[dataset]
    order = shuffled(len(data.train_labels))[:22_000]
    halves = order[:fitted], order[fitted:]
    return Dataset(*(t[half] for half in halves for t in (data.train_images, data.train_labels)))


cache = joblib.Memory(Path(os.environ.get("CSOS_DATA") or Path.home() / ".cache" / "csos_lib"), verbose=0)


@cache.cache
def look(formulas: tuple[str, ...], dataset: str) -> tuple[Any, Any, float]:
    """What the eyes of these formulas see in all images (half precision), and the seconds that it takes."""
    eyes, data, start = ReactionNet(10, 0).eval(), load(dataset), time.process_time()
    with torch.no_grad():
        seen = [
            torch.cat([eyes.see(part).half() for part in images.split(500)]).numpy()
            for images in (data.train_images, data.test_images)
        ]
    return seen[0], seen[1], time.process_time() - start


@functools.cache
def load_seen(dataset: str) -> tuple[Dataset, float]:
    data = load(dataset)
    train_seen, test_seen, seconds = look(tuple(map(str, ReactionNet(10, 0).eyes.expressions)), dataset)
    seen = data._replace(
        train_images=torch.from_numpy(train_seen).float(), test_images=torch.from_numpy(test_seen).float()
    )
    return seen, seconds * len(train_seen) / (len(train_seen) + len(test_seen))


class Reader(nn.Module):
    """The part of a network that learns, fed with what its eyes have seen."""

    def __init__(self, net: ReactionNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, seen: Tensor) -> Tensor:
        return self.net.read(seen)


@torch.no_grad()
def measure(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy and mean negative log-likelihood."""
    model.eval()
    log_p = torch.cat([model(part) for part in x.split(500)])
    return (log_p.argmax(1) == labels).double().mean().item(), F.nll_loss(log_p, labels).item()


def count_parameters(name: str, model: nn.Module) -> int:
    """What is learned and used: no frozen reaction, and none that takes no step."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    mixtures = [m for m in model.modules() if isinstance(m, CSOS | ReactionMixture)]
    idle = [p for m in mixtures if m.steps == 0 for p in m.reaction.parameters()]
    return learned - sum(p.numel() for p in idle)


def one_run(
    name: str,
    dataset: str,
    seed: int,
    lr: float,
    tuning: bool = False,
    epochs: int = EPOCHS,
    clip: float | None = None,
) -> tuple[int, float, float, float]:
    """Train one model: parameters, accuracy, loss, seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = MODELS[name]()
    data, seconds, reader = load(dataset), 0.0, model
    if isinstance(model, ReactionNet):
        (data, seconds), reader = load_seen(dataset), Reader(model)
    if tuning:
        data = tuning_part(data, dataset)
    reader.train()
    clip = CLIP if kind(name) == "clipped" else clip
    seconds += train(reader, data, epochs, lr, seed, tqdm(disable=True), clip)
    if name in AFTER:
        AFTER[name](model)
    accuracy, loss = measure(reader, data.test_images, data.test_labels)
    return count_parameters(name, model), accuracy, loss, seconds


class Failed(NamedTuple):
    """A job that raised: what it said."""

    message: str


def attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], Any]:
    """A failure becomes a value, so that it ends no other job."""
    try:
        return arguments, function(*arguments)
    except Exception:
        return arguments, Failed(traceback.format_exc())


def collect(
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    workers: int = 1,
    address: str | None = None,
) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Run function(*job) for all jobs, in local processes or on the Dask cluster at an address.

    Yields (job, what it gave) as they finish; `Failed` in place of what a job gave if it raised, or if its
    worker died three times.
    """
    left, cluster = list(jobs), {} if address is None else {"scheduler_host": address}
    for _ in range(3):
        with joblib.parallel_config("dask" if cluster else "loky", **cluster):
            parallel = joblib.Parallel(workers, batch_size=1, return_as="generator_unordered")
            try:
                for job, given in parallel(joblib.delayed(attempt)(function, job) for job in list(left)):
                    left.remove(job)
                    yield job, given
                return
            except TerminatedWorkerError:  # of local processes; what has not come back yet starts again
                continue
    yield from ((job, Failed("its worker died three times")) for job in left)


def rows(path: Path) -> list[dict[str, str]]:
    return csos_lib.load_results(path.stem) if path.exists() else []


def done(dataset: str) -> set[Run]:
    return {(r["model"], r["dataset"], int(r["seed"])) for r in rows(RESULT) if r["dataset"] == dataset}


def peak(name: str, dataset: str) -> float:
    """The learning rate that did best for this kind of model, on digits or on Fashion images."""
    family = "mnist5k" if dataset == "mnist5k" else "fashion_mnist"
    accuracies: dict[str, list[float]] = {}
    for row in rows(TUNING):
        if row["kind"] == kind(name) and row["dataset"] == family:
            accuracies.setdefault(row["lr"], []).append(float(row["accuracy"]))
    if not accuracies:
        raise ValueError(
            f"{kind(name)!r} has no learning rate for {family} yet: run scoreboard.py --tune first"
        )
    return float(max(accuracies, key=lambda lr: statistics.mean(accuracies[lr])))


def take_over(dataset: str) -> None:
    """Rows of full_scale.csv and of its tuning, which have the same recipe; their commands come along."""
    have, wanted = done(dataset), set(declared(dataset))
    for row in csos_lib.load_results("full_scale"):
        run = row["model"], row["dataset"], int(row["seed"])
        if run in wanted - have:
            append(RESULT, *(row[column] for column in COLUMNS))
    if dataset == "fashion_mnist" and not any(row["dataset"] == dataset for row in rows(TUNING)):
        for row in csos_lib.load_results("full_scale_tuning"):
            append(TUNING, *((row | {"dataset": dataset})[column] for column in TUNING_COLUMNS))


def score(dataset: str, models: list[str], seeds: int, workers: int, address: str | None) -> list[str]:
    """Run what is declared and missing; the names of the runs that failed."""
    missing = [
        run for run in declared(dataset) if run[0] in models and run[2] < seeds and run not in done(dataset)
    ]
    command = f"python benchmarks/scoreboard.py --dataset {dataset}"
    jobs = [(*run, peak(run[0], dataset)) for run in missing]
    failed = []
    for job, given in tqdm(collect(one_run, jobs, workers, address), total=len(jobs), unit="run"):
        if isinstance(given, Failed):
            failed.append(f"{job}: {given.message}")
            continue
        parameters, accuracy, loss, seconds = given
        append(RESULT, *job[:3], parameters, f"{accuracy:.4f}", f"{loss:.4f}", f"{seconds:.1f}", command)
    return failed


def tune(dataset: str, kinds: list[str], workers: int, address: str | None) -> list[str]:
    have = {(r["kind"], r["dataset"], float(r["lr"]), int(r["seed"])) for r in rows(TUNING)}
    jobs = [
        (TUNED[k], dataset, seed, lr, True)
        for k in kinds
        for lr in PEAKS
        for seed in range(TUNING_SEEDS[dataset])
        if (k, dataset, lr, seed) not in have
    ]
    command = f"python benchmarks/scoreboard.py --tune --dataset {dataset}"
    failed = []
    for job, given in tqdm(collect(one_run, jobs, workers, address), total=len(jobs), unit="run"):
        if isinstance(given, Failed):
            failed.append(f"{job}: {given.message}")
            continue
        name, _, seed, lr, _ = job
        append(TUNING, kind(name), name, dataset, lr, seed, f"{given[1]:.4f}", command)
    return failed


def clip_check() -> None:
    """Three kinds that were trained without the cut, once more with it: how far do they move?"""
    table = []
    for name in (UNIT, "mirror cp 64", "eyes mlp 154"):
        for seed in range(SEEDS["mnist5k"][name]):
            _, accuracy, loss, _ = one_run(name, "mnist5k", seed, peak(name, "mnist5k"), clip=CLIP)
            table.append((name, seed, f"{accuracy:.4f}", f"{loss:.4f}"))
    command = "python benchmarks/scoreboard.py --clip"
    write_table("scoreboard_clip", ("model", "seed", "accuracy", "loss"), table, command=command)


def speed(rounds: int = 15, batch: int = 100) -> None:
    """What an answer costs: all models in turn, again and again, so that a busy moment hits them alike."""
    images = load("mnist5k").test_images[:batch]
    models = {name: make().eval() for name, make in MODELS.items() if name not in AFTER}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in tqdm(range(rounds), unit="round"):
        for name, model in models.items():
            with torch.no_grad():
                model(images)
                start = time.process_time()
                model(images)
                seconds[name].append(time.process_time() - start)
    table = []
    for name, taken in seconds.items():
        ratios = sorted(mine / unit for mine, unit in zip(taken, seconds[UNIT], strict=True))
        low, middle, high = (ratios[round(q * (rounds - 1))] for q in (0.25, 0.5, 0.75))
        microseconds = 1e6 * statistics.median(taken) / batch
        table.append((name, *(float(f"{v:.3g}") for v in (microseconds, middle, low, high))))
    columns = ("model", "microseconds_per_image", "ratio", "ratio_low", "ratio_high")
    write_table(SPEED.stem, columns, table, processor(), "python benchmarks/scoreboard.py --speed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="mnist5k", choices=list(SEEDS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="MODEL")
    parser.add_argument("--kinds", nargs="+", default=list(TUNED), choices=list(TUNED), metavar="KIND")
    parser.add_argument("--seeds", type=int, default=99, help="only the first so many of the declared seeds")
    parser.add_argument("--tune", action="store_true", help="find the learning rates, and do nothing else")
    parser.add_argument("--speed", action="store_true", help="measure the cost of answers, and nothing else")
    parser.add_argument("--clip", action="store_true", help="run three kinds with the cut, and nothing else")
    parser.add_argument("--workers", type=int, default=1, help="local processes, one thread each")
    parser.add_argument("--dask", metavar="ADDRESS", help="of a scheduler, such as tcp://host:8786")
    chosen = parser.parse_args()
    if chosen.tune and chosen.dataset not in FITTED:
        parser.error(f"learning rates are tuned on {' or '.join(FITTED)}, not on {chosen.dataset}")
    torch.set_num_threads(1)
    if chosen.speed:
        speed()
        return
    if chosen.clip:
        clip_check()
        return
    for path, columns in ((RESULT, COLUMNS), (TUNING, TUNING_COLUMNS)):
        if not path.exists():
            start_table(path, columns)
    take_over(chosen.dataset)
    if chosen.tune:
        failed = tune(chosen.dataset, chosen.kinds, chosen.workers, chosen.dask)
    else:
        failed = score(chosen.dataset, chosen.models, chosen.seeds, chosen.workers, chosen.dask)
    if failed:
        sys.exit("\n".join([f"{len(failed)} runs failed; the same command tries them again", *failed]))


if __name__ == "__main__":
    import scoreboard  # by its name, so that other processes find what the jobs call

    scoreboard.main()
