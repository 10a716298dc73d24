"""How fast does edgec reach many boards, beside other tools and beside the least that an SSH client can do?

Hosts are real OpenSSH servers on loopback, each with a port, a host key and a home folder of its own; all tools check host keys, read the
same SSH configuration and keep the same number of hosts at work at once. The tools take turns, in an order drawn anew for each repetition.

    command         `true` on every host
    deploy-10MB     10 MB of random bytes. edgec: agent, upload by digest, release, switch. asyncssh: SFTP to a temporary name,
                    SHA-256 on the host, rename. pyinfra: files.put. openssh: scp, SHA-256, rename
    redeploy        the same bytes once more (openssh compares SHA-256 first, as the asyncssh loop does)

    tool            edgec · asyncssh (the floor) · pyinfra · openssh (ssh and scp under xargs -P)
    wall_s, cpu_s   of the tool with its own children, not of the servers; median of the repetitions
    memory_mb       most resident memory of the tool and its children at one time, read every 50 ms
    failures        hosts on which the job failed; all of them when the tool did not end within its deadline

    python benchmarks/fanout.py [--form short|long] [--hosts N …] [--repeat N] [--peers PYTHON]

Each tool's turn is kept in .edgec/bench/fanout when it ends: an interrupted benchmark goes on there when it is started again at the same
commit. A host takes 10 MB of disk.
"""

import argparse
import getpass
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from common import ROOT, Finished, commit, machine, publish

sys.path.insert(0, str(ROOT / "tests"))

from ssh_server import SshServer, make_key

JOBS = ("command", "deploy-10MB", "redeploy")
TOOLS = ("edgec", "asyncssh", "pyinfra", "openssh")
FAN = ROOT / "benchmarks" / "fan"
HOSTS = {"short": (20,), "long": (100, 500)}
REPEAT = {"short": 1, "long": 3}
AT_ONCE = 64
SIZE = 10_000_000
DEADLINE_S = 60.0
"""Of a run, and 3 s more for each host: the slowest tool takes a third of that on two cores."""
STARTED_AT_ONCE = 8

OPENSSH = {
    "command": 'ssh -F "$1" -o BatchMode=yes "$0" true',
    "deploy": r"""
home=$(dirname "$1")/${0#h}/home
there=$(ssh -F "$1" -o BatchMode=yes "$0" "sha256sum $home/model.onnx 2>/dev/null" | cut -c1-64)
[ "$there" = "$3" ] && exit 0
scp -q -F "$1" -o BatchMode=yes "$2" "$0:$home/model.part" || exit 1
last="sha256sum $home/model.part && sync $home/model.part && mv $home/model.part $home/model.onnx"
there=$(ssh -F "$1" -o BatchMode=yes "$0" "$last" | cut -c1-64)
[ "$there" = "$3" ]
""",
}
"""sh -c SCRIPT HOST CONFIG FILE DIGEST. The home folder of host h7 is 7/home beside the configuration."""


@dataclass(frozen=True)
class Farm:
    """Hosts that run."""

    folder: Path
    config: Path
    file: Path
    servers: Sequence[SshServer]

    def clean(self) -> None:
        """Every home folder empty again."""
        for server in self.servers:
            shutil.rmtree(server.home)
            server.home.mkdir()


def started(folder: Path, key: Path) -> SshServer:
    """One server; once more when another one was given its port in between."""
    for attempt in range(3):
        server = SshServer(folder, "MaxStartups 100")
        (folder / "authorized_keys").write_text(key.read_text())
        try:
            server.start()
        except AssertionError:
            if attempt == 2:
                raise
            shutil.rmtree(folder)
        else:
            break
    return server


