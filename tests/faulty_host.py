"""A loopback SSH host that can be struck: its link, its agent, its disk, its clock, single bytes on the wire and at rest."""

import contextlib
import ctypes
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from ssh_server import SshServer

from edgec.pipeline.core.settings import TargetSettings

SKEWED = """
import runpy, sys, time
real, offset = time.time, sys.argv[1]
def skewed():
    with open(offset) as file:
        return real() + float(file.read() or 0)
time.time = skewed
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the agent with a wall clock that is as far off as a file says; the monotonic clock is left alone, as a real step leaves it."""


MS_RDONLY, MS_REMOUNT = 1, 32
"""<sys/mount.h>: a call is quicker than the program, which takes longer than a whole rollback."""


class Tap:
    """A TCP relay to a port of this machine, which can cut its connections or change one byte that passes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._flip = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection at both ends."""
        for pair in self._pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def flip(self) -> None:
        """Change one bit of the next data."""
        self._flip = True

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:  # closed
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._pairs.append((near, far))
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        ends = {near: far, far: near}
        with near, far, contextlib.suppress(OSError):
            while True:
                for each in select.select(list(ends), [], [])[0]:
                    data = bytearray(each.recv(65536))
                    if not data:
                        return
                    if self._flip:
                        self._flip = False
                        data[len(data) // 2] ^= 0x10
                    ends[each].sendall(data)


class FaultyHost:
    """One host with a disk of its own; `how_full` says how its disk is made full, `how_read_only` how it is made read-only."""

    def __init__(self, folder: Path, *, size_mb: int = 32) -> None:
        self.server = SshServer(folder / "host")
        self.disk = folder / "disk"
        self.disk.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size_mb}m", "edgec-faults", str(self.disk)]
        self.mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
        self.how_full = f"a tmpfs of {size_mb} MB, filled" if self.mounted else "RLIMIT_FSIZE of the agent and the SFTP server"
        self.how_read_only = "the file system mounted read-only" if self.mounted else "folders without write permission"
        self.server.start()
        self.tap = Tap(self.server.port)
        self.server.known_hosts.write_text(self.server.known_line().replace(str(self.server.port), str(self.tap.port)))
        self.offset = folder / "offset"
        self.offset.write_text("0")
        (folder / "skewed.py").write_text(SKEWED)
        self._python = folder / "python"
        self._python.write_text(
            f'#!/bin/sh\ncase $1 in -*) exec {sys.executable} "$@";; esac\nexec {sys.executable} {folder}/skewed.py {self.offset} "$@"\n'
        )
        self._python.chmod(0o755)

    @property
    def root(self) -> Path:
        """edgec's folder there."""
        return self.disk / "edgec"

    def settings(self) -> TargetSettings:
        return self.server.settings(
            port=self.tap.port,
            folder=str(self.root),
            python=str(self._python),
            health=("test", "-f", "model.onnx"),
            connect_timeout_s=10.0,
            request_timeout_s=15.0,
        )

    def close(self) -> None:
        self.tap.close()
        self.server.stop()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def strike(self, fault: str, dice: random.Random) -> None:
        """Let it happen, now."""
        {
            "link cut": lambda: self.tap.cut() if dice.random() < 0.5 else self.server.cut(),
            "agent killed": self._kill_agents,
            "disk full": self.fill,
            "read-only root": self._make_read_only,
            "clock jump": lambda: self.offset.write_text(str(dice.choice([-1, 1]) * dice.uniform(3600, 400 * 86400))),
            "byte in flight": self.tap.flip,
            "byte at rest": lambda: self._rot(dice),
        }[fault]()

    def mend(self) -> None:
        """The power is back, the disk has room, the clock is right."""
        self.offset.write_text("0")
        self.tap._flip = False
        (self.disk / "hog").unlink(missing_ok=True)
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(self.disk)], check=True)
        else:
            for place, _, _ in os.walk(self.disk):
                Path(place).chmod(0o755)

    def _agents(self) -> Iterator[psutil.Process]:
        for process in self.server.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "--folder" in process.cmdline() and "python" in process.cmdline()[0]:
                    yield process

    def _kill_agents(self) -> None:
        for process in self._agents():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def fill(self, left_bytes: int = 0) -> None:
        """Leave no more room than that."""
        if self.mounted:
            stat = os.statvfs(self.disk)
            with (self.disk / "hog").open("ab", buffering=0) as file, contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.tell(), max(0, stat.f_bavail * stat.f_frsize - left_bytes))
                file.seek(0, os.SEEK_END)
                while left_bytes == 0:
                    file.write(b"x" * 4096)
            return
        if left_bytes:
            return
        for process in self.server.sessions():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.rlimit(psutil.RLIMIT_FSIZE, (1, 1))

    def _make_read_only(self) -> None:
        if not self.mounted:
            for place, _, _ in os.walk(self.root):
                Path(place).chmod(0o555)
            return
        end, libc = time.monotonic() + 3.0, ctypes.CDLL(None)
        while time.monotonic() < end:  # refused while a file is open for writing, as an agent's lock is: it hardly ever strikes
            if libc.mount(b"none", bytes(self.disk), None, MS_RDONLY | MS_REMOUNT, None) == 0:
                return
            time.sleep(0.0005)

    def _rot(self, dice: random.Random) -> None:
        """Change one bit of a file that is not part of a release which has been verified: what rots after that is no fault of a deploy's
        order of steps; the next deploy of it finds and mends it (tests/contract/test_sessions.py)."""
        apps = self.root / "apps"
        finished = {each.stat().st_ino for each in apps.glob("*/releases/[!.]*/*")}
        files = [each for each in self.root.rglob("*") if each.is_file() and not each.is_symlink() and each.stat().st_ino not in finished]
        files = [each for each in files if each.stat().st_size]
        if files:
            self.flip_bit(dice.choice(files), dice)

    def flip_bit(self, file: Path, dice: random.Random) -> None:
        with contextlib.suppress(FileNotFoundError):
            file.chmod(0o644)
            with file.open("r+b") as stream:
                at = dice.randrange(file.stat().st_size)
                stream.seek(at)
                byte = stream.read(1)
                if byte:
                    stream.seek(at)
                    stream.write(bytes([byte[0] ^ 1 << dice.randrange(8)]))
