"""The command line as a user meets it: exit codes, one JSON document, no traceback."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import FACTS, shelf

from edgec.pipeline.cli import doctor, main
from edgec.pipeline.cli.output import spoken, written_atomically
from edgec.pipeline.cli.probing import probe
from edgec.pipeline.config import load
from edgec.pipeline.core.errors import ConfigError, EdgecError, HostUnreachable
from edgec.pipeline.core.records import Conditions
from edgec.pipeline.core.settings import TargetSettings

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = """
import os, signal, subprocess, sys, types
import click
from edgec.pipeline.cli.frame import Command, Outcome
from edgec.pipeline.cli.main import main
from edgec.pipeline.core import errors

@click.command(cls=Command)
def command(context):
    print("noise", flush=True)
    subprocess.run(["echo", "noise of a child"], check=True)
    {body}

module = types.ModuleType("edgec.pipeline.cli.runs")
module.command = command
sys.modules[module.__name__] = module
sys.exit(main(["runs", *sys.argv[1:]]))
"""
"""edgec runs, doing something else."""


CAUGHT: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 60, "check": False}
EDGEC = [sys.executable, "-m", "edgec.pipeline.cli.main"]


def edgec(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGEC, *words], cwd=cwd, **CAUGHT)


def stand_in(body: str, *words: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STAND_IN.replace("{body}", body), *words]
    return subprocess.run(command, cwd=cwd, **CAUGHT, **options)


def document(done: subprocess.CompletedProcess[str], command: str) -> dict[str, Any]:
    """The one document on stdout, its frame checked."""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["schema"] == 1
    assert found["command"] == command
    assert found["exit_code"] == done.returncode
    assert ("results" in found) != ("error" in found)
    assert "Traceback" not in done.stderr
    return found


FAILURES = {
    "configuration": ("raise errors.ConfigError('a', hint='h', context={'file': 'f'})", 2, "ConfigError"),
    "target": ("raise errors.HostKeyUnknown('a')", 3, "HostKeyUnknown"),
    "measurement": ("raise errors.MeasurementError('a')", 4, "MeasurementError"),
    "objective": ("raise errors.ObjectiveNotMet('a')", 1, "ObjectiveNotMet"),
    "model": ("raise errors.ModelError('a')", 5, "ModelError"),
    "bug": ("1 / 0", 70, "ZeroDivisionError"),
    "exit in a library": ("sys.exit(0)", 70, "SystemExit"),
    "no outcome": ("return None", 70, "AssertionError"),
    "memory": ("raise MemoryError", 70, "MemoryError"),
    "interrupt": ("signal.raise_signal(signal.SIGINT)", 130, "Interrupted"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failure_is_one_document_with_its_exit_code(tmp_path: Path, case: str) -> None:
    body, code, kind = FAILURES[case]
    done = stand_in(body, "--json", cwd=tmp_path)
    assert done.returncode == code
    error = document(done, "runs")["error"]
    assert set(error) == {"type", "what", "hint", "context"}
    assert error["type"] == kind


@pytest.mark.parametrize("case", FAILURES)
def test_failure_is_told_to_a_person_without_a_traceback(tmp_path: Path, case: str) -> None:
    body, code, _ = FAILURES[case]
    done = stand_in(body, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.lstrip().startswith("error: ")
    assert "Traceback" not in done.stderr


def test_success_is_one_document_whatever_else_is_printed(tmp_path: Path) -> None:
    done = stand_in("return Outcome(results={'a': 1}, exit_code=4)", "--json", cwd=tmp_path)
    assert document(done, "runs")["results"] == {"a": 1}
    assert done.returncode == 4
    assert "noise\nnoise of a child\n" in done.stderr


def test_bug_leaves_its_trace_in_a_file(tmp_path: Path) -> None:
    done = stand_in("1 / 0", "--json", cwd=tmp_path)
    trace = tmp_path / document(done, "runs")["error"]["context"]["trace"]
    assert trace.parent == tmp_path / ".edgec/crashes"
    assert "ZeroDivisionError: division by zero" in trace.read_text()


def test_bug_where_nothing_can_be_written_goes_to_the_temporary_folder(tmp_path: Path) -> None:
    done = stand_in("1 / 0", "--json", cwd=Path("/proc"), env={**os.environ, "TMPDIR": str(tmp_path)})
    assert Path(document(done, "runs")["error"]["context"]["trace"]).parent == tmp_path


USAGE = {
    "unknown option": (("init", "--nope"), "--nope"),
    "unknown command": (("reprot",), "did you mean 'report'"),
    "option before the command": (("--json", "runs"), "--json"),
    "contradiction": (("runs", "-v", "-q"), "-v and -q"),
    "bad choice": (("report", "--format", "pdf"), "pdf"),
    "bad number": (("runs", "--limit", "0"), "limit"),
    "seed": (("runs", "--seed", "-1"), "seed"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_error(tmp_path: Path, case: str) -> None:
    words, expected = USAGE[case]
    done = edgec(*words, *(() if "--json" in words else ("--json",)), cwd=tmp_path)
    assert done.returncode == 2
    error = document(done, words[0] if words[0] != "--json" else "runs")["error"]
    assert error["type"] == "UsageError"
    assert expected in error["what"]
    assert "--help" in error["hint"]


def test_help_and_version_are_documents_too(tmp_path: Path) -> None:
    assert "Usage: edgec doctor" in document(edgec("doctor", "--json", "--help", cwd=tmp_path), "doctor")["results"]["help"]
    assert edgec("--version", cwd=tmp_path).stdout == "edgec 0.1.0\n"
    bare = edgec(cwd=tmp_path)
    assert (bare.returncode, bare.stdout.startswith("Usage: edgec")) == (2, True)


def test_every_command_is_listed_with_the_first_line_of_its_help() -> None:
    for name, line in main.COMMANDS.items():
        command = main.edgec.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.help is not None
        assert command.help.splitlines()[0] == line
        assert command.epilog is not None
        assert command.epilog.startswith("Example: edgec " + name)


def test_reader_that_goes_away_is_not_a_crash(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "edgec.pipeline.cli.main", "--help"],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_full_disk_behind_stdout_is_an_error(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgec.pipeline.cli.main", "doctor", "--json"],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert b"stdout cannot be written" in done.stderr


def test_init_writes_once_and_its_file_is_ours_to_read(tmp_path: Path) -> None:
    assert edgec("init", cwd=tmp_path).returncode == 0
    load(tmp_path / "deploy.toml", environment={}, overrides={})
    (tmp_path / "deploy.toml").write_text("mine")
    again = edgec("init", cwd=tmp_path)
    assert (again.returncode, (tmp_path / "deploy.toml").read_text()) == (2, "mine")
    assert "--force" in again.stderr
    assert edgec("init", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "deploy.toml").read_text().startswith("# deploy.toml")


def test_all_problems_of_the_configuration_reach_the_user(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text("schema = 1\n[train]\nbatch = 'many'\nepohcs = 1\n")
    done = edgec("targets", cwd=tmp_path)
    assert done.returncode == 2
    assert "deploy.toml:3: [train] batch must be a whole number, is 'many'" in done.stderr
    assert "deploy.toml:4: [train] epohcs is unknown; did you mean epochs?" in done.stderr


def test_doctor_lists_the_extras_of_the_package(tmp_path: Path) -> None:
    results = document(edgec("doctor", "--json", cwd=tmp_path), "doctor")["results"]
    assert [extra["name"] for extra in results["host"]["extras"]] == list(doctor.EXTRAS)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, packages in doctor.EXTRAS.items():
        assert sorted(re.split("[=>]", line)[0] for line in declared[name]) == sorted(packages)


def test_missing_extra_comes_with_its_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"torch": ("no-such-package",)})
    assert '  hint         pip install "edgec[torch]"' in doctor.host_lines(doctor.host_facts(tmp_path))


@contextlib.contextmanager
def open_session(settings: TargetSettings, **_: object) -> Iterator[Any]:
    """Stands at the outermost edge, the network: one board answers, the other is off."""
    if settings.name == "off":
        raise HostUnreachable("off: connection refused", hint="is it on?", context={"host": "off"})
    now = Conditions(t_ns=time.time_ns(), monotonic_ns=1, throttled="0x0")
    yield types.SimpleNamespace(facts=lambda: FACTS, conditions=lambda: now, holder=lambda: None)


def test_one_target_that_is_off_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgec.targets.session", types.SimpleNamespace(open_session=open_session))  # type: ignore[arg-type]
    off, pi, lite = probe([TargetSettings(name="off"), TargetSettings(name="pi"), TargetSettings(name="lite", backend="tflite")])
    assert [each.usable for each in (off, pi, lite)] == [False, True, False]
    assert "  hint      is it on?" in off.lines()
    assert "  meter     rapl: no: no powercap zone" in pi.lines()
    assert lite.remedy == "edgec targets prepare lite"
    assert lite.as_json()["missing"] == "tflite cannot be used: no module ai_edge_litert"


def test_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail_halfway() -> None:
        with written_atomically(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with written_atomically(path) as file:
        file.write(b"new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["absent/report.html", "."])
def test_wrong_output_path_fails_before_the_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError), written_atomically(tmp_path / name):
        pytest.fail("the work began")


def test_control_characters_of_a_board_do_not_reach_the_terminal() -> None:
    error = EdgecError("a\x1b[31mb", hint="c\x07", context={"stderr": "one\ntwo\x1b]0;x"})
    assert "\x1b" not in spoken(error)
    assert "\x07" not in spoken(error)
    assert "one\n          two" in spoken(error)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder in which a (synthetic) deploy has been recorded."""
    store = pytest.importorskip("edgec.pipeline.store").open_store(tmp_path / ".edgec")
    for record in shelf()[0].kept.values():
        store.put(record)
    return tmp_path


