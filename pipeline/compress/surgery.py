"""Takes channels out of a network: `cut` really removes them, `mask` is the reference that only silences them.

The two compute the same function wherever a silent channel stays silent on its way (ReLU, SiLU, GELU keep 0 at 0); the tests and
`groups.find_groups` hold them against each other.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Selection, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, NORMS, TRANSPOSED, gates_of
from edgec.pipeline.core.errors import ModelError

Places = dict[str, dict[Side, set[int]]]


def is_depthwise(layer: nn.Module) -> bool:
    """One filter for each input channel."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def is_grouped(layer: nn.Module) -> bool:
    """A convolution in groups of several channels: each filter reads the inputs of its own group."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer)


def is_matrix(layer: nn.Module) -> bool:
    """Its outputs are one matrix over all of its inputs (at their places): a convolution or a linear layer."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and layer.groups == 1)


def dimension(layer: nn.Module, side: Side) -> int:
    """Places that this side of the layer has; 0 for a kind that cannot be cut."""
    reads = side in (Side.IN, Side.FED)
    if isinstance(layer, nn.RNNBase):
        return layer.input_size if reads else (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
    if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)):
        return layer.in_channels if reads else layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features if reads else layer.out_features
    if isinstance(layer, NORMS):
        return layer.num_features
    return layer.num_parameters if isinstance(layer, nn.PReLU) else 0


def reason_uncuttable(layer: nn.Module) -> str:
    """Empty when `cut` can take channels out of this layer."""
    kind = type(layer).__name__
    if isinstance(layer, TRANSPOSED) and layer.groups > 1:
        return f"grouped transposed convolution ({layer.groups} groups)"
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        return f"{kind} normalises over channels: without some, the others would change"
    if isinstance(layer, nn.RNNBase):
        if layer.num_layers > 1:
            return f"{kind} of {layer.num_layers} layers"
        return f"{kind} with a projection" if layer.proj_size else ""
    if not isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, *NORMS, nn.Linear, nn.PReLU)):
        return f"{kind} cannot be cut"
    if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and "weight" not in dict(layer.named_parameters(recurse=False)):
        return "its weight is computed from other parameters"
    return ""


def shared_with(module: nn.Module) -> dict[str, str]:
    """Layers that hold a parameter that another layer holds too: name to the other's name."""
    owners: dict[int, list[str]] = {}
    for name, layer in module.named_modules():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return {name: next(o for o in names if o != name) for names in owners.values() if len(set(names)) > 1 for name in names}


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
        gone = sorted(sides.get(Side.OUT, set()) | sides.get(Side.CHANNEL, set()))
        _silence(silent.get_submodule(name), gone)
    return silent


def removed_places(selection: Selection) -> Places:
    """Layer and side to the positions that go, over all groups."""
    places: Places = {}
    for group in selection.groups:
        for channel in selection.removed.get(group.name, ()):
            for member in group.members:
                places.setdefault(member.layer, {}).setdefault(member.side, set()).update(member.positions[channel])
    return places


def _silence(layer: nn.Module, gone: list[int]) -> None:
    if isinstance(layer, nn.RNNBase):
        rows = _gate_rows(layer, {position % layer.hidden_size for position in gone})
        for tensor in layer.parameters():
            tensor[rows] = 0
        return
    for name in ("weight", "bias", "running_mean"):
        numbers = getattr(layer, name, None)
        if isinstance(numbers, Tensor):
            by_output = numbers.transpose(0, 1) if name == "weight" and isinstance(layer, TRANSPOSED) else numbers
            by_output[gone] = 0


