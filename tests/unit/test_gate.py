"""Verdicts (and comparisons, which they rest on) of measurements made by hand, and the error rates that they promise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from edgec.pipeline import compare, gate, stats
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import (
    Accuracy,
    Conditions,
    Constraints,
    Energy,
    Estimate,
    Latency,
    Lineage,
    Measurement,
    Memory,
    Precision,
    Provenance,
    RuleResult,
    Split,
    StoppingRule,
    TargetFacts,
    Validity,
    Verdict,
)
from edgec.pipeline.core.settings import GateSettings

NONE = stats.refused("not measured")
FACTS = TargetFacts(
    board="board", machine="aarch64", system="Linux", kernel="6.1", cpu="cpu", cores=4, memory_bytes=None, disk_free_bytes=5, python="3.11"
)
AT = Conditions(t_ns=0, monotonic_ns=0, governor="performance")
NO_RULE = GateSettings(accuracy_drop_points=None, latency_ratio=None, size_ratio=None)


def blocks(scale: float, seed: int, n: int = 20) -> tuple[tuple[int, ...], ...]:
    times = scale * 1e6 * np.random.default_rng(seed).lognormal(0, 0.1, (n, 20))
    return tuple(tuple(int(t) for t in block) for block in times)


def measurement(label: str = "candidate", scale: float = 1.0, seed: int = 1, **changes: Any) -> Measurement:
    given: dict[str, Any] = {
        "artifact": "0" * 64,
        "label": label,
        "target": "board-1",
        "facts": FACTS,
        "runtime": "onnxruntime",
        "runtime_version": "1.20",
        "precision": Precision.INT8,
        "batch": 1,
        "threads": 1,
        "provenance": Provenance.MEASURED,
        "rule": StoppingRule(),
        "latency": Latency(
            blocks=blocks(scale, seed),
            warmup_ns=(),
            load_s=0.1,
            first_s=0.1,
            stopped_by="precise",
            p50_s=NONE,
            p90_s=NONE,
            p99_s=NONE,
            mean_s=NONE,
        ),
        "memory": Memory(before_bytes=None, peak_bytes=None, reason="not told"),
        "energy": Energy(gross_j=NONE, net_j=NONE),
        "size_bytes": 500,
        "accuracy_reason": "not asked for",
        "run": "run-1",
        "before": AT,
        "after": AT,
        "validity": Validity(valid=True),
        "started_at": "2026-11-23T12:00:00Z",
        "lineage": Lineage(stage="measure"),
    }
    return Measurement(**{**given, **changes})


def with_accuracy(label: str, right: np.ndarray) -> Measurement:
    correct = int(right.sum())
    return measurement(
        label, accuracy=Accuracy(split=Split.TEST, correct=correct, n=right.size, top1=stats.proportion(correct, right.size))
    )


def with_energy(label: str, joules: float, *, sensor: str = "ina3221", scope: tuple[str, ...] = ("VDD_IN",)) -> Measurement:
    gross = Estimate(value=joules, low=joules * 0.98, high=joules * 1.02, n=20)
    return measurement(label, energy=Energy(gross_j=gross, net_j=NONE, sensor=sensor, scope=scope))


def only(verdict: Verdict) -> RuleResult:
    (rule,) = verdict.rules
    assert verdict.outcome == rule.outcome
    return rule


BASE = measurement("baseline", 2.0, seed=2)
LATENCY = replace(NO_RULE, latency_ratio=0.6)


@pytest.mark.parametrize(("scale", "outcome"), [(1.0, "pass"), (1.5, "fail"), (1.2, "inconclusive")])
def test_latency_is_decided_on_the_interval(scale: float, outcome: str) -> None:
    """Limit 0.6 of a baseline of 2 ms; true ratios 0.5, 0.75, and 0.6 itself."""
    got = only(gate.decide(measurement(scale=scale), BASE, settings=LATENCY))
    assert got.outcome == outcome
    assert got.seen.confidence == pytest.approx(0.9)
    assert "paired" in got.seen.method
    assert bool(got.reason) is (outcome != "pass")


def test_size_is_exact() -> None:
    settings = replace(NO_RULE, size_ratio=0.5)
    big = replace(BASE, size_bytes=1000)
    assert only(gate.decide(measurement(size_bytes=500), big, settings=settings)).outcome == "pass"
    assert only(gate.decide(measurement(size_bytes=501), big, settings=settings)).outcome == "fail"


ACCURACY = replace(NO_RULE, accuracy_drop_points=2.0)


def decided(lost: int, won: int, n: int = 10_000) -> RuleResult:
    """`lost` images that only the baseline gets right, `won` that only the candidate does."""
    base = np.arange(n) >= won
    candidate = (np.arange(n) < won) | (np.arange(n) >= won + lost)
    return only(
        gate.decide(with_accuracy("candidate", candidate), with_accuracy("baseline", base), settings=ACCURACY, correct=(candidate, base))
    )


@pytest.mark.parametrize(("lost", "won", "outcome"), [(150, 50, "pass"), (350, 50, "fail"), (250, 60, "inconclusive"), (50, 400, "pass")])
def test_accuracy_is_paired_by_image_and_in_points(lost: int, won: int, outcome: str) -> None:
    got = decided(lost, won)
    assert got.outcome == outcome
    assert got.asked == 2.0
    assert got.seen.value == pytest.approx((lost - won) / 100)


def test_a_candidate_at_the_limit_passes_no_more_often_than_promised() -> None:
    """True drop 2.0 points, paired, 2,000 images: the verdict is `pass` in at most 5 % of the trials, and `fail` likewise.
    Bound: the binomial's 1 - 1e-4 quantile at 5.5 %, since Agresti-Min keeps its level approximately."""
    rng, trials, n = np.random.default_rng(7), 800, 2000
    outcomes = []
    for _ in range(trials):
        u = rng.random(n)
        base, candidate = u > 0.03, (u > 0.06) | (u < 0.01)  # lost 3 %, won 1 %
        one, other = with_accuracy("candidate", candidate), with_accuracy("baseline", base)
        outcomes.append(only(gate.decide(one, other, settings=ACCURACY, correct=(candidate, base))).outcome)
    allowed = int(binom.ppf(1 - 1e-4, trials, 0.055))
    assert outcomes.count("pass") <= allowed
    assert outcomes.count("fail") <= allowed


