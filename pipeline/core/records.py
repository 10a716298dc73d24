"""Every typed, frozen record that crosses a seam, in the order in which a network travels.

    ModelSpec ─▶ Checkpoint ─▶ Exported ─▶ Artifact ─▶ Deployment ─▶ Measurement ─▶ Verdict
                  (Round …)                 (Parity)

A record has an id: the SHA-256 of its canonical content (`codec.record_id`). It names its parent's id, so that any number in
any report leads back to weights, data, recipe, toolchain and board. SI units inside; the unit is in the name where the type is
a plain number. `None` means unknown and always stands beside a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

RecordId = str
"""SHA-256 (hex) of a record's canonical content."""

Digest = str
"""SHA-256 (hex) of a file's bytes."""

Scalar = str | int | float | bool


class Provenance(StrEnum):
    """How a number came to be. Printed wherever the number is; only `measured` passes a gate unless the gate says otherwise."""

    MEASURED = "measured"
    EMULATED = "emulated"
    REPLAYED = "replayed"
    SIMULATED = "simulated"


class Precision(StrEnum):
    """Arithmetic of a lowered network."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"
    """4-bit weights, float activations."""


class Split(StrEnum):
    """Fixed parts of a data set. Decisions look at `validation`; `test` is read once, at the end."""

    TRAIN = "train"
    CALIBRATION = "calibration"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its confidence interval, or the reason why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    n: int = 0
    method: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output. `shape` has the batch dimension first; None is a dynamic dimension. `dtype` is NumPy's name."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """The one definition that training, calibration and device share: x = (pixel / 255 - mean[c]) / std[c], after zero padding."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    """Pixels of black added on each side before normalising."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """A data set with its fixed splits: how many samples each has and the digest of their content, in order."""

    kind: ClassVar[str] = "data"
    name: str
    classes: int
    counts: Mapping[str, int]
    digests: Mapping[str, Digest]
    preprocess: Preprocess
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """How to build the dense network: `builder` is "package.module:callable", called with `arguments`."""

    kind: ClassVar[str] = "model"
    builder: str
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...]
    classes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Top-1 on one split. `correct` out of `n`; the interval is Wilson's."""

    split: Split
    correct: int
    n: int
    top1: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What made a record: the stage with its parameters, seed, command, tool versions and source commit."""

    stage: str
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    seed: int | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Size of a network by tracing, never by a table. 1 MAC = one multiplication and its addition.

    `parameters` counts every trainable number, BatchNorm's included. `macs` is for batch 1 at the model's input shape.
    """

    parameters: int
    macs: int
    activation_bytes: int = 0
    """Sum of all layer outputs at float32, batch 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Trainable weights (safetensors) of a network whose tensor shapes may be narrower than the builder's.

    `quantised` is None for a float network, else the digest of its scale table (JSON, see compress/quantise.py).
    """

    kind: ClassVar[str] = "checkpoint"
    model: ModelSpec
    weights: Digest
    quantised: Digest | None = None
    precision: Precision = Precision.FP32
    cost: Cost
    widths: Mapping[str, int] = field(default_factory=dict)
    accuracy: tuple[Accuracy, ...] = ()
    parent: RecordId | None = None
    data: RecordId | None = None
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """An ONNX file. `parameters` is counted in the file and has been compared with the checkpoint's."""

    kind: ClassVar[str] = "exported"
    parent: RecordId
    file: Digest
    size_bytes: int
    opset: int
    ir: int
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: int
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What a runtime loads."""

    kind: ClassVar[str] = "artifact"
    parent: RecordId | None
    backend: str
    format: str
    """File ending without the dot: onnx, tflite, engine."""
    precision: Precision
    file: Digest
    size_bytes: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Outputs of one form of a network against the reference form on the same inputs.

    `reference` and `subject` name the forms: checkpoint, exported, device.
    """

    reference: str
    subject: str
    n: int
    max_abs_error: float | None
    """None where only classes were compared."""
    max_rel_error: float | None
    """max |a - b| / max |a|, per output, largest taken."""
    cosine_min: float | None
    top1_agreement: Estimate
    tolerance: Mapping[str, float]
    passed: bool
    reason: str = ""
    outputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Per output max_abs_error, max_rel_error and cosine_min; empty where only classes were compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """The verdict over all comparisons of one artifact."""

    kind: ClassVar[str] = "parity"
    artifact: RecordId
    comparisons: tuple[Comparison, ...]
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeFacts:
    """A runtime found on a target: version, or None with the reason it cannot be used."""

    name: str
    version: str | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterFacts:
    """An energy meter known to the agent: usable, or the reason it is not."""

    name: str
    usable: bool
    scope: tuple[str, ...] = ()
    """Names of the rails or zones that it sums."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFacts:
    """What a target is, as its agent reports it. Unknown strings are empty, unknown numbers None."""

    kind: ClassVar[str] = "facts"
    board: str
    """Board model (device tree, DMI) or "unknown"."""
    machine: str
    """uname -m."""
    system: str
    kernel: str
    cpu: str
    cores: int
    memory_bytes: int | None
    disk_free_bytes: int | None
    python: str
    libc: str = ""
    emulated: bool = False
    board_id: str = ""
    """Key in `targets/boards/` ("jetson-nano"); empty for a board of no family."""
    family: str = ""
    cpu_features: tuple[str, ...] = ()
    """Instruction sets that kernels choose by, as /proc/cpuinfo spells them."""
    accelerators: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the system's parts: os, l4t, jetpack, tensorrt, driver, firmware …"""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a version or an accelerator is not known."""
    runtimes: tuple[RuntimeFacts, ...] = ()
    meters: tuple[MeterFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedWheel:
    """One file of a package index, exactly."""

    name: str
    version: str
    file: str
    digest: Digest
    size_bytes: int
    unpacked_bytes: int
    url: str
    """Where it was found; file:// for a folder or a local index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelLock:
    """What a runtime's private environment is made of, on every board with the same interpreter and platform."""

    kind: ClassVar[str] = "wheels"
    runtime: str
    requirements: tuple[str, ...]
    """What was asked for; the wheels have everything that these need in turn."""
    abi: str
    """cp311."""
    platforms: tuple[str, ...]
    """Platform tags that the board takes, best first."""
    wheels: tuple[PinnedWheel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """State of the target at one instant. What the target cannot tell is None."""

    t_ns: int
    """The target's wall clock."""
    monotonic_ns: int
    load1: float | None = None
    cpu_mhz: float | None = None
    governor: str | None = None
    temp_celsius: float | None = None
    throttled: str | None = None
    """Raw throttle flags as the board gives them."""
    power_mode: str | None = None
    cpu_clock_fixed: bool | None = None
    """Lowest and highest limit of each CPU clock are the same (jetson_clocks, or set by hand)."""
    gpu_mhz: float | None = None
    gpu_clock_fixed: bool | None = None
    gpu_throttled: str | None = None
    """What slows the GPU now, in words; "none"."""
    readings: Mapping[str, float] = field(default_factory=dict)
    """Further numbers of the board, with their unit in the name: supply_volts, pmic_watts, gpu_watts …"""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a field is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """Minimum time and count, then until the median's interval is narrower than asked for, or the budget ends."""

    min_time_s: float = 1.0
    min_count: int = 100
    rel_width: float = 0.02
    """Asked width of the median's confidence interval, as a fraction of the median."""
    max_time_s: float = 10.0
    warmup_s: float = 0.5
    block_s: float = 0.05
    """Duration of one block, at least one inference long; the networks of one run take turns block by block. With an energy meter
    a block lasts at least six of its periods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Raw host-to-host times of one network in one run (inputs in memory to outputs in memory, batch as given)."""

    blocks: tuple[tuple[int, ...], ...]
    """Per-inference times in ns, block by block in the order taken."""
    warmup_ns: tuple[int, ...]
    load_s: float
    first_s: float
    stopped_by: str
    """precise: the interval was narrow enough · time: the budget ended."""
    p50_s: Estimate
    p90_s: Estimate
    p99_s: Estimate
    mean_s: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules per inference. Gross is the headline, net of idle is extra. No sensor: value None with the reason."""

    gross_j: Estimate
    net_j: Estimate
    sensor: str = ""
    scope: tuple[str, ...] = ()
    sample_hz: float | None = None
    n_samples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak resident set of the network's own process, before loading the network and at the end."""

    before_bytes: int | None
    peak_bytes: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Whether the run may be used; an invalid run is kept with its causes and not averaged in."""

    valid: bool
    causes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One artifact on one target: everything that was observed, and under which conditions."""

    kind: ClassVar[str] = "measurement"
    artifact: RecordId
    label: str
    target: str
    facts: TargetFacts
    runtime: str
    runtime_version: str
    precision: Precision
    batch: int
    threads: int
    provenance: Provenance
    rule: StoppingRule
    latency: Latency
    memory: Memory
    energy: Energy
    size_bytes: int
    accuracy: Accuracy | None = None
    accuracy_reason: str = ""
    predictions: Digest | None = None
    """File with the prediction for each image, for paired comparisons (measure.predictions_json)."""
    run: str
    """Networks measured turn by turn in one run share this id; only they may be compared pairwise."""
    before: Conditions
    after: Conditions
    validity: Validity
    started_at: str
    """RFC 3339, UTC, of the host."""
    command: str = ""
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One step of a pruning search: asked cost, resulting network, what it scored, and what was decided."""

    index: int
    parent: Digest
    """Of the tensors of the network that was cut."""
    checkpoint: Digest | None
    """Of the result's tensors; None for a probe, which was cut and measured but not trained."""
    asked_cost_kept: float
    """Fraction of the dense network's cost (in the goal's unit) that was asked for."""
    threshold: float
    cost: Cost
    widths: Mapping[str, int]
    accuracy: Accuracy | None
    accuracy_drop: Estimate | None
    """Against the dense network, same validation images, as a fraction (0.01 is one point); interval of the paired difference."""
    latency_ratio: Estimate | None
    """Against the dense network at the same precision, measured turn by turn on the goal's target."""
    latency_s: Estimate | None = None
    energy_ratio: Estimate | None = None
    """Gross joules per inference, against the dense network in the same run; None when it was not asked for."""
    energy_j: Estimate | None = None
    size_bytes: int | None = None
    """Of the file that would be deployed; None when none was made."""
    accepted: bool
    reason: str
    wall_s: float
    trained_images: int = 0
    rewind: str = ""
    """Where recovery began (PruneSettings.rewind); empty when nothing was trained."""
    recovery: str = ""
    """What recovery was, in the words of who trains: loss, rate, epochs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What a probe measured of a candidate: against the dense network at the same precision, turn by turn in one run."""

    latency_ratio: Estimate = Estimate(value=None, reason="the probe does not measure latency")
    latency_s: Estimate = Estimate(value=None, reason="the probe does not measure latency")
    """Median."""
    energy_ratio: Estimate = Estimate(value=None, reason="the probe does not measure energy")
    energy_j: Estimate = Estimate(value=None, reason="the probe does not measure energy")
    """Gross, per inference."""
    size_bytes: int | None = None
    """Of the file that would be deployed; None where the probe makes none."""
    size_ratio: float | None = None


class Quantity(StrEnum):
    """What an objective can bound or minimise, by the name that it has in an objective's text."""

    ACCURACY_DROP = "accuracy_drop"
    LATENCY = "latency_p50"
    ENERGY = "energy"
    SIZE = "size"
    PARAMS = "params"
    MACS = "macs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a compressed network must meet, against the dense one (objective.py reads it from text). None is not asked for."""

    accuracy_drop: float | None = None
    """Largest loss of top-1, as a fraction: 0.01 is one percentage point."""
    latency_ratio: float | None = None
    """Largest p50 over the dense network's p50 at the same precision, on the goal's target."""
    energy_ratio: float | None = None
    """Largest gross energy per inference over the dense network's, likewise."""
    size_ratio: float | None = None
    """Largest file over the dense network's file at the same precision."""
    params_ratio: float | None = None
    macs_ratio: float | None = None
    minimise: Quantity | None = None
    """What is made as small as these bounds allow. None: the accuracy drop where anything else is bounded, else the cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A finished pruning search: its rounds, the chosen network and why it ended."""

    kind: ClassVar[str] = "search"
    dense: RecordId
    chosen: RecordId
    """The nearest network when the objective is not met."""
    chosen_round: int
    """`index` of its round; 0 is the dense network."""
    objective: str
    met: bool
    stopped: str
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A release on a target."""

    kind: ClassVar[str] = "deployment"
    artifact: RecordId
    target: str
    app: str
    release: str
    previous: str | None
    path: str
    """The stable path on the target: …/current."""
    sent_bytes: int
    golden: Comparison
    activated_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleResult:
    """One rule of a gate: asked, seen, and the three-valued outcome."""

    rule: str
    asked: float
    seen: Estimate
    outcome: str
    """pass · fail · inconclusive."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A gate's decision over all its rules."""

    kind: ClassVar[str] = "verdict"
    candidate: RecordId
    baseline: RecordId
    rules: tuple[RuleResult, ...]
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """One `edgec deploy`: everything that a report needs, by id."""

    kind: ClassVar[str] = "deploy"
    target: str
    dense: RecordId
    search: RecordId | None
    compressed: RecordId
    exported: RecordId | None
    """None where the artifact was lowered from the checkpoint itself."""
    artifact: RecordId
    dense_artifact: RecordId
    parity: RecordId
    deployment: RecordId
    measurements: tuple[RecordId, ...]
    """Final networks first: compressed, dense at the same precision, dense fp32."""
    verdict: RecordId
    cached: tuple[str, ...]
    """Stages answered from the store."""
    started_at: str
    precision_reason: str = ""
    """What was measured, where the target decided between int8 and fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compress:
    """One `edgec compress`, or an `edgec deploy` whose search met no objective: everything that a report needs, by id."""

    kind: ClassVar[str] = "compress"
    app: str
    target: str | None
    """Where candidates were measured, or where the network would have gone; None without a target."""
    dense: RecordId
    search: RecordId | None
    """None without pruning."""
    compressed: RecordId
    """The network to ship; when the objective is not met the nearest one, in float32 and not lowered."""
    artifact: RecordId | None
    """None when the objective is not met."""
    dense_artifact: RecordId
    """Of the dense network in float32."""
    met: bool
    cached: tuple[str, ...]
    """Stages answered from the store."""
    started_at: str
    command: str
    precision_reason: str = ""
    """What was measured, where the target decided between int8 and fp32."""


Record = (
    DataSpec
    | ModelSpec
    | Checkpoint
    | Exported
    | Artifact
    | Parity
    | TargetFacts
    | WheelLock
    | Measurement
    | Search
    | Deployment
    | Verdict
    | Deploy
    | Compress
)
"""Everything with a `kind` that the store keeps."""
