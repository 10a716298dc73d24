"""The laws of protocols.Transport and Channel, over every transport."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgec.pipeline.core.errors import AgentDied, DeadlineExceeded, ProtocolViolation, TargetError
from edgec.pipeline.core.protocols import Transport
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.agent.wire import MAX_LINE
from edgec.targets.starting import transport_to

ODD_WORDS = ["a b", "$(touch /tmp/edgec-was-here)", "it's", 'say "x"', "*", "~", "a;b|c&d", "line\nline", "", "-n", "ü", "\\", "!"]


@pytest.fixture
def transport(settings: TargetSettings) -> Iterator[Transport]:
    transport = transport_to(settings)
    transport.connect()
    yield transport
    transport.close()


def test_run_gives_status_and_both_streams(transport: Transport) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    assert transport.run([sys.executable, "-c", code], timeout_s=20) == (7, "out\n", "err\n")


def test_run_passes_words_untouched(transport: Transport) -> None:
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    import json

    status, out, _ = transport.run([sys.executable, "-c", code, *ODD_WORDS], timeout_s=20)
    assert (status, json.loads(out)) == (0, ODD_WORDS)


def test_run_takes_large_output(transport: Transport) -> None:
    _, out, err = transport.run(
        [sys.executable, "-c", "import sys; print('x' * 3000000); print('y' * 3000000, file=sys.stderr)"], timeout_s=30
    )
    assert (len(out), len(err)) == (3000001, 3000001)


def test_run_ends_at_its_deadline(transport: Transport) -> None:
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        transport.run(["sleep", "20"], timeout_s=0.5)
    assert time.monotonic() - start < 5


def test_run_of_a_program_that_is_not_there(transport: Transport) -> None:
    assert transport.run(["edgec-no-such-program"], timeout_s=20)[0] == 127


@pytest.mark.parametrize("size", [0, 1, 32768, 1_000_001])
def test_put_and_get_keep_every_byte(transport: Transport, tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(i * 31 % 251 for i in range(size)))
    seen: list[tuple[int, int]] = []
    transport.put(source, str(tmp_path / "there"), progress=lambda done, total: seen.append((done, total)))
    transport.get(str(tmp_path / "there"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert size == 0 or seen[-1] == (size, size)


def test_put_continues_at_an_offset(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"0123456789")
    (tmp_path / "there").write_bytes(b"ABCD")
    transport.put(tmp_path / "source", str(tmp_path / "there"), offset=4)
    assert (tmp_path / "there").read_bytes() == b"ABCD456789"


def test_put_replaces_a_longer_file(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"short")
    (tmp_path / "there").write_bytes(b"a longer one")
    transport.put(tmp_path / "source", str(tmp_path / "there"))
    assert (tmp_path / "there").read_bytes() == b"short"


def test_put_into_no_folder_is_a_target_error_that_names_the_machine(transport: Transport, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    with pytest.raises(TargetError, match=transport.name):
        transport.put(tmp_path / "source", str(tmp_path / "no" / "there"))


def test_get_of_a_missing_file_leaves_nothing(transport: Transport, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=transport.name):
        transport.get(str(tmp_path / "missing"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_channel_carries_lines_both_ways(transport: Transport) -> None:
    channel = transport.channel(["cat"])
    for line in (b"one", b"", b"x" * 1_000_000, "ü".encode()):
        channel.send(line + b"\n")
        assert channel.receive(deadline=time.monotonic() + 20) == line
    channel.close()
    channel.close()


def test_channel_wait_has_a_deadline(transport: Transport) -> None:
    channel = transport.channel(["cat"])
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=transport.name):
        channel.receive(deadline=start + 0.3)
    assert time.monotonic() - start < 3
    channel.close()


def test_channel_end_tells_status_and_stderr(transport: Transport) -> None:
    channel = transport.channel([sys.executable, "-c", "import sys; print('line'); print('why', file=sys.stderr); sys.exit(5)"])
    assert channel.receive(deadline=time.monotonic() + 20) == b"line"
    for _ in range(2):
        with pytest.raises(AgentDied, match="status 5") as caught:
            channel.receive(deadline=time.monotonic() + 20)
        assert "why" in str(caught.value.context["stderr"])
    channel.close()


def test_channel_refuses_a_line_that_is_too_long(transport: Transport) -> None:
    channel = transport.channel([sys.executable, "-c", f"print('x' * {MAX_LINE + 1}); print('next')"])
    with pytest.raises(ProtocolViolation):
        channel.receive(deadline=time.monotonic() + 30)
    assert channel.receive(deadline=time.monotonic() + 30) == b"next"
    channel.close()


def test_channel_send_to_an_ended_command_is_a_target_error(transport: Transport) -> None:
    channel = transport.channel(["true"])

    def send_until_noticed() -> None:
        for _ in range(100):
            channel.send(b"x" * 100000 + b"\n")
            time.sleep(0.02)

    with pytest.raises(TargetError):
        send_until_noticed()
    channel.close()


def test_close_ends_a_running_command(transport: Transport, tmp_path: Path) -> None:
    import psutil

    code = "import os, time; print(os.getpid(), flush=True); import sys; sys.stdin.read()"
    channel = transport.channel([sys.executable, "-c", code])
    pid = int(channel.receive(deadline=time.monotonic() + 20))
    transport.close()
    transport.close()
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)
