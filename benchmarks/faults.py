"""Does a board keep a whole release, whatever happens at whatever instant of a deploy?

Loopback SSH hosts with a real OpenSSH server, real agents and a disk of their own. In each run a fault strikes at a random instant of an
upload, an activation (stage, verify, switch, health check, prune) or a rollback. Afterwards, with the fault mended, a fresh session looks:
which release is active, is each of its bytes right, is the lock free, and does the next deploy succeed? A run that goes on as if nothing
had happened (a jump of the clock) counts like any other.

    fault           link cut (at either end) · agent killed (SIGKILL) · disk full · read-only root · clock jump (the agent's wall clock, by
                    up to 400 days) · byte in flight (one bit between host and SSH server) · byte at rest (one bit of any file that does
                    not belong to a finished release; half the activations: of the new release before it is verified)
    power cut       --level emulated: SIGKILL for QEMU while an ARM64 board runs in it, then a cold start (tests/boards/power.py)
    broken          the active release is neither the old nor the new one, or not whole, or the next deploy failed
    stuck_locks     a new session could not take charge within 20 s

    python benchmarks/faults.py [--level loopback|emulated] [--form short|long] [--seed N] [--runs N] [--hosts N]

What strikes, and when, follows from the seed and the run's number. Each run is kept in .edgec/bench/faults when it ends: a campaign goes
on where it stopped when it is started again with the same level and seed, and `--runs` is its beginning. A level's rows replace that
level's in the result and name their commit; the other levels' stay.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, Finished, commit, machine, publish

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "boards"))

import power
from faulty_host import FaultyHost
from tiny_networks import digest, linear_network

from edgec.pipeline.core.errors import DeviceBusy, EdgecError
from edgec.targets.session import AgentSession, open_session

FAULTS = ("link cut", "agent killed", "disk full", "read-only root", "clock jump", "byte in flight", "byte at rest")
PHASES = ("upload", "activate", "rollback")
CELLS = tuple((fault, phase) for fault in FAULTS for phase in PHASES)
PATIENCE_S = 20.0
APP = "app"
SIZE = 2_000_000
"""Bytes of a release's larger file."""
NEARLY = 256 * 1024
"""Bytes that are left on a disk that is about to be full."""
HOSTS = 3
"""Hosts that are struck at the same time: a run waits more than it computes."""


@dataclass(frozen=True)
class Level:
    """Where the hosts are, and what strikes them there."""

    cells: tuple[tuple[str, str], ...]
    host: type[FaultyHost] | type[power.PoweredHost]
    hosts: int
    runs: Mapping[str, int]
    """By form."""


LEVELS = {
    "loopback": Level(CELLS, FaultyHost, HOSTS, {"short": 15 * len(CELLS), "long": 100 * len(CELLS)}),
    "emulated": Level(power.CELLS, power.PoweredHost, 1, {"short": 9, "long": 201}),
}


@dataclass(frozen=True)
class Result:
    """What one run left behind."""

    number: int
    fault: str
    phase: str
    active: str
    """old, new, or what is wrong."""
    whole: bool
    stuck: bool
    next_deploy: str
    """Empty when it succeeded."""
    reported: str
    """The error that the struck operation ended with; empty when it succeeded."""
    after_s: float
    """The fault's instant, since the operation began."""


