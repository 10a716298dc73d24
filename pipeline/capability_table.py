"""The capability table `capability.toml` as frozen rows. Pure data: what follows from it stands in `capability.py`."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from edgec.pipeline.core.records import Precision

SCHEMA = 1
Version = tuple[int, ...]

R = TypeVar("R")


def version_of(text: str) -> Version:
    """Leading numbers of a version: "8.2.1.8" is (8, 2, 1, 8), "2.14.0 (tflite_runtime)" is (2, 14, 0); empty for none."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Highest opset and IR version that a runtime reads, from `since` on until the next row of its backend.

    From `until` on it is a lower bound: safe to write, no ground to refuse a file.
    """

    backend: str
    since: str
    until: str = ""
    opset: int
    ir: int | None = None
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """Newest version that can be installed for a machine, Python (first and last, both included) and glibc; "" for none."""

    backend: str
    package: str
    """As pip calls it: a backend may have several that serve."""
    machine: str
    python: tuple[str, str]
    glibc: str = ""
    version: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Has:
    """Precisions that exist in a backend; of one compute capability where that decides."""

    backend: str
    compute_capability: str = ""
    has: tuple[Precision, ...]
    reason: str = ""
    """Why the others do not."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Whether a precision is expected to pay on processors of some kind."""

    backend: str
    precision: Precision
    machines: tuple[str, ...]
    without: tuple[str, ...] = ()
    having: tuple[str, ...] = ()
    """`with` in the file."""
    runtime: str = ""
    pays: bool
    text: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operators:
    """Operators that a runtime has only from a version on."""

    backend: str
    names: tuple[str, ...]
    since: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardRow:
    """A board as it is sold."""

    id: str
    memory_gb: tuple[float, ...]
    accelerators: tuple[str, ...] = ()
    compute_capability: str = ""
    system: str
    tensorrt: str = ""
    """Version of the newest JetPack for it."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All rows, in the order of the file."""

    version: str
    limits: tuple[Limit, ...]
    wheels: tuple[Wheel, ...]
    precisions: tuple[Has, ...]
    expectations: tuple[Expectation, ...]
    operators: tuple[Operators, ...]
    boards: Mapping[str, BoardRow]


@cache
def table() -> Table:
    """The table that is part of this edgec.

    Raises:
        TypeError, ValueError: a row has a key or a value that it may not have (a test reads the whole table).
    """
    data = tomllib.loads(resources.files("edgec.pipeline").joinpath("capability.toml").read_text(encoding="utf-8"))
    if data["schema"] != SCHEMA:
        raise ValueError(f"capability.toml has schema {data['schema']}")
    return Table(
        version=data["version"],
        limits=_rows(Limit, data["limit"]),
        wheels=_rows(Wheel, data["wheel"]),
        precisions=tuple(_row(Has, row, has=tuple(map(Precision, row["has"]))) for row in data["precision"]),
        expectations=tuple(_row(Expectation, row, precision=Precision(row["precision"])) for row in data["expectation"]),
        operators=_rows(Operators, data["operator"]),
        boards={row["id"]: _row(BoardRow, row) for row in data["board"]},
    )


def _rows(cls: type[R], rows: list[dict[str, Any]]) -> tuple[R, ...]:
    return tuple(_row(cls, row) for row in rows)


def _row(cls: type[R], row: Mapping[str, Any], **read: Any) -> R:
    plain = {("having" if key == "with" else key): tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return cls(**(plain | read))
