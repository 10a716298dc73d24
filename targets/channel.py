"""Lines to and from a started command, for every transport: threads read both outputs, so that neither fills up and every wait ends."""

import queue
import threading
import time
from collections import deque
from typing import Protocol

from edgec.pipeline.core.errors import AgentDied, DeadlineExceeded, ProtocolViolation
from edgec.targets.agent.wire import Lines

STDERR_BYTES = 64 * 1024
"""How much of stderr is kept."""
SETTLE_S = 2.0
"""Time for a command that closed its output to say why and to end."""


class Pipe(Protocol):
    """A started command's streams as a transport has them. The methods are called from different threads."""

    def read_output(self) -> bytes:
        """The next bytes of stdout, waiting for them; empty at the end."""
        ...

    def read_errors(self) -> bytes:
        """The same for stderr."""
        ...

    def write(self, data: bytes) -> None:
        """Raises TargetError when the data is not taken in time."""
        ...

    def status(self) -> str:
        """How the command ended: "status 1", "signal 9"; empty when that is not known."""
        ...

    def close(self) -> None:
        """End the command; may be called twice."""
        ...


class LineChannel:
    """`protocols.Channel` over a pipe. `target` is the machine's name, for errors."""

    def __init__(self, target: str, pipe: Pipe) -> None:
        self._target = target
        self._pipe = pipe
        self._lines: queue.Queue[bytes | EOFError | None] = queue.Queue(maxsize=256)
        self._tail: deque[bytes] = deque()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read_lines, self._read_tail)]
        for thread in self._threads:
            thread.start()

    def send(self, line: bytes) -> None:
        """Send one line, newline included."""
        self._pipe.write(line)

    def receive(self, *, deadline: float) -> bytes:
        """The next line; see `protocols.Channel`."""
        try:
            line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise DeadlineExceeded(
                f"{self._target} did not answer in time",
                hint="is the machine overloaded or hung? `request_timeout_s` of the target sets the patience",
                context={"target": self._target, "stderr": self.errors()[-2000:]},
            ) from None
        if line is None:
            raise ProtocolViolation(f"{self._target} sent a line that is too long", context={"target": self._target})
        if isinstance(line, EOFError):
            self._lines.put(line)
            self._threads[1].join(SETTLE_S)
            how, said = self._pipe.status(), self.errors()
            raise AgentDied(
                f"the agent on {self._target} ended before it answered" + (f" ({how})" if how else ""),
                hint="the link was cut, the agent was killed, or somebody took the target over; "
                "the old or the new release is active, whole; run the command again",
                context={"target": self._target, "status": how, "stderr": said[-2000:]},
            )
        return line

    def errors(self) -> str:
        """The end of stderr."""
        return b"".join(self._tail).decode(errors="replace")[-STDERR_BYTES:]

    def close(self) -> None:
        """End the command and the threads."""
        self._closed.set()
        self._pipe.close()
        for thread in self._threads:
            thread.join(SETTLE_S)

    def _read_lines(self) -> None:
        lines = Lines()
        while data := self._pipe.read_output():
            for line in lines.feed(data):
                self._offer(line)
        self._offer(EOFError())

    def _offer(self, line: bytes | EOFError | None) -> None:
        """Wait for room, but not beyond the channel's end."""
        while not self._closed.is_set():
            try:
                self._lines.put(line, timeout=0.5)
            except queue.Full:
                continue
            return

    def _read_tail(self) -> None:
        size = 0
        while data := self._pipe.read_errors():
            self._tail.append(data)
            size += len(data)
            while size > STDERR_BYTES and len(self._tail) > 1:
                size -= len(self._tail.popleft())
