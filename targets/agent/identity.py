"""Which board this is: asks each family of `targets/boards/`."""

import importlib
import pkgutil
import platform
from typing import List, Optional

from edgec.targets.boards import Board, Device, Family


def modules_in(package: str) -> List[str]:
    """Module names of a package, in a folder or in the agent's own zip file."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def families() -> List[Family]:
    """All families, in the order of their file names."""
    return [importlib.import_module("edgec.targets.boards." + name).FAMILY for name in modules_in("edgec.targets.boards")]


def family_of(device: Device, machine: Optional[str] = None) -> Optional[Family]:
    """The family that knows this board."""
    return next((each for each in families() if each.identify(device, machine or platform.machine()) is not None), None)


def board_of(device: Device, machine: Optional[str] = None) -> Optional[Board]:
    """The board itself. Families exclude each other: a board's device tree has its maker's words, a host's has none."""
    family = family_of(device, machine)
    return None if family is None else family.identify(device, machine or platform.machine())
