"""What the agent answers, as frozen types: raw observations of the device, before any statistics."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgec.pipeline.core.records import Conditions, Digest, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkJob:
    """A network to run on a target: its file and its inputs lie there already, by digest."""

    label: str
    file: Digest
    format: str
    """onnx, tflite, engine."""
    runtime: str
    """Module name in `edgec.targets.agent.runners`."""
    inputs: Digest
    """An .npz of one array per network input (no pickle)."""
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledNetwork:
    """Raw times of one network of a run."""

    label: str
    blocks: tuple[tuple[int, ...], ...]
    """Per-inference host-to-host times in ns, block by block."""
    spans: tuple[tuple[int, int], ...]
    """Monotonic start and end of each block, ns, on the device."""
    warmup_ns: tuple[int, ...]
    load_s: float
    first_s: float
    stopped_by: str
    runtime_version: str
    rss_before_bytes: int | None
    rss_peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTrace:
    """Samples of one energy meter: power in W, or a running energy counter in J (`unit`)."""

    meter: str
    unit: str
    scope: tuple[str, ...]
    samples: tuple[tuple[int, float], ...]
    """(monotonic ns, value)."""
    idle: tuple[tuple[int, int], ...]
    """Monotonic spans in which no network ran, before and after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRun:
    """Networks measured turn by turn."""

    networks: tuple[ProfiledNetwork, ...]
    before: Conditions
    after: Conditions
    trace: MeterTrace | None
    trace_reason: str
    """Why there is no trace; empty when there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a network gave for a set of inputs."""

    arrays: Mapping[str, object]
    """NumPy arrays by output name."""
    runtime_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRelease:
    """A release on a target."""

    release: str
    active: bool
    previous: bool
    """A rollback would activate this one."""
    size_bytes: int
    staged_at_s: float
    """The target's wall clock, seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The session that is in charge of a target; None: its agent has not said yet."""

    owner: str | None
    pid: int | None
    """Of its agent, on the target."""
    age_s: float | None
    silent_s: float | None
    """Since its host was last heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppThere:
    """An application on a target."""

    app: str
    active: str | None
    releases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What of edgec lies on a target."""

    apps: tuple[AppThere, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentThere:
    """A target's interpreter, and the private environment that a runtime has there."""

    implementation: str
    """cpython."""
    version: str
    abi: str
    """cp36m, cp311, cp313t."""
    bits: int
    """A 32-bit interpreter may run on a 64-bit kernel."""
    current: str
    """The environment's name, which is the digest of its wheels' digests; empty for none."""
    whole: bool
    """Each of its files is what was unpacked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEnvironment:
    """What became of a request to make a private environment."""

    made: bool
    """False: it was there already, or there is no route."""
    fetched: int
    """Bytes that the target has downloaded itself."""
    no_route: str
    """Why the target cannot download; then nothing was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenBounds:
    """A golden check to be made: the files in the release, the runtime, and how far the outputs may be from the references."""

    file: str
    runtime: str
    max_abs: float
    top1: float
    """Least share of rows that agree."""
    golden: str = "golden.npz"
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenCheck:
    """A release's network, run by the target's own runtime, against the reference outputs that came with it.

    The errors are None when a number is not finite; their definitions are `records.Comparison`'s.
    """

    max_abs_error: float | None
    max_rel_error: float | None
    cosine_min: float | None
    agree: int
    n: int
    passed: bool
    runtime_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFingerprint:
    """Everything that an engine is tied to. Identical boards have equal fingerprints. What is unknown is empty."""

    runtime: str
    """What would build and run it: tensorrt, tensorrt_rtx, or trtexec where Python has neither."""
    version: str
    strongly_typed: bool
    """The network's own types decide on the arithmetic: there are no precision flags (TensorRT 11, TensorRT-RTX)."""
    gpu: str
    compute_capability: str
    """8.7."""
    cuda: str
    """The newest CUDA that the driver serves."""
    driver: str
    """Of a discrete GPU's kernel module."""
    l4t: str
    """Release of a Jetson's system: R32.7.1."""
    reason: str
    """Why there is no GPU's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """An engine to build on a target; the network lies there already, by digest."""

    network: Digest
    precision: str
    batch: int = 1
    """Of inputs whose batch is dynamic."""
    workspace_bytes: int = 1 << 28
    """Memory that the fastest kernels may use beside the network's own."""
    capabilities: tuple[str, ...] = ()
    """TensorRT-RTX only: kinds of GPU to build for (SM86, …); none: the one that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """What a builder made."""

    digest: Digest
    builder: str
    version: str
    build_s: float
    size_bytes: int
    layers: int | None
    """Of the network as parsed; None from trtexec."""
    flags: tuple[str, ...]
    timing_cache: str
    """used · new · damaged (the kept one was, and was left aside) · none."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
