"""A parameter that several ranks hold in parts: what is here of it, and where that stands in the whole.

Nothing is gathered while a trainer runs: a collective that it does not make itself could wait for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where a part stands: the shape of the whole, and the index at which the part begins in each dimension."""

    shape: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()

    def slices(self, part: Tensor) -> tuple[slice, ...]:
        return tuple(map(lambda start, size: slice(start, start + size), self.offset, part.shape))


WHOLE = Place()  # what is here is all of it


def is_sharded(tensor: Any) -> bool:
    """Is it a DTensor (torch.distributed.tensor)?"""
    return hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What is here of a tensor."""
    if not is_sharded(tensor):
        return tensor
    part: Any = tensor.detach()
    part = part.to_local()
    return part.wait() if hasattr(part, "wait") else part


def places_of(named: Mapping[str, Any]) -> dict[str, Place]:
    """The places of the parameters that are sharded, by name. Raises RuntimeError for what is laid out otherwise."""
    return {name: place_of(name, item) for name, item in named.items() if is_sharded(item)}


def place_of(name: str, tensor: Any) -> Place:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    odd = [item for item in tensor.placements if not (item.is_replicate() or type(item).__name__ == "Shard")]
    if odd:
        raise RuntimeError(f"{name} is laid out over ranks as {odd[0]}, which cannot be heard: shard or replicate it")
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    part = local(tensor)
    if tuple(shape) != tuple(part.shape):
        raise RuntimeError(f"the part of {name} that is here has the shape {tuple(part.shape)}, not {tuple(shape)}")
    return Place(tuple(tensor.shape), tuple(offset))


def gathered_of(model: Any) -> dict[str, Tensor]:
    """The tensors by which autograd knows a model's parameters while fully_shard has them gathered, by name.

    A backward pass gives its gradient to these, and not to the parts. PyTorch has no public way to them.
    """
    held: dict[tuple[int, str], Tensor] = {}
    for module in model.modules():
        state = module._get_fsdp_state() if hasattr(module, "_get_fsdp_state") else None
        groups = getattr(state, "_fsdp_param_groups", None) or [getattr(state, "_fsdp_param_group", None)]
        for item in (item for group in groups if group is not None for item in group.fsdp_params):
            if hasattr(item, "_unsharded_param"):
                held[id(item._module_info.module), item._module_info.param_name] = item._unsharded_param
    return {
        f"{prefix}.{name}".lstrip("."): held[id(module), name]
        for prefix, module in model.named_modules()
        for name in module._parameters
        if (id(module), name) in held
    }