class Campaign:
    """Runs on one host, one after the other: the deploy that follows a run makes the next one's old release."""

    def __init__(self, host: FaultyHost | power.PoweredHost, folder: Path, seed: int, cells: Sequence[tuple[str, str]] = CELLS) -> None:
        self.cells = cells
        self.host, self.folder, self.seed = host, folder, seed
        self.took = dict.fromkeys(PHASES, 0.1)
        """Usual seconds of each phase, from deploys that nothing disturbed."""
        dice = random.Random(seed)
        with open_session(host.settings()) as session:
            for name in ("first", "second", "third"):
                self.deploy(session, name, dice)
            start = time.monotonic()
            session.rollback(APP)
            self.took["rollback"] = time.monotonic() - start
            self.deploy(session, "third", dice)
        self.older, self.old = "second", "third"

    def run(self, number: int) -> Result:
        """One fault in one phase."""
        fault, phase = self.cells[number % len(self.cells)]
        dice = random.Random(f"{self.seed}-{number}")
        new = f"r{number}"
        reported, after_s = self._struck(fault, phase, new, dice)
        self.host.mend()
        expected = {self.old: "old"}
        if phase != "upload":
            expected[new if phase == "activate" else self.older] = "new"
        active, whole, stuck, next_deploy = "unknown: the target is locked", False, True, ""
        try:
            with self._in_charge() as session:
                stuck, name = False, next((each.release for each in session.releases(APP) if each.active), "")
                active, whole = expected.get(name, f"unexpected: {name or 'none'}"), bool(name) and session.verify(APP, name) == ()
                self.deploy(session, f"r{number}-next", dice)
                self.older, self.old = name, f"r{number}-next"
        except EdgecError as error:
            next_deploy = f"{type(error).__name__}: {error.what}"
        for each in self.folder.iterdir():
            each.unlink()
        return Result(number, fault, phase, active, whole, stuck, next_deploy, reported, round(after_s, 4))

    def files(self, name: str, dice: random.Random) -> dict[str, Path]:
        """A network and bytes of its own."""
        network, extra = self.folder / f"{name}.onnx", self.folder / f"{name}.bin"
        if not extra.exists():
            linear_network(network, seed=dice.randrange(1000))
            extra.write_bytes(dice.randbytes(SIZE))
        return {"model.onnx": network, "extra.bin": extra}

    def deploy(self, session: AgentSession, name: str, dice: random.Random) -> None:
        """Undisturbed, with the time that each step takes."""
        for step in PHASES[:2]:
            start = time.monotonic()
            self._do(step, session, name, self.files(name, dice))
            self.took[step] = 0.5 * self.took[step] + 0.5 * (time.monotonic() - start)

    def _do(self, phase: str, session: AgentSession, name: str, files: dict[str, Path], *, rot: random.Random | None = None) -> None:
        if phase == "rollback":
            session.rollback(APP)
            return
        if phase == "upload":
            session.ship({digest(each): each for each in files.values()})
            return
        session.stage(APP, name, {"about": name}, {part: digest(each) for part, each in files.items()})
        if rot is not None:
            assert isinstance(self.host, FaultyHost)
            release = self.host.root / "apps" / APP / "releases" / name
            self.host.flip_bit(rot.choice(sorted(release.iterdir())), rot)
        session.activate(APP, name)
        session.prune(APP, 2, unused_s=0.0)

    def _struck(self, fault: str, phase: str, new: str, dice: random.Random) -> tuple[str, float]:
        files = self.files(new, dice)
        rot = dice if fault == "byte at rest" and phase == "activate" and dice.random() < 0.5 else None
        # what lasts may have begun before the operation
        delay_s = dice.uniform(-0.3 if fault in ("disk full", "read-only root", "clock jump") else 0.0, 1.0) * self.took[phase]
        try:
            with open_session(self.host.settings()) as session:
                session.lock()
                if phase == "activate":
                    self._do("upload", session, new, files)
                if fault == "disk full" and phase != "upload":
                    self.host.fill(NEARLY)
                timer = threading.Timer(max(0.0, delay_s), self.host.strike, (fault, dice))
                if rot is None:
                    timer.start()
                if delay_s < 0:
                    timer.join()
                start = time.monotonic()
                try:
                    self._do(phase, session, new, files, rot=rot)
                    self.took[phase] = 0.7 * self.took[phase] + 0.3 * (time.monotonic() - start)
                finally:
                    if rot is None:
                        timer.join()
        except EdgecError as error:
            return type(error).__name__, delay_s
        return "", delay_s

    @contextmanager
    def _in_charge(self) -> Iterator[AgentSession]:
        """A new session, once it has the lock."""
        end = time.monotonic() + PATIENCE_S
        while True:
            with open_session(self.host.settings()) as session:
                try:
                    session.lock()
                except DeviceBusy:
                    if time.monotonic() > end:
                        raise
                    continue
                yield session
                return


