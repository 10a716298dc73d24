"""Raw observations of a run to `Measurement` records: estimates, energy, validity, provenance.

Nothing is thrown away: raw times stay in the record, an invalid run is kept with its causes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from edgec.pipeline import stats
from edgec.pipeline.compare import latency_ratio
from edgec.pipeline.core.codec import canonical, digest_of_json, record_id
from edgec.pipeline.core.errors import MeasurementError, StoreError
from edgec.pipeline.core.records import (
    Accuracy,
    Artifact,
    Conditions,
    Digest,
    Energy,
    Estimate,
    Latency,
    Lineage,
    Measurement,
    Memory,
    Provenance,
    Split,
    StoppingRule,
    TargetFacts,
    Validity,
)
from edgec.profilers import energy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from edgec.targets.replies import ProfiledNetwork, ProfileRun

MAX_CLOCK_STEP_S = 0.05
"""Wall clock against monotonic clock. Slewing moves both alike (clock_gettime(2)), so a difference is a step."""
MAX_FREQUENCY_DROP = 0.10
LOAD_PER_CORE = 0.75
SCALING_GOVERNORS = frozenset({"ondemand", "conservative", "schedutil", "interactive", "powersave"})
"""Governors that move the clock with the load: a lower frequency after the run is then no fault (with intel_pstate, powersave too)."""

PI_FLAGS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of `vcgencmd get_throttled`; 16 higher is the same since boot (raspberrypi/documentation, vcgencmd)."""


class Finding(Enum):
    """Everything that a run can be found at fault with; codes are stable. W1xx make it invalid, W2xx are warnings."""

    THROTTLED = ("W101", "throttled", "cool the board, or give it a supply that holds its voltage")
    GOVERNOR_CHANGED = ("W102", "governor changed during the run", "find what sets it (tuned, power-profiles-daemon), and run again")
    FREQUENCY_FELL = ("W103", "CPU frequency fell", "cool the board, or fix the frequency (governor performance)")
    POWER_MODE_CHANGED = ("W104", "power mode changed during the run", "leave the power mode alone, and run again")
    CLOCK_STEPPED = ("W105", "wall clock stepped", "let the clock settle (chronyc waitsync), and run again")
    OTHER_LOAD = ("W201", "other load", "stop other work on the target; edgec's own training there just before counts too")
    WIDE_INTERVAL = ("W202", "interval wider than asked for", "raise [measure.rule] max_time_s, or quieten the target")
    FREQUENCY_SCALED = ("W203", "CPU frequency moves", "fix it for comparable numbers (governor performance)")

    def __init__(self, code: str, title: str, advice: str) -> None:
        self.code, self.title, self.advice = code, title, advice

    @property
    def invalidates(self) -> bool:
        """Whether the run may not be used."""
        return self.code.startswith("W1")

    def text(self, detail: str) -> str:
        """As it stands in the record: code, what, the observation, what to do."""
        return f"{self.code} {self.title}: {detail}; {self.advice}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One network of a run: its artifact, and its accuracy on the device or why there is none."""

    artifact: Artifact
    accuracy: Accuracy | None = None
    accuracy_reason: str = "not asked for"
    predictions: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What the host knows about a run."""

    target: str
    facts: TargetFacts
    rule: StoppingRule
    batch: int
    threads: int
    started_at: str
    """RFC 3339, UTC."""
    lineage: Lineage
    provenance: Provenance = Provenance.MEASURED
    """What the target's settings say; a target that finds itself emulated is emulated whatever they say."""
    command: str = ""


def measurements_from(run: "ProfileRun", subjects: Mapping[str, Subject], setup: Setup) -> tuple[Measurement, ...]:
    """One record for each network of the run, in its order. `subjects` is by label.

    Raises:
        MeasurementError: the run has other networks than the subjects, or a network without a span for each block.
    """
    labels = [network.label for network in run.networks]
    if sorted(labels) != sorted(subjects):
        raise MeasurementError(f"the target measured {', '.join(labels)}; asked for was {', '.join(subjects)}")
    together = digest_of_json([setup.target, setup.started_at, run.before.t_ns, [[n.label, n.blocks] for n in run.networks]])
    provenance = Provenance.EMULATED if setup.facts.emulated else setup.provenance
    return tuple(_measurement(network, run, subjects[network.label], setup, together, provenance) for network in run.networks)


