"""NVIDIA Jetson modules.

Reads       /proc/device-tree/compatible (module part numbers p3448, p3310, …), /etc/nv_tegra_release (L4T release), dpkg (TensorRT,
            JetPack), nvpmodel -q (power mode), devfreq (GPU clock), cpufreq and devfreq limits (jetson_clocks sets minimum = maximum),
            soctherm_oc/oc*_event_cnt (over-current throttling, Orin from L4T 35 on).
Privilege   none. Where `nvpmodel -q` is refused, /var/lib/nvpmodel/status holds the mode's number.
Documents   NVIDIA Jetson Linux Developer Guide: "Quick Start" (part numbers), "Platform Power and Performance" (nvpmodel, jetson_clocks,
            OC event counters); Linux arch/arm64/boot/dts/nvidia; NVIDIA JetPack Archive (L4T to JetPack).
Seen on     no hardware yet: tested on tests/captures/jetson-*, some of them outputs that owners have published.
"""

import re
from typing import List, Optional

from edgec.targets.boards import Board, Device, Family, Probe, by_compatible, clocks_fixed, numbers

BOARDS = (
    Board("jetson-nano-2gb", "NVIDIA Jetson Nano 2GB", ("p3448-0003",)),
    Board("jetson-nano", "NVIDIA Jetson Nano", ("p3448", "p3450", "nvidia,jetson-nano")),
    Board("jetson-tx2-nx", "NVIDIA Jetson TX2 NX", ("p3636",)),
    Board("jetson-tx2", "NVIDIA Jetson TX2", ("p3310", "p3489", "p2771", "nvidia,quill")),
    Board("jetson-xavier-nx", "NVIDIA Jetson Xavier NX", ("p3668",)),
    Board("jetson-agx-xavier", "NVIDIA Jetson AGX Xavier", ("p2888", "p2972", "nvidia,galen", "nvidia,jetson-xavier")),
    Board("jetson-agx-orin", "NVIDIA Jetson AGX Orin", ("p3701",)),
    Board("jetson-orin-nx", "NVIDIA Jetson Orin NX", ("p3767-0000", "p3767-0001")),
    Board("jetson-orin-nano", "NVIDIA Jetson Orin Nano", ("p3767-0003", "p3767-0004", "p3767-0005")),
)
"""By module part number; a name that holds another's stands before it."""

JETPACK = {
    "32.4.3": "4.4",
    "32.4.4": "4.4.1",
    "32.5.0": "4.5",
    "32.5.1": "4.5.1",
    "32.5.2": "4.5.1",
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
}
"""L4T release to the JetPack that brought it: developer.nvidia.com/embedded/jetpack-archive; the same in dusty-nv/jetson-containers,
jetson_containers/l4t_version.py."""

GPUS = (("tegra210", "5.3"), ("tegra186", "6.2"), ("tegra194", "7.2"), ("tegra234", "8.7"))
"""Chip and its GPU's CUDA compute capability: developer.nvidia.com/cuda-gpus."""

GPU_FOLDER = re.compile(r"gpu|gp10b|gv11b|ga10b")
"""The GPU among devfreq's folders: 57000000.gpu (Nano), 17000000.gp10b (TX2), .gv11b (Xavier), .ga10b or .gpu (Orin)."""


def l4t(text: str) -> str:
    """Release of /etc/nv_tegra_release: "# R32 (release), REVISION: 7.1, …" is 32.7.1, and "5.0" stands for 32.5.0."""
    found = re.search(r"#\s*R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", text)
    if found is None:
        raise ValueError(text.splitlines()[0] if text else "nothing")
    return ".".join([found.group(1), *found.group(2).split("."), "0"][:3])


def jetpack(text: str) -> str:
    """JetPack of the L4T release."""
    release = l4t(text)
    if release not in JETPACK:
        raise ValueError("L4T %s is in no JetPack that this version knows" % release)
    return JETPACK[release]


