"""A runtime that a target lacks, brought there: found, pinned, sent or fetched, unpacked, tried. See agent/preparing.py for the device's
half.
"""

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.core.records import Digest, TargetFacts, WheelLock
from edgec.pipeline.store import RunStore, stage_key
from edgec.targets.agent.environment import name_of
from edgec.targets.session import AgentSession
from edgec.targets.wheels import Place, choose, download, place_of

ONE_AT_A_TIME = threading.Lock()
"""Boards of one kind share their wheels: the first thread finds them, the others find them in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a target is to have."""

    runtime: str
    requirements: tuple[str, ...]
    """In pip's form, the runtime's own package first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What was found and done."""

    runtime: str
    version: str | None
    """Of the runtime, as the target tells it afterwards."""
    state: str
    """installed: the board has the runtime itself · ready: its environment is whole · missing: it would be made · made."""
    lock: WheelLock | None
    """None where no wheels were looked for."""
    sent_bytes: int = 0
    fetched_bytes: int = 0

    @property
    def environment(self) -> str:
        """Name of the environment on the target; empty where no wheels were looked for."""
        return "" if self.lock is None else environment_of(self.lock)

    @property
    def disk_bytes(self) -> int:
        """What it takes on the target, once made."""
        return 0 if self.lock is None else sum(each.unpacked_bytes for each in self.lock.wheels)


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """Options of `prepare`."""

    offline: bool = False
    """Send the wheels even where the target could fetch them."""
    upgrade: bool = False
    """Look for newer wheels than those that were pinned."""
    dry_run: bool = False
    """Change nothing on the target."""


def prepare(session: AgentSession, wanted: Wanted, facts: TargetFacts, store: RunStore, events: Events, how: How) -> Prepared:
    """Bring a runtime to a target, where it is not there already.

    Raises:
        LoweringError: it has no wheel for the target. ToolchainMissing: no index here, or it does not import there.
        DeviceFull before anything is sent, and what the session raises.
    """
    there = session.environment(wanted.runtime)
    version = version_in(facts, wanted.runtime)
    if version is not None and not there.current:
        return Prepared(runtime=wanted.runtime, version=version, state="installed", lock=None)
    if there.current and there.whole and not how.upgrade:
        return Prepared(runtime=wanted.runtime, version=version, state="ready", lock=None)
    place = place_of(facts, there)
    with ONE_AT_A_TIME, events.stage("wheels", f"{', '.join(wanted.requirements)} for {place.name}"):
        lock = pinned(wanted, place, store, upgrade=how.upgrade)
    if there.whole and there.current == environment_of(lock):
        return Prepared(runtime=wanted.runtime, version=version, state="ready", lock=lock)
    needed = sum(each.size_bytes + each.unpacked_bytes for each in lock.wheels)
    session.environment(wanted.runtime, needed_bytes=needed)
    if how.dry_run:
        return Prepared(runtime=wanted.runtime, version=version, state="missing", lock=lock)
    sent, fetched = bring(session, lock, place, store, events, offline=how.offline)
    version = version_in(session.facts(), wanted.runtime)
    if version is None:
        raise LoweringError(f"{session.target} has the wheels of {wanted.runtime} and does not find it in them")
    return Prepared(runtime=wanted.runtime, version=version, state="made", lock=lock, sent_bytes=sent, fetched_bytes=fetched)


def bring(session: AgentSession, lock: WheelLock, place: Place, store: RunStore, events: Events, *, offline: bool) -> tuple[int, int]:
    """Bytes sent from here and bytes that the target has fetched itself."""
    if not offline:
        if all(each.url.startswith(("https://", "http://")) for each in lock.wheels):
            done = session.prepare(lock, fetch=True)
            if not done.no_route:
                return 0, done.fetched
            events.note(f"{session.target} does not reach the index itself ({done.no_route}): the wheels are sent from here")
        else:
            events.note(f"some wheels are from a folder of this machine: they are sent to {session.target} from here")
    files = kept(lock, place, store)
    with events.progress(f"sending wheels to {session.target}", sum(each.size_bytes for each in lock.wheels)) as tell:
        sent = session.ship(files, progress=lambda done, _: tell(done))
    return sent, session.prepare(lock, fetch=False).fetched


def pinned(wanted: Wanted, place: Place, store: RunStore, *, upgrade: bool = False) -> WheelLock:
    """The wheels for such a board: those that were chosen the first time, unless newer ones are asked for."""
    python = ".".join(place.version.split(".")[:2])
    key = stage_key("wheels", runtime=wanted.runtime, requirements=wanted.requirements, abi=place.abi, python=python, at=place.platforms)
    found = None if upgrade else store.remembered(key)
    if isinstance(found, WheelLock):
        return found
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        lock, files = choose(wanted.runtime, wanted.requirements, place, Path(folder))
        for file in files.values():
            store.adopt(file)
    store.remember(key, lock)
    return lock


def kept(lock: WheelLock, place: Place, store: RunStore) -> dict[Digest, Path]:
    """The wheels' files; one that has gone from the store is downloaded again."""
    gone = {each.url: each.digest for each in lock.wheels if not store.has(each.digest)}
    if gone:
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            for file in download(gone, place, Path(folder)).values():
                store.adopt(file)
    return {each.digest: store.file(each.digest) for each in lock.wheels}


def environment_of(lock: WheelLock) -> str:
    """Name of the environment that these wheels make."""
    return name_of([each.digest for each in lock.wheels])


def version_in(facts: TargetFacts, runtime: str) -> str | None:
    """The version of a runtime that the target can use."""
    return next((each.version for each in facts.runtimes if each.name == runtime), None)
