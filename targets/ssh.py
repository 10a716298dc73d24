"""A target over SSH: commands, files by SFTP, and the agent's lines on one connection."""

import contextlib
import logging
import random
import select
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import paramiko

from edgec.pipeline.core.errors import AgentDied, CommandFailed, DeadlineExceeded, HostUnreachable, TargetError
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.channel import LineChannel
from edgec.targets.ssh_connect import PinnedTransport, open_connection
from edgec.targets.ssh_faults import broken, may_pass, working

STALL_S = 30.0
"""Patience with a transfer in which nothing moves."""
END_S = 2.0
"""Time for a command to end by itself once its input is closed."""
ATTEMPTS, PAUSE_S = 4, 0.5
"""How often a connection is tried that the server breaks off, and the longest pause after the first attempt; it doubles."""
BLOCK = 32256
"""Of an upload's writes. Every SFTP server takes 32 768 bytes (draft-ietf-secsh-filexfer-02, section 3); with the headers of SFTP and SSH
that would be two packets where OpenSSH's largest, 32 KiB, holds one of a little less."""
IN_FLIGHT = 32
"""Writes without an answer, 1 MB: 10 MB/s over a link of 100 ms. With no bound OpenSSH's server spends as much on moving its queue about as
on the bytes (10 MB over loopback: 0.1 s instead of 0.05 s of its processor)."""

log = logging.getLogger(__name__)


