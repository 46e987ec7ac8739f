"""Checks of arguments at the door: each raises a ValueError that says what was given and what is allowed.

Only shapes, dtypes and Python numbers are looked at, never the values of a tensor, so every check passes
under fake tensors, vmap and compilation. Values are checked where data enters (datasets.check_data).
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def integer(name: str, value: object, low: int) -> int:
    """`value` as an int; whole numbers of NumPy are whole numbers."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")
    return int(value)


def number(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> Any:
    """`value`, a finite number in [low, high], as a float or an int; `above` and `below` leave out the ends.

    A tensor is let through if it is floating point: sweeps run many settings at once under torch.func.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise ValueError(f"{name} must be a floating-point tensor or a number, got dtype {value.dtype}")
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        plain = int(value) if isinstance(value, Integral) else float(value)
        inside = low <= plain <= high and not (above and plain == low) and not (below and plain == high)
        if inside and math.isfinite(plain):
            return plain
    interval = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"
    raise ValueError(f"{name} must be a finite number in {interval}, got {value!r}")


def choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def floating(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise ValueError(f"{name} must be floating point, got dtype {value.dtype}")
    if value.dtype == torch.float16:  # the guard of memo 1, 1e-8, is 0 in it
        raise ValueError(
            f"{name} must be float32, float64 or bfloat16, got float16, whose range is too small; "
            "inside torch.autocast float16 is right"
        )


def rows(name: str, value: Tensor, length: int | None = None) -> None:
    """`value` is (..., d), its last axis of that length if one is given."""
    if value.ndim == 0 or (length is not None and value.shape[-1] != length):
        expected = f"(..., {'d' if length is None else length})"
        raise ValueError(f"{name} must have shape {expected}, got {tuple(value.shape)}")


def matrix(name: str, value: object, columns: int | None = None, dtype: torch.dtype | None = None) -> None:
    """`value` is a floating-point tensor (B, columns), of `dtype` if one is given."""
    floating(name, value)
    assert isinstance(value, Tensor)
    if value.ndim != 2 or (columns is not None and value.shape[1] != columns):
        expected = f"(B, {'N' if columns is None else columns})"
        raise ValueError(f"{name} must have shape {expected}, got {tuple(value.shape)}")
    if dtype is not None and value.dtype != dtype:
        raise ValueError(f"{name} must have the dtype of the module, {dtype}, got {value.dtype}")


def cube(name: str, value: object) -> None:
    """`value` is a floating-point tensor (N, N, N)."""
    floating(name, value)
    assert isinstance(value, Tensor)
    if value.ndim != 3 or len(set(value.shape)) != 1:
        raise ValueError(f"{name} must have shape (N, N, N), got {tuple(value.shape)}")
