"""The weights that one channel owns, and the criteria over every topology."""

import pytest
import torch
from pruning_zoo import IMAGE, MODELS, ZOO, inputs_of, settled
from torch import nn

from edgec.pipeline.compress.channel_weights import weights_of
from edgec.pipeline.compress.channels import Member, Selection, Side
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.scores import Calibration, criterion
from edgec.pipeline.compress.surgery import mask

EVERY = {**{name: (build, (IMAGE,)) for name, build in ZOO.items()}, **MODELS}


def owned(layer: nn.Module, side: Side, *positions: tuple[int, ...]) -> torch.Tensor:
    return weights_of(layer, Member(layer="", side=side, positions=positions))


def test_inputs_of_a_grouped_convolution_are_columns_of_the_filters_that_read_them():
    layer = nn.Conv2d(6, 4, 1, groups=2)  # filters 2 and 3 read inputs 3, 4, 5
    assert torch.equal(owned(layer, Side.FED, (4,)), layer.weight[2:, 1].double().reshape(1, 2))
    assert torch.equal(owned(layer, Side.OUT, (1, 3)), layer.weight[[1, 3]].double().reshape(1, 6))


def test_transposed_convolution_keeps_its_inputs_first():
    layer = nn.ConvTranspose2d(3, 5, 2)
    assert torch.equal(owned(layer, Side.FED, (2,)), layer.weight[2].double().reshape(1, -1))
    assert torch.equal(owned(layer, Side.OUT, (4,)), layer.weight[:, 4].double().reshape(1, -1))


def test_unit_of_a_recurrent_layer_has_a_row_in_every_gate_of_its_direction():
    layer = nn.GRU(3, 4, bidirectional=True)
    rows = [1, 5, 9]
    expected = torch.cat((layer.weight_ih_l0_reverse[rows], layer.weight_hh_l0_reverse[rows]), dim=1)
    assert torch.equal(owned(layer, Side.OUT, (5,)), expected.double().reshape(1, -1))
    columns = torch.cat((layer.weight_ih_l0[:, 2], layer.weight_ih_l0_reverse[:, 2]))
    assert torch.equal(owned(layer, Side.FED, (2,)), columns.double().reshape(1, -1))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_silenced_channels_own_zeros_where_they_are_computed_and_the_others_do_not(name):
    build, shapes = EVERY[name]
    module = settled(build())
    groups = find_groups(module, inputs_of(shapes))
    removed = {g.name: tuple(range(0, g.channels, 2)) for g in groups.prunable}
    silent = mask(module, Selection(groups=groups, removed=removed))
    for group in groups.prunable:
        stays = [c for c in range(group.channels) if c not in removed[group.name]]
        for member in group.members:
            if member.side is Side.OUT:
                rows = weights_of(silent.get_submodule(member.layer), member)
                assert not rows[list(removed[group.name])].any()
                assert (rows[stays] != 0).any(dim=1).all()


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"two_inputs"}))
@pytest.mark.parametrize("which", ["l2", "att"])
def test_every_topology_has_a_score_for_every_channel(name, which):
    build, shapes = EVERY[name]
    module = settled(build())
    groups = find_groups(module, inputs_of(shapes))
    scores = criterion(which)(groups, module, Calibration(images=inputs_of(shapes, n=4, seed=1)[0]))
    assert {name: len(score) for name, score in scores.items()} == {g.name: g.channels for g in groups.prunable}
