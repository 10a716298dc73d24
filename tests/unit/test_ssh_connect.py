"""SSH configurations that cannot be used, told as faults of the configuration."""

from contextlib import ExitStack
from pathlib import Path

import paramiko
import pytest

from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.ssh_connect import open_connection, route_from


def board(folder: Path, text: str) -> TargetSettings:
    (folder / "config").write_text(text)
    return TargetSettings(name="board", ssh_config=folder / "config")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("CanonicalizeHostname yes", "no canonicaldomains"),
        ("CanonicalizeHostname yes\nCanonicalDomains a.invalid\nCanonicalizeFallbackLocal no", "none of its CanonicalDomains"),
        ("CanonicalizeHostname yes\nCanonicalDomains a.invalid\nCanonicalizeMaxDots many", "many"),
        ('UserKnownHostsFile "open', "No closing quotation"),
        ('Include "open', "No closing quotation"),
        ("Port many", "'many'"),
        ("Match nonsense", "cannot be read"),
    ],
)
def test_configuration_that_cannot_be_used_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        route_from(board(tmp_path, text + "\n"))
    assert str(tmp_path / "config") in caught.value.what


def test_match_exec_without_its_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paramiko.config, "invoke", None)
    monkeypatch.setattr(paramiko.config, "invoke_import_error", ImportError("No module named 'invoke'"))
    with pytest.raises(ConfigError, match="Match exec") as caught:
        route_from(board(tmp_path, 'Match exec "true"\n  Port 23\n'))
    assert "invoke" in caught.value.hint


def test_jump_host_with_an_impossible_port_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gate:many"), ExitStack() as stack:
        open_connection(board(tmp_path, "ProxyJump gate:many\n"), stack)
