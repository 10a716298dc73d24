"""Who listens to what operations say while they work: the console, a log, several of them, nobody, or a test.

All of them implement `protocols.Events`. Progress exists only here.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.units import elapsed

if TYPE_CHECKING:
    from rich.progress import Progress

    from edgec.pipeline.core.protocols import Events

PLAIN_PERIOD_S = 10.0
"""Without a terminal a running job says where it is at most this often."""


class Silent:
    """Says nothing."""

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:  # noqa: ARG002
        yield

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        yield lambda _done: None

    def note(self, text: str) -> None: ...

    def warn(self, code: str, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Event:
    """One thing said. `kind`: stage, stage-end, progress, progress-end, note, warning. `name`: the stage, the work or the code."""

    kind: str
    name: str
    text: str = ""
    done: int | None = None
    total: int | None = None
    wall_s: float | None = None


@dataclass(slots=True)
class Recorder:
    """Keeps every event, for tests of code that takes `Events`."""

    events: list[Event] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic

    def take(self, event: Event) -> None:
        """Where subclasses send an event elsewhere."""
        self.events.append(event)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        start = self.clock()
        self.take(Event("stage", name, detail))
        outcome = "failed"
        try:
            yield
            outcome = "done"
        finally:
            self.take(Event("stage-end", name, outcome, wall_s=self.clock() - start))

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        start = self.clock()
        reached = 0

        def advance(done: int) -> None:
            nonlocal reached
            reached = done
            self.take(Event("progress", what, done=done, total=total, wall_s=self.clock() - start))

        try:
            yield advance
        finally:
            self.take(Event("progress-end", what, done=reached, total=total, wall_s=self.clock() - start))

    def note(self, text: str) -> None:
        self.take(Event("note", "", text))

    def warn(self, code: str, text: str) -> None:
        self.take(Event("warning", code, text))


class JsonLog(Recorder):
    """One JSON line per event, appended to a file; running work is logged at most every 10 s.

    Raises:
        StoreError: the file cannot be opened.
    """

    __slots__ = ("_file", "_progressed")

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock=clock)
        self._progressed = -PLAIN_PERIOD_S
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise StoreError(
                f"the log {path} cannot be written: {error.strerror}", hint="check the folder's permissions and space"
            ) from error

    def take(self, event: Event) -> None:
        if event.kind == "progress":
            if self.clock() - self._progressed < PLAIN_PERIOD_S:
                return
            self._progressed = self.clock()
        said = {name: value for name in Event.__slots__ if (value := getattr(event, name)) not in (None, "")}
        self._file.write(json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), **said}, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Nothing can be logged afterwards."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Fanout:
    """Tells several listeners, in the order given."""

    def __init__(self, *listeners: "Events") -> None:
        self._listeners = listeners

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        with ExitStack() as stack:
            for each in self._listeners:
                stack.enter_context(each.stage(name, detail))
            yield

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        with ExitStack() as stack:
            steps = [stack.enter_context(each.progress(what, total)) for each in self._listeners]

            def advance(done: int) -> None:
                for step in steps:
                    step(done)

            yield advance

    def note(self, text: str) -> None:
        for each in self._listeners:
            each.note(text)

    def warn(self, code: str, text: str) -> None:
        for each in self._listeners:
            each.warn(code, text)


class Renamed:
    """Passes everything on; progress goes under a name that says more than the worker knows."""

    def __init__(self, listener: "Events", what: str) -> None:
        self._listener, self._what = listener, what
        self.stage, self.note, self.warn = listener.stage, listener.note, listener.warn

    def progress(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG002
        return self._listener.progress(self._what, total)


class Console:
    """For a person, on stderr: stages with their time, notes, warnings, a bar with the time left on a terminal.

    Args:
        stream: where to write; colour and the bar only if it is a terminal (and NO_COLOR and `plain` are not set).
        plain: no colour, no glyphs, no bar.
        quiet: warnings only.
        clock: monotonic seconds.
    """

    def __init__(self, stream: IO[str], *, plain: bool = False, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        import rich.console

        class Terminal(rich.console.Console):
            """A reader that has gone away is not an error."""

            def on_broken_pipe(self) -> None:
                self.quiet = True

        self._console = Terminal(
            file=stream,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            no_color=True if plain else None,
            force_terminal=False if plain else None,
        )
        self._fancy = self._console.is_terminal and not self._console.is_dumb_terminal
        self._quiet = quiet
        self._clock = clock
        self._depth = 0
        self._bars: Progress | None = None

    def _say(self, text: str, style: str = "") -> None:
        if not self._quiet:
            self._console.print("  " * self._depth + text, style=style or None)

    @contextmanager
    def stage(self, name: str, detail: str = "") -> Iterator[None]:
        self._say(f"{self._mark('▸ ', '')}{name}" + (f": {detail}" if detail else ""), "bold")
        start = self._clock()
        self._depth += 1
        ending, mark, style = "stopped", self._mark("✘ ", ""), "red"
        try:
            yield
            ending, mark, style = "done", self._mark("✔ ", ""), "green"
        finally:
            self._depth -= 1
            self._say(f"{mark}{name} {ending}, {elapsed(self._clock() - start)}", style)

    def progress(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        if self._quiet:
            return Silent().progress(what, total)
        return self._bar(what, total) if self._fancy else self._lines(what, total)

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """One live display for all bars; it goes away with the last of them."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bars is None:
            columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bars.start()
        bars = self._bars
        task = bars.add_task(what, total=total)
        try:
            yield lambda done: bars.update(task, completed=done)
        finally:
            bars.remove_task(task)
            if not bars.task_ids:
                bars.stop()
                self._bars = None

    @contextmanager
    def _lines(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        start = said = self._clock()

        def advance(done: int) -> None:
            nonlocal said
            now = self._clock()
            if now - said >= PLAIN_PERIOD_S:
                said = now
                left = f", {elapsed((now - start) * (total - done) / done)} left" if done else ""
                self._say(f"{what}: {done} of {total}{left}")

        yield advance

    def note(self, text: str) -> None:
        self._say(text)

    def warn(self, code: str, text: str) -> None:
        self._console.print(("" if self._quiet else "  " * self._depth) + f"warning {code}: {text}", style="yellow")

    def _mark(self, glyph: str, plain: str) -> str:
        return glyph if self._fancy else plain


def log_to(stream: Any, *, verbosity: int) -> None:
    """Library messages and Python warnings as lines on a stream: warnings, with -v information, with -vv everything."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(max(0, verbosity), logging.DEBUG)
    logging.basicConfig(stream=stream, level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    logging.captureWarnings(True)
    if verbosity <= 0:  # shown with -v: a library's advice is not a user's business, our errors are told anyway
        logging.getLogger("py.warnings").setLevel(logging.ERROR)
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it logs tracebacks of what it raises
