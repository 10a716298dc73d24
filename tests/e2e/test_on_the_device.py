"""The loader of docs/on-the-device.md, on a real release."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from tiny_networks import digest, images, linear_network, weights

from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.targets.session import open_session


def test_loader_of_the_page_runs_the_active_release(root: Path, tmp_path: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "on-the-device.md").read_text(), re.DOTALL)
    network = linear_network(tmp_path / "net.onnx")
    x = images(tmp_path / "x.npz", n=4)
    np.savez(tmp_path / "golden.npz", **{"in:input": x, "out:output": x.reshape(4, 16) @ weights()})
    files = {"model.onnx": digest(network), "golden.npz": digest(tmp_path / "golden.npz")}
    manifest = {"artifacts": {"onnxruntime": {"file": "model.onnx"}}, "golden": {"file": "golden.npz"}}
    board = tmp_path / "board"
    settings = TargetSettings(name="here", transport=TransportKind.LOCAL, python="auto", folder=str(board))
    with open_session(settings) as session:
        session.ship({digest(each): each for each in (network, tmp_path / "golden.npz")})
        session.stage("shirts", "r-1", manifest, files)
        session.activate("shirts", "r-1")
    done = subprocess.run([sys.executable, "-c", script, "shirts", str(board)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("r-1 [(4, 10)]\n", "")
