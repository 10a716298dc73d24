"""Compression of uploads, where it pays: weights in int8 and images shrink, random floats and wheels do not."""

import functools
import zlib
from pathlib import Path

SAMPLES, SAMPLE = 4, 64 * 1024
"""Pieces, evenly spread, from which it is guessed whether a file shrinks."""
WORTH = 0.8
"""Largest size, as a share of the file's, that is worth the time of both ends: zlib's fastest level takes 100 MB/s and more on a host, the
same order as a wired link, and a board unpacks faster than it decrypts."""
LEVEL = 1


def packed(file: Path, folder: Path) -> Path | None:
    """A zlib stream of the file in `folder`; None where it does not pay. The same file always gives the same bytes (for one zlib)."""
    stat = file.stat()
    if not _pays(file, stat.st_size, stat.st_mtime_ns):
        return None
    with file.open("rb") as reader:
        target, deflater = folder / "upload.z", zlib.compressobj(LEVEL)
        with target.open("wb") as writer:
            while data := reader.read(1 << 20):
                writer.write(deflater.compress(data))
            writer.write(deflater.flush())
    return target


@functools.lru_cache(maxsize=256)
def _pays(file: Path, size: int, _changed_ns: int) -> bool:
    """Tried once for a file that goes to many targets."""
    taken = packed_size = 0
    with file.open("rb") as reader:
        for index in range(SAMPLES):
            reader.seek(index * max(0, size - SAMPLE) // max(1, SAMPLES - 1))
            data = reader.read(SAMPLE)
            taken, packed_size = taken + len(data), packed_size + len(zlib.compress(data, LEVEL))
    return packed_size <= WORTH * taken
