"""Downloads the full Fashion-MNIST where Debian's package is not at hand, and checks it.

    python -m edgec.models.fetch fashion-mnist

31 MB from the authors' repository into $EDGEC_DATA/fashion-mnist or ~/.cache/edgec/fashion-mnist.
"""

import argparse
import http.client
import os
import sys
import urllib.request
from pathlib import Path

from edgec.models.fashion_mnist import CONTENT, cache_folder, content
from edgec.pipeline.core.errors import EdgecError, ModelError

SOURCE = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
TIMEOUT_S = 30.0
LIMIT_BYTES = 64_000_000
"""No file of the set is half as long; a server that sends more sends something else."""


def fetch(folder: Path, source: str = SOURCE) -> list[Path]:
    """Download the files that are not there yet; each appears under its name only after its content has been checked.

    Raises:
        ModelError: no connection, the server refuses, or what it sent is not Fashion-MNIST.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in CONTENT:
        file = folder / f"{name}.gz"
        if not file.exists():
            fetch_file(f"{source}/{file.name}", file)
        files.append(file)
    return files


def fetch_file(url: str, file: Path) -> None:
    """Download one file, check it, and give it its name."""
    if not url.startswith(("https://", "http://")):
        raise ModelError(f"{url} is not an http address", hint=f"the authors' own is {SOURCE}")
    new = file.parent / f"new-{os.getpid()}" / file.name
    new.parent.mkdir(exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310  (the scheme is checked above, the content below)
            data = answer.read(LIMIT_BYTES)
        new.write_bytes(data)
        content(new)
        new.replace(file)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"{url} cannot be downloaded: {error}", hint="is there a network? On Debian and Ubuntu: apt-get install dataset-fashion-mnist"
        ) from error
    finally:
        new.unlink(missing_ok=True)
        new.parent.rmdir()


def main() -> None:
    """Read the command line and download."""
    parser = argparse.ArgumentParser(prog="python -m edgec.models.fetch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=["fashion-mnist"])
    parser.add_argument("--source", default=SOURCE, help="address of the folder with the four .gz files")
    chosen = parser.parse_args()
    try:
        files = fetch(cache_folder(), chosen.source)
    except EdgecError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        raise SystemExit(error.exit_code) from error
    sys.stdout.write("".join(f"{file}\n" for file in files))


if __name__ == "__main__":
    main()