def packaged(text: str) -> str:
    """Version of the one installed package in `dpkg-query -W` lines ("libnvinfer8<tab>8.2.1-1+cuda10.2"), without Debian's revision."""
    found = {line.split("\t")[1].split("-")[0].split("+")[0] for line in text.splitlines() if re.match(r"\S+\t\d", line)}
    if len(found) != 1:
        raise ValueError("installed versions: %s" % (", ".join(sorted(found)) or "none"))
    return found.pop()


def tensorrt(text: str) -> str:
    """Version of libnvinfer<n> among all packages libnvinfer*."""
    return packaged("\n".join(line for line in text.splitlines() if re.match(r"libnvinfer\d+(:arm64)?\t", line)))


def gpu(text: str) -> List[str]:
    """The integrated GPU with its compute capability, by the chip's word in `compatible`."""
    for chip, capability in GPUS:
        if "nvidia," + chip in text.split():
            return ["NVIDIA %s GPU, compute capability %s" % (chip, capability)]
    raise ValueError(", ".join(text.split()))


def power_mode(text: str) -> str:
    """`nvpmodel -q`: "NV Power Mode: MAXN" and the mode's number on a line of its own, also behind "NVPM VERB:" lines."""
    name = re.search(r"NV Power Mode:\s*(\S.*)", text)
    number = re.search(r"^\s*(\d+)\s*$", text, re.MULTILINE)
    if name is None or number is None:
        raise ValueError(text[:80] or "nothing")
    return "%s (%s)" % (name.group(1).strip(), number.group(1))


def stored_mode(text: str) -> str:
    """/var/lib/nvpmodel/status: "pmode:0000" (with "fmode:…" behind it on some releases)."""
    found = re.search(r"pmode:0*(\d+)", text)
    if found is None:
        raise ValueError(text[:80])
    return "(%s)" % found.group(1)


def gpu_mhz(text: str) -> float:
    """Current GPU clock of devfreq's `cur_freq` in Hz."""
    found = [hertz for path, hertz in numbers(text).items() if GPU_FOLDER.search(path)]
    if len(found) != 1:
        raise ValueError("%d GPU clocks" % len(found))
    return found[0] / 1e6


def gpu_fixed(text: str) -> bool:
    """Whether jetson_clocks has fixed the GPU's clock."""
    return clocks_fixed("\n".join(line for line in text.splitlines() if GPU_FOLDER.search(line)))


def over_current(text: str) -> str:
    """Counts since boot, as "oc1=0 oc2=15 oc3=37": 1 under-voltage, 2 average and 3 instantaneous over-current."""
    counts = {path.rpartition("/")[2].split("_")[0]: int(value) for path, value in numbers(text).items()}
    if not counts:
        raise ValueError(text[:80])
    return " ".join("%s=%d" % each for each in sorted(counts.items()))


def identify(device: Device, _machine: str) -> Optional[Board]:
    """By the device tree."""
    return by_compatible(BOARDS, device)


FAMILY = Family(
    name="jetson",
    boards=BOARDS,
    identify=identify,
    facts=(
        Probe("l4t", ("/etc/nv_tegra_release",), l4t),
        Probe("jetpack", ("dpkg-query", "-W", "nvidia-jetpack"), packaged),
        Probe("jetpack", ("/etc/nv_tegra_release",), jetpack),
        Probe("tensorrt", ("dpkg-query", "-W", "libnvinfer*"), tensorrt),
    ),
    accelerators=(Probe("gpu", ("/proc/device-tree/compatible",), gpu),),
    conditions=(
        Probe("power_mode", ("nvpmodel", "-q"), power_mode),
        Probe("power_mode", ("/var/lib/nvpmodel/status",), stored_mode),
        Probe("throttled", ("/sys/class/hwmon/hwmon*/oc*_event_cnt",), over_current),
        Probe("gpu_mhz", ("/sys/class/devfreq/*/cur_freq",), gpu_mhz),
        Probe("gpu_clock_fixed", ("/sys/class/devfreq/*/m*_freq",), gpu_fixed),
    ),
    readings=(),
)
