"""What is known of boards on the board itself: one file a family, found by its name. Runs on the device: Python 3.6, standard library.

A family names its boards and its probes. A probe is a file to read or a command to run, and a pure parser of what comes back; it is
tested on the outputs under tests/captures. To add a board is to add one `Board` to its family's `BOARDS`, to add a family one file
with `FAMILY`.
"""

import glob
import math
import os
import shutil
import subprocess
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

ASK_S = 5.0
"""Patience with a vendor's tool."""
LARGEST = 65536
"""Bytes read of one system file."""


def text_of(path: str) -> Optional[str]:
    """A small system file's text, stripped, NUL as newline; None when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(LARGEST).replace(b"\0", b"\n").decode("utf-8", "replace").strip()
    except OSError:
        return None


def ask(*command: str) -> Optional[str]:
    """What a tool prints; None when it is not installed, fails, or does not answer."""
    path = shutil.which(command[0])
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, *command[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=ASK_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").replace("\0", "\n").strip() if done.returncode == 0 else None


class Device:
    """Where probes look: this machine, or a recorded tree and recorded answers in its place."""

    def __init__(self, root: str = "/", tool: Callable[..., Optional[str]] = ask) -> None:
        self._root, self._tool = root, tool

    def text(self, path: str) -> Optional[str]:
        """Text of a file by its absolute path; of a pattern, "path:text" of each file that it finds, as `grep . pattern` prints it."""
        here = os.path.join(self._root, path.lstrip("/"))
        if not glob.has_magic(path):
            return text_of(here)
        found = [(os.path.relpath(each, self._root), text_of(each)) for each in sorted(glob.glob(here))]
        lines = ["/%s:%s" % (name, line) for name, text in found for line in (text or "").splitlines()]
        return "\n".join(lines) or None

    def ask(self, *command: str) -> Optional[str]:
        """What a tool prints, or None."""
        return self._tool(*command)

    def compatible(self) -> List[str]:
        """Words of the device tree's `compatible`, most specific first; empty without a device tree."""
        return (self.text("/proc/device-tree/compatible") or "").splitlines()


class Probe(NamedTuple):
    """One question. Where a field has several probes the first that answers counts."""

    field: str
    """Key of what it tells: a field of `records.Conditions`, a key of its `readings`, or a key of `TargetFacts.versions`."""
    source: Tuple[str, ...]
    """One absolute path or pattern, or a command's words."""
    parse: Callable[[str], Any]
    """Text to value. Raises ValueError for a text that is not understood."""

    def answer(self, device: Device) -> Tuple[Any, str]:
        """(value, "") or (None, the reason why it is unknown)."""
        asked = " ".join(self.source[:2])
        text = device.text(self.source[0]) if self.source[0].startswith("/") else device.ask(*self.source)
        if text is None:
            why = "cannot be read" if self.source[0].startswith("/") else "gives no answer (not installed, refused, or too slow)"
            return None, "%s %s" % (asked, why)
        try:
            return self.parse(text), ""
        except ValueError as error:
            return None, "%s says what is not understood: %s" % (asked, str(error)[:200])


class Board(NamedTuple):
    """One board. `words` are searched in the words of the device tree's `compatible`; any of them names the board."""

    id: str
    name: str
    words: Tuple[str, ...]


class Family(NamedTuple):
    """What a file of this package offers as FAMILY."""

    name: str
    boards: Tuple[Board, ...]
    identify: Callable[[Device, str], Optional[Board]]
    """(device, machine as `uname -m` says it) to the board; None when it is none of this family's."""
    facts: Tuple[Probe, ...]
    """Of the system: they change with an installation."""
    accelerators: Tuple[Probe, ...]
    """Each gives a list of names."""
    conditions: Tuple[Probe, ...]
    """Of the instant: read before and after each measurement."""
    readings: Tuple[Probe, ...]
    """Of the instant, further numbers: each gives a dictionary of names with their unit."""


def by_compatible(boards: Tuple[Board, ...], device: Device) -> Optional[Board]:
    """The board that the device tree names: the first of its words that any board has decides."""
    for word in device.compatible():
        for board in boards:
            if any(each in word for each in board.words):
                return board
    return None


def answers(probes: Tuple[Probe, ...], device: Device) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """Values of the fields that are known, and for the others the reasons."""
    known = {}  # type: Dict[str, Any]
    reasons = {}  # type: Dict[str, str]
    for probe in probes:
        if probe.field not in known:
            value, reason = probe.answer(device)
            if value is None:
                reasons[probe.field] = "; ".join(filter(None, [reasons.get(probe.field), reason]))
            else:
                known[probe.field] = value
    return known, {field: reason for field, reason in reasons.items() if field not in known}


def finite(text: str) -> float:
    """A number. Raises ValueError for anything else, "nan" and "[N/A]" among it."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def numbers(text: str) -> Dict[str, float]:
    """What a pattern's text says: path to number; files that hold none are left out (a switched-off part gives an error or a word)."""
    found = {}
    for line in text.splitlines():
        path, _, value = line.rpartition(":")
        try:
            found[path] = finite(value)
        except ValueError:
            continue
    return found


def clocks_fixed(text: str) -> bool:
    """Whether each clock's lowest limit is its highest; from the files (scaling_)min_freq and (scaling_)max_freq of each."""
    limits = {}  # type: Dict[str, List[float]]
    for path, value in numbers(text).items():
        limits.setdefault(path.rpartition("/")[0], []).append(value)
    pairs = [pair for pair in limits.values() if len(pair) == 2]
    if not pairs:
        raise ValueError("no clock with both limits")
    return all(low == high for low, high in pairs)
