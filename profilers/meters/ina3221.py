"""Power rails of NVIDIA Jetson modules through their INA3221 monitors.

Reads       JetPack 4 (L4T up to 32.x, NVIDIA's driver ina3221x):
                /sys/bus/i2c/drivers/ina3221x/<bus>-<address>/iio:device<k>/{rail_name_<i>, in_power<i>_input}   i = 0, 1, 2; mW
            JetPack 5 and later (L4T 34.1 on, mainline driver ina3221):
                /sys/bus/i2c/drivers/ina3221/<bus>-<address>/hwmon/hwmon<n>/{in<i>_label, in<i>_input, curr<i>_input}
                i = 1, 2, 3; mV and mA, read back to back and multiplied. Channel 7 is a sum of shunt voltages, no rail.
            Bus and hwmon numbers change between boots; rails are found by their labels.
Unit        watts; steps of 1 mW, or of 1 mA times the rail's voltage. A conversion takes 0.14 to 8.2 ms for each channel, so
            reading faster than 1 kHz only repeats values; 100 ms between readings is customary.
Covers      the module (TOTAL names the rails that add up to it).
Misses      the carrier board, its USB devices, and the losses before the module. Rails that one of the named rails feeds are
            not added: that would count them twice (Nano: POM_5V_GPU and POM_5V_CPU are inside POM_5V_IN; AGX Orin:
            VDDQ_VDD2_1V8AO is fed from VIN_SYS_5V0).
Privilege   none.
Documents   Linux Documentation/hwmon/ina3221.rst; NVIDIA Jetson Linux Developer Guide, "Power Monitoring" of each release;
            TI INA3221 data sheet (SBOS576).
Seen on     no hardware yet: tested on the trees under tests/captures. Orin NX and Orin Nano rails are from the guide.
"""

import glob
import os
from typing import Dict, List, Tuple

DRIVERS = "sys/bus/i2c/drivers"
COMPATIBLE = "proc/device-tree/compatible"

TOTAL = (
    ("nvidia,tegra210", ("POM_5V_IN",)),  # Nano (4 GB); the 2 GB board has no monitor
    ("nvidia,tegra186", ("VDD_IN",)),  # TX2, TX2i, TX2 4GB, TX2 NX
    ("nvidia,tegra194", ("VDD_IN",)),  # Xavier NX
    ("nvidia,tegra194", ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")),  # AGX Xavier: no parent rail
    ("nvidia,tegra234", ("VDD_IN",)),  # Orin NX, Orin Nano
    ("nvidia,tegra234", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")),  # AGX Orin
)  # type: Tuple[Tuple[str, Tuple[str, ...]], ...]
"""Chip (device tree `compatible`) and the rails that add up to the module without overlap; the first row whose rails are all there."""


class Ina3221:
    """Watts into the module. `read` raises OSError, never gives a zero for a failure."""

    name = "ina3221"
    unit = "W"
    automatic = True

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._files = []  # type: List[Tuple[str, ...]]

    def reason_unusable(self) -> str:
        """Empty when the module's total is known for this board and can be read now."""
        try:
            rails = self._rails()
            if not rails:
                return "no INA3221 power monitor under /%s: not a Jetson, or one without a monitor (Nano 2GB)" % DRIVERS
            if not self.scope():
                return "which rails add up to the module is not known for this board (%s); its rails are %s" % (
                    ", ".join(self._chips()) or "no device tree",
                    ", ".join(sorted(rails)),
                )
            self.read()
        except OSError as error:
            return "the power monitor cannot be read: %s" % error
        return ""

    def scope(self) -> List[str]:
        """Names of the rails that are added."""
        rails, chips = self._rails(), self._chips()
        for chip, total in TOTAL:
            if chip in chips and all(rail in rails for rail in total):
                return list(total)
        return []

    def read(self) -> float:
        """Watts now."""
        if not self._files:
            rails = self._rails()
            self._files = [rails[name] for name in self.scope()]
            if not self._files:
                raise OSError("no known total of power rails under %s" % os.path.join(self._root, DRIVERS))
        return sum(_watts(files) for files in self._files)

    def _rails(self) -> Dict[str, Tuple[str, ...]]:
        """Files by rail: one of power in mW, or voltage in mV and current in mA."""
        found = {}  # type: Dict[str, Tuple[str, ...]]
        for folder in glob.glob(os.path.join(self._root, DRIVERS, "ina3221x", "*-*", "iio:device*")):
            for i in "012":
                label = os.path.join(folder, "rail_name_" + i)
                if os.path.exists(label):
                    found[_text(label)] = (os.path.join(folder, "in_power%s_input" % i),)
        for folder in glob.glob(os.path.join(self._root, DRIVERS, "ina3221", "*-*", "hwmon", "hwmon*")):
            for i in "123":
                label = os.path.join(folder, "in%s_label" % i)
                if os.path.exists(label):
                    found[_text(label)] = (os.path.join(folder, "in%s_input" % i), os.path.join(folder, "curr%s_input" % i))
        return found

    def _chips(self) -> List[str]:
        path = os.path.join(self._root, COMPATIBLE)
        if not os.path.exists(path):
            return []
        return [word for word in _text(path).split("\0") if word]


def _watts(files: Tuple[str, ...]) -> float:
    if len(files) == 1:
        return _number(files[0]) / 1e3
    millivolts, milliamperes = _number(files[0]), _number(files[1])
    return millivolts * milliamperes / 1e6


def _text(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _number(path: str) -> int:
    text = _text(path)
    try:
        return int(text)
    except ValueError as error:
        raise OSError("%s says %r where a number is due" % (path, text[:40])) from error


METER = Ina3221
