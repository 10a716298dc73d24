"""A network that may be cut, and how: its groups, the price of a channel, its scores, and cuts made in re-fitted parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor, nn

from edgec.pipeline.compress.channel_cost import ChannelCost, CostUnit, CountedCost
from edgec.pipeline.compress.channels import Group, Groups, Selection
from edgec.pipeline.compress.cost_table import CostTable, StepCost, TableCost, require_of
from edgec.pipeline.compress.count import cost, device_of, layers
from edgec.pipeline.compress.groups import OUTPUT, find_groups
from edgec.pipeline.compress.paper import select_below
from edgec.pipeline.compress.policy import Propose
from edgec.pipeline.compress.refit import refit
from edgec.pipeline.compress.rounds import digest_of_tensors
from edgec.pipeline.compress.scores import Calibration, Scores, attention, criterion
from edgec.pipeline.compress.selection import floors, select
from edgec.pipeline.compress.surgery import copy_of, cut, kept
from edgec.pipeline.core.codec import digest_of_json
from edgec.pipeline.core.errors import CompressionError
from edgec.pipeline.core.records import Cost, Digest
from edgec.pipeline.core.settings import PruneSettings

PART = 0.7
"""Cost kept by one part of a larger cut. VGG-8 at 0.31 of its MACs after 4 epochs of recovery: 1.7 points lost (test 1.8) when cut at once,
1.2 (0.9) when re-fitted and scored anew after each of three parts."""

ROUND_TO = 4
"""Widths are multiples of this where neither the settings nor a backend say otherwise: what vector units of four floats fill."""


@dataclass(slots=True, kw_only=True)
class Network:
    """A network that may be cut."""

    module: nn.Module
    digest: Digest
    groups: Groups
    price: ChannelCost
    early: nn.Module | None = None
    """The same channels with the weights that recovery goes back to."""
    scores: Scores | None = None
    next: "Network | None" = None
    """After one part of a larger cut, re-fitted; itself when the floors leave nothing to cut."""
    stays: dict[str, list[int]] = field(default_factory=dict)
    """Of a part: group to the channels that are left, numbered as in the network that the cut began with."""

    @property
    def cost(self) -> float:
        """Counted; with a table, as a fraction of the dense network's (`StepCost`)."""
        return self.price.total({})