@contextmanager
def farm(count: int) -> Iterator[Farm]:
    """So many servers; one client key opens all."""
    if (free := shutil.disk_usage(tempfile.gettempdir()).free) < count * 2 * SIZE:
        raise SystemExit(f"{count} hosts take {count * 2 * SIZE} bytes of disk, and {free} are free in {tempfile.gettempdir()}")
    with tempfile.TemporaryDirectory(prefix="edgec-fan-") as place:
        folder = Path(place)
        make_key(folder / "client")
        (folder / "file").write_bytes(random.Random(1).randbytes(SIZE))
        servers: dict[int, SshServer] = {}
        lines = [f"IdentityFile {folder / 'client'}", f"UserKnownHostsFile {folder / 'known'}", "IdentitiesOnly yes"]
        lines += ["StrictHostKeyChecking yes", f"User {getpass.getuser()}", "ConnectTimeout 30"]
        try:
            with ThreadPoolExecutor(max_workers=STARTED_AT_ONCE) as pool:
                list(pool.map(lambda index: servers.update({index: started(folder / str(index), folder / "client.pub")}), range(count)))
            for index in range(count):
                lines += [f"Host h{index}", "  HostName 127.0.0.1", f"  Port {servers[index].port}"]
            (folder / "known").write_text("".join(server.known_line() for server in servers.values()))
            (folder / "config").write_text("\n".join(lines) + "\n")
            yield Farm(folder, folder / "config", folder / "file", [servers[index] for index in range(count)])
        finally:
            for server in servers.values():
                server.stop()


@dataclass(frozen=True)
class Taken:
    """What one run of a tool took."""

    wall_s: float
    cpu_s: float
    memory_mb: float
    failures: int


def run(tool: str, job: str, farm: Farm, peers: Path) -> Taken:
    """One job with one tool on all hosts."""
    command, environment, given = line_of(tool, job, farm, peers)
    before, start = os.times(), time.monotonic()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, **environment}, text=True, start_new_session=True, **pipes) as process:
        peak = Peak(process.pid)
        try:
            out, err = process.communicate(given, timeout=DEADLINE_S + 3 * len(farm.servers))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            err += "\nit did not end within its deadline"
            for server in farm.servers:
                server.cut()
        finally:
            memory_mb = peak.stop()
    wall_s, after = time.monotonic() - start, os.times()
    cpu_s = after.children_user - before.children_user + after.children_system - before.children_system
    return Taken(wall_s, cpu_s, memory_mb, failures_in(tool, process.returncode, out, err, len(farm.servers)))


def line_of(tool: str, job: str, farm: Farm, peers: Path) -> tuple[list[str], Mapping[str, str], str]:
    """(command, environment, standard input)."""
    names = [f"h{index}" for index in range(len(farm.servers))]
    kind = "command" if job == "command" else "deploy"
    if tool in ("edgec", "asyncssh"):
        python = sys.executable if tool == "edgec" else str(peers)
        arguments = [kind, str(len(names)), str(AT_ONCE), str(farm.config), str(farm.file)]
        return [python, str(FAN / f"{tool}_tool.py"), *arguments], {}, ""
    if tool == "pyinfra":
        inventory = farm.folder / "inventory.py"
        hosts = [(name, {"ssh_config_file": str(farm.config), "ssh_known_hosts_file": str(farm.folder / "known")}) for name in names]
        inventory.write_text(f"hosts = {hosts!r}\n")
        what = ["exec", "--", "true"] if kind == "command" else [str(FAN / "pyinfra_deploy.py")]
        base = [str(peers), "-m", "pyinfra", "-y", "--parallel", str(AT_ONCE), str(inventory)]
        return [*base, *what], {"FAN_FILE": str(farm.file)}, ""
    from hashlib import sha256

    digest = sha256(farm.file.read_bytes()).hexdigest()
    words = ["sh", "-c", OPENSSH[kind], "{}", str(farm.config), str(farm.file), digest]
    return ["xargs", "-P", str(AT_ONCE), "-I", "{}", *words], {}, "\n".join(names)


def failures_in(tool: str, status: int, out: str, err: str, hosts: int) -> int:
    """Hosts on which the job failed: as our own loops count them; of the others only whether any did."""
    if tool in ("edgec", "asyncssh"):
        words = out.split()
        counted = int(words[-1]) if status == 0 and words[-2:-1] == ["failures"] else hosts
    else:
        counted = 0 if status == 0 else hosts
    if counted:
        print(f"{tool}: status {status}: {err[-1500:]}", file=sys.stderr)
    return counted


