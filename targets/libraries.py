"""A system library that a runtime needs and a board lacks: its name from the loader's message, and the package that has it.

The message is that of glibc's ld.so (elf/dl-load.c: "NAME: cannot open shared object file: No such file or directory"), as Python passes it
on in an ImportError. edgec never installs system packages: it names them.
"""

import re

MISSING = re.compile(r"(?<![\w./+-])([A-Za-z0-9_+][A-Za-z0-9_.+-]*\.so(?:\.[0-9]+)*): cannot open shared object file: No such file")
"""Only characters that names of libraries have: what a board says is shown beside a command."""

PACKAGES = {
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libSM.so.6": "libsm6",
    "libXext.so.6": "libxext6",
    "libatomic.so.1": "libatomic1",
    "libblas.so.3": "libblas3",
    "libcblas.so.3": "libatlas3-base",
    "libf77blas.so.3": "libatlas3-base",
    "libgcc_s.so.1": "libgcc-s1",
    "libgfortran.so.5": "libgfortran5",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libgomp.so.1": "libgomp1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "liblapack.so.3": "liblapack3",
    "libnuma.so.1": "libnuma1",
    "libopenblas.so.0": "libopenblas0",
    "libstdc++.so.6": "libstdc++6",
    "libusb-1.0.so.0": "libusb-1.0-0",
}
"""Library to the package of Debian 12 and of what comes from Debian (Raspberry Pi OS, Ubuntu, JetPack); packages.debian.org, by content."""


def missing_library(message: str) -> str:
    """The first library that a message says is missing; empty when it says no such thing."""
    found = MISSING.search(message)
    return "" if found is None else found.group(1)


def remedy(message: str, target: str) -> str:
    """What to do about it on the target; empty when no library is missing."""
    library = missing_library(message)
    if not library:
        return ""
    package = PACKAGES.get(library)
    if package is None:
        return f"{target} lacks the system library {library}: install the package that has it; `apt-file search {library}` names it"
    return f"{target} lacks the system library {library}: sudo apt install {package} there (Debian's name of the package)"
