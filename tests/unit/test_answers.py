"""An agent that lies: whatever it says is a record of the right types or a `ProtocolViolation`, and nothing of it steers a terminal."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edgec.pipeline.cli.output import spoken
from edgec.pipeline.core.errors import ModelError, ProtocolViolation
from edgec.pipeline.core.records import StoppingRule
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.targets.local import LocalTransport
from edgec.targets.replies import GoldenBounds, NetworkJob
from edgec.targets.session import AgentSession

CONDITIONS = {
    "t_ns": 1,
    "monotonic_ns": 1,
    "load1": 0.5,
    "cpu_mhz": None,
    "governor": None,
    "temp_celsius": 40,
    "throttled": None,
    "power_mode": None,
    "cpu_clock_fixed": False,
    "gpu_mhz": 921.6,
    "gpu_clock_fixed": None,
    "gpu_throttled": None,
    "readings": {"supply_volts": 5.1},
    "unknown": {"governor": "no cpufreq"},
}
FACTS = {
    "board": "b",
    "machine": "m",
    "system": "s",
    "kernel": "k",
    "cpu": "c",
    "cores": 4,
    "memory_bytes": 1,
    "disk_free_bytes": None,
    "python": "3",
    "libc": "",
    "emulated": False,
    "board_id": "jetson-nano",
    "family": "jetson",
    "cpu_features": ["asimd"],
    "accelerators": ["gpu"],
    "versions": {"l4t": "32.7.1"},
    "unknown": {"jetpack": "r"},
    "runtimes": [{"name": "onnxruntime", "version": None, "reason": "r"}],
    "meters": [{"name": "rapl", "usable": True, "scope": ["package-0"], "reason": ""}],
}
NETWORK = {
    "label": "net",
    "load_s": 0.1,
    "first_s": 0.1,
    "stopped_by": "time",
    "runtime_version": "1",
    "rss_before_bytes": 1,
    "rss_peak_bytes": None,
}
TRACE = {"meter": "rapl", "unit": "J", "scope": ["package-0"], "samples": [[1, 2.0], [2, 3]], "idle": [[1, 2]]}
RUN = {"networks": [NETWORK], "before": CONDITIONS, "after": CONDITIONS, "trace": TRACE, "trace_reason": ""}
SAMPLES = {"samples": {"index": 0, "blocks": [[5, 6], [7]], "spans": [[1, 20], [30, 40]]}}
WARMUP = {"warmup": {"index": 0, "times": [9]}}
GOLDEN = {"max_abs_error": 0.1, "max_rel_error": None, "cosine_min": 1, "agree": 1, "n": 1, "passed": True, "version": "1"}
RELEASE = {"release": "r", "active": True, "previous": False, "size_bytes": 1, "staged_at_s": 1.5}
JOB = NetworkJob(label="net", file="0" * 64, format="onnx", runtime="onnxruntime", inputs="0" * 64)

CALLS: dict[str, tuple[Callable[[AgentSession], object], list[Any], Any]] = {
    "facts": (lambda s: s.facts(), [], FACTS),
    "conditions": (lambda s: s.conditions(), [], CONDITIONS),
    "have": (lambda s: s.missing(["0" * 64]), [], {"missing": ["0" * 64]}),
    "verify": (lambda s: s.verify("a", "r"), [], {"problems": ["x is missing"]}),
    "stage": (lambda s: s.stage("a", "r", {}, {}), [], {"made": True}),
    "activate": (lambda s: s.activate("a", "r"), [], {"previous": None}),
    "rollback": (lambda s: s.rollback("a"), [], {"old": "b", "new": "a"}),
    "releases": (lambda s: s.releases("a"), [], {"releases": [RELEASE]}),
    "prune": (lambda s: s.prune("a", 1), [], {"releases": ["r"], "objects": []}),
    "golden": (lambda s: s.golden("a", "r", GoldenBounds(file="f", runtime="o", max_abs=1.0, top1=1.0)), [], GOLDEN),
    "profile": (lambda s: s.profile([JOB], StoppingRule()), [{"fraction": 0.5}, WARMUP, SAMPLES], RUN),
    "evaluate": (lambda s: s.evaluate(JOB, 1), [{"done": 1, "total": 2}], {"predictions": [1, 2], "version": "1"}),
}


class Liar:
    """A `protocols.Channel` to an agent that says these lines to whatever it is asked, and "ok" to a lock."""

    def __init__(self, lines: list[Any]) -> None:
        self.lines, self.waiting = lines, []

    def send(self, line: bytes) -> None:
        request = json.loads(line)
        said = [{"ok": {}}] if request["op"] == "lock" else self.lines
        self.waiting = [json.dumps({"id": request["id"], **each}).encode() if isinstance(each, dict) else each for each in said]

    def receive(self, *, deadline: float) -> bytes:
        return self.waiting.pop(0)

    def errors(self) -> str:
        return ""

    def close(self) -> None:
        pass


def session(*lines: Any) -> AgentSession:
    settings = TargetSettings(name="board", transport=TransportKind.LOCAL)
    return AgentSession(settings, LocalTransport("board"), Liar(list(lines)), "/f", None)


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every part of a JSON value lies."""
    yield so_far
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from paths(each, (*so_far, key))


