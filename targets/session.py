"""The host's side of the agent: open a session on a target, call with a deadline, stop surely.

A session that missed an answer is over: its agent is stopped and every later call says so. Arrays travel as files by digest.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgec.pipeline.core import errors
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.core.records import Conditions, Digest, TargetFacts, WheelLock
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.targets import answers
from edgec.targets.agent.environment import IMPORT_S
from edgec.targets.agent.trust import Signature
from edgec.targets.conversation import MARGIN_S
from edgec.targets.networks import NetworkSession
from edgec.targets.packing import packed
from edgec.targets.replies import (
    Contents,
    EnvironmentThere,
    GoldenBounds,
    GoldenCheck,
    PreparedEnvironment,
    StagedRelease,
)
from edgec.targets.starting import start_agent, transport_to

UNPACKED_BYTES = 500_000_000
"""Of the largest private environment: TensorFlow's. Checking one takes a target that long."""
SLOWEST_DISK = 2e6
"""Bytes per second that a target hashes and writes at least (old SD cards): lengthens the deadline for large files."""

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


class AgentSession(NetworkSession):
    """One agent, running. Not for use from several threads.

    Every method raises TargetError of the fitting kind; `DeadlineExceeded` and `AgentDied` end the session.
    """

    def facts(self) -> TargetFacts:
        """What the target is."""
        return answers.record(TargetFacts, self._call("facts"), self.target)

    def conditions(self) -> Conditions:
        """In which state the target is now."""
        return answers.record(Conditions, self._call("conditions"), self.target)

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
