"""One conversation with an agent: a request at a time, each with a deadline, and who is in charge of the target.

A conversation that missed an answer is over: its agent is stopped and every later call says so.
"""

import posixpath
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from edgec.pipeline.core import errors
from edgec.pipeline.core.protocols import Channel, Events, Transport
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets import answers
from edgec.targets.agent.wire import encode
from edgec.targets.libraries import remedy
from edgec.targets.owner import is_gone, me
from edgec.targets.replies import Holder

BEAT_S = 20.0
"""The agent ends itself after 120 s without a word: a cut link must not hold the target's lock."""
MARGIN_S = 15.0
"""Added to the agent's own deadlines, so that its explanation arrives before ours."""

FAULTS: dict[str, tuple[type[errors.EdgecError], str]] = {
    "DeviceFull": (errors.DeviceFull, "free some space there, or keep fewer releases (`keep`)"),
    "DeviceReadOnly": (errors.DeviceReadOnly, "remount it writable, or name another `folder` of the target"),
    "DeviceBusy": (errors.DeviceBusy, "wait until that session ends, or end it with --take-over"),
    "SignatureRejected": (
        errors.SignatureRejected,
        "name the `signing_key` in deploy.toml, and have the target trust it: edgec keys trust --target NAME",
    ),
    "HealthCheckFailed": (errors.HealthCheckFailed, "see the cause in the context; the release lies on the target, not active"),
    "GoldenCheckFailed": (errors.GoldenCheckFailed, ""),
    "CommandFailed": (errors.CommandFailed, ""),
    "DigestMismatch": (errors.DigestMismatch, "run the command again: damaged files have been removed and are sent anew"),
    "RunnerDied": (errors.RunnerDied, "see the last lines of its stderr in the context; a smaller batch or network may fit"),
    "ProtocolViolation": (errors.ProtocolViolation, ""),
    "ModelError": (errors.ModelError, "check the file, its inputs, and the runtime's version on the target"),
    "ToolchainMissing": (errors.ToolchainMissing, "install it for that interpreter, or name another one as `python` of the target"),
    "LoweringError": (errors.LoweringError, "the layer and the remedy are in the message; see the log in the context"),
    "DeadlineExceeded": (errors.DeadlineExceeded, "allow more time, or a smaller network"),
    "MeasurementError": (errors.MeasurementError, ""),
    "TargetError": (errors.TargetError, ""),
    "AgentError": (errors.AgentError, ""),
}
"""What an agent may report, as ours. A device cannot name any other class."""


class Conversation:
    """What every operation of `session.AgentSession` stands on. Its errors: see there."""

    def __init__(self, settings: TargetSettings, transport: Transport, channel: Channel, folder: str, events: Events | None) -> None:
        self.target = settings.name
        self.folder = folder
        self._settings = settings
        self._transport = transport
        self._channel = channel
        self._events = events
        self._number = 0
        self._over = ""
        self._locked = False
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lock(self, owner: str = "", *, take_over: bool = False) -> None:
        """Take charge of the target until the session ends. Operations that need it do so themselves under this user's name.

        Raises:
            DeviceBusy: somebody else is in charge, with name and age. `take_over` ends that session instead; one whose host is provably
                gone is ended in any case.
        """
        if self._locked:
            return
        try:
            self._call("lock", owner=owner or me(), by_force=take_over)
        except errors.DeviceBusy as busy:
            if not is_gone(busy.context.get("owner")):
                raise
            self._call("lock", owner=owner or me(), by_force=True)
        self._locked = True

    def holder(self) -> Holder | None:
        """Who is in charge of the target; None when nobody is."""
        said = self._field(dict[str, Any] | None, self._call("holder"), "holder")
        return None if said is None else answers.record(Holder, said, self.target)

    def close(self) -> None:
        """Stop the agent; may be called twice."""
        self._end("the session is closed")

    def _end(self, why: str) -> None:
        self._over = self._over or why
        self._closing.set()
        self._channel.close()

    def _beat(self) -> None:
        while not self._closing.wait(BEAT_S):
            try:
                with self._sending:
                    self._channel.send(encode({"op": "beat"}))
            except errors.TargetError:
                return  # the next call, or the one that waits, finds out and says so

    def _call(
        self, op: str, *, event: Callable[[dict[str, Any]], None] | None = None, more_s: float = 0.0, **request: Any
    ) -> dict[str, Any]:
        """Ask and wait; every event of the answer starts the waiting anew."""
        if self._over:
            raise errors.AgentDied(f"the session with {self.target} is over: {self._over}", context={"target": self.target, "op": op})
        self._number += 1
        try:
            answer = self._answer({**request, "id": self._number, "op": op}, event, self._settings.request_timeout_s + more_s)
        except (errors.EdgecError, KeyboardInterrupt) as error:
            self._end(str(error) or "interrupted")
            raise
        if "ok" not in answer:
            raise self._fault(answer.get("error"), op)
        said: dict[str, Any] = self._field(dict[str, Any], answer, "ok")
        return said

    def _answer(self, request: dict[str, Any], event: Callable[[dict[str, Any]], None] | None, patience_s: float) -> dict[str, Any]:
        """The line that ends the answer to a request."""
        with self._sending:
            self._channel.send(encode(request))
        while True:
            answer = answers.message(self._channel.receive(deadline=time.monotonic() + patience_s), self.target)
            if answer.get("id") != request["id"]:
                raise errors.ProtocolViolation(f"{self.target} answered something else than was asked", context={"op": request["op"]})
            if "event" not in answer:
                return answer
            if event is not None:
                event(self._field(dict[str, Any], answer, "event"))

    def _fault(self, said: Any, op: str) -> errors.EdgecError:
        """The agent's error as ours."""
        if not isinstance(said, dict) or not isinstance(said.get("what"), str):
            return errors.ProtocolViolation(f"{self.target} sent an error without content", context={"op": op})
        kind, hint = FAULTS.get(str(said.get("type")), (errors.AgentError, ""))
        context = said["context"] if isinstance(said.get("context"), dict) else {}
        if "problems" in context:  # the command line prints this one line by line
            problems = context["problems"]
            context["problems"] = [str(each) for each in problems] if isinstance(problems, list) else [str(problems)]
        if kind is errors.ToolchainMissing:
            hint = remedy(said["what"], self.target) or hint
        return kind(f"{self.target}: {said['what']}", hint=hint, context={**context, "target": self.target, "op": op})

    def _inside(self, said: Mapping[str, Any]) -> str:
        """The path of an answer, which has to lie in edgec's folder on the target."""
        path: str = self._field(str, said, "path")
        if posixpath.normpath(path) != path or not path.startswith(self.folder + "/"):
            raise errors.ProtocolViolation(f"{self.target} names a path outside edgec's folder: {path}", context={"target": self.target})
        return path

    def _field(self, kind: Any, said: Mapping[str, Any], name: str) -> Any:
        return answers.field(kind, said, name, self.target)
