"""Releases of an application: immutable folders beside a link `current` that is switched in one step.

    apps/<app>/releases/<release>/manifest.json   the host's manifest, with "files": {name: SHA-256}
    apps/<app>/releases/<release>/seal.json       the manifest's own SHA-256, and its signature if it has one (`trust.py`)
    apps/<app>/current -> releases/<release>
    apps/<app>/history.json                       releases in the order in which they were activated

The history is written before the link is switched; what comes after the active release in it never became active.
"""

import errno
import json
import os
import shutil
import stat
import time
from typing import Any, Dict, List, Optional, Tuple

from edgec.targets.agent.folder import Folder, checked_digest, checked_name, digest_of, read_json, sync, write_whole
from edgec.targets.agent.objects import Objects
from edgec.targets.agent.trust import SEAL, Signature, Trust, manifest_bytes, seal_bytes
from edgec.targets.agent.wire import Failure

MANIFEST = "manifest.json"
OURS = frozenset((MANIFEST, SEAL))
Standing = Tuple[Optional[str], List[str]]
"""The active release and the history."""


class Releases:
    """All releases of one application."""

    def __init__(self, folder: Folder, app: str) -> None:
        self.folder = folder
        self.app = checked_name(app, "application")
        self.root = folder.at("apps", self.app)
        self.current = os.path.join(self.root, "current")
        self.trust = Trust(folder.path)

    def path(self, release: str) -> str:
        """The folder of a release, there or not."""
        return os.path.join(self.root, "releases", checked_name(release, "release"))

    def active(self) -> Optional[str]:
        """The release that `current` points to."""
        try:
            return os.path.basename(os.readlink(self.current))
        except FileNotFoundError:
            return None

    def previous(self) -> Optional[str]:
        """The release that was active before the active one and is still here."""
        before = self._before()
        return before[-1] if before else None

    def all(self) -> List[Dict[str, Any]]:
        """Every release, newest staged first."""
        active, previous = self.active(), self.previous()
        found = []
        for name in self._names():
            path = self.path(name)
            size = sum(os.path.getsize(os.path.join(path, file)) for file in os.listdir(path))
            manifest = os.path.join(path, MANIFEST)
            staged = os.stat(manifest).st_mtime if os.path.exists(manifest) else 0.0
            each = {"release": name, "active": name == active, "previous": name == previous, "size_bytes": size, "staged_at_s": staged}
            found.append(each)
        return sorted(found, key=lambda each: (-each["staged_at_s"], each["release"]))

    def stage(
        self,
        release: str,
        manifest: Dict[str, Any],
        files: Dict[str, Any],
        objects: Objects,
        signature: Optional[Signature] = None,
        demanded: bool = False,
    ) -> bool:
        """Build a release from objects and verify it; False when it was here already, whole. A damaged one is mended file by file.

        `demanded`: see `Trust.check`.

        Raises:
            Failure: AgentError when an object is missing or another release of this name is here, DigestMismatch when an object is
                damaged (it is removed), SignatureRejected.
        """
        target = self.path(release)
        for name, digest in files.items():
            checked_digest(digest)
            if checked_name(name, "file") in OURS:
                raise Failure("ProtocolViolation", "a release's %s is written by the agent" % name)
        document = dict(manifest, files=files)
        if manifest.get("files", files) != files:
            raise Failure("ProtocolViolation", "the manifest names other files than the request")
        data = manifest_bytes(document)
        self.trust.check(self.app, release, data, signature, demanded)
        if os.path.isdir(target):
            if self.problems(release):
                self._mend(target, files, objects)
                seal(target, data, signature)
                return True
            if read_json(os.path.join(target, MANIFEST)) != document:
                raise Failure("AgentError", "another release %s is on the target already" % release, release=release)
            if signature is not None:
                seal(target, data, signature)
            return False
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = os.path.join(os.path.dirname(target), ".tmp-" + release)
        shutil.rmtree(temporary, ignore_errors=True)
        os.mkdir(temporary)
        for name, digest in files.items():
            place(objects, digest, os.path.join(temporary, name))
        seal(temporary, data, signature)
        os.rename(temporary, target)
        sync(os.path.dirname(target))
        return True

    def problems(self, release: str) -> List[str]:
        """What is wrong with a release, every file hashed anew; empty when it is whole."""
        path = self.path(release)
        if not os.path.isdir(path):
            return ["there is no release %s" % release]
        try:
            files = (read_json(os.path.join(path, MANIFEST)) or {})["files"]
            sealed = (read_json(os.path.join(path, SEAL)) or {})["sha256"]
        except (ValueError, KeyError, TypeError):
            return ["%s or %s cannot be read" % (MANIFEST, SEAL)]
        if digest_of(os.path.join(path, MANIFEST)) != sealed:
            return ["%s is damaged" % MANIFEST]
        there = set(os.listdir(path)) - OURS
        found = ["%s is missing" % name for name in sorted(set(files) - there)]
        found += ["%s does not belong there" % name for name in sorted(there - set(files))]
        found += ["%s is damaged" % name for name in sorted(there & set(files)) if digest_of(os.path.join(path, name)) != files[name]]
        return found

    def activate(self, release: str, demanded: bool = False) -> Optional[str]:
        """Point `current` to a release that has been verified just now, its signature too; returns the one that was active.

        Raises:
            Failure: DigestMismatch, SignatureRejected, and the old one stays active.
        """
        problems = self.problems(release)
        if problems:
            raise Failure("DigestMismatch", "release %s cannot be activated: %s" % (release, problems[0]), problems=problems[:10])
        self._check_signature(release, demanded)
        active, history = self.standing()
        if release != active:
            if active in history:
                history = history[: len(history) - history[::-1].index(active)]
            elif active is not None:
                history = [active]
            self._remember([*history, release])
            self._switch(release)
        return active

    def standing(self) -> Standing:
        """What `restore` needs to undo an activation."""
        return self.active(), self._history()

    def restore(self, before: Standing) -> None:
        """Make active what was active, or nothing; the release that is left stays on the target."""
        active, history = before
        if active is not None:
            self._switch(active)
        elif os.path.lexists(self.current):
            os.unlink(self.current)
            sync(self.root)
        self._remember(history)

    def rollback(self, demanded: bool = False) -> Dict[str, str]:
        """Make the previous release active again.

        Raises:
            Failure: TargetError when there is none, DigestMismatch when it is damaged, SignatureRejected.
        """
        active, before = self.active(), self._before()
        if active is None or not before:
            raise Failure("TargetError", "there is no release of %s before the active one" % self.app, active=active)
        previous = before[-1]
        problems = self.problems(previous)
        if problems:
            raise Failure("DigestMismatch", "the previous release %s is damaged: %s" % (previous, problems[0]), problems=problems[:10])
        self._check_signature(previous, demanded)
        self._switch(previous)
        self._remember(before)
        return {"old": active, "new": previous}

    def prune(self, keep: int) -> List[str]:
        """Remove all but the newest `keep` releases; the active one and its predecessor stay in any case."""
        removed: List[str] = []
        for name in os.listdir(os.path.join(self.root, "releases")) if self._names() else []:
            if name.startswith(".tmp-"):  # left by a power cut
                shutil.rmtree(os.path.join(self.root, "releases", name))
        for each in self.all()[keep:]:
            if not each["active"] and not each["previous"]:
                # renamed first: a half removed release must not be found under its name
                doomed = os.path.join(self.root, "releases", ".tmp-" + each["release"])
                shutil.rmtree(doomed, ignore_errors=True)
                os.rename(self.path(each["release"]), doomed)
                shutil.rmtree(doomed)
                removed.append(each["release"])
        return removed

    def _check_signature(self, release: str, demanded: bool) -> None:
        path = self.path(release)
        with open(os.path.join(path, MANIFEST), "rb") as file:
            manifest = file.read()
        said = read_json(os.path.join(path, SEAL))
        self.trust.check(self.app, release, manifest, Signature.of(said), demanded)

    def _mend(self, path: str, files: Dict[str, Any], objects: Objects) -> None:
        """Replace each damaged file by its object, one rename each: the release may be the active one."""
        for name in os.listdir(path):
            if name not in OURS and name not in files:
                os.unlink(os.path.join(path, name))
        for name, digest in files.items():
            file = os.path.join(path, name)
            if not os.path.isfile(file) or digest_of(file) != digest:
                temporary = os.path.join(path, ".tmp-" + name)
                if os.path.lexists(temporary):
                    os.unlink(temporary)
                place(objects, digest, temporary)
                os.replace(temporary, file)

    def _names(self) -> List[str]:
        path = os.path.join(self.root, "releases")
        return sorted(name for name in os.listdir(path) if not name.startswith(".")) if os.path.isdir(path) else []

    def _before(self) -> List[str]:
        """The history up to the release that was active before the active one and is still here; empty when there is none."""
        active, history = self.active(), self._history()
        if active not in history:
            return []
        before = history[: len(history) - 1 - history[::-1].index(active)]
        while before and (before[-1] == active or not os.path.isdir(self.path(before[-1]))):
            before.pop()
        return before

    def _history(self) -> List[str]:
        try:
            history = read_json(os.path.join(self.root, "history.json"))
        except ValueError:  # damaged: what was active before is not known any more, what is active now is
            return []
        return [name for name in history if isinstance(name, str)] if isinstance(history, list) else []

    def _remember(self, history: List[str]) -> None:
        write_whole(os.path.join(self.root, "history.json"), json.dumps(history[-100:]).encode("ascii"))

    def _switch(self, release: str) -> None:
        temporary = os.path.join(self.root, ".current.tmp")
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(os.path.join("releases", release), temporary)
        os.replace(temporary, self.current)
        sync(self.root)


