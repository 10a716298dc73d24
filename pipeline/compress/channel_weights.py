"""The weights that one channel owns in a layer, whatever the layer's kind: rows, columns, or a unit's rows of every gate."""

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Member, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, TRANSPOSED, gates_of
from edgec.pipeline.compress.surgery import is_grouped


def weights_of(layer: nn.Module, member: Member) -> Tensor:
    """(channels of the group, weights of one), without biases; float64, on the CPU."""
    by_place = _of_units(layer, member.side) if isinstance(layer, nn.RNNBase) else _of_places(layer, member.side)
    return by_place.detach().double().cpu()[torch.tensor(member.positions)].flatten(1)


def _of_places(layer: nn.Module, side: Side) -> Tensor:
    """(places of the dimension, weights of one)."""
    weight = layer.get_parameter("weight")
    if isinstance(layer, CONVOLUTIONS) and is_grouped(layer) and side is Side.FED:
        by_group = weight.reshape(layer.groups, layer.out_channels // layer.groups, layer.in_channels // layer.groups, -1)
        return by_group.transpose(1, 2).flatten(0, 1).flatten(1)
    rows_first = (side is Side.FED) if isinstance(layer, TRANSPOSED) else (side is not Side.IN)
    return (weight if rows_first else weight.transpose(0, 1)).flatten(1)


def _of_units(layer: nn.RNNBase, side: Side) -> Tensor:
    """The same of a recurrent layer: hidden units of each direction after the other, or its inputs."""
    tensors = dict(layer.named_parameters())
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    if side is Side.FED:
        return torch.cat([tensors[f"weight_ih_l0{each}"].T for each in directions], dim=1)
    rows = [torch.cat((tensors[f"weight_ih_l0{each}"], tensors[f"weight_hh_l0{each}"]), dim=1) for each in directions]
    return torch.cat([each.reshape(gates_of(layer), layer.hidden_size, -1).transpose(0, 1).flatten(1) for each in rows])
