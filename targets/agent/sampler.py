"""Reads an energy meter at a steady rate beside the measurement."""

import threading
from typing import Any, Dict, List, Optional, Tuple

from edgec.targets.agent.clock import monotonic_ns
from edgec.targets.agent.facts import all_meters
from edgec.targets.agent.wire import Failure

MIN_SAMPLES = 2
"""Fewer are no trace."""


def chosen(name: str, root: str = "/") -> Tuple[Optional[Any], str]:
    """The meter to use, or None with the reason. `name`: auto (the first usable one that reads a sensor), none, or a meter's name.

    Raises:
        Failure: MeasurementError, when there is no meter of that name.
    """
    if name == "none":
        return None, "no meter was asked for"
    known = all_meters(root)
    if name == "auto":
        reasons = []
        for each, meter in known:
            if meter.automatic:
                reason = meter.reason_unusable()
                if not reason:
                    return meter, ""
                reasons.append("%s: %s" % (each, reason))
        return None, "; ".join(reasons) or "the agent has no meters"
    for each, meter in known:
        if each == name:
            reason = meter.reason_unusable()
            return (None, "%s: %s" % (name, reason)) if reason else (meter, "")
    raise Failure("MeasurementError", "there is no meter %r" % name, known=[each for each, _ in known])


class Sampler:
    """A thread that calls `meter.read()` every `period_s`; a reading that fails ends the trace with its reason."""

    def __init__(self, meter: Any, period_s: float) -> None:
        self._meter = meter
        self._period_s = period_s
        self._stop = threading.Event()
        self._samples: List[Tuple[int, float]] = []
        self._scope: List[str] = []
        self._reason = ""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End and wait for the last reading."""
        self._stop.set()
        self._thread.join()

    def trace(self, idle: List[Tuple[int, int]]) -> Tuple[Optional[Dict[str, Any]], str]:
        """The fields of `replies.MeterTrace`, or None with the reason."""
        name = self._meter.name
        if self._reason:
            return None, "%s stopped after %d samples: %s" % (name, len(self._samples), self._reason)
        if len(self._samples) < MIN_SAMPLES:
            return None, "%s gave %d samples, too few for a trace" % (name, len(self._samples))
        return {"meter": name, "unit": self._meter.unit, "scope": self._scope, "samples": self._samples, "idle": idle}, ""

    def _run(self) -> None:
        """Readings are stamped in the middle of the time that they took."""
        try:
            self._scope = list(self._meter.scope())
            while not self._stop.is_set():
                start = monotonic_ns()
                value = float(self._meter.read())
                end = monotonic_ns()
                self._samples.append(((start + end) // 2, value))
                self._stop.wait(max(0.0, self._period_s - (end - start) / 1e9))
        except Exception as error:  # noqa: BLE001  handed to the main thread, which reports it
            self._reason = "%s: %s" % (type(error).__name__, error)
