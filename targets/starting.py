"""From a target's settings to a running agent: choose the transport, bring the agent's file there if it is missing or damaged, start it."""

import hashlib
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.pipeline.core import errors
from edgec.pipeline.core.protocols import Channel, Events, Transport
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
    """A running agent of exactly our bytes, and the folder's path on the target. One command where the agent is there already."""
    name, data = bundle.build()
    python = settings.python
    if python == "auto":
        python = sys.executable if settings.transport is TransportKind.LOCAL else "python3"
    start = Start(transport, settings, python, name, data)
    try:
        found = start.attempt()
    except (errors.AgentDied, errors.DigestMismatch):
        found = start.look()
        if events is not None:
            events.note(f"the agent's file on {settings.name} is damaged and is sent again")
    if isinstance(found, str):
        found = start.attempt(start.send(found))
        if isinstance(found, str):
            raise errors.CommandFailed(f"the agent's file is gone from {settings.name} again", context={"folder": found})
    return found


@dataclass(frozen=True, slots=True)
class Start:
    """What starting an agent takes: `name` and `data` are the agent's file."""

    transport: Transport
    settings: TargetSettings
    python: str
    name: str
    data: bytes

    def look(self) -> str:
        """See `bootstrap.look`."""
        settings = self.settings
        return bootstrap.look(
            self.transport, folder=settings.folder, python=self.python, agent_bytes=len(self.data), timeout_s=settings.request_timeout_s
        )

    def send(self, folder: str) -> str:
        """Upload the agent's file to a temporary name, which is returned."""
        temporary = f"{folder}/agents/{self.name}.{secrets.token_hex(4)}.tmp"
        with tempfile.TemporaryDirectory() as here:
            file = Path(here) / "agent.pyz"
            file.write_bytes(self.data)
            self.transport.put(file, temporary)
        return temporary

    def attempt(self, temporary: str = "") -> tuple[Channel, str] | str:
        """Start the agent, of an upload or of what is there, and hear its first line, past anything that a login shell prints; the folder
        without an agent when there is none.
        """
        settings, transport = self.settings, self.transport
        limits = [] if settings.memory_limit_bytes is None else ["--memory", str(settings.memory_limit_bytes)]
        channel = transport.channel(
            bootstrap.command(folder=settings.folder, python=self.python, agent=self.name, temporary=temporary, arguments=limits)
        )
        try:
            line = self._first(channel)
            if MARKER in line:
                return channel, self._checked(answers.message(line.partition(MARKER)[2], transport.name))
            said = line.decode(errors="replace")
            folder = bootstrap.read(said[said.index(bootstrap.MARK) :], transport.name, settings.folder, self.python, len(self.data))
        except errors.EdgecError:
            channel.close()
            raise
        channel.close()
        return folder

    def _first(self, channel: Channel) -> bytes:
        deadline, noise, place = time.monotonic() + self.settings.request_timeout_s, 0, bootstrap.MARK.encode() + b"\t"
        line = channel.receive(deadline=deadline)
        while MARKER not in line and place not in line:
            noise += len(line)
            if noise > NOISE_BYTES:
                raise errors.ProtocolViolation(f"{self.transport.name} prints without end before the agent speaks")
            line = channel.receive(deadline=deadline)
        return line

    def _checked(self, hello: Mapping[str, Any]) -> str:
        """The folder of an agent that is ours."""
        name = self.transport.name
        if hello.get("agent") != hashlib.sha256(self.data).hexdigest():
            raise errors.DigestMismatch(f"the agent on {name} is not the one that was sent", context={"found": hello.get("agent")})
        if hello.get("protocol") != PROTOCOL:
            raise errors.ProtocolViolation(f"the agent on {name} speaks protocol {hello.get('protocol')}, not {PROTOCOL}")
        folder: str = answers.field(str, hello, "folder", name)
        return folder
