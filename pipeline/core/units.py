"""Formatting and parsing of quantities. SI inside; pretty units only at the edge."""

import math

from edgec.pipeline.core.records import Estimate

DASH = "–"


def seconds(value: float | None) -> str:
    """A duration with three significant digits: 812 ns, 1.24 ms, 3.1 s."""
    if value is None:
        return DASH
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value * 1e9:.0f} ns"


def elapsed(seconds: float) -> str:
    """How long a person waits: 0.4 s · 48 s · 3 min 20 s · 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02d} s" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def joules(value: float | None) -> str:
    """An energy: 18.4 mJ."""
    if value is None:
        return DASH
    for factor, unit in ((1.0, "J"), (1e-3, "mJ")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{significant(value * 1e6)} µJ"


def size(value: float | None) -> str:
    """A byte count in powers of 1000: 1.16 MB."""
    if value is None:
        return DASH
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f} B"


def count(value: float | None) -> str:
    """A plain count: 272 k, 40.8 M."""
    if value is None:
        return DASH
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:.0f}"


def percent(value: float | None) -> str:
    """A fraction as per cent with two digits after the point."""
    return DASH if value is None else f"{value * 100:.2f} %"


def points(value: float | None) -> str:
    """A difference of fractions in percentage points, signed."""
    return DASH if value is None else f"{value * 100:+.2f}"


def ratio(estimate: Estimate | None) -> str:
    """A ratio with its interval: 1.62× (1.60 … 1.64)."""
    if estimate is None or estimate.value is None:
        return DASH
    text = f"{estimate.value:.2f}×"
    if estimate.low is not None and estimate.high is not None:
        text += f" ({estimate.low:.2f} … {estimate.high:.2f})"
    return text


def significant(value: float, digits: int = 3) -> str:
    """`digits` significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"
