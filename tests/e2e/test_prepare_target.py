"""edgec targets prepare with real wheels, over a real OpenSSH server, to an interpreter that has no runtime."""

import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from ssh_server import SshServer, needs_sshd
from tiny_networks import digest, images, linear_network, weights

from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.replies import NetworkJob
from edgec.targets.session import open_session
from edgec.targets.wheels import Place, choose


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    made = SshServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


@pytest.fixture(params=["bare", "3.6"])
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An interpreter without any runtime: a bare venv of this Python, and the oldest that the agent serves, where there is one."""
    if request.param == "bare":
        venv.create(tmp_path / "bare", with_pip=False)
        return tmp_path / "bare" / "bin" / "python"
    found = sorted(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{request.param}.*/bin/python"))
    if not found or platform.machine() != "x86_64":
        pytest.skip(f"no Python {request.param} here")
    return found[0]


def edgec(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "edgec.pipeline.cli.main", *words, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def configure(folder: Path, settings: TargetSettings) -> None:
    keys = ("host", "user", "identity_file", "known_hosts", "ssh_config", "python", "folder", "backend")
    target = "\n".join(f'{key} = "{getattr(settings, key)}"' for key in keys)
    head = 'schema = 1\n[model]\nbuilder = "a:b"\nweights = "w.safetensors"\n[data]\nname = "fashion-mnist-small"\n'
    (folder / "deploy.toml").write_text(f'{head}[[target]]\nname = "board"\nport = {settings.port}\n{target}\n')


def old_opset(file: Path) -> Path:
    """The same network as ONNX Runtime 1.10 reads it, the newest for Python 3.6; its two operators are the same since opset 13."""
    model = onnx.load(file)
    model.opset_import[0].version = 13
    onnx.save(model, file)
    return file


@needs_sshd
@pytest.mark.ssh
@pytest.mark.slow
def test_a_bare_board_is_prepared_offline_and_runs_a_network(server: SshServer, python: Path, tmp_path: Path) -> None:
    settings = server.settings(python=str(python), folder=str(tmp_path / "device"))
    configure(tmp_path, settings)
    code, asked = edgec(tmp_path, "doctor", "board")
    assert (code, asked["results"]["targets"][0]["remedy"]) == (3, "edgec targets prepare board")

    code, dry = edgec(tmp_path, "targets", "prepare", "board", "--offline", "--dry-run")
    assert (code, dry["results"]["state"], dry["results"]["sent_bytes"]) == (0, "missing", 0)
    assert not (tmp_path / "device" / "env").exists()

    code, made = edgec(tmp_path, "targets", "prepare", "board", "--offline")
    wheels = made["results"]["wheels"]
    assert (code, made["results"]["state"], made["results"]["fetched_bytes"]) == (0, "made", 0)
    assert wheels == dry["results"]["wheels"], "what the dry run said is what was pinned"
    assert made["results"]["sent_bytes"] <= sum(each["size_bytes"] for each in wheels)

    code, again = edgec(tmp_path, "targets", "prepare", "board", "--offline")
    assert (code, again["results"]["state"], again["results"]["sent_bytes"]) == (0, "ready", 0)

    network = old_opset(linear_network(tmp_path / "net.onnx"))
    array = images(tmp_path / "in.npz", n=3)
    with open_session(settings) as session:
        installed = {each.name: each.version for each in session.facts().runtimes}
        assert installed["onnxruntime"] == next(each["version"] for each in wheels if each["name"] == "onnxruntime")
        session.ship({digest(each): each for each in (network, tmp_path / "in.npz")})
        job = NetworkJob(label="net", file=digest(network), format="onnx", runtime="onnxruntime", inputs=digest(tmp_path / "in.npz"))
        outputs = session.infer(job)
        expected = array.reshape(3, 16) @ weights()
        assert abs(outputs.arrays["output"] - expected).max() < 1e-5
        session.remove()
    assert not (tmp_path / "device").exists()


@pytest.mark.slow
def test_wheels_for_an_arm_board_are_chosen_here(tmp_path: Path) -> None:
    """A board of Python 3.10 needs a package that this host's own Python may not: pip alone would leave it out."""
    tags = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
    place = Place(version="3.10.12", abi="cp310", machine="aarch64", libc="glibc 2.35", platforms=tags)
    lock, files = choose("tflite", ["ai-edge-litert==2.3.0", "numpy"], place, tmp_path)
    names = {each.name.lower().replace("_", "-"): each for each in lock.wheels}
    assert {"ai-edge-litert", "numpy", "backports.strenum", "flatbuffers"} <= set(names)
    assert names["ai-edge-litert"].file == "ai_edge_litert-2.3.0-cp310-cp310-manylinux_2_27_aarch64.whl"
    assert all(digest(files[each.digest]) == each.digest for each in lock.wheels)
