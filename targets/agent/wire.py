"""The agent's protocol: one JSON object a line, at most 8 MiB, on the agent's standard streams. Used on both ends.

    host   {"id": 3, "op": "have", "digests": ["…"]}
    agent  {"id": 3, "event": {…}}                                          none or more, while it works
    agent  {"id": 3, "ok": {…}}                                             or
    agent  {"id": 3, "error": {"type": "DeviceFull", "what": "…", "context": {…}}}

The agent speaks first: one line `MARKER {"protocol": 1, …}`, so that whatever a login shell prints before it is skipped. A request
without an answer is `{"op": "beat"}`: it only says that the host is still there. Tensors never travel here, only names of files.
"""

import json
import math
from typing import Any, Dict, List, Optional

PROTOCOL = 1
MARKER = b"EDGEC-AGENT "
MAX_LINE = 8 * 1024 * 1024
"""Bytes of the longest line, newline not counted, in both directions."""


class Failure(Exception):
    """An expected fault of the device: `type` is the name of a class of `edgec.pipeline.core.errors`."""

    def __init__(self, type_: str, what: str, **context: Any) -> None:
        Exception.__init__(self, what)
        self.type = type_
        self.what = what
        self.context: Dict[str, Any] = context

    def reply(self) -> Dict[str, Any]:
        """The `error` object of an answer."""
        return {"type": self.type, "what": self.what, "context": self.context}


class Lines:
    """Cuts a stream of bytes into lines without their newline; a line that is too long comes out as None, once, at its end."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> List[Optional[bytes]]:
        """The lines that `data` completes."""
        lines: List[Optional[bytes]] = []
        pieces = data.split(b"\n")
        for i, piece in enumerate(pieces):
            if not self._skipping:
                self._buffer += piece
                if len(self._buffer) > self.limit:
                    self._skipping = True
                    self._buffer = bytearray()
            if i < len(pieces) - 1:
                lines.append(None if self._skipping else bytes(self._buffer))
                self._skipping = False
                self._buffer = bytearray()
        return lines


def encode(message: Dict[str, Any]) -> bytes:
    """A message as its line, newline included.

    Raises:
        Failure: ProtocolViolation, when it is longer than a line may be.
        ValueError: a number that is not finite.
    """
    line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii")
    if len(line) > MAX_LINE:
        raise Failure("ProtocolViolation", "a message of %d bytes is longer than the limit" % len(line), limit=MAX_LINE)
    return line + b"\n"


def decode(line: Optional[bytes]) -> Dict[str, Any]:
    """The object in a line.

    Raises:
        Failure: ProtocolViolation, for a line that was too long (None), is not JSON, or is not an object.
    """
    if line is None:
        raise Failure("ProtocolViolation", "a line is longer than the limit", limit=MAX_LINE)
    try:
        message = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Failure("ProtocolViolation", "a line is not JSON: %s" % str(error)[:200]) from error
    if not isinstance(message, dict):
        raise Failure("ProtocolViolation", "a line is not a JSON object")
    return message


class Fields:
    """The fields of a request, read by name and type. Every fault is a Failure of type ProtocolViolation."""

    def __init__(self, request: Dict[str, Any]) -> None:
        self._request = request

    def _get(self, name: str, default: Any) -> Any:
        value = self._request.get(name, default)
        if value is None:
            raise Failure("ProtocolViolation", "the request has no %r" % name)
        return value

    def text(self, name: str, default: Optional[str] = None) -> str:
        """A string without control characters, at most 4096 long."""
        value = self._get(name, default)
        if not isinstance(value, str) or len(value) > 4096 or any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in value):
            raise Failure("ProtocolViolation", "%r is not a short text" % name)
        return value

    def whole(self, name: str, default: Optional[int] = None, low: int = 0, high: int = 2**62) -> int:
        """A whole number in a range."""
        value = self._get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Failure("ProtocolViolation", "%r is not a whole number between %d and %d" % (name, low, high))
        return value

    def number(self, name: str, default: Optional[float] = None, low: float = 0.0, high: float = 1e9) -> float:
        """A finite number in a range."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or not math.isfinite(value):
            raise Failure("ProtocolViolation", "%r is not a number between %g and %g" % (name, low, high))
        return float(value)

    def flag(self, name: str) -> bool:
        """True or false; false when it is not there."""
        value = self._get(name, False)
        if not isinstance(value, bool):
            raise Failure("ProtocolViolation", "%r is not true or false" % name)
        return value

    def texts(self, name: str) -> List[str]:
        """An array of texts as `text` reads them; empty when it is not there."""
        value = self._get(name, [])
        if not isinstance(value, list) or len(value) > 1000:
            raise Failure("ProtocolViolation", "%r is not an array of texts" % name)
        return [Fields({name: each}).text(name) for each in value]

    def object(self, name: str) -> Dict[str, Any]:
        """A JSON object."""
        value = self._get(name, None)
        if not isinstance(value, dict):
            raise Failure("ProtocolViolation", "%r is not an object" % name)
        return value

    def optional_object(self, name: str) -> Optional[Dict[str, Any]]:
        """A JSON object, or None when there is none."""
        return None if self._request.get(name) is None else self.object(name)

    def array(self, name: str) -> List[Any]:
        """A JSON array."""
        value = self._get(name, None)
        if not isinstance(value, list):
            raise Failure("ProtocolViolation", "%r is not an array" % name)
        return value
