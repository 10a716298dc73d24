"""Chooses wheels for another machine: its tags from what its agent says, the files by pip, on this machine.

Tags: PEP 425 (interpreter and ABI), PEP 600 (manylinux_X_Y: runs with glibc X.Y and newer), and plain linux_<machine>, which vendors' own
indexes use. pip is given every tag that the board takes, best first, since its --platform is exact; what it resolves is held against the
board once more, because pip evaluates environment markers ("only for Python below 3.11") on the machine that it runs on.
"""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from edgec.pipeline.core.errors import DigestMismatch, LoweringError, ToolchainMissing
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.records import Digest, PinnedWheel, TargetFacts, WheelLock
from edgec.targets.replies import EnvironmentThere

USERLAND_32 = {"aarch64": "armv7l", "x86_64": "i686"}
"""Architecture of a 32-bit interpreter on a 64-bit kernel (Raspberry Pi OS, 32 bit)."""
LOWEST_GLIBC = {"x86_64": 5, "i686": 5}
"""Minor version of glibc 2 where manylinux begins; 17 elsewhere (PEP 599)."""
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""The same glibc by its older name (PEP 600, Legacy manylinux tags)."""
NO_INDEX = "after connection broken by"
"""What pip says of each attempt at an index that does not answer."""
PIP_S = 900.0
"""Patience with pip: a slow line and 300 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What decides which wheels a board takes."""

    version: str
    """Of Python: 3.11.2."""
    abi: str
    machine: str
    """Of the interpreter, not of the kernel."""
    libc: str
    platforms: tuple[str, ...]

    @property
    def name(self) -> str:
        """For a person."""
        return f"Python {self.version} on {self.machine} with {self.libc}"


def place_of(facts: TargetFacts, there: EnvironmentThere) -> Place:
    """Which wheels a board takes.

    Raises:
        LoweringError: none, or it cannot be known.
    """
    if there.implementation != "cpython" or facts.system != "Linux":
        what = f"there are no wheels of runtimes for {there.implementation} on {facts.system}"
        raise LoweringError(what, hint="name a CPython as `python` of the target")
    glibc = re.fullmatch(r"glibc 2\.(\d{1,3})(\.\d+)*", facts.libc)
    if glibc is None:
        what = f"wheels are chosen by the version of glibc, and its C library is {facts.libc or 'unknown'}"
        raise LoweringError(what, hint="install the runtime there by the system's own packages")
    machine = USERLAND_32.get(facts.machine, facts.machine) if there.bits == 32 else facts.machine
    platforms = []
    for minor in range(int(glibc[1]), LOWEST_GLIBC.get(machine, 17) - 1, -1):
        platforms.append(f"manylinux_2_{minor}_{machine}")
        if minor in LEGACY:
            platforms.append(f"{LEGACY[minor]}_{machine}")
    return Place(version=there.version, abi=there.abi, machine=machine, libc=facts.libc, platforms=(f"linux_{machine}", *platforms))


def choose(runtime: str, requirements: Sequence[str], place: Place, folder: Path) -> tuple[WheelLock, dict[Digest, Path]]:
    """The wheels that fulfil requirements, with all that they need, and their files in `folder`.

    Raises:
        ToolchainMissing: no pip here, or no index to be reached. LoweringError: a package has no wheel for that board.
    """
    found = _resolve(requirements, place)
    links = {item["download_info"]["url"]: item["download_info"]["archive_info"]["hashes"]["sha256"] for item in found}
    files = download(links, place, folder)
    wheels = []
    for item in found:
        url, digest = item["download_info"]["url"], item["download_info"]["archive_info"]["hashes"]["sha256"]
        with zipfile.ZipFile(files[digest]) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        wheels.append(
            PinnedWheel(
                name=item["metadata"]["name"],
                version=item["metadata"]["version"],
                file=files[digest].name,
                digest=digest,
                size_bytes=files[digest].stat().st_size,
                unpacked_bytes=unpacked,
                url=url,
            )
        )
    lock = WheelLock(
        runtime=runtime,
        requirements=tuple(requirements),
        abi=place.abi,
        platforms=place.platforms,
        wheels=tuple(sorted(wheels, key=lambda each: each.name.lower())),
    )
    return lock, files


def download(links: Mapping[str, Digest], place: Place, folder: Path) -> dict[Digest, Path]:
    """Files of an index by their addresses, each checked against its digest.

    Raises:
        ToolchainMissing: no index to be reached. DigestMismatch: the index gives something else now.
    """
    listing = folder / "wheels.txt"
    listing.write_text("".join(f"{url} --hash=sha256:{digest}\n" for url, digest in links.items()))
    _pip("download", "--no-deps", "--require-hashes", "--requirement", str(listing), "--dest", str(folder), *_tags(place), place=place)
    files = {digest: folder / unquote(urlsplit(url).path.rpartition("/")[2]) for url, digest in links.items()}
    for digest, file in files.items():
        if digest_of(file) != digest:
            raise DigestMismatch(f"{file.name} is not the file that was pinned", context={"expected": digest})
    return files


def _resolve(requirements: Sequence[str], place: Place) -> list[dict[str, Any]]:
    """Items of pip's installation report, just those that the board needs."""
    roots = list(requirements)
    while True:
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            report = Path(folder) / "report.json"
            words = ["--dry-run", "--ignore-installed", "--target", folder, "--report", str(report), *_tags(place)]
            _pip("install", *words, "--", *roots, place=place)
            items = json.loads(report.read_text(encoding="utf-8"))["install"]
        needed, absent = needed_of(requirements, {item["metadata"]["name"]: item["metadata"] for item in items}, place)
        if not absent:
            return [item for item in items if item["metadata"]["name"] in needed]
        roots += sorted(absent)


