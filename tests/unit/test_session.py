"""The host's side alone: what it imports, what it believes, and how foreign faults become ours."""

import subprocess
import sys

import paramiko
import pytest

from edgec.pipeline.core import errors
from edgec.targets import conversation
from edgec.targets.bootstrap import read
from edgec.targets.ssh_faults import connecting, working

HEAVY = ["torch", "onnx", "onnxruntime", "numpy", "paramiko", "scipy", "pydantic", "matplotlib"]


def test_importing_the_session_loads_nothing_heavy() -> None:
    code = f"import sys, edgec.targets.session, edgec.targets.local; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_faults_that_an_agent_may_name_are_classes_of_that_name() -> None:
    for name, (kind, _) in conversation.FAULTS.items():
        assert kind.__name__ == name
        assert getattr(errors, name) is kind


def all_subclasses(cls: type) -> set[type]:
    return set(cls.__subclasses__()).union(*(all_subclasses(each) for each in cls.__subclasses__()))


def made(kind: type) -> BaseException:
    """An instance of a paramiko exception, whatever its constructor asks for."""
    import inspect

    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    count = sum(1 for each in parameters if each.default is each.empty and each.kind in (0, 1))
    key = paramiko.RSAKey.generate(1024)
    fill = {"BadHostKeyException": ("host", key, key), "NoValidConnectionsError": ({("h", 1): OSError()},), "AuthFailure": (["x"],)}
    return kind(*fill.get(kind.__name__, ("x",) * count))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", sorted(all_subclasses(paramiko.SSHException) | {paramiko.SSHException}, key=lambda each: each.__name__))
def test_every_paramiko_exception_becomes_ours(kind: type) -> None:
    for manager in (connecting("board", "me@board:22", 5.0), working("board", "testing")):
        with pytest.raises(errors.EdgecError) as caught, manager:
            raise made(kind)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("error", "while_connecting", "while_working"),
    [
        (ConnectionRefusedError(111, "Connection refused"), errors.HostUnreachable, errors.HostUnreachable),
        (OSError(113, "No route to host"), errors.HostUnreachable, errors.HostUnreachable),
        (TimeoutError(), errors.ConnectTimeout, errors.DeadlineExceeded),
        (EOFError(), errors.HostUnreachable, errors.HostUnreachable),
        (OSError("Socket is closed"), errors.HostUnreachable, errors.HostUnreachable),
        (OSError("Failure"), errors.HostUnreachable, errors.CommandFailed),
        (FileNotFoundError(2, "No such file"), errors.HostUnreachable, errors.CommandFailed),
    ],
)
def test_socket_errors_become_ours(error: BaseException, while_connecting: type, while_working: type) -> None:
    with pytest.raises(errors.TargetError) as caught, connecting("board", "me@board:22", 5.0):
        raise error
    assert type(caught.value) is while_connecting
    with pytest.raises(errors.TargetError) as caught, working("board", "testing"):
        raise error
    assert type(caught.value) is while_working


DISK = "/dev/root 1000 900 {} 90% /"


@pytest.mark.parametrize(
    ("state", "fields", "kind"),
    [
        ("no-python", ["-", "-", "-", "-", "-"], errors.PythonMissing),
        ("absent", ["/usr/bin/python", "207", "/f", DISK.format(100), "-"], errors.PythonMissing),
        ("absent", ["/usr/bin/python", "305", "/f", DISK.format(100), "-"], errors.PythonMissing),
        ("absent", ["/usr/bin/python", "3²", "/f", DISK.format(100), "-"], errors.PythonMissing),
        ("absent", ["/usr/bin/python", "3" * 5000, "/f", DISK.format(100), "-"], errors.PythonMissing),
        (
            "no-folder",
            ["/usr/bin/python3", "309", "/f", "-", "mkdir: Read-only file system"],
            errors.DeviceReadOnly,
        ),
        ("no-folder", ["/usr/bin/python3", "309", "/f", "-", "mkdir: No space left on device"], errors.DeviceFull),
        ("no-folder", ["/usr/bin/python3", "309", "/f", "-", "mkdir: Permission denied"], errors.TargetError),
        ("read-only", ["/usr/bin/python3", "309", "/f", DISK.format(100), "-"], errors.DeviceReadOnly),
        ("absent", ["/usr/bin/python3", "309", "/f", DISK.format(1), "-"], errors.DeviceFull),
        ("no-agent", ["/usr/bin/python3", "-", "/f", "-", "mv: No such file"], errors.CommandFailed),
        ("foreign", ["/usr/bin/python3", "309", "/home/me", "-", "thesis.tex"], errors.TargetError),
    ],
)
def test_first_contact_tells_faults_apart(state: str, fields: list[str], kind: type) -> None:
    with pytest.raises(errors.TargetError) as caught:
        read("\t".join(["EDGEC-PLACE", state, *fields]), "board", "~/.edgec", "python3", 80_000)
    assert type(caught.value) is kind


def test_first_contact_that_works() -> None:
    line = "\t".join(["EDGEC-PLACE", "absent", "/usr/bin/python3", "306", "/home/pi/.edgec", DISK.format(4000), "-"])
    assert read(line, "board", "~/.edgec", "python3", 80_000) == "/home/pi/.edgec"