def test_accuracy_that_is_not_known_is_inconclusive_with_the_reason() -> None:
    right = np.ones(100, bool)
    known = with_accuracy("baseline", right)
    unknown = measurement(accuracy_reason="the data set is not on the target")
    assert "not on the target" in only(gate.decide(unknown, known, settings=ACCURACY)).reason
    assert "predictions" in only(gate.decide(known, known, settings=ACCURACY)).reason
    fewer = with_accuracy("candidate", np.ones(50, bool))
    assert "50 test images" in only(gate.decide(fewer, known, settings=ACCURACY, correct=(right, right))).reason
    wrong = only(gate.decide(known, known, settings=ACCURACY, correct=(np.zeros(100, bool), right)))
    assert "have 100 and 0 images right, the records 100 and 100" in wrong.reason


ENERGY = replace(NO_RULE, energy_ratio=0.8)


@pytest.mark.parametrize(("joules", "outcome"), [(0.7, "pass"), (0.9, "fail"), (0.8, "inconclusive")])
def test_energy_is_decided_on_the_ratio_of_the_two_intervals(joules: float, outcome: str) -> None:
    assert only(gate.decide(with_energy("candidate", joules), with_energy("baseline", 1.0), settings=ENERGY)).outcome == outcome


def test_energy_of_unlike_rails_or_of_a_recording_decides_nothing() -> None:
    base = with_energy("baseline", 1.0)
    rails = only(gate.decide(with_energy("candidate", 0.5, scope=("POM_5V_IN",)), base, settings=ENERGY))
    replayed = only(gate.decide(with_energy("a", 0.5, sensor="replay"), with_energy("b", 1.0, sensor="replay"), settings=ENERGY))
    absent = only(gate.decide(measurement(), base, settings=ENERGY))
    assert [r.outcome for r in (rails, replayed, absent)] == ["inconclusive"] * 3
    assert "VDD_IN" in rails.reason
    assert "replayed" in replayed.reason
    assert "not measured" in absent.reason


def test_numbers_of_an_emulated_board_decide_only_when_named() -> None:
    fast = measurement(provenance=Provenance.EMULATED)
    base = replace(BASE, provenance=Provenance.EMULATED)
    assert "emulated numbers" in only(gate.decide(fast, base, settings=LATENCY)).reason
    named = replace(LATENCY, provenance=("measured", "emulated"))
    assert only(gate.decide(fast, base, settings=named)).outcome == "pass"


def test_an_invalid_run_says_nothing_about_time_and_leaves_the_size() -> None:
    hot = measurement(validity=Validity(valid=False, causes=("W101 throttled: under-voltage now",)))
    got = gate.decide(hot, BASE, settings=replace(LATENCY, size_ratio=1.0))
    assert [(rule.rule, rule.outcome) for rule in got.rules] == [("latency_ratio", "inconclusive"), ("size_ratio", "pass")]
    assert "W101" in got.rules[0].reason


