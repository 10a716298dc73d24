"""The state of the device at one instant: clocks, load, temperature, throttling, power mode. What it cannot tell is None, with the reason.

Sources: /proc/loadavg; cpufreq and thermal class of sysfs (Linux Documentation/admin-guide/pm/cpufreq, ABI/testing/sysfs-class-thermal,
millidegrees). Throttle flags, power mode and GPU clock differ by board: `targets/boards/`.
"""

import glob
import os
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from edgec.targets.agent.clock import monotonic_ns
from edgec.targets.agent.identity import known as known_board
from edgec.targets.boards import Device, Probe, answers, ask, clocks_fixed, text_of

GENERIC = ("load1", "cpu_mhz", "cpu_clock_fixed", "governor", "temp_celsius")
FIELDS = (*GENERIC, "throttled", "power_mode", "gpu_mhz", "gpu_clock_fixed", "gpu_throttled")
"""What a moment is asked for. Those that are not generic only a family's probes can tell."""


def numbers_in(paths: List[str]) -> List[float]:
    """The numbers in those of the files that hold one."""
    found = []
    for path in paths:
        text = text_of(path)
        try:
            found.append(float(text or ""))
        except ValueError:
            continue
    return found


def observe(root: str = "/", tool: Callable[..., Optional[str]] = ask, machine: Optional[str] = None) -> Dict[str, Any]:
    """The fields of `records.Conditions`. `root`, `tool` and `machine` stand for this device (tests give recorded ones)."""
    device = Device(root, tool)
    known, reasons = generic(root, device)
    readings = {}  # type: Dict[str, float]
    found = known_board(device, machine)
    if found is not None:
        family, _ = found
        told, untold = answers(family.conditions, device)
        read, unread = answers(family.readings, device)
        known.update(told)
        reasons.update(untold, **unread)
        for each in read.values():
            readings.update(each)
    for name in FIELDS:
        reasons.setdefault(name, "nothing that edgec knows tells it on this board")
    conditions = {name: known.get(name) for name in FIELDS}  # type: Dict[str, Any]
    unknown = {name: reason for name, reason in reasons.items() if name not in known}
    conditions.update(t_ns=int(time.time() * 1e9), monotonic_ns=monotonic_ns(), readings=readings, unknown=unknown)
    return conditions


def generic(root: str, device: Device) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """What any Linux tells: (known, reasons)."""
    load = (text_of(os.path.join(root, "proc/loadavg")) or "").split()
    mhz = [khz / 1000.0 for khz in numbers_in(glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")))]
    if not mhz:
        lines = (text_of(os.path.join(root, "proc/cpuinfo")) or "").splitlines()
        mhz = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    governors = {text_of(path) for path in glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))}
    # a zone of a switched-off part reads a large negative number (Jetson: GPU zone); Jetson's PMIC zone is a constant 100 degrees
    zones = [each for each in glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp")) if not is_constant(each)]
    celsius = [t / 1000.0 for t in numbers_in(zones) if -40e3 < t < 150e3]
    found = {
        "load1": (float(load[0]) if load else None, "no /proc/loadavg"),
        "cpu_mhz": (max(mhz) if mhz else None, "no cpufreq, and no clock in /proc/cpuinfo"),
        "governor": (",".join(sorted(g for g in governors if g)) or None, "no cpufreq: the clock is not this system's to set"),
        "temp_celsius": (max(celsius) if celsius else None, "no thermal zone that can be read"),
        "cpu_clock_fixed": Probe("", ("/sys/devices/system/cpu/cpu*/cpufreq/scaling_m*_freq",), clocks_fixed).answer(device),
    }
    return (
        {name: value for name, (value, _) in found.items() if value is not None},
        {name: reason for name, (value, reason) in found.items() if value is None},
    )


def is_constant(zone: str) -> bool:
    """Whether a thermal zone is one that measures nothing: PMIC-Die of Jetson boards stands at 100 degrees (jetson-stats, tegrastats)."""
    return (text_of(os.path.join(os.path.dirname(zone), "type")) or "").startswith("PMIC")
