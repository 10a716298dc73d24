"""Takes channels out of a network: `cut` really removes them, `mask` is the reference that only silences them.

The two compute the same function wherever a silent channel stays silent on its way (ReLU, SiLU, GELU keep 0 at 0); the tests and
`groups.find_groups` hold them against each other.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Selection, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, NORMS
from edgec.pipeline.core.errors import ModelError

Places = dict[str, dict[Side, set[int]]]


def is_depthwise(layer: nn.Module) -> bool:
    """One filter for each input channel."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def reason_uncuttable(layer: nn.Module) -> str:
    """Empty when `cut` can take channels out of this layer."""
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer):
        return f"grouped convolution ({layer.groups} groups)"
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        return f"{type(layer).__name__} normalises over channels: without some, the others would change"
    if not isinstance(layer, (*CONVOLUTIONS, *NORMS, nn.Linear)):
        return f"{type(layer).__name__} cannot be cut"
    if isinstance(layer, (*CONVOLUTIONS, nn.Linear)) and "weight" not in dict(layer.named_parameters(recurse=False)):
        return "its weight is computed from other parameters"
    return ""


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy.

    Raises:
        ModelError: the network holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(f"the network cannot be copied: {error}", hint="keep no computed tensors or open files as attributes") from error


def cut(module: nn.Module, selection: Selection) -> nn.Module:
    """A copy of the network without the selected channels: smaller tensors, same dtype, device and `requires_grad`."""
    narrow = copy_of(module)
    for name, sides in removed_places(selection).items():
        _cut_layer(narrow.get_submodule(name), sides)
    return narrow


@torch.no_grad()
def mask(module: nn.Module, selection: Selection) -> nn.Module:
    """A copy of the same shape in which the selected channels are exactly 0 after normalisation (eval mode)."""
    silent = copy_of(module)
    for name, sides in removed_places(selection).items():
        layer = silent.get_submodule(name)
        gone = sorted(sides.get(Side.OUT, set()) | sides.get(Side.CHANNEL, set()))
        for tensor in (layer.weight, layer.bias, getattr(layer, "running_mean", None)):
            if isinstance(tensor, Tensor):
                tensor[gone] = 0
    return silent


def removed_places(selection: Selection) -> Places:
    """Layer and side to the positions that go, over all groups."""
    places: Places = {}
    for group in selection.groups:
        for channel in selection.removed.get(group.name, ()):
            for member in group.members:
                places.setdefault(member.layer, {}).setdefault(member.side, set()).update(member.positions[channel])
    return places


def _cut_layer(layer: nn.Module, sides: dict[Side, set[int]]) -> None:
    if isinstance(layer, NORMS):
        keep = kept(layer.num_features, sides[Side.CHANNEL])
        for name in ("weight", "bias", "running_mean", "running_var"):
            _keep(layer, name, 0, keep)
        layer.num_features = len(keep)
        return
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = _cut_matrix(layer, layer.out_features, layer.in_features, sides)
    elif is_depthwise(layer):
        assert isinstance(layer, CONVOLUTIONS)
        keep = kept(layer.out_channels, sides[Side.CHANNEL])
        _keep(layer, "weight", 0, keep)
        _keep(layer, "bias", 0, keep)
        layer.out_channels = layer.in_channels = layer.groups = len(keep)
    else:
        assert isinstance(layer, CONVOLUTIONS)
        layer.out_channels, layer.in_channels = _cut_matrix(layer, layer.out_channels, layer.in_channels, sides)


def _cut_matrix(layer: nn.Module, outputs: int, inputs: int, sides: dict[Side, set[int]]) -> tuple[int, int]:
    rows, columns = kept(outputs, sides.get(Side.OUT, ())), kept(inputs, sides.get(Side.IN, ()))
    _keep(layer, "weight", 0, rows)
    _keep(layer, "weight", 1, columns)
    _keep(layer, "bias", 0, rows)
    return len(rows), len(columns)


def kept(size: int, gone: Iterable[int]) -> list[int]:
    """Positions that stay, ascending."""
    return sorted(set(range(size)) - set(gone))


def _keep(layer: nn.Module, name: str, dim: int, keep: list[int]) -> None:
    tensor = getattr(layer, name)
    if tensor is None:
        return
    narrow = tensor.detach().index_select(dim, torch.tensor(keep, device=tensor.device))
    if isinstance(tensor, nn.Parameter):
        setattr(layer, name, nn.Parameter(narrow, requires_grad=tensor.requires_grad))
    else:
        setattr(layer, name, narrow)
