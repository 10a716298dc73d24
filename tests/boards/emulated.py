"""ARM64 boards under QEMU: a real kernel, disk, OpenSSH server and Python, with the identity that a board's device tree gives it.

What runs there is Debian of this machine's own suite, not the vendor's system. Timings say nothing about any board.

    python tests/boards/emulated.py jetson-nano     boots one, prints how to sign in, and ends it with Ctrl-C
"""

import fcntl
import gzip
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ssh_server import free_port, make_key

from edgec.pipeline.core.settings import TargetSettings

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".edgec" / "boards"
TOOLS = ("apt-get", "mmdebstrap", "qemu-system-aarch64", "qemu-img", "fdtput", "modprobe", "cpio", "mke2fs", "xz")
BOOT_S = 900.0
"""Patience with a start, for machines that have other work too."""


@dataclass(frozen=True)
class Kind:
    """What makes a machine this board for who looks at it."""

    model: str
    compatible: tuple[str, ...]
    """Words of the device tree, of Linux' arch/arm64/boot/dts; QEMU's own word follows them."""
    cpu: str
    files: Mapping[str, str] = field(default_factory=dict)
    """Of the vendor's system."""


KINDS = {
    "jetson-nano": Kind(
        model="NVIDIA Jetson Nano Developer Kit",
        compatible=("nvidia,p3450-0000", "nvidia,jetson-nano", "nvidia,tegra210"),
        cpu="cortex-a57",
        files={
            "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, "
            "DATE: Sat Feb 19 17:05:08 UTC 2022\n"
        },
    ),
    "raspberry-pi-4": Kind(
        model="Raspberry Pi 4 Model B Rev 1.4",
        compatible=("raspberrypi,4-model-b", "brcm,bcm2711"),
        cpu="cortex-a72",
        files={"etc/rpi-issue": "Raspberry Pi reference 2024-10-22\n"},
    ),
    "raspberry-pi-5": Kind(
        model="Raspberry Pi 5 Model B Rev 1.0",
        compatible=("raspberrypi,5-model-b", "brcm,bcm2712"),
        cpu="cortex-a76",
        files={"etc/rpi-issue": "Raspberry Pi reference 2024-10-22\n"},
    ),
}