def test_runs_and_report_show_what_was_recorded(recorded: Path) -> None:
    (run,) = document(edgec("runs", "--json", cwd=recorded), "runs")["results"]["runs"]
    assert (run["target"], run["network"], run["gate"], run["provenance"]) == ("pi", "compressed int8", "pass", "simulated")
    report = document(edgec("report", run["id"][:8], "--json", cwd=recorded), "report")["results"]["report"]
    assert report["id"] == run["id"]
    assert edgec("report", cwd=recorded).stdout.startswith("compressed int8 on pi: ")


def test_report_goes_to_a_file_or_to_stdout(recorded: Path) -> None:
    assert edgec("report", "--format", "junit", "--output", "gate.xml", cwd=recorded).stdout == "gate.xml written\n"
    assert edgec("report", "--format", "junit", "--output", "-", cwd=recorded).stdout == (recorded / "gate.xml").read_text()
    assert edgec("report", "--format", "html", "--output", "absent/x.html", cwd=recorded).returncode == 2
    clash = edgec("report", "--format", "html", "--json", cwd=recorded)
    assert "--output FILE" in document(clash, "report")["error"]["hint"]


def test_without_a_run_report_says_what_makes_one(tmp_path: Path) -> None:
    done = edgec("report", cwd=tmp_path)
    assert (done.returncode, "edgec deploy" in done.stderr) == (2, True)
    assert document(edgec("runs", "--json", cwd=tmp_path), "runs")["results"] == {"runs": []}


