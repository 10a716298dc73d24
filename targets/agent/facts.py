"""What the device is: the fields of `records.TargetFacts`.

Sources: /proc/device-tree (Devicetree specification: `model`, `compatible`), /sys/class/dmi/id (ABI/testing/sysfs-firmware-dmi),
/proc/cpuinfo, /proc/meminfo, uname. Runtimes are those of THIS interpreter and of its private environments; they are looked up, not
imported.
"""

import glob
import importlib
import os
import platform
import re
import subprocess
import sys
from importlib.machinery import PathFinder
from typing import Any, Dict, List, Optional

from edgec.targets.agent.environment import Environments, paths_with
from edgec.targets.agent.identity import known, modules_in
from edgec.targets.boards import Device, answers, text_of

IMPORT_S = 60.0
"""Patience with an import of a runtime whose version is written down nowhere (a slow card reader takes long)."""


X86 = frozenset(("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"))
ARM = frozenset(("neon", "vfpv4", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"))
"""Instruction sets that kernels of neural networks choose by, as /proc/cpuinfo spells them (flags, hwcaps)."""


def gather(folder: str, root: str = "/") -> Dict[str, Any]:
    """All facts. `root` stands for / (tests give a recorded tree)."""
    return {
        **identity(Device(root), platform.machine()),
        "board": board(root),
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "cpu": cpu(root),
        "cpu_features": cpu_features(root),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": memory_bytes(root),
        "disk_free_bytes": disk_free_bytes(folder),
        "python": platform.python_version(),
        "libc": libc(),
        "emulated": is_emulated(root),
        "runtimes": runtimes(os.path.join(folder, "env")),
        "meters": meters(root),
    }


def identity(device: Device, machine: str) -> Dict[str, Any]:
    """Board and family by name, accelerators, versions of the system's parts, and why a version is not known."""
    versions = {}  # type: Dict[str, str]
    unknown = {}  # type: Dict[str, str]
    release = device.text("/etc/os-release")
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]*)', release or "", re.MULTILINE)
    if pretty:
        versions["os"] = pretty.group(1)
    else:
        unknown["os"] = "no PRETTY_NAME in /etc/os-release"
    found = known(device, machine)
    if found is None:
        return {"board_id": "", "family": "", "versions": versions, "accelerators": [], "unknown": unknown}
    family, board = found
    told, untold = answers(family.facts, device)
    names, unnamed = answers(family.accelerators, device)
    return {
        "board_id": board.id,
        "family": family.name,
        "versions": dict(versions, **told),
        "accelerators": [name for each in names.values() for name in each],
        "unknown": dict(unknown, **untold, **unnamed),
    }


def board(root: str) -> str:
    """The board's model by its device tree, or the machine's by its firmware."""
    model = text_of(os.path.join(root, "proc/device-tree/model"))
    vendor = text_of(os.path.join(root, "sys/class/dmi/id/sys_vendor"))
    product = text_of(os.path.join(root, "sys/class/dmi/id/product_name"))
    return model or " ".join(part for part in (vendor, product) if part) or "unknown"


def cpu(root: str) -> str:
    """The processor's name; on ARM, which has none, implementer and part of its cores."""
    lines = (text_of(os.path.join(root, "proc/cpuinfo")) or "").splitlines()
    pairs = [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]
    names = [value for key, value in pairs if key in ("model name", "Model", "cpu model") and value]
    if names:
        return names[0]
    parts = sorted({value for key, value in pairs if key == "CPU part"})
    makers = sorted({value for key, value in pairs if key == "CPU implementer"})
    return "implementer %s part %s" % (",".join(makers), ",".join(parts)) if parts else "unknown"


def cpu_features(root: str) -> List[str]:
    """Those of X86 and ARM that the first processor has."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text_of(os.path.join(root, "proc/cpuinfo")) or "", re.MULTILINE)
    return sorted((X86 | ARM) & set(found.group(1).split())) if found else []


def memory_bytes(root: str) -> Optional[int]:
    """Physical memory as the kernel sees it."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text_of(os.path.join(root, "proc/meminfo")) or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def disk_free_bytes(folder: str) -> Optional[int]:
    """Space left in the folder."""
    try:
        stat = os.statvfs(folder)
    except OSError:
        return None
    return stat.f_bavail * stat.f_frsize


