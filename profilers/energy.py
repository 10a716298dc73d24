"""Samples of a meter to joules per inference (the host's half).

Gross energy is all that the meter saw while the network ran; it is the headline, as in MLPerf Power, which never subtracts
idle. Net energy is gross less idle power times the same time. Each comes with its interval, or with the reason why it is unknown.

When samples can carry an energy (all by time stamps; the meter's period is the median distance of two samples):
- the network ran for at least MIN_PERIODS periods altogether;
- a block lasts at least MIN_PERIODS_PER_BLOCK periods. Networks take turns, and an edge between them falls between two samples:
  of k samples in a block, the interpolation at its two edges hands on average 1/(3k) of the difference between neighbours to the
  wrong one. With 5 that is 7 % of the difference, so 1 % where neighbours differ by 15 %;
- no hole longer than MAX_HOLE periods lies in a block; blocks with one are left out, and with fewer than MIN_COVERED of the
  blocks left the energy is unknown.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from edgec.pipeline import stats
from edgec.pipeline.core.records import Energy, Estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Span = tuple[int, int]
"""Start and end, ns, on the clock of the samples."""

REPLAY = "replay"
"""Name of the meter whose numbers are a recording's."""

MIN_PERIODS = 100
MIN_PERIODS_PER_BLOCK = 5
MAX_HOLE = 5
MIN_COVERED = 0.9


class Trace(Protocol):
    """What a meter recorded; `edgec.targets.replies.MeterTrace` is one."""

    @property
    def meter(self) -> str: ...

    @property
    def unit(self) -> str:
        """W for power samples, J for a running counter."""
        ...

    @property
    def scope(self) -> tuple[str, ...]: ...

    @property
    def samples(self) -> tuple[tuple[int, float], ...]:
        """(monotonic ns, value), in the order taken."""
        ...

    @property
    def idle(self) -> tuple[Span, ...]:
        """Spans in which no network ran."""
        ...


def unknown(reason: str, trace: Trace | None = None) -> Energy:
    """No energy, and why."""
    none = stats.refused(reason)
    if trace is None:
        return Energy(gross_j=none, net_j=none)
    return Energy(gross_j=none, net_j=none, sensor=trace.meter, scope=trace.scope, n_samples=len(trace.samples))


def energy_from(trace: Trace, spans: Sequence[Span], counts: Sequence[int], confidence: float = 0.95) -> Energy:
    """Joules per inference of the network that made counts[i] inferences in spans[i].

    The interval is a bootstrap over blocks: samples inside one depend on each other. The net interval's ends take idle power at
    its own interval's worse end, so that its uncertainty is not lost.
    """
    import numpy as np

    if len(spans) != len(counts):
        raise ValueError(f"{len(spans)} spans, {len(counts)} counts")
    fault = _fault(trace)
    if fault:
        return unknown(fault, trace)
    t = np.array([sample[0] for sample in trace.samples], dtype=np.int64)
    period = float(np.median(np.diff(t))) * 1e-9
    durations = np.array([(end - start) * 1e-9 for start, end in spans])
    if durations.sum() < MIN_PERIODS * period:
        return unknown(
            f"the network ran for {durations.sum():.3g} s, energy at a sample every {period * 1e3:.3g} ms takes "
            f"{MIN_PERIODS * period:.3g} s: raise [measure.rule] min_time_s and max_time_s",
            trace,
        )
    if np.median(durations) < MIN_PERIODS_PER_BLOCK * period:
        return unknown(
            f"a block lasts {np.median(durations) * 1e3:.3g} ms, energy at a sample every {period * 1e3:.3g} ms takes "
            f"{MIN_PERIODS_PER_BLOCK * period * 1e3:.3g} ms: raise [measure.rule] block_s",
            trace,
        )
    joules = integrate(trace, spans)
    covered = np.isfinite(joules)
    if covered.mean() < MIN_COVERED:
        return unknown(f"the meter has no samples for {1 - covered.mean():.0%} of the blocks", trace)
    joules, durations, inferences = joules[covered], durations[covered], np.array(counts, dtype=np.float64)[covered]
    idle = idle_power(trace, confidence)
    if idle.value is None or idle.low is None or idle.high is None:
        net = stats.refused(f"idle power is unknown: {idle.reason}", confidence=confidence)
    else:
        at, most, least = (
            stats.ratio_of_sums(joules - watts * durations, inferences, confidence) for watts in (idle.value, idle.low, idle.high)
        )
        method = f"{at.method}; idle {idle.value:.3g} W, median of {idle.n} samples"
        net = Estimate(value=at.value, low=least.low, high=most.high, confidence=confidence, n=at.n, method=method, reason=at.reason)
    inside = sum(int(np.searchsorted(t, end, "right") - np.searchsorted(t, start)) for start, end in spans)
    return Energy(
        gross_j=stats.ratio_of_sums(joules, inferences, confidence),
        net_j=net,
        sensor=trace.meter,
        scope=trace.scope,
        sample_hz=1 / period,
        n_samples=inside,
    )


