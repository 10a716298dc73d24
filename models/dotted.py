"""Finds what "package.module:callable" names. Nothing is evaluated: a module is imported and attributes are read."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from edgec.pipeline.core.errors import ModelError


def callable_from(path: str, what: str) -> Callable[..., Any]:
    """The callable that `path` ("package.module:callable") names; `what` says what it is for ("the network", "the data set").

    Raises:
        ModelError: the text has another form, the module or the attribute does not exist, or it cannot be called.
    """
    context = {"path": path}
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise ModelError(
            f'{what} is given as {path!r}, not as "package.module:callable"', hint='e.g. "mynets.small:build"', context=context
        )
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"{what}: module {module_name!r} cannot be imported: {error}",
            hint="is its package installed here, or its folder on PYTHONPATH?",
            context=context,
        ) from error
    except Exception as error:
        raise ModelError(
            f"{what}: module {module_name!r} fails with {type(error).__name__}: {error}", hint="the fault is in that file", context=context
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            known = ", ".join(sorted(n for n, v in vars(found).items() if callable(v) and not n.startswith("_"))[:8])
            raise ModelError(f"{what}: {module_name!r} has no {attribute!r}", hint=f"it has: {known}" if known else "", context=context)
        found = getattr(found, name)
    if not callable(found):
        raise ModelError(f"{what}: {path!r} is a {type(found).__name__} and cannot be called", context=context)
    result: Callable[..., Any] = found
    return result


def called(path: str, arguments: Mapping[str, Any], what: str) -> Any:
    """What the callable returns for these arguments.

    Raises:
        ModelError: see `callable_from`; or the arguments do not fit, or the callable itself failed.
    """
    function = callable_from(path, what)
    context = {"path": path, "arguments": dict(arguments)}
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(f"{what}: {path} does not take these arguments: {error}", hint=f"it takes {signature}", context=context) from error
    try:
        return function(**arguments)
    except Exception as error:
        raise ModelError(
            f"{what}: {path} failed with {type(error).__name__}: {error}", hint="the fault is in that function", context=context
        ) from error
