import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_zoo import Chain, ResNet
from torch import nn

from edgec.pipeline.compress.channel_cost import CostUnit, CountedCost
from edgec.pipeline.compress.channels import Group, Groups
from edgec.pipeline.compress.count import cost, layers
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.selection import floors, select

SHAPE = (1, 8, 8)
MODULE = ResNet(n=2, width=16)
GROUPS = find_groups(MODULE, torch.zeros(1, *SHAPE))
DENSE = cost(MODULE, SHAPE)
PRICE = CountedCost(layers(MODULE, SHAPE), GROUPS, CostUnit.PARAMETERS, total=DENSE.parameters)
FLOORS = floors(GROUPS, fraction=0.05, classes=4)


def scores(seed: int, groups: Groups = GROUPS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.channels, generator=generator, dtype=torch.float64) for g in groups.prunable}


def widths(selection) -> dict[str, int]:
    return {g.name: g.channels - len(selection.removed.get(g.name, ())) for g in selection.groups.prunable}


class Flat:
    """Every channel costs the same: 1."""

    def total(self, widths):
        return float(sum(widths.values()))

    def of_channel(self, group, widths):
        return 1.0


def flat_groups(*sizes: int) -> Groups:
    return Groups(tuple(Group(name=f"g{i}", channels=n, members=(), writers=()) for i, n in enumerate(sizes)))


def test_with_equal_prices_the_lowest_scores_of_all_groups_go():
    groups, values = flat_groups(10, 20), scores(5, flat_groups(10, 20))
    selection = select(groups, values, Flat(), target=17, floor={"g0": 0, "g1": 0})
    lowest = sorted(float(v) for each in values.values() for v in each)[:13]
    removed = sorted(float(values[name][i]) for name, indices in selection.removed.items() for i in indices)
    assert removed == lowest
    assert selection.threshold == lowest[-1]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), keep=st.floats(0.05, 0.99), substeps=st.integers(1, 30), round_to=st.sampled_from([1, 2, 4, 8]))
def test_cost_is_met_from_below_or_the_floors_are_reached(seed, keep, substeps, round_to):
    target = keep * DENSE.parameters
    selection = select(GROUPS, scores(seed), PRICE, target=target, floor=FLOORS, substeps=substeps, round_to=round_to)
    left = widths(selection)
    assert selection.cost == PRICE.total(left)
    for group in GROUPS.prunable:
        assert left[group.name] >= FLOORS[group.name]
        assert left[group.name] % round_to == 0
    if selection.exhausted:
        assert all(left[g.name] - round_to < FLOORS[g.name] for g in GROUPS.prunable)
    else:
        assert selection.cost <= target
        for name, indices in selection.removed.items():  # as near as whole cuts allow: none can be given back
            back = min(round_to, len(indices))
            assert PRICE.total({**left, name: left[name] + back}) > target


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_channels_that_stay_score_higher_than_those_that_go_within_a_group(seed):
    values = scores(seed)
    selection = select(GROUPS, values, PRICE, target=0.5 * DENSE.parameters, floor=FLOORS, round_to=4)
    for name, gone in selection.removed.items():
        stay = sorted(set(range(len(values[name]))) - set(gone))
        assert float(values[name][list(gone)].max()) <= float(values[name][stay].min())


def test_substeps_count_the_lower_price_of_layers_whose_neighbour_shrank():
    module = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 32, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)),
    )
    groups = find_groups(module, torch.zeros(1, *SHAPE))
    total = cost(module, SHAPE).parameters
    price = CountedCost(layers(module, SHAPE), groups, CostUnit.PARAMETERS, total=total)
    # All channels cost about the same; the middle layer scores lower, so it goes first, and its neighbours become cheap.
    values = {g.name: torch.linspace(0.5, 1.5, g.channels, dtype=torch.float64) * (0.7 if g.name == "2" else 1) for g in groups.prunable}
    left = {}
    for substeps in (1, 24):
        left[substeps] = widths(
            select(groups, values, price, target=0.3 * total, floor=dict.fromkeys(("0", "2", "4"), 4), substeps=substeps)
        )
    assert left[24]["0"] > left[1]["0"]
    assert left[24]["4"] > left[1]["4"]
    assert left[24]["2"] < left[1]["2"]


def test_nothing_goes_when_the_target_is_met_already():
    assert not select(GROUPS, scores(1), PRICE, target=DENSE.parameters, floor=FLOORS)


def test_width_that_is_no_multiple_is_first_cut_to_one():
    groups = flat_groups(10)
    selection = select(groups, scores(1, groups), Flat(), target=9, floor={"g0": 4}, round_to=4)
    assert widths(selection) == {"g0": 8}


def test_floors_of_a_chain():
    groups = find_groups(Chain(widths=(8, 200, 100), classes=3), torch.zeros(1, *SHAPE))
    assert floors(groups, fraction=0.05, classes=3) == {"features.0": 4, "features.4": 10, "hidden": 25}
    assert floors(groups, fraction=0.05, classes=20)["hidden"] == 40
    assert floors(groups, fraction=0.05, classes=90)["hidden"] == 100


def test_macs_goal_cuts_the_early_layers_that_the_parameters_goal_spares():
    values = {g.name: torch.ones(g.channels, dtype=torch.float64) for g in GROUPS.prunable}
    shares = {}
    for unit in CostUnit:
        total = getattr(DENSE, unit.value)
        price = CountedCost(layers(MODULE, SHAPE), GROUPS, unit, total=total)
        selection = select(GROUPS, values, price, target=0.7 * total, floor=FLOORS)
        shares[unit] = len(selection.removed.get("blocks.0.conv1", ())) / 16
    assert shares[CostUnit.MACS] > shares[CostUnit.PARAMETERS]


def test_digest_names_the_channels():
    one, other = (select(GROUPS, scores(seed), PRICE, target=0.5 * DENSE.parameters, floor=FLOORS) for seed in (1, 2))
    assert one.digest == select(GROUPS, scores(1), PRICE, target=0.5 * DENSE.parameters, floor=FLOORS).digest != other.digest
    assert math.isclose(one.cost / DENSE.parameters, 0.5, abs_tol=0.01)


@pytest.mark.parametrize("unit", CostUnit)
def test_price_falls_as_neighbours_shrink(unit):
    module = Chain()
    groups = find_groups(module, torch.zeros(1, *SHAPE))
    price = CountedCost(layers(module, SHAPE), groups, unit, total=getattr(cost(module, SHAPE), unit.value))
    assert price.of_channel("features.4", {"features.0": 4}) < price.of_channel("features.4", {})
