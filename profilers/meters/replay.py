"""A recorded power trace, played back: for tests and demonstrations without a sensor.

Reads       the JSON file that the environment variable EDGEC_REPLAY_TRACE names: {"watts": [1.9, 2.1, …], "source": "…"}.
            The n-th reading is the n-th number, and after the last the first again, whatever the clock says.
Unit        watts, as recorded.
Covers      what the recording covered. Nothing that runs now changes it: whatever is derived is marked as replayed.
Privilege   none. Never chosen by itself (`automatic` is false): it has to be asked for by name.
Seen on     everywhere.
"""

import json
import math
import os
from typing import List

VARIABLE = "EDGEC_REPLAY_TRACE"


class Replay:
    """Watts of a recording. `read` raises OSError when there is none."""

    name = "replay"
    unit = "W"
    automatic = False

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._watts = []  # type: List[float]
        self._next = 0

    def reason_unusable(self) -> str:
        """Empty when the file is there and holds a trace."""
        try:
            self._load()
        except OSError as error:
            return str(error)
        return ""

    def scope(self) -> List[str]:
        """The recording's file name; empty without one."""
        path = os.environ.get(VARIABLE, "")
        return ["recording " + os.path.basename(path)] if path else []

    def read(self) -> float:
        """The next recorded reading."""
        if not self._watts:
            self._watts = self._load()
        value = self._watts[self._next % len(self._watts)]
        self._next += 1
        return value

    def _load(self) -> List[float]:
        path = os.environ.get(VARIABLE, "")
        if not path:
            raise OSError('no recording: set %s to a JSON file with a list of numbers under "watts"' % VARIABLE)
        with open(os.path.join(self._root, path)) as file:
            try:
                watts = json.load(file)["watts"]
                trace = [float(value) for value in watts]
            except (ValueError, KeyError, TypeError) as error:
                raise OSError('%s holds no trace: a list of numbers under "watts" is due (%s)' % (path, error)) from error
        if not trace or not all(math.isfinite(value) and value >= 0 for value in trace):
            raise OSError("%s holds no trace: at least one number, none negative" % path)
        return trace


METER = Replay
