"""Replies of an agent, made by hand, to records: numbers against NumPy, validity as a table of conditions."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgec.pipeline import measure, stats
from edgec.pipeline.core import codec
from edgec.pipeline.core.errors import MeasurementError, StoreError
from edgec.pipeline.core.records import (
    Artifact,
    Conditions,
    Lineage,
    Measurement,
    Precision,
    Provenance,
    Split,
    StoppingRule,
    TargetFacts,
)
from edgec.targets.replies import MeterTrace, ProfiledNetwork, ProfileRun

S = 1_000_000_000
FACTS = TargetFacts(
    board="board",
    machine="x86_64",
    system="Linux",
    kernel="6.1",
    cpu="cpu",
    cores=4,
    memory_bytes=None,
    disk_free_bytes=None,
    python="3.11",
)
QUIET = Conditions(t_ns=10 * S, monotonic_ns=5 * S, load1=0.1, cpu_mhz=2000.0, governor="performance", throttled="0x0", power_mode="15W")
AFTER = replace(QUIET, t_ns=20 * S, monotonic_ns=15 * S)
RULE = StoppingRule()


def artifact(file: str = "a" * 64) -> Artifact:
    return Artifact(
        parent=None,
        backend="onnxruntime",
        format="onnx",
        precision=Precision.INT8,
        file=file,
        size_bytes=100,
        lineage=Lineage(stage="lower"),
    )


def network(label: str, median_ns: int, *, blocks: int = 20, **changes: Any) -> ProfiledNetwork:
    """Blocks of 20 times within 5 % of the median, taking turns of half a second."""
    rng = np.random.default_rng(median_ns)
    times = tuple(tuple(int(v) for v in median_ns * rng.uniform(0.95, 1.05, 20)) for _ in range(blocks))
    spans = tuple((5 * S + i * S // 2, 5 * S + i * S // 2 + S // 4) for i in range(blocks))
    given: dict[str, Any] = {
        "label": label,
        "blocks": times,
        "spans": spans,
        "warmup_ns": (9, 9),
        "load_s": 0.5,
        "first_s": 0.1,
        "stopped_by": "precise",
        "runtime_version": "1.20",
        "rss_before_bytes": 10,
        "rss_peak_bytes": 30,
    }
    return ProfiledNetwork(**{**given, **changes})


def profile(*networks: ProfiledNetwork, **changes: Any) -> ProfileRun:
    return ProfileRun(**{"networks": networks, "before": QUIET, "after": AFTER, "trace": None, "trace_reason": "no sensor", **changes})


def setup(**changes: Any) -> measure.Setup:
    given: dict[str, Any] = {
        "target": "localhost",
        "facts": FACTS,
        "rule": RULE,
        "batch": 1,
        "threads": 1,
        "started_at": "2026-11-23T12:00:00Z",
        "lineage": Lineage(stage="measure"),
    }
    return measure.Setup(**{**given, **changes})


def measured(run: ProfileRun, **changes: Any) -> tuple[Measurement, ...]:
    subjects = {n.label: measure.Subject(artifact=artifact()) for n in run.networks}
    return measure.measurements_from(run, subjects, setup(**changes))


def test_latency_is_derived_from_raw_times_that_stay() -> None:
    net = network("dense", 2_000_000)
    (got,) = measured(profile(net))
    flat = np.concatenate(net.blocks) * 1e-9
    assert got.latency.blocks == net.blocks
    assert got.latency.p50_s.value == pytest.approx(np.median(flat))
    assert got.latency.p90_s.value == pytest.approx(np.quantile(flat, 0.9))
    assert got.latency.mean_s.value == pytest.approx(flat.mean())
    assert (got.latency.warmup_ns, got.latency.load_s, got.latency.first_s) == ((9, 9), 0.5, 0.1)
    assert got.memory.peak_bytes == 30
    assert got.provenance is Provenance.MEASURED


def test_a_tail_that_the_count_cannot_carry_is_null_with_the_reason() -> None:
    (short,) = measured(profile(network("dense", 2_000_000, blocks=5)))
    (long,) = measured(profile(network("dense", 2_000_000, blocks=19)))
    assert short.latency.p99_s.value is None
    assert "368" in short.latency.p99_s.reason
    assert short.latency.p50_s.value is not None
    assert long.latency.p99_s.value is not None


def test_a_record_survives_storing() -> None:
    (got,) = measured(profile(network("dense", 2_000_000)))
    assert codec.record_from(codec.text_from(got)) == got


def test_networks_of_one_reply_share_a_run_and_another_reply_does_not() -> None:
    a, b = measured(profile(network("dense", 2_000_000), network("pruned", 1_000_000)))
    (other,) = measured(profile(network("dense", 2_000_000), before=replace(QUIET, t_ns=11 * S)))
    assert a.run == b.run != other.run


def test_energy_without_a_meter_is_null_with_the_targets_reason() -> None:
    (got,) = measured(profile(network("dense", 2_000_000)))
    assert got.energy.gross_j.value is None
    assert got.energy.gross_j.reason == "no sensor"


def test_energy_comes_from_the_trace() -> None:
    """5 W throughout, blocks of a quarter second with 20 inferences: 62.5 mJ each, nothing net of 5 W idle."""
    trace = MeterTrace(
        meter="ina3221",
        unit="W",
        scope=("VDD_IN",),
        samples=tuple((4 * S + i * S // 100, 5.0) for i in range(1300)),
        idle=((4 * S, 5 * S),),
    )
    (got,) = measured(profile(network("dense", 2_000_000), trace=trace, trace_reason=""))
    assert got.energy.gross_j.value == pytest.approx(0.0625)
    assert got.energy.net_j.value == pytest.approx(0.0, abs=1e-12)
    assert got.energy.sensor == "ina3221"


@pytest.mark.parametrize(
    ("facts", "said", "expected"),
    [
        (FACTS, Provenance.MEASURED, Provenance.MEASURED),
        (replace(FACTS, emulated=True), Provenance.MEASURED, Provenance.EMULATED),
        (FACTS, Provenance.EMULATED, Provenance.EMULATED),
    ],
)
def test_an_emulated_target_is_marked_whoever_says_so(facts: TargetFacts, said: Provenance, expected: Provenance) -> None:
    (got,) = measured(profile(network("dense", 2_000_000)), facts=facts, provenance=said)
    assert got.provenance is expected


def test_other_networks_than_asked_for_are_refused() -> None:
    with pytest.raises(MeasurementError, match=r"measured dense; asked for was pruned"):
        measure.measurements_from(profile(network("dense", 9)), {"pruned": measure.Subject(artifact=artifact())}, setup())


@pytest.mark.parametrize(
    ("before", "after", "code", "words"),
    [
        ({}, {"throttled": "0x4"}, "W101", "throttled now"),
        ({"throttled": "0x50005"}, {"throttled": "0x50000"}, "W101", "under-voltage now, throttled now"),
        ({"throttled": "0x10000"}, {"throttled": "0x50000"}, "W101", "throttled during the run"),
        ({"throttled": "3"}, {"throttled": "5"}, "W101", "3 before, 5 after"),
        ({"throttled": "oc1=0 oc2=15"}, {"throttled": "oc1=0 oc2=16"}, "W101", "oc1=0 oc2=15 before, oc1=0 oc2=16 after"),
        ({"gpu_throttled": "none"}, {"gpu_throttled": "software power cap"}, "W101", "GPU: software power cap"),
        ({"gpu_throttled": "hardware slowdown"}, {"gpu_throttled": "hardware slowdown"}, "W101", "GPU: hardware slowdown"),
        ({"governor": "schedutil"}, {}, "W102", "schedutil before, performance after"),
        ({}, {"cpu_mhz": 1799.0}, "W103", "2000 MHz before, 1799 MHz after"),
        ({"governor": None}, {"governor": None, "cpu_mhz": 1000.0}, "W203", "1000 MHz"),
        ({}, {"power_mode": "5W"}, "W104", "15W before, 5W after"),
        ({}, {"t_ns": AFTER.t_ns + 51_000_000}, "W105", "+0.051 s"),
        ({}, {"t_ns": AFTER.t_ns - 3 * S}, "W105", "-3.000 s"),
        ({"load1": 3.01}, {}, "W201", "3.01 on 4 cores"),
        ({"governor": "schedutil"}, {"governor": "schedutil", "cpu_mhz": 800.0}, "W203", "800 MHz"),
    ],
)
def test_a_fault_is_found_with_its_code_and_observation(before: dict[str, Any], after: dict[str, Any], code: str, words: str) -> None:
    got = measure.validity(replace(QUIET, **before), replace(AFTER, **after), cores=4, stopped_by="precise", rule=RULE)
    found = got.causes + got.warnings
    assert len(found) == 1
    assert found[0].startswith(code)
    assert words in found[0]
    assert got.valid is (not code.startswith("W1"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"gpu_throttled": "none"}, {"gpu_throttled": "none"}),
        ({"throttled": "0x50000"}, {"throttled": "0x50000"}),  # happened since boot, before the run
        ({"throttled": None}, {"throttled": "0x50000"}),  # since boot; whether in the run nobody knows
        ({"throttled": None, "governor": None, "cpu_mhz": None, "load1": None}, {}),
        ({}, {"throttled": None, "governor": None, "cpu_mhz": None, "power_mode": None}),
        ({}, {"cpu_mhz": 1801.0}),
        ({}, {"t_ns": AFTER.t_ns + 49_000_000}),
        ({"load1": 3.0}, {}),
    ],
)
def test_a_quiet_or_unknown_condition_finds_nothing(before: dict[str, Any], after: dict[str, Any]) -> None:
    got = measure.validity(replace(QUIET, **before), replace(AFTER, **after), cores=4, stopped_by="precise", rule=RULE)
    assert got.valid
    assert got.causes + got.warnings == ()


def test_a_run_that_ran_out_of_time_says_that_its_interval_is_wide() -> None:
    (got,) = measured(profile(network("dense", 2_000_000, stopped_by="time")))
    assert got.validity.valid
    assert got.validity.warnings[0].startswith("W202")
    assert "max_time_s" in got.validity.warnings[0]


def test_codes_are_unique_and_advice_is_given() -> None:
    assert len({finding.code for finding in measure.Finding}) == len(measure.Finding)
    assert all(finding.advice for finding in measure.Finding)


def test_accuracy_counts_and_has_wilsons_interval() -> None:
    got = measure.accuracy_from(np.array([1, 2, 3, 3]), [1, 2, 3, 4], Split.TEST)
    assert (got.correct, got.n, got.split) == (3, 4, Split.TEST)
    assert got.top1 == stats.proportion(3, 4)


@pytest.mark.parametrize(("predictions", "labels"), [([1, 2], [1]), ([[1], [2]], [1, 2]), ([0.5, 1.0], [1, 2])])
def test_accuracy_of_what_are_no_classes_is_refused(predictions: Any, labels: Any) -> None:
    with pytest.raises(MeasurementError):
        measure.accuracy_from(predictions, labels, Split.TEST)


def test_predictions_come_back_and_are_paired_by_image() -> None:
    labels = np.array([0, 1, 2, 3])
    first, second = (measure.predictions_from(measure.predictions_json(p, labels, Split.TEST)) for p in ([0, 1, 1, 3], [1, 1, 2, 3]))
    pair = measure.correctness(first, second)
    assert pair is not None
    assert [each.tolist() for each in pair] == [[True, True, False, True], [False, True, True, True]]


@pytest.mark.parametrize(("labels", "split"), [([0, 1, 3, 2], Split.TEST), ([0, 1, 2, 3], Split.VALIDATION)])
def test_predictions_for_other_images_are_not_paired(labels: list[int], split: Split) -> None:
    first = measure.predictions_from(measure.predictions_json([0, 1, 1, 3], [0, 1, 2, 3], Split.TEST))
    assert measure.correctness(first, measure.predictions_from(measure.predictions_json([0, 1, 1, 3], labels, split))) is None


@pytest.mark.parametrize(
    "change", [{"split": "holdout"}, {"predictions": [0.5]}, {"predictions": ["1"]}, {"labels": None}, {"predictions": None}]
)
def test_a_damaged_file_of_predictions_is_refused(change: dict[str, Any]) -> None:
    data = json.loads(measure.predictions_json([0, 1], [0, 1], Split.TEST))
    with pytest.raises(StoreError):
        measure.predictions_from(json.dumps({**data, **change}))
    with pytest.raises(StoreError):
        measure.predictions_from("not json")


def test_speedup_is_how_many_times_faster_the_first_is() -> None:
    slow, fast = measured(profile(network("slow", 4_000_000), network("fast", 1_000_000)))
    got = measure.speedup(fast, slow)
    assert got.low < got.value < got.high
    assert got.low < 4 < got.high


def test_speedup_across_runs_or_in_an_invalid_one_is_refused() -> None:
    a, b = measured(profile(network("dense", 2_000_000), network("pruned", 1_000_000)))
    (elsewhere,) = measured(profile(network("dense", 2_000_000)))
    hot, _ = measured(profile(network("dense", 2), network("pruned", 1), after=replace(AFTER, throttled="0x4")))
    assert "one run" in measure.speedup(a, elsewhere).reason
    assert "W101" in measure.speedup(hot, replace(b, run=hot.run)).reason