def seal(path: str, manifest: bytes, signature: Optional[Signature]) -> None:
    """Write a release's manifest and seal. The seal comes first: a cut in between is found as damage, and mended."""
    write_whole(os.path.join(path, SEAL), seal_bytes(manifest, signature))
    write_whole(os.path.join(path, MANIFEST), manifest)
    sync(path)


def place(objects: Objects, digest: str, target: str) -> None:
    """Put an object under a second name, as a link where the file system can, and verify it there.

    Raises:
        Failure: DigestMismatch, and the damaged object is removed so that it is uploaded anew.
    """
    source = objects.path(digest)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        shutil.copyfile(source, target)  # a file system without hard links (vfat)
        sync(target)
    if digest_of(target) != digest:
        os.unlink(source)
        raise Failure(
            "DigestMismatch", "the file %s was damaged on the target and has been removed; send it again" % digest[:16], digest=digest
        )


def prune_objects(objects: Objects, unused_s: float) -> List[str]:
    """Remove objects that no release uses, that this session has not spoken of, and that nobody has asked for in the last `unused_s` s."""
    folder, used = objects.folder, set(objects.asked)
    for app in folder.apps():
        releases = Releases(folder, app)
        for each in releases.all():
            try:
                manifest = read_json(os.path.join(releases.path(each["release"]), MANIFEST))
            except ValueError:
                manifest = None  # a damaged release: its objects have no use until it is staged again
            if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict):
                used.update(manifest["files"].values())
    removed = []
    for name in os.listdir(folder.at("objects")):
        path = folder.at("objects", name)
        if name not in used and stat.S_ISREG(os.lstat(path).st_mode) and time.time() - os.lstat(path).st_mtime >= unused_s:
            os.unlink(path)
            removed.append(name)
    return removed
