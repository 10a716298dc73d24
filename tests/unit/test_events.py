"""What is said while work is done."""

import io
import json
from pathlib import Path

import pytest

from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.events import Console, Fanout, JsonLog, Recorder, Silent


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def work(events: Events, clock: Clock) -> None:
    with events.stage("compress", "resnet20"):
        events.note("cut to half")
        events.warn("W203", "wide interval")
        with events.progress("round 1", 100) as advance:
            for done in range(0, 101, 25):
                advance(done)
                clock.now += 4


def test_plain_console_says_progress_at_most_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    work(Console(stream, clock=clock), clock)
    assert stream.getvalue().splitlines() == [
        "compress: resnet20",
        "  cut to half",
        "  warning W203: wide interval",
        "  round 1: 75 of 100, 4.0 s left",
        "compress done, 20 s",
    ]


def test_quiet_console_says_only_warnings() -> None:
    stream, clock = io.StringIO(), Clock()
    work(Console(stream, quiet=True, clock=clock), clock)
    assert stream.getvalue() == "warning W203: wide interval\n"


def test_console_on_a_terminal_draws_and_plain_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    clock = Clock()
    drawn, plain, colourless = Terminal(), Terminal(), Terminal()
    work(Console(drawn, clock=clock), clock)
    work(Console(plain, plain=True, clock=clock), clock)
    monkeypatch.setenv("NO_COLOR", "1")
    work(Console(colourless, clock=clock), clock)
    assert "\x1b[32m" in drawn.getvalue()
    assert "✔ compress done" in drawn.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[32m" not in colourless.getvalue()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_stage_that_fails_is_told_and_the_error_goes_on(error: type[BaseException]) -> None:
    stream = io.StringIO()
    with pytest.raises(error), Console(stream).stage("upload"):
        raise error
    assert stream.getvalue().splitlines()[-1].startswith("upload stopped, ")


def test_log_has_a_json_line_for_each_event(tmp_path: Path) -> None:
    clock = Clock()
    with JsonLog(tmp_path / "run" / "log.jsonl", clock=clock) as log:
        work(log, clock)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["stage", "note", "warning", "progress", "progress", "progress-end", "stage-end"]
    assert (lines[2]["name"], lines[2]["text"]) == ("W203", "wide interval")
    assert (lines[-1]["text"], lines[-1]["wall_s"]) == ("done", 20.0)
    assert all(line["at"].endswith("+00:00") for line in lines)


def test_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        JsonLog(tmp_path / "file" / "log.jsonl")


def test_fanout_tells_everybody() -> None:
    clock = Clock()
    one, other = Recorder(clock=clock), Recorder(clock=clock)
    work(Fanout(one, Silent(), other), clock)
    assert one.events == other.events
    assert [event.done for event in one.events if event.kind == "progress"] == [0, 25, 50, 75, 100]
