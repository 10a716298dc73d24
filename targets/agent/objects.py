"""Files by content: uploads come in under a temporary name, are verified, forced to disk and only then get their name."""

import os
from typing import Any, Dict, List

from edgec.targets.agent.folder import Folder, digest_of, sync
from edgec.targets.agent.wire import Failure

MARGIN = 1024 * 1024
"""Bytes left free beside an upload, for manifests and folders."""


class Objects:
    """`objects/` and `incoming/` of a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def path(self, digest: str) -> str:
        """Where an object lies.

        Raises:
            Failure: AgentError, when it is not here.
        """
        path = self.folder.at("objects", digest)
        if not os.path.isfile(path):
            raise Failure("AgentError", "the target has no file %s" % digest[:16], digest=digest)
        return path

    def missing(self, digests: List[str]) -> List[str]:
        """Those that are not here whole: each is hashed anew, a damaged one is removed, the others are marked as used now.

        Needs the lock: another agent may be working with them.
        """
        absent = []
        for digest in digests:
            path = self.folder.at("objects", digest)
            if not os.path.isfile(path):
                absent.append(digest)
            elif digest_of(path) != digest:
                os.unlink(path)
                absent.append(digest)
            else:
                os.utime(path)
        return absent

    def adopt(self, made: str) -> str:
        """Take in a file that was made here, under its digest."""
        digest = digest_of(made)
        sync(made)
        os.chmod(made, 0o444)
        os.replace(made, self.folder.at("objects", digest))
        sync(self.folder.at("objects"))
        return digest

    def reserve(self, digest: str, size: int, total: int) -> Dict[str, Any]:
        """Where to upload to, and how many bytes of an interrupted upload are there already.

        Raises:
            Failure: DeviceFull when `total` bytes do not fit, DeviceReadOnly.
        """
        path = self.folder.at("incoming", digest + ".part")
        offset = os.path.getsize(path) if os.path.isfile(path) else 0
        if offset > size:
            os.unlink(path)
            offset = 0
        self.folder.check_space(max(size, total) - offset + MARGIN)
        return {"path": path, "offset": offset}

    def commit(self, digest: str, size: int) -> None:
        """Take an upload in.

        Raises:
            Failure: DigestMismatch; the upload is removed, so that the next attempt starts from nothing.
        """
        part = self.folder.at("incoming", digest + ".part")
        if not os.path.isfile(part):
            raise Failure("AgentError", "nothing was uploaded for %s" % digest[:16], digest=digest)
        found, arrived = digest_of(part), os.path.getsize(part)
        if found != digest or arrived != size:
            os.unlink(part)
            raise Failure("DigestMismatch", "the upload is not what was sent", expected=digest, found=found, size=size, arrived=arrived)
        sync(part)
        os.chmod(part, 0o444)
        os.replace(part, self.folder.at("objects", digest))
        sync(self.folder.at("objects"))
