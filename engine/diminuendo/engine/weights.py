"""A network's weights as safetensors, and back: what is tied is stored once, and bit for bit what it was.

Entries of a state dict that are no plain tensors (extra state, packed weights of quantized layers) are not stored:
tuning does not change them, so a network built anew has them already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from diminuendo.engine.plan import PlanError

_NAMED = 3


def stored(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's state dict, on the CPU; of tied ones only that of the first name."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    state = model.state_dict()
    for names in _tied(state):
        tensor = state[names[0]].detach()
        plain = (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != plain.numel() * plain.element_size():
            plain = plain.clone()  # a view: safetensors takes none
        storages.add(plain.untyped_storage().data_ptr())
        found[names[0]] = plain
    return found


def to_bytes(model: nn.Module) -> bytes:
    """The weights as safetensors; the same weights give the same bytes."""
    content: bytes = save(stored(model))
    return content


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """The tensors back, as `stored` gave them.

    Raises:
        PlanError: The content is no safetensors.
    """
    try:
        found: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise PlanError(f"weights: no safetensors that can be read ({error}); download the result again") from error
    return found


def complete(model: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The whole state dict of stored tensors: every tied name has its tensor, and what was not stored is the model's.

    Args:
        model: Of the architecture that the tensors are of, with any weights; not changed.
        tensors: As `stored` gave them; more of the tied names may be among them, and entries that are not stored,
            which are passed over.

    Raises:
        PlanError: A name is missing or not the network's, or a tensor is of another shape or type.
    """
    state = model.state_dict()
    groups = _tied(state)
    missing = [names[0] for names in groups if not any(name in tensors for name in names)]
    unexpected = [name for name in tensors if name not in state]
    if missing or unexpected:
        lacks = f"they lack {_some(missing)}" if missing else ""
        has = f"they have {_some(unexpected)}, which the network has not" if unexpected else ""
        raise PlanError(
            f"weights: {' and '.join(filter(None, (lacks, has)))}; give the weights that were saved with this plan of "
            "this network"
        )
    for names in groups:
        given = [name for name in names if name in tensors]
        for name in given[1:]:
            if not torch.equal(tensors[name].cpu(), tensors[given[0]].cpu()):
                raise PlanError(f"weights: {given[0]!r} and {name!r} are tied in the network, but have other values")
        state |= dict.fromkeys(names, _checked(given[0], tensors[given[0]], state[names[0]]))
    return state


def load_into(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Give a network stored weights, bit for bit.

    Args:
        model: Of the architecture that the tensors are of; changed in place.
        tensors: As `complete` takes them.

    Raises:
        PlanError: As `complete`; the network is then as it was.
    """
    model.load_state_dict(complete(model, tensors))


def _checked(name: str, tensor: Tensor, expected: Tensor) -> Tensor:
    """A stored tensor as the network has it."""
    found = torch.view_as_complex(tensor) if expected.is_complex() and not tensor.is_complex() else tensor
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise PlanError(
            f"weights: {name!r} has shape {tuple(found.shape)} and type {_type(found)}, the network "
            f"{tuple(expected.shape)} and {_type(expected)}; give the weights that were saved with this plan"
        )
    return found


def _tied(state: Mapping[str, Any]) -> list[list[str]]:
    """Names of tensors that can be stored, those of one tensor together, in the state's order."""
    groups: dict[object, list[str]] = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            groups.setdefault(_place(name, value), []).append(name)
    return list(groups.values())


def _place(name: str, tensor: Tensor) -> object:
    """Equal for tensors that are the same memory in the same shape."""
    if tensor.is_meta or tensor.numel() == 0:
        return name
    start = tensor.untyped_storage().data_ptr(), tensor.storage_offset()
    return tensor.device, start, tensor.dtype, tuple(tensor.shape), tensor.stride()


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more
