"""Downloads a full data set, and checks it.

    python -m edgec.models.fetch fashion-mnist
    python -m edgec.models.fetch cifar-10

Fashion-MNIST is 31 MB from its authors' repository (Debian has it as a package), CIFAR-10 170 MB from its author's page. They go into
$EDGEC_DATA/<name> or ~/.cache/edgec/<name>.
"""

import argparse
import http.client
import os
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgec.models import cifar10, fashion_mnist
from edgec.pipeline.core.errors import EdgecError, ModelError

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The files of a data set."""

    source: str
    """Address of the folder that has them."""
    files: tuple[str, ...]
    check: Callable[[Path], object]
    """Raises ModelError for a file that is not the set's."""
    limit_bytes: int
    """No file is half as long; a server that sends more sends something else."""
    otherwise: str = ""
    """How to get it without a download."""


FASHION_MNIST = Wanted(
    source="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    files=tuple(f"{name}.gz" for name in fashion_mnist.CONTENT),
    check=fashion_mnist.content,
    limit_bytes=64_000_000,
    otherwise="On Debian and Ubuntu: apt-get install dataset-fashion-mnist",
)
CIFAR10 = Wanted(source="https://www.cs.toronto.edu/~kriz", files=(cifar10.ARCHIVE,), check=cifar10.content, limit_bytes=400_000_000)
WANTED: Mapping[str, Wanted] = {fashion_mnist.NAME: FASHION_MNIST, cifar10.NAME: CIFAR10}


def fetch(folder: Path, source: str = "", wanted: Wanted = FASHION_MNIST) -> list[Path]:
    """Download the files that are not there yet; each appears under its name only after its content has been checked.

    Args:
        source: address of another folder that has them.

    Raises:
        ModelError: no connection, the server refuses, or what it sent is not the data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name in wanted.files:
        file = folder / name
        if not file.exists():
            fetch_file(f"{source or wanted.source}/{name}", file, wanted)
        files.append(file)
    return files


def fetch_file(url: str, file: Path, wanted: Wanted = FASHION_MNIST) -> None:
    """Download one file, check it, and give it its name."""
    if not url.startswith(("https://", "http://")):
        raise ModelError(f"{url} is not an http address", hint=f"the authors' own is {wanted.source}")
    new = file.parent / f"new-{os.getpid()}" / file.name
    new.parent.mkdir(exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310  (the scheme is checked above, the content below)
            data = answer.read(wanted.limit_bytes)
        new.write_bytes(data)
        wanted.check(new)
        new.replace(file)
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(f"{url} cannot be downloaded: {error}", hint=f"is there a network? {wanted.otherwise}".strip()) from error
    finally:
        new.unlink(missing_ok=True)
        new.parent.rmdir()


def main() -> None:
    """Read the command line and download."""
    parser = argparse.ArgumentParser(prog="python -m edgec.models.fetch", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=sorted(WANTED))
    parser.add_argument("--source", default="", help="address of another folder with the files")
    chosen = parser.parse_args()
    try:
        files = fetch(fashion_mnist.cache_folder(chosen.name), chosen.source, WANTED[chosen.name])
    except EdgecError as error:
        sys.stderr.write(f"{error}\n{error.hint}\n")
        raise SystemExit(error.exit_code) from error
    sys.stdout.write("".join(f"{file}\n" for file in files))


if __name__ == "__main__":
    main()
