"""The playground: the reactions of the book in the reader's browser, with a kernel or without.

One ES module, playground.js, serves the published page and live notebooks. The widgets here show it in
Jupyter and Colab; on a page without a kernel their HTML is filled by the same module. Weights are stored
once, and both sides compute with the same numbers: :func:`load_weights` gives the model that the browser
runs.
"""

from csos_lib.playground.weights import load_weights, pack_weights
from csos_lib.playground.widgets import DrawDigit, Sorting, Triangle

__all__ = ["DrawDigit", "Sorting", "Triangle", "load_weights", "pack_weights"]
