"""Without torch and without any runtime on the host, everything that needs neither still works."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_server import SshServer, needs_sshd
from tiny_networks import linear_network

BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torch_pruning", "safetensors", "onnxruntime"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    made = SshServer(tmp_path / "server")
    made.start()
    yield made
    made.stop()


def edgec(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "blocked").mkdir(exist_ok=True)
    (folder / "blocked" / "sitecustomize.py").write_text(BLOCK)
    path = os.pathsep.join(filter(None, [str(folder / "blocked"), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "edgec.pipeline.cli.main", *words]
    environment = {**os.environ, "PYTHONPATH": path, "HOME": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)


@needs_sshd
@pytest.mark.ssh
def test_profile_over_ssh_gate_report_and_doctor_work_without_torch(server: SshServer, tmp_path: Path) -> None:
    settings = server.settings()
    keys = ("host", "user", "identity_file", "known_hosts", "ssh_config", "python")
    target = "\n".join(f'{key} = "{getattr(settings, key)}"' for key in keys)
    head = (
        'schema = 1\n[model]\nbuilder = "a:b"\nweights = "w.safetensors"\n[data]\nname = "fashion-mnist-small"\n[gate]\nsize_ratio = 1.0\n'
    )
    (tmp_path / "deploy.toml").write_text(f'{head}[[target]]\nname = "board"\nport = {settings.port}\n{target}\n')
    linear_network(tmp_path / "net.onnx", batch=1)
    assert edgec(tmp_path, "--help").returncode == 0
    assert "onnxruntime" in edgec(tmp_path, "doctor", "board").stdout
    measured = edgec(tmp_path, "profile", "net.onnx", "--target", "board")
    assert measured.returncode == 0, measured.stderr
    identity = measured.stdout.split()[-1]
    assert edgec(tmp_path, "gate", identity, "--write-baseline", "b.json").returncode == 0
    verdict = edgec(tmp_path, "gate", identity, "--baseline", "b.json")
    assert "pass         size_ratio" in verdict.stdout
    assert verdict.returncode == 4, "a foreign file has no accuracy, and the gate asks for one"
    assert edgec(tmp_path, "runs").returncode == 0


def test_a_missing_extra_gives_its_install_line(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text(
        'schema = 1\n[model]\nbuilder = "a:b"\nweights = "w.safetensors"\n[data]\nname = "fashion-mnist-small"\n'
    )
    answer = edgec(tmp_path, "compress")
    assert answer.returncode == 5
    assert 'pip install "edgec[torch]"' in answer.stderr
    assert "Traceback" not in answer.stderr
