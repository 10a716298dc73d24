"""What a search may be asked for: contradictions are told before anything runs, and the unit of the search follows."""

import math

from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.core.errors import CompressionError, MeasurementError
from edgec.pipeline.core.records import Constraints, Estimate, Probed, Quantity
from edgec.pipeline.objective import concerns

FIELDS = {
    Quantity.LATENCY: "latency_ratio",
    Quantity.ENERGY: "energy_ratio",
    Quantity.SIZE: "size_ratio",
    Quantity.PARAMS: "params_ratio",
    Quantity.MACS: "macs_ratio",
}
"""Bounds relative to the dense network."""

MEASURED = (Quantity.LATENCY, Quantity.ENERGY, Quantity.SIZE)
"""Only a probe knows them."""


def bounds(constraints: Constraints) -> dict[Quantity, float]:
    """The bounds relative to the dense network that are asked for."""
    found = {quantity: getattr(constraints, name) for quantity, name in FIELDS.items()}
    return {quantity: bound for quantity, bound in found.items() if bound is not None}


def require_sense(constraints: Constraints, *, paper: bool) -> None:
    """That the objective asks something, and nothing that contradicts itself.

    Raises:
        CompressionError: it does not.
    """
    asked, drop, least = bounds(constraints), constraints.accuracy_drop, constraints.minimise
    if drop is None and not asked:
        raise CompressionError("the objective asks nothing", hint='for example [objective] subject_to = ["accuracy_drop <= 1.0"]')
    for quantity, bound in asked.items():
        if not bound > 0:
            raise CompressionError(f"no network meets {quantity} <= {bound:g} x dense", hint="ratios are greater than 0")
    if drop is not None and not drop >= 0:
        raise CompressionError(f"accuracy_drop <= {drop:g} asks for a gain", hint="ask for 0 or more")
    if drop is not None and drop > 1:
        raise CompressionError(f"accuracy_drop <= {drop:g} allows any loss", hint="it is a fraction: 0.01 is one percentage point")
    if least is Quantity.ACCURACY_DROP and not asked:
        raise CompressionError(
            "minimise accuracy_drop contradicts an objective that bounds nothing else: the dense network is the answer",
            hint="bound params, macs, size, latency_p50 or energy, or minimise one of them",
        )
    if least is not None and least is not Quantity.ACCURACY_DROP and drop is None:
        raise CompressionError(
            f"minimise {least} without a bound on accuracy would cut down to the floors",
            hint='add "accuracy_drop <= …", or leave minimise away: the mildest cut that meets the bounds is then the answer',
        )
    strange = [quantity for quantity in MEASURED if quantity in asked]
    if paper and strange:
        raise CompressionError(
            f"the paper's policy knows no measured {' and '.join(strange)}", hint='bound macs instead, or set [prune] policy = "cost"'
        )
    if paper and least is not None:
        raise CompressionError("the paper's policy knows no minimise", hint='leave it away, or set [prune] policy = "cost"')


def unit_of(constraints: Constraints) -> CostUnit:
    """What a step is a share of: MACs where time or energy count, or MACs and no size; else parameters."""
    counted_macs = {Quantity.LATENCY, Quantity.ENERGY, Quantity.MACS}
    if constraints.minimise not in (None, Quantity.ACCURACY_DROP):
        return CostUnit.MACS if constraints.minimise in counted_macs else CostUnit.PARAMETERS
    asked = set(bounds(constraints))
    if asked & {Quantity.LATENCY, Quantity.ENERGY}:
        return CostUnit.MACS
    by_macs = Quantity.MACS in asked and not asked & {Quantity.PARAMS, Quantity.SIZE}
    return CostUnit.MACS if by_macs else CostUnit.PARAMETERS


def measured(constraints: Constraints) -> list[Quantity]:
    """What is bounded or minimised that only a probe knows."""
    return [quantity for quantity in MEASURED if concerns(constraints, quantity)]


def require_known(constraints: Constraints, probed: Probed) -> None:
    """That the probe measured what is asked for: a finite ratio above 0, and the upper end of its interval where that is bounded.

    Raises:
        MeasurementError: it did not; with the probe's reason.
    """
    size = Estimate(value=probed.size_ratio, high=probed.size_ratio, reason="the probe makes no file")
    seen = {Quantity.LATENCY: probed.latency_ratio, Quantity.ENERGY: probed.energy_ratio, Quantity.SIZE: size}
    for quantity in measured(constraints):
        ratio = seen[quantity]
        if ratio.value is None:
            hint = {
                Quantity.LATENCY: "ask for macs instead",
                Quantity.ENERGY: "ask for macs or latency_p50 instead, or take a target with a meter: edgec doctor lists them",
                Quantity.SIZE: "ask for params instead: a file's size follows them",
            }[quantity]
            why = ratio.reason or "the probe gives no value and no reason"
            raise MeasurementError(f"the objective asks for {quantity}, and it cannot be measured: {why}", hint=hint)
        high = ratio.high if quantity in bounds(constraints) else ratio.value
        if high is None:
            raise MeasurementError(
                f"the probe gives {quantity} without the upper end of its interval, by which the bound is judged",
                hint="Estimate(value=…, low=…, high=…); the same three times where there is no noise",
            )
        wrong = [end for end in (ratio.value, high) if not 0 < end < math.inf]
        if wrong:
            raise MeasurementError(
                f"the probe gives a {quantity} of {wrong[0]:g} x dense", hint="a ratio to the dense network is finite and above 0"
            )
