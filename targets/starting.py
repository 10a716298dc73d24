"""From a target's settings to a running agent: choose the transport, bring the agent's file there if it is missing or damaged, start it."""

import hashlib
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from edgec.pipeline.core import errors
from edgec.pipeline.core.protocols import Channel, Events, Transport
from edgec.pipeline.core.records import Digest
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.targets import answers, bootstrap
from edgec.targets.agent import bundle
from edgec.targets.agent.wire import MARKER, PROTOCOL

NOISE_BYTES = 1 << 20
"""Of login messages before the agent's first line."""


def transport_to(settings: TargetSettings) -> Transport:
    """The way to a target, not connected yet."""
    if settings.transport is TransportKind.LOCAL:
        from edgec.targets.local import LocalTransport

        return LocalTransport(settings.name)
    from edgec.targets.ssh import SshTransport

    return SshTransport(settings)


def start_agent(transport: Transport, settings: TargetSettings, events: Events | None) -> tuple[Channel, str]:
    """A running agent of exactly our bytes, and the folder's path on the target."""
    name, data = bundle.build()
    python = settings.python
    if python == "auto":
        python = sys.executable if settings.transport is TransportKind.LOCAL else "python3"
    timeout_s = settings.request_timeout_s
    place = bootstrap.look(transport, folder=settings.folder, python=python, agent=name, agent_bytes=len(data), timeout_s=timeout_s)
    path = f"{place.folder}/agents/{name}"
    limits = [] if settings.memory_limit_bytes is None else ["--memory", str(settings.memory_limit_bytes)]
    expected = hashlib.sha256(data).hexdigest()
    if place.has_agent:
        try:
            return _hello(transport, place, path, expected, limits, timeout_s)
        except (errors.AgentDied, errors.DigestMismatch):
            if events is not None:
                events.note(f"the agent's file on {settings.name} is damaged and is sent again")
    _send_agent(transport, data, path, timeout_s)
    return _hello(transport, place, path, expected, limits, timeout_s)


def _send_agent(transport: Transport, data: bytes, path: str, timeout_s: float) -> None:
    temporary = f"{path}.{secrets.token_hex(4)}.tmp"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "agent.pyz"
        file.write_bytes(data)
        transport.put(file, temporary)
    status, _, said = transport.run(["mv", "-f", temporary, path], timeout_s=timeout_s)
    if status != 0:
        raise errors.CommandFailed(f"the agent cannot be put in place on {transport.name}: {said.strip()}", context={"path": path})


def _hello(
    transport: Transport, place: bootstrap.Place, path: str, expected: Digest, limits: Sequence[str], timeout_s: float
) -> tuple[Channel, str]:
    """Start the agent and hear its first line, past anything that a login shell prints."""
    channel = transport.channel([place.python, path, "--folder", place.folder, *limits])
    try:
        deadline, noise = time.monotonic() + timeout_s, 0
        line = channel.receive(deadline=deadline)
        while MARKER not in line:
            noise += len(line)
            if noise > NOISE_BYTES:
                raise errors.ProtocolViolation(f"{transport.name} prints without end before the agent speaks")
            line = channel.receive(deadline=deadline)
        hello = answers.message(line.partition(MARKER)[2], transport.name)
        if hello.get("agent") != expected:
            raise errors.DigestMismatch(
                f"the agent on {transport.name} is not the one that was sent", context={"found": hello.get("agent")}
            )
        if hello.get("protocol") != PROTOCOL:
            raise errors.ProtocolViolation(f"the agent on {transport.name} speaks protocol {hello.get('protocol')}, not {PROTOCOL}")
        folder: str = answers.field(str, hello, "folder", transport.name)
    except errors.EdgecError:
        channel.close()
        raise
    return channel, folder
