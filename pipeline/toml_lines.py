"""On which line of a TOML text each key stands: tomllib gives values only, and a good message names the line."""

import re
import tomllib
from collections import Counter
from typing import Any

KeyPath = tuple[str | int, ...]
"""Keys from the top; an element of an array of tables is its index: ("target", 0, "name")."""

_PART = r"(?:[A-Za-z0-9_-]+|\"(?:[^\"\\]|\\.)*\"|'[^']*')"
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEY})\s*\]")
_PAIR = re.compile(rf"\s*({_KEY})\s*=")
_TOKEN = re.compile(r"\"\"\"|'''|\"(?:[^\"\\]|\\.)*\"|'[^']*'|#.*|[\[\]{}]")
_CLOSING = {'"""': re.compile(r'(?:\\.|[^\\])*?"""'), "'''": re.compile(r".*?'''")}


def lines_from(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of each table header and key of a valid TOML text. Keys inside a value share its line: see `line_of`."""
    found: dict[KeyPath, int] = {}
    arrays: Counter[KeyPath] = Counter()
    table: KeyPath = ()
    quote, depth = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        start = 0
        if not quote and depth == 0:
            if header := _HEADER.match(line):
                table = _resolved(_parts(header[2]), arrays, is_array=header[1] == "[[")
                found.setdefault(table, number)
                continue
            pair = _PAIR.match(line)
            if pair is None:
                continue
            found.setdefault((*table, *_parts(pair[1])), number)
            start = pair.end()
        quote, depth = _after(line[start:], quote, depth)
    return found


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    """The line of a key, or of the nearest thing around it that has one (a table's header, an inline table's own key)."""
    return next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)


def _parts(dotted: str) -> tuple[str, ...]:
    """The parts of a dotted key, unquoted by tomllib itself."""
    parts = []
    node: Any = tomllib.loads(f"{dotted} = 0")
    while isinstance(node, dict):
        (key, node), *_ = node.items()
        parts.append(key)
    return tuple(parts)


def _resolved(parts: tuple[str, ...], arrays: Counter[KeyPath], *, is_array: bool) -> KeyPath:
    """A header's path with the index of the latest element after each name that is an array of tables."""
    path: KeyPath = ()
    for n, part in enumerate(parts):
        path = (*path, part)
        if is_array and n == len(parts) - 1:
            arrays[path] += 1
        if path in arrays:
            path = (*path, arrays[path] - 1)
    return path


def _after(rest: str, quote: str, depth: int) -> tuple[str, int]:
    """The open multi-line quote and the bracket depth after a piece of a value."""
    position = 0
    while True:
        if quote:
            closing = _CLOSING[quote].match(rest, position)
            if closing is None:
                return quote, depth
            quote, position = "", closing.end()
        token = _TOKEN.search(rest, position)
        if token is None:
            return quote, depth
        position = token.end()
        match token[0]:
            case '"""' | "'''":
                quote = token[0]
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
