"""This machine as a target: the agent is a child process, files are copied."""

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from edgec.pipeline.core.errors import AgentDied, CommandFailed, DeadlineExceeded, DeviceFull, DeviceReadOnly, PythonMissing
from edgec.targets.channel import LineChannel

WRITE_S = 30.0
"""Patience with a command that does not read its input."""
END_S = 2.0
"""Time for a command to end by itself once its input is closed."""
BLOCK = 1 << 20


class LocalTransport:
    """`protocols.Transport` to this machine."""

    def __init__(self, name: str = "localhost") -> None:
        self.name = name
        self._channels: list[LineChannel] = []

    def connect(self) -> None:
        """Nothing to do."""

    def run(self, argv: Sequence[str], *, timeout_s: float) -> tuple[int, str, str]:
        """Run a command in its own process group, which is killed when the time is up; status 127 when there is no such program."""
        try:
            process = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
        except FileNotFoundError:
            return 127, "", f"{argv[0]}: not found"
        with process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                os.killpg(process.pid, signal.SIGKILL)
                raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:g} s on {self.name}") from error
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def put(self, source: Path, target: str, *, offset: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
        """Copy a file, from `offset` on into what is there already."""
        size = source.stat().st_size
        with self._copying(source.name), source.open("rb") as reader, Path(target).open("r+b" if offset else "wb") as writer:
            reader.seek(offset)
            writer.seek(offset)
            while data := reader.read(BLOCK):
                writer.write(data)
                if progress is not None:
                    progress(reader.tell(), size)
            writer.truncate()

    def get(self, source: str, target: Path) -> None:
        """Copy a file by way of a temporary name."""
        temporary = target.with_name(target.name + ".part")
        with self._copying(Path(source).name):
            shutil.copyfile(source, temporary)
            temporary.replace(target)

    def channel(self, argv: Sequence[str]) -> LineChannel:
        """Start a command in its own process group: an interrupt typed at the terminal is the host's to handle."""
        try:
            pipe = LocalPipe(argv, self.name)
        except FileNotFoundError as error:
            raise PythonMissing(f"there is no {argv[0]} on {self.name}", context={"target": self.name}) from error
        channel = LineChannel(self.name, pipe)
        self._channels.append(channel)
        return channel

    @contextlib.contextmanager
    def _copying(self, file: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = {errno.ENOSPC: DeviceFull, errno.EDQUOT: DeviceFull, errno.EROFS: DeviceReadOnly}.get(error.errno or 0, CommandFailed)
            raise kind(f"{self.name}: {file} cannot be copied: {error.strerror or error}", context={"target": self.name}) from error

    def close(self) -> None:
        """End every command that is still running."""
        while self._channels:
            self._channels.pop().close()


class LocalPipe:
    """`channel.Pipe` of a child process."""

    def __init__(self, argv: Sequence[str], name: str) -> None:
        self._name = name
        self._process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        os.set_blocking(self._in.fileno(), False)

    def read_output(self) -> bytes:
        return _read(self._out)

    def read_errors(self) -> bytes:
        return _read(self._err)

    def write(self, data: bytes) -> None:
        end, left = time.monotonic() + WRITE_S, memoryview(data)
        while left:
            if self._in.closed:
                raise AgentDied(f"the agent on {self._name} was stopped", context={"target": self._name})
            if not select.select([], [self._in], [], max(0.0, end - time.monotonic()))[1]:
                raise DeadlineExceeded(f"the agent on {self._name} does not read its input", context={"target": self._name})
            try:
                left = left[os.write(self._in.fileno(), left) :]
            except BrokenPipeError as error:
                raise AgentDied(f"the agent on {self._name} ended", context={"target": self._name, "status": self.status()}) from error

    def status(self) -> str:
        try:
            code = self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            return ""
        return f"signal {-code}" if code < 0 else f"status {code}"

    def close(self) -> None:
        """Close its input, wait, then kill the group, which has the networks' processes in it."""
        if not self._in.closed:
            self._in.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        with contextlib.suppress(ProcessLookupError):  # all of the group has ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _read(stream: IO[bytes]) -> bytes:
    """What is there, waiting for it; at its end the stream is closed."""
    data = stream.read(BLOCK)
    if not data:
        stream.close()
    return data
