"""The host's side of the agent: open a session on a target, call with a deadline, stop surely.

A session that missed an answer is over: its agent is stopped and every later call says so. Arrays travel as files by digest.
"""

import hashlib
import posixpath
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from edgec.pipeline.core import errors
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Channel, Events, Transport
from edgec.pipeline.core.records import Conditions, Digest, StoppingRule, TargetFacts, WheelLock
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.targets import answers
from edgec.targets.agent.environment import IMPORT_S
from edgec.targets.agent.trust import Signature
from edgec.targets.agent.wire import encode
from edgec.targets.libraries import remedy
from edgec.targets.owner import is_gone, me
from edgec.targets.packing import packed
from edgec.targets.replies import (
    BuiltEngine,
    Contents,
    DeviceFingerprint,
    EngineJob,
    EnvironmentThere,
    GoldenBounds,
    GoldenCheck,
    Holder,
    MeterTrace,
    NetworkJob,
    Outputs,
    PreparedEnvironment,
    ProfiledNetwork,
    ProfileRun,
    StagedRelease,
)
from edgec.targets.starting import start_agent, transport_to

UNPACKED_BYTES = 500_000_000
"""Of the largest private environment: TensorFlow's. Checking one takes a target that long."""
BEAT_S = 20.0
"""The agent ends itself after 120 s without a word: a cut link must not hold the target's lock."""
MARGIN_S = 15.0
"""Added to the agent's own deadlines, so that its explanation arrives before ours."""
SLOWEST_DISK = 2e6
"""Bytes per second that a target hashes and writes at least (old SD cards): lengthens the deadline for large files."""

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

Progress = Callable[[int, int], None]


@contextmanager
def open_session(settings: TargetSettings, *, events: Events | None = None) -> Iterator["AgentSession"]:
    """Connect, bring the agent there if it is missing, start it; leaving stops it.

    Raises:
        TargetError of every kind; see `core/errors.py`.
    """
    with ExitStack() as stack:
        transport = transport_to(settings)
        stack.callback(transport.close)
        transport.connect()
        channel, folder = start_agent(transport, settings, events)
        session = AgentSession(settings, transport, channel, folder, events)
        stack.callback(session.close)
        yield session