def integrate(trace: Trace, spans: Sequence[Span]) -> "NDArray[np.float64]":
    """Joules in each span, shape (spans,); NaN where a span lies outside the samples or has a hole longer than MAX_HOLE periods.

    Power: the trapezoid rule, with power at a span's edges on the line between the samples around it; exact for power that is
    linear between samples. Counter: the difference of the counter at the edges, again on the line between readings.

    The trace's timestamps rise, its values are finite, and there are at least two.
    """
    import numpy as np

    t0 = trace.samples[0][0]
    t = np.array([(at - t0) * 1e-9 for at, _ in trace.samples])
    value = np.array([value for _, value in trace.samples])
    edges = np.array([[(start - t0) * 1e-9, (end - t0) * 1e-9] for start, end in spans]).reshape(-1, 2)
    before = np.clip(np.searchsorted(t, edges, "right") - 1, 0, t.size - 2)
    step, rise, into = np.diff(t), np.diff(value), edges - t[before]
    if trace.unit == "J":
        total = value[before] + rise[before] / step[before] * into
    else:
        so_far = np.concatenate([[0.0], np.cumsum(step * (value[1:] + value[:-1]) / 2)])
        total = so_far[before] + value[before] * into + rise[before] / step[before] * into**2 / 2
    joules = np.asarray(total[:, 1] - total[:, 0], dtype=np.float64)
    holes = np.flatnonzero(step > MAX_HOLE * np.median(step))
    outside = (edges[:, 0] < t[0]) | (edges[:, 1] > t[-1])
    for hole in holes:
        outside |= (edges[:, 0] < t[hole + 1]) & (edges[:, 1] > t[hole])
    joules[outside] = np.nan
    return joules


def idle_power(trace: Trace, confidence: float = 0.95) -> Estimate:
    """Median power over the idle spans in watts; of a counter, its rises between readings within one span."""
    import numpy as np

    t = np.array([at for at, _ in trace.samples], dtype=np.int64)
    value = np.array([value for _, value in trace.samples])
    watts: list[float] = []
    for start, end in trace.idle:
        inside = (t >= start) & (t <= end)
        if trace.unit == "J":
            watts.extend(np.diff(value[inside]) / (np.diff(t[inside]) * 1e-9))
        else:
            watts.extend(value[inside])
    return stats.quantile(watts, 0.5, confidence)


def _fault(trace: Trace) -> str:
    """Why these samples are no measurement; empty when they are."""
    import numpy as np

    if trace.unit not in ("W", "J"):
        return f"the meter {trace.meter} gives {trace.unit!r}, neither W nor J"
    if len(trace.samples) < 2:
        return f"the meter {trace.meter} gave {len(trace.samples)} samples"
    t, value = np.array([at for at, _ in trace.samples], dtype=np.int64), np.array([value for _, value in trace.samples])
    if (np.diff(t) <= 0).any():
        return f"the time stamps of the meter {trace.meter} do not advance"
    if not np.isfinite(value).all():
        return f"the meter {trace.meter} gave a value that is no number"
    if trace.unit == "J" and (np.diff(value) < 0).any():
        return f"the counter of the meter {trace.meter} went back"
    return ""
