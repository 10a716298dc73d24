"""Makes a private environment (`environment.py`) of wheels that lie here or that this board downloads.

A wheel is a zip whose files lie as they are imported (PyPA, Binary distribution format), so unpacking is installing, and needs neither pip
nor venv on the board: scripts, headers, data and .pth files of a wheel are left aside, since a runtime is only imported. An environment is
complete, forced to the disk and has been imported once before the link goes to it.
"""

import http.client
import importlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from hashlib import sha256
from importlib.machinery import PathFinder
from typing import Any, Callable, Dict, Iterator, List

from edgec.targets.agent.environment import IMPORT_S, LISTING, Environments, interpreter, name_of, variables
from edgec.targets.agent.folder import Folder, checked_digest, digest_of, sync, write_whole
from edgec.targets.agent.identity import modules_in
from edgec.targets.agent.objects import MARGIN, Objects
from edgec.targets.agent.wire import Failure, Fields

ROUTE_S = 15.0
"""Patience with a server from which nothing comes."""
PART = ".part"
IMPORT = "import importlib, sys; sys.path.insert(0, sys.argv[1]); [importlib.import_module(name) for name in sys.argv[2:]]"

Event = Callable[[Dict[str, Any]], None]


class NoRoute(Exception):
    """A wheel cannot be had from where the index says."""


class Wheel:
    """A wheel that belongs to an environment: `size` of the file and `unpacked` of its content in bytes."""

    def __init__(self, fields: Fields) -> None:
        self.digest = checked_digest(fields.text("digest"))
        self.size = fields.whole("size")
        self.unpacked = fields.whole("unpacked")
        self.url = fields.text("url", "")


def make(environments: Environments, runtime: str, wheels: List[Wheel], objects: Objects, event: Event) -> bool:
    """Unpack, try, activate; False when it was there already, whole.

    Raises:
        Failure: DeviceFull, DigestMismatch, ToolchainMissing (it does not import here); nothing has changed then.
    """
    name = name_of([wheel.digest for wheel in wheels])
    made = not environments.is_whole(name)
    if made:
        os.makedirs(environments.path, exist_ok=True)
        sweep(environments.path)
        objects.folder.check_space(sum(wheel.unpacked for wheel in wheels) + MARGIN)
        draft, final = os.path.join(environments.path, name + PART), os.path.join(environments.path, name)
        try:
            unpack(draft, wheels, objects, event)
            require_imports(runtime, os.path.join(draft, "site"))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # its space is needed; what stays is swept the next time
            raise
        os.sync()
        if os.path.isdir(final):  # damaged: out of the way in one step, so that nobody sees it half removed
            os.rename(final, os.path.join(environments.path, name + ".old" + PART))
        os.rename(draft, final)
        sync(environments.path)
    activate(environments, runtime, name)
    for wheel in wheels:
        drop(objects, wheel.digest)
    return made


def unpack(draft: str, wheels: List[Wheel], objects: Objects, event: Event) -> None:
    """Fill a draft of an environment; its listing comes last.

    Raises:
        Failure: DigestMismatch.
    """
    site, total, done, said = os.path.join(draft, "site"), sum(wheel.unpacked for wheel in wheels), 0, 0.0
    os.makedirs(site)
    listing = {}  # type: Dict[str, List[Any]]
    for wheel in wheels:
        path = objects.path(wheel.digest)
        if digest_of(path) != wheel.digest:
            drop(objects, wheel.digest)
            raise Failure("DigestMismatch", "wheel %s was damaged on the disk" % wheel.digest[:16], digest=wheel.digest)
        for relative, size, digest in unpacked(path, site, wheel.unpacked):
            listing[relative] = [size, digest]
            done += size
            if time.monotonic() - said > 1.0:
                said = time.monotonic()
                event({"done": done, "total": total})
    write_whole(os.path.join(draft, LISTING), json.dumps(listing, sort_keys=True).encode("ascii"))


def activate(environments: Environments, runtime: str, name: str) -> None:
    """Lead a runtime's link to a complete environment, in one step."""
    link = environments.link(runtime)
    if environments.current(runtime) != name:
        temporary = link + PART
        if os.path.islink(temporary):
            os.unlink(temporary)
        os.symlink(name, temporary)
        os.replace(temporary, link)
        sync(environments.path)
    sweep(environments.path)


def sweep(path: str) -> None:
    """Remove what is half made, and environments that no link leads to."""
    entries = [os.path.join(path, entry) for entry in os.listdir(path)]
    used = {os.path.join(path, os.readlink(each)) for each in entries if os.path.islink(each) and not each.endswith(PART)}
    for each in entries:
        if os.path.islink(each):
            if each.endswith(PART):
                os.unlink(each)
        elif each.endswith(PART):
            shutil.rmtree(each)
        elif each not in used:
            os.rename(each, each + PART)
            shutil.rmtree(each + PART)


def drop(objects: Objects, digest: str) -> None:
    """Forget a wheel: unpacked it would only take space."""
    path = objects.folder.at("objects", digest)
    if os.path.isfile(path):
        os.unlink(path)