class AgentSession:
    """One agent, running. Not for use from several threads.

    Every method raises TargetError of the fitting kind; `DeadlineExceeded` and `AgentDied` end the session.
    """

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

    def facts(self) -> TargetFacts:
        """What the target is."""
        return answers.record(TargetFacts, self._call("facts"), self.target)

    def conditions(self) -> Conditions:
        """In which state the target is now."""
        return answers.record(Conditions, self._call("conditions"), self.target)

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

    def trusted(self) -> tuple[str, ...] | None:
        """Fingerprints of the keys whose releases the target takes; None when it asks for no signatures."""
        keys: tuple[str, ...] | None = self._field(tuple[str, ...] | None, self._call("trusted"), "trusted")
        return keys

    def trust(self, lines: Sequence[str], *, only: bool = False) -> tuple[str, ...]:
        """Have the target trust public keys, beside those it trusts or (`only`) instead; the fingerprints that it trusts now."""
        self.lock()
        keys: tuple[str, ...] = self._field(
            tuple[str, ...], self._call("trust", keys=[line.strip() for line in lines], only=only), "trusted"
        )
        return keys

    def missing(self, digests: Sequence[Digest]) -> tuple[Digest, ...]:
        """Those whose files are not on the target, or are damaged there."""
        self.lock()
        absent: tuple[str, ...] = self._field(tuple[str, ...], self._call("have", digests=list(digests)), "missing")
        if not set(absent) <= set(digests):
            raise errors.ProtocolViolation(f"{self.target} misses files that nobody spoke of", context={"target": self.target})
        return absent

    def ship(self, files: Mapping[Digest, Path], progress: Progress | None = None) -> int:
        """Bring files that are missing there, compressed where that pays; an interrupted upload goes on where it stopped.

        Returns the number of bytes sent. `progress` is called with the bytes done and in all.

        Raises:
            DeviceFull before anything is sent, DigestMismatch, and what the transport raises.
        """
        absent = self.missing(list(files))
        sizes = {digest: files[digest].stat().st_size for digest in absent}
        total, done, sent = sum(sizes.values()), 0, 0
        for digest in absent:

            def tell(part: int, of: int, before: int = done, size: int = sizes[digest]) -> None:
                if progress is not None:
                    progress(before + part * size // max(1, of), total)

            self._call("reserve", digest=digest, size=sizes[digest], total=total - done)  # refused before time goes into compression
            with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
                small = packed(files[digest], Path(folder)) if self._settings.transport is TransportKind.SSH else None
                sent += self._ship_one(digest, files[digest], small, total - done, tell)
            done += sizes[digest]
        return sent

    def _ship_one(self, digest: Digest, file: Path, small: Path | None, left: int, progress: Progress) -> int:
        """Bring one file, by way of its compressed form `small` where there is one; `left` is the size of all files still to come."""
        upload, size = small or file, file.stat().st_size
        length = upload.stat().st_size
        place: dict[str, Any] = {"digest": digest, "size": length, "total": left + (length if small else 0), "packed": small is not None}
        while True:
            said = self._call("reserve", **place)
            offset: int = self._field(int, said, "offset")
            if not 0 <= offset <= length:
                raise errors.ProtocolViolation(f"{self.target} has {offset} of {length} bytes", context={"target": self.target})
            try:
                self._transport.put(upload, self._inside(said), offset=offset, progress=progress)
            except errors.CommandFailed:
                # SFTP has one code for every refusal: the agent knows whether the disk is full or read-only
                self._call("reserve", **place)
                raise
            try:
                self._call("commit", digest=digest, size=size, packed=small is not None, more_s=(size + length) / SLOWEST_DISK)
            except errors.DigestMismatch:
                if offset == 0:
                    raise
                continue  # what an interrupted upload had left was damaged (a power cut); it is gone now
            return length - offset

    def stage(
        self, app: str, release: str, manifest: Mapping[str, Any], files: Mapping[str, Digest], signature: Signature | None = None
    ) -> bool:
        """Build a release of files that are there; False when it was there already, whole. It is not active yet."""
        self.lock()
        signed = None if signature is None else signature.as_json()
        said = self._call(
            "stage",
            app=app,
            release=release,
            manifest=dict(manifest),
            files=dict(files),
            signature=signed,
            signed=self._settings.require_signature,
        )
        return bool(self._field(bool, said, "made"))

    def verify(self, app: str, release: str) -> tuple[str, ...]:
        """What is wrong with a release, each file hashed anew there; empty when it is whole."""
        problems: tuple[str, ...] = self._field(tuple[str, ...], self._call("verify", app=app, release=release), "problems")
        return problems

    def activate(self, app: str, release: str, check: GoldenBounds | None = None) -> str | None:
        """Switch to a release that verifies; the one that was active before. On any error the old one stays active, or is again.

        Once it is active its golden check is made once more, by way of `current`, and the target's health command is run.

        Raises:
            HealthCheckFailed: one of them failed; the old release is active again.
        """
        self.lock()
        settings = self._settings
        more_s = MARGIN_S + (settings.health_timeout_s if settings.health else 0.0) + (2 * settings.request_timeout_s if check else 0.0)
        said = self._call(
            "activate",
            app=app,
            release=release,
            signed=settings.require_signature,
            check=None if check is None else self._golden_request(check),
            health=list(settings.health),
            health_s=settings.health_timeout_s,
            more_s=more_s,
        )
        previous: str | None = self._field(str | None, said, "previous")
        return previous

    def rollback(self, app: str) -> tuple[str, str]:
        """Make the previous release active again: (left, now active)."""
        self.lock()
        said = self._call("rollback", app=app, signed=self._settings.require_signature)
        return self._field(str, said, "old"), self._field(str, said, "new")

    def releases(self, app: str) -> tuple[StagedRelease, ...]:
        """The releases there, newest first."""
        said = self._field(list[Any], self._call("releases", app=app), "releases")
        return tuple(answers.record(StagedRelease, each, self.target) for each in said)

    def prune(self, app: str, keep: int, *, unused_s: float = 86400.0) -> tuple[str, ...]:
        """Remove all but the newest `keep` releases (never the active or the previous one) and files unused for `unused_s`."""
        self.lock()
        removed: tuple[str, ...] = self._field(tuple[str, ...], self._call("prune", app=app, keep=keep, unused_s=unused_s), "releases")
        return removed

    def golden(self, app: str, release: str, bounds: GoldenBounds) -> GoldenCheck:
        """Run a release's network there on the inputs "in:<name>" of its golden file and compare with "out:<name>".

        It passes with every output within `max_abs` and at least the fraction `top1` of rows agreeing.
        """
        self.lock()
        said = self._call("golden", app=app, release=release, more_s=MARGIN_S, **self._golden_request(bounds))
        return answers.record(GoldenCheck, {"runtime_version": said.pop("version", None), **said}, self.target)

    def _golden_request(self, bounds: GoldenBounds) -> dict[str, Any]:
        said = asdict(bounds)
        tolerance = {"max_abs": said.pop("max_abs"), "top1": said.pop("top1")}
        return {**said, "tolerance": tolerance, "patience_s": self._settings.request_timeout_s}

    def profile(
        self,
        jobs: Sequence[NetworkJob],
        rule: StoppingRule,
        *,
        meter: str = "auto",
        idle_s: float = 0.0,
        seed: int = 0,
        period_s: float = 0.05,
    ) -> ProfileRun:
        """Measure networks turn by turn. `idle_s` is rested before and after when there is a meter, which is read every `period_s`."""
        self.lock()
        blocks: list[list[tuple[int, ...]]] = [[] for _ in jobs]
        spans: list[list[tuple[int, int]]] = [[] for _ in jobs]
        warmups: list[list[int]] = [[] for _ in jobs]

        with ExitStack() as stack:
            told = stack.enter_context(self._events.progress(f"measuring on {self.target}", 100)) if self._events is not None else None

            def hear(event: dict[str, Any]) -> None:
                if "samples" in event:
                    part = answers.record(answers.Samples, event["samples"], self.target)
                    self._known(part.index, jobs)
                    blocks[part.index].extend(part.blocks)
                    spans[part.index].extend(part.spans)
                elif "warmup" in event:
                    early = answers.record(answers.WarmUp, event["warmup"], self.target)
                    self._known(early.index, jobs)
                    warmups[early.index].extend(early.times)
                elif told is not None and "fraction" in event:
                    told(int(100 * self._field(float, event, "fraction")))

            said = self._call(
                "profile",
                event=hear,
                jobs=[asdict(job) for job in jobs],
                rule=asdict(rule),
                meter=meter,
                idle_s=idle_s,
                seed=seed,
                period_s=period_s,
                patience_s=self._settings.request_timeout_s,
                more_s=MARGIN_S + rule.max_time_s + rule.warmup_s + 2 * idle_s,
            )
        summaries = [answers.record(answers.Summary, each, self.target) for each in self._field(list[Any], said, "networks")]
        if [each.label for each in summaries] != [job.label for job in jobs]:
            raise errors.ProtocolViolation(f"{self.target} measured other networks than it was asked to", context={"target": self.target})
        if any(len(times) != len(at) or not times or not all(times) for times, at in zip(blocks, spans, strict=True)):
            raise errors.ProtocolViolation(f"{self.target} sent no times, or not when they were taken", context={"target": self.target})
        networks = tuple(
            ProfiledNetwork(**asdict(each), blocks=tuple(blocks[i]), spans=tuple(spans[i]), warmup_ns=tuple(warmups[i]))
            for i, each in enumerate(summaries)
        )
        trace = self._field(dict[str, Any] | None, said, "trace")
        return ProfileRun(
            networks=networks,
            before=answers.record(Conditions, said.get("before"), self.target),
            after=answers.record(Conditions, said.get("after"), self.target),
            trace=None if trace is None else answers.record(MeterTrace, trace, self.target),
            trace_reason=self._field(str, said, "trace_reason"),
        )

    def _known(self, index: int, jobs: Sequence[NetworkJob]) -> None:
        if not 0 <= index < len(jobs):
            raise errors.ProtocolViolation(f"{self.target} measured a network that it was not given", context={"target": self.target})

    def evaluate(self, job: NetworkJob, batch: int) -> tuple[list[int], str]:
        """(top-1 class of every row, runtime's version). The inputs' file is described in `agent/network.py`, `batches`."""
        self.lock()
        with ExitStack() as stack:
            told: list[Callable[[int], None]] = []

            def hear(event: dict[str, Any]) -> None:
                counted = answers.record(answers.Counted, event, self.target)
                if self._events is not None and not told:
                    told.append(stack.enter_context(self._events.progress(f"evaluating on {self.target}", counted.total)))
                for each in told:
                    each(counted.done)

            patience_s = self._settings.request_timeout_s
            said = self._call("evaluate", event=hear, job=asdict(job), batch=batch, patience_s=patience_s, more_s=MARGIN_S)
        return self._field(list[int], said, "predictions"), self._field(str, said, "version")

    def infer(self, job: NetworkJob) -> Outputs:
        """The network's outputs for the inputs in the job's file, as NumPy arrays."""
        import numpy as np

        self.lock()
        said = self._call("infer", job=asdict(job), patience_s=self._settings.request_timeout_s, more_s=MARGIN_S)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "outputs.npz"
            self._transport.get(self._inside(said), file)
            self._call("forget", name=self._field(str, said, "name"))
            if hashlib.sha256(file.read_bytes()).hexdigest() != said.get("digest"):
                raise errors.DigestMismatch(f"the outputs from {self.target} are not what its agent wrote", context={"target": self.target})
            try:
                with np.load(file, allow_pickle=False) as loaded:
                    arrays = {name: loaded[name] for name in loaded.files}
            except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
                raise errors.ProtocolViolation(f"the outputs from {self.target} are no arrays", context={"target": self.target}) from error
        return Outputs(arrays=arrays, runtime_version=self._field(str, said, "version"))

    def environment(self, runtime: str, *, needed_bytes: int = 0) -> EnvironmentThere:
        """The target's interpreter, and the private environment that a runtime has there.

        Raises:
            DeviceFull: `needed_bytes` are not free there.
        """
        said = self._call("environment", runtime=runtime, needed=needed_bytes, more_s=UNPACKED_BYTES / SLOWEST_DISK)
        return answers.record(EnvironmentThere, said, self.target)

    def prepare(self, lock: WheelLock, *, fetch: bool) -> PreparedEnvironment:
        """Make a runtime's private environment of wheels that lie there, or (`fetch`) that the target downloads first.

        Raises:
            ToolchainMissing: the runtime does not import there. DeviceFull, DigestMismatch.
        """
        self.lock()
        wheels = [
            {"digest": each.digest, "size": each.size_bytes, "unpacked": each.unpacked_bytes, "url": each.url if fetch else ""}
            for each in lock.wheels
        ]
        unpacked = sum(each.unpacked_bytes for each in lock.wheels)
        with ExitStack() as stack:
            told = stack.enter_context(self._events.progress(f"preparing {self.target}", 100)) if self._events is not None else None

            def hear(event: dict[str, Any]) -> None:
                counted = answers.record(answers.Counted, event, self.target)
                if told is not None:
                    told(100 * counted.done // max(1, counted.total))

            more_s = IMPORT_S + MARGIN_S + 2 * unpacked / SLOWEST_DISK
            said = self._call("prepare", event=hear, runtime=lock.runtime, wheels=wheels, fetch=fetch, more_s=more_s)
        return answers.record(PreparedEnvironment, said, self.target)

    def fingerprint(self) -> DeviceFingerprint:
        """What an engine built there would be tied to.

        Raises:
            ToolchainMissing: the target has no TensorRT.
        """
        said = self._call("fingerprint", patience_s=self._settings.request_timeout_s, more_s=MARGIN_S)
        return answers.record(DeviceFingerprint, said, self.target)

    def build(self, job: EngineJob, device: str, *, timeout_s: float = 1800.0) -> BuiltEngine:
        """Build an engine there, of a network that lies there; it lies there too then, under its digest.

        `device` names the timing cache that this device keeps for its builds.

        Raises:
            LoweringError: TensorRT refuses the network (layer and remedy in the message) or finds no engine.
            RunnerDied: the builder crashed, was killed for memory or did not finish in `timeout_s`.
        """
        self.lock()
        said = self._call("build", job=asdict(job), device=device, timeout_s=timeout_s, more_s=timeout_s + MARGIN_S)
        return answers.record(BuiltEngine, said, self.target)

    def fetch(self, digest: Digest, out: Path) -> None:
        """Copy a file of that digest from the target.

        Raises:
            DigestMismatch: what came is something else.
        """
        self._transport.get(f"{self.folder}/objects/{digest}", out)
        if digest_of(out) != digest:
            raise errors.DigestMismatch(f"file {digest[:16]} arrived damaged from {self.target}", context={"target": self.target})

    def contents(self) -> Contents:
        """What lies in edgec's folder on the target."""
        return answers.record(Contents, self._call("contents"), self.target)

    def remove(self) -> None:
        """Delete edgec's folder on the target, releases and all. The session is over then."""
        self.lock()
        self._call("remove")
        self._end("the agent's folder has been removed")

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
