"""Objectives that contradict themselves, and the unit that an objective asks for."""

import pytest

from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.compress.goal import bounds, measured, require_known, require_sense, unit_of
from edgec.pipeline.compress.policy import Phase, Trial, is_small_and_fast
from edgec.pipeline.core.errors import CompressionError, MeasurementError
from edgec.pipeline.core.records import Constraints, Estimate, Probed, Quantity


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Constraints(), "asks nothing"),
        (Constraints(minimise=Quantity.PARAMS), "asks nothing"),
        (Constraints(size_ratio=0.0), "no network meets size <= 0"),
        (Constraints(energy_ratio=-0.5), "no network meets energy"),
        (Constraints(latency_ratio=float("nan")), "no network meets latency_p50"),
        (Constraints(accuracy_drop=-0.01), "asks for a gain"),
        (Constraints(accuracy_drop=5.0), "allows any loss"),
        (Constraints(accuracy_drop=0.0, minimise=Quantity.ACCURACY_DROP), "the dense network is the answer"),
        (Constraints(macs_ratio=0.5, minimise=Quantity.PARAMS), "cut down to the floors"),
    ],
)
def test_contradiction_is_told(asked: Constraints, said: str) -> None:
    with pytest.raises(CompressionError, match=said):
        require_sense(asked, paper=False)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Constraints(latency_ratio=0.5), "no measured latency_p50"),
        (Constraints(energy_ratio=0.5, size_ratio=0.5), "no measured energy and size"),
        (Constraints(accuracy_drop=0.01, minimise=Quantity.MACS), "no minimise"),
    ],
)
def test_what_the_paper_does_not_know_is_told(asked: Constraints, said: str) -> None:
    require_sense(asked, paper=False)
    with pytest.raises(CompressionError, match=said):
        require_sense(asked, paper=True)


@pytest.mark.parametrize(
    ("asked", "unit"),
    [
        (Constraints(accuracy_drop=0.01), CostUnit.PARAMETERS),
        (Constraints(accuracy_drop=0.01, minimise=Quantity.MACS), CostUnit.MACS),
        (Constraints(latency_ratio=0.5, accuracy_drop=0.0, minimise=Quantity.SIZE), CostUnit.PARAMETERS),
        (Constraints(latency_ratio=0.5, params_ratio=0.5), CostUnit.MACS),
        (Constraints(energy_ratio=0.5), CostUnit.MACS),
        (Constraints(macs_ratio=0.5), CostUnit.MACS),
        (Constraints(macs_ratio=0.5, params_ratio=0.5), CostUnit.PARAMETERS),
        (Constraints(macs_ratio=0.5, size_ratio=0.5), CostUnit.PARAMETERS),
        (Constraints(macs_ratio=0.5, minimise=Quantity.ACCURACY_DROP), CostUnit.MACS),
    ],
)
def test_unit_follows_what_is_asked(asked: Constraints, unit: CostUnit) -> None:
    assert unit_of(asked) is unit


def test_bounds_leave_out_accuracy_and_what_is_not_asked() -> None:
    assert bounds(Constraints(accuracy_drop=0.1, size_ratio=0.5)) == {Quantity.SIZE: 0.5}


def test_what_is_bounded_or_minimised_is_measured_where_counting_does_not_give_it() -> None:
    assert measured(Constraints(size_ratio=0.5)) == [Quantity.SIZE]
    assert measured(Constraints(accuracy_drop=0.1, energy_ratio=0.5, minimise=Quantity.LATENCY)) == [Quantity.LATENCY, Quantity.ENERGY]
    assert measured(Constraints(params_ratio=0.5, accuracy_drop=0.1, minimise=Quantity.MACS)) == []


def test_unknown_energy_under_a_bound_is_an_error_with_the_reason() -> None:
    latency = Estimate(value=0.5, low=0.4, high=0.6)
    seen = Probed(latency_ratio=latency, energy_ratio=Estimate(value=None, reason="no powercap zone"))
    require_known(Constraints(latency_ratio=0.5), seen)
    with pytest.raises(MeasurementError, match="energy, and it cannot be measured: no powercap zone"):
        require_known(Constraints(latency_ratio=0.5, energy_ratio=0.5), seen)
    with pytest.raises(MeasurementError, match="energy, and it cannot be measured: no powercap zone"):
        require_known(Constraints(accuracy_drop=0.1, minimise=Quantity.ENERGY), seen)
    with pytest.raises(MeasurementError, match="size, and it cannot be measured: the probe makes no file"):
        require_known(Constraints(size_ratio=0.5), seen)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0, -1.0])
def test_ratio_that_is_none_is_told_and_never_meets_a_bound(wrong: float) -> None:
    for seen in (Estimate(value=wrong, low=wrong, high=wrong), Estimate(value=0.5, low=0.4, high=wrong)):
        with pytest.raises(MeasurementError, match=f"the probe gives a latency_p50 of {wrong:g} x dense"):
            require_known(Constraints(latency_ratio=0.8), Probed(latency_ratio=seen))
    for asked in (Constraints(size_ratio=0.8), Constraints(accuracy_drop=0.1, minimise=Quantity.SIZE)):
        with pytest.raises(MeasurementError, match="the probe gives a size of"):
            require_known(asked, Probed(size_ratio=wrong))
    trial = Trial(phase=Phase.PROBE, parent=0, asked=0.5, kept=0.5, latency=Estimate(value=float("nan"), high=float("nan")))
    assert not is_small_and_fast(trial, Constraints(latency_ratio=0.8))


def test_value_without_an_interval_under_a_bound_is_told() -> None:
    bare = Probed(latency_ratio=Estimate(value=0.5))
    require_known(Constraints(accuracy_drop=0.1, minimise=Quantity.LATENCY), bare)
    with pytest.raises(MeasurementError, match="without the upper end of its interval"):
        require_known(Constraints(latency_ratio=0.8), bare)
