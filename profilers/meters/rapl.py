"""RAPL energy counters through powercap: Intel since Sandy Bridge, AMD since Zen (Linux 5.8).

Reads       /sys/class/powercap/intel-rapl:<n>/energy_uj of each CPU package; of psys only where there is no package zone.
Unit        joules; steps of 15 to 61 µJ (a model-specific register says which), refreshed about each millisecond.
Covers      the CPU packages: cores, caches, integrated graphics, memory controller.
Misses      memory modules, discrete GPU, disks, fans, losses of the power supply. Sub-zones (core, uncore, dram) lie inside
            or beside a package and are never added: core and uncore would be counted twice, dram exists on some machines only.
            The intel-rapl-mmio tree shows the same packages through another register window: each package is counted once.
Wraps       at max_energy_range_uj, undone here. At 200 W that is about every 20 minutes: read at least that often.
Privilege   energy_uj is readable by root only since Linux 5.10 (CVE-2020-8694, Intel SA-00389: power readings leak secrets
            of other processes). Give a group of trusted users the right to read; never everybody.
Documents   Linux Documentation/power/powercap/powercap.rst; Intel SDM volume 3, "Running Average Power Limit".
Seen on     no hardware yet: tested on the trees under tests/captures.
"""

import errno
import os
import re
from typing import Dict, List

ZONES = "sys/class/powercap"
TOP_LEVEL = re.compile(r"intel-rapl(-mmio)?:\d+$")
REMEDY = (
    "let a group of trusted users read it by a udev rule: "
    'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chgrp power /sys%p/energy_uj", RUN+="/bin/chmod 0440 /sys%p/energy_uj"'
)


class Rapl:
    """Joules of all CPU packages since the counters' start, wraparound undone. `read` raises OSError, never gives a zero for a failure."""

    name = "rapl"
    unit = "J"
    automatic = True

    def __init__(self, root: str = "/") -> None:
        self._folder = os.path.join(root, ZONES)
        self._found = {}  # type: Dict[str, str]
        self._last = {}  # type: Dict[str, int]
        self._total_uj = 0

    def reason_unusable(self) -> str:
        """Empty when every package's counter can be read now."""
        try:
            zones = self._zones()
            if not zones:
                return (
                    "no RAPL zones under /%s: not an Intel or AMD host, a virtual machine, or the intel_rapl module is not loaded" % ZONES
                )
            for zone in zones.values():
                _number(os.path.join(zone, "energy_uj"))
                _number(os.path.join(zone, "max_energy_range_uj"))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                return "%s is not readable for this user; %s" % (error.filename, REMEDY)
            return "RAPL cannot be read: %s" % error
        return ""

    def scope(self) -> List[str]:
        """Names of the zones that are added, such as package-0."""
        return sorted(self._zones())

    def read(self) -> float:
        """Joules since the counters' start; never goes back."""
        if not self._found:
            self._found = self._zones()
        if not self._found:
            raise OSError("no RAPL zones under %s" % self._folder)
        for name, zone in self._found.items():
            now = _number(os.path.join(zone, "energy_uj"))
            step = now - self._last.get(name, 0)
            if step < 0:
                step += _number(os.path.join(zone, "max_energy_range_uj"))
            if step < 0:
                raise OSError("%s went back by more than its range" % zone)
            self._total_uj += step
            self._last[name] = now
        return self._total_uj / 1e6

    def _zones(self) -> Dict[str, str]:
        """Folder by zone name: packages once each, or psys where there is no package."""
        if not os.path.isdir(self._folder):
            return {}
        found = {}  # type: Dict[str, str]
        for entry in sorted(os.listdir(self._folder), reverse=True):  # intel-rapl-mmio:0 comes last and does not replace
            if TOP_LEVEL.match(entry):
                folder = os.path.join(self._folder, entry)
                found.setdefault(_text(os.path.join(folder, "name")), folder)
        packages = {name: folder for name, folder in found.items() if name.startswith("package")}
        return packages or {name: folder for name, folder in found.items() if name == "psys"}


def _text(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _number(path: str) -> int:
    text = _text(path)
    if not text.isdigit():
        raise OSError("%s says %r where a count is due" % (path, text[:40]))
    return int(text)


METER = Rapl