def libc() -> str:
    """Name and version of the C library; without glibc's own answer, what the interpreter was linked with."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return " ".join(platform.libc_ver()).strip()


def is_emulated(root: str) -> bool:
    """Whether an emulated processor is recognised, so that timings have no meaning.

    QEMU's "virt" machine says "linux,dummy-virt" and has a "qemu,…" node in its device tree. Firmware made by QEMU alone is no proof on a
    cloud host, where KVM runs the guest on the real processor: its clock is then offered to the guest.
    """
    for pattern in ("proc/device-tree/compatible", "proc/device-tree/model", "proc/device-tree/*/compatible"):
        for path in glob.glob(os.path.join(root, pattern)):
            text = text_of(path) or ""
            if "linux,dummy-virt" in text or any(line.startswith("qemu,") for line in text.splitlines()):
                return True
    if "QEMU" in cpu(root) or "TCG" in cpu(root):
        return True
    firmware = [text_of(os.path.join(root, "sys/class/dmi/id", name)) or "" for name in ("sys_vendor", "product_name", "board_vendor")]
    clocks = text_of(os.path.join(root, "sys/devices/system/clocksource/clocksource0/available_clocksource")) or ""
    return any("QEMU" in text for text in firmware) and "kvm-clock" not in clocks


def runtimes(environments: str) -> List[Dict[str, Any]]:
    """Each runtime that the agent has a runner for: its version, or the reason why it cannot be used. `environments` is the folder of the
    private ones.

    A runner's `packages` are top-level packages that serve, best first, each with the distributions that bring it; `needs` are modules
    needed beside any of them. Where there is a choice the version says which one it is of.
    """
    found = []
    for name in modules_in("edgec.targets.agent.runners"):
        runner = importlib.import_module("edgec.targets.agent.runners." + name).RUNNER
        version: Optional[str] = None
        reason = ""
        paths = paths_with(Environments(environments).site(name))
        there = [(package, brought) for package, brought in runner.packages if PathFinder.find_spec(package, paths) is not None]
        absent = [module for module in runner.needs if PathFinder.find_spec(module, paths) is None]
        if not there:
            absent.insert(0, " or ".join(package for package, _ in runner.packages))
        if absent:
            reason = "%s has no %s" % (sys.executable, " and no ".join(absent))
        else:
            package, brought = there[0]
            version = installed_version(brought, paths) or imported_version(package)
            if version is None:
                reason = "%s is installed for %s and cannot be imported" % (package, sys.executable)
            elif len(runner.packages) > 1:
                version = "%s (%s)" % (version, package)
        found.append({"name": name, "version": version, "reason": reason})
    return found


def installed_version(distributions: List[str], paths: Optional[List[str]] = None) -> Optional[str]:
    """The version in the name of an installed package's metadata folder (importlib.metadata came with Python 3.8); on sys.path, or on
    `paths`.
    """
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions}
    for folder in sys.path if paths is None else paths:
        try:
            entries = os.listdir(folder or ".")
        except OSError:
            continue
        for entry in entries:
            found = re.match(r"^(.+?)-([^-]+)(-py[\d.]+)?\.(dist|egg)-info$", entry)
            if found and re.sub(r"[-_.]+", "-", found.group(1)).lower() in wanted:
                return found.group(2)
    return None


def imported_version(module: str) -> Optional[str]:
    """What the module itself says, asked in another process."""
    code = "import %s as m; print(m.__version__)" % module
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=IMPORT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() or None if done.returncode == 0 else None


def meters(root: str) -> List[Dict[str, Any]]:
    """Each energy meter: usable with its scope, or the reason why it is not."""
    found = []
    for name, meter in all_meters(root):
        reason = meter.reason_unusable()
        found.append({"name": name, "usable": not reason, "scope": [] if reason else list(meter.scope()), "reason": reason})
    return found


def all_meters(root: str = "/") -> List[Any]:
    """(name, meter) of every module in `profilers/meters`."""
    modules = [importlib.import_module("edgec.profilers.meters." + name) for name in modules_in("edgec.profilers.meters")]
    return [(module.METER.name, module.METER(root)) for module in modules]
