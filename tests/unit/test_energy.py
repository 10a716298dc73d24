"""Known powers: a square wave, a line, a counter; and everything that may not become a number."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.profilers import energy
from edgec.targets.replies import MeterTrace

S = 1_000_000_000
PERIOD = S // 100
IDLE_W, BUSY_W, BLOCKS, PER_BLOCK = 2.0, 5.0, 12, 25


def spans() -> list[tuple[int, int]]:
    """12 blocks of half a second, a pause of a quarter between them, after 3 s of rest; edges off the sampling grid."""
    return [(3 * S + i * 3 * S // 4 + 3_217_001, 3 * S + i * 3 * S // 4 + S // 2 + 3_217_001) for i in range(BLOCKS)]


def square_wave(unit: str = "W", period: int = PERIOD) -> MeterTrace:
    """BUSY_W inside the blocks, IDLE_W outside, sampled or counted exactly; 3 s of rest on both sides."""
    end = spans()[-1][1] + 3 * S
    samples = []
    for t in range(0, end + 1, period):
        busy_ns = sum(max(0, min(t, b) - a) for a, b in spans())
        watts = BUSY_W if any(a <= t < b for a, b in spans()) else IDLE_W
        samples.append((t, watts if unit == "W" else IDLE_W * t / S + (BUSY_W - IDLE_W) * busy_ns / S))
    return MeterTrace(
        meter="ina3221" if unit == "W" else "rapl",
        unit=unit,
        scope=("VDD_IN",),
        samples=tuple(samples),
        idle=((0, 2 * S), (end - 2 * S, end)),
    )


@pytest.mark.parametrize("unit", ["W", "J"])
def test_square_wave_gives_its_energy(unit: str) -> None:
    """5 W x 0.5 s / 25 = 0.1 J gross, less 2 W idle 0.06 J. At worst each edge of a block is misplaced by half a period: of the
    difference of 3 W, 10 ms x 3 W / 25 = 1.2 mJ."""
    got = energy.energy_from(square_wave(unit), spans(), [PER_BLOCK] * BLOCKS)
    assert got.gross_j.value == pytest.approx(0.1, abs=1.2e-3)
    assert got.net_j.value == pytest.approx(0.06, abs=1.2e-3)
    assert got.sample_hz == pytest.approx(100)
    assert got.n_samples == pytest.approx(BLOCKS * 50, abs=BLOCKS)
    assert got.scope == ("VDD_IN",)
    assert "idle 2 W" in got.net_j.method


def test_integral_is_exact_for_power_linear_in_time() -> None:
    """P = 1 + 2 t sampled irregularly; over [a, b] the energy is (b - a) + (b^2 - a^2)."""
    times = np.cumsum(np.random.default_rng(1).integers(5, 15, 200)) * S // 1000
    trace = replace(square_wave(), samples=tuple((int(t), 1 + 2 * t / S) for t in times))
    a, b = 0.1234, 1.3571
    assert energy.integrate(trace, [(int(a * S), int(b * S))])[0] == pytest.approx(b - a + b**2 - a**2)


@given(st.lists(st.floats(0, 100), min_size=3, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_integral_agrees_with_a_fine_sum(watts: list[float], u: float, v: float) -> None:
    """Against the midpoint rule on 20,000 cells. It errs only in cells with a kink, by h^2 times the change of slope over 8: for
    h = 29 s / 20,000, at most 29 kinks of 200 W/s, together below 2 mJ."""
    trace = replace(square_wave(), samples=tuple((i * S, w) for i, w in enumerate(watts)))
    last = (len(watts) - 1) * S
    a, b = sorted((int(u * last), int(v * last)))
    edges = np.linspace(a / S, b / S, 20_001)
    middle = (edges[1:] + edges[:-1]) / 2
    fine = float(np.interp(middle, np.arange(len(watts)), watts).mean() * (b - a) / S)
    assert energy.integrate(trace, [(a, b)])[0] == pytest.approx(fine, abs=2e-3)


def test_adjacent_spans_add_up() -> None:
    trace, cut = square_wave(), 5 * S + 12345
    parts = energy.integrate(trace, [(4 * S, cut), (cut, 7 * S), (4 * S, 7 * S)])
    assert parts[0] + parts[1] == pytest.approx(parts[2])


def test_interval_covers_the_truth_with_a_noisy_sensor() -> None:
    """Noise of 0.3 W a sample, and 5 % from block to block: the truth lies inside for this seed, and the interval is as wide as the
    blocks' spread says: 2 x 1.96 x 5 % / sqrt(12) of 0.1 J, within a half of it."""
    rng = np.random.default_rng(3)
    factor = rng.normal(1, 0.05, BLOCKS)

    def watts(t: int, w: float) -> float:
        inside = [f for f, (a, b) in zip(factor, spans(), strict=True) if a <= t < b]
        return w * (inside[0] if inside else 1.0) + rng.normal(0, 0.3)

    trace = replace(square_wave(), samples=tuple((t, watts(t, w)) for t, w in square_wave().samples))
    got = energy.energy_from(trace, spans(), [PER_BLOCK] * BLOCKS)
    expected = 2 * 1.96 * 0.05 / np.sqrt(BLOCKS) * 0.1
    assert got.gross_j.low < 0.1 * factor.mean() < got.gross_j.high
    assert 0.5 * expected < got.gross_j.high - got.gross_j.low < 1.5 * expected
    assert got.net_j.high - got.net_j.low > got.gross_j.high - got.gross_j.low


