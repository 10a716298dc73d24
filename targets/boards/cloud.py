"""x86-64 and Arm hosts, with or without discrete NVIDIA GPUs. Energy of the CPU packages is the meter `profilers/meters/rapl.py`.

Reads       uname -m and the device tree (a host has none, or a virtual machine's), nvidia-smi (GPU, driver, clock, power, temperature,
            throttle reasons), cpu*/thermal_throttle/*_throttle_count (x86: thermal throttling, counts since boot).
Unit        gpu_watts is a one-second average from Ampere on but for GA100, the instantaneous value before (NVML).
Covers      the GPU's board. One GPU's clocks and readings are told; of several the first.
Privilege   none.
Documents   NVIDIA nvidia-smi and NVML API reference (nvmlClocksEventReasons); Linux Documentation/arch/x86, thermal_throttle.
Seen on     no GPU yet: tested on tests/captures; hosts without GPU on the machine that made tests/captures/x86-64.
"""

from typing import Dict, List, Optional, Tuple

from edgec.targets.boards import Board, Device, Family, Probe, finite, numbers

X86_64 = Board("x86-64", "x86-64 host", ())
ARM64 = Board("arm64", "Arm host", ())
BOARDS = (X86_64, ARM64)

VIRTUAL = "linux,dummy-virt"
"""The only word of a virtual machine's device tree (QEMU, Firecracker)."""

REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""nvmlClocksEventReason bits that mean slower than asked for. Not so: 1 idle, 2 application clocks, 0x10 sync boost, 0x100 display."""


def _query(*fields: str) -> Tuple[str, ...]:
    return ("nvidia-smi", "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits")


def rows(text: str, columns: int) -> List[List[str]]:
    """Lines of nvidia-smi's CSV, one a GPU."""
    found = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    if not found or any(len(row) != columns for row in found):
        raise ValueError(text[:80] or "no GPU")
    return found


def driver(text: str) -> str:
    """Version of the driver."""
    return rows(text, 1)[0][0]


def gpus(text: str) -> List[str]:
    """Name, compute capability and memory in MiB of each GPU."""
    return ["%s, compute capability %s, %s MiB" % (row[0], row[1], row[2]) for row in rows(text, 3)]


def number(text: str) -> float:
    """One number of the first GPU; "[N/A]" is unknown."""
    return finite(rows(text, 1)[0][0])


def slowed(text: str) -> str:
    """clocks_throttle_reasons.active of the first GPU, a bit mask, as words; "none" when nothing slows it."""
    mask = int(rows(text, 1)[0][0], 16)
    return ", ".join(name for bit, name in sorted(REASONS.items()) if mask & bit) or "none"


def counts(text: str) -> str:
    """Sum of all cores' and packages' throttle counts since boot."""
    found = numbers(text)
    if not found:
        raise ValueError(text[:80])
    return str(int(sum(found.values())))


def gpu_readings(text: str) -> Dict[str, float]:
    """power.draw in W and temperature.gpu in degrees Celsius of the first GPU."""
    watts, celsius = rows(text, 2)[0]
    return {"gpu_watts": finite(watts), "gpu_celsius": finite(celsius)}


def identify(device: Device, machine: str) -> Optional[Board]:
    """By the processor, where no device tree names a board."""
    if not set(device.compatible()) <= {VIRTUAL}:
        return None
    return {"x86_64": X86_64, "aarch64": ARM64, "arm64": ARM64}.get(machine)


FAMILY = Family(
    name="cloud",
    boards=BOARDS,
    identify=identify,
    facts=(Probe("driver", _query("driver_version"), driver),),
    accelerators=(Probe("gpu", _query("name", "compute_cap", "memory.total"), gpus),),
    conditions=(
        Probe("throttled", ("/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count",), counts),
        Probe("gpu_throttled", _query("clocks_throttle_reasons.active"), slowed),
        Probe("gpu_mhz", _query("clocks.current.sm"), number),
    ),
    readings=(Probe("gpu", _query("power.draw", "temperature.gpu"), gpu_readings),),
)
