"""Shared by all tests: one torch thread, no user configuration, no colour."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Before anything is imported: the same threads and no user environment for every test and its children."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with it ignored, and so would every child
    os.environ["NO_COLOR"] = "1"
    for name in [n for n in os.environ if n.startswith("EDGEC_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder that is the current one during the test."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)
