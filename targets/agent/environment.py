"""Private environments: a runtime that the board lacks, unpacked from wheels into our own folder, and nowhere else (`preparing.py`).

env/<name>/site/            packages of one runtime, complete; <name> is the digest of its wheels' digests
env/<name>/files.json       size and SHA-256 of each file in site
env/<runtime>-<python>      link to the environment that networks of this runtime get, under this interpreter
env/<anything>.part         under way, or on its way out; never used
"""

import os
import platform
import sys
from hashlib import sha256
from typing import Any, Dict, List, Tuple

from edgec.targets.agent.folder import checked_name, digest_of, read_json

VARIABLE = "EDGEC_ENVIRONMENTS"
"""Tells the process of a network where the environments are."""
IMPORT_S = 120.0
"""Patience with a first import: nothing is compiled yet, and a card reader is slow."""
LISTING = "files.json"


def name_of(digests: List[str]) -> str:
    """The name of an environment of these wheels, in any order."""
    return sha256("\n".join(sorted(digests)).encode("ascii")).hexdigest()


def interpreter() -> Dict[str, Any]:
    """What decides which wheels this interpreter takes: `abi` is cp36m, cp311, cp313t; a 32-bit one may run on a 64-bit kernel."""
    abi = "cp%d%d%s" % (sys.version_info[0], sys.version_info[1], sys.abiflags)
    bits = 64 if sys.maxsize > 2**32 else 32
    return {"implementation": sys.implementation.name, "version": platform.python_version(), "abi": abi, "bits": bits}


def variables(machine: str, python: Tuple[int, ...]) -> Dict[str, str]:
    """What a process needs to import NumPy here: 1.19.5, the last for Python 3.6 and the first that ONNX Runtime 1.10 takes, mistakes a
    Jetson's processor and ends by an illegal instruction unless it is told (numpy/numpy#18131).
    """
    needed = machine == "aarch64" and python < (3, 7) and "OPENBLAS_CORETYPE" not in os.environ
    return {"OPENBLAS_CORETYPE": "ARMV8"} if needed else {}


def paths_with(site: str) -> List[str]:
    """sys.path with an environment before all other packages, but behind the standard library."""
    if not site:
        return list(sys.path)
    others = ("site-packages", "dist-packages")
    at = next((i for i, path in enumerate(sys.path) if os.path.basename(path) in others), len(sys.path))
    return [*sys.path[:at], site, *sys.path[at:]]


def use(runtime: str) -> None:
    """Give this process the environment of a runtime, where there is one."""
    place = os.environ.get(VARIABLE)
    if place:
        sys.path[:] = paths_with(Environments(place).site(runtime))


class Environments:
    """The environments below `path`, as seen by this interpreter."""

    def __init__(self, path: str) -> None:
        self.path = path

    def current(self, runtime: str) -> str:
        """Name of the environment that networks of this runtime get; empty for none."""
        try:
            name = os.readlink(self.link(runtime))
        except OSError:
            return ""
        return name if os.path.isfile(os.path.join(self.path, name, LISTING)) else ""

    def site(self, runtime: str) -> str:
        """Folder of its packages; empty where there is none."""
        name = self.current(runtime)
        return os.path.join(self.path, name, "site") if name else ""

    def is_whole(self, name: str) -> bool:
        """Whether each file of an environment is there and is what was unpacked."""
        try:
            listing = read_json(os.path.join(self.path, name, LISTING))
        except ValueError:
            return False
        if not isinstance(listing, dict):
            return False
        for relative, said in listing.items():
            path = os.path.join(self.path, name, "site", relative)
            if not os.path.isfile(path) or said != [os.path.getsize(path), digest_of(path)]:
                return False
        return True

    def link(self, runtime: str) -> str:
        """The link of a runtime, there or not."""
        here = interpreter()
        return os.path.join(self.path, "%s-%s-%d" % (checked_name(runtime, "runtime"), here["abi"], here["bits"]))
