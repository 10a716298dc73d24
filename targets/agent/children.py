"""Which networks' processes live, so that the end of the host ends them too. Most sessions start none: what that takes is in `child.py`."""

import threading
from typing import Callable, Optional, Set

Kill = Callable[[], None]


class Children:
    """All live network processes of this agent. `memory_bytes` bounds each of them, `environments` is where their runtimes may be."""

    def __init__(self, memory_bytes: Optional[int], environments: str) -> None:
        self.memory_bytes = memory_bytes
        self.environments = environments
        self._lock = threading.Lock()
        self._live: Set[Kill] = set()
        self.ended = threading.Event()

    def add(self, kill: Kill) -> None:
        """Remember a process by what kills it; that is done at once when the agent is ending already."""
        with self._lock:
            self._live.add(kill)
            if self.ended.is_set():
                kill()

    def forget(self, kill: Kill) -> None:
        """The process has ended."""
        with self._lock:
            self._live.discard(kill)

    def end(self) -> None:
        """Kill all, now and from now on."""
        with self._lock:
            self.ended.set()
            for kill in self._live:
                kill()