class Peak:
    """Reads the resident memory of a process and all below it until it is stopped."""

    def __init__(self, pid: int) -> None:
        self._pid, self._most, self._over = pid, 0, threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.wait(0.05):
            self._most = max(self._most, sum(resident(pid) for pid in family(self._pid)))

    def stop(self) -> float:
        """The most, in MB."""
        self._over.set()
        self._thread.join()
        return self._most / 1e6


def family(pid: int) -> Iterator[int]:
    """A process and all below it. The kernel lists each one's children: the thousands of other processes need not be looked at."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has just ended
            continue
        for child in children:
            yield from family(int(child))


def resident(pid: int) -> int:
    """Bytes; 0 for a process that has just ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def arrived(farm: Farm, tool: str) -> int:
    """On how many hosts the file does not lie as it should after a deploy, looked at past all tools."""
    where = ".edgec/apps/app/current/model.onnx" if tool == "edgec" else "model.onnx"
    wanted = farm.file.read_bytes()
    return sum(not (each.home / where).is_file() or (each.home / where).read_bytes() != wanted for each in farm.servers)


def turn_of(tool: str, farm: Farm, peers: Path) -> dict[str, dict[str, float]]:
    """All jobs with one tool, on empty hosts: what each took."""
    farm.clean()
    took = {}
    for job in JOBS:
        one = run(tool, job, farm, peers)
        missing = 0 if job == "command" else arrived(farm, tool)
        took[job] = asdict(replace(one, failures=max(one.failures, missing)))
        print(f"{len(farm.servers)} hosts  {tool:<9} {job:<12} {one.wall_s:7.2f} s  {took[job]['failures']} failures", flush=True)
    return took


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("short", "long"), default="short")
    parser.add_argument("--hosts", type=int, nargs="+", help="instead of the form's numbers")
    parser.add_argument("--repeat", type=int, help="instead of the form's number")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers" / "bin" / "python", help="Python with benchmarks/fan/requirements.txt"
    )
    parser.add_argument("--dry", action="store_true", help="publish nothing")
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    about, dice, rows = machine(), random.Random(5), []
    numbers, repeat = asked.hosts or HOSTS[asked.form], asked.repeat or REPEAT[asked.form]
    log = Finished("fanout", f"{commit()[:12]}{'-changed' * commit().endswith('+')}", len(numbers) * repeat * len(TOOLS))
    done = {(turn["hosts"], turn["tool"], turn["round"]): turn["jobs"] for turn in log.parts}
    for hosts in numbers:
        turns = [(hosts, tool, number) for number in range(repeat) for tool in dice.sample(TOOLS, len(TOOLS))]
        left = [turn for turn in turns if turn not in done]
        if left:
            with farm(hosts) as built:
                for turn in left:
                    done[turn] = turn_of(turn[1], built, asked.peers)
                    log.add({"hosts": hosts, "tool": turn[1], "round": turn[2], "jobs": done[turn]})
        taken = {(tool, job): [Taken(**done[hosts, tool, n][job]) for n in range(repeat)] for tool in TOOLS for job in JOBS}
        for job in JOBS:
            floor = median(each.wall_s for each in taken["asyncssh", job])
            for tool in TOOLS:
                some = taken[tool, job]
                wall_s = median(each.wall_s for each in some)
                rows.append(
                    {
                        "tool": tool,
                        "hosts": hosts,
                        "job": job,
                        "wall_s": round(wall_s, 3),
                        "cpu_s": round(median(each.cpu_s for each in some), 3),
                        "memory_mb": round(max(each.memory_mb for each in some), 1),
                        "failures": sum(each.failures for each in some),
                        "n": len(some),
                        "ratio_to_asyncssh": round(wall_s / floor, 2),
                    }
                )
    if asked.dry:
        return
    publish("fanout", rows, seeds=[5], about=about)
    log.forget()


if __name__ == "__main__":
    main()