def _measurement(
    network: "ProfiledNetwork", run: "ProfileRun", subject: Subject, setup: Setup, together: str, provenance: Provenance
) -> Measurement:
    artifact = subject.artifact
    return Measurement(
        artifact=record_id(artifact),
        label=network.label,
        target=setup.target,
        facts=setup.facts,
        runtime=artifact.backend,
        runtime_version=network.runtime_version,
        precision=artifact.precision,
        batch=setup.batch,
        threads=setup.threads,
        provenance=provenance,
        rule=setup.rule,
        latency=latency_from(network),
        memory=_memory(network),
        energy=_energy(network, run),
        size_bytes=artifact.size_bytes,
        accuracy=subject.accuracy,
        accuracy_reason="" if subject.accuracy else subject.accuracy_reason,
        predictions=subject.predictions,
        run=together,
        before=run.before,
        after=run.after,
        validity=validity(run.before, run.after, cores=setup.facts.cores, stopped_by=network.stopped_by, rule=setup.rule),
        started_at=setup.started_at,
        command=setup.command,
        lineage=setup.lineage,
    )


def latency_from(network: "ProfiledNetwork") -> Latency:
    """Quantiles and mean of all times of a network after its warm-up, seconds; the raw times beside them."""
    import numpy as np

    seconds = np.concatenate([np.asarray(block, dtype=np.float64) for block in network.blocks] or [np.empty(0)]) * 1e-9
    return Latency(
        blocks=network.blocks,
        warmup_ns=network.warmup_ns,
        load_s=network.load_s,
        first_s=network.first_s,
        stopped_by=network.stopped_by,
        p50_s=stats.quantile(seconds, 0.5),
        p90_s=stats.quantile(seconds, 0.9),
        p99_s=stats.quantile(seconds, 0.99),
        mean_s=stats.mean(seconds),
    )


def _memory(network: "ProfiledNetwork") -> Memory:
    reason = "" if network.rss_peak_bytes is not None else "the target does not tell the peak of a process's memory"
    return Memory(before_bytes=network.rss_before_bytes, peak_bytes=network.rss_peak_bytes, reason=reason)


def _energy(network: "ProfiledNetwork", run: "ProfileRun") -> Energy:
    if run.trace is None:
        return energy.unknown(run.trace_reason or "the target gave no trace and no reason")
    if len(network.spans) != len(network.blocks):
        raise MeasurementError(f"{network.label} has {len(network.blocks)} blocks and {len(network.spans)} spans")
    return energy.energy_from(run.trace, network.spans, [len(block) for block in network.blocks])


def validity(before: Conditions, after: Conditions, *, cores: int, stopped_by: str, rule: StoppingRule) -> Validity:
    """What the conditions before and after say about a run. A condition that the target cannot tell finds nothing."""
    found: list[tuple[Finding, str]] = []
    throttled = _throttled(before.throttled, after.throttled)
    if throttled:
        found.append((Finding.THROTTLED, throttled))
    slowed = sorted({each for each in (before.gpu_throttled, after.gpu_throttled) if each not in (None, "none")})
    if slowed:
        found.append((Finding.THROTTLED, f"GPU: {', '.join(slowed)}"))
    for finding, then, now in (
        (Finding.GOVERNOR_CHANGED, before.governor, after.governor),
        (Finding.POWER_MODE_CHANGED, before.power_mode, after.power_mode),
    ):
        if then is not None and now is not None and then != now:
            found.append((finding, f"{then} before, {now} after"))
    if before.cpu_mhz and after.cpu_mhz and after.cpu_mhz < (1 - MAX_FREQUENCY_DROP) * before.cpu_mhz:
        # without a governor the frequency is /proc/cpuinfo's (virtual machines), which moves with the load too
        scaled = after.governor is None or SCALING_GOVERNORS & set(after.governor.split(","))
        detail = f"{before.cpu_mhz:.0f} MHz before, {after.cpu_mhz:.0f} MHz after"
        found.append((Finding.FREQUENCY_SCALED if scaled else Finding.FREQUENCY_FELL, detail))
    step_s = ((after.t_ns - before.t_ns) - (after.monotonic_ns - before.monotonic_ns)) * 1e-9
    if abs(step_s) > MAX_CLOCK_STEP_S:
        found.append((Finding.CLOCK_STEPPED, f"by {step_s:+.3f} s against the monotonic clock"))
    if before.load1 is not None and before.load1 > LOAD_PER_CORE * cores:
        found.append((Finding.OTHER_LOAD, f"the load average was {before.load1:.2f} on {cores} cores before the run"))
    if stopped_by == "time":
        found.append((Finding.WIDE_INTERVAL, f"the median's interval is wider than {rule.rel_width:.1%} after {rule.max_time_s:g} s"))
    return Validity(
        valid=not any(finding.invalidates for finding, _ in found),
        causes=tuple(finding.text(detail) for finding, detail in found if finding.invalidates),
        warnings=tuple(finding.text(detail) for finding, detail in found if not finding.invalidates),
    )


