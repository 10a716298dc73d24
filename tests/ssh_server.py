"""A real OpenSSH server on a loopback port, with its own host key, its own authorized key and its own home folder."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edgec.pipeline.core.settings import TargetSettings

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no OpenSSH server here (Debian: openssh-server)")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def make_key(path: Path, kind: str = "ed25519") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)


class SshServer:
    """Started by `start`, stopped by `stop`. `folder` has to be empty."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port = free_port()
        self.home.mkdir(parents=True)
        make_key(folder / "host_key")
        make_key(folder / "client_key")
        shutil.copy(folder / "client_key.pub", folder / "authorized_keys")
        self.known_hosts.write_text(self.known_line())
        (folder / "ssh_config").write_text("")
        # sshd re-executes itself after chdir /: only absolute paths survive
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder / 'host_key'}",
            f"PidFile {folder / 'pid'}",
            f"AuthorizedKeysFile {folder / 'authorized_keys'}",
            f"SetEnv HOME={self.home}",
            "StrictModes no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "UseDNS no",
            "Subsystem sftp internal-sftp",
            *options,
        ]
        (folder / "conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def known_line(self) -> str:
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

    def settings(self, **changes: object) -> TargetSettings:
        base = TargetSettings(
            name="board",
            host="127.0.0.1",
            port=self.port,
            user=getpass.getuser(),
            identity_file=self.folder / "client_key",
            known_hosts=self.known_hosts,
            ssh_config=self.folder / "ssh_config",
            python=sys.executable,
            connect_timeout_s=10.0,
            request_timeout_s=30.0,
        )
        return replace(base, **changes)  # type: ignore[arg-type]

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        assert SSHD is not None
        self._process = subprocess.Popen([SSHD, "-D", "-f", str(self.folder / "conf"), "-E", str(self.folder / "log")])
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self._process is None:
            return
        self.resume()
        self.cut()
        self._process.terminate()
        self._process.wait(10)
        self._process = None

    def sessions(self) -> list[psutil.Process]:
        """Every process below the listener: sshd's children, and what runs in their sessions."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children(recursive=True)

    def cut(self) -> None:
        """Kill the sessions' sshd processes, as a power cut of the link's far end would."""
        for process in self.sessions():
            try:
                if process.name().startswith("sshd"):
                    process.kill()
            except psutil.NoSuchProcess:
                continue

    def freeze(self) -> None:
        """Stop the listener without closing its socket: the kernel goes on accepting connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