def unpacked(wheel: str, site: str, limit: int) -> Iterator[Any]:
    """Unpack a wheel's packages into `site`: (path below site, size, SHA-256) of each file.

    Raises:
        Failure: DigestMismatch, when it is not a wheel, is damaged, holds more than `limit` bytes, or a name that leads elsewhere.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                relative = place_in_site(info.filename)
                if not relative:
                    continue
                limit -= info.file_size
                if limit < 0:
                    raise Failure("DigestMismatch", "a wheel holds more than was said of it")
                target = os.path.join(site, relative)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                sha = sha256()
                with archive.open(info) as reader, open(target, "wb") as writer:
                    for block in iter(lambda: reader.read(1 << 20), b""):
                        sha.update(block)
                        writer.write(block)
                yield relative, info.file_size, sha.hexdigest()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise Failure("DigestMismatch", "a wheel cannot be unpacked: %s" % error) from error


def place_in_site(name: str) -> str:
    """Where a wheel's entry belongs below site; empty for a folder and for what is not imported.

    Raises:
        Failure: DigestMismatch, when the name leads elsewhere.
    """
    if name.endswith("/"):
        return ""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise Failure("DigestMismatch", "a wheel holds the name %r" % name[:200])
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if parts[1:2] in (["purelib"], ["platlib"]) else ""
    return name


def require_imports(runtime: str, site: str) -> None:
    """Import a runtime and what it needs out of `site`, in another process.

    Raises:
        Failure: ToolchainMissing, with the reason; a processor without an instruction that the wheel uses ends it by SIGILL.
    """
    if runtime not in modules_in("edgec.targets.agent.runners"):
        raise Failure("ToolchainMissing", "this agent has no runner %r" % runtime, runtime=runtime)
    runner = importlib.import_module("edgec.targets.agent.runners." + runtime).RUNNER
    package = next((package for package, _ in runner.packages if PathFinder.find_spec(package, [site]) is not None), None)
    if package is None:
        raise Failure("ToolchainMissing", "the wheels hold no %s" % " or ".join(package for package, _ in runner.packages))
    modules = [*runner.needs, runner.modules[package]]
    try:
        done = subprocess.run(
            [sys.executable, "-c", IMPORT, site, *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(os.environ, **variables(platform.machine(), sys.version_info[:2])),
            check=False,
            timeout=IMPORT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Failure("ToolchainMissing", "%s takes more than %.0f s to import" % (package, IMPORT_S)) from error
    if done.returncode == 0:
        return
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["status %d" % done.returncode]
    if done.returncode < 0:
        said = ["ended by %s" % next((each.name for each in signal.Signals if each.value == -done.returncode), str(-done.returncode))]
    raise Failure("ToolchainMissing", "%s is unpacked and cannot be imported here: %s" % (package, said[0][:500]), runtime=runtime)


def describe(folder: Folder, fields: Fields) -> Dict[str, Any]:
    """This interpreter, and which environment a runtime has, checked file by file. Asked for space that is not there it refuses.

    Raises:
        Failure: DeviceFull, DeviceReadOnly.
    """
    environments = Environments(folder.at("env"))
    name = environments.current(fields.text("runtime"))
    needed = fields.whole("needed", 0)
    if needed:
        folder.check_space(needed + MARGIN)
    return dict(interpreter(), current=name, whole=bool(name) and environments.is_whole(name))


def prepare(objects: Objects, fields: Fields, event: Event) -> Dict[str, Any]:
    """Make an environment of wheels that are here, or (`fetch`) that this board gets from the index itself.

    A board without a route to the index says so in `no_route`, and has made nothing.
    """
    wheels = [Wheel(Fields(Fields({"wheel": each}).object("wheel"))) for each in fields.array("wheels")]
    fetched = 0
    if fields.flag("fetch"):
        for wheel in wheels:
            if objects.missing([wheel.digest]):
                try:
                    fetch(wheel, objects, event)
                except NoRoute as error:
                    return {"made": False, "fetched": fetched, "no_route": str(error)}
                fetched += wheel.size
    made = make(Environments(objects.folder.at("env")), fields.text("runtime"), wheels, objects, event)
    return {"made": made, "fetched": fetched, "no_route": ""}


def fetch(wheel: Wheel, objects: Objects, event: Event) -> None:
    """Download a wheel from its index; it counts only by its digest.

    Raises:
        NoRoute: the server does not give it. Failure: DeviceFull, DigestMismatch.
    """
    place = objects.reserve(wheel.digest, wheel.size, wheel.size + wheel.unpacked)
    said, done = 0.0, 0
    with open(place["path"], "wb") as writer:
        for block in download(wheel.url):
            done += len(block)
            if done > wheel.size:
                break
            writer.write(block)
            if time.monotonic() - said > 1.0:
                said = time.monotonic()
                event({"done": done, "total": wheel.size})
    objects.commit(wheel.digest, wheel.size)


def download(url: str) -> Iterator[bytes]:
    """The content behind an address.

    Raises:
        NoRoute: it is not to be had.
    """
    if not url.startswith(("https://", "http://")):
        raise NoRoute("%r is no address on the web" % url[:200])
    try:
        with urllib.request.urlopen(url, timeout=ROUTE_S) as reply:  # noqa: S310  https or http, checked above
            block = reply.read(1 << 16)
            while block:
                yield block
                block = reply.read(1 << 16)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoRoute("%s: %s" % (url.split("?", maxsplit=1)[0], error)) from error
