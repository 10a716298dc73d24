"""One real SSH server for the contract tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_server import SSHD, SshServer

from edgec.pipeline.core.settings import TargetSettings, TransportKind


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if SSHD is None:
        pytest.skip("no OpenSSH server here (Debian: openssh-server)")
    server = SshServer(tmp_path_factory.mktemp("sshd") / "board")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["local", "ssh"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> TargetSettings:
    """The same machine by each transport, with a fresh folder."""
    if request.param == "local":
        return TargetSettings(
            name="here", transport=TransportKind.LOCAL, python="auto", folder=str(tmp_path / "device"), request_timeout_s=30.0
        )
    return request.getfixturevalue("server").settings(folder=str(tmp_path / "device"))
