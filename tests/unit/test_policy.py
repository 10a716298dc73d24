import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec.pipeline.compress.policy import (
    GENTLE,
    MAX_PROBES,
    PROBE_MARGIN,
    Phase,
    Propose,
    Stop,
    Trial,
    is_accurate,
    is_small_and_fast,
    next_step,
)
from edgec.pipeline.core.records import Constraints, Estimate, Quantity
from edgec.pipeline.core.settings import PruneSettings

Curve = Callable[[float], float]
LIMIT = 300
SE = 0.0001
"""Of a drop of accuracy."""
EDGE = 0.01 - SE
"""The largest drop that `ACCURACY` allows."""


class World:
    """A network that exists only as curves: cost kept to accuracy drop and to latency; cuts land on a grid, floors stop them."""

    def __init__(self, drop: Curve = lambda kept: 0.0, latency: Curve | None = None, grid: float = 0.002, floor: float = 0.02) -> None:
        self.drop, self.latency, self.grid, self.floor = drop, latency, grid, floor
        self.history = [Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0)]
        self.trained: list[tuple[int, float]] = []

    def search(self, constraints: Constraints, options: PruneSettings | None = None) -> Stop:
        options = options or PruneSettings(max_rounds=40)
        for _ in range(LIMIT):
            step = next_step(self.history, options, constraints)
            if isinstance(step, Stop):
                return step
            self.history.append(self.trial(step))
        raise AssertionError("the search does not stop")

    def trial(self, step: Propose) -> Trial:
        base = self.history[step.parent]
        assert 0 < step.cost_kept < base.kept
        kept = math.floor(step.cost_kept / self.grid + 1e-9) * self.grid
        exhausted = kept < self.floor
        kept = min(base.kept, max(kept, self.floor))
        trial = Trial(
            phase=step.phase,
            parent=step.parent,
            asked=step.cost_kept,
            kept=kept,
            params_ratio=kept,
            macs_ratio=math.sqrt(kept),
            exhausted=exhausted,
            empty=kept == base.kept,
        )
        if self.latency is not None:
            ratio = self.latency(kept)
            trial = replace(trial, latency=Estimate(value=ratio, low=ratio * 0.99, high=ratio * 1.01))
        seen = [t for t in self.history if t.phase is step.phase and t.parent == step.parent and t.kept == kept and not t.empty]
        if trial.empty or seen:
            return replace(trial, repeat=bool(seen))
        if step.phase is Phase.TRAIN:
            self.trained.append((step.parent, kept))
            trial = replace(trial, drop=self.drop(kept), drop_se=SE)
        return trial


ACCURACY = Constraints(accuracy_drop=0.01)
STEP: Curve = lambda kept: 0.0 if kept >= 0.23 else 0.05
SMOOTH: Curve = lambda kept: 0.002 / kept
NON_MONOTONE: Curve = lambda kept: 0.02 if 0.55 < kept < 0.72 or kept < 0.3 else 0.001
CLIFF: Curve = lambda kept: 0.0 if kept > 0.9 else 0.8


def best(world: World, constraints: Constraints) -> float:
    return min(
        [t.kept for t in world.history if t.phase is Phase.TRAIN and t.drop is not None and is_accurate(t, constraints)], default=1.0
    )


@pytest.mark.parametrize(
    ("drop", "optimum"),
    [(STEP, 0.23), (SMOOTH, 0.002 / EDGE), (CLIFF, 0.9)],
    ids=["step", "smooth", "cliff"],
)
def test_accuracy_bound_is_approached_to_the_last_step(drop, optimum):
    world = World(drop)
    stop = world.search(ACCURACY)
    kept = world.history[stop.chosen].kept
    assert stop.met
    assert optimum <= kept <= optimum * math.exp(2 * 0.02) + world.grid
    assert len(world.trained) <= math.log(1 / optimum) / math.log(1 / 0.7) + math.log2(math.log(1 / 0.7) / 0.02) + 2


def test_bound_that_nothing_meets_gives_the_dense_network():
    world = World(lambda kept: 0.05)
    stop = world.search(ACCURACY)
    assert (stop.chosen, stop.met) == (0, True)
    assert len(world.trained) <= 6