def changed(value: Any, path: tuple[Any, ...], to: Any) -> Any:
    whole = [copy.deepcopy(value)]
    part = whole
    for key in (0, *path)[:-1]:
        part = part[key]
    part[(0, *path)[-1]] = to
    return whole[0]


@pytest.mark.parametrize("op", CALLS)
def test_honest_answer_is_believed(op: str) -> None:
    call, events, answer = CALLS[op]
    with session(*({"event": each} for each in events), {"ok": answer}) as honest:
        call(honest)


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("lie", [[{}], {"odd": 1}, 2**64], ids=["list", "object", "beyond 64 bits"])
def test_wrong_type_anywhere_is_a_violation_of_the_protocol(op: str, lie: Any) -> None:
    """Each part of the events and of the answer in turn; none of the values fits anywhere."""
    call, events, answer = CALLS[op]
    honest = [*({"event": each} for each in events), {"ok": answer}]
    tried = [path for path in paths(honest) if len(path) > 1]
    for path in tried:
        if "fraction" in path or ("objects" in path and lie != 2**64):
            continue  # nobody listens
        if op == "profile" and path[1:] == ("event",) and isinstance(lie, dict):
            continue  # an event of a kind that is only told
        if path[-1] == "readings" and isinstance(lie, dict):
            continue  # any name may have a number
        with session(*changed(honest, path, lie)) as dishonest, pytest.raises(ProtocolViolation, match="board"):
            call(dishonest)
    assert len(tried) > 1


@pytest.mark.parametrize(
    ("op", "where", "lie"),
    [
        ("profile", (2, "event", "samples", "index"), 1),
        ("profile", (2, "event", "samples", "index"), -1),
        ("profile", (2, "event", "samples", "blocks"), [[5, 6], []]),
        ("profile", (2, "event", "samples", "blocks"), [[5, 6]]),
        ("profile", (2, "event", "samples", "blocks"), [[5, 6], [True]]),
        ("profile", (3, "ok", "networks", 0, "label"), "other"),
        ("profile", (3, "ok", "networks", 0, "load_s"), "0.1"),
        ("profile", (3, "ok", "networks"), []),
        ("facts", (0, "ok", "cores"), 4.5),
        ("facts", (0, "ok", "emulated"), 0),
        ("facts", (0, "ok", "meters", 0, "more"), 1),
        ("have", (0, "ok", "missing"), ["1" * 64]),
        ("evaluate", (1, "ok", "predictions"), ["1"]),
    ],
)
def test_answer_that_does_not_fit_what_was_asked_is_refused(op: str, where: tuple[Any, ...], lie: Any) -> None:
    call, events, answer = CALLS[op]
    with (
        session(*changed([*({"event": each} for each in events), {"ok": answer}], where, lie)) as dishonest,
        pytest.raises(ProtocolViolation),
    ):
        call(dishonest)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": 1, "ok": {"cores": NaN}}',
        b'{"id": 1, "ok": 1e999}',
        b'{"id": 1, "ok": {"a": -1e999}}',
        b"[]",
        b'{"a":' * 800 + b"1" + b"}" * 800,
    ],
)
def test_line_that_no_answer_can_be_is_refused(line: bytes) -> None:
    with session(line) as dishonest, pytest.raises(ProtocolViolation):
        dishonest.facts()


HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp\x9b31m\ud800"


def test_no_string_of_a_board_steers_a_terminal() -> None:
    lying = changed(changed(FACTS, ("board",), HOSTILE + "\nverdict: pass"), ("runtimes", 0, "reason"), HOSTILE)
    with session({"ok": lying}) as dishonest:
        facts = dishonest.facts()
    for text in (facts.board, facts.runtimes[0].reason):
        assert not set(text) & set(HOSTILE) - set("]0;owned[2Jgnp31m")
        text.encode()
    assert "\n" not in facts.board


def test_error_of_a_board_keeps_its_lines_and_no_escapes() -> None:
    said = {"type": "ModelError", "what": "one\ntwo" + HOSTILE, "context": {"problems": 5, HOSTILE: [HOSTILE]}}
    with session({"error": said}) as dishonest, pytest.raises(ModelError) as caught:
        dishonest.facts()
    assert "one\ntwo" in caught.value.what
    assert "\x1b" not in str(caught.value.what) + str(caught.value.context)
    assert spoken(caught.value).encode()
