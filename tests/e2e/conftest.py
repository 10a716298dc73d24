"""A small real project: own network, own data, trained weights, and the command line as a user runs it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent / "project"

TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import mine
from pathlib import Path
from edgec.models.build import save_tensors
from edgec.models.fashion_mnist import NORMALISE
from edgec.pipeline.compress.losses import label_loss
from edgec.pipeline.compress.train import Plan, Samples, fit
from edgec.pipeline.core.records import Split
from edgec.pipeline.core.settings import TrainSettings
from edgec.pipeline.events import Silent
torch.manual_seed(0)
net = mine.network(int(sys.argv[2]))
images, labels = mine.data().arrays(Split.TRAIN)
samples = Samples(images=images, labels=labels, preprocess=NORMALISE)
plan = Plan(name="net", epochs=float(sys.argv[3]), lr=0.05, seed=0)
fit(net, samples, loss=label_loss, plan=plan, settings=TrainSettings(threads=1), events=Silent())
save_tensors(net, Path(sys.argv[4]))
"""


@dataclass(frozen=True)
class Answer:
    """What one command gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        parsed: dict[str, Any] = json.loads(self.stdout)
        assert parsed["exit_code"] == self.code, self.stderr
        return parsed


class Project:
    """A folder with deploy.toml; `run` is the installed command in its own process."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "HOME": str(home), "EDGEC_TRAIN_THREADS": "1"}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "edgec.pipeline.cli.main", *words]

    def run(self, *words: str, timeout: float = 240, environment: Mapping[str, str] | None = None) -> Answer:
        done = subprocess.run(
            self.command(*words),
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def configure(self, text: str) -> None:
        (self.folder / "deploy.toml").write_text(text)


def trained(folder: Path, width: int, epochs: float) -> Path:
    out = folder / f"net{width}.safetensors"
    subprocess.run([sys.executable, "-c", TRAIN, str(HERE), str(width), str(epochs), str(out)], check=True, timeout=200)
    return out


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 8, trained for some seconds."""
    return trained(tmp_path_factory.mktemp("weights"), 8, 5)


RECIPE = """
schema = 1
app = "shirts"
[model]
builder = "mine:network"
arguments = {{ width = {width} }}
weights = "net.safetensors"
[data]
name = "mine:data"
classes = 10
preprocess = {{ mean = [0.2860], std = [0.3530], pad = 2 }}
[objective]
subject_to = {objective}
[train]
epochs = {epochs}
threads = 1
[prune]
enabled = {prune}
samples = 128
[quantise]
samples = 128
tolerance_points = 5.0
[measure.rule]
min_time_s = 0.2
max_time_s = 1.0
warmup_s = 0.05
[measure.probe]
min_time_s = 0.1
max_time_s = 0.5
warmup_s = 0.02
[gate]
accuracy_drop_points = 100.0
size_ratio = 1.0
{targets}
"""


SMALLER = '["params <= 0.7 x dense"]'


def recipe(*, prune: bool = True, objective: str = SMALLER, width: int = 8, epochs: float = 1.0, targets: str = "") -> str:
    return RECIPE.format(prune=str(prune).lower(), objective=objective, width=width, epochs=epochs, targets=targets)


@pytest.fixture
def project(tmp_path: Path, weights: Path) -> Project:
    """Quantise and prune, deployed to localhost with its own home folder."""
    folder, home = tmp_path / "project", tmp_path / "home"
    home.mkdir()
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(weights, folder / "net.safetensors")
    made = Project(folder, home)
    made.configure(recipe())
    return made