class Cutter:
    """Cuts the networks of one search, all of which come from `dense`.

    Args:
        unit: counted; with a table, beside it.

    Raises:
        CompressionError: nothing can be pruned; the criterion is not known.
        ModelError: the network cannot run or cannot be traced.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        *,
        calibration: tuple[Tensor, Tensor | None],
        settings: PruneSettings,
        unit: CostUnit,
        table: CostTable | None,
        early: Mapping[str, Tensor] | None,
        seed: int,
    ) -> None:
        self.settings, self.unit, self.table, self.seed = settings, unit, table, seed
        self.paper = settings.policy == "paper"
        self._example = example.to(device_of(model))
        self._shape = tuple(example.shape[1:])
        images, labels = (None if part is None else part[: settings.samples] for part in calibration)
        assert images is not None
        self._calibration = Calibration(images=images, labels=labels)
        self.calibration_digest = digest_of_tensors({"images": images} if labels is None else {"images": images, "labels": labels})
        self.criterion = partial(attention, relative=False) if self.paper else criterion(settings.criterion)
        self.dense_cost = cost(model, self._shape)
        self.dense = self.network(model)
        self.dense.early = None if early is None else _with_weights(model, early)
        self.early_digest = None if early is None else digest_of_tensors(early)
        if not self.dense.groups.prunable:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.dense.groups.protected.items())
            raise CompressionError("nothing in this network can be pruned", hint=reasons or "it has no convolution or linear layer")
        classes = max((g.channels for g in self.dense.groups if g.reason == OUTPUT), default=0)
        self._floors = _raised(floors(self.dense.groups, fraction=settings.floor, classes=classes), settings.floors)
        if table is not None:
            require_of(table, self.dense.groups)

    def network(self, module: nn.Module, *, since: float | ChannelCost = 1.0, within: Groups | None = None) -> Network:
        """Trace a network for its groups and their price.

        Args:
            since: as in `StepCost`.
            within: of the dense network: what is protected there stays protected.
        """
        groups = find_groups(module, self._example, protect=self.settings.protect, stream=self.settings.stream, within=within)
        counted = CountedCost(layers(module, self._shape), groups, self.unit, total=self._in_unit(self.cost(module)))
        price: ChannelCost = counted
        if self.table is not None:
            assert isinstance(since, float | StepCost)
            price = StepCost(TableCost(self.table, groups), counted, since=since)
        return Network(module=module, digest=digest_of_tensors(module.state_dict()), groups=groups, price=price)

    def cost(self, module: nn.Module) -> Cost:
        """By tracing."""
        return cost(module, self._shape)

    def share(self, network: Network, selection: Selection, counted: Cost) -> float:
        """What a cut leaves of the dense network's cost, in the unit of the search: as counted in what is left, or as `StepCost` says."""
        if self.table is None:
            return self._in_unit(counted) / self._in_unit(self.dense_cost)
        return network.price.total(_left(network, selection))

    def _in_unit(self, counted: Cost) -> int:
        return counted.parameters if self.unit is CostUnit.PARAMETERS else counted.macs

    def selection(self, network: Network, step: Propose) -> Selection:
        """The channels that a proposal takes from a network, all parts as one."""
        return self._whole(network, *self._last_part(network, step))

    def narrowed(self, network: Network, step: Propose, selection: Selection) -> nn.Module:
        """The network that training starts from: cut, then re-fitted or with the weights of an early epoch, as the settings say."""
        if network.early is not None:
            return cut(network.early, selection)
        if self.settings.refit and not self.paper:
            return self._refitted(*self._last_part(network, step))
        return cut(network.module, selection)

    def accept(self, network: Network, selection: Selection, module: nn.Module) -> Network:
        """What training made of a cut of `network`, as one that may be cut in turn."""
        result = self.network(module, since=network.price.total(_left(network, selection)), within=self.dense.groups)
        result.early = None if network.early is None else cut(network.early, selection)
        return result

    def _last_part(self, network: Network, step: Propose) -> tuple[Network, Selection]:
        """What goes last on the way to this cost, and from which network.

        With the re-fit, a large cut is made in parts of `PART`, each re-fitted and its channels scored anew; else in one.
        """
        if step.threshold is not None:
            assert isinstance(network.price, CountedCost)  # goal.require_sense and AAP refuse the paper's policy with a table
            return network, select_below(network.groups, self._scores(network), network.price, threshold=step.threshold, floor=self._floors)
        target = step.cost_kept * self.dense.cost
        part = network
        while self.settings.refit and target < PART * part.cost:
            following = part.next = part.next or self._after_part(part)
            if following is part or following.cost < target:
                break
            part = following
        return part, self._select(part, target)

    def _after_part(self, part: Network) -> Network:
        selection = self._select(part, PART * part.cost)
        if not selection:
            return part
        following = self.network(self._refitted(part, selection), since=part.price, within=self.dense.groups)
        following.stays = {**part.stays, **{g.name: self._stays(part, g, selection) for g in part.groups.prunable}}
        return following

    def _stays(self, part: Network, group: Group, selection: Selection) -> list[int]:
        before = part.stays.get(group.name, range(group.channels))
        return [before[i] for i in kept(group.channels, selection.removed.get(group.name, ()))]

    def _whole(self, network: Network, part: Network, last: Selection) -> Selection:
        """All parts of a cut as one selection from the network that it began with."""
        stays = {**part.stays, **{g.name: self._stays(part, g, last) for g in part.groups.prunable}}
        gone = {g.name: tuple(kept(g.channels, stays.get(g.name, range(g.channels)))) for g in network.groups.prunable}
        return replace(last, groups=network.groups, removed={name: channels for name, channels in gone.items() if channels})

    def _refitted(self, network: Network, selection: Selection) -> nn.Module:
        narrow = cut(network.module, selection)
        seed = seed_from(digest_of_json([self.seed, network.digest, selection.digest]))
        refit(network.module, narrow, selection, self._calibration.images, seed=seed)
        return narrow

    def _scores(self, network: Network) -> Scores:
        if network.scores is None:
            seed = seed_from(digest_of_json([self.seed, network.digest]))
            network.scores = self.criterion(network.groups, network.module, replace(self._calibration, seed=seed))
        return network.scores

    def _select(self, network: Network, target: float) -> Selection:
        return select(
            network.groups,
            self._scores(network),
            network.price,
            target=target,
            floor=self._floors,
            substeps=self.settings.substeps,
            round_to=self.settings.round_to or ROUND_TO,
        )


def _left(network: Network, selection: Selection) -> dict[str, int]:
    """Widths of its groups after the cut."""
    return {g.name: g.channels - len(selection.removed.get(g.name, ())) for g in network.groups.prunable}


def seed_from(digest: Digest) -> int:
    """A seed that depends on all that a digest stands for."""
    return int(digest[:15], 16)


def _with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the network with other weights."""
    early = copy_of(model)
    try:
        early.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise CompressionError(
            "the weights to rewind to are not of this network",
            hint="give the dense network's state dict of an early epoch",
            context={"cause": str(error)},
        ) from error
    return early


def _raised(floor: Mapping[str, int], least: Mapping[str, int]) -> dict[str, int]:
    """The floors with those that the settings give for single groups, where these are higher."""
    unknown = [name for name in least if name not in floor]
    if unknown:
        raise CompressionError(
            f"[prune] floors: there is no group {', '.join(map(repr, unknown))} to cut", hint=f"there are {', '.join(floor)}"
        )
    return {name: max(width, least.get(name, 0)) for name, width in floor.items()}
