"""The relatives of the reaction model, part II of the book: one short file a topic, unused by the core."""

import importlib
from typing import TYPE_CHECKING

__all__ = ["chemistry", "energy", "equilibrium", "flow", "games", "higher_order", "space"]

if TYPE_CHECKING:
    from csos_lib.relatives import chemistry, energy, equilibrium, flow, games, higher_order, space
else:

    def __getattr__(name: str) -> object:
        if name in __all__:
            return importlib.import_module(f"csos_lib.relatives.{name}")
        raise AttributeError(f"module 'csos_lib.relatives' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
