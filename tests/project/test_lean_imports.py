"""Help answers at once because nothing heavy is imported for it."""

import json
import subprocess
import sys

import pytest

from edgec.pipeline.cli.main import COMMANDS

HEAVY = {"torch", "numpy", "scipy", "rich", "pydantic", "paramiko", "jinja2", "matplotlib", "onnx", "onnxruntime", "psutil", "cryptography"}

SCRIPT = """
import json, sys
from edgec.pipeline.cli.main import main
code = main(json.loads(sys.argv[1]))
print(json.dumps({"code": code, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(words)], capture_output=True, text=True, timeout=60, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["code"] == 0
    assert not HEAVY & set(said["modules"])


def test_import_edgec_imports_nothing_heavy() -> None:
    script = "import json, sys, edgec; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert not HEAVY & set(json.loads(done.stdout))
