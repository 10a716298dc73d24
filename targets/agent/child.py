"""The agent's side of a network's own process: start it, ask with a deadline, know how it died."""

import collections
import os
import platform
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Deque, Dict, List, Optional

from edgec.targets.agent import environment
from edgec.targets.agent.children import Children
from edgec.targets.agent.limits import oom_kills
from edgec.targets.agent.wire import Failure, Lines, decode, encode

LAST_LINES = 20
"""Lines of the network's stderr that are told when it dies."""
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
"""Read by runtimes when they are loaded. ONNX Runtime would keep a device id and a database below ~/.cache."""


class Child:
    """One network process."""

    def __init__(self, children: Children, patience_s: float) -> None:
        self._children = children
        self._patience_s = patience_s
        limit = [] if children.memory_bytes is None else [str(children.memory_bytes)]
        self._oom_kills = oom_kills()
        needed = environment.variables(platform.machine(), sys.version_info[:2])
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(sys.argv[0]), "--runner", *limit],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **QUIET, **needed, environment.VARIABLE: children.environments},
        )
        self._lines = Lines()
        self._waiting: List[Optional[bytes]] = []
        self._last: Deque[str] = collections.deque(maxlen=LAST_LINES)
        self._drain = threading.Thread(target=self._listen, daemon=True)
        self._drain.start()
        children.add(self.kill)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(
        self, op: str, fields: Dict[str, Any], more_s: float = 0.0, event: Optional[Callable[[Dict[str, Any]], None]] = None
    ) -> Dict[str, Any]:
        """Ask and wait, at most the patience and `more_s` from one line to the next.

        Raises:
            Failure: RunnerDied when the process crashes, is killed or hangs (then it is killed); the network's own error otherwise.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(encode(dict(fields, op=op)))
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died(op) from error
        while True:
            answer = self._receive(op, self._patience_s + more_s)
            if "ok" in answer:
                ok = answer["ok"]
                assert isinstance(ok, dict)
                return ok
            if "error" in answer:
                said = answer["error"]
                raise Failure(said["type"], said["what"], **said["context"])
            if event is not None:
                event(answer["event"])

    def _receive(self, op: str, patience_s: float) -> Dict[str, Any]:
        assert self._process.stdout is not None
        fd, end = self._process.stdout.fileno(), time.monotonic() + patience_s
        while not self._waiting:
            left = end - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                self.kill()
                self._process.wait()
                raise Failure("RunnerDied", "the network gave no answer for %.0f s in %r; its process was killed" % (patience_s, op), op=op)
            data = os.read(fd, 1 << 20)
            if not data:
                raise self._died(op)
            self._waiting += self._lines.feed(data)
        return decode(self._waiting.pop(0))

    def _died(self, op: str) -> Failure:
        status = self._process.wait()
        self._drain.join(1.0)
        last = list(self._last)
        if status < 0:
            name = next((each.name for each in signal.Signals if each.value == -status), str(-status))
            kills = oom_kills()
            out_of_memory = None if kills is None or self._oom_kills is None else -status == signal.SIGKILL and kills > self._oom_kills
            advice = "; the kernel had run out of memory" if out_of_memory else ""
            what = "the network's process was ended by %s%s" % (name, advice)
            return Failure("RunnerDied", what, signal=-status, out_of_memory=out_of_memory, op=op, stderr=last)
        return Failure("RunnerDied", "the network's process ended with status %d" % status, status=status, op=op, stderr=last)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last.append(line[:1000].decode("utf-8", "replace").rstrip())

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """End it and collect its status."""
        self.kill()
        self._process.wait()
        self._drain.join(1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # closing flushes what a dead process never read
                    pass
        self._children.forget(self.kill)
