"""The stopping rule, the sampler and the comparison, without a device."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from edgec.pipeline.core.settings import MeasureSettings
from edgec.pipeline.stats import MIN_BLOCKS
from edgec.targets.agent import profile
from edgec.targets.agent import sampler as sampler_module
from edgec.targets.agent.network import batches, compared
from edgec.targets.agent.profile import Rule, Turns, median_is_precise
from edgec.targets.agent.sampler import Sampler
from edgec.targets.agent.wire import Failure, Fields


def width_by_definition(times: list[int]) -> float:
    """Width of the exact binomial interval of the median at 95 %, scipy's quantiles."""
    n, ordered = len(times), sorted(times)
    low, high = int(binom.ppf(0.025, n, 0.5)), int(binom.ppf(0.975, n, 0.5))
    return float(ordered[min(high, n - 1)] - ordered[max(low - 1, 0)])


@pytest.mark.parametrize("n", [20, 101, 1000])
def test_rule_agrees_with_the_exact_binomial_interval(n: int) -> None:
    """The normal approximation moves each end by at most one rank: compare with widths one rank to either side."""
    times = (np.random.default_rng(n).lognormal(13, 0.3, n)).astype(int).tolist()
    median = sorted(times)[n // 2]
    exact = width_by_definition(times) / median
    assert median_is_precise(times, exact * 1.5)
    assert not median_is_precise(times, exact * 0.66)


def test_interval_covers_the_true_median_at_its_stated_rate() -> None:
    """1000 draws of 51: the coverage of 95 % lies within 4 standard errors of the measured one."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        ordered = np.sort(generator.exponential(1.0, 51))
        low, high = math.floor(51 / 2 - 1.96 * math.sqrt(51) / 2), math.ceil(51 / 2 + 1 + 1.96 * math.sqrt(51) / 2)
        hits += ordered[low - 1] <= math.log(2) <= ordered[high - 1]
    assert hits / 1000 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 1000)


def test_few_times_are_never_precise_and_equal_ones_are() -> None:
    assert not median_is_precise([5] * 4, 0.1)
    assert median_is_precise([5] * 20, 0.1)


class Paced:
    """Stands for a network's process and for its job: every inference takes `each_s` (the first `first_s`) of a clock of its own."""

    label = "paced"

    def __init__(self, each_s: float, first_s: float | None = None) -> None:
        self.each_s, self.first_s, self.now_s = each_s, first_s or each_s, 100.0
        self.inputs = ""

    def monotonic(self) -> float:
        return self.now_s

    def open(self, _child: object) -> dict[str, Any]:
        return {"load_s": 0.1}

    def call(self, op: str, fields: dict[str, Any], more_s: float = 0.0) -> dict[str, Any]:
        if op == "feed":
            return {"first_s": self.first_s}
        self.now_s += fields["settle"] * self.each_s
        begin, times = self.now_s, []
        while len(times) < fields["count"] and (not times or self.now_s - begin < fields["seconds"]):
            self.now_s += self.each_s
            times.append(int(self.each_s * 1e9))
        assert self.now_s - begin < fields["seconds"] + self.each_s + 1e-6
        return {"times": times, "span": [int(begin * 1e9), int(self.now_s * 1e9)]}


def turns_of(paced: Paced, monkeypatch: pytest.MonkeyPatch, period_s: float = 0.0, **changes: float) -> Turns:
    """All turns of one network under the rule of probes."""
    monkeypatch.setattr(profile, "time", paced)
    turns = Turns(paced, paced, Rule(Fields({**asdict(MeasureSettings().probe), **changes})), period_s)  # type: ignore[arg-type]
    turns.warm_up()
    while not turns.is_done:
        turns.take()
    return turns


@pytest.mark.parametrize("each_s", [1e-4, 0.022, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("warmup_s", [0.0, 0.2])
def test_network_of_any_speed_gets_the_blocks_that_an_interval_takes(
    each_s: float, warmup_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = turns_of(Paced(each_s, first_s=7 * each_s), monkeypatch, warmup_s=warmup_s)
    lengths = [len(block) for block in turns.blocks]
    assert len(lengths) >= profile.MIN_BLOCKS == MIN_BLOCKS
    assert set(lengths[1:-1]) == {max(1, round(0.05 / each_s))}, "a block lasts 50 ms, or one inference"


def test_network_too_slow_for_its_time_returns_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = turns_of(Paced(1.1), monkeypatch)
    assert [len(block) for block in turns.blocks] == [1, 1, 1]
    assert not turns.is_precise


@pytest.mark.parametrize("each_s", [1e-4, 0.03, 0.21, 1.0])
def test_beside_a_meter_blocks_and_run_last_as_long_as_energy_asks(each_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = turns_of(Paced(each_s), monkeypatch, period_s=0.05, max_time_s=15.0)
    durations = [(end - start) / 1e9 for start, end in turns.spans]
    assert min(durations[:-1]) > 6 * 0.05 - 1e-6
    assert sum(durations) >= 120 * 0.05


class Ramp:
    name, unit = "ramp", "W"

    def __init__(self, fail_at: int | None = None) -> None:
        self.count, self.fail_at = 0, fail_at

    def scope(self) -> list[str]:
        return ["VDD_IN"]

    def read(self) -> float:
        self.count += 1
        if self.count == self.fail_at:
            raise OSError("the sensor vanished")
        return float(self.count)


def test_sampler_keeps_every_reading_in_order() -> None:
    sampler = Sampler(Ramp(), 0.005)
    sampler.start()
    time.sleep(0.2)
    sampler.stop()
    trace, reason = sampler.trace([(1, 2)])
    assert reason == ""
    assert trace is not None
    stamps, values = zip(*trace["samples"], strict=True)
    assert values == tuple(float(i) for i in range(1, len(values) + 1))
    assert list(stamps) == sorted(stamps)
    assert 10 < len(values) <= 45
    assert trace["scope"] == ["VDD_IN"]


def test_sensor_that_vanishes_is_no_trace_with_the_reason() -> None:
    sampler = Sampler(Ramp(fail_at=3), 0.002)
    sampler.start()
    time.sleep(0.1)
    sampler.stop()
    trace, reason = sampler.trace([])
    assert trace is None
    assert "the sensor vanished" in reason
    assert "2 samples" in reason


def test_comparison_matches_a_slow_loop() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=(7, 5)), generator.normal(size=(7, 5)) * 0.1
    said = compared({"y": a.astype("float32")}, {"y": (a + b).astype("float32")})
    x, y = a.astype("float32").astype("float64"), (a + b).astype("float32").astype("float64")
    assert said["max_abs_error"] == pytest.approx(max(abs(x[i, j] - y[i, j]) for i in range(7) for j in range(5)), rel=1e-12)
    assert said["max_rel_error"] == pytest.approx(said["max_abs_error"] / abs(x).max(), rel=1e-12)
    assert said["cosine_min"] == pytest.approx(
        min(float(np.dot(p, q) / math.sqrt(np.dot(p, p) * np.dot(q, q))) for p, q in zip(x, y, strict=True))
    )
    assert (said["agree"], said["n"]) == (sum(int(p.argmax() == q.argmax()) for p, q in zip(x, y, strict=True)), 7)


def test_numbers_that_are_not_finite_never_agree() -> None:
    a = np.array([[1.0, 2.0], [2.0, 1.0]], dtype="float32")
    b = a.copy()
    b[0, 1] = np.nan
    said = compared({"y": a}, {"y": b})
    assert said["max_abs_error"] is None
    assert said["agree"] == 1


def test_output_of_another_shape_is_refused() -> None:
    with pytest.raises(Failure, match="no output 'y'"):
        compared({"y": np.zeros((2, 3))}, {"y": np.zeros((2, 4))})


def test_batches_are_whole_and_count_their_rows() -> None:
    images = np.arange(7 * 2, dtype="float32").reshape(7, 2, 1, 1)
    parts = list(batches({"input": images}, 3))
    assert [(rows, total, part.shape[0]) for rows, total, part in parts] == [(3, 7, 3), (3, 7, 3), (1, 7, 3)]
    np.testing.assert_array_equal(np.concatenate([part[:rows] for rows, _, part in parts]), images)
    assert not parts[-1][2][1:].any()


def test_pixels_without_scale_are_refused() -> None:
    with pytest.raises(Failure, match="scale"):
        next(iter(batches({"input": np.zeros((1, 1, 2, 2), dtype="uint8")}, 1)))
    with pytest.raises(Failure, match="input"):
        next(iter(batches({"x": np.zeros(1)}, 1)))


def test_meter_that_is_not_automatic_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shy(Ramp):
        name, automatic = "shy", False

        def reason_unusable(self) -> str:
            return ""

    meter = Shy()
    monkeypatch.setattr(sampler_module, "all_meters", lambda _root: [("shy", meter)])
    assert sampler_module.chosen("auto")[0] is None
    assert sampler_module.chosen("shy") == (meter, "")


def test_root_is_given_to_meters(tmp_path: Path) -> None:
    from edgec.targets.agent.sampler import chosen

    assert chosen("none", str(tmp_path)) == (None, "no meter was asked for")
    meter, reason = chosen("auto", str(tmp_path))
    assert meter is None, "an empty tree has no sensor"
    assert reason
    with pytest.raises(Failure, match="no meter"):
        chosen("no-such-meter", str(tmp_path))
