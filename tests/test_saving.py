"""Files of models: what is refused before it is written, and one whole file whoever writes it when."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import csos_lib
from csos_lib import CSOS


class Louder(CSOS):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(images)


def test_a_class_derived_from_csos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class derived from it, got Louder"):
        csos_lib.save(Louder(12), tmp_path / "model.pt")


def test_a_pruned_model_is_refused(tmp_path: Path) -> None:
    model = CSOS(12)
    prune.random_unstructured(model.encoder, "weight", 0.5)
    with pytest.raises(ValueError, match=r"weights that its recipe makes, got others: .*weight_mask"):
        csos_lib.save(model, tmp_path / "model.pt")
    prune.remove(model.encoder, "weight")
    csos_lib.save(model, tmp_path / "model.pt")
    assert torch.equal(csos_lib.load(tmp_path / "model.pt").encoder.weight, model.encoder.weight)


def test_another_encoder_is_refused(tmp_path: Path) -> None:
    model = CSOS(12)
    model.encoder = nn.Linear(9, 12)
    with pytest.raises(ValueError, match="weights that its recipe makes"):
        csos_lib.save(model, tmp_path / "model.pt")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float, tmp_path: Path) -> None:
    model = CSOS(12)
    with torch.no_grad():
        model.encoder.bias[3] = bad
    with pytest.raises(ValueError, match=r"encoder\.bias in model .* not finite"):
        csos_lib.save(model, tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_a_compiled_model_is_saved_as_the_plain_one(tmp_path: Path) -> None:
    model = CSOS(12, inputs=20, classes=3)
    csos_lib.save(torch.compile(model, backend="eager"), tmp_path / "model.pt")
    x = torch.rand(2, 20)
    assert torch.equal(csos_lib.load(tmp_path / "model.pt")(x), model(x))


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    decay = np.linspace(0, 0.5, 3)[1]
    model = CSOS(np.int64(12), decay=decay, alpha=np.float32(0.5), inputs=np.int32(20))
    csos_lib.save(model, tmp_path / "model.pt")
    loaded = csos_lib.load(tmp_path / "model.pt")
    assert (loaded.num_basis, loaded.decay, loaded.alpha, loaded.inputs) == (12, 0.25, 0.5, 20)
    assert {type(loaded.decay), type(model.decay), type(model.alpha)} == {float}


def test_single_precision_scalars_are_accepted() -> None:
    model = CSOS(np.int64(12), decay=np.float32(0.1), inputs=20)
    assert model.decay == pytest.approx(0.1)
    assert model(torch.rand(2, 20)).dtype == torch.float32


def test_many_threads_leave_one_whole_file(tmp_path: Path) -> None:
    path, models = tmp_path / "model.pt", [CSOS(12, inputs=20) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda model: csos_lib.save(model, path), models))
    loaded = csos_lib.load(path)
    assert any(torch.equal(loaded.reaction.weight, model.reaction.weight) for model in models)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
