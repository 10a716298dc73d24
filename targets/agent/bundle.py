"""Packs the device half into one zip application, named by its hash. Runs on the host; not part of what it packs.

Everything that could differ between hosts is fixed: order, times, permissions, and no compression (zlib's output depends on its version).
"""

import functools
import hashlib
import importlib.util
import io
import os
import zipfile
from typing import Dict, Tuple

PACKAGES = (
    "edgec.targets.agent",
    "edgec.targets.agent.builders",
    "edgec.targets.agent.runners",
    "edgec.targets.boards",
    "edgec.profilers.meters",
)
HOST_ONLY = ("edgec/targets/agent/bundle.py",)
MAIN = b"""import sys

from edgec.targets.agent.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def sources() -> Dict[str, bytes]:
    """Path in the zip to content."""
    found = {"__main__.py": MAIN}
    for package in PACKAGES:
        parts = package.split(".")
        for depth in range(1, len(parts)):
            found.setdefault("/".join(parts[:depth]) + "/__init__.py", b"")
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        folder = next(iter(spec.submodule_search_locations))
        for name in os.listdir(folder):
            path = "/".join(parts) + "/" + name
            if name.endswith(".py") and path not in HOST_ONLY:
                with open(os.path.join(folder, name), "rb") as file:
                    found[path] = file.read().replace(b"\r\n", b"\n")
    return found


@functools.lru_cache(maxsize=1)
def build() -> Tuple[str, bytes]:
    """(file name, bytes) of the agent; put together once in a process."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path, content in sorted(sources().items()):
            info = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, content)
    data = out.getvalue()
    return "edgec-agent-%s.pyz" % hashlib.sha256(data).hexdigest()[:16], data
