"""Where a search stands, told from rounds written by hand and checked against the policy itself."""

import math
from dataclasses import replace

import pytest

from edgec.pipeline.compress.policy import Phase, Propose, Trial, next_step
from edgec.pipeline.core.records import Constraints, Cost, Round
from edgec.pipeline.core.settings import PruneSettings
from edgec.pipeline.outlook import in_order, outlook

SETTINGS = PruneSettings(step=0.7, min_step=0.05, max_rounds=12)
ACCURACY, SIZE = Constraints(accuracy_drop=0.01), Constraints(params_ratio=0.3)


def a_round(index: int, asked: float, *, accepted: bool, probe: bool = False, parent: str = "dense", wall_s: float = 10.0) -> Round:
    return Round(
        index=index,
        parent=parent,
        checkpoint=None if probe else f"net {index}",
        asked_cost_kept=asked,
        threshold=0.0,
        cost=Cost(parameters=1, macs=1),
        widths={},
        accuracy=None,
        accuracy_drop=None,
        latency_ratio=None,
        accepted=accepted,
        reason="probe: meets the bounds" if probe else "accepted",
        wall_s=wall_s,
    )


@pytest.mark.parametrize("cliff", [0.9, 0.55, 0.31, 0.05])
def test_the_bound_on_rounds_holds_for_what_the_policy_does(cliff: float) -> None:
    """Networks below the cliff lose too much accuracy: the bound never falls below the rounds that then really come."""
    history, rounds, bounds = [Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0)], [], []
    while isinstance(step := next_step(history, SETTINGS, ACCURACY), Propose):
        good = step.cost_kept >= cliff
        history.append(Trial(phase=step.phase, parent=step.parent, asked=step.cost_kept, kept=step.cost_kept, drop=0.0 if good else 0.5))
        rounds.append(a_round(len(rounds) + 1, step.cost_kept, accepted=good))
        bounds.append(outlook(rounds, SETTINGS, ACCURACY).rounds_left)
    left = range(len(rounds) - 1, -1, -1)
    assert all(bound is not None and bound >= still for bound, still in zip(bounds, left, strict=True))
    assert bounds[-1] == 0


def test_the_bracket_of_an_accuracy_search_is_between_good_and_bad() -> None:
    rounds = [a_round(1, 0.7, accepted=True), a_round(2, 0.49, accepted=False), a_round(3, 0.6, accepted=True, wall_s=30.0)]
    assert outlook(rounds[:1], SETTINGS, ACCURACY).low is None
    state = outlook(rounds, SETTINGS, ACCURACY)
    assert (state.low, state.high, state.at_most) == (0.49, 0.6, True)
    # ln(0.6 / 0.49) = 0.20: a first step of 0.10, a second of 0.05, then the next would be 0.025
    assert state.rounds_left == 2
    assert state.seconds_left == pytest.approx(2 * 50 / 3)


def test_the_bracket_of_a_size_search_is_that_of_the_probes_of_the_network_at_hand() -> None:
    probes = [a_round(1, 0.3, accepted=True, probe=True), a_round(2, 0.36, accepted=False, probe=True)]
    state = outlook(probes, SETTINGS, SIZE)
    assert (state.low, state.high, state.seconds_left) == (0.3, 0.36, None)
    assert (state.rounds_left, state.at_most) == (math.ceil(math.log(0.3) / math.log(0.7)), False)
    trained = [*probes, a_round(3, 0.55, accepted=True)]
    assert outlook(trained, SETTINGS, SIZE).rounds_left is None, "no cut of the new network was probed yet"
    again = [*trained, a_round(4, 0.4, accepted=False, probe=True, parent="net 3")]
    assert (outlook(again, SETTINGS, SIZE).low, outlook(again, SETTINGS, SIZE).high) == (None, 0.4)


def test_no_more_rounds_than_the_settings_allow() -> None:
    one = replace(SETTINGS, max_rounds=1)
    assert outlook([a_round(1, 0.7, accepted=True)], one, ACCURACY).rounds_left == 0
    assert outlook([a_round(1, 0.7, accepted=True)], replace(SETTINGS, policy="paper"), ACCURACY).rounds_left == 11


def test_layers_stand_as_they_are_counted() -> None:
    names = ["features.10", "features.7", "features.0.conv", "features.0"]
    assert in_order(names) == ["features.0", "features.0.conv", "features.7", "features.10"]
