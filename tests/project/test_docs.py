"""What the documents say is run: examples, commands, names."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from edgec.pipeline.cli.main import COMMANDS
from edgec.pipeline.config import load
from edgec.pipeline.core.settings import PruneSettings


def test_the_examples_of_the_library_page_run(root: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "library.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    script = "import torch; torch.set_num_threads(1)\n" + "\n".join(blocks)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    first, priced, loss, written = done.stdout.splitlines()
    assert first.startswith("True ")
    assert priced == "the network meets every bound"
    assert 0 <= float(loss) < 1
    assert written.endswith("int8")
    assert (tmp_path / "network.onnx").stat().st_size == int(written.split()[0])


def test_the_blocks_of_the_page_on_aap_run(root: Path, tmp_path: Path) -> None:
    page = (root / "docs" / "aap.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    assert [language for language, _ in blocks] == ["python"] * 3 + ["toml"]
    script = "import torch; torch.set_num_threads(1)\n" + "\n".join(code for language, code in blocks if language == "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "group 0 24 ['0.out', '1.channel', '3.channel', '4.channel', '6.in']"
    assert "read True True" in lines
    assert "scores {'0': (24,), '6': (16,)}" in lines
    rounds = [line for line in lines if line.startswith("round ")]
    assert " probe: " in rounds[0]
    assert " accepted: drop " in rounds[-1]
    assert lines[-1].startswith("ended True ")
    (tmp_path / "deploy.toml").write_text(f'schema = 1\n[model]\nbuilder = "a:b"\nweights = "w.pt"\n[data]\nname = "a:c"\n{blocks[-1][1]}')
    prune = load(tmp_path / "deploy.toml", environment={}, overrides={}).prune
    changed = {each.name for each in fields(prune) if getattr(prune, each.name) != getattr(PruneSettings(), each.name)}
    assert changed <= {"protect", "floors", "round_to"}, "the block shows the defaults"
    assert {each.name for each in fields(prune)} <= set(re.findall(r"^(?:# )?(\w+) = ", blocks[-1][1], re.MULTILINE)), "and every setting"


def test_every_command_that_the_readme_names_exists_and_takes_its_options(root: Path) -> None:
    text = (root / "README.md").read_text()
    named = re.findall(r"^edgec (\w+)((?: [^\s#]+)*)", text, re.MULTILINE)
    assert len(named) >= 5
    for verb, words in named:
        assert verb in COMMANDS, verb
        command = [sys.executable, "-m", "edgec.pipeline.cli.main", verb, "--help"]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for option in re.findall(r"--[a-z-]+", words):
            assert option in usage, (verb, option)


def test_the_readme_names_every_command_of_its_table_and_every_exit_code(root: Path) -> None:
    text = (root / "README.md").read_text()
    for code in (0, 1, 2, 3, 4, 5, 70, 130):
        assert f"| {code} |" in text


def test_links_in_documents_lead_somewhere(root: Path) -> None:
    for page in [*root.glob("*.md"), *(root / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
        for path in re.findall(r"`((?:pipeline|targets|profilers|models|tests|benchmarks|docs)/[\w./-]+)`", page.read_text()):
            assert (root / path).exists(), (page.name, path)


@pytest.mark.parametrize("column", ["command", "median_ms", "modules_loaded"])
def test_published_start_up_times_have_their_columns(root: Path, column: str) -> None:
    result = json.loads((root / "benchmarks" / "results" / "startup.json").read_text())
    assert {"schema", "command", "commit", "machine", "provenance", "seeds", "rows"} <= set(result)
    assert all(column in row for row in result["rows"])