def campaign(
    numbers: Sequence[int], seed: int, log: Finished | None = None, hosts: int | None = None, level: str = "loopback"
) -> list[Result]:
    """Do these runs on several hosts at once; each is kept in the log when it ends."""
    hosts = hosts or LEVELS[level].hosts
    with ThreadPoolExecutor(max_workers=hosts) as pool:
        shares = [share for index in range(hosts) if (share := numbers[index::hosts])]
        return [each for part in pool.map(lambda share: on_one_host(share, seed, log, level), shares) for each in part]


def on_one_host(numbers: Sequence[int], seed: int, log: Finished | None, level: str) -> list[Result]:
    """Runs one after the other."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="edgec-faults-") as place:
        host = LEVELS[level].host(Path(place))
        (Path(place) / "files").mkdir()
        print(f"disk full: {host.how_full}; read-only root: {host.how_read_only}", flush=True)
        try:
            runs = Campaign(host, Path(place) / "files", seed, LEVELS[level].cells)
            for number in numbers:
                results.append(runs.run(number))
                if is_broken(results[-1]) or results[-1].stuck:
                    print(f"run {number}: {results[-1]}", flush=True)
                if log is not None:
                    log.add(vars(results[-1]))
        finally:
            host.close()
    return results


def is_broken(result: Result) -> bool:
    """Neither the old nor the new release, or not whole, or no way on."""
    return result.active not in ("old", "new") or not result.whole or result.next_deploy != ""


def rows(results: Sequence[Result], level: str = "loopback") -> list[dict[str, Any]]:
    """One row a fault and phase."""
    found = []
    for fault, phase in LEVELS[level].cells:
        cell = [each for each in results if (each.fault, each.phase) == (fault, phase)]
        if cell:
            found.append(
                {
                    "fault": fault,
                    "phase": phase,
                    "level": level,
                    "n": len(cell),
                    "old_active": sum(each.active == "old" for each in cell),
                    "new_active": sum(each.active == "new" for each in cell),
                    "broken": sum(map(is_broken, cell)),
                    "stuck_locks": sum(each.stuck for each in cell),
                    "operations_failed": sum(each.reported != "" for each in cell),
                }
            )
    return found


def main() -> None:
    """Run or go on with a campaign, and publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", choices=tuple(LEVELS), default="loopback")
    parser.add_argument("--form", choices=("short", "long"), default="short")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--hosts", type=int, help="struck at the same time, instead of the level's number")
    parser.add_argument("--runs", type=int, help="instead of the form's number; nothing is published")
    asked = parser.parse_args()
    about, total = machine(), asked.runs or LEVELS[asked.level].runs[asked.form]
    log = Finished("faults", f"{asked.level}-{asked.seed}", total)
    done = {each.number: each for each in (Result(**part) for part in log.parts)}
    left = [number for number in range(total) if number not in done]
    print(f"seed {asked.seed}: {total} runs, {len(left)} to do", flush=True)
    done |= {each.number: each for each in campaign(left, asked.seed, log, asked.hosts, asked.level)}
    table = rows([done[number] for number in range(total)], asked.level)
    if asked.runs is not None:
        print(json.dumps(table, indent=1))
        return
    before = RESULTS / "faults.json"
    others = [each for each in json.loads(before.read_text())["rows"] if each["level"] != asked.level] if before.exists() else []
    publish("faults", [*others, *({**row, "commit": commit()} for row in table)], seeds=[asked.seed], about=about)
    log.forget()


if __name__ == "__main__":
    main()