def test_flat_curve_ends_at_the_floors():
    world = World(lambda kept: 0.0)
    stop = world.search(ACCURACY)
    assert world.history[stop.chosen].kept == world.floor
    assert "nothing more to cut" in stop.reason


def test_non_monotone_curve_ends_with_a_network_that_was_accepted():
    world = World(NON_MONOTONE)
    stop = world.search(ACCURACY)
    assert world.history[stop.chosen].kept == best(world, ACCURACY)


def test_margin_rejects_a_drop_that_is_within_the_bound_by_less_than_a_standard_error():
    trial = Trial(phase=Phase.TRAIN, parent=0, asked=0.7, kept=0.7, drop=0.0095, drop_se=0.001)
    assert not is_accurate(trial, ACCURACY)
    assert is_accurate(replace(trial, drop=0.0089), ACCURACY)
    assert is_accurate(trial, ACCURACY, margin=0)


def test_search_ends_where_validation_cannot_tell_good_from_bad():
    def after(bad: float) -> Propose | Stop:
        history = [
            Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0),
            Trial(phase=Phase.TRAIN, parent=0, asked=0.7, kept=0.7, drop=0.008, drop_se=0.002),
            Trial(phase=Phase.TRAIN, parent=1, asked=0.49, kept=0.49, drop=bad, drop_se=0.002),
        ]
        return next_step(history, PruneSettings(), ACCURACY)

    assert after(0.0101) == Propose(phase=Phase.TRAIN, cost_kept=pytest.approx(0.7 * math.sqrt(0.7)), parent=1)
    stop = after(0.0099)
    assert isinstance(stop, Stop)
    assert (stop.chosen, stop.met) == (1, True)
    assert "cannot tell" in stop.reason


def test_failed_training_is_a_rejected_round_and_the_search_goes_on_from_the_last_good_network():
    history = [
        Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0),
        Trial(phase=Phase.TRAIN, parent=0, asked=0.7, kept=0.7, drop=0.0, drop_se=0.0),
        Trial(phase=Phase.TRAIN, parent=1, asked=0.49, kept=0.49, failure="the loss is NaN"),
    ]
    step = next_step(history, PruneSettings(), ACCURACY)
    assert step == Propose(phase=Phase.TRAIN, cost_kept=pytest.approx(0.7 * math.sqrt(0.7)), parent=1)


def test_failure_halves_the_step_in_ln():
    history = [Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0)]
    for expected in (0.7, math.sqrt(0.7), 0.7**0.25):
        step = next_step(history, PruneSettings(), ACCURACY)
        assert isinstance(step, Propose)
        assert step.cost_kept == pytest.approx(expected)
        history.append(Trial(phase=Phase.TRAIN, parent=0, asked=expected, kept=expected, drop=0.1, drop_se=0.0))


def test_rounds_are_limited():
    world = World()
    stop = world.search(ACCURACY, PruneSettings(max_rounds=3))
    assert len(world.trained) == 3
    assert "3 rounds" in stop.reason


def test_dense_network_that_meets_the_bounds_is_the_answer():
    for constraints in (Constraints(latency_ratio=1.0, accuracy_drop=0.01), Constraints(params_ratio=1.0), Constraints(macs_ratio=1.5)):
        world = World(latency=lambda kept: kept)
        stop = world.search(constraints)
        assert (stop.chosen, stop.met, len(world.history)) == (0, True, 1)
        assert "dense network meets" in stop.reason


STAIRS: Curve = lambda kept: 0.1 + 0.9 * math.ceil(kept * 8) / 8
PROPORTIONAL: Curve = lambda kept: kept
OVERHEAD: Curve = lambda kept: 0.3 + 0.7 * kept


@pytest.mark.parametrize("latency", [STAIRS, PROPORTIONAL, OVERHEAD], ids=["stairs", "proportional", "overhead"])
@pytest.mark.parametrize("bound", [0.95, 0.6, 0.45])
def test_latency_bound_is_met_by_the_mildest_cut(latency, bound):
    world = World(SMOOTH, latency)
    stop = world.search(Constraints(latency_ratio=bound))
    chosen = world.history[stop.chosen]
    assert stop.met
    assert chosen.phase is Phase.TRAIN
    assert latency(chosen.kept) * 1.01 <= bound
    mildest = max(k / 1000 for k in range(20, 1000) if latency(k / 1000) * 1.01 <= bound * PROBE_MARGIN)
    assert chosen.kept >= mildest * math.exp(-2 * 2 * 0.02) - 2 * world.grid