def _cut_layer(layer: nn.Module, sides: dict[Side, set[int]]) -> None:
    if isinstance(layer, NORMS):
        keep = kept(layer.num_features, sides[Side.CHANNEL])
        for name in ("weight", "bias", "running_mean", "running_var"):
            _keep(layer, name, 0, keep)
        layer.num_features = len(keep)
    elif isinstance(layer, nn.PReLU):
        keep = kept(layer.num_parameters, sides[Side.CHANNEL])
        _keep(layer, "weight", 0, keep)
        layer.num_parameters = len(keep)
    elif isinstance(layer, nn.RNNBase):
        _cut_recurrent(layer, sides)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = _cut_matrix(layer, layer.out_features, layer.in_features, sides)
    elif isinstance(layer, TRANSPOSED):
        rows, columns = kept(layer.out_channels, sides.get(Side.OUT, ())), kept(layer.in_channels, sides.get(Side.FED, ()))
        _keep(layer, "weight", 0, columns)
        _keep(layer, "weight", 1, rows)
        _keep(layer, "bias", 0, rows)
        layer.out_channels, layer.in_channels = len(rows), len(columns)
    elif is_depthwise(layer):
        assert isinstance(layer, CONVOLUTIONS)
        keep = kept(layer.out_channels, sides[Side.CHANNEL])
        _keep(layer, "weight", 0, keep)
        _keep(layer, "bias", 0, keep)
        layer.out_channels = layer.in_channels = layer.groups = len(keep)
    elif is_grouped(layer):
        _cut_grouped(layer, sides)
    else:
        assert isinstance(layer, CONVOLUTIONS)
        layer.out_channels, layer.in_channels = _cut_matrix(layer, layer.out_channels, layer.in_channels, sides)


def _cut_matrix(layer: nn.Module, outputs: int, inputs: int, sides: dict[Side, set[int]]) -> tuple[int, int]:
    rows, columns = kept(outputs, sides.get(Side.OUT, ())), kept(inputs, sides.get(Side.IN, ()))
    _keep(layer, "weight", 0, rows)
    _keep(layer, "weight", 1, columns)
    _keep(layer, "bias", 0, rows)
    return len(rows), len(columns)


def _cut_grouped(layer: nn.Module, sides: dict[Side, set[int]]) -> None:
    """Each group loses as many filters as the others, and as many inputs; which ones is its own matter."""
    assert isinstance(layer, CONVOLUTIONS)
    rows, columns = kept(layer.out_channels, sides.get(Side.OUT, ())), kept(layer.in_channels, sides.get(Side.FED, ()))
    in_group = layer.in_channels // layer.groups
    rows_of, columns_of = (
        _by_group(some, size // layer.groups) for some, size in ((rows, layer.out_channels), (columns, layer.in_channels))
    )
    for each in (rows_of, columns_of):
        if len(each) != layer.groups or len({len(some) for some in each.values()}) != 1:
            raise ModelError(f"a convolution of {layer.groups} groups has other numbers of channels in some of them")
    index = torch.tensor([[c - group * in_group for c in columns_of[group]] for group in sorted(rows_of) for _ in rows_of[group]])
    _keep(layer, "weight", 0, rows)
    _keep(layer, "bias", 0, rows)
    weight = layer.weight.detach()
    places = index.to(weight.device).reshape(*index.shape, *[1] * (weight.dim() - 2)).expand(-1, -1, *weight.shape[2:])
    layer.weight = nn.Parameter(weight.gather(1, places), requires_grad=layer.weight.requires_grad)
    layer.out_channels, layer.in_channels = len(rows), len(columns)


def _by_group(positions: list[int], size: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for position in positions:
        found.setdefault(position // size, []).append(position)
    return found


def _cut_recurrent(layer: nn.RNNBase, sides: dict[Side, set[int]]) -> None:
    """Units go in both directions: rows of each gate, and columns of what reads the state."""
    gone = {position % layer.hidden_size for position in sides.get(Side.OUT, ())}
    units, inputs = kept(layer.hidden_size, gone), kept(layer.input_size, sides.get(Side.FED, ()))
    rows = _gate_rows(layer, units)
    for name, _ in list(layer.named_parameters()):
        _keep(layer, name, 0, rows)
        if name.startswith("weight"):
            _keep(layer, name, 1, inputs if name.startswith("weight_ih") else units)
    layer.hidden_size, layer.input_size = len(units), len(inputs)


def _gate_rows(layer: nn.RNNBase, units: Iterable[int]) -> list[int]:
    """Rows of these hidden units in every gate."""
    wanted = sorted(units)
    return [gate * layer.hidden_size + unit for gate in range(gates_of(layer)) for unit in wanted]


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