def test_a_stored_baseline_of_like_conditions_is_compared_unpaired() -> None:
    stored = replace(BASE, run="run-0", facts=replace(FACTS, disk_free_bytes=9), precision=Precision.FP32)
    got = only(gate.decide(measurement(), stored, settings=LATENCY))
    assert got.outcome == "pass"
    assert "unpaired" in got.seen.method


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "board-2"}, "target: board-1 and board-2"),
        ({"threads": 4}, "threads: 1 and 4"),
        ({"batch": 8}, "batch: 1 and 8"),
        ({"runtime_version": "1.21"}, "runtime: onnxruntime 1.20 and onnxruntime 1.21"),
        ({"facts": replace(FACTS, kernel="6.6")}, "kernel: 6.1 and 6.6"),
        ({"before": replace(AT, governor="powersave")}, "governor: performance and powersave"),
        ({"before": replace(AT, power_mode="5W")}, "power mode: None and 5W"),
    ],
)
def test_a_stored_baseline_of_unlike_conditions_is_inconclusive_and_says_what_differs(change: dict[str, Any], words: str) -> None:
    stored = replace(BASE, run="run-0", **change)
    got = only(gate.decide(measurement(), stored, settings=LATENCY))
    assert got.outcome == "inconclusive"
    assert words in got.reason


def test_objective_on_energy_and_size_is_judged_against_the_dense_network_at_the_same_precision() -> None:
    dense = replace(with_energy("dense int8", 2.0), size_bytes=1000)
    asked = gate.Asked(constraints=Constraints(energy_ratio=0.6, size_ratio=0.4), dense=dense)
    rules = gate.decide(with_energy("candidate", 1.0), BASE, settings=NO_RULE, asked=asked).rules
    assert [(rule.rule, rule.asked, rule.outcome) for rule in rules] == [
        ("objective_energy_ratio", 0.6, "pass"),
        ("objective_size_ratio", 0.4, "fail"),
    ]
    assert [rule.seen.value for rule in rules] == pytest.approx([0.5, 0.5])


def test_few_blocks_are_inconclusive() -> None:
    short = measurement()
    short = replace(short, latency=replace(short.latency, blocks=short.latency.blocks[:5]))
    assert "8 blocks" in only(gate.decide(short, BASE, settings=LATENCY)).reason


@pytest.mark.parametrize(
    ("latency", "size", "outcome", "code"),
    [(0.6, 2.0, "pass", 0), (0.6, 0.5, "fail", 1), (0.5, 2.0, "inconclusive", 4), (0.5, 0.5, "fail", 1)],
)
def test_one_failure_fails_and_one_doubt_withholds(latency: float, size: float, outcome: str, code: int) -> None:
    """True latency ratio 0.5, size ratio 1."""
    got = gate.decide(measurement(), BASE, settings=replace(NO_RULE, latency_ratio=latency, size_ratio=size))
    assert got.outcome == outcome
    assert gate.exit_code(got) == code


def test_an_empty_gate_and_a_senseless_confidence_are_refused() -> None:
    with pytest.raises(ConfigError, match="no rule"):
        gate.decide(measurement(), BASE, settings=NO_RULE)
    with pytest.raises(ConfigError, match="confidence"):
        gate.decide(measurement(), BASE, settings=replace(LATENCY, confidence=0.4))


def test_compare_has_a_row_for_each_metric_and_refuses_by_name() -> None:
    rows = {row.metric: row for row in compare.compare(measurement(), BASE)}
    assert list(rows) == ["latency_p50", "latency_p99", "energy_gross", "memory_peak", "size", "top1"]
    assert rows["latency_p50"].related.low < 0.5 < rows["latency_p50"].related.high
    assert rows["size"].related.value == 1.0
    for metric in ("latency_p99", "energy_gross", "memory_peak", "top1"):
        assert rows[metric].related.value is None
        assert rows[metric].related.reason


def test_compare_gives_the_accuracy_difference_of_the_same_images() -> None:
    a, b = np.arange(1000) >= 20, np.arange(1000) >= 10
    rows = {row.metric: row for row in compare.compare(with_accuracy("a", a), with_accuracy("b", b), correct=(a, b))}
    assert rows["top1"].related.value == pytest.approx(-0.01)


SHIRTS = compare.Identity(app="shirts", builder="nets:small", inputs="input [1, 32, 32]", classes=10)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, ()),
        ({"app": "shoes"}, ("app: shirts and shoes",)),
        ({"builder": "nets:large", "classes": 2}, ("builder: nets:small and nets:large", "classes: 10 and 2")),
        ({"app": "", "builder": "", "inputs": "", "classes": None}, ()),
    ],
)
def test_networks_of_another_app_or_builder_are_unlike_and_what_is_unknown_is_not(change: dict[str, Any], told: tuple[str, ...]) -> None:
    assert compare.unlike_networks(SHIRTS, replace(SHIRTS, **change)) == told