def test_rounds_towards_a_latency_bound_keep_the_step_or_more():
    world = World(latency=PROPORTIONAL)
    stop = world.search(Constraints(latency_ratio=0.2))
    trained = [t for t in world.history if t.phase is Phase.TRAIN]
    assert stop.met
    assert all(t.asked / world.history[t.parent].kept >= 0.7 - 1e-9 for t in trained)
    assert len(trained) == math.ceil(math.log(1 / (0.2 * PROBE_MARGIN / 1.01)) / math.log(1 / 0.7))


def test_no_training_before_a_probe_has_met_the_bound():
    world = World(latency=OVERHEAD)
    stop = world.search(Constraints(latency_ratio=0.25))
    assert not stop.met
    assert stop.chosen == 0
    assert world.trained == []
    assert "no cut" in stop.reason


def test_probes_of_later_networks_start_where_the_answer_was():
    world = World(latency=PROPORTIONAL)
    world.search(Constraints(latency_ratio=0.2))
    probes = [sum(t.phase is Phase.PROBE and t.parent == i for t in world.history) for i in range(len(world.history))]
    assert max(probes) <= MAX_PROBES
    assert all(n <= 5 for n in probes[1:])


def test_threshold_moves_when_a_later_network_is_slower_than_was_thought():
    # The dense network's probes look fast; the networks that grow out of it are slower at the same cost.
    world = World()
    world.latency = lambda kept: kept if not world.trained else 1.15 * kept
    stop = world.search(Constraints(latency_ratio=0.4))
    assert stop.met
    assert world.history[stop.chosen].kept * 1.15 * 1.01 <= 0.4


def test_latency_and_accuracy_that_contradict_give_the_nearest_and_say_so():
    world = World(lambda kept: 0.0 if kept > 0.6 else 0.1, PROPORTIONAL)
    stop = world.search(Constraints(latency_ratio=0.3, accuracy_drop=0.01))
    assert not stop.met
    assert "not met" in stop.reason
    assert world.history[stop.chosen].kept == best(world, Constraints(accuracy_drop=0.01))
    assert 0.6 < world.history[stop.chosen].kept <= 0.72


def test_gentler_rounds_are_tried_when_a_big_one_costs_too_much_accuracy():
    # What costs accuracy is the size of one round, not the place.
    class Fragile(World):
        def trial(self, step):
            self.base = self.history[step.parent].kept
            return super().trial(step)

    world = Fragile(latency=PROPORTIONAL)
    world.drop = lambda kept: 0.0 if kept / world.base > 0.8 else 0.05
    stop = world.search(Constraints(latency_ratio=0.5, accuracy_drop=0.01))
    assert stop.met
    assert world.history[stop.chosen].kept <= 0.5


def test_latency_that_was_not_measured_never_meets_a_bound():
    probe = Trial(phase=Phase.PROBE, parent=0, asked=0.5, kept=0.5, latency=Estimate(value=None, reason="the board is busy"))
    assert not is_small_and_fast(probe, Constraints(latency_ratio=0.9))


@pytest.mark.parametrize(
    "constraints", [Constraints(params_ratio=0.3), Constraints(macs_ratio=0.5), Constraints(params_ratio=0.3, macs_ratio=0.5)]
)
def test_sizes_are_met_without_measuring(constraints):
    world = World()
    stop = world.search(constraints)
    chosen = world.history[stop.chosen]
    assert stop.met
    assert is_small_and_fast(chosen, constraints)
    asked = min(constraints.params_ratio or 1, (constraints.macs_ratio or 1) ** 2)
    assert chosen.kept >= asked * math.exp(-2 * 0.02) - 2 * world.grid


curves = st.lists(st.floats(0, 0.05), min_size=30, max_size=30).map(lambda steps: lambda kept: steps[min(29, int(kept * 30))])
stairs = st.lists(st.floats(0.02, 1), min_size=30, max_size=30).map(lambda steps: lambda kept: steps[min(29, int(kept * 30))])
bounds = st.none() | st.floats(0.05, 1.1)


