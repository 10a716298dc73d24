"""Where a command's result goes: stdout, as text or as exactly one JSON document; files, whole or not at all."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from edgec.pipeline.core.errors import ConfigError, EdgecError
from edgec.pipeline.core.files import replacing

SCHEMA = 1
"""Of the JSON document."""


class Output:
    """The process's stdout. With `as_json`, everything that anyone else writes there (a library, a child) goes to stderr instead."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        try:
            self._fd = os.dup(1)
            if as_json:
                sys.stdout.flush()
                os.dup2(2, 1)
        except OSError as error:
            raise ConfigError(f"stdout cannot be used: {error.strerror}", hint="do not close it") from error

    def results(self, command: str, exit_code: int, results: Mapping[str, Any], text: str | bytes) -> None:
        """Print a command's results; a reader that has gone away is not an error."""
        if self._as_json:
            self._write(document(command, exit_code, results=results))
        elif text:
            raw = text.encode() if isinstance(text, str) else text
            self._write(raw if raw.endswith(b"\n") else raw + b"\n")

    def error(self, command: str, exit_code: int, error: EdgecError, *, kind: str = "") -> None:
        """Say what failed: for a person on stderr, and as the document."""
        with contextlib.suppress(OSError):  # without a stderr the document and the exit code remain
            print(spoken(error), file=sys.stderr, flush=True)  # noqa: T201
        if self._as_json:
            self._write(document(command, exit_code, error=error_as_json(error, kind)))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            pass
        except OSError as error:
            raise ConfigError(f"stdout cannot be written: {error.strerror}", hint="free some space, or send it elsewhere") from error


def error_as_json(error: EdgecError, kind: str = "") -> dict[str, Any]:
    """{type, what, hint, context}; `kind` names what came from outside our error tree."""
    return {"type": kind or type(error).__name__, "what": error.what, "hint": error.hint, "context": error.context}


def document(command: str, exit_code: int, **body: Any) -> bytes:
    """The one JSON document: `body` is either results or error."""
    whole = {"schema": SCHEMA, "command": command, "exit_code": exit_code, **body}
    return json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False, default=_plain).encode() + b"\n"


def spoken(error: EdgecError) -> str:
    """error: what / key  value / hint  …, without control characters that a board may have sent."""
    problems = [str(each) for each in error.context.get("problems", ()) if str(each) != error.what]  # type: ignore[attr-defined]
    facts = {key: value for key, value in error.context.items() if key != "problems" and value not in ("", None) and not _nested(value)}
    width = max(map(len, [*facts, "hint"]))
    lines = [f"error: {error.what}", *(f"  {each}" for each in problems)]
    lines += [f"  {key:<{width}}  {str(value).rstrip().replace(chr(10), chr(10) + ' ' * (width + 4))}" for key, value in facts.items()]
    if error.hint:
        lines.append(f"  {'hint':<{width}}  {error.hint}")
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in "\n".join(lines))


def _nested(value: object) -> bool:
    """A mapping, or a list of them: for the document, not for a line of text."""
    return isinstance(value, Mapping) or (isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value))


def _plain(value: object) -> object:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


@contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when the block ends well. A wrong path fails at once, before the work.

    A device or pipe that is there already (/dev/null) is written directly.

    Raises:
        ConfigError: nothing can be written there. StoreError: the disk is full.
    """
    path = path.resolve()
    if path.exists() and not path.is_file() and not path.is_dir():
        try:
            device = path.open("wb")
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}", hint="check its permissions") from error
        with device:
            yield device
        return
    with replacing(path) as draft, draft.open("wb") as file:
        yield file
