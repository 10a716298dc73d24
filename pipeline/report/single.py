"""One measurement, and two side by side, as lines for a terminal."""

from collections.abc import Callable, Sequence

from edgec.pipeline.compare import Row
from edgec.pipeline.core import units
from edgec.pipeline.core.records import Estimate, Measurement

_FORMATS: dict[str, Callable[[float | None], str]] = {"s": units.seconds, "J": units.joules, "B": units.size, "": units.percent}


def measurement_text(measurement: Measurement) -> str:
    """Latency, memory, energy and size of one network on one target, with provenance and the reasons for what is missing."""
    m, latency = measurement, measurement.latency
    count = sum(len(block) for block in latency.blocks)
    lines = [
        f"{m.label} · {m.precision} · {m.runtime} {m.runtime_version} · {m.target} ({m.facts.board}, {m.facts.cpu}; {m.provenance})",
        f"  latency   p50 {_with_interval(latency.p50_s, units.seconds)}   p90 {_short(latency.p90_s)}   p99 {_short(latency.p99_s)}",
        f"  samples   {count:,}, batch {m.batch}, {m.threads} threads, stopped: {latency.stopped_by}",
        f"  start     load {units.seconds(latency.load_s)}, first inference {units.seconds(latency.first_s)}",
        f"  memory    peak {units.size(m.memory.peak_bytes)}, unloaded {units.size(m.memory.before_bytes)}{_because(m.memory.reason)}",
        f"  energy    {units.joules(m.energy.gross_j.value)} per inference gross{_because(m.energy.gross_j.reason)}",
        f"  file      {units.size(m.size_bytes)}",
    ]
    lines += [f"  invalid   {cause}" for cause in m.validity.causes]
    lines += [f"  warning   {warning}" for warning in m.validity.warnings]
    return "\n".join(lines)


def comparison_text(rows: Sequence[Row]) -> str:
    """One line a metric: a, b, and the ratio or difference with its interval, or why there is none."""
    lines = [f"{'':<14}{'A':>12}{'B':>12}   A / B, or A − B"]
    for row in rows:
        show = _FORMATS[row.unit]
        lines.append(f"{row.metric:<14}{show(row.a.value):>12}{show(row.b.value):>12}   {_related(row)}")
    return "\n".join(lines)


def _related(row: Row) -> str:
    if row.related.value is None:
        return row.related.reason
    if row.relation == "ratio":
        return units.ratio(row.related)
    low, high = units.points(row.related.low), units.points(row.related.high)
    return f"{units.points(row.related.value)} points ({low} … {high})"


def _with_interval(estimate: Estimate, show: Callable[[float | None], str]) -> str:
    if estimate.value is None:
        return f"{units.DASH} ({estimate.reason})"
    return f"{show(estimate.value)} ({estimate.confidence:.0%} CI {show(estimate.low)} … {show(estimate.high)})"


def _short(estimate: Estimate) -> str:
    return units.seconds(estimate.value) if estimate.value is not None else f"{units.DASH} ({estimate.reason})"


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""
