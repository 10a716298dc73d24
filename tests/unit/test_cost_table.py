"""Prices in seconds and joules: the table's laws, its model against closed forms, and the measuring of one."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_zoo import Chain, ResNet, settled
from torch import nn

from edgec.pipeline.compress.channel_cost import CostUnit, CountedCost
from edgec.pipeline.compress.cost_table import LEAST_PRICE, CostTable, GroupCosts, StepCost, TableCost, measure_table, require_of
from edgec.pipeline.compress.count import cost, layers
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.core.errors import CompressionError, MeasurementError
from edgec.pipeline.core.records import Estimate, Probed, Provenance

SHAPE = (1, 8, 8)
EXAMPLE = torch.zeros(1, *SHAPE)
CHAIN = Chain()
GROUPS = find_groups(CHAIN, EXAMPLE)
WIDTHS = {g.name: g.channels for g in GROUPS.prunable}
Curve = Callable[[float], float]


def table(curve: Curve = lambda share: 0.2 + 0.8 * share, **changes: GroupCosts) -> CostTable:
    """Each group narrowed alone makes the network cost 10 ms times a curve of the share of its channels that is left."""
    grids = {name: (1, width // 2, width) for name, width in WIDTHS.items()}
    groups = {name: GroupCosts(widths=grid, costs=tuple(0.01 * curve(w / grid[-1]) for w in grid)) for name, grid in grids.items()}
    return CostTable(unit=CostUnit.SECONDS, groups=groups | changes, provenance=Provenance.SIMULATED)


def test_one_narrowed_group_costs_what_was_measured_and_all_together_their_product() -> None:
    price = TableCost(table(), GROUPS)
    assert price.total({}) == pytest.approx(0.01)
    half = {name: width // 2 for name, width in WIDTHS.items()}
    for name, width in half.items():
        assert price.total({name: width}) == pytest.approx(0.01 * (0.2 + 0.8 * width / WIDTHS[name]))
        assert price.total({name: width - 1}) == pytest.approx(0.01 * (0.2 + 0.8 * (width - 1) / WIDTHS[name]))  # between points: a line
    shares = [0.2 + 0.8 * width / WIDTHS[name] for name, width in half.items()]
    assert price.total(half) == pytest.approx(0.01 * math.prod(shares))


def test_channel_of_a_group_that_saves_more_is_dearer_and_one_that_saves_nothing_has_a_price_above_0() -> None:
    first, second, *_ = WIDTHS
    flat = GroupCosts(widths=(1, WIDTHS[first]), costs=(0.01, 0.01))
    price = TableCost(table(**{first: flat}), GROUPS)
    assert price.of_channel(first, {}) == pytest.approx(LEAST_PRICE * 0.01 / sum(WIDTHS.values()))
    assert price.of_channel(second, {}) == pytest.approx(0.01 * 0.8 / WIDTHS[second])
    assert price.of_channel(second, {}) > 100 * price.of_channel(first, {})


@settings(deadline=None)  # the first fit imports SciPy
@given(st.lists(st.floats(0.1, 10), min_size=5, max_size=5), st.data())
def test_any_noise_gives_a_cost_that_never_grows_when_a_group_narrows(costs: list[float], data: st.DataObject) -> None:
    name, width = next(iter(WIDTHS.items()))
    grid = (*sorted(data.draw(st.sets(st.integers(1, width - 1), min_size=4, max_size=4))), width)
    price = TableCost(table(**{name: GroupCosts(widths=grid, costs=tuple(costs))}), GROUPS)
    totals = [price.total({name: w}) for w in range(1, width + 1)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(totals))
    assert min(totals) > 0
    assert all(price.of_channel(name, {name: w}) > 0 for w in range(2, width + 1))


def test_noisy_costs_become_the_nearest_rising_ones() -> None:
    # Pool adjacent violators by hand: 3, 1 become their mean 2; the rest rises already.
    name, width = next(iter(WIDTHS.items()))
    noisy = GroupCosts(widths=(1, 2, 4, width), costs=(3.0, 1.0, 4.0, 8.0))
    price = TableCost(table(**{name: noisy}), GROUPS)
    whole = price.total({})
    assert [price.total({name: w}) / whole for w in (1, 2, 4)] == pytest.approx([2 / 8, 2 / 8, 4 / 8])


def test_step_is_a_share_of_what_falls_faster_since_its_round_began() -> None:
    counted = CountedCost(layers(CHAIN, SHAPE), GROUPS, CostUnit.MACS, total=cost(CHAIN, SHAPE).macs)
    half = {name: width // 2 for name, width in WIDTHS.items()}
    for curve in (lambda share: 1.0, lambda share: 0.95 + 0.05 * share, lambda share: share**8):
        prices = TableCost(table(curve), GROUPS)
        steps = StepCost(prices, counted, since=0.4)
        shares = (prices.total(half) / prices.total({}), counted.total(half) / counted.total({}))
        assert steps.total({}) == 0.4
        assert steps.total(half) == pytest.approx(0.4 * min(shares))
        assert StepCost(prices, counted, since=steps).total(half) == steps.total(half)
        assert all(steps.of_channel(name, half) == prices.of_channel(name, half) for name in half)


def test_table_is_read_back_from_its_file(tmp_path: Path) -> None:
    kept = table()
    kept.save(tmp_path / "table.json")
    assert CostTable.load(tmp_path / "table.json") == kept
    assert CostTable.load(tmp_path / "table.json").digest == kept.digest != table(lambda share: share + 0.1).digest


@pytest.mark.parametrize("content", ["", "{}", '{"unit": "seconds", "groups": {}, "provenance": "measured"}', "[1]"])
def test_file_that_is_no_table_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(CompressionError, match="cost table"):
        CostTable.load(tmp_path / "table.json")
    with pytest.raises(CompressionError, match="cannot be read as a cost table"):
        CostTable.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("widths", "costs", "said"),
    [
        ((4, 2, 8), (1.0, 2.0, 3.0), "do not ascend"),
        ((2, 2, 8), (1.0, 2.0, 3.0), "do not ascend"),
        ((0, 8), (1.0, 2.0), "do not ascend"),
        ((2, 8), (1.0,), "2 widths and 1 costs"),
        ((), (), "0 widths"),
        ((2, 8), (0.0, 1.0), "above 0"),
        ((2, 8), (1.0, math.inf), "finite"),
        ((2, 8), (math.nan, 1.0), "finite"),
    ],
)
def test_grid_that_cannot_be_used_is_told_with_its_group(widths: tuple[int, ...], costs: tuple[float, ...], said: str) -> None:
    with pytest.raises(CompressionError, match=said) as caught:
        table(hidden=GroupCosts(widths=widths, costs=costs))
    assert "hidden" in caught.value.what


def test_table_in_a_counted_unit_is_told() -> None:
    with pytest.raises(CompressionError, match="a count needs no table"):
        CostTable(unit=CostUnit.MACS, groups=table().groups, provenance=Provenance.SIMULATED)


def test_group_that_one_of_both_does_not_have_is_named() -> None:
    with pytest.raises(CompressionError, match="'strange' with 3 channels"):
        require_of(table(strange=GroupCosts(widths=(1, 3), costs=(1.0, 2.0))), GROUPS)
    other = find_groups(settled(ResNet(width=8)), torch.zeros(1, 1, 12, 12))
    with pytest.raises(CompressionError, match="another network"):
        require_of(table(), other)
    with pytest.raises(CompressionError, match="does not have the group") as caught:
        TableCost(table(), other)
    assert "blocks.0.conv1" in caught.value.what


def proportional(joules: bool = False) -> Callable[[nn.Module], Probed]:
    """2 ms fixed and 8 ms for the dense network's MACs; energy at 3 W where there is a meter."""
    whole = cost(CHAIN, SHAPE).macs

    def probe(network: nn.Module) -> Probed:
        seconds = 0.002 + 0.008 * cost(network, SHAPE).macs / whole
        ratio, absolute = Estimate(value=seconds / 0.01), Estimate(value=seconds)
        if not joules:
            return Probed(latency_ratio=ratio, latency_s=absolute, energy_ratio=Estimate(value=None, reason="no meter"))
        return Probed(latency_ratio=ratio, latency_s=absolute, energy_ratio=ratio, energy_j=Estimate(value=3 * seconds))

    return probe


