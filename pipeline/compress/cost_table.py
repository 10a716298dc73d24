"""Seconds or joules as the price of a channel: a table measured with one group narrowed at a time, and the cost that it stands for.

A table holds for each group what the whole network costs at a grid of that group's widths. What all widths together cost is

    cost(w) = dense * product over groups of  cost_g(w_g) / dense

which is exact for one narrowed group, positive and monotone for any. Measured grids are noisy, so each is made non-decreasing by isotonic
regression first and is linear between its points. Where two narrowed groups share a layer the product keeps a little more than is true; the
search does not rest on it: candidates are measured again (`protocols.Probe`), the table only says where a channel is dear.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from edgec.pipeline.compress.channel_cost import CostUnit, CountedCost, Widths
from edgec.pipeline.compress.channels import Groups, Selection
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.surgery import cut
from edgec.pipeline.core.codec import adapter, canonical, digest_of_json, json_from
from edgec.pipeline.core.errors import CompressionError, MeasurementError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.protocols import Probe
from edgec.pipeline.core.records import Digest, Estimate, Probed, Provenance

LEAST_PRICE = 1e-3
"""Of the mean price of a channel: what one that saves nothing measurable is priced at, so that it goes last and the price is above 0."""
POINTS = 4
"""Parts into which a group's width is divided for measuring."""
LEAST_WIDTH = 0.05
"""Of a group's width: the smallest that is measured, where the usual floor is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCosts:
    """What the network costs while this group alone is narrowed; the last width is the dense one."""

    widths: tuple[int, ...]
    """Ascending."""
    costs: tuple[float, ...]
    """Of the whole network at these widths, in the table's unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostTable:
    """Measured costs of one dense network on one target.

    Raises:
        CompressionError: widths that do not ascend, costs that are not finite and positive, lengths that differ, a counted unit.
    """

    unit: CostUnit
    groups: Mapping[str, GroupCosts]
    provenance: Provenance
    source: str = ""
    """What measured: target, runtime, precision, date."""

    def __post_init__(self) -> None:
        faults = [] if self.unit.measured else [f"the unit is {self.unit}: a count needs no table"]
        faults += [f"{name}: {fault}" for name, costs in self.groups.items() if (fault := _fault(costs))]
        if not self.groups:
            faults.append("it has no group")
        if faults:
            raise CompressionError(f"the cost table cannot be used: {'; '.join(faults)}", hint="measure it anew")

    @property
    def digest(self) -> Digest:
        """Of its content."""
        return digest_of_json(json_from(self))

    def save(self, file: Path) -> None:
        """As JSON, whole or not at all."""
        with replacing(file) as draft:
            draft.write_text(canonical(json_from(self)))

    @staticmethod
    def load(file: Path) -> "CostTable":
        """What `save` wrote.

        Raises:
            CompressionError: there is no such file, or it is not a cost table.
        """
        from pydantic import ValidationError

        try:
            table: CostTable = adapter(CostTable).validate_python(json.loads(file.read_text()))
        except (OSError, ValueError, ValidationError) as error:
            raise CompressionError(
                f"{file} cannot be read as a cost table", hint="measure it anew", context={"cause": str(error)}
            ) from error
        return table


class TableCost:
    """`channel_cost.ChannelCost` of a network that came from the table's dense one."""

    def __init__(self, table: CostTable, groups: Groups) -> None:
        """`groups`: those of the network, which may be narrower than the table's.

        Raises:
            CompressionError: the table does not have one of the groups that may be cut.
        """
        missing = [g.name for g in groups.prunable if g.name not in table.groups]
        if missing:
            raise CompressionError(
                f"the cost table does not have the group {', '.join(map(repr, missing))}",
                hint=f"it has {', '.join(table.groups)}: it was measured of another network, or with other settings",
            )
        self._now = {g.name: g.channels for g in groups.prunable}
        self._grids = {name: (np.array(costs.widths, dtype=np.float64), _rising(costs)) for name, costs in table.groups.items()}
        self._dense = float(np.mean([costs.costs[-1] for costs in table.groups.values()]))
        self._least = LEAST_PRICE * self._dense / sum(costs.widths[-1] for costs in table.groups.values())

    def total(self, widths: Widths) -> float:
        """Of the whole network, in the table's unit."""
        now = {**self._now, **widths}
        return self._dense * math.prod(self._share(name, width) for name, width in now.items())

    def of_channel(self, group: str, widths: Widths) -> float:
        """What one channel less saves at these widths, at least `LEAST_PRICE` of the mean channel's."""
        width = widths.get(group, self._now[group])
        saved = self.total(widths) - self.total({**widths, group: width - 1})
        return max(saved, self._least)

    def _share(self, name: str, width: int) -> float:
        """Of the dense cost; below the smallest measured width it stays what it is there."""
        widths, costs = self._grids[name]
        return float(np.interp(width, widths, costs)) / float(costs[-1])


