"""Files that are never half written: temporary name beside the target, fsync, rename, fsync of the folder."""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.records import Digest

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG}
"""What a full, read-only or broken disk says."""


def digest_of(file: Path) -> Digest:
    """SHA-256 of a file's bytes, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder; on leaving without an exception it becomes the target, else it is removed.

    Raises:
        ConfigError: the folder cannot be written to; said before the block is entered.
        StoreError: the disk is full or broken. Other errors of the block pass through.
    """
    if target.is_dir():
        raise ConfigError(f"{target} is a folder", hint="name a file in it")
    try:
        handle, name = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise StoreError(f"cannot write {target}: {error.strerror}", hint="free some space, or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: Path, text: str) -> None:
    """Write a whole text file, or leave the old one."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(target: Path, error: OSError) -> ConfigError:
    """The error for a place that cannot be written to."""
    return ConfigError(
        f"cannot write to {target.parent}: {error.strerror}",
        hint="choose a folder you may write to, or change its permissions",
        context={"path": str(target)},
    )
