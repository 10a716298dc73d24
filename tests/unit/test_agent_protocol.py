"""The agent's protocol against a real agent process: whatever comes in, one answer goes out, and the process goes on."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_agent import RawAgent

from edgec.targets.agent.wire import MAX_LINE, PROTOCOL, Failure, Lines, decode, encode


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RawAgent]:
    with RawAgent(tmp_path / "device") as agent:
        yield agent


def test_hello_names_protocol_python_and_own_digest(agent: RawAgent) -> None:
    import hashlib

    from edgec.targets.agent import bundle

    assert agent.hello["protocol"] == PROTOCOL
    assert agent.hello["python"] == sys.version.split()[0]
    assert agent.hello["agent"] == hashlib.sha256(bundle.build()[1]).hexdigest()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"facts"',
        b"\xff\xfe",
        b"\x00",
        b"[" * 100_000,
        b'{"id": 1}',
        b'{"op": "facts"}',
        b'{"id": "1", "op": "facts"}',
        b'{"id": true, "op": "facts"}',
        b'{"id": 1, "op": "no-such"}',
        b'{"id": 1, "op": ["facts"]}',
        b'{"id": 1, "op": "__class__"}',
        b'{"id": 1, "failure": 1, "op": null}',
        b'{"id": ' + b"9" * 5000 + b', "op": "facts"}',
        b'{"id": 1, "op": "verify", "app": "a/../b", "release": "r"}',
        b'{"id": 1, "op": "verify", "app": "..", "release": "r"}',
        b'{"id": 1, "op": "verify", "app": "a", "release": ".tmp-r"}',
        b'{"id": 1, "op": "verify", "app": "a\\n", "release": "r"}',
        b'{"id": 1, "op": "verify", "app": "\\ud800", "release": "r"}',
        b'{"id": 1, "op": "verify", "app": {"a": 1}, "release": "r"}',
    ],
    ids=lambda line: repr(line[:30]),
)
def test_malformed_line_is_answered_and_survived(agent: RawAgent, line: bytes) -> None:
    agent.write(line + b"\n")
    assert agent.read()["error"]["type"] == "ProtocolViolation"
    assert agent.ok("facts")


def test_line_that_is_too_long_is_answered_and_survived(agent: RawAgent) -> None:
    agent.write(b"x" * (MAX_LINE + 1) + b"\n")
    assert "limit" in agent.read()["error"]["what"]
    agent.ok("facts")


def test_fuzzed_lines_never_end_the_agent(agent: RawAgent) -> None:
    """3000 lines: random bytes, and well-formed requests with fields of wrong kinds, each answered once, in order."""
    random_ = random.Random(20)
    ops = ["facts", "lock", "have", "reserve", "commit", "stage", "verify", "activate", "rollback", "releases", "prune", "golden", "forget"]
    values = [
        None,
        True,
        -1,
        0,
        1.5,
        1e308,
        2**70,
        "",
        "a",
        "../x",
        "a" * 5000,
        "0" * 64,
        [],
        [1],
        {},
        {"a": {"b": []}},
        "\u0000",
        "\ud800",
    ]
    names = [
        "app",
        "release",
        "digest",
        "digests",
        "size",
        "total",
        "owner",
        "files",
        "manifest",
        "keep",
        "name",
        "file",
        "tolerance",
        "runtime",
    ]
    for start in range(0, 3000, 50):
        numbers = []
        for number in range(start, start + 50):
            if random_.random() < 0.3:
                line = bytes(random_.choice(b'{}[]",:\\ \t0aNe\xff\x80') for _ in range(random_.randrange(40)))
                numbers.append(None)
            else:
                request = {name: random_.choice(values) for name in random_.sample(names, random_.randrange(6))}
                line = json.dumps({"id": number, "op": random_.choice(ops), **request}).encode()
                numbers.append(number)
            agent.write(line + b"\n")
        answers = [agent.read() for _ in numbers]
        assert [answer["id"] for answer in answers] == numbers
        assert not [answer for answer in answers if "the agent failed" in str(answer.get("error"))], "a fault of our own"
    assert sorted(path.name for path in agent.folder.parent.iterdir() if not path.name.startswith("edgec-agent")) == ["device"]


def test_changes_need_the_lock(agent: RawAgent) -> None:
    for op, fields in [("reserve", {"digest": "0" * 64, "size": 1}), ("remove", {}), ("have", {"digests": []}), ("rollback", {"app": "a"})]:
        assert agent.refused(op, **fields) == "AgentError"


def test_lock_is_freed_when_its_holder_is_killed(agent: RawAgent, tmp_path: Path) -> None:
    agent.ok("lock", owner="ann")
    with RawAgent(tmp_path / "device") as other:
        answer = other.ask("lock", owner="bob")
        assert answer["error"]["type"] == "DeviceBusy"
        assert answer["error"]["context"]["owner"] == "ann"
        assert answer["error"]["context"]["pid"] == agent.process.pid
        agent.process.kill()
        agent.process.wait()
        other.ok("lock", owner="bob")


def test_end_of_input_ends_the_agent(agent: RawAgent) -> None:
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    assert agent.process.wait(10) == 0


def test_silence_ends_the_agent_and_beats_keep_it(tmp_path: Path) -> None:
    code = (
        "import sys, edgec.targets.agent.server as s, edgec.targets.agent.__main__ as m; "
        "s.SILENCE_S = 2.0; sys.exit(m.main(['--folder', sys.argv[1]]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(6):
        time.sleep(0.5)
        process.stdin.write(b'{"op": "beat"}\n')
        process.stdin.flush()
    assert process.poll() is None, "it ended although the host was there"
    assert process.wait(10) == 0
    assert process.communicate()[0] == b"", "a beat was answered"


def test_prints_do_not_reach_the_protocol(tmp_path: Path) -> None:
    code = (
        "import os, sys, edgec.targets.agent.server as s, edgec.targets.agent.__main__ as m\n"
        "def loud(server, fields, event):\n"
        "    print('from Python'); os.write(1, b'from C\\n'); return {}\n"
        "s.OPERATIONS['loud'] = loud\n"
        "sys.exit(m.main(['--folder', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], input=b'{"id": 1, "op": "loud"}\n', capture_output=True, check=True, timeout=20
    )
    assert done.stdout.splitlines()[1:] == [b'{"id":1,"ok":{}}']
    assert b"from C" in done.stderr


def test_lines_are_the_same_however_the_stream_is_cut() -> None:
    data = b"a\n\nbcd\n" + b"x" * 11 + b"\nlast\nrest"
    whole = Lines(limit=10).feed(data)
    assert whole == [b"a", b"", b"bcd", None, b"last"]
    for size in range(1, 8):
        lines = Lines(limit=10)
        assert [line for i in range(0, len(data), size) for line in lines.feed(data[i : i + size])] == whole


def test_messages_survive_the_wire_and_numbers_stay_finite() -> None:
    message = {"id": 1, "text": "ü\n\u2028", "numbers": [1, 2.5, None]}
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == message
    with pytest.raises(ValueError, match="JSON"):
        encode({"x": float("nan")})
    with pytest.raises(Failure, match="limit"):
        encode({"x": "a" * MAX_LINE})
