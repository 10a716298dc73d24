"""Which board this is: asks each family of `targets/boards/`."""

import importlib
import pkgutil
import platform
from typing import List, Optional, Tuple

from edgec.targets.boards import Board, Device, Family


def modules_in(package: str) -> List[str]:
    """Module names of a package, in a folder or in the agent's own zip file."""
    path = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if not module.name.startswith("_"))


def families() -> List[Family]:
    """All families, in the order of their file names."""
    return [importlib.import_module("edgec.targets.boards." + name).FAMILY for name in modules_in("edgec.targets.boards")]


def known(device: Device, machine: Optional[str] = None) -> Optional[Tuple[Family, Board]]:
    """The board and its family; None for a board of none. Families exclude each other: only a board's device tree has its maker's words."""
    for family in families():
        board = family.identify(device, machine or platform.machine())
        if board is not None:
            return family, board
    return None