TARGET = """
schema = 1
[model]
builder = "a:b"
weights = "w"
[data]
name = "fashion-mnist-small"
[[target]]
name = "here"
transport = "local"
python = "auto"
folder = "{folder}"
"""


def test_key_is_made_shown_trusted_and_everything_removed_again(tmp_path: Path) -> None:
    board, key = tmp_path / "board", str(tmp_path / "key")
    (tmp_path / "deploy.toml").write_text(TARGET.format(folder=board))
    made = document(edgec("keys", "generate", "--key", key, "--json", cwd=tmp_path), "keys")["results"]
    assert document(edgec("keys", "--key", key, "--json", cwd=tmp_path), "keys")["results"]["fingerprint"] == made["fingerprint"]
    trusted = document(edgec("keys", "trust", "--target", "here", "--key", key, "--json", cwd=tmp_path), "keys")["results"]
    assert trusted == {"trusted": [made["fingerprint"]]}
    dry = document(edgec("targets", "remove", "here", "--dry-run", "--json", cwd=tmp_path), "targets")["results"]
    assert (dry["removed"], dry["folder"]) == (False, str(board))
    assert dry["size_bytes"] > 10_000
    assert board.exists()
    assert document(edgec("targets", "remove", "here", "--json", cwd=tmp_path), "targets")["results"]["removed"]
    assert not board.exists()
    secret = (tmp_path / "key").read_text().splitlines()[1:-1]
    said = edgec("keys", "trust", "--target", "here", "--key", key, "-vv", cwd=tmp_path)
    assert said.returncode == 0
    assert not [line for line in secret if line in said.stdout + said.stderr]
