"""What one channel costs: the layer weight of AAP's threshold, in the unit of the goal, counted over all members of its group.

A cost is a function of the widths that are left, so that the price of a channel falls as its neighbours shrink.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Protocol

from edgec.pipeline.compress.channels import Groups, Side
from edgec.pipeline.compress.count import Layer

Widths = Mapping[str, int]
"""Group name to channels that stay; a group that is not named keeps all."""


class CostUnit(StrEnum):
    """What is counted, or measured through a cost table (`cost_table.py`)."""

    PARAMETERS = "parameters"
    MACS = "macs"
    SECONDS = "seconds"
    JOULES = "joules"

    @property
    def measured(self) -> bool:
        """Whether it takes a cost table."""
        return self in (CostUnit.SECONDS, CostUnit.JOULES)


class ChannelCost(Protocol):
    """Cost of the network at given widths; a table measured on a board can stand behind it as well as a count."""

    def total(self, widths: Widths) -> float:
        """Of the whole network, in the goal's unit."""
        ...

    def of_channel(self, group: str, widths: Widths) -> float:
        """What removing one more channel of the group would save; greater than 0."""
        ...


class CountedCost:
    """Parameters or MACs, exact: equal to what `count.cost` finds in the network after the cut."""

    def __init__(self, ran: tuple[Layer, ...], groups: Groups, unit: CostUnit, *, total: int) -> None:
        """`total`: the network's cost before any cut, which includes what no layer of ours accounts for.

        Raises:
            ValueError: a unit that is measured, not counted.
        """
        if unit.measured:
            raise ValueError(f"{unit} are not counted")
        self._unit = unit
        self._channels = {g.name: g.channels for g in groups}
        self._layers = {layer.name: layer for layer in ran}
        self._shares: dict[str, list[tuple[str, Side, int]]] = {}
        """Layer to the groups that narrow it: group, side, places per channel."""
        self._of_group: dict[str, set[str]] = {g.name: {m.layer for m in g.members} for g in groups}
        for group in groups:
            for member in group.members:
                self._shares.setdefault(member.layer, []).append((group.name, member.side, member.multiplicity))
        self._rest = total - sum(self._of_layer(name, {}) for name in self._shares)

    def total(self, widths: Widths) -> float:
        """Of the whole network."""
        return self._rest + sum(self._of_layer(name, widths) for name in self._shares)

    def of_channel(self, group: str, widths: Widths) -> float:
        """Over all members: filters, normalisation, depthwise followers, consumers' inputs, classifier columns."""
        fewer = {**widths, group: widths.get(group, self._channels[group]) - 1}
        return sum(self._of_layer(name, widths) - self._of_layer(name, fewer) for name in self._of_group[group])

    def of_layers(self, names: Iterable[str]) -> int:
        """Of these layers alone, before any cut."""
        return sum(self._of_layer(name, {}) for name in names)

    def _of_layer(self, name: str, widths: Widths) -> int:
        layer = self._layers.get(name)
        if layer is None:
            return 0
        outputs, inputs = layer.outputs, layer.inputs
        for group, side, multiplicity in self._shares[name]:
            gone = multiplicity * (self._channels[group] - widths.get(group, self._channels[group]))
            outputs -= gone if side in (Side.OUT, Side.CHANNEL) else 0
            inputs -= gone if side is not Side.OUT else 0
        return layer.parameters_at(outputs, inputs) if self._unit is CostUnit.PARAMETERS else layer.macs_at(outputs, inputs)