@settings(max_examples=300, deadline=None)
@given(curves, stairs, st.floats(0, 0.03) | st.none(), bounds, bounds, st.sampled_from([0.0005, 0.01, 0.06]))
def test_any_world_ends_with_an_answer_that_holds_what_it_says(drop, latency, accuracy, fast, small, grid):
    constraints = Constraints(accuracy_drop=accuracy, latency_ratio=fast, params_ratio=small)
    if constraints == Constraints():
        return
    world = World(drop, latency, grid=grid)
    stop = world.search(constraints, PruneSettings())
    chosen = world.history[stop.chosen]
    assert chosen.phase is not Phase.PROBE
    assert is_accurate(chosen, constraints)
    if stop.met:
        assert is_small_and_fast(chosen, constraints)
    assert len(set(world.trained)) == len(world.trained) <= PruneSettings().max_rounds
    assert not any(t.empty and t.drop is not None for t in world.history)


def test_smaller_network_that_was_accepted_refutes_a_larger_one_that_was_not():
    history = [
        Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0),
        Trial(phase=Phase.TRAIN, parent=0, asked=0.7, kept=0.66, drop=0.02, drop_se=0.0),
        Trial(phase=Phase.TRAIN, parent=0, asked=0.81, kept=0.65, drop=0.0, drop_se=0.0),
    ]
    assert next_step(history, PruneSettings(), ACCURACY) == Propose(phase=Phase.TRAIN, cost_kept=pytest.approx(0.65 * 0.7), parent=2)


# -- families of curves, several of each


def curve_of(kind: str, seed: int) -> tuple[Curve, float | None]:
    """An accuracy drop over the cost kept, and the smallest cost that keeps the bound of `ACCURACY` with its margin, if it is one place."""
    random = np.random.default_rng(seed)
    edge = float(random.uniform(0.1, 0.95))
    if kind == "step":
        return (lambda kept: 0.0 if kept >= edge else 0.03), edge
    if kind == "cliff":
        return (lambda kept: 0.0085 * edge / kept if kept >= edge else 0.8), edge
    if kind == "smooth":
        return (lambda kept: EDGE * edge / kept), edge
    if kind == "flat":
        return (lambda kept: 0.0), 0.02
    if kind == "noisy":
        table = EDGE * edge / (np.arange(1, 1001) / 1000) + random.normal(0, 0.0015, 1000)
        return (lambda kept: float(table[min(999, int(kept * 1000))])), None
    hill = float(random.uniform(0.3, 0.9))  # non-monotone: between `edge` and 1 there is a stretch that costs accuracy
    return (lambda kept: 0.03 if kept < edge or hill - 0.1 < kept < hill else 0.0), None


KINDS = ("step", "cliff", "smooth", "flat", "noisy", "non-monotone")
families = pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind in KINDS for seed in range(1 if kind == "flat" else 6)])


@families
def test_bracket_closes_on_its_optimum(kind, seed):
    drop, optimum = curve_of(kind, seed)
    world = World(drop)
    stop = world.search(ACCURACY)
    chosen = world.history[stop.chosen]
    assert stop.met
    assert is_accurate(chosen, ACCURACY)
    if optimum is not None:
        assert optimum - world.grid <= chosen.kept <= optimum * math.exp(2 * 0.02) + world.grid
    if chosen.kept > world.floor:
        below = chosen.kept * math.exp(-2 * 0.02) - world.grid
        tried = [t for t in world.history if t.phase is Phase.TRAIN and below <= t.kept < chosen.kept]
        assert any(not is_accurate(t, ACCURACY) for t in tried), "nothing just below the answer was rejected"


