"""Ed25519 keys on the host: made, kept, used for signing. The device's half, which only verifies, is `agent/trust.py`.

A private key is an OpenSSH file without a passphrase, readable by its owner only; `ssh-keygen` can make and show one too. Nothing of it
is ever logged or put into an error.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.files import unwritable
from edgec.targets.agent.trust import Signature, fingerprint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DEFAULT = Path("~/.config/edgec/signing_key")


def generate(path: Path, comment: str) -> str:
    """Make a key in `path` (mode 0600) and its public line in `path`.pub; the line.

    Raises:
        ConfigError: there is one already, or the place cannot be written to.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    line = f"{public_line(key)} {comment}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
            file.flush()
            os.fsync(file.fileno())
        path.with_name(path.name + ".pub").write_text(line + "\n")
    except FileExistsError as error:
        hint = "name another file with --key; a key that is thrown away takes the trust of every target with it"
        raise ConfigError(f"there is a file {path} already", hint=hint) from error
    except OSError as error:
        raise unwritable(path, error) from error
    return line


def private_key(path: Path) -> "Ed25519PrivateKey":
    """Read a key.

    Raises:
        ConfigError: it is not there, others may read it, or it is no Ed25519 key without a passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"others may read the signing key {path}", hint=f"chmod 600 {path}")
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ConfigError(f"the signing key {path} cannot be read: {error.strerror}", hint="edgec keys generate makes one") from error
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None  # the cause is not chained: a library's message may quote the file
    if not isinstance(key, Ed25519PrivateKey):
        what = f"{path} is no Ed25519 key in OpenSSH's form without a passphrase"
        raise ConfigError(what, hint="edgec keys generate makes one")
    return key


def public_of(key: "Ed25519PrivateKey") -> bytes:
    """The 32 bytes of its public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def public_line(key: "Ed25519PrivateKey") -> str:
    """Its public key as in a .pub file, without a comment."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def signed(key: "Ed25519PrivateKey", message: bytes) -> Signature:
    """A signature of a message."""
    return Signature(fingerprint(public_of(key)), key.sign(message))
