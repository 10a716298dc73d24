"""Keys as OpenSSH writes them, and whose list counts."""

import subprocess
from pathlib import Path

import pytest
from ssh_server import make_key

from edgec.targets.agent.trust import Trust, fingerprint, key_from
from edgec.targets.agent.wire import Failure


def test_line_and_fingerprint_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "key.pub")], capture_output=True, text=True, check=True).stdout
    assert fingerprint(key_from((tmp_path / "key.pub").read_text())) == shown.split()[1]


@pytest.mark.parametrize(
    "line", ["", "ssh-ed25519", "ssh-ed25519 !!!", "ssh-ed25519 AAAA", "ssh-rsa AAAAB3NzaC1yc2E=", "ssh-ed25519 \ud800"]
)
def test_line_that_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not"):
        key_from(line)


def test_list_of_the_administrator_goes_before_and_cannot_be_changed(tmp_path: Path) -> None:
    for name in ("admin", "own"):
        make_key(tmp_path / name)
    lines = {name: (tmp_path / f"{name}.pub").read_text() for name in ("admin", "own")}
    system = tmp_path / "system_keys"
    trust = Trust(str(tmp_path), str(system))
    assert trust.keys() is None
    trust.write({"x": lines["own"]})
    assert list(trust.keys() or {}) == [fingerprint(key_from(lines["own"]))]
    system.write_text("# the office\n\n" + lines["admin"])
    assert list(trust.keys() or {}) == [fingerprint(key_from(lines["admin"]))]
    with pytest.raises(Failure, match="administrator"):
        trust.write({})
    system.write_text("")
    with pytest.raises(Failure, match="trusts no key"):
        trust.check("app", "r", b"{}", None, False)
