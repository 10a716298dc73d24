"""Power rails of a Raspberry Pi 5 through its power-management chip (DA9091).

Reads       `vcgencmd pmic_read_adc`: "VDD_CORE_A current(7)=6.22421000A" and "VDD_CORE_V volt(15)=0.86173300V" for each rail.
Unit        watts: volts times amperes of each of the 12 rails that have both, added. A call is one small process and one round trip
            through the mailbox to the firmware, which asks the chip; how long that takes is not measured yet. Published readers take
            1 to 10 readings a second (jfikar/RPi5-power, ml-energy/zeus). Where a call takes longer than the sampler's period, the
            samples come slower, and an energy that they cannot carry is unknown. Single readings fluctuate: it takes 100 of them.
Covers      cores, memory, wireless, HDMI and I/O as far as the chip feeds them.
Misses      what hangs on 5 V: USB, HATs, NVMe, the fan; and the chip's own losses. It is less than the board draws at its plug: an owner
            found 1.1451 times the sum and 0.5879 W more (jfikar/RPi5-power), which is not applied here: it is of one board.
            EXT5V and BATT have a voltage and no current. At small currents the chip may give zero (seen on the memory's rails at idle).
Privilege   the group `video`, for /dev/vcio.
Documents   raspberrypi/documentation, "vcgencmd": pmic_read_adc. There is no file for it: rp1_adc and rpi_volt in hwmon are other things.
Seen on     no hardware yet: tested on a reading that the owner of a board has published (tests/captures/raspberry-pi-5). The Pi 4 and
            older have no power sensor.
"""

import os
import re
import subprocess
from typing import Dict, List

COMPATIBLE = "proc/device-tree/compatible"
CHIP = "brcm,bcm2712"
"""Of the Pi 5, the Compute Module 5 and the Pi 500."""
TOOL = "usr/bin/vcgencmd"
ASK_S = 2.0
"""Patience with the firmware."""
READING = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+\.\d+)\2\s*$", re.MULTILINE)


def volts_and_amperes(text: str) -> Dict[str, Dict[str, float]]:
    """{"V", "A"} of each rail, as far as the output has them; without any for a text that is none."""
    found = {}  # type: Dict[str, Dict[str, float]]
    for rail, unit, value in READING.findall(text):
        found.setdefault(rail, {})[unit] = float(value)
    return found


def rail_watts(text: str) -> Dict[str, float]:
    """Watts of each rail that has voltage and current.

    Raises:
        ValueError: the text is no reading; the cores' rail is in each.
    """
    watts = {rail: both["V"] * both["A"] for rail, both in volts_and_amperes(text).items() if len(both) == 2}
    if "VDD_CORE" not in watts:
        raise ValueError(text[:80] or "nothing")
    return watts


class RpiPmic:
    """Watts of the rails together. `read` raises OSError, never gives a zero for a failure."""

    name = "rpi_pmic"
    unit = "W"
    automatic = True

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._rails = []  # type: List[str]

    def reason_unusable(self) -> str:
        """Empty when the chip answers now."""
        try:
            with open(os.path.join(self._root, COMPATIBLE)) as file:
                words = file.read().split("\0")
        except OSError:
            words = []
        if CHIP not in words:
            return "not a Raspberry Pi 5: no power-management chip that measures (older boards have no power sensor)"
        try:
            self.read()
        except OSError as error:
            return "the power-management chip cannot be read: %s" % error
        return ""

    def scope(self) -> List[str]:
        """Names of the rails that are added; empty when they cannot be read."""
        try:
            self.read()
        except OSError:
            return []
        return list(self._rails)

    def read(self) -> float:
        """Watts now."""
        watts = self._watts()
        if not self._rails:
            self._rails = sorted(watts)
        if sorted(watts) != self._rails:  # the others alone would be a number, and less than the truth
            raise OSError("vcgencmd pmic_read_adc gives other rails than before: %s" % ", ".join(sorted(set(watts) ^ set(self._rails))))
        return sum(watts.values())

    def _watts(self) -> Dict[str, float]:
        try:
            done = subprocess.run(
                [os.path.join(self._root, TOOL), "pmic_read_adc"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
                timeout=ASK_S,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError("vcgencmd pmic_read_adc does not answer within %g s" % ASK_S) from error
        said = done.stdout.decode("utf-8", "replace")
        if done.returncode != 0:
            why = " ".join((done.stderr.decode("utf-8", "replace").strip() or said).split())[:200]
            raise OSError("vcgencmd pmic_read_adc ends with status %d: %s; is this user in the group video?" % (done.returncode, why))
        try:
            return rail_watts(said)
        except ValueError as error:
            raise OSError("vcgencmd pmic_read_adc says %r where a reading is due" % str(error)) from error


METER = RpiPmic
