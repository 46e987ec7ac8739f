"""The scoreboard: its tables hold what it declares, tuned by one budget, and a failing job costs no other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import csos_lib

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import scoreboard  # noqa: E402

ROWS = csos_lib.load_results("scoreboard")
TUNING = csos_lib.load_results("scoreboard_tuning")


def test_the_rows_are_the_declared_runs():
    found = [(row["model"], row["dataset"], int(row["seed"])) for row in ROWS]
    wanted = {run for dataset in scoreboard.HERE for run in scoreboard.declared(dataset)}
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert set(scoreboard.SEEDS) == {*scoreboard.HERE, "mnist"}
    assert tuple(ROWS[0]) == scoreboard.COLUMNS


def test_the_rows_are_results():
    for row in ROWS:
        assert 0.1 < float(row["accuracy"]) < 1, row
        assert float(row["train_seconds"]) > 0, row
        assert row["command"].startswith("python benchmarks/"), row


@pytest.mark.parametrize("name", scoreboard.MODELS)
def test_every_row_says_the_size_of_its_model(name):
    size = scoreboard.count_parameters(name, scoreboard.MODELS[name]())
    assert {int(row["parameters"]) for row in ROWS if row["model"] == name} <= {size}


def test_every_kind_in_the_table_was_tuned_with_the_same_budget():
    assert set(scoreboard.TUNED) == {scoreboard.kind(name) for name in scoreboard.MODELS}
    tried: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for row in TUNING:
        tried.setdefault((row["kind"], row["dataset"]), []).append((float(row["lr"]), int(row["seed"])))
    for dataset in scoreboard.TUNING_SEEDS:
        assert {kind for kind, family in tried if family == dataset} == set(scoreboard.TUNED)
    for (_, dataset), runs in tried.items():
        budget = [(lr, seed) for lr in scoreboard.PEAKS for seed in range(scoreboard.TUNING_SEEDS[dataset])]
        assert sorted(runs) == sorted(budget)


def test_the_learning_rate_is_the_best_that_was_tried():
    on_digits = [row for row in TUNING if (row["kind"], row["dataset"]) == ("eyes", "mnist5k")]
    best = max(on_digits, key=lambda row: float(row["accuracy"]))
    assert scoreboard.peak("eyes mlp 154", "mnist5k") == float(best["lr"])
    on_clothes = dict.fromkeys(scoreboard.PEAKS, 0.0)
    for row in TUNING:
        if (row["kind"], row["dataset"]) == ("eyes", "fashion_mnist"):
            on_clothes[float(row["lr"])] += float(row["accuracy"])
    best_mean = max(on_clothes, key=lambda lr: on_clothes[lr])
    assert {scoreboard.peak("eyes", d) for d in ("fashion_mnist", "fashion_10k", "mnist")} == {best_mean}
    with pytest.raises(ValueError, match="no learning rate for mnist5k yet"):
        scoreboard.peak("unheard of", "mnist5k")


def test_tuning_never_sees_a_test_image():
    data = scoreboard.load("mnist5k")
    part = scoreboard.tuning_part(data, "mnist5k")
    assert (len(part.train_images), len(part.test_images)) == (3000, 1000)
    both = torch.cat([part.train_images, part.test_images])
    assert torch.equal(both.sum(1).sort().values, data.train_images.sum(1).sort().values)


@pytest.mark.parametrize("name", scoreboard.MODELS)
def test_every_entry_runs(name, monkeypatch):
    """200 images, one epoch: a smoke run. The large banks take half of a second a batch, hence 20 of them."""
    count = 20 if name in scoreboard.SMALL else 200
    small = csos_lib.Dataset(*(t[:count] for t in csos_lib.load_dataset("mnist5k")))
    monkeypatch.setattr(scoreboard, "load", lambda dataset: small)
    monkeypatch.setattr(scoreboard, "look", scoreboard.look.func)  # not from the cache on disk
    scoreboard.load_seen.cache_clear()
    parameters, accuracy, loss, seconds = scoreboard.one_run(name, "mnist5k", 0, 0.004, epochs=1)
    scoreboard.load_seen.cache_clear()
    assert 0 <= accuracy <= 1
    assert 0 < loss < 20
    assert parameters > 0
    assert seconds > 0


def test_eyes_that_looked_before_see_the_same():
    """Training on what was kept is training on the images: same answers up to half precision."""
    net = scoreboard.ReactionNet(16, 1).eval()
    images = scoreboard.load("mnist5k").test_images[:20]
    with torch.no_grad():
        kept = scoreboard.Reader(net)(net.see(images).half().float())
        torch.testing.assert_close(kept, net(images), atol=2e-2, rtol=2e-2)


def test_a_failing_job_costs_no_other():
    given = dict(scoreboard.collect(lambda x: 6 // x, [(k,) for k in (3, 0, 2)]))
    assert given[3,] == 2
    assert given[2,] == 3
    assert "ZeroDivisionError" in given[0,].message


def die_once(folder: str, k: int) -> int:
    marker = Path(folder) / "dead"
    if k == 2 and not marker.exists():
        marker.touch()
        os._exit(1)
    return k * k


def test_a_lost_local_process_costs_a_restart(tmp_path):
    jobs = [(str(tmp_path), k) for k in range(5)]
    given = list(scoreboard.collect(die_once, jobs, workers=2))
    assert sorted(k for _, k in given) == [0, 1, 4, 9, 16]
    assert len(given) == len(jobs)


CLUSTER = """
import sys
sys.path[:0] = [{benchmarks!r}, {tests!r}]
import scoreboard, test_scoreboard
from distributed import LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        jobs = [({folder!r}, k) for k in range(6)]
        given = scoreboard.collect(test_scoreboard.die_once, jobs, address=cluster.scheduler_address)
        print(sorted(k for _, k in given))
"""


def test_a_lost_worker_of_a_cluster_costs_only_its_own_job(tmp_path):
    """A scheduler and two workers, of which one dies: its job runs again, and every job comes back once."""
    script = tmp_path / "cluster.py"
    paths = {"benchmarks": str(BENCHMARKS), "tests": str(Path(__file__).parent), "folder": str(tmp_path)}
    script.write_text(CLUSTER.format(**paths), encoding="utf-8")
    answer = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=600, check=True)
    assert answer.stdout.strip().splitlines()[-1] == "[0, 1, 4, 9, 16, 25]"