def missing() -> str:
    """Why no board can be emulated here; empty when it can."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if absent:
        return f"emulated boards need {', '.join(absent)}: `make system` installs them"
    return "" if os.geteuid() == 0 else "the emulated boards' disk is made by root"


def base() -> Path:
    """The folder with the kernel and the system that all boards share; built when base.sh has changed (about a minute)."""
    folder = CACHE / hashlib.sha256((HERE / "base.sh").read_bytes()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "root.qcow2").exists():
            done = subprocess.run([HERE / "base.sh", folder], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


class EmulatedBoard:
    """One board with a disk of its own in `folder`, which has to be empty. `start` and `stop` it; `cut` takes its power away.

    `of`: a key of KINDS.
    """

    def __init__(self, folder: Path, of: str, *, memory_mb: int = 1024, cores: int = 2) -> None:
        self.folder, self.name, self.kind = folder, of, KINDS[of]
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        system = base()
        for key in ("host_key", "client_key"):
            make_key(folder / key)
        kind, key = (folder / "host_key.pub").read_text().split()[:2]
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        (folder / "ssh_config").write_text("")
        (folder / "initrd").write_bytes((system / "initrd.cpio.gz").read_bytes() + self._own_files())
        disk = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", system / "root.qcow2", folder / "disk.qcow2"]
        subprocess.run(disk, check=True)
        machine = ["-nodefaults", "-M", "virt,gic-version=2", "-cpu", self.kind.cpu, "-smp", str(cores), "-m", str(memory_mb)]
        self._device_tree(machine)
        self._command = [
            *("qemu-system-aarch64", *machine, "-accel", "tcg,thread=multi", "-display", "none", "-no-reboot"),
            *("-kernel", str(system / "vmlinuz"), "-initrd", str(folder / "initrd"), "-dtb", str(folder / "board.dtb")),
            *("-append", "console=ttyAMA0 quiet net.ifnames=0 mitigations=off panic=-1"),
            *("-serial", f"file:{folder / 'console'}", "-device", "virtio-rng-pci"),
            # cache=unsafe: the machine below keeps its power. What the board has not flushed is lost with QEMU, as far as QEMU holds it.
            *("-drive", f"if=none,id=disk,file={folder / 'disk.qcow2'},cache=unsafe", "-device", "virtio-blk-pci,drive=disk"),
            # restrict: the board reaches nothing, and is reached at one port of this machine
            *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22", "-device", "virtio-net-pci,netdev=net,romfile="),
        ]

    def settings(self, **changes: object) -> TargetSettings:
        """How to reach it, with deadlines for an emulator on a busy machine."""
        found = TargetSettings(
            name=self.name,
            host="127.0.0.1",
            port=self.port,
            user="board",
            identity_file=self.folder / "client_key",
            known_hosts=self.folder / "known_hosts",
            ssh_config=self.folder / "ssh_config",
            connect_timeout_s=120.0,
            request_timeout_s=300.0,
        )
        return replace(found, **changes)  # type: ignore[arg-type]

    @property
    def console(self) -> str:
        """What the board has printed since its last start."""
        file = self.folder / "console"
        return file.read_text(errors="replace") if file.exists() else ""

    def start(self) -> float:
        """Switch on and wait for the SSH server; the seconds that took."""
        began = time.monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        patience_s = 2.0
        while not self._answers(patience_s):
            assert self._process.poll() is None, f"the emulator has ended\n{self.console}"
            assert time.monotonic() - began < BOOT_S, f"no SSH server after {BOOT_S:.0f} s\n{self.console}"
            time.sleep(0.1)
            patience_s = min(60.0, 0.5 * (time.monotonic() - began) + 2.0)
        return time.monotonic() - began

    @property
    def is_on(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def cut(self) -> None:
        """Take the power away: SIGKILL for the emulator. The disk stays as it stood."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    stop = cut

    def _answers(self, patience_s: float) -> bool:
        """QEMU takes the connection before the board can."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=patience_s) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:  # nobody listens yet, neither QEMU nor the board
            return False

    def _own_files(self) -> bytes:
        """A further part of the initramfs, /board: keys, host name, the vendor's files."""
        with tempfile.TemporaryDirectory() as place:
            top = Path(place) / "board"
            (top / "etc" / "ssh").mkdir(parents=True)
            shutil.copy(self.folder / "host_key", top / "etc" / "ssh" / "ssh_host_ed25519_key")
            keys = top / "home" / "board" / ".ssh"
            keys.mkdir(parents=True)
            shutil.copy(self.folder / "client_key.pub", keys / "authorized_keys")
            for path in (keys.parent, keys, keys / "authorized_keys"):
                os.chown(path, 1000, 1000)
            for name, text in {**self.kind.files, "etc/hostname": f"{self.name}\n"}.items():
                (top / name).write_text(text)
            names = "\n".join(str(path.relative_to(place)) for path in [top, *sorted(top.rglob("*"))])
            packed = subprocess.run(
                ["cpio", "--quiet", "-o", "-H", "newc"], cwd=place, input=names.encode() + b"\n", stdout=subprocess.PIPE, check=True
            )
            return gzip.compress(packed.stdout)

    def _device_tree(self, machine: list[str]) -> None:
        """The emulator's own device tree with the board's names in it."""
        tree = str(self.folder / "board.dtb")
        dump = [*machine, "-M", f"dumpdtb={tree}", "-display", "none"]
        subprocess.run(["qemu-system-aarch64", *dump], check=True, capture_output=True)
        for key, words in {"model": (self.kind.model,), "compatible": (*self.kind.compatible, "linux,dummy-virt")}.items():
            subprocess.run(["fdtput", "-t", "s", tree, "/", key, *words], check=True)


def main() -> None:
    """One board for a person."""
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(KINDS)}")
    if why := missing():
        sys.exit(why)
    with tempfile.TemporaryDirectory(prefix="edgec-board-") as place:
        board = EmulatedBoard(Path(place), sys.argv[1])
        try:
            print(f"answers after {board.start():.1f} s; sign in:")
            files = f"-i {place}/client_key -o UserKnownHostsFile={place}/known_hosts"
            print(f"ssh {files} -p {board.port} board@127.0.0.1", flush=True)
            signal.pause()
        except KeyboardInterrupt:
            print()
        finally:
            board.stop()


if __name__ == "__main__":
    main()
