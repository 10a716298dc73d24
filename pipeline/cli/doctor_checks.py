"""What is wrong with a target, from its facts and its state: pure. Each finding comes with the line that mends it."""

from dataclasses import dataclass

from edgec.pipeline.core.records import Conditions, TargetFacts
from edgec.pipeline.core.settings import TargetSettings
from edgec.pipeline.core.units import size

FREE_BYTES_WANTED = 500_000_000
"""Releases, a private Python environment and results: below this a deploy may run out."""
CLOCK_OFF_S = 60.0
"""A wall clock that is off by more says wrong dates in every record, and breaks TLS."""

PI_NOW = {1: "under-voltage", 2: "frequency capped", 4: "throttled", 8: "soft temperature limit"}
PI_SINCE_BOOT = {bit << 16: name for bit, name in PI_NOW.items()}
"""Bits of `vcgencmd get_throttled` (raspberrypi/documentation)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that makes measurements worse, or a deploy fail later; it does not make the target unusable by itself."""

    what: str
    remedy: str


def findings(settings: TargetSettings, facts: TargetFacts, now: Conditions, *, host_ns: int) -> tuple[Finding, ...]:
    """All of them. `host_ns` is the wall clock of this machine at the time of `now`."""
    found = []
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < FREE_BYTES_WANTED:
        found.append(Finding(what=f"only {size(facts.disk_free_bytes)} free in {settings.folder}", remedy="free some, or set folder = …"))
    off_s = (now.t_ns - host_ns) / 1e9
    if abs(off_s) > CLOCK_OFF_S:
        found.append(Finding(what=f"its clock is off by {off_s:+.0f} s", remedy="sudo timedatectl set-ntp true"))
    found += _throttling(facts, now)
    found += _clocks(facts, now)
    if not any(meter.usable and meter.name != "replay" for meter in facts.meters):
        found.append(Finding(what="energy stays unknown: none of its meters can be used", remedy="the reason stands beside each meter"))
    return tuple(found)


def _throttling(facts: TargetFacts, now: Conditions) -> list[Finding]:
    found = []
    if facts.family == "raspberry-pi" and now.throttled is not None:
        flags = int(now.throttled, 16)
        active = [name for bit, name in PI_NOW.items() if flags & bit]
        earlier = [name for bit, name in PI_SINCE_BOOT.items() if flags & bit and name not in active]
        if active:
            found.append(Finding(what=f"now: {', '.join(active)} ({now.throttled})", remedy="a supply that holds 5 V, and a fan"))
        if earlier:
            found.append(Finding(what=f"since boot: {', '.join(earlier)} ({now.throttled})", remedy="look at its supply and cooling"))
    if now.gpu_throttled not in (None, "none"):
        found.append(Finding(what=f"its GPU is slowed: {now.gpu_throttled}", remedy="nvidia-smi -q -d PERFORMANCE says more"))
    return found


def _clocks(facts: TargetFacts, now: Conditions) -> list[Finding]:
    if False not in (now.cpu_clock_fixed, now.gpu_clock_fixed):
        return []
    if facts.family == "jetson":
        mode = f"power mode {now.power_mode}" if now.power_mode else "power mode unknown"
        return [Finding(what=f"its clocks move ({mode})", remedy="sudo jetson_clocks fixes them until the next boot")]
    if now.governor in (None, "performance"):
        return []
    return [
        Finding(
            what=f"its CPU clock moves (governor {now.governor})",
            remedy="echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )
    ]