@families
@pytest.mark.parametrize("bound", [0.6, 0.3])
def test_size_and_accuracy_together_are_met_or_said_to_be_out_of_reach(kind, seed, bound):
    drop, optimum = curve_of(kind, seed)
    both = replace(ACCURACY, params_ratio=bound)
    world = World(drop)
    stop = world.search(both)
    chosen = world.history[stop.chosen]
    assert is_accurate(chosen, both)
    assert stop.met is is_small_and_fast(chosen, both)
    assert stop.met or "not met" in stop.reason
    if optimum is not None:
        assert stop.met is (optimum <= bound)
        if not stop.met:  # the nearest network is near
            assert chosen.kept <= optimum * math.exp(GENTLE) + 2 * world.grid
    # A round for each step on the way, and a rejected one for each halving.
    way = math.log(1 / max(chosen.kept, bound))
    halvings = math.ceil(math.log2(math.log(1 / 0.7) / GENTLE))
    assert len(world.trained) <= way / (math.log(1 / 0.7) / 2**halvings) + halvings + 2


def test_rejected_round_is_followed_by_a_gentler_one_from_the_last_good_network_and_a_rejected_gentle_one_ends_the_search():
    world = World(lambda kept: 0.0 if kept >= 0.6 else 0.1)
    stop = world.search(Constraints(params_ratio=0.2, accuracy_drop=0.01))
    steps = [(world.history[parent].kept / kept, kept) for parent, kept in world.trained]
    assert [round(ratio, 1) for ratio, _ in steps] == [1.4, 1.4, 1.2, 1.2, 1.1]
    assert [kept >= 0.6 for _, kept in steps] == [True, False, True, False, False]
    assert world.history[stop.chosen].kept == steps[2][1]
    assert "90% or more of the nearest network's cost was rejected" in stop.reason


def test_minimised_cost_within_bounds_goes_on_among_networks_that_meet_them():
    bound = Constraints(latency_ratio=0.7, accuracy_drop=0.01, minimise=Quantity.PARAMS)
    world = World(lambda kept: 0.0 if kept >= 0.3 else 0.1, PROPORTIONAL)
    stop = world.search(bound)
    chosen = world.history[stop.chosen]
    assert stop.met
    assert 0.3 - world.grid <= chosen.kept <= 0.3 * math.exp(2 * 0.02) + world.grid
    slow = World(lambda kept: 0.0, latency=lambda kept: kept if kept > 0.4 else 0.9)  # smaller networks are slower there
    stop = slow.search(bound)
    assert stop.met
    assert is_small_and_fast(slow.history[stop.chosen], bound)
    assert 0.4 <= slow.history[stop.chosen].kept <= 0.4 * math.exp(2 * 0.02) + slow.grid
    assert World(lambda kept: 0.0).search(replace(bound, latency_ratio=1.0)).met


@pytest.mark.parametrize(
    ("latency", "fastest"),
    [(lambda kept: 2 - kept, 1.0), (lambda kept: abs(kept - 0.5) + 0.5, 0.5), (PROPORTIONAL, 0.3)],
    ids=["slower with each cut", "slower below a half", "proportional"],
)
def test_minimised_latency_is_that_which_was_measured(latency, fastest):
    world = World(lambda kept: 0.0 if kept >= 0.3 else 0.1, latency)
    stop = world.search(replace(ACCURACY, minimise=Quantity.LATENCY))
    accepted = [t.kept for t in world.history if t.phase is Phase.TRAIN and is_accurate(t, ACCURACY)]
    assert stop.met
    assert latency(world.history[stop.chosen].kept) == min(latency(kept) for kept in [1.0, *accepted])
    assert world.history[stop.chosen].kept == pytest.approx(fastest, rel=0.05)
    assert min(accepted) <= 0.3 * math.exp(2 * 0.02) + world.grid, "the steps went on where nothing was gained"


def test_energy_and_size_are_judged_like_latency_and_like_parameters():
    trial = Trial(phase=Phase.TRAIN, parent=0, asked=0.5, kept=0.5, energy=Estimate(value=0.5, low=0.49, high=0.51), size_ratio=0.5)
    assert is_small_and_fast(trial, Constraints(energy_ratio=0.51))
    assert not is_small_and_fast(trial, Constraints(energy_ratio=0.51), margin=PROBE_MARGIN)
    assert not is_small_and_fast(trial, Constraints(energy_ratio=0.505))
    assert is_small_and_fast(trial, Constraints(size_ratio=0.5), margin=PROBE_MARGIN)
    assert not is_small_and_fast(replace(trial, size_ratio=None), Constraints(size_ratio=0.5))