def needed_of(requirements: Sequence[str], packages: Mapping[str, Mapping[str, Any]], place: Place) -> tuple[set[str], set[str]]:
    """(names of packages that the board needs, requirements that none of them fulfils), markers evaluated for the board."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    names = {canonicalize_name(name): name for name in packages}
    needed: set[str] = set()
    absent: set[str] = set()
    waiting = [Requirement(each) for each in requirements]
    while waiting:
        wanted = waiting.pop()
        name = names.get(canonicalize_name(wanted.name))
        if name is None:
            wanted.marker = None
            absent.add(str(wanted))
        elif name not in needed:
            needed.add(name)
            for text in packages[name].get("requires_dist") or ():
                more = Requirement(text)
                extras = [{"extra": extra} for extra in ("", *wanted.extras)]
                if more.marker is None or any(more.marker.evaluate(markers(place) | extra) for extra in extras):
                    waiting.append(more)
    return needed, absent


def markers(place: Place) -> dict[str, str]:
    """PEP 508's environment markers of a board."""
    return {
        "implementation_name": "cpython",
        "implementation_version": place.version,
        "os_name": "posix",
        "platform_machine": place.machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": place.version,
        "python_version": ".".join(place.version.split(".")[:2]),
        "sys_platform": "linux",
    }


def _tags(place: Place) -> list[str]:
    words = ["--only-binary=:all:", "--implementation", "cp", "--abi", place.abi, "--python-version", place.version.rstrip("+")]
    return words + [word for platform in place.platforms for word in ("--platform", platform)]


def _pip(*words: str, place: Place) -> None:
    """Run pip; its settings (index, proxy, certificates) are the user's."""
    if importlib.util.find_spec("pip") is None:
        raise ToolchainMissing("wheels are chosen by pip, which this Python lacks", hint=f"{sys.executable} -m ensurepip")
    command = [sys.executable, "-m", "pip", words[0], "--disable-pip-version-check", "--no-input", *words[1:]]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PIP_S)
    except subprocess.TimeoutExpired as error:
        raise ToolchainMissing(f"pip did not end within {PIP_S:.0f} s", hint="is the package index slow or far? try again") from error
    if done.returncode == 0:
        return
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    context: dict[str, object] = {"pip": "\n".join(said[-6:])[-1500:]}
    if NO_INDEX in done.stderr:
        hint = "connect this machine, or point pip at another index or a folder of wheels (PIP_INDEX_URL, PIP_FIND_LINKS)"
        raise ToolchainMissing("pip does not reach a package index from here", hint=hint, context=context)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise DigestMismatch("the index does not give the file that was pinned", hint="run again with --upgrade", context=context)
    lacking = re.search(r"No matching distribution found for ([^\n(]+)", done.stderr)
    what = f"{lacking[1].strip()} has no wheel" if lacking else "pip finds no set of wheels"
    hint = "an index that has one: PIP_EXTRA_INDEX_URL (32-bit Raspberry Pi OS: https://www.piwheels.org/simple)"
    raise LoweringError(f"{what} for {place.name}", hint=hint, context=context)
