"""How this process names itself to a target's lock, and whether the process behind such a name has provably ended."""

import getpass
import os
import platform
import re
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
PATTERN = re.compile(r"@(?P<node>\S+) \(process (?P<pid>[0-9]{1,9}) of boot (?P<boot>[0-9a-f]{8})\)\Z")


def me() -> str:
    """ann@desk (process 4711 of boot 1f2e3d4c)."""
    return f"{getpass.getuser()}@{platform.node()} (process {os.getpid()} of boot {_boot()})"


def is_gone(owner: object) -> bool:
    """Whether that was a process of this machine, since it was started last, which is no more. Of other machines nothing is known."""
    found = PATTERN.search(owner) if isinstance(owner, str) else None
    if found is None or (found["node"], found["boot"]) != (platform.node(), _boot()) or _boot() == "00000000":
        return False
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _boot() -> str:
    """Begins anew with each start of the machine; zeros where the system does not say."""
    return BOOT.read_text()[:8] if BOOT.exists() else "00000000"
