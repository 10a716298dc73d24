"""The device's half of `edgec targets prepare`: what is unpacked, what is refused, and that nothing half made is ever used."""

import hashlib
import http.server
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from raw_agent import RawAgent

from edgec.targets.agent.environment import name_of, variables
from edgec.targets.agent.preparing import place_in_site
from edgec.targets.agent.wire import Failure

ORT = {"onnxruntime/__init__.py": "__version__ = '9.9'\n", "onnxruntime-9.9.dist-info/METADATA": "Name: onnxruntime\n"}
NUMPY = {"numpy/__init__.py": "", "numpy-9.0.dist-info/METADATA": "Name: numpy\n"}


def wheel(file: Path, content: dict[str, str]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return file


def described(file: Path, url: str = "") -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    return {"digest": hashlib.sha256(file.read_bytes()).hexdigest(), "size": file.stat().st_size, "unpacked": unpacked, "url": url}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RawAgent]:
    with RawAgent(tmp_path / "device") as agent:
        agent.ok("lock", owner="test")
        yield agent


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    return [wheel(tmp_path / "o.whl", ORT), wheel(tmp_path / "n.whl", NUMPY)]


def sent(agent: RawAgent, files: list[Path]) -> list[dict[str, Any]]:
    for file in files:
        agent.upload(file.read_bytes())
    return [described(file) for file in files]


def runtime(agent: RawAgent) -> dict[str, Any]:
    return next(each for each in agent.ok("facts")["runtimes"] if each["name"] == "onnxruntime")


def environment(agent: RawAgent) -> dict[str, Any]:
    return agent.ok("environment", runtime="onnxruntime")


def test_a_prepared_runtime_is_found_before_the_installed_one(agent: RawAgent, wheels: list[Path]) -> None:
    import onnxruntime

    assert runtime(agent)["version"] == onnxruntime.__version__
    listed = sent(agent, wheels)
    assert agent.ok("prepare", runtime="onnxruntime", wheels=listed)["made"]
    assert runtime(agent)["version"] == "9.9"
    said = environment(agent)
    assert (said["current"], said["whole"]) == (name_of([each["digest"] for each in listed]), True)
    assert not any((agent.folder / "objects").iterdir()), "the wheels' space is free again"
    assert runtime(agent)["version"] == "9.9"
    assert not agent.ok("prepare", runtime="onnxruntime", wheels=listed)["made"], "whole: nothing is needed for it again"


def test_the_process_of_a_network_imports_the_prepared_runtime(agent: RawAgent, wheels: list[Path]) -> None:
    """The tiny runtime has no SessionOptions: its absence proves which of the two was imported."""
    agent.ok("prepare", runtime="onnxruntime", wheels=sent(agent, wheels))
    digest = agent.upload(b"x")
    answer = agent.ask("infer", job={"label": "x", "file": digest, "inputs": digest, "runtime": "onnxruntime", "threads": 1})
    assert answer["error"]["type"] == "ModelError"
    assert "'onnxruntime' has no attribute 'SessionOptions'" in answer["error"]["what"]


def test_a_damaged_environment_is_noticed_and_made_again(agent: RawAgent, wheels: list[Path]) -> None:
    listed = sent(agent, wheels)
    agent.ok("prepare", runtime="onnxruntime", wheels=listed)
    site = agent.folder / "env" / environment(agent)["current"] / "site"
    (site / "onnxruntime" / "__init__.py").write_text("__version__ = '0.0'\n")
    assert not environment(agent)["whole"]
    assert agent.refused("prepare", runtime="onnxruntime", wheels=listed) == "AgentError", "its wheels have to be sent again"
    sent(agent, wheels)
    assert agent.ok("prepare", runtime="onnxruntime", wheels=listed)["made"]
    assert environment(agent)["whole"]


def test_one_that_does_not_import_changes_nothing(agent: RawAgent, wheels: list[Path], tmp_path: Path) -> None:
    agent.ok("prepare", runtime="onnxruntime", wheels=sent(agent, wheels))
    before = environment(agent)
    killing = {"onnxruntime/__init__.py": "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"}
    for content, words in ((killing, "SIGILL"), ({"onnxruntime/__init__.py": "import missing_one"}, "missing_one"), ({}, "hold no")):
        bad = wheel(tmp_path / "bad.whl", content)
        answer = agent.ask("prepare", runtime="onnxruntime", wheels=sent(agent, [bad, wheels[1]]))
        assert answer["error"]["type"] == "ToolchainMissing"
        assert words in answer["error"]["what"]
        assert environment(agent) == before
        assert not list((agent.folder / "env").glob("*.part"))


def test_the_old_environment_goes_when_the_new_one_is_active(agent: RawAgent, wheels: list[Path], tmp_path: Path) -> None:
    agent.ok("prepare", runtime="onnxruntime", wheels=sent(agent, wheels))
    newer = wheel(tmp_path / "p.whl", {**ORT, "onnxruntime/more.py": ""})
    agent.ok("prepare", runtime="onnxruntime", wheels=sent(agent, [newer, wheels[1]]))
    assert len([each for each in (agent.folder / "env").iterdir() if not each.is_symlink()]) == 1
    assert environment(agent)["whole"]
    agent.ok("remove")
    assert not agent.folder.exists()


