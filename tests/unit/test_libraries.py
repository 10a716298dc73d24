"""Which system library a board lacks, from messages as owners have published them."""

import ctypes

import pytest

from edgec.targets.libraries import PACKAGES, missing_library, remedy

NUMPY = """
IMPORTANT: PLEASE READ THIS FOR ADVICE ON HOW TO SOLVE THIS ISSUE!

Please carefully study the information and documentation linked above.
This is unlikely to be a NumPy issue but will be caused by a bad install
or environment on your machine.

Original error was: libopenblas.so.0: cannot open shared object file: No such file or directory
"""
"""pimoroni/pirate-audio#120: NumPy 2 on Raspberry Pi OS bookworm, 32-bit, Pi Zero W; shortened."""


@pytest.mark.parametrize(
    ("message", "library", "package"),
    [
        (NUMPY, "libopenblas.so.0", "libopenblas0"),
        # nknytk/built-onnxruntime-for-raspberrypi-linux#4: NumPy on a fresh Raspbian
        ("ImportError: libcblas.so.3: cannot open shared object file: No such file or directory", "libcblas.so.3", "libatlas3-base"),
        # numpy/numpy#14741: on a Raspberry Pi
        (
            "Original error was: libf77blas.so.3: cannot open shared object file: No such file or directory",
            "libf77blas.so.3",
            "libatlas3-base",
        ),
        # recorded with ld.so of glibc 2.36 by way of ctypes
        ("libgfortran.so.5: cannot open shared object file: No such file or directory", "libgfortran.so.5", "libgfortran5"),
        # what the agent makes of such a line
        (
            "onnxruntime cannot be imported here: ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
            "libGL.so.1",
            "libgl1",
        ),
    ],
)
def test_a_library_is_found_in_the_message_and_its_package_in_the_table(message: str, library: str, package: str) -> None:
    assert missing_library(message) == library
    assert f"lacks the system library {library}: sudo apt install {package} " in remedy(message, "pi")


def test_an_unknown_library_is_named_with_a_way_to_its_package() -> None:
    message = "ImportError: libhdfs.so: cannot open shared object file: No such file or directory"  # EdjeElectronics/…-Raspberry-Pi#78
    assert remedy(message, "pi").endswith("install the package that has it; `apt-file search libhdfs.so` names it")


@pytest.mark.parametrize(
    "message",
    [
        "",
        "ModuleNotFoundError: No module named 'numpy'",
        "ImportError: /usr/lib/x.so: undefined symbol: __atomic_load_8",
        "ImportError: /opt/lib/libx.so.1: cannot open shared object file: No such file or directory",  # a path: not the search for a name
        "ImportError: $(reboot).so.1: cannot open shared object file: No such file or directory",
        "ImportError: -x`id`.so: cannot open shared object file: No such file or directory",
    ],
)
def test_anything_else_names_none(message: str) -> None:
    assert missing_library(message) == ""
    assert remedy(message, "pi") == ""


def test_the_loader_of_this_machine_speaks_so() -> None:
    with pytest.raises(OSError, match="cannot open") as caught:
        ctypes.CDLL("libedgec-is-not-there.so.7")
    assert missing_library(str(caught.value)) == "libedgec-is-not-there.so.7"


def test_libraries_are_sonames() -> None:
    assert all(missing_library(f"{name}: cannot open shared object file: No such file") == name for name in PACKAGES)
