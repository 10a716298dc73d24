"""Interrupted work goes on where it stood, and nothing half written is taken for whole."""

import os
import signal
import sqlite3
from pathlib import Path

import pytest
from conftest import Project, recipe

from edgec.pipeline.core.files import digest_of


def interrupt(project: Project, at: str, how: signal.Signals) -> tuple[int, str]:
    """Start a deploy, send a signal when a line that begins with `at` appears, and wait for the end."""
    process = project.start("deploy", "--target", "localhost", "-q" if not at else "--plain")
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip().startswith(at):
            os.kill(process.pid, how)
            break
    _, rest = process.communicate(timeout=60)
    return process.returncode, rest


def store_is_whole(folder: Path) -> bool:
    files = [f for f in (folder / ".edgec" / "files").rglob("*") if f.is_file() and not f.name.startswith(".tmp-")]
    check = sqlite3.connect(folder / ".edgec" / "store.db").execute("PRAGMA integrity_check").fetchone()[0]
    return check == "ok" and all(digest_of(f) == f.name for f in files)


@pytest.mark.parametrize("at", ["prune", "round 1", "measure on localhost"])
def test_ctrl_c_ends_with_130_and_the_next_run_continues(project: Project, at: str) -> None:
    code, rest = interrupt(project, at, signal.SIGINT)
    assert code == 130
    assert "run the same command again" in rest
    assert store_is_whole(project.folder)
    answer = project.run("deploy", "--target", "localhost", "--json")
    assert answer.code == 0, answer.stderr
    assert "dense" in answer.document["results"]["cached"]


def test_killed_in_the_search_the_result_is_the_uninterrupted_one(project: Project, tmp_path: Path) -> None:
    project.configure(recipe(objective='["params <= 0.5 x dense"]'))
    for at in ("prune", "round 1", "round 2"):
        assert interrupt(project, at, signal.SIGKILL)[0] == -signal.SIGKILL
        assert store_is_whole(project.folder)
    resumed = project.run("compress", "--json")
    assert resumed.code == 0, resumed.stderr
    assert any(each.endswith(" rounds of the search") for each in resumed.document["results"]["cached"])
    assert "found from an earlier run" in resumed.stderr
    whole = project.run("compress", "--fresh", "--json", environment={"EDGEC_NOTHING": ""})
    assert whole.code == 0, whole.stderr
    one, two = resumed.document["results"]["record"], whole.document["results"]["record"]
    assert (one["weights"], one["quantised"]) == (two["weights"], two["quantised"])
