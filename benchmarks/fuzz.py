"""Can anything that comes over the wire do more than be refused?

Each case is one malformed or ill-meant input to one surface; the only allowed ends are an answer and one of our own errors. Cases are drawn
from a seed that is printed; the first that ends otherwise is shown and the exit code is 1.

    agent       lines to the real server, in process: every operation with fields of wrong kinds, broken JSON, single bits turned over
    host        what an agent answers to every call of a session: valid answers with parts replaced, lines cut or with bytes changed
    contact     the line with which a target answers before there is an agent
    signature   seals, signatures and lists of keys on the device

    python benchmarks/fuzz.py [--form short|long] [--seed N]

The long form ends after ten minutes or a million cases, whichever is later. A surface that is done is kept in .edgec/bench/fuzz: an
interrupted run goes on with the next one when it is started with the same form and seed.
"""

import argparse
import copy
import io
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import ROOT, Finished, machine, publish

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from test_answers import CALLS, session

from edgec.pipeline.core.errors import EdgecError
from edgec.targets.agent.folder import Folder
from edgec.targets.agent.server import OPERATIONS, Server
from edgec.targets.agent.trust import Signature, Trust
from edgec.targets.agent.wire import Failure, Lines, decode
from edgec.targets.bootstrap import read
from edgec.targets.session import AgentSession

CASES = {"short": 40_000, "long": 1_000_000}
SECONDS = {"short": 0.0, "long": 600.0}
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**70, -(2**70), 1.5, 1e308, -0.0, "", "a", "..", ".", "../x", "/etc/passwd", "a/../b"),
    *(
        "a" * 101,
        "a" * 5000,
        "0" * 64,
        "g" * 64,
        "\x00",
        "\n",
        "\x1b[2J",
        "\ud800",
        "\u202e",
        "$(id)",
        "`id`",
        "; rm -rf x",
        "%s%n",
        "r1",
        "app",
    ),
    *([], [1], ["a"], [[]], {}, {"a": {"b": []}}, {"": None}, [None] * 50),
)
NAMES = """app release digest digests size total owner files manifest keep name file tolerance runtime job jobs rule batch id op packed
signed signature keys only check health health_s by_force unused_s golden patience_s inputs format threads label meter""".split()  # noqa: SIM905
SKIPPED = {"profile", "evaluate", "infer", "golden", "facts"}
"""Operations that start processes or read the whole machine: too slow for a million; tests/unit/test_agent_protocol.py has them."""


class Surface:
    """One kind of input: `case` draws one and gives what runs it; `allowed` are the errors that it may end with."""

    name: str
    allowed: tuple[type[BaseException], ...]

    def case(self, dice: random.Random) -> tuple[object, Callable[[], object]]:
        """(the input, what feeds it)."""
        raise NotImplementedError


class AgentLines(Surface):
    """Requests to a server in this process."""

    name, allowed = "agent", ()

    def __init__(self, folder: Path) -> None:
        (folder / "device").mkdir()
        self.outside = folder
        self.replies = io.BytesIO()
        self.server = Server(Folder(str(folder / "device")), io.BytesIO(), self.replies)
        self.server.folder.take_charge("fuzz")
        self.operations = sorted(set(OPERATIONS) - SKIPPED)

    def case(self, dice: random.Random) -> tuple[object, Callable[[], object]]:
        fields = {name: odd(dice) for name in dice.sample(NAMES, dice.randrange(8))}
        request = {"id": 1, "op": dice.choice(self.operations), **fields} if dice.random() < 0.9 else fields
        line = json.dumps(request).encode()
        if dice.random() < 0.3:
            line = bent(line, dice)
        return line, lambda: self.feed(line)

    def feed(self, data: bytes) -> None:
        """As the server's reader does, then look at what it answered."""
        for line in Lines().feed(data + b"\n"):
            try:
                request = decode(line)
            except Failure as failure:
                request = {"op": None, "failure": failure}
            self.replies.seek(0)
            self.replies.truncate()
            self.server._answer(request)  # noqa: SLF001  (the server's own loop reads from a file descriptor)
            answer = self.replies.getvalue()
            assert answer.count(b"\n") == 1, "not one answer"
            assert b'"the agent failed' not in answer, answer
            if request.get("op") == "remove" and b'"ok"' in answer:
                Path(self.server.folder.path).mkdir()
                self.server = Server(Folder(self.server.folder.path), io.BytesIO(), self.replies)
                self.server.folder.take_charge("fuzz")
        assert os.listdir(self.outside) == ["device"], "something was written outside the folder"  # noqa: PTH208  (a million times)


class HostAnswers(Surface):
    """Answers to a session."""

    name, allowed = "host", (EdgecError,)

    def case(self, dice: random.Random) -> tuple[object, Callable[[], object]]:
        call, events, ok = CALLS[dice.choice(sorted(CALLS))]
        answers = [{"event": each} for each in copy.deepcopy(events)] + [{"ok": copy.deepcopy(ok)}]
        lines: list[Any] = []
        for each in answers:
            changed = spoilt(each, dice)
            if dice.random() < 0.3:
                changed = bent(json.dumps({"id": 1, **changed} if isinstance(changed, dict) else changed).encode(), dice)
            lines.append(changed if isinstance(changed, dict | bytes) else json.dumps(changed).encode())
        lines.append(b"")  # where an answer became an event, a call waits for one more
        return lines, lambda: self.ask(call, lines)

    @staticmethod
    def ask(call: Callable[[AgentSession], object], lines: list[Any]) -> None:
        """The call, in a session of its own."""
        with session(*lines) as opened:
            call(opened)


