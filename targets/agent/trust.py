"""Whose releases a device takes. Both ends use it: the host signs what `message` gives, the agent verifies it before anything is activated.

Public keys stand one a line, as in an OpenSSH .pub file ("ssh-ed25519 AAAA… name"), in `/etc/edgec/trusted_keys`, which an administrator
owns, or else in `trusted_keys` in edgec's folder. Where there is such a file, only a release signed by one of its keys is activated.
"""

import base64
import binascii
import hashlib
import json
import os
import struct
from typing import Any, Dict, Optional

from edgec.targets.agent.ed25519 import verify
from edgec.targets.agent.folder import write_whole
from edgec.targets.agent.wire import Failure

SYSTEM_FILE = "/etc/edgec/trusted_keys"
KEYS = "trusted_keys"
SEAL = "seal.json"
"""The file beside a manifest: {"sha256": of the manifest, "key": fingerprint, "signature": in hexadecimal}, the last two or null."""
KIND = b"ssh-ed25519"


def manifest_bytes(document: Dict[str, Any]) -> bytes:
    """The manifest's file: what is signed and what lies on the device are the same bytes."""
    return json.dumps(document, sort_keys=True, indent=1).encode("ascii")


def message(app: str, release: str, manifest: bytes) -> bytes:
    """What is signed: a manifest together with the names under which it stands, neither of which can hold a newline."""
    return b"edgec release 1\n%s\n%s\n%s" % (app.encode("ascii"), release.encode("ascii"), manifest)


def key_from(line: str) -> bytes:
    """The 32 bytes of a public key's line.

    Raises:
        ValueError: it is none.
    """
    words = line.split()
    if len(words) < 2 or words[0].encode("utf-8", "replace") != KIND:
        raise ValueError("not an Ed25519 key in OpenSSH's form")
    try:
        blob = base64.b64decode(words[1].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("not in base64") from error
    head = struct.pack(">I", len(KIND)) + KIND + struct.pack(">I", 32)
    if len(blob) != len(head) + 32 or not blob.startswith(head):
        raise ValueError("not an Ed25519 key in OpenSSH's form")
    return blob[len(head) :]


def fingerprint(key: bytes) -> str:
    """As `ssh-keygen -l` shows it."""
    blob = struct.pack(">I", len(KIND)) + KIND + struct.pack(">I", 32) + key
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


class Signature:
    """A signature and the fingerprint of the key that it claims."""

    def __init__(self, key: str, signed: bytes) -> None:
        self.key = key
        self.signed = signed

    @classmethod
    def of(cls, said: Any) -> "Optional[Signature]":
        """From a request or a seal; None where it has none.

        Raises:
            Failure: SignatureRejected, for something that is no signature.
        """
        if not isinstance(said, dict) or said.get("signature") is None:
            return None
        try:
            return cls(str(said["key"])[:100], bytes.fromhex(said["signature"]))
        except (ValueError, KeyError, TypeError) as error:
            raise Failure("SignatureRejected", "the release's signature cannot be read") from error

    def as_json(self) -> Dict[str, str]:
        """For a request."""
        return {"key": self.key, "signature": self.signed.hex()}


def seal_bytes(manifest: bytes, signature: Optional[Signature]) -> bytes:
    """The content of a seal."""
    said = {"key": None, "signature": None} if signature is None else signature.as_json()
    return json.dumps(dict(said, sha256=hashlib.sha256(manifest).hexdigest()), sort_keys=True).encode("ascii")


class Trust:
    """The keys that a device trusts. `folder` is edgec's on the device."""

    def __init__(self, folder: str, system_file: str = SYSTEM_FILE) -> None:
        self.own = os.path.join(folder, KEYS)
        self.system_file = system_file

    def keys(self) -> Optional[Dict[str, bytes]]:
        """Keys by fingerprint; None where signatures are not asked for.

        Raises:
            Failure: SignatureRejected, when the file is there and cannot be read: then nothing is trusted.
        """
        for path in (self.system_file, self.own):
            lines = lines_in(path)
            if lines is not None:
                return {each: key_from(line) for each, line in lines.items()}
        return None

    def lines(self) -> Dict[str, str]:
        """The lines of the folder's own file by fingerprint."""
        return lines_in(self.own) or {}

    def write(self, lines: Dict[str, str]) -> None:
        """Write the folder's own file; without a line it is removed.

        Raises:
            Failure: SignatureRejected, when an administrator's file decides.
        """
        if os.path.exists(self.system_file):
            raise Failure("SignatureRejected", "the keys that this target trusts are its administrator's: %s" % self.system_file)
        if lines:
            write_whole(self.own, "".join(line.strip() + "\n" for line in lines.values()).encode("utf-8"))
        elif os.path.exists(self.own):
            os.unlink(self.own)

    def check(self, app: str, release: str, manifest: bytes, signature: Optional[Signature], demanded: bool) -> None:
        """Refuse what is not signed by a trusted key; `demanded`: also where the device itself has no opinion.

        Raises:
            Failure: SignatureRejected.
        """
        keys = self.keys()
        if keys is None and not demanded:
            return
        refused = "release %s of %s is not activated: " % (release, app)
        if not keys:
            raise Failure("SignatureRejected", refused + "this target trusts no key", trusted=[])
        if signature is None:
            raise Failure("SignatureRejected", refused + "it is not signed, and this target demands that", trusted=sorted(keys))
        key = keys.get(signature.key)
        if key is None:
            what = refused + "it is signed by %s, which this target does not trust" % signature.key
            raise Failure("SignatureRejected", what, trusted=sorted(keys))
        if not verify(key, message(app, release, manifest), signature.signed):
            raise Failure("SignatureRejected", refused + "its signature is not that of its manifest", key=signature.key)


def lines_in(path: str) -> Optional[Dict[str, str]]:
    """The keys' lines in a file by fingerprint; None when there is no such file.

    Raises:
        Failure: SignatureRejected.
    """
    try:
        with open(path, "rb") as file:
            lines = file.read(1 << 20).decode("utf-8").splitlines()
        return {fingerprint(key_from(line)): line for line in lines if line.strip() and not line.lstrip().startswith("#")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Failure("SignatureRejected", "%s cannot be used: %s" % (path, error), path=path) from error
