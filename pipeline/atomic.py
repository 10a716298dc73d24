"""Files that are whole or absent."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgec.pipeline.core.errors import LoweringError


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Gives a temporary path beside `out`; renames it when the block ends, removes it when the block raises.

    Raises:
        LoweringError: the folder is missing, read-only or full.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            part.chmod(0o644)
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise LoweringError(f"cannot write {out}: {error.strerror}", hint="give a folder that exists, is writable and has space") from error
