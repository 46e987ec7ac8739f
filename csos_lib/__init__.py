"""Reaction networks that read digits: the library under the executable book *Thinking in Reactions*.

>>> import csos_lib
>>> dataset = csos_lib.load_dataset("mnist5k")
>>> model = csos_lib.CSOS()
>>> history = csos_lib.fit(model, dataset, epochs=1, progress=False)
>>> csos_lib.evaluate(model, dataset.test_images, dataset.test_labels).accuracy > 0.3
True
"""

from csos_lib import dynamics, interpret, operators, reactions, simplex
from csos_lib.classifier import CSOS
from csos_lib.datasets import Dataset, load_dataset, load_results
from csos_lib.evaluation import Evaluation, evaluate, predict, predict_proba
from csos_lib.saving import load, save
from csos_lib.training import History, cosine, fit

__all__ = [
    "CSOS",
    "Dataset",
    "Evaluation",
    "History",
    "cosine",
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
    "save",
    "simplex",
]
