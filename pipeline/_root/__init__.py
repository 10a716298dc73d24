"""edgec: a trained network on a fleet of edge devices in one command.

The public names are loaded when they are first used: `import edgec` alone loads neither torch nor a runtime.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "AAP": "edgec.pipeline.compress.aap",
    "SQAKD": "edgec.pipeline.compress.sqakd",
}

__all__ = ["AAP", "SQAKD", "__version__"]


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'edgec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
