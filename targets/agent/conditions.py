"""The state of the device at one instant: clocks, load, temperature, throttling, power mode. What it cannot tell is None.

Sources: /proc/loadavg; cpufreq and thermal class of sysfs (Linux Documentation/admin-guide/pm/cpufreq, ABI/testing/sysfs-class-thermal,
millidegrees); `vcgencmd get_throttled` (Raspberry Pi: bit 0 under-voltage, 1 capped, 2 throttled, 3 soft limit, 16-19 the same since
boot); `nvpmodel -q` (Jetson: the power mode's name and number).
"""

import glob
import os
import shutil
import subprocess
import time
from typing import Any, Callable, Dict, List, Optional

from edgec.targets.agent.clock import monotonic_ns

ASK_S = 5.0
"""Patience with a vendor's tool."""


def text_of(path: str) -> Optional[str]:
    """A small system file's text, stripped; None when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(65536).replace(b"\0", b"\n").decode("utf-8", "replace").strip()
    except OSError:
        return None


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
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def observe(root: str = "/", tool: Callable[..., Optional[str]] = ask) -> Dict[str, Any]:
    """The fields of `records.Conditions`. `root` stands for / (tests give a recorded tree)."""
    load = (text_of(os.path.join(root, "proc/loadavg")) or "").split()
    mhz = [khz / 1000.0 for khz in numbers_in(glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")))]
    if not mhz:
        lines = (text_of(os.path.join(root, "proc/cpuinfo")) or "").splitlines()
        mhz = [float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz")]
    governors = {text_of(path) for path in glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))}
    # a zone of a switched-off part reads a large negative number (Jetson: PMIC and GPU zones)
    celsius = [t / 1000.0 for t in numbers_in(glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp"))) if -40e3 < t < 150e3]
    throttled = tool("vcgencmd", "get_throttled")
    mode = tool("nvpmodel", "-q")
    return {
        "t_ns": int(time.time() * 1e9),
        "monotonic_ns": monotonic_ns(),
        "load1": float(load[0]) if load else None,
        "cpu_mhz": max(mhz) if mhz else None,
        "governor": ",".join(sorted(g for g in governors if g)) or None,
        "temp_celsius": max(celsius) if celsius else None,
        "throttled": throttled.split("=")[-1] if throttled else None,
        "power_mode": " ".join(mode.split()) if mode else None,
    }
