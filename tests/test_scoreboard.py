"""The scoreboard: its tables hold what it declares, tuned by one budget, and a failing job costs no other."""

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
    wanted = {run for dataset in scoreboard.HERE for run in scoreboard.declared(dataset, scoreboard.HERE)}
    assert len(found) == len(set(found))
    assert set(found) == wanted
    assert wanted <= {run for dataset in scoreboard.SEEDS for run in scoreboard.declared(dataset)}
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
    for (_, dataset), runs in tried.items():
        budget = [(lr, seed) for lr in scoreboard.PEAKS for seed in range(scoreboard.TUNING_SEEDS[dataset])]
        assert sorted(runs) == sorted(budget)
    assert {scoreboard.kind(row["model"]) for row in ROWS} <= {kind for kind, _ in tried}


def test_the_learning_rate_is_the_best_that_was_tried():
    best = max((row for row in TUNING if row["kind"] == "net"), key=lambda row: float(row["accuracy"]))
    assert scoreboard.peak("net gate", "mnist5k") == float(best["lr"])
    with pytest.raises(ValueError, match="no learning rate yet"):
        scoreboard.peak("unheard of", "mnist5k")
    with pytest.raises(ValueError, match="no learning rate yet"):
        scoreboard.peak("memo", "mnist5k")  # tuned on Fashion images only


def test_tuning_never_sees_a_test_image():
    data = scoreboard.load("mnist5k")
    part = scoreboard.tuning_part(data, "mnist5k")
    assert (len(part.train_images), len(part.test_images)) == (3000, 1000)
    both = torch.cat([part.train_images, part.test_images])
    assert torch.equal(both.sum(1).sort().values, data.train_images.sum(1).sort().values)


def test_a_failing_job_costs_no_other():
    given = dict(scoreboard.collect(lambda x: 6 // x, [(k,) for k in (3, 0, 2)]))
    assert given[3,] == 2
    assert given[2,] == 3
    assert "ZeroDivisionError" in given[0,].message
