"""Reaction networks that read digits: the library under the executable book *Thinking in Reactions*.

>>> import csos_lib
>>> dataset = csos_lib.load_dataset("mnist5k")
>>> model = csos_lib.CSOS()
>>> history = csos_lib.fit(model, dataset, epochs=1, progress=False)
>>> csos_lib.evaluate(model, dataset.test_images, dataset.test_labels).accuracy > 0.3
True
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from csos_lib import datasets, dynamics, interpret, operators, reactions, simplex
from csos_lib.classifier import CSOS
from csos_lib.datasets import Dataset, load_dataset, load_results
from csos_lib.evaluation import Evaluation, evaluate, predict, predict_proba
from csos_lib.saving import load, save
from csos_lib.training import History, cosine, fit

try:
    __version__ = version("csos_lib")
except PackageNotFoundError:  # a folder on the path, never installed
    __version__ = "0+unknown"

__all__ = [
    "CSOS",
    "Dataset",
    "Evaluation",
    "History",
    "cosine",
    "datasets",
    "dynamics",
    "evaluate",
    "fit",
    "interpret",
    "load",
    "load_dataset",
    "load_results",
    "operators",
    "predict",
    "predict_proba",
    "reactions",
    "relatives",
    "save",
    "simplex",
]

# Parts that are imported when they are first named, each with the package that it needs.
_LATER = {
    "animation": "matplotlib",
    "exercises": "torch",
    "playground": "anywidget",
    "plots": "matplotlib",
    "relatives": "torch",
}

if TYPE_CHECKING:
    from csos_lib import animation as animation
    from csos_lib import exercises as exercises
    from csos_lib import playground as playground
    from csos_lib import plots as plots
    from csos_lib import relatives as relatives
else:

    def __getattr__(name: str) -> object:
        if name in _LATER:
            return importlib.import_module(f"csos_lib.{name}")
        raise AttributeError(f"module 'csos_lib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name, need in _LATER.items() if find_spec(need))})
