"""Two measurements set side by side: what may be compared, how, and with which interval.

Unlike conditions are refused by name. Latency of one run is compared block by block; of two runs only when everything that moves it
is the same: target, machine, runtime and its version, threads, batch, provenance, governor and power mode. Precision is no
condition but a property of the network: int8 against fp32 is what people ask about.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.pipeline import stats
from edgec.pipeline.core.records import Accuracy, Estimate, Measurement, Provenance
from edgec.profilers.energy import REPLAY

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    Correctness = tuple[ArrayLike, ArrayLike]
    """Whether each image was right, bool, by the first and by the second network; same images, same order."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of both, and how they relate."""

    metric: str
    unit: str
    """s, J, B, or empty for a fraction."""
    a: Estimate
    b: Estimate
    relation: str
    """ratio (a / b) or difference (a - b)."""
    related: Estimate
    """Refused with the reason where the two may not be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which application, and which network of it before compression, a measured file is of. An empty text is unknown."""

    app: str = ""
    builder: str = ""
    inputs: str = ""
    """Name and shape of each input, as the network was described."""
    classes: int | None = None


def unlike_networks(a: Identity, b: Identity) -> tuple[str, ...]:
    """In what two networks are not the same one before compression, each with both values; what one of them does not say is left out."""
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(a, name), getattr(b, name)) for name in ("app", "builder", "inputs", "classes")
    ]
    return tuple(f"{name}: {one} and {other}" for name, one, other in pairs if one and other and one != other)


def compare(a: Measurement, b: Measurement, *, correct: "Correctness | None" = None, confidence: float = 0.95) -> list[Row]:
    """Rows for `edgec compare A B`. `correct` is from the two stored files of predictions, where both are there."""
    tail = stats.refused("tail quantiles are shown, not compared: a ratio's interval would take far more blocks")
    sizes = (stats.exact(a.size_bytes), stats.exact(b.size_bytes))
    return [
        Row("latency_p50", "s", a.latency.p50_s, b.latency.p50_s, "ratio", latency_ratio(a, b, confidence)),
        Row("latency_p99", "s", a.latency.p99_s, b.latency.p99_s, "ratio", tail),
        Row("energy_gross", "J", a.energy.gross_j, b.energy.gross_j, "ratio", energy_ratio(a, b, confidence)),
        Row("memory_peak", "B", _peak(a), _peak(b), "ratio", _peak_ratio(a, b)),
        Row("size", "B", *sizes, "ratio", size_ratio(a, b)),
        Row("top1", "", _top1(a), _top1(b), "difference", accuracy_difference(a, b, correct, confidence)),
    ]


def unlike(a: Measurement, b: Measurement) -> tuple[str, ...]:
    """The conditions of latency and energy in which two measurements differ, each with both values; empty when they agree."""
    pairs: list[tuple[str, object, object]] = [
        ("target", a.target, b.target),
        *((name, getattr(a.facts, name), getattr(b.facts, name)) for name in ("board", "machine", "system", "kernel", "cpu", "cores")),
        ("runtime", f"{a.runtime} {a.runtime_version}", f"{b.runtime} {b.runtime_version}"),
        ("threads", a.threads, b.threads),
        ("batch", a.batch, b.batch),
        ("provenance", a.provenance.value, b.provenance.value),
        ("governor", a.before.governor, b.before.governor),
        ("power mode", a.before.power_mode, b.before.power_mode),
    ]
    return tuple(f"{name}: {one} and {other}" for name, one, other in pairs if one != other)


def latency_ratio(a: Measurement, b: Measurement, confidence: float = 0.95) -> Estimate:
    """p50 of a over p50 of b: paired over the turns of one run, else over independent blocks if the conditions agree."""
    fault = invalid(a, b)
    if fault:
        return stats.refused(fault, confidence=confidence)
    if a.run != b.run:
        differences = unlike(a, b)
        if differences:
            return stats.refused(f"measured in two runs under unlike conditions ({'; '.join(differences)})", confidence=confidence)
    return stats.ratio_of_medians(a.latency.blocks, b.latency.blocks, confidence, paired=a.run == b.run)


