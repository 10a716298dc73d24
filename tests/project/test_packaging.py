"""The distribution installs one import package with everything in it, and nothing imports the bare folder names."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

FOLDERS = {"pipeline": "edgec.pipeline", "targets": "edgec.targets", "profilers": "edgec.profilers", "models": "edgec.models"}


def test_every_package_is_named(root: Path) -> None:
    named = set(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"edgec"}
    for folder, package in FOLDERS.items():
        for init in (root / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(root / folder).parts
            if "_root" not in parts:
                found.add(".".join((package, *parts)))
    assert named == found


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    copy = tmp_path_factory.mktemp("source") / "edgec"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (root / name).is_file():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((root / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(copy)], check=True, timeout=240
    )
    (file,) = out.glob("*.whl")
    return file


def test_wheel_holds_all_modules_weights_data_and_templates(wheel: Path, root: Path) -> None:
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    assert all(n.startswith("edgec/") for n in inside)
    expected = {"edgec/__init__.py", "edgec/py.typed"}
    for folder, package in FOLDERS.items():
        for file in (root / folder).rglob("*"):
            parts = file.relative_to(root / folder).parts
            if file.is_file() and "_root" not in parts and "__pycache__" not in parts:
                expected.add("/".join((package.replace(".", "/"), *parts)))
    assert expected - inside == set()
