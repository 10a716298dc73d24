"""The main job over a real OpenSSH server, and what can go wrong on the way, as the user sees it."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project, recipe
from ssh_server import SshServer, free_port, make_key, needs_sshd

from edgec.targets.session import open_session

pytestmark = [needs_sshd, pytest.mark.ssh]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    made = SshServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def target(server: SshServer, **changes: object) -> str:
    settings = server.settings(**changes)
    keys = ("host", "port", "user", "identity_file", "known_hosts", "ssh_config", "python", "folder", "connect_timeout_s")
    values = {key: getattr(settings, key) for key in keys}
    lines = [f"{key} = {json.dumps(value if isinstance(value, (int, float)) else str(value))}" for key, value in values.items()]
    return "\n".join(["[[target]]", 'name = "board"', *lines])


@pytest.fixture
def deployed(project: Project, server: SshServer) -> Project:
    """A project whose first release is active on the server."""
    project.configure(recipe(prune=False, targets=target(server)))
    answer = project.run("deploy", "--target", "board", "--json")
    assert answer.code == 0, answer.stderr
    assert answer.document["results"]["deployment"]["sent_bytes"] > 0
    return project


def active(server: SshServer) -> str:
    with open_session(server.settings()) as session:
        (release,) = [each.release for each in session.releases("shirts") if each.active]
        assert session.verify("shirts", release) == ()
        return release


def test_deploy_over_ssh_then_every_refusal_leaves_the_old_release(deployed: Project, server: SshServer, tmp_path: Path) -> None:
    before = active(server)
    assert [f.name for f in server.home.iterdir()] == [".edgec"], "nothing else is written on the board"
    empty, other = tmp_path / "nobody_known", tmp_path / "other_key"
    empty.write_text("")
    make_key(other)
    cases = {
        "HostKeyUnknown": target(server, known_hosts=empty),
        "AuthRejected": target(server, identity_file=other),
        "HostUnreachable": target(server, port=free_port()),
        "PythonMissing": target(server, python="no-such-python"),
    }
    for kind, text in cases.items():
        deployed.configure(recipe(targets=text))
        answer = deployed.run("deploy", "--target", "board", "--json")
        assert answer.code == 3, (kind, answer.stderr)
        error = answer.document["error"]
        assert error["type"] == kind
        assert error["hint"]
        if kind == "HostKeyUnknown":
            assert "SHA256:" in answer.stderr
            assert server.known_line().split()[2] in error["hint"]
    assert active(server) == before


def test_host_that_hangs_ends_at_the_deadline(deployed: Project, server: SshServer) -> None:
    deployed.configure(recipe(targets=target(server, connect_timeout_s=2)))
    server.freeze()
    try:
        started = time.monotonic()
        answer = deployed.run("deploy", "--target", "board", "--json")
    finally:
        server.resume()
    assert (answer.code, answer.document["error"]["type"]) == (3, "ConnectTimeout")
    assert time.monotonic() - started < 30
    assert active(server)


@pytest.mark.parametrize("moment", ["ship to board", "check on board", "activate on board", "accuracy on board", "measure on board"])
def test_killed_at_any_stage_the_next_deploy_succeeds(deployed: Project, server: SshServer, moment: str) -> None:
    before = active(server)
    deployed.configure(recipe(targets=target(server)))
    process = deployed.start("deploy", "--target", "board")
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == moment:
            os.killpg(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    now = active(server)
    assert now == before or moment not in {"ship to board", "check on board"}
    answer = deployed.run("deploy", "--target", "board", "--json")
    assert answer.code == 0, answer.stderr
    assert "prune" in answer.document["results"]["cached"]
    assert active(server) != before