def test_an_agent_killed_while_it_unpacks_leaves_the_old_environment(tmp_path: Path, wheels: list[Path]) -> None:
    """The import of the new runtime waits: at that moment all is unpacked and nothing is active."""
    slow = wheel(tmp_path / "slow.whl", {**ORT, "onnxruntime/__init__.py": "import time\ntime.sleep(30)\n"})
    with RawAgent(tmp_path / "device") as agent:
        agent.ok("lock", owner="test")
        agent.ok("prepare", runtime="onnxruntime", wheels=sent(agent, wheels))
        before = environment(agent)
        listed = sent(agent, [slow, wheels[1]])
        threading.Thread(target=agent.write, args=(_request(listed),)).start()
        end = time.monotonic() + 20
        while not list((agent.folder / "env").glob("*.part/files.json")):
            assert time.monotonic() < end
            time.sleep(0.02)
        agent.process.send_signal(signal.SIGKILL)
        agent.process.wait()
    with RawAgent(tmp_path / "device") as agent:
        agent.ok("lock", owner="test")
        assert environment(agent) == before
        assert runtime(agent)["version"] == "9.9"
        newer = wheel(tmp_path / "p.whl", {**ORT, "onnxruntime/more.py": ""})
        assert agent.ok("prepare", runtime="onnxruntime", wheels=sent(agent, [newer, wheels[1]]))["made"]
        assert not list((agent.folder / "env").glob("*.part")), "what the killed one left is gone"


def _request(listed: list[dict[str, Any]]) -> bytes:
    import json

    return json.dumps({"id": 99, "op": "prepare", "runtime": "onnxruntime", "wheels": listed}).encode() + b"\n"


def test_more_than_is_free_is_refused_before_anything(agent: RawAgent, wheels: list[Path]) -> None:
    assert agent.refused("environment", runtime="onnxruntime", needed=1 << 60) == "DeviceFull"
    listed = sent(agent, wheels)
    assert agent.refused("prepare", runtime="onnxruntime", wheels=[{**listed[0], "unpacked": 1 << 60}]) == "DeviceFull"
    assert agent.refused("prepare", runtime="onnxruntime", wheels=[{**listed[0], "unpacked": 3}]) == "DigestMismatch", "it holds more"
    assert environment(agent)["current"] == ""


def test_a_wheel_that_is_damaged_at_rest_is_refused(agent: RawAgent, wheels: list[Path]) -> None:
    listed = sent(agent, wheels)
    file = agent.folder / "objects" / listed[0]["digest"]
    file.chmod(0o644)
    file.write_bytes(b"x" * listed[0]["size"])
    assert agent.refused("prepare", runtime="onnxruntime", wheels=listed) == "DigestMismatch"
    assert not file.exists(), "the next attempt sends it anew"


def test_numpy_on_an_old_jetson_is_told_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert variables("aarch64", (3, 6)) == {"OPENBLAS_CORETYPE": "ARMV8"}
    assert variables("aarch64", (3, 7)) == variables("x86_64", (3, 6)) == {}
    monkeypatch.setenv("OPENBLAS_CORETYPE", "CORTEXA57")
    assert variables("aarch64", (3, 6)) == {}, "what its user has set stays"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a//b", "./a", "a\\..\\b"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(Failure):
        place_in_site(name)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("numpy/core/x.so", "numpy/core/x.so"),
        ("numpy/", ""),
        ("tf-1.data/purelib/tf/a.py", "tf/a.py"),
        ("tf-1.data/platlib/b.so", "b.so"),
        ("tf-1.data/scripts/run", ""),
        ("tf-1.data/data/etc/passwd", ""),
    ],
)
def test_places_in_the_environment(name: str, place: str) -> None:
    assert place_in_site(name) == place


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_board_downloads_what_it_lacks(agent: RawAgent, wheels: list[Path], index: str) -> None:
    listed = [described(file, f"{index}/{file.name}") for file in wheels]
    agent.upload(wheels[1].read_bytes())
    said = agent.ok("prepare", runtime="onnxruntime", wheels=listed, fetch=True)
    assert said == {"made": True, "fetched": listed[0]["size"], "no_route": ""}
    assert runtime(agent)["version"] == "9.9"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/o.whl", "{index}/none.whl", "file:///etc/passwd", ""])
def test_no_route_is_an_answer_and_nothing_is_made(agent: RawAgent, wheels: list[Path], index: str, url: str) -> None:
    listed = [described(file, url.format(index=index)) for file in wheels]
    said = agent.ok("prepare", runtime="onnxruntime", wheels=listed, fetch=True)
    assert said["no_route"]
    assert (said["made"], environment(agent)["current"]) == (False, "")


def test_another_file_at_the_address_is_refused(agent: RawAgent, wheels: list[Path], index: str) -> None:
    listed = [described(file, f"{index}/n.whl") for file in wheels]
    assert agent.refused("prepare", runtime="onnxruntime", wheels=listed, fetch=True) == "DigestMismatch"


def test_only_whoever_is_in_charge_prepares(tmp_path: Path) -> None:
    with RawAgent(tmp_path / "device") as agent:
        assert agent.refused("prepare", runtime="onnxruntime", wheels=[]) == "AgentError"
        assert agent.ok("environment", runtime="onnxruntime")["current"] == ""