def test_measured_table_says_what_each_group_alone_costs() -> None:
    measured = measure_table(CHAIN, EXAMPLE, proportional(), source="closed form")
    assert set(measured.groups) == set(WIDTHS)
    require_of(measured, GROUPS)
    # By hand for the first convolution of Chain (1 -> 8 -> 12 on 8 x 8, pooled to 4 x 4): what narrows with it is linear in its width.
    name, width = next(iter(WIDTHS.items()))
    row = measured.groups[name]
    slopes = np.diff(row.costs) / np.diff(row.widths)
    assert row.widths[-1] == width
    assert row.costs[-1] == pytest.approx(0.01)
    assert slopes == pytest.approx(np.full(len(slopes), slopes[0]))
    assert measured.unit is CostUnit.SECONDS


def test_joules_need_a_meter() -> None:
    measured = measure_table(CHAIN, EXAMPLE, proportional(joules=True), unit=CostUnit.JOULES)
    assert next(iter(measured.groups.values())).costs[-1] == pytest.approx(0.03)
    with pytest.raises(MeasurementError, match="joules cannot be measured: no meter"):
        measure_table(CHAIN, EXAMPLE, proportional(), unit=CostUnit.JOULES)


def test_network_without_a_group_gives_no_table() -> None:
    with pytest.raises(CompressionError, match="nothing in this network"):
        measure_table(CHAIN, EXAMPLE, proportional(), protect=tuple(WIDTHS))


def test_measured_units_are_not_counted() -> None:
    with pytest.raises(ValueError, match="seconds are not counted"):
        CountedCost(layers(CHAIN, SHAPE), GROUPS, CostUnit.SECONDS, total=1)
