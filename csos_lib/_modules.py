"""What PyTorch expects of a module beside its parameters: a recipe, tensors that are made again, autocast."""

import json
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class Recorded(nn.Module):
    """A module whose state_dict says with which settings it was made, and that refuses one made with others.

    Two models may have tensors of the same shapes and compute other things. A state_dict without a recipe (of
    an older release, or a slice of many) is taken as it is. As with shapes, strict=False changes nothing.
    """

    def _recipe(self) -> dict[str, Any]:
        """The settings that the tensors do not tell, as JSON can write them."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:  # a tensor, so that a state_dict stays a dict of tensors
        text = json.dumps(self._recipe(), sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        pass  # `_load_from_state_dict` has compared it

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}_extra_state"
        if key in state_dict:
            given = json.loads(bytes(state_dict[key].tolist()))
            own = json.loads(json.dumps(self._recipe()))
            if differing := {k for k in given.keys() | own.keys() if given.get(k) != own.get(k)}:
                told = ", ".join(f"{k} = {given.get(k)!r}, not {own.get(k)!r}" for k in sorted(differing))
                name = prefix.rstrip(".") or type(self).__name__
                error_msgs.append(f"the state_dict is of a {name} made with {told}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:
            missing_keys.remove(key)


class Derived(nn.Module):
    """A module with buffers that its settings determine: not saved, and made again wherever they are lost.

    They are lost where a module is started on the meta device, by `to_empty`, and by `load_state_dict` with
    `assign=True`; a change of dtype makes them again too, with all the digits that the new one has.
    """

    def _derive(self) -> dict[str, Tensor]:
        """The buffers by name, on the CPU."""
        raise NotImplementedError

    def _register_derived(self) -> None:
        for name, value in self._derive().items():
            value = value.to(torch.get_default_device())
            if value.is_floating_point():
                value = value.to(torch.get_default_dtype())
            self.register_buffer(name, value, persistent=False)

    @torch.no_grad()
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        for name, value in self._derive().items():
            if not (buffer := self.get_buffer(name)).is_meta:
                buffer.copy_(value)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if local_metadata.get("assign_to_params_buffers"):
            devices = (value.device for value in state_dict.values() if value.is_floating_point())
            device = next(devices, torch.device("cpu"))
            for name, value in self._derive().items():
                if (buffer := self.get_buffer(name)).is_meta:
                    setattr(self, name, value.to(device, buffer.dtype))


# torch 2.6 does not tell the two apart.
exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than its forward: then it has to be called."""
    own = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(own) or torch.nn.modules.module._has_any_global_hook()


def autocasts(x: object) -> bool:
    """Whether x is a tensor on whose device autocast is on."""
    if not isinstance(x, Tensor):
        return False
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def without_autocast(function: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """function(x); where autocast is on, it is off for this call, and x comes in `dtype`.

    Reactions and operators are run in the dtype of their parameters: a step feeds on the step before, and a
    wave magnifies what rounding leaves of its angle.
    """
    if not autocasts(x):
        return function(x)
    with torch.autocast(x.device.type, enabled=False):
        return function(x.to(dtype))
