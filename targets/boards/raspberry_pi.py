"""Raspberry Pi boards.

Reads       /proc/device-tree/compatible, /etc/rpi-issue (image), `vcgencmd version` (firmware), `vcgencmd get_throttled` or the kernel's
            soc:firmware/get_throttled (throttle flags), `vcgencmd measure_clock v3d` (GPU clock), `vcgencmd pmic_read_adc` (Pi 5).
Unit        volts and watts; PMIC steps are about 0.1 mV to 1 mV, a call is one round trip to the firmware.
Covers      pmic_watts: the 12 rails of the PMIC that have both voltage and current. It is less than the board draws.
Misses      what hangs on 5 V: USB, HAT, NVMe, the PMIC's own losses. Pi 4 and older have no power sensor at all: nothing is estimated.
Privilege   the group `video` for vcgencmd.
Documents   raspberrypi/documentation: "vcgencmd" (get_throttled bits, pmic_read_adc); Linux arch/arm/boot/dts/broadcom (compatible).
Seen on     no hardware yet: tested on tests/captures/raspberry-pi-*, some of them outputs that owners have published.
"""

import re
from typing import Dict, Optional

from edgec.profilers.meters.rpi_pmic import rail_watts, volts_and_amperes
from edgec.targets.boards import Board, Device, Family, Probe, by_compatible

BOARDS = (
    Board("raspberry-pi-zero-2", "Raspberry Pi Zero 2 W", ("raspberrypi,model-zero-2",)),
    Board("raspberry-pi-3", "Raspberry Pi 3", ("raspberrypi,3-",)),
    Board("raspberry-pi-4", "Raspberry Pi 4", ("raspberrypi,4-", "raspberrypi,400")),
    Board("raspberry-pi-5", "Raspberry Pi 5", ("raspberrypi,5-", "raspberrypi,500")),
)
"""Compute modules (3-compute-module, …) and keyboards (400, 500) have their board's chip and count as it."""


def issue(text: str) -> str:
    """Date of the image in /etc/rpi-issue: "Raspberry Pi reference 2024-10-22"."""
    found = re.match(r"Raspberry Pi reference (\d{4}-\d{2}-\d{2})", text)
    if found is None:
        raise ValueError(text[:80])
    return found.group(1)


def firmware(text: str) -> str:
    """Build of `vcgencmd version`, whose last line is "version <hash> (release) (start)"."""
    found = re.search(r"^version (\w+)", text, re.MULTILINE)
    if found is None:
        raise ValueError(text[:80])
    return found.group(1)


def throttled(text: str) -> str:
    """`vcgencmd get_throttled`: "throttled=0x50005"; of the kernel's file the bare number. Bits: measure.PI_FLAGS."""
    found = re.match(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)$", text)
    if found is None:
        raise ValueError(text[:80])
    return hex(int(found.group(1), 16))


def clock_mhz(text: str) -> float:
    """`vcgencmd measure_clock`: "frequency(46)=960000000" in Hz; 0 is a clock that is off."""
    found = re.match(r"frequency\(\d+\)=(\d+)$", text)
    if found is None:
        raise ValueError(text[:80])
    return int(found.group(1)) / 1e6


def pmic(text: str) -> Dict[str, float]:
    """`vcgencmd pmic_read_adc`, as `profilers/meters/rpi_pmic.py` reads it.

    Gives the sum of V x A over the rails with both, the cores' share of it, and the voltage of the supply behind the input protection.
    """
    watts, supply = rail_watts(text), volts_and_amperes(text).get("EXT5V", {})
    if "V" not in supply:
        raise ValueError(text[:80])
    return {"pmic_watts": sum(watts.values()), "vdd_core_watts": watts["VDD_CORE"], "supply_volts": supply["V"]}


def identify(device: Device, _machine: str) -> Optional[Board]:
    """By the device tree."""
    return by_compatible(BOARDS, device)


FAMILY = Family(
    name="raspberry-pi",
    boards=BOARDS,
    identify=identify,
    facts=(
        Probe("image", ("/etc/rpi-issue",), issue),
        Probe("firmware", ("vcgencmd", "version"), firmware),
    ),
    accelerators=(),
    conditions=(
        Probe("throttled", ("vcgencmd", "get_throttled"), throttled),
        Probe("throttled", ("/sys/devices/platform/soc*/*firmware/get_throttled",), lambda text: throttled(text.rpartition(":")[2])),
        Probe("gpu_mhz", ("vcgencmd", "measure_clock", "v3d"), clock_mhz),
    ),
    readings=(Probe("pmic", ("vcgencmd", "pmic_read_adc"), pmic),),
)