def _throttled(before: str | None, after: str | None) -> str:
    """What the throttle flags say happened; empty for nothing or unknown.

    Hexadecimal flags are a Raspberry Pi's: low bits are now, bits 16 on are since boot and count only if newly set. A plain number
    counts events since boot. Anything else says something only if it changed.
    """
    if after is None:
        return ""
    if not after.lower().startswith("0x"):
        return "" if before is None or after == before else f"{before} before, {after} after"
    try:
        then, now = int(before or "0", 16), int(after, 16)
    except ValueError as error:
        raise MeasurementError(f"the target's throttle flags are {before!r} and {after!r}", hint="update the agent") from error
    active = (then | now) & 0xF
    newly = (now & ~then) >> 16 & 0xF if before is not None else 0
    words = [f"{name} now" for bit, name in PI_FLAGS.items() if active >> bit & 1]
    words += [f"{name} during the run" for bit, name in PI_FLAGS.items() if newly >> bit & 1 and not active >> bit & 1]
    return ", ".join(words)


def accuracy_from(predictions: "ArrayLike", labels: "ArrayLike", split: Split) -> Accuracy:
    """Top-1 with Wilson's interval. Both are class numbers, shape (images,).

    Raises:
        MeasurementError: the shapes differ, or one does not hold whole numbers.
    """
    right = _classes(predictions) == _same_length(labels, predictions)
    correct, n = int(right.sum()), int(right.size)
    return Accuracy(split=split, correct=correct, n=n, top1=stats.proportion(correct, n))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The class that a network gave for each image of a split, in the split's order, beside the class that was right."""

    split: Split
    predictions: tuple[int, ...]
    labels: tuple[int, ...]


def predictions_json(predictions: "ArrayLike", labels: "ArrayLike", split: Split) -> str:
    """Canonical JSON text of the file that `Measurement.predictions` names."""
    classes = _classes(predictions)
    return canonical({"split": split.value, "predictions": classes.tolist(), "labels": _same_length(labels, predictions).tolist()})


def predictions_from(text: str) -> Predictions:
    """Read such a file.

    Raises:
        StoreError: it is not one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Predictions).validate_json(text, strict=True)
    except ValidationError as error:
        raise StoreError("a stored file of predictions cannot be read", hint="measure the artifact again") from error


def correctness(a: Predictions, b: Predictions) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]] | None":
    """Whether each image was right, bool, shape (images,), by both networks; None when they saw other images."""
    import numpy as np

    if a.split != b.split or a.labels != b.labels:
        return None
    first, second = (np.equal(_classes(each.predictions), _same_length(each.labels, each.predictions)) for each in (a, b))
    return first, second


def speedup(a: Measurement, b: Measurement) -> Estimate:
    """How many times faster a is than b: p50 of b over p50 of a, paired over the turns of their run.

    Refused for networks of different runs, and for an invalid one.
    """
    if a.run != b.run:
        return stats.refused("the networks were not measured turn by turn in one run")
    return latency_ratio(b, a)


def _classes(values: "ArrayLike") -> "NDArray[np.int64]":
    import numpy as np

    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise MeasurementError(f"class numbers in one dimension are asked for, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _same_length(labels: "ArrayLike", predictions: "ArrayLike") -> "NDArray[np.int64]":
    truth = _classes(labels)
    if truth.shape != _classes(predictions).shape:
        raise MeasurementError(f"{truth.size} labels, {_classes(predictions).size} predictions")
    return truth