class SshTransport:
    """`protocols.Transport` over one SSH connection."""

    def __init__(self, settings: TargetSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._stack = ExitStack()
        self._connection: PinnedTransport | None = None
        self._sftp: paramiko.SFTPClient | None = None

    def connect(self) -> None:
        """Connect, once more where the server breaks off: pauses are drawn evenly from 0 to a bound that doubles, so that many controllers
        spread out.

        Raises what `ssh_connect.open_connection` raises; nothing stays open then.
        """
        for attempt in range(1, ATTEMPTS + 1):
            with ExitStack() as opening:
                try:
                    self._connection = open_connection(self._settings, opening)
                except HostUnreachable as error:
                    if attempt == ATTEMPTS or not may_pass(error):
                        raise
                    log.info("%s: %s; attempt %d of %d", self.name, error.what, attempt, ATTEMPTS)
                else:
                    self._stack = opening.pop_all()
                    return
            time.sleep(random.uniform(0, PAUSE_S * 2 ** (attempt - 1)))

    def run(self, argv: Sequence[str], *, timeout_s: float) -> tuple[int, str, str]:
        """Run a command; every word is quoted, so the login shell has nothing to interpret."""
        end = time.monotonic() + timeout_s
        channel = self._start(argv)
        out, err = bytearray(), bytearray()
        late = DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:g} s on {self.name}", context={"target": self.name})
        try:
            with self._working(f"running {argv[0]}"):
                news = select.poll()
                news.register(channel.fileno(), select.POLLIN)
                while True:
                    ended, cut = channel.eof_received, channel.closed  # before the look at what has come: data may arrive in between
                    if channel.recv_ready():
                        out += channel.recv(BLOCK)
                    elif channel.recv_stderr_ready():
                        err += channel.recv_stderr(BLOCK)
                    elif ended:
                        break
                    elif cut:  # it would have sent its end
                        raise broken(self.name, f"running {argv[0]}", EOFError("no end of the output"))
                    elif not news.poll(max(0.0, end - time.monotonic()) * 1000):
                        raise late
                if not channel.status_event.wait(max(0.0, end - time.monotonic())):
                    raise late
                return channel.recv_exit_status(), out.decode(errors="replace"), err.decode(errors="replace")
        finally:
            channel.close()

    def put(self, source: Path, target: str, *, offset: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
        """Upload by SFTP, from `offset` on into what is there already."""
        size = source.stat().st_size
        with self._working(f"uploading {source.name}"), source.open("rb") as reader:
            with self._files().open(target, "r+b" if offset else "wb") as writer:
                writer.seek(offset)
                reader.seek(offset)
                for number, data in enumerate(iter(lambda: reader.read(BLOCK), b""), 1):
                    writer.set_pipelined(number % IN_FLIGHT != 0)  # a write that is not pipelined waits for all before it
                    writer.write(data)
                    if progress is not None:
                        progress(reader.tell(), size)
            arrived = self._files().stat(target).st_size
        if arrived != size:
            raise CommandFailed(f"{self.name}: {arrived} of {size} bytes of {source.name} arrived", context={"target": self.name})

    def get(self, source: str, target: Path) -> None:
        """Download by SFTP, by way of a temporary name."""
        temporary = target.with_name(target.name + ".part")
        with self._working(f"downloading {Path(source).name}"):
            self._files().get(source, str(temporary))
        temporary.replace(target)

    def channel(self, argv: Sequence[str]) -> LineChannel:
        """Start a command for its lines."""
        started = self._start(argv)
        assert self._connection is not None
        channel = LineChannel(self.name, SshPipe(started, self._connection, self.name))
        self._stack.callback(channel.close)
        return channel

    def close(self) -> None:
        """Close the connection and those to jump hosts."""
        self._connection = self._sftp = None
        self._stack.close()

    def _start(self, argv: Sequence[str]) -> paramiko.Channel:
        if self._connection is None:
            raise TargetError(f"{self.name} is not connected")
        with self._working(f"starting {argv[0]}"):
            channel = self._connection.open_session(timeout=self._settings.connect_timeout_s)
            channel.settimeout(STALL_S)
            channel.exec_command(shlex.join(argv))
        return channel

    @contextmanager
    def _working(self, doing: str) -> Iterator[None]:
        """As `working`; the reason for which we cut the link ourselves goes first."""
        connection = self._connection
        try:
            with working(self.name, doing):
                yield
        except HostUnreachable as error:
            changed = None if connection is None else connection.changed(self.name)
            if changed is not None:
                raise changed from error
            raise

    def _files(self) -> paramiko.SFTPClient:
        if self._connection is None:
            raise TargetError(f"{self.name} is not connected")
        if self._sftp is None:
            try:
                self._sftp = paramiko.SFTPClient.from_transport(self._connection)
            except (paramiko.ChannelException, EOFError) as error:
                hint = "Debian and Ubuntu: openssh-sftp-server; dropbear needs it too"
                raise CommandFailed(f"{self.name} offers no SFTP", hint=hint, context={"target": self.name}) from error
            assert self._sftp is not None
            channel = self._sftp.get_channel()
            assert channel is not None
            channel.settimeout(STALL_S)
        return self._sftp


class SshPipe:
    """`channel.Pipe` of an SSH channel."""

    def __init__(self, channel: paramiko.Channel, connection: PinnedTransport, name: str) -> None:
        self._channel = channel
        self._connection = connection
        self._name = name

    def read_output(self) -> bytes:
        return self._read(self._channel.recv)

    def read_errors(self) -> bytes:
        return self._read(self._channel.recv_stderr)

    def _read(self, receive: Callable[[int], bytes]) -> bytes:
        while True:
            try:
                return receive(1 << 16)
            except TimeoutError:  # quiet for STALL_S: whoever waits has a deadline of their own
                continue

    def write(self, data: bytes) -> None:
        if self._channel.closed and self._connection.is_active():
            raise AgentDied(f"the agent on {self._name} ended", context={"target": self._name, "status": self.status()})
        with working(self._name, "sending a request"):
            self._channel.sendall(data)

    def status(self) -> str:
        """See `channel.Pipe`.

        Raises:
            HostKeyChanged: it ended because the link was cut for that.
        """
        changed = self._connection.changed(self._name)
        if changed is not None:
            raise changed
        if not self._channel.status_event.wait(2.0) or not self._channel.exit_status_ready():
            return "the link was cut"
        code = self._channel.recv_exit_status()
        return "signal" if code < 0 else f"status {code}"

    def close(self) -> None:
        """Close its input, wait for it to end by itself (it frees the lock then), cut it off."""
        if not self._channel.closed:
            with contextlib.suppress(EOFError, OSError, paramiko.SSHException):  # the link is gone: nothing is left to be closed in order
                self._channel.shutdown_write()
                self._channel.status_event.wait(END_S)
        with contextlib.suppress(EOFError, OSError, paramiko.SSHException):  # a link that is dead already is closed
            self._channel.close()
