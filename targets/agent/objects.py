"""Files by content: uploads come in under a temporary name, are verified, forced to disk and only then get their name."""

import hashlib
import os
import zlib
from typing import Any, Dict, List, Set

from edgec.targets.agent.folder import Folder, digest_of, sync
from edgec.targets.agent.wire import Failure

MARGIN = 1024 * 1024
"""Bytes left free beside an upload, for manifests and folders."""


class Objects:
    """`objects/` and `incoming/` of a folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.asked: Set[str] = set()
        """Digests that this session has spoken of: whatever the clock says, they are in use."""

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
        self.asked.update(digests)
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

    def reserve(self, digest: str, size: int, total: int, packed: bool = False) -> Dict[str, Any]:
        """Where to upload `size` bytes to, and how many of them an interrupted upload has left there already.

        `total` is the space that this and all later uploads take; `packed`: the bytes are a zlib stream of the file's.

        Raises:
            Failure: DeviceFull when `total` bytes do not fit, DeviceReadOnly.
        """
        path = self._part(digest, packed)
        offset = os.path.getsize(path) if os.path.isfile(path) else 0
        if offset > size:
            os.unlink(path)
            offset = 0
        self.folder.check_space(max(size, total) - offset + MARGIN)
        return {"path": path, "offset": offset}

    def commit(self, digest: str, size: int, packed: bool = False) -> None:
        """Take an upload in; `size` is the file's.

        Raises:
            Failure: DigestMismatch; the upload is removed, so that the next attempt starts from nothing.
        """
        sent, part = self._part(digest, packed), self._part(digest, False)
        if not os.path.isfile(sent):
            raise Failure("AgentError", "nothing was uploaded for %s" % digest[:16], digest=digest)
        found = unpacked(sent, part, size) if packed else digest_of(sent)
        arrived = os.path.getsize(part)
        if found != digest or arrived != size:
            for path in {sent, part}:
                os.unlink(path)
            raise Failure("DigestMismatch", "the upload is not what was sent", expected=digest, found=found, size=size, arrived=arrived)
        sync(part)
        os.chmod(part, 0o444)
        os.replace(part, self.folder.at("objects", digest))
        sync(self.folder.at("objects"))
        if packed:
            os.unlink(sent)

    def _part(self, digest: str, packed: bool) -> str:
        return self.folder.at("incoming", digest + (".z.part" if packed else ".part"))


def unpacked(source: str, target: str, size: int) -> str:
    """Write what a zlib stream holds to another file, never more than one byte beyond `size`; SHA-256 of it, empty for a damaged stream."""
    sha, inflater, left = hashlib.sha256(), zlib.decompressobj(), size + 1
    with open(source, "rb") as reader, open(target, "wb") as writer:
        try:
            while left > 0 and not inflater.eof:
                given = inflater.unconsumed_tail or reader.read(1 << 16)
                data = inflater.decompress(given, min(left, 1 << 20))
                if not given and not data:  # the stream ends early
                    return ""
                left -= len(data)
                sha.update(data)
                writer.write(data)
        except zlib.error:
            return ""
    return sha.hexdigest() if inflater.eof and not inflater.unused_data else ""
