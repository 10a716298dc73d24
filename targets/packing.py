"""Compression of uploads, where it pays: weights in int8 and images shrink, random floats and wheels do not."""

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
    size = file.stat().st_size
    with file.open("rb") as reader:
        taken = packed_size = 0
        for index in range(SAMPLES):
            reader.seek(index * max(0, size - SAMPLE) // max(1, SAMPLES - 1))
            data = reader.read(SAMPLE)
            taken, packed_size = taken + len(data), packed_size + len(zlib.compress(data, LEVEL))
        if packed_size > WORTH * taken:
            return None
        reader.seek(0)
        target, deflater = folder / "upload.z", zlib.compressobj(LEVEL)
        with target.open("wb") as writer:
            while data := reader.read(1 << 20):
                writer.write(deflater.compress(data))
            writer.write(deflater.flush())
    return target
