"""Gives a dense network's layers the shapes of narrower tensors: what is left of it after channel pruning."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from edgec.pipeline.core.errors import ModelError

SHOWN = 4
"""Faults that an error lists of each kind."""

Placed = dict[int, list[tuple[Tensor, nn.Parameter]]]
"""Identity of a parameter to the tensors that took its place, and as what."""


def narrow(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the tensors into the module in place, and set what its layers say of their widths (out_channels, groups, num_features, …).

    Layers of other kinds get their tensors and nothing else. BatchNorm's step counter (num_batches_tracked) may be missing: networks in
    evaluation mode do not read it. Parameters that layers share stay shared (`put`). Whether the widths fit each other shows in a forward
    pass, not here.

    Raises:
        ModelError: names are missing or unexpected, or a tensor is not a narrower form of the module's.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in own]
    unfit = [name for name in own if name in tensors and not is_narrower(tensors[name], own[name])]
    if missing or unexpected or unfit:
        raise mismatch(own, tensors, missing, unexpected, unfit)
    placed: Placed = {}
    for prefix, layer in module.named_modules():
        mine = {leaf: f"{prefix}.{leaf}" if prefix else leaf for leaf in own_tensors(layer)}
        changed = False
        for leaf, name in mine.items():
            if name in tensors:
                changed = changed or tensors[name].shape != own[name].shape
                put(layer, leaf, tensors[name], placed)
        if changed:
            follow(layer)


def is_narrower(tensor: Tensor, dense: Tensor) -> bool:
    """Same number of dimensions, none larger, none empty; kernel dimensions (from the third on) the same."""
    if tensor.ndim != dense.ndim or 0 in tensor.shape:
        return False
    return all(a <= b for a, b in zip(tensor.shape, dense.shape, strict=True)) and tensor.shape[2:] == dense.shape[2:]


def own_tensors(layer: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers of the layer itself, without its children's."""
    children = tuple(f"{name}." for name, _ in layer.named_children())
    return {name: tensor for name, tensor in layer.state_dict().items() if not name.startswith(children)}


def put(layer: nn.Module, leaf: str, tensor: Tensor, placed: Placed) -> None:
    """Replace one parameter or buffer by a copy of the tensor in the old one's number format.

    A parameter that several layers share stays shared by those that get equal tensors. Where the tensors differ they were not shared in
    the network that they come from (BatchNorm folded into one of two layers), and each layer gets its own.
    """
    old = getattr(layer, leaf)
    same = placed.setdefault(id(old), [])
    found = next((new for source, new in same if torch.equal(source, tensor)), None)
    if found is not None:
        setattr(layer, leaf, found)
        return
    fresh = tensor.detach().to(device=old.device, dtype=old.dtype, copy=True).contiguous()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(fresh, requires_grad=old.requires_grad)
        same.append((tensor, new))
        setattr(layer, leaf, new)
    else:
        setattr(layer, leaf, fresh)


def follow(layer: nn.Module) -> None:
    """Set the layer's widths from its tensors' shapes.

    A depthwise convolution (as many groups as inputs) keeps one group a channel; another grouped one keeps its number of groups. A
    recurrent layer of several levels is not narrowed.
    """
    if isinstance(layer, _ConvNd):
        into_first = isinstance(layer, _ConvTransposeNd)
        first, second = layer.weight.shape[:2]
        if layer.groups > 1 and layer.groups == layer.in_channels:
            layer.groups = first if into_first else max(1, first * layer.in_channels // layer.out_channels)
        if into_first:
            layer.in_channels, layer.out_channels = first, second * layer.groups
        else:
            layer.out_channels, layer.in_channels = first, second * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase):
        kept = layer.weight if layer.weight is not None else layer.running_mean
        assert isinstance(kept, Tensor)
        layer.num_features = len(kept)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = len(layer.weight)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
    elif isinstance(layer, nn.RNNBase):
        tensors = dict(layer.named_parameters())
        layer.hidden_size, layer.input_size = tensors["weight_hh_l0"].shape[1], tensors["weight_ih_l0"].shape[1]


def mismatch(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], missing: list[str], unexpected: list[str], unfit: list[str]
) -> ModelError:
    """The error that says what does not belong together, the first few of each kind."""
    shapes = [f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}" for name in unfit]
    kinds = (("missing", missing), ("unexpected", unexpected), ("wider or of another form", shapes))
    parts = []
    for kind, names in kinds:
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{kind}: {', '.join(names[:SHOWN])}{more}")
    return ModelError(
        f"the weights are not those of this network ({'; '.join(parts)})",
        hint="builder and arguments in [model] must be the ones that the weights were trained with",
        context={"missing": len(missing), "unexpected": len(unexpected), "unfit": len(unfit)},
    )