class FirstContact(Surface):
    """The line of `bootstrap.SCRIPT`."""

    name, allowed = "contact", (EdgecError,)

    def case(self, dice: random.Random) -> tuple[object, Callable[[], object]]:
        states = ["no-python", "no-agent", "absent", "read-only", "foreign", "no-folder", "x"]
        fields = [str(odd(dice)) if dice.random() < 0.5 else each for each in ("/usr/bin/python3", "309", "/f", "/ 9 9 9 9% /", "-")]
        line = bent("\t".join(["EDGEC-PLACE", dice.choice(states), *fields]).encode(errors="replace"), dice).decode(errors="replace")
        return line, lambda: read(line, "board", "~/.edgec", "python3", 80_000)


class Signatures(Surface):
    """Seals and lists of keys."""

    name, allowed = "signature", (Failure,)

    def __init__(self, folder: Path) -> None:
        (folder / "trusted").mkdir()
        self.trust = Trust(str(folder / "trusted"), str(folder / "none"))

    def case(self, dice: random.Random) -> tuple[object, Callable[[], object]]:
        said = spoilt({"sha256": "0" * 64, "key": "SHA256:x", "signature": "00" * 64}, dice)
        key = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICIAQE3yP/g7lTW6H57ueqTjeZ1GvB3uMIz8a/Qi33bP me\n"
        keys = bent(key, dice) if dice.random() < 0.8 else key
        return (said, keys), lambda: self.check(said, keys)

    def check(self, said: Any, keys: bytes) -> None:
        """No invented signature is ever taken."""
        Path(self.trust.own).write_bytes(keys)
        self.trust.check("app", "r", b"{}", Signature.of(said), True)
        raise AssertionError("an invented signature was taken")


def odd(dice: random.Random) -> Any:
    """A value that few expect."""
    return dice.choice(ODD)


def spoilt(value: Any, dice: random.Random) -> Any:
    """A JSON value with one part replaced, removed or added, at any depth."""
    if isinstance(value, dict) and value and dice.random() < 0.85:
        key = dice.choice(sorted(value))
        chance = dice.random()
        if chance < 0.1:
            return {name: each for name, each in value.items() if name != key}
        if chance < 0.2:
            return {**value, str(odd(dice))[:50]: odd(dice)}
        return {**value, key: spoilt(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        return [*value[:at], spoilt(value[at], dice), *value[at + dice.randrange(2) :]]
    return odd(dice)


def bent(data: bytes, dice: random.Random) -> bytes:
    """Bytes cut, doubled, turned over or put in."""
    if not data:
        return data
    at, way = dice.randrange(len(data)), dice.randrange(4)
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]
    if way == 2:
        return data[:at] + dice.choice([b"\xff", b"\0", b"\r", b'"', b"{", b"[" * 3000, b"\\ud800", b"1e999", b"NaN"]) + data[at:]
    return data[: at + 1] + data[at:]


def campaign(surface: Surface, cases: int, seconds: float, seed: int) -> dict[str, Any]:
    """At least so many cases, for at least so long; the row of the result. Raises AssertionError with the case that got through."""
    dice, start, done, refused, slowest = random.Random(f"{seed}-{surface.name}"), time.monotonic(), 0, 0, 0.0
    while done < cases or time.monotonic() - start < seconds:
        given, run = surface.case(dice)
        began = time.monotonic()
        try:
            run()
        except surface.allowed:
            refused += 1
        except Exception as error:
            raise AssertionError(
                f"{surface.name}: case {done} of seed {seed}: {type(error).__name__}: {error}: {given!r}"[:3000]
            ) from error
        slowest = max(slowest, time.monotonic() - began)
        done += 1
    took = time.monotonic() - start
    return {
        "surface": surface.name,
        "cases": done,
        "refused": refused if surface.allowed else None,
        "escaped": 0,
        "slowest_ms": round(slowest * 1e3, 1),
        "seconds": round(took, 1),
    }


def surfaces(folder: Path) -> Iterator[tuple[Surface, float]]:
    """Each with its share of the cases."""
    for name in ("agent", "signature"):
        (folder / name).mkdir()
    yield AgentLines(folder / "agent"), 0.4
    yield HostAnswers(), 0.4
    yield FirstContact(), 0.1
    yield Signatures(folder / "signature"), 0.1


def main() -> None:
    """All surfaces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("short", "long"), default="short")
    parser.add_argument("--seed", type=int, default=6)
    asked = parser.parse_args()
    print(f"seed {asked.seed}", flush=True)
    about = machine()
    with tempfile.TemporaryDirectory() as place:
        given = list(surfaces(Path(place)))
        log = Finished("fuzz", f"{asked.form}-{asked.seed}", len(given))
        rows = {row["surface"]: row for row in log.parts}
        for surface, share in given:
            if surface.name not in rows:
                rows[surface.name] = campaign(surface, int(share * CASES[asked.form]), share * SECONDS[asked.form], asked.seed)
                log.add(rows[surface.name])
    publish("fuzz", [rows[surface.name] for surface, _ in given], seeds=[asked.seed], about=about)
    log.forget()


if __name__ == "__main__":
    main()
