"""The whole job on emulated ARM64 boards, from a board that has nothing but SSH and Python, and power cuts of one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.conftest import HERE as NETWORK
from e2e.conftest import Project, recipe, trained
from emulated import KINDS, EmulatedBoard, missing

from edgec.targets.ssh import SshTransport

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.ssh,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
BOARDS = [name if name == "jetson-nano" else pytest.param(name, marks=pytest.mark.every_board) for name in KINDS]
EMULATED_COUNTS = 'provenance = ["measured", "emulated"]'
IMAGES = 100
"""Accuracy is measured on so many: an emulated processor takes its time for each."""
TIES = IMAGES // 100
"""So many may be right on one machine and wrong on another: their best two classes lie closer than the parity tolerance."""


@pytest.fixture
def board(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmulatedBoard]:
    """The board that the test is parametrised with, on."""
    made = EmulatedBoard(tmp_path / "board", request.param)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder, home = tmp_path / "project", tmp_path / "home"
    home.mkdir()
    shutil.copytree(NETWORK, folder, ignore=shutil.ignore_patterns("__pycache__"))
    code = (folder / "mine.py").read_text()
    assert "Split.TEST: 400" in code
    (folder / "mine.py").write_text(code.replace("Split.TEST: 400", f"Split.TEST: {IMAGES}"))
    shutil.copy(trained(tmp_path, 8, 5), folder / "net.safetensors")
    return Project(folder, home)


def table(board: EmulatedBoard, **changes: object) -> str:
    """Its [[target]] table."""
    settings = board.settings(board=board.name, **changes)
    keys = ("name", "board", "host", "port", "user", "identity_file", "known_hosts", "ssh_config", "backend")
    values = {key: getattr(settings, key) for key in (*keys, "connect_timeout_s", "request_timeout_s")}
    lines = [f"{key} = {json.dumps(value if isinstance(value, (int, float)) else str(value))}" for key, value in values.items()]
    return "\n".join(["[[target]]", *lines])


def text(board: EmulatedBoard, **changes: object) -> str:
    """A deploy.toml without pruning: what is compressed, and how well, does not depend on the board."""
    return recipe(prune=False, targets=table(board, **changes)).replace("[gate]", f"[gate]\n{EMULATED_COUNTS}")


@pytest.mark.parametrize("board", BOARDS, indirect=True)
def test_a_bare_board_is_prepared_deployed_to_measured_and_rolled_back(board: EmulatedBoard, project: Project, tmp_path: Path) -> None:
    def ask(*words: str, code: int = 0) -> dict[str, Any]:
        answer = project.run(*words, "--json", timeout=1800)
        assert answer.code == code, answer.stderr
        return answer.document

    # which board it is, and that it is none
    project.configure(text(board))
    (seen,) = ask("doctor", board.name, code=3)["results"]["targets"]
    assert (seen["state"], seen["wrong_board"]) == ("no runtime", "")
    facts = seen["facts"]
    assert {key: facts[key] for key in ("board_id", "board", "machine", "emulated")} == {
        "board_id": board.name,
        "board": KINDS[board.name].model,
        "machine": "aarch64",
        "emulated": True,
    }
    system = ("jetpack", "4.6.1") if facts["family"] == "jetson" else ("image", "2024-10-22")
    assert system in facts["versions"].items()

    # what could run there, why not otherwise, and what is to be done first
    if board.name == "jetson-nano":
        project.configure(text(board, backend="tensorrt"))
        refused = ask("plan", "--target", board.name, code=5)["error"]
        assert "Maxwell" in refused["what"]
        assert "fp16 with tensorrt works there" in refused["hint"]
        project.configure(text(board))
    bare = ask("plan", "--target", board.name, code=5)["error"]
    assert "has no onnxruntime" in bare["what"]
    assert "edgec targets prepare" in bare["hint"]

    # a runtime from this machine: the board reaches nothing
    ready = ask("targets", "prepare", board.name, "--offline")["results"]
    assert (ready["state"], ready["fetched_bytes"]) == ("made", 0)
    assert ready["sent_bytes"] > 10_000_000
    steps = {step["name"]: step["what"] for step in ask("plan", "--target", board.name)["results"]["steps"]}
    assert steps["lower"].startswith(f"onnxruntime {ready['version']}, int8")

    # int8, then fp32: the same classes as here
    here = recipe(prune=False).replace("[gate]", f"[gate]\n{EMULATED_COUNTS}")
    releases = []
    for change in (str, floating):
        project.configure(change(text(board)))
        there = ask("deploy", "--target", board.name)["results"]
        assert there["deployment"]["sent_bytes"] > 0
        assert there["deployment"]["golden"]["passed"]
        measured = there["networks"][-1]["measurement"]
        assert measured["provenance"] == "emulated"
        assert measured["accuracy"]["n"] == IMAGES
        project.configure(change(here))
        local = ask("deploy", "--target", "localhost")["results"]["networks"][-1]["measurement"]
        right = [each["accuracy"]["correct"] for each in (measured, local)]
        assert abs(right[0] - right[1]) <= TIES, right
        releases.append(there["deployment"]["release"])
    assert there["deployment"]["previous"] == releases[0]

    # any file, measured; then the release before
    from tiny_networks import linear_network

    project.configure(text(board))
    record = ask("profile", str(linear_network(tmp_path / "net.onnx", batch=1)), "--target", board.name)["results"]["record"]
    assert (record["provenance"], record["facts"]["board_id"]) == ("emulated", board.name)
    assert ask("rollback", "--target", board.name)["results"] == {"left": releases[1], "active": releases[0]}


def floating(of: str) -> str:
    """The same recipe without quantisation."""
    return of.replace("[quantise]", "[quantise]\nenabled = false")


@pytest.mark.every_board
@pytest.mark.parametrize("board", ["raspberry-pi-4"], indirect=True)
def test_a_power_cut_takes_what_was_not_flushed(board: EmulatedBoard) -> None:
    def shell(line: str) -> str:
        transport = SshTransport(board.settings())
        try:
            transport.connect()
            return transport.run(["sh", "-c", line], timeout_s=120)[1]
        finally:
            transport.close()

    shell("echo kept > kept; sync; echo lost > lost")
    board.cut()
    board.start()
    assert shell("cat kept lost 2>/dev/null") == "kept\n"


def test_power_cuts_leave_a_whole_release_and_a_free_lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(root / "benchmarks")
    import faults

    results = faults.campaign(range(3), seed=21, level="emulated")
    found = faults.rows(results, level="emulated")
    assert [(row["fault"], row["phase"], row["n"]) for row in found] == [("power cut", phase, 1) for phase in faults.PHASES]
    assert [row for row in found if row["broken"] or row["stuck_locks"]] == [], results
