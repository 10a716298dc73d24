"""What somebody could try: names with a shell in them, paths that lead out, a device that lies; and what must never be told."""

import base64
import contextlib
import logging
import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_ssh_private_key
from ssh_server import SshServer, needs_sshd
from test_ssh_faults import deploy

from edgec.pipeline.core.errors import ConfigError, EdgecError, ProtocolViolation, TargetError
from edgec.pipeline.core.settings import TargetSettings
from edgec.pipeline.events import JsonLog
from edgec.targets.agent.trust import manifest_bytes, message
from edgec.targets.session import AgentSession, open_session
from edgec.targets.signing import generate, private_key, signed
from edgec.targets.ssh_connect import route_from

pytestmark = [needs_sshd, pytest.mark.ssh]

SHELL = ["$(touch {0}) `touch {0}` ; touch {0} | touch {0} & touch {0} > {0}", "' ; touch {0} ; '", '" ; touch {0} ; "\ntouch {0}\n']


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    server = SshServer(tmp_path / "board")
    server.start()
    yield server
    server.stop()


@pytest.mark.parametrize("word", SHELL, ids=["substitution", "single quotes", "double quotes and lines"])
def test_shell_in_a_setting_stays_a_word(server: SshServer, tmp_path: Path, word: str) -> None:
    """In every string of a target, of a release and of the lock that edgec takes from a user."""
    trap = f"edgec-trap-{os.getpid()}"
    text = word.format(trap)
    folder = str(server.home / ("x" + text))
    for changes in ({"folder": folder}, {"python": text}, {"host": text}, {"user": text}, {"health": (text,)}, {"health": ("true", text)}):
        with contextlib.suppress(TargetError, ConfigError):
            deploy(server.settings(**changes), tmp_path, "r1")
    with open_session(server.settings()) as session:
        for act in (
            lambda: session.lock(text),
            lambda: session.activate(text, "r1"),
            lambda: session.activate("app", text),
            lambda: session.stage("app", text, {text: text}, {text: "0" * 64}),
            lambda: session.trust([text]),
        ):
            with contextlib.suppress(EdgecError):
                act()
    places = [Path.cwd(), tmp_path, *server.home.rglob("."), Path(pwd.getpwuid(os.getuid()).pw_dir)]
    assert [each for each in places if (each / trap).exists()] == []


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "a;b", "$(x)", "a\nb", "a`b`", "a\x1b[2J"])
def test_host_that_no_host_is_called_is_refused_before_anything_is_run(tmp_path: Path, host: str) -> None:
    (tmp_path / "config").write_text(f"Host *\n  ProxyCommand touch {tmp_path}/trap-%h\n")
    with pytest.raises(ConfigError, match="no name has"):
        route_from(TargetSettings(name="board", host=host, ssh_config=tmp_path / "config"))


def test_path_from_the_device_that_leads_out_is_not_followed(server: SshServer, tmp_path: Path) -> None:
    """A device that answers a reservation with a place outside the folder that it named."""
    (tmp_path / "file").write_bytes(b"x")
    with open_session(server.settings()) as session:
        session.lock()
        for path in ("/etc/passwd", "../x", "incoming/x", "{}/../x", "{}/incoming/../../x", "{}x", "{}//x", ""):
            lie = LyingAgent(session, {"reserve": {"offset": 0, "path": path.format(session.folder)}})
            with pytest.raises(ProtocolViolation, match="outside"):
                lie.ship({"0" * 64: tmp_path / "file"})


class LyingAgent(AgentSession):
    """A session whose agent answers some operations otherwise."""

    def __init__(self, session: AgentSession, lies: dict[str, dict[str, object]]) -> None:
        self.__dict__ = session.__dict__
        self.lies = lies

    def _call(self, op: str, **request: object) -> dict[str, object]:  # type: ignore[override]
        return self.lies[op] if op in self.lies else super()._call(op, **request)  # type: ignore[arg-type]


def test_no_secret_is_told_at_any_verbosity(server: SshServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The SSH key's and the signing key's seeds, in any usual form, and their files' lines, in every log at every level."""
    generate(tmp_path / "signing", "me")
    files = [server.folder / "client_key", tmp_path / "signing"]
    caplog.set_level(1)
    logging.getLogger("paramiko").setLevel(1)
    with JsonLog(tmp_path / "log.jsonl") as log, open_session(server.settings(), events=log) as session:
        session.trust([(tmp_path / "signing.pub").read_text()])
        signature = signed(private_key(tmp_path / "signing"), message("app", "r1", manifest_bytes({"files": {}})))
        session.stage("app", "r1", {}, {}, signature)
        session.activate("app", "r1")
    errors = []
    for changes in ({"identity_file": tmp_path / "signing"}, {"port": 1}, {"python": "none"}):
        try:
            with open_session(server.settings(**changes)):
                pass
        except EdgecError as error:
            errors.append(f"{error} {error.hint} {error.context}")
    assert len(errors) == 3
    told = caplog.text + (tmp_path / "log.jsonl").read_text() + "".join(errors) + str([vars(record) for record in caplog.records])
    told += "".join(each.read_text(errors="replace") for each in server.home.rglob("*") if each.is_file() and each.suffix != ".pyz")
    assert re.search("userauth is OK|Authentication", told), "the logs were not on"
    for file in files:
        key = load_ssh_private_key(file.read_bytes(), password=None)
        seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())  # type: ignore[call-overload]
        secrets = [seed.hex(), base64.b64encode(seed).decode().rstrip("="), repr(seed)[2:-1], *file.read_text().splitlines()[2:-2]]
        assert [each for each in secrets if each in told] == []
