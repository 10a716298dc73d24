"""The seams. Callers depend on these only; `tests/contract/` holds the laws against every implementation and every fake."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from edgec.pipeline.core.records import (
    Artifact,
    Digest,
    Exported,
    Precision,
    Probed,
    Record,
    RecordId,
    Split,
    TargetFacts,
    TensorSpec,
)


class Support:
    """Whether a backend can serve a target: yes, or no with the reason and what helps. Which precisions it has there, the capability table
    says."""

    __slots__ = ("hint", "reason", "usable")

    def __init__(self, *, usable: bool, reason: str = "", hint: str = "") -> None:
        self.usable, self.reason, self.hint = usable, reason, hint


class FileInfo(Protocol):
    """What any network file says of itself."""

    @property
    def path(self) -> Path: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def symbols(self) -> Mapping[str, tuple[str, ...]]:
        """Input name to the names of its dimensions; "" for fixed ones, "?" for dynamic ones without a name."""
        ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def precision(self) -> Precision: ...


class Backend(Protocol):
    """Turns a network into something that a runtime executes: an `OnnxBackend` or a `NetworkBackend`, as `accepts` says.

    Laws: `support` imports nothing heavy and never raises; the same input gives the same bytes; a failure leaves no file behind.
    """

    name: ClassVar[str]
    """Also the name of the device half in `edgec.targets.agent.runners`."""
    format: ClassVar[str]
    device_package: ClassVar[str]
    """What pip installs on a target that lacks the runtime."""
    symmetric: ClassVar[bool]
    """int8 activations have their zero point in the middle of the grid: the runtime has no other grids."""

    def support(self, facts: TargetFacts) -> Support:
        """Whether its runtime is there, and here what it is lowered with. Asked before anything is trained."""
        ...

    def channel_multiple(self, machine: str, precision: Precision, /) -> int:
        """Widths that are multiples of this fill the runtime's kernels; pruning rounds to it unless [prune] round_to says otherwise.

        Args:
            machine: the target's instruction set as `uname -m` has it; "" is unknown.
            precision: that it will run at.
        """
        ...

    def infer(self, file: Path, inputs: Mapping[str, Any], *, threads: int = 1) -> dict[str, Any]:
        """Run the artifact here on the host (NumPy arrays in and out), for parity. Raises ToolchainMissing without the runtime."""
        ...

    def inspect(self, file: Path) -> FileInfo:
        """Read and check any file of this format. Raises ModelError, or ToolchainMissing without what reads it."""
        ...


class OnnxBackend(Backend, Protocol):
    """Starts from the ONNX file."""

    accepts: ClassVar[Literal["onnx"]]

    def lower(self, exported: Exported, parent: RecordId, source: Path, out: Path) -> Artifact:
        """Write the artifact to `out`."""
        ...


class NetworkBackend(Backend, Protocol):
    """Starts from the network itself: a float torch module, or a quantised one (compress/quantise.py)."""

    accepts: ClassVar[Literal["network"]]

    def lower(
        self, network: Any, inputs: tuple[TensorSpec, ...], parent: RecordId, out: Path, *, precision: Precision | None = None
    ) -> Artifact:
        """Write the artifact to `out`. The batch of `inputs` is the artifact's where it cannot be dynamic.

        Args:
            precision: of a float network's weights; None is the network's own.
        """
        ...


class Transport(Protocol):
    """Five verbs to a machine. Laws: every call has a deadline; a failure raises a TargetError that names the machine; `close` may be
    called twice; nothing is written outside the paths given."""

    name: str

    def connect(self) -> None: ...

    def run(self, argv: Sequence[str], *, timeout_s: float) -> tuple[int, str, str]:
        """Run a command (words, never a shell line): exit status, stdout, stderr."""
        ...

    def put(self, source: Path, target: str, *, offset: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy a file to a path whose folder exists. The target is complete only when this returns.

        `offset` continues an interrupted copy: the target has that many bytes of the source already. `progress` is called with bytes
        done and in all.
        """
        ...

    def get(self, source: str, target: Path) -> None: ...

    def channel(self, argv: Sequence[str]) -> "Channel":
        """Start a command whose standard streams carry the agent's lines."""
        ...

    def close(self) -> None: ...


class Channel(Protocol):
    """Lines to and from a started command."""

    def send(self, line: bytes) -> None: ...

    def receive(self, *, deadline: float) -> bytes:
        """The next line without its newline; `deadline` is a time.monotonic() instant.

        Raises:
            DeadlineExceeded, AgentDied, ProtocolViolation (line too long).
        """
        ...

    def errors(self) -> str:
        """What the command has written to stderr, at most the last 64 kB."""
        ...

    def close(self) -> None: ...


class Dataset(Protocol):
    """Images and labels by split; the same call always gives the same samples in the same order."""

    def arrays(self, split: Split) -> tuple[Any, Any]:
        """(images, labels): uint8 (n, channels, height, width) before padding and normalising; int64 (n,)."""
        ...


class Meter(Protocol):
    """Device half, Python 3.6, standard library only. Laws: timestamps never go back; what cannot be read is an error with a reason,
    never a zero; reading needs no more privilege than `reason_unusable` says."""

    name: ClassVar[str]
    unit: ClassVar[str]
    """W for power samples, J for a running counter."""

    def reason_unusable(self) -> str:
        """Empty when the meter works here."""
        ...

    def scope(self) -> Sequence[str]: ...

    def read(self) -> float:
        """Watts now, or joules since some fixed instant (wraparound already undone)."""
        ...


class Probe(Protocol):
    """Measures a candidate before training is spent on it: latency, and energy where the target has a meter, and the file's size.

    Laws: what is not known is an estimate without a value and with the reason; networks of the same widths may be measured once.
    """

    def __call__(self, candidate: Any) -> Probed: ...


class Events(Protocol):
    """Where operations say what they are doing; console and log are subscribers."""

    def stage(self, name: str, detail: str = "") -> AbstractContextManager[None]:
        """A stage with a beginning and an end."""
        ...

    def progress(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Long work: call the function with the amount done so far."""
        ...

    def note(self, text: str) -> None: ...

    def warn(self, code: str, text: str) -> None:
        """A warning with a stable code."""
        ...


class Store(Protocol):
    """Records and content-addressed files. Laws: nothing half written is ever returned; putting twice is putting once."""

    def put(self, record: Record) -> RecordId: ...

    def get(self, record: RecordId) -> Record:
        """By full id or by an unambiguous beginning of at least 6 digits."""
        ...

    def adopt(self, file: Path) -> Digest:
        """Copy a file in and return its digest."""
        ...

    def file(self, digest: Digest) -> Path:
        """Where a file lies; its content has been adopted before."""
        ...

    def remembered(self, key: str) -> Record | None:
        """What a stage gave for these inputs, if it ran before."""
        ...

    def remember(self, key: str, record: Record) -> RecordId: ...

    def records(self, kind: str) -> Iterator[tuple[RecordId, Record]]:
        """Newest first."""
        ...
