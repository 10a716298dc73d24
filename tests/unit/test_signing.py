"""The private key: who may read it, and that nothing of it is ever told."""

import os
import subprocess
from pathlib import Path

import pytest

from edgec.pipeline.core.errors import ConfigError
from edgec.targets.signing import generate, private_key, public_line


def test_key_is_readable_by_its_owner_only_and_is_openssh_s(tmp_path: Path) -> None:
    os.umask(os.umask(0))
    line = generate(tmp_path / "keys" / "key", "me")
    path = tmp_path / "keys" / "key"
    assert path.stat().st_mode & 0o777 == 0o600
    shown = subprocess.run(["ssh-keygen", "-yf", str(path)], capture_output=True, text=True, check=True).stdout
    assert shown.split()[:2] == line.split()[:2] == public_line(private_key(path)).split()
    with pytest.raises(ConfigError, match="already"):
        generate(path, "me")


def test_key_that_others_may_read_is_refused_with_the_remedy(tmp_path: Path) -> None:
    generate(tmp_path / "key", "me")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read") as caught:
        private_key(tmp_path / "key")
    assert caught.value.hint.startswith("chmod 600")


@pytest.mark.parametrize("kind", ["damaged", "rsa", "passphrase"])
def test_unusable_key_is_named_and_not_quoted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "key"
    if kind == "damaged":
        generate(path, "me")
        path.write_text(path.read_text().replace("A", "B"))
    else:
        words = ["-t", "rsa", "-N", ""] if kind == "rsa" else ["-t", "ed25519", "-N", "hidden word"]
        subprocess.run(["ssh-keygen", "-q", *words, "-f", str(path)], check=True)
    with pytest.raises(ConfigError, match="no Ed25519 key") as caught:
        private_key(path)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_missing_key_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        private_key(tmp_path / "none")
    assert "keys generate" in caught.value.hint