class StepCost:
    """A table's prices; and as the cost of the whole network that of which a round keeps a share: the table's, or the counted one where
    that has fallen more since the round began.

    What a runtime spends whatever the widths are does not fall with cuts: by such a table alone one round would go down to the floors.
    """

    def __init__(self, table: TableCost, counted: CountedCost, *, since: "float | StepCost" = 1.0) -> None:
        """`since`: the cost at which the round begins with this network; or the price of the one that it began with, if this is a part."""
        self._table, self._counted = table, counted
        self.begun: tuple[float, float, float]
        """The cost at which the round began, and what table and count gave for it."""
        self.begun = since.begun if isinstance(since, StepCost) else (since, table.total({}), counted.total({}))

    def total(self, widths: Widths) -> float:
        """Of the whole network, as a fraction of the dense one's."""
        cost, table, counted = self.begun
        return cost * min(self._table.total(widths) / table, self._counted.total(widths) / counted)

    def of_channel(self, group: str, widths: Widths) -> float:
        """As the table says."""
        return self._table.of_channel(group, widths)


def require_of(table: CostTable, groups: Groups) -> None:
    """That the table has no group that this dense network does not have; `TableCost` tells of one that the table lacks.

    Raises:
        CompressionError: a group that the network does not have, or has with another width.
    """
    dense = {g.name: g.channels for g in groups}
    wrong = [name for name, costs in table.groups.items() if dense.get(name) != costs.widths[-1]]
    if wrong:
        known = ", ".join(f"{name} ({width})" for name, width in dense.items())
        raise CompressionError(
            f"the cost table is of another network: it has {', '.join(f'{n!r} with {table.groups[n].widths[-1]} channels' for n in wrong)}",
            hint=f"this network has {known}",
        )


def measure_table(
    model: nn.Module,
    example: Tensor,
    probe: Probe,
    *,
    unit: CostUnit = CostUnit.SECONDS,
    points: int = POINTS,
    protect: tuple[str, ...] = (),
    stream: bool = False,
    provenance: Provenance = Provenance.MEASURED,
    source: str = "",
) -> CostTable:
    """Measure the network with one group narrowed at a time: `points` widths of each group, and the dense network once.

    Latency and energy do not depend on which channels go, so the last ones do. Costs are the probe's ratio to the dense network, which
    drift does not touch, times the dense network's own seconds or joules.

    Raises:
        MeasurementError: the probe does not know the unit, for instance joules without a meter.
        CompressionError: nothing can be narrowed.
    """
    groups = find_groups(model, example, protect=protect, stream=stream)
    dense = _known(probe(model), unit)[1]
    rows: dict[str, GroupCosts] = {}
    for group in groups.prunable:
        parts = (LEAST_WIDTH, *(k / points for k in range(1, points)))
        grid = sorted({max(1, round(group.channels * part)) for part in parts} - {group.channels})
        costs = []
        for width in grid:
            gone = Selection(groups=groups, removed={group.name: tuple(range(width, group.channels))})
            costs.append(dense * _known(probe(cut(model, gone)), unit)[0])
        rows[group.name] = GroupCosts(widths=(*grid, group.channels), costs=(*costs, dense))
    if not rows:
        raise CompressionError("nothing in this network can be pruned: there is no group to measure")
    return CostTable(unit=unit, groups=rows, provenance=provenance, source=source)


def _known(probed: Probed, unit: CostUnit) -> tuple[float, float]:
    """(ratio to the dense network, absolute) in the unit."""
    pair = (probed.latency_ratio, probed.latency_s) if unit is CostUnit.SECONDS else (probed.energy_ratio, probed.energy_j)
    return _value(pair[0], unit), _value(pair[1], unit)


def _value(estimate: Estimate, unit: CostUnit) -> float:
    if estimate.value is None:
        raise MeasurementError(f"a cost table in {unit} cannot be measured: {estimate.reason}", hint="count MACs instead: unit = macs")
    return estimate.value


def _rising(costs: GroupCosts) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """The costs as the nearest non-decreasing sequence (least squares; pool adjacent violators)."""
    from scipy.optimize import isotonic_regression

    fitted: np.ndarray[tuple[int], np.dtype[np.float64]] = isotonic_regression(np.array(costs.costs, dtype=np.float64)).x
    return fitted


def _fault(costs: GroupCosts) -> str:
    if not costs.widths or len(costs.widths) != len(costs.costs):
        return f"{len(costs.widths)} widths and {len(costs.costs)} costs"
    if costs.widths[0] < 1 or any(a >= b for a, b in zip(costs.widths, costs.widths[1:], strict=False)):
        return f"its widths {list(costs.widths)} do not ascend"
    if not all(math.isfinite(cost) and cost > 0 for cost in costs.costs):
        return f"its costs {list(costs.costs)} are not all finite and above 0"
    return ""
