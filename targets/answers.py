"""What an agent says, checked before anything believes it. A device may be broken, or somebody else's: whatever does not have exactly the
types asked for is a `ProtocolViolation`, and no character of it can steer a terminal.
"""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from edgec.pipeline.core.codec import adapter
from edgec.pipeline.core.errors import ProtocolViolation
from edgec.targets.agent.wire import Failure, decode

STEERING = ("Cc", "Cf", "Cs")
"""Unicode categories of characters that are not shown but act (escape sequences, text direction), and of halves of characters."""

R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """An event of a profile: some blocks of one network."""

    index: int
    blocks: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """An event of a profile: some times of one network's warm-up."""

    index: int
    times: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The fields of `replies.ProfiledNetwork` but for the times."""

    label: str
    load_s: float
    first_s: float
    stopped_by: str
    runtime_version: str
    rss_before_bytes: int | None
    rss_peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """An event of an evaluation: images done, of all."""

    done: int
    total: int


def message(line: bytes, target: str) -> dict[str, Any]:
    """The object in a line, with the strings of its errors on several lines and all others on one."""
    context = {"target": target, "line": line[:200].decode(errors="replace")}
    try:
        said = decode(line)
        return {key: _plain(value, "\n\t" if key == "error" else "") for key, value in said.items()}
    except Failure as failure:
        raise ProtocolViolation(f"{target}: {failure.what}", context=context) from failure
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"{target} sent what no answer holds: {error}", context=context) from error


def _plain(value: Any, keep: str) -> Any:
    """A JSON value with U+FFFD for each character that steers. Raises ValueError for a number that is not finite or beyond 64 bits."""
    if isinstance(value, str):
        return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in STEERING and c not in keep else c for c in value)
    if isinstance(value, list):
        return [_plain(each, keep) for each in value]
    if isinstance(value, dict):
        return {_plain(key, ""): _plain(each, keep) for key, each in value.items()}
    if (isinstance(value, int) and abs(value) >= 2**63) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("a number that is not finite, or beyond 64 bits")
    return value


def record(cls: type[R], said: object, target: str) -> R:
    """A record of an answer's fields, which have to be exactly its own and of its types."""
    names = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(said, Mapping):
        raise ProtocolViolation(f"{target} answered with no {cls.__name__}", context={"target": target})
    if set(said) != names:
        odd = ", ".join(sorted(set(said) ^ names))
        raise ProtocolViolation(f"{target} answered with other fields than {cls.__name__} has: {odd}", context={"target": target})
    checked: R = _checked(cls, said, cls.__name__, target)
    return checked


def field(kind: Any, said: Mapping[str, Any], name: str, target: str) -> Any:
    """One field of an answer, of type `kind`."""
    if name not in said:
        raise ProtocolViolation(f"{target} answered without {name}", context={"target": target})
    return _checked(kind, said[name], name, target)


def _checked(kind: Any, said: object, name: str, target: str) -> Any:
    from pydantic import ValidationError

    try:
        return adapter(kind).validate_json(json.dumps(said), strict=True)  # as JSON: only there a list is a strict tuple
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in (name, *first["loc"]))
        raise ProtocolViolation(f"{target} answered with a wrong {where}: {first['msg']}", context={"target": target}) from error
