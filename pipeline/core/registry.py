"""Finds backends, runners and meters by file name, without importing them."""

import importlib
import pkgutil
from typing import Any

from edgec.pipeline.core.errors import ConfigError


def names(package: str) -> list[str]:
    """Module names in a package, sorted."""
    module = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_"))


def backend(name: str) -> Any:
    """The backend of that name.

    Raises:
        ConfigError: there is none.
    """
    known = names("edgec.pipeline.backends")
    if name not in known:
        raise ConfigError(f"there is no backend {name!r}", hint=f"known backends: {', '.join(known)}")
    return importlib.import_module(f"edgec.pipeline.backends.{name}").BACKEND
