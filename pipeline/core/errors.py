"""Every error that edgec raises on purpose. The tree branches where a caller would act differently.

EdgecError
├─ ConfigError               fix the file or the command line             exit 2
├─ ModelError                fix the network, its weights or its data     exit 5
├─ CompressionError          change the recipe                            exit 5
│  └─ TrainingDiverged       lower the rate; a search goes on without     exit 5
├─ LoweringError             change the backend or what it is asked for   exit 5
│  ├─ ToolchainMissing       install the extra named in the hint          exit 5
│  └─ ParityFailed           the lowered network computes something else  exit 5
├─ TargetError               look at the board                            exit 3
│  ├─ ConnectError           a retry may help
│  │  ├─ HostUnreachable     refused, no route, name not known
│  │  └─ ConnectTimeout      something listens and does not answer
│  ├─ AuthRejected           never retried
│  ├─ HostKeyUnknown         never retried; carries the fingerprint
│  ├─ HostKeyChanged         never retried
│  ├─ PythonMissing          the board has no usable Python
│  ├─ CommandFailed          exit status and both streams
│  ├─ AgentError             the agent answered with an error of its own
│  │  ├─ AgentDied           the channel closed before the answer
│  │  ├─ DeadlineExceeded    no answer in time
│  │  ├─ ProtocolViolation   an answer that is not the protocol
│  │  └─ RunnerDied          the network's own process crashed or was killed
│  ├─ DeviceFull             no space left
│  ├─ DeviceReadOnly         the file system refuses writes
│  ├─ DeviceBusy             somebody else holds the lock
│  ├─ DigestMismatch         what arrived is not what was sent
│  ├─ SignatureRejected      the target demands a signature by a key it trusts
│  ├─ GoldenCheckFailed      the device's runtime computes something else; the release was not activated
│  └─ HealthCheckFailed      the release was activated and did not work; the old one is active again
├─ MeasurementError          the number is not valid                      exit 4
├─ ObjectiveNotMet           no candidate met it; carries the nearest     exit 1
└─ StoreError                the run store is damaged or too new          exit 5

A bug is not an EdgecError: it goes up as it is, and the command line exits with 70.
"""

from collections.abc import Mapping
from typing import ClassVar


class EdgecError(Exception):
    """What failed (one sentence), what to do next, and the facts that say where."""

    exit_code: ClassVar[int] = 5

    def __init__(self, what: str, *, hint: str = "", context: Mapping[str, object] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.context: dict[str, object] = dict(context or {})

    def __str__(self) -> str:
        return self.what


class ConfigError(EdgecError):
    """The configuration or the command line is wrong; `problems` lists every fault found, not only the first."""

    exit_code = 2

    def __init__(self, what: str, *, hint: str = "", context: Mapping[str, object] | None = None, problems: tuple[str, ...] = ()) -> None:
        super().__init__(what, hint=hint, context=context)
        self.problems = problems
        if problems:
            self.context["problems"] = list(problems)


class ModelError(EdgecError):
    """The network, its weights or its data cannot be used."""


class CompressionError(EdgecError):
    """The recipe cannot be carried out on this network."""


class TrainingDiverged(CompressionError):
    """A loss or a weight is not finite."""


class LoweringError(EdgecError):
    """The network cannot be lowered as asked."""


class ToolchainMissing(LoweringError):
    """A package that this step needs is not installed; the hint is the install line."""


class ParityFailed(LoweringError):
    """The lowered network does not compute what its reference computes; the numbers are in the context."""


class TargetError(EdgecError):
    """The target is unreachable, refuses, is full or broken."""

    exit_code = 3


class ConnectError(TargetError):
    """No connection; a retry may help."""


class HostUnreachable(ConnectError):
    """Refused, no route, or the name is not known."""


class ConnectTimeout(ConnectError):
    """Something accepts the connection and then does not answer in time."""


class AuthRejected(TargetError):
    """The server took none of the offered keys."""


class HostKeyUnknown(TargetError):
    """The server's key is in no known_hosts file; the fingerprint and the accepting line are in the hint."""


class HostKeyChanged(TargetError):
    """The server's key is not the recorded one."""


class PythonMissing(TargetError):
    """No Python of at least 3.6 on the target."""


class CommandFailed(TargetError):
    """A command on the target ended with a status other than 0."""


class AgentError(TargetError):
    """The agent reported an error that has no class of its own here."""


class AgentDied(AgentError):
    """The channel closed before the answer came."""


class DeadlineExceeded(AgentError):
    """No answer within the deadline."""


class ProtocolViolation(AgentError):
    """An answer that is too long, is not JSON or is not what was asked for."""


class RunnerDied(AgentError):
    """The process that runs the network crashed or was killed (signal in the context)."""


class DeviceFull(TargetError):
    """Not enough space on the target."""


class DeviceReadOnly(TargetError):
    """The target's file system refuses writes."""


class DeviceBusy(TargetError):
    """Another controller holds the target's lock."""


class DigestMismatch(TargetError):
    """What lies on the target is not what was sent."""


class SignatureRejected(TargetError):
    """The target demands that releases are signed by a key that it trusts, and this one is not."""


class HealthCheckFailed(TargetError):
    """The release did not work once it was active; the one before it has been put back."""


class GoldenCheckFailed(TargetError):
    """The target's own runtime gave other outputs than the reference; the release was not activated."""


class MeasurementError(EdgecError):
    """The measurement is not valid."""

    exit_code = 4


class ObjectiveNotMet(EdgecError):
    """No candidate met the objective; the nearest one is in the context."""

    exit_code = 1


class StoreError(EdgecError):
    """The run store is damaged, or was written by a newer edgec."""