def energy_ratio(a: Measurement, b: Measurement, confidence: float = 0.95) -> Estimate:
    """Gross joules per inference of a over b, by the same sensor over the same rails, from the two intervals."""
    fault = invalid(a, b)
    if fault:
        return stats.refused(fault, confidence=confidence)
    for each in (a, b):
        if each.energy.gross_j.value is None:
            return stats.refused(f"{each.label}: {each.energy.gross_j.reason}", confidence=confidence)
    differences = () if a.run == b.run else unlike(a, b)
    if (a.energy.sensor, a.energy.scope) != (b.energy.sensor, b.energy.scope):
        differences += (f"sensor: {_sensor(a)} and {_sensor(b)}",)
    if differences:
        return stats.refused(f"unlike conditions ({'; '.join(differences)})", confidence=confidence)
    return stats.ratio_of_estimates(a.energy.gross_j, b.energy.gross_j, confidence)


def size_ratio(a: Measurement, b: Measurement) -> Estimate:
    """File size of a over b; exact."""
    return stats.exact(a.size_bytes / b.size_bytes)


def accuracy_difference(a: Measurement, b: Measurement, correct: "Correctness | None", confidence: float = 0.95) -> Estimate:
    """Top-1 of a less b on the device as a fraction, paired by image.

    Refused without both accuracies, on different splits, or without the per-image correctness (the sum of which is checked).
    """
    import numpy as np

    for each in (a, b):
        if each.accuracy is None:
            return stats.refused(f"{each.label}: accuracy was not measured: {each.accuracy_reason}", confidence=confidence)
    one, other = a.accuracy, b.accuracy
    assert isinstance(one, Accuracy)
    assert isinstance(other, Accuracy)
    if (one.split, one.n) != (other.split, other.n):
        return stats.refused(f"accuracy on {one.n} {one.split} images and on {other.n} {other.split} images", confidence=confidence)
    if correct is None:
        return stats.refused("the predictions for each image are not both in the store", confidence=confidence)
    counts = (int(np.sum(np.asarray(correct[0]))), int(np.sum(np.asarray(correct[1]))))
    if counts != (one.correct, other.correct):
        return stats.refused(
            f"the stored predictions have {counts[0]} and {counts[1]} images right, the records {one.correct} and {other.correct}",
            confidence=confidence,
        )
    return stats.paired_difference(correct[0], correct[1], confidence)


def energy_provenance(measurement: Measurement) -> Provenance:
    """That of the record, except that a replayed trace makes replayed energy."""
    return Provenance.REPLAYED if measurement.energy.sensor == REPLAY else measurement.provenance


def invalid(*measurements: Measurement) -> str:
    """Why timings and energies of one of these may not be used; empty when all may."""
    return "; ".join(f"{m.label}: {cause}" for m in measurements if not m.validity.valid for cause in m.validity.causes)


def _sensor(measurement: Measurement) -> str:
    return f"{measurement.energy.sensor or 'none'} ({', '.join(measurement.energy.scope)})"


def _top1(measurement: Measurement) -> Estimate:
    return measurement.accuracy.top1 if measurement.accuracy else stats.refused(measurement.accuracy_reason)


def _peak(measurement: Measurement) -> Estimate:
    peak = measurement.memory.peak_bytes
    return stats.refused(measurement.memory.reason) if peak is None else Estimate(value=peak, n=1, method="one observation")


def _peak_ratio(a: Measurement, b: Measurement) -> Estimate:
    one, other = a.memory.peak_bytes, b.memory.peak_bytes
    if one is None or not other:
        return stats.refused(a.memory.reason or b.memory.reason or "the peak is unknown")
    return Estimate(value=one / other, n=1, method="one observation each, no interval")
