"""The one folder on the device that edgec writes to, and how to write there so that a power cut leaves the old or the new.

.edgec-folder            says that the folder is ours; nothing is ever removed without it
agents/                  the agent's own file, named by its hash
lock                     held by the agent in charge; whose it is and since when, as JSON (`lock.py`)
trusted_keys             whose releases are taken, where the device demands signatures (`trust.py`)
objects/<sha256>         files by content
incoming/<sha256>.part   uploads under way; <sha256>.z.part: compressed
outgoing/                results to be fetched
timings/<device>         what engine builders measured here, to build faster the next time
env/                     runtimes that the board lacked (`environment.py`)
apps/<app>/              releases/<release>/, the link `current`, history.json
"""

import hashlib
import json
import os
import re
import shutil
import time
from typing import Any, List

from edgec.targets.agent.lock import Lock
from edgec.targets.agent.wire import Failure

MARKER_FILE = ".edgec-folder"
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
DIGEST = re.compile(r"^[0-9a-f]{64}\Z")
STALE_S = 24 * 3600.0
"""Age after which an upload or a result that nobody came back for is removed."""


def checked_name(value: str, what: str) -> str:
    """A name that is safe as one part of a path.

    Raises:
        Failure: ProtocolViolation.
    """
    if not NAME.match(value):
        raise Failure("ProtocolViolation", "%s %r is not a plain name (letters, digits, '.', '_', '-'; at most 100)" % (what, value[:120]))
    return value


def checked_digest(value: Any) -> str:
    """A SHA-256 in hexadecimal digits.

    Raises:
        Failure: ProtocolViolation.
    """
    if not isinstance(value, str) or not DIGEST.match(value):
        raise Failure("ProtocolViolation", "a digest is not a SHA-256 in 64 small hexadecimal digits")
    return value


def digest_of(path: str) -> str:
    """SHA-256 of a file's bytes."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            sha.update(block)
    return sha.hexdigest()


def sync(path: str) -> None:
    """Force a file or a folder to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: str, data: bytes) -> None:
    """Write a small file so that at every instant the old or the new content is there, whole."""
    temporary = path + ".tmp"
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(os.path.dirname(path))


def read_json(path: str) -> Any:
    """The JSON value in a file, or None when there is no such file.

    Raises:
        ValueError: the file is not JSON.
    """
    try:
        with open(path, "rb") as file:
            return json.loads(file.read().decode("utf-8"))
    except FileNotFoundError:
        return None


class Folder:
    """The folder at `path`; the host has seen that nothing foreign lies in it (`bootstrap.py`)."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self.lock = Lock(self.at("lock"))
        self._made = False

    def at(self, *parts: str) -> str:
        """A path in the folder."""
        return os.path.join(self.path, *parts)

    def make(self) -> None:
        """Make the folder and its parts."""
        if self._made:
            return
        if not os.path.exists(self.at(MARKER_FILE)):
            write_whole(self.at(MARKER_FILE), b"This folder belongs to edgec, which may remove it.\n")
        for part in ("objects", "incoming", "outgoing", "apps", "timings"):
            os.makedirs(self.at(part), exist_ok=True)
        self._made = True

    def tidy(self) -> None:
        """Remove uploads and results that nobody came back for. Needs the lock: they are another agent's otherwise."""
        for part in ("incoming", "outgoing"):
            for name in os.listdir(self.at(part)):
                if time.time() - os.lstat(self.at(part, name)).st_mtime > STALE_S:
                    os.unlink(self.at(part, name))

    def size_bytes(self) -> int:
        """Bytes of all files, one with several names counted once."""
        sizes = {}
        for place, _, names in os.walk(self.path):
            for name in names:
                stat = os.lstat(os.path.join(place, name))
                sizes[stat.st_ino] = stat.st_size
        return sum(sizes.values())

    def free_bytes(self) -> int:
        """Space that this user may still fill."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def check_space(self, needed: int) -> None:
        """Refuse early.

        Raises:
            Failure: DeviceReadOnly or DeviceFull.
        """
        if os.statvfs(self.path).f_flag & os.ST_RDONLY:
            raise Failure("DeviceReadOnly", "the file system of %s is mounted read-only" % self.path, folder=self.path)
        free = self.free_bytes()
        if needed > free:
            what = "%d bytes are needed in %s and %d are free" % (needed, self.path, free)
            raise Failure("DeviceFull", what, needed_bytes=needed, free_bytes=free, folder=self.path)

    def take_charge(self, owner: str, by_force: bool = False) -> None:
        """Lock the device until this process ends; see `lock.py`.

        Raises:
            Failure: DeviceBusy, DeviceFull, DeviceReadOnly.
        """
        if not self.lock.held:
            self.check_space(4096)
            self.make()
            self.lock.take(owner, by_force)
            self.tidy()

    def need_lock(self) -> None:
        """Refuse a change by an agent that is not in charge.

        Raises:
            Failure: AgentError.
        """
        if not self.lock.held:
            raise Failure("AgentError", "the target has to be locked before this operation")

    def apps(self) -> List[str]:
        """Names of the applications that have a folder."""
        return sorted(os.listdir(self.at("apps"))) if os.path.isdir(self.at("apps")) else []

    def remove(self) -> None:
        """Delete the whole folder.

        Raises:
            Failure: TargetError, when it does not carry our mark.
        """
        if not os.path.isfile(self.at(MARKER_FILE)):
            raise Failure("TargetError", "%s does not look like edgec's folder; nothing was removed" % self.path)
        for name in sorted(os.listdir(self.path), key=lambda name: name == MARKER_FILE):  # the mark last: a rerun may finish the work
            path = self.at(name)
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        os.rmdir(self.path)