def test_a_block_with_a_hole_is_left_out() -> None:
    """Two seconds without samples across the blocks 5 and 6 would be bridged by a straight line and counted as if seen."""
    a, b = spans()[5][0] + S // 10, spans()[5][0] + S // 5
    trace = replace(square_wave(), samples=tuple(s for s in square_wave().samples if not a < s[0] < b))
    joules = energy.integrate(trace, spans())
    assert list(np.flatnonzero(np.isnan(joules))) == [5]
    assert energy.energy_from(trace, spans(), [PER_BLOCK] * BLOCKS).gross_j.n == BLOCKS - 1


def without(first: int, last: int) -> MeterTrace:
    return replace(square_wave(), samples=tuple(s for s in square_wave().samples if not spans()[first][0] < s[0] < spans()[last][1]))


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (without(2, 5), "no samples for 33% of the blocks"),
        (replace(square_wave(), samples=((0, 1.0),)), "1 samples"),
        (replace(square_wave(), samples=((0, 1.0), (0, 1.0), (S, 1.0))), "do not advance"),
        (replace(square_wave(), samples=((0, 1.0), (S, float("nan")))), "no number"),
        (replace(square_wave(), unit="J", samples=((0, 9.0), (S, 3.0))), "went back"),
        (replace(square_wave(), unit="mW"), "neither W nor J"),
        (square_wave(period=S // 12), "ran for 6 s, energy at a sample every 83.3 ms takes 8.33 s"),
    ],
)
def test_what_cannot_be_carried_is_unknown_with_the_reason(trace: MeterTrace, reason: str) -> None:
    got = energy.energy_from(trace, spans(), [PER_BLOCK] * BLOCKS)
    assert got.gross_j.value is None
    assert got.net_j.value is None
    assert reason in got.gross_j.reason


def test_blocks_shorter_than_the_meter_sees_are_refused() -> None:
    """400 blocks of 20 ms, 10 ms samples: 8 s in all is long enough, but each block's energy would be its neighbours'."""
    short = [(3 * S + i * 2 * PERIOD, 3 * S + (i + 1) * 2 * PERIOD) for i in range(400)]
    assert "raise [measure.rule] block_s" in energy.energy_from(square_wave(), short, [1] * 400).gross_j.reason


def test_without_idle_samples_gross_stands_alone() -> None:
    got = energy.energy_from(replace(square_wave(), idle=()), spans(), [PER_BLOCK] * BLOCKS)
    assert got.gross_j.value is not None
    assert got.net_j.value is None
    assert "idle power is unknown" in got.net_j.reason
