"""Who is in charge of the device: one agent at a time, by flock(2), which the kernel frees when its holder ends, however it ends.

The file says whose it is: {"owner", "pid", "since_s", "since_ns", "heard_ns"}, on the wall clock for people and on the monotonic clock,
which nobody sets, for ages. Each word from its host renews `heard_ns`: a holder that has been silent for longer than any agent waits has
lost its host and hangs, and loses the lock to the next one who asks.
"""

import fcntl
import json
import os
import signal
import time
from typing import Any, Dict, Optional

from edgec.targets.agent.clock import monotonic_ns
from edgec.targets.agent.wire import Failure

LEAVING_S = 2.0
"""Patience with another agent's lock: one whose host has just left may need a moment to end."""
SILENCE_S = 120.0
"""An agent without a word from its host ends itself after this long. The host beats every 20 s."""
GONE_S = SILENCE_S + 30.0
"""A holder that has heard nothing for this long should have ended and cannot."""
SIZE = 2048
"""Bytes of the file: it is written in one piece, so that a reader sees one state."""


class Lock:
    """The lock of a folder, at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd: Optional[int] = None
        self._said: Dict[str, Any] = {}

    @property
    def held(self) -> bool:
        """Whether this agent is in charge."""
        return self._fd is not None

    def take(self, owner: str, by_force: bool = False) -> None:
        """Take charge until this process ends; `by_force` ends the agent that is in charge.

        Raises:
            Failure: DeviceBusy, with the other's name, process and age.
        """
        if self._fd is not None:
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not acquired(fd, 0.0 if by_force else LEAVING_S):
                self._contest(fd, by_force)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self._said = {"owner": owner[:200], "pid": os.getpid(), "since_s": time.time(), "since_ns": monotonic_ns()}
        self.heard()

    def heard(self) -> None:
        """The host is there; does nothing without the lock."""
        if self._fd is not None:
            line = json.dumps(dict(self._said, heard_ns=monotonic_ns()))[: SIZE - 1]
            os.pwrite(self._fd, line.ljust(SIZE - 1).encode("ascii") + b"\n", 0)

    def holder(self) -> Optional[Dict[str, Any]]:
        """{"owner", "pid", "age_s", "silent_s"} of the agent in charge, or None; what it has not written yet is None."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return None if self._fd is None and acquired(fd, 0.0) else holder_in(fd)
        finally:
            os.close(fd)

    def _contest(self, fd: int, by_force: bool) -> None:
        other = holder_in(fd)
        gone = other["silent_s"] is not None and other["silent_s"] > GONE_S
        if not by_force and not gone:
            age = "" if other["age_s"] is None else " for %.0f s" % other["age_s"]
            raise Failure("DeviceBusy", "%s has been using this target%s" % (other["owner"] or "somebody", age), **other)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if other["pid"] is not None and is_agent(other["pid"]):
                try:
                    os.kill(other["pid"], number)
                except ProcessLookupError:
                    pass
            if acquired(fd, LEAVING_S):
                return
        raise Failure("DeviceBusy", "the session of %s cannot be ended from here" % (other["owner"] or "somebody"), **other)


def acquired(fd: int, patience_s: float) -> bool:
    """Whether the lock is ours now."""
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)
        else:
            return True


def holder_in(fd: int) -> Dict[str, Any]:
    """What the file says of its holder."""
    try:
        said = json.loads(os.pread(fd, SIZE, 0).decode("utf-8"))
    except ValueError:  # just taken, nothing written yet
        said = {}
    said = said if isinstance(said, dict) else {}
    now = monotonic_ns()
    ages = {name: (now - said[key]) / 1e9 if isinstance(said.get(key), int) else None for name, key in AGES}
    owner, pid = said.get("owner"), said.get("pid")
    return dict(ages, owner=owner if isinstance(owner, str) else None, pid=pid if isinstance(pid, int) and pid > 1 else None)


AGES = (("age_s", "since_ns"), ("silent_s", "heard_ns"))


def is_agent(pid: int) -> bool:
    """Whether that process is one of ours: a number left by one that has ended may be anybody's by now."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return False
    return b"--folder" in words and any(os.path.basename(word).startswith(b"edgec-agent-") for word in words)
