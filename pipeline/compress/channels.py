"""Channel groups as plain records: which slices of which layers are one channel, and which channels go.

Nothing here knows how a group was found (`groups.py`) or how a layer is cut (`surgery.py`). A group is the set of all tensor
dimensions that must shrink together (DepGraph, arXiv 2301.12900).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from edgec.pipeline.core.codec import digest_of_json
from edgec.pipeline.core.records import Digest

NEW = "it is no group of the dense network"


class Side(StrEnum):
    """Which dimension of a layer belongs to a group."""

    OUT = "out"
    """Filters of a convolution, rows of a linear layer."""
    IN = "in"
    """Input channels of a convolution, columns of a linear layer."""
    FED = "fed"
    """Inputs of a layer that is not one matrix over all of them (grouped or transposed convolution, LSTM): cut, not re-fitted."""
    CHANNEL = "channel"
    """Both at once: normalisation, depthwise convolution, a slope a channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One dimension of one layer. `positions[c]` are the places in it that group channel c owns (several after a flatten)."""

    layer: str
    side: Side
    positions: tuple[tuple[int, ...], ...]

    @property
    def multiplicity(self) -> int:
        """Places per channel; the same for all channels of a group that may be cut."""
        return len(self.positions[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Channels that are cut together. `name` is the layer that computes them first."""

    name: str
    channels: int
    members: tuple[Member, ...]
    writers: tuple[str, ...]
    """Layers that compute the channels (convolutions, depthwise ones too, linear and recurrent layers), in order of execution."""
    feeds_output: bool = False
    """A consumer is the network's last layer."""
    prunable: bool = True
    reason: str = ""
    """Why the group is protected."""


@dataclass(frozen=True, slots=True)
class Groups:
    """All groups of one network, in order of execution."""

    items: tuple[Group, ...]

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    @property
    def prunable(self) -> tuple[Group, ...]:
        """Those that may be cut."""
        return tuple(g for g in self.items if g.prunable)

    def within(self, dense: "Groups") -> "Groups":
        """The same, of which only those may be cut that may in the dense network; the others keep its reason."""
        free = {g.name for g in dense.prunable}
        return Groups(
            tuple(
                replace(g, prunable=False, reason=dense.protected.get(g.name, NEW)) if g.prunable and g.name not in free else g
                for g in self.items
            )
        )

    @property
    def protected(self) -> dict[str, str]:
        """Name to reason of those that may not."""
        return {g.name: g.reason for g in self.items if not g.prunable}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Channels to remove, by group name, ascending. `cost` is what stays, in the unit that was asked for."""

    groups: Groups
    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    threshold: float = 0.0
    """Largest score per cost of one channel among those removed."""
    cost: float = 0.0
    exhausted: bool = False
    """The floors hold everything else: the target could not be reached."""

    @property
    def digest(self) -> Digest:
        """Names this set of channels."""
        return digest_of_json({name: list(indices) for name, indices in self.removed.items()})

    def __bool__(self) -> bool:
        return any(self.removed.values())
