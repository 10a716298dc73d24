"""The agent as a bare child process, spoken to line by line."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from edgec.targets.agent import bundle
from edgec.targets.agent.wire import MARKER


class RawAgent:
    """The bundle under an interpreter, with a folder of its own."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name, data = bundle.build()
        file = folder.parent / name
        file.write_bytes(data)
        self.folder = folder
        self.process = subprocess.Popen(
            [python, str(file), "--folder", str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.hello: dict[str, Any] = json.loads(self._line().partition(MARKER)[2])
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the agent has ended"
        return line

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def read(self) -> dict[str, Any]:
        """The next answer."""
        return dict(json.loads(self._line()))

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The last line of the answer to a request."""
        self._number += 1
        self.write(json.dumps({"id": self._number, "op": op, **fields}).encode() + b"\n")
        while "event" in (answer := self.read()):
            pass
        assert answer["id"] == self._number
        return answer

    def ok(self, op: str, **fields: Any) -> dict[str, Any]:
        answer = self.ask(op, **fields)
        assert "ok" in answer, answer
        return dict(answer["ok"])

    def refused(self, op: str, **fields: Any) -> str:
        """The type of the error."""
        answer = self.ask(op, **fields)
        assert "error" in answer, answer
        return str(answer["error"]["type"])

    def upload(self, data: bytes) -> str:
        """Reserve, write, commit; the digest."""
        import hashlib

        digest = hashlib.sha256(data).hexdigest()
        place = self.ok("reserve", digest=digest, size=len(data))
        Path(place["path"]).write_bytes(data)
        self.ok("commit", digest=digest, size=len(data))
        return digest
