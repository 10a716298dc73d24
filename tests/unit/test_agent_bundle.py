"""The agent's one file: the same bytes everywhere, only the device half in it, and it runs on every Python since 3.6."""

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from raw_agent import RawAgent

from edgec.targets.agent import bundle


def test_bytes_are_the_same_in_another_process_and_locale() -> None:
    code = "import sys; from edgec.targets.agent import bundle; sys.stdout.buffer.write(bundle.build()[1])"
    environment = {**os.environ, "LC_ALL": "C", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment).stdout
    name, data = bundle.build()
    assert other == data
    assert name == f"edgec-agent-{hashlib.sha256(data).hexdigest()[:16]}.pyz"


def test_order_of_the_folder_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = bundle.build()
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: list(reversed(real(path))))
    assert bundle.build() == before


def test_host_code_stays_at_home() -> None:
    with zipfile.ZipFile(io.BytesIO(bundle.build()[1])) as archive:
        names = archive.namelist()
    assert "edgec/targets/agent/bundle.py" not in names
    assert not [name for name in names if name.startswith("edgec/pipeline")]
    assert "edgec/targets/agent/runners/onnxruntime.py" in names
    here = Path(bundle.__file__).parents[2] / "profilers" / "meters"
    assert {path.name for path in here.glob("*.py")} == {
        name.rpartition("/")[2] for name in names if name.startswith("edgec/profilers/meters/")
    }


def test_bundle_imports_no_package_beyond_the_standard_library(tmp_path: Path) -> None:
    """-S: without site-packages. The agent's own modules are imported by starting it."""
    name, data = bundle.build()
    (tmp_path / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(tmp_path / name), "--folder", str(tmp_path / "f")],
        input=b'{"id":1,"op":"facts"}\n',
        capture_output=True,
        check=True,
    )
    assert b'"ok"' in done.stdout.splitlines()[1]
    assert b"has no onnxruntime" in done.stdout.splitlines()[1]


def test_each_module_is_compiled_once(tmp_path: Path) -> None:
    """The interpreter tells what it compiles. zipimport compiles each module twice: what is imported before it is replaced."""
    name, data = bundle.build()
    (tmp_path / name).write_bytes(data)
    code = (
        "import collections, json, runpy, sys; seen = collections.Counter(); sys.argv = sys.argv[1:]\n"
        "sys.addaudithook(lambda event, said: event == 'compile' and seen.update([str(said[1]).rpartition('/')[2]]))\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print(json.dumps(seen), file=sys.stderr)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / name), "--folder", str(tmp_path / "f")]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True)
    seen = json.loads(done.stderr)
    assert {"server.py", "releases.py", "wire.py"} <= set(seen)
    assert {each for each in seen if seen[each] > 1 and each.endswith(".py")} <= {"__init__.py", "__main__.py", "importer.py"}


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.10", "3.12", "3.13"])
def test_deploys_on_this_python_without_any_runtime(tmp_path: Path, version: str) -> None:
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    python = next(iter(sorted(root.glob(f"{version}.*/bin/python"))), None)
    if python is None:
        pytest.skip(f"no Python {version} in {root}")
    with RawAgent(tmp_path / "device", str(python)) as agent:
        assert agent.hello["python"].startswith(version + ".")
        facts = agent.ok("facts")
        assert facts["cores"] >= 1
        agent.ok("lock", owner="test")
        for name in ("r1", "r2"):
            digest = agent.upload(name.encode() * 1000)
            agent.ok("stage", app="app", release=name, manifest={"about": "ü"}, files={"model.bin": digest})
            agent.ok("activate", app="app", release=name)
        assert agent.ok("verify", app="app", release="r2") == {"problems": []}
        assert agent.ok("rollback", app="app") == {"old": "r2", "new": "r1"}
        assert (tmp_path / "device" / "apps" / "app" / "current" / "model.bin").read_bytes() == b"r1" * 1000
        job = {"label": "x", "file": digest, "inputs": digest, "runtime": "onnxruntime", "format": "onnx", "threads": 1}
        rule = {"min_time_s": 0.1, "min_count": 1, "rel_width": 0.1, "max_time_s": 1, "warmup_s": 0.1, "block_s": 0.05}
        assert agent.refused("profile", jobs=[job], rule=rule) == "ToolchainMissing"
        agent.ok("remove")
        assert not (tmp_path / "device").exists()
